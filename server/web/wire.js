// The reconnecting reader of the wire: one socket, a cursor for each run it follows.

const SUBPROTOCOL = "podium.v1";
const SILENCE_MS = 40_000; // two missed heartbeats and a half
const COME_BACK = new Set([1001, 1006, 1011, 1012, 1013, 4408, 4429]);

export class Wire extends EventTarget {
  #socket = null;
  #live = false; // from the server's hello to the close: before it, every subscription waits
  #tries = 0;
  #next = 1;
  #waiting = new Map();
  #cursors = new Map();
  #silence = 0;

  connect() {
    const url = new URL("api/ws", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, SUBPROTOCOL);
    this.#socket = socket;
    this.#say("connecting");
    socket.onmessage = (event) => this.#take(JSON.parse(event.data));
    socket.onclose = (event) => this.#closed(event.code);
  }

  // Send a message; the promise is its ack, or rejects with its error frame.
  ask(message) {
    const id = String(this.#next++);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#send({ ...message, id });
    });
  }

  // Follow one run from its first frame; every frame arrives once and in order.
  follow(runId, handler) {
    this.#cursors.set(runId, { gen: 1, seq: 0, handler });
    this.#subscribe(runId);
  }

  unfollow(runId) {
    if (this.#cursors.delete(runId)) this.ask({ type: "unsubscribe", run_id: runId }).catch(() => {});
  }

  #subscribe(runId) {
    if (!this.#live) return;
    const { gen, seq } = this.#cursors.get(runId);
    this.ask({ type: "subscribe", run_id: runId, after: { gen, seq } }).catch((error) =>
      this.dispatchEvent(new CustomEvent("problem", { detail: error })));
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
    else this.#fail(message.id, { code: "offline", message: "not connected" });
  }

  #take(frame) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#socket.close(), SILENCE_MS);
    if (frame.type === "flow_run_hello") return this.#opened();
    if (frame.type === "flow_run_ack") return this.#done(frame);
    if (frame.type === "flow_run_error") return this.#fail(frame.id, frame);
    if (frame.type === "flow_run_heartbeat") return this.#check(frame.heads);
    const cursor = this.#cursors.get(frame.run_id);
    if (!cursor) return;
    if (frame.type === "flow_run_subscribed") Object.assign(cursor, { gen: frame.gen, seq: frame.from });
    else if (frame.type === "flow_run_reset") Object.assign(cursor, { gen: frame.gen, seq: frame.head });
    else if (frame.at) { // a stored frame; control frames have no time and no seq of their own
      if (frame.seq !== cursor.seq + 1) return; // a double, or past a gap that the next heartbeat shows
      cursor.seq = frame.seq;
    }
    cursor.handler(frame);
  }

  #opened() {
    this.#tries = 0;
    this.#live = true;
    this.#say("live");
    for (const runId of this.#cursors.keys()) this.#subscribe(runId);
  }

  // A head past our cursor with nothing in flight is a loss: ask again from the cursor.
  #check(heads) {
    for (const [runId, head] of Object.entries(heads)) {
      const cursor = this.#cursors.get(runId);
      if (cursor && head > cursor.seq && cursor.seq === cursor.beat) this.#subscribe(runId);
      if (cursor) cursor.beat = cursor.seq;
    }
  }

  #closed(code) {
    clearTimeout(this.#silence);
    this.#live = false;
    for (const id of [...this.#waiting.keys()]) this.#fail(id, { code: "offline", message: "the connection was lost" });
    if (!COME_BACK.has(code)) return this.#say(code === 4401 ? "signed out" : `closed (${code})`);
    this.#say("reconnecting");
    const delay = Math.random() * Math.min(10_000, 250 * 2 ** this.#tries++);
    setTimeout(() => this.connect(), delay);
  }

  #done(frame) {
    this.#waiting.get(frame.id)?.resolve(frame);
    this.#waiting.delete(frame.id);
  }

  #fail(id, error) {
    this.#waiting.get(id)?.reject(error);
    this.#waiting.delete(id);
  }

  #say(state) {
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}
