// podium's wire for browsers and Node 22 or newer: one socket that comes back, a cursor for each run.
//
//   const podium = new PodiumClient("https://host/podium/", { ticket: ticketFrom("/my/ticket") });
//   podium.connect();
//   const { run_id } = await podium.launch({ project_id, command: "/code-review small" });
//   podium.follow(run_id, { onFrame: draw, onTruncate: (seq) => dropAfter(seq) });
//
// One file without dependencies: import it from /client.js, or copy it. docs/write-a-client.md says why
// it does what it does, and tests/clients/ plays the misbehaving server that it has to get on with.

/**
 * @typedef {import("./types.d.ts").StoredFrame} StoredFrame
 * @typedef {import("./types.d.ts").FlowRunAck} FlowRunAck
 * @typedef {import("./types.d.ts").FlowRunReset} FlowRunReset
 * @typedef {import("./types.d.ts").IndexRow} IndexRow
 * @typedef {import("./types.d.ts").Launch} Launch
 * @typedef {import("./types.d.ts").Rerun} Rerun
 * @typedef {import("./types.d.ts").Plan} Plan
 * @typedef {{gen: number, seq: number}} Cursor
 * @typedef {() => Promise<string>} TicketProvider Gives a new single-use ticket for each connection.
 * @typedef {"new" | "connecting" | "live" | "reconnecting" | "signed_out" | "refused" | "closed"} State
 *
 * @typedef {object} StateDetail What a `state` event carries.
 * @property {State} state
 * @property {number} [code] The close code that led here; 1006 when there was none.
 * @property {string} [reason]
 * @property {number} [retry_in_ms] Of `reconnecting`: when the next try begins.
 *
 * @typedef {object} Options
 * @property {TicketProvider} [ticket] For pages of another origin. Without it a browser has its cookie.
 * @property {string | (() => Promise<string>)} [token] A bearer token; outside browsers only.
 * @property {{base_ms: number, max_ms: number}} [backoff]
 * @property {number} [heartbeat_seconds] What the server says if left out.
 * @property {number} [connect_seconds] So long a connection may take to its hello, and a ticket to its answer.
 * @property {number} [command_seconds] So long a command may wait for its answer, reconnects included.
 * @property {number} [launch_seconds] The same for launch, rerun and plan, which may try the model.
 *
 * @typedef {object} FollowOptions
 * @property {"full" | "outline"} [detail]
 * @property {Cursor} [after] Go on after this frame; from the start if left out.
 * @property {number} [tail] Begin so many frames before the head instead.
 * @property {(frame: StoredFrame) => void} [onFrame] Every frame once and in order.
 * @property {(seq: number) => void} [onTruncate] What came after `seq` is void: drop it, it comes anew.
 * @property {(frame: FlowRunReset) => void} [onReset] Frames have expired: start again from its snapshot.
 * @property {(seq: number) => void} [onCaughtUp] All that was there when you began has been given.
 * @property {(behind: number) => void} [onLagging]
 * @property {(error: PodiumError) => void} [onError] The run cannot be followed; nothing more comes.
 */

const OVER = new Set(["signed_out", "refused", "closed"]);
const SUBPROTOCOL = "podium.v1";
const STAY_AWAY = new Set([1007, 1009, 4400, 4401, 4403, 4406, 4413]);
const LOST = 1006;
const SIGNED_OUT = 4401;
const FORBIDDEN = 4403;
const IN_FLIGHT = 8; // messages that wait for an answer; the server takes 16
const MAX_PENDING = 256; // commands that wait, sent or not
const MAX_WAIT_MS = 60_000; // of what the server may ask us to wait
const SILENCE = 2.5; // heartbeats
const SHARE = 0.75; // of the server's rate that we use, so that no message is ever refused for it
const LATER = new Set(["rate_limited", "busy"]);
const PASSING = new Set(["store_unavailable", "internal"]); // a subscription outlasts these
const DEFAULTS = { backoff: { base_ms: 250, max_ms: 10_000 }, connect_seconds: 10, command_seconds: 60, launch_seconds: 300 };
const STORED = new Set([
  "flow_run_created", "flow_run_planned", "flow_run_status", "flow_run_step_status", "flow_run_step_delta", "flow_run_step_tool",
  "flow_run_step_receipt", "flow_run_step_notice", "flow_run_finding", "flow_run_report", "flow_run_finished",
]);

/** A refusal. `code` is one of the wire's, or `offline` or `timeout`, which are the client's own. */
export class PodiumError extends Error {
  constructor({ code, message, hint, field, retry_after_ms }) {
    super(message);
    this.name = "PodiumError";
    this.code = code;
    this.hint = hint;
    this.field = field;
    this.retry_after_ms = retry_after_ms;
  }
}

/**
 * A ticket provider that POSTs to `url`, which answers `{ticket}`: a route of your own back-end, or
 * podium's `api/ws-ticket` itself. `init` is fetch's.
 * @returns {TicketProvider}
 */
export function ticketFrom(url, init = {}) {
  return async () => {
    const response = await fetch(url, { method: "POST", ...init });
    if (response.ok) return (await response.json()).ticket;
    const body = await response.json().catch(() => ({}));
    const code = { 401: "unauthenticated", 403: "forbidden" }[response.status] ?? body.error ?? "internal";
    throw new PodiumError({ message: `no ticket: HTTP ${response.status}`, ...body, code });
  };
}

// --- the cursor: what is taken of one run's frames ------------------------------------------------

const WANTED = "wanted"; // to be subscribed to
const ASKED = "asked"; // the server has not said yet where frames go on: until then none is taken
const LISTENING = "listening";

class Following {
  #mark = null; // the cursor at the heartbeat before
  #gap = -1; // the cursor at the last gap: one that stays there waits for a heartbeat
  phase = WANTED;

  constructor(runId, { detail = "full", after, tail, ...handlers }) {
    const { gen = 1, seq = 0 } = after ?? {};
    Object.assign(this, { runId, handlers, gen, seq, tail: after ? undefined : tail, outline: detail === "outline" });
  }

  get cursor() { return { gen: this.gen, seq: this.seq }; }

  request() {
    this.phase = ASKED;
    this.#mark = null;
    const place = this.tail === undefined ? { after: this.cursor } : { tail: this.tail };
    return { type: "subscribe", run_id: this.runId, ...place, detail: this.outline ? "outline" : undefined };
  }

  // Take a frame of this run: what the application is to hear of it, as [handler, argument], or null.
  take(frame) {
    if (frame.type === "flow_run_subscribed") return this.#begin(frame);
    if (frame.type === "flow_run_reset") {
      this.#listen(frame.gen, frame.head);
      return ["onReset", frame];
    }
    if (this.phase !== LISTENING) return null;
    if (frame.type === "flow_run_caught_up") return frame.seq > this.seq ? this.#missed() : ["onCaughtUp", frame.seq];
    if (frame.type === "flow_run_lagging") return ["onLagging", frame.behind];
    if (frame.at === undefined || !Number.isInteger(frame.seq)) return null; // a control frame that is new
    if (frame.seq <= this.seq) return null; // a double
    if (!this.outline && frame.seq !== this.seq + 1) return this.#missed();
    this.seq = frame.seq;
    return STORED.has(frame.type) ? ["onFrame", frame] : null;
  }

  // A heartbeat names the last frame that was sent. One that is past the cursor twice, with nothing
  // in between, was lost; a single time it may be on its way.
  check(head) {
    const still = this.#mark === this.seq;
    this.#mark = this.seq;
    if (still && (this.phase === ASKED || (head ?? Infinity) > this.seq)) this.phase = WANTED;
  }

  #begin({ gen, from }) {
    const had = this.seq;
    if (from > had && this.tail === undefined) throw new Error(`frames of ${this.runId} go on after ${from}, not ${had}`);
    this.#listen(gen, from);
    return from < had ? ["onTruncate", from] : null;
  }

  #listen(gen, seq) {
    Object.assign(this, { gen, seq, tail: undefined, phase: LISTENING });
  }

  #missed() {
    if (this.#gap !== this.seq) this.phase = WANTED;
    this.#gap = this.seq;
    return null;
  }
}

// --- the connection -------------------------------------------------------------------------------

export class PodiumClient extends EventTarget {
  /** @type {State} */ state = "new";
  #base;
  #options;
  #link = null; // the connection of now; what an earlier one still says is not heard
  #hello = null;
  #tries = 0; // since a connection lasted to its first heartbeat
  #refusals = 0;
  #atLeast = 0; // milliseconds that a server which drains asked us to stay away
  #next = 1;
  #followed = new Map();
  #index = null;
  #commands = []; // to be sent
  #asked = new Map(); // sent, by id
  #pending = new Set(); // both, and those that the server has put off
  #timers = {};
  #heard = 0;
  #tokens = { left: 0, at: 0 };

  /**
   * @param {string | URL} [base] Where podium is, with its path; the folder of this page if left out.
   * @param {Options} [options]
   */
  constructor(base, options = {}) {
    super();
    this.#base = new URL(base ?? new URL(".", document.baseURI));
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#options = { ...DEFAULTS, random: Math.random, ...options };
    if (options.token && typeof document !== "undefined") throw new TypeError("a browser's socket has no headers: sign in by cookie or ticket");
  }

  /** Connect, or try again at once. It comes back by itself until `close()`, or until it is sent away. */
  connect() {
    if (this.state !== "connecting" && this.state !== "live") this.#open();
  }

  /** Close for good; what waits for an answer is rejected. Cursors are kept for another `connect()`. */
  close() {
    this.#leave();
    this.#end("closed", { reason: "closed by this page" });
  }

  /** What the server said of itself: build, user, limits; null before its hello. */
  get hello() {
    return this.#hello;
  }

  // --- commands: the promise is the ack, or a PodiumError ---

  /**
   * Start a run, exactly one however often the connection is lost: the key stays the same.
   * @param {Partial<Launch>} launch
   * @returns {Promise<FlowRunAck>} With `run_id`, once the run is durable.
   */
  launch(launch) {
    return this.#ask({ type: "launch", key: newKey(), ...launch }, this.#options.launch_seconds);
  }

  /** @returns {Promise<FlowRunAck>} With `outcome`. */
  cancel(runId, stepId) {
    return this.#ask({ type: "cancel", run_id: runId, step_id: stepId });
  }

  finish(runId) {
    return this.#ask({ type: "finish", run_id: runId });
  }

  /** @param {string} runId @param {Partial<Rerun>} [rerun] */
  rerun(runId, rerun = {}) {
    return this.#ask({ type: "rerun", key: newKey(), ...rerun, run_id: runId }, this.#options.launch_seconds);
  }

  /** @param {Partial<Plan>} plan */
  plan(plan) {
    return this.#ask({ type: "plan", ...plan }, this.#options.launch_seconds);
  }

  flows(projectId) {
    return this.#ask({ type: "flows", project_id: projectId });
  }

  /** Ask whether this connection lives; it is the only command that does not outlast it. */
  ping() {
    if (this.state !== "live") return Promise.reject(offline("not connected"));
    return this.#ask({ type: "ping" }, this.#options.command_seconds, { once: true });
  }

  // --- following ---

  /**
   * Follow a run to its last frame; following it again replaces the handlers and the cursor.
   * @param {string} runId
   * @param {FollowOptions} options
   * @returns {{readonly cursor: Cursor, unfollow: () => void}}
   */
  follow(runId, options) {
    const following = new Following(runId, options);
    this.#followed.set(runId, following);
    this.#pump();
    const unfollow = () => { if (this.#followed.get(runId) === following) this.unfollow(runId); };
    return { get cursor() { return following.cursor; }, unfollow };
  }

  unfollow(runId) {
    if (this.#followed.delete(runId)) this.#forget({ run_id: runId });
  }

  /**
   * Follow the run list: first every row, newest first, then those that change. After a lost connection
   * all come again: keep them by their id.
   * @param {{project_id?: string, onRow: (row: IndexRow, projectId: string) => void, onError?: (error: PodiumError) => void}} options
   */
  followIndex({ project_id, ...handlers }) {
    // As a Following, but for the cursor: all rows come again.
    const request = () => {
      this.#index.phase = ASKED;
      return { type: "subscribe_index", project_id };
    };
    this.#index = { phase: WANTED, handlers, request };
    this.#pump();
  }

  unfollowIndex() {
    if (this.#index) this.#forget({});
    this.#index = null;
  }

  #forget(what) {
    // A connection that is lost has forgotten by itself.
    if (this.state === "live") this.#ask({ type: "unsubscribe", ...what }, this.#options.command_seconds, { once: true }).catch(() => {});
  }

  // --- what is sent: commands first, then subscriptions, no faster than the server takes them ---

  #ask(message, seconds = this.#options.command_seconds, { once = false } = {}) {
    if (OVER.has(this.state)) return Promise.reject(this.#gone());
    if (this.#pending.size >= MAX_PENDING) {
      return Promise.reject(new PodiumError({ code: "busy", message: `${MAX_PENDING} commands wait for their answers` }));
    }
    return new Promise((resolve, reject) => {
      const command = { id: String(this.#next++), message, once };
      const settle = (how) => (value) => {
        clearTimeout(timer);
        this.#pending.delete(command);
        this.#asked.delete(command.id);
        this.#commands = this.#commands.filter((other) => other !== command);
        how(value);
      };
      const timer = setTimeout(() => command.fail(this.#late(message)), seconds * 1000);
      command.done = settle(resolve);
      command.fail = settle(reject);
      this.#pending.add(command);
      this.#commands.push(command);
      this.#pump();
    });
  }

  #late({ type, key }) {
    const hint = key ? `it may have been done: the same ${type} with the key ${key} is answered with what it made` : undefined;
    if (this.state === "live") return new PodiumError({ code: "timeout", message: `no answer to ${type}`, hint });
    return offline(`not connected, so no answer to ${type}`, hint);
  }

  #pump() {
    while (this.state === "live" && this.#asked.size < IN_FLIGHT) {
      const wait = this.#untilAllowed();
      if (wait > 0) return this.#set("pump", () => this.#pump(), wait);
      const next = this.#commands.shift() ?? this.#subscription();
      if (!next) return;
      this.#send(next);
    }
  }

  #subscription() {
    const subject = this.#subjects().find(({ phase }) => phase === WANTED);
    if (!subject) return null;
    const fail = (error) => {
      if (!this.#subjects().includes(subject)) return;
      if (subject === this.#index) this.#index = null;
      else this.#followed.delete(subject.runId);
      this.#tell(subject.handlers, "onError", error);
    };
    return { id: String(this.#next++), message: subject.request(), subject, done: () => {}, fail };
  }

  #subjects() {
    return [...(this.#index ? [this.#index] : []), ...this.#followed.values()];
  }

  #send(ask) {
    const text = JSON.stringify({ ...ask.message, id: ask.id });
    const limit = this.#hello?.limits?.message_bytes ?? Infinity;
    if (new TextEncoder().encode(text).length > limit) {
      return ask.fail(new PodiumError({ code: "too_large", message: `the message is past the limit of ${limit} bytes` }));
    }
    this.#tokens.left -= 1;
    this.#asked.set(ask.id, ask);
    this.#link.socket.send(text);
  }

  // Milliseconds until one more message is welcome.
  #untilAllowed() {
    const { burst = 64, per_second = 20 } = this.#hello?.limits ?? {};
    const rate = (per_second * SHARE) / 1000;
    const now = performance.now();
    this.#tokens.left = Math.min(burst * SHARE, this.#tokens.left + (now - this.#tokens.at) * rate);
    this.#tokens.at = now;
    return this.#tokens.left >= 1 ? 0 : Math.ceil((1 - this.#tokens.left) / rate);
  }

  #refused(frame) {
    const ask = this.#answered(frame.id);
    if (!ask) return;
    if (frame.code === "rate_limited") this.#tokens.left = 0;
    const later = LATER.has(frame.code) && frame.retry_after_ms !== undefined;
    if (later || (ask.subject && PASSING.has(frame.code))) this.#again(ask, bounded(frame.retry_after_ms ?? 1000));
    else ask.fail(new PodiumError(frame));
  }

  // Ask again later. A command that was given up meanwhile, or a run that is not followed, is not.
  #again(ask, wait) {
    const link = this.#link;
    setTimeout(() => {
      if (ask.subject) {
        if (this.#link === link && ask.subject.phase === ASKED) ask.subject.phase = WANTED;
      } else if (this.#pending.has(ask) && !this.#asked.has(ask.id) && !this.#commands.includes(ask)) this.#commands.push(ask);
      this.#pump();
    }, wait);
  }

  // --- what is heard ---

  #hear(data) {
    this.#heard = performance.now();
    if (typeof data !== "string") return; // a binary message says nothing in podium.v1
    try {
      this.#take(JSON.parse(data));
    } catch (error) {
      // Whoever says what cannot be understood may have lost more: ask anew, from the cursors.
      this.#drop(`not understood: ${error.message}`);
    }
    this.#pump();
  }

  #take(frame) {
    if (typeof frame?.type !== "string") throw new Error("a frame is an object with a type");
    if (frame.type === "flow_run_error" && frame.id === this.#link.greeting) return this.#unwelcome(frame);
    if (this.state !== "live") return this.#enter(frame);
    if (frame.type === "flow_run_ack") return this.#answered(frame.id)?.done(frame);
    if (frame.type === "flow_run_error") return this.#refused(frame);
    if (frame.type === "flow_run_heartbeat") return this.#beat(frame.heads ?? {});
    if (frame.type === "flow_run_draining") this.#atLeast = bounded(frame.retry_after_ms);
    if (frame.type === "flow_run_index" && this.#index) return this.#tell(this.#index.handlers, "onRow", frame.row, frame.project_id);
    const following = this.#followed.get(frame.run_id);
    const said = following?.take(frame);
    if (!said) return;
    if (frame.type === "flow_run_finished") this.unfollow(frame.run_id);
    this.#tell(following.handlers, ...said);
  }

  #answered(id) {
    const ask = this.#asked.get(id);
    this.#asked.delete(id);
    return ask;
  }

  // A hello alone may be the cookie's, said before the ticket was looked at: both are waited for.
  #enter(frame) {
    const link = this.#link;
    if (frame.type === "flow_run_hello") link.hello = frame;
    if (frame.type === "flow_run_ack" && frame.id === link.greeting) link.admitted = true;
    if (link.hello && link.admitted) this.#welcome(link.hello);
  }

  #welcome(frame) {
    this.#hello = frame;
    this.#tokens = { left: Infinity, at: performance.now() };
    clearTimeout(this.#timers.connect);
    this.#listen();
    this.#say({ state: "live" });
  }

  #unwelcome({ code, message, retry_after_ms }) {
    this.#atLeast = bounded(retry_after_ms);
    this.#drop(message, { unauthenticated: SIGNED_OUT, forbidden: FORBIDDEN }[code] ?? LOST);
  }

  #beat(heads) {
    this.#tries = 0;
    this.#refusals = 0;
    for (const [runId, following] of this.#followed) following.check(heads[runId]);
  }

  // One timer for all messages: it looks again when the last one came less than the silence ago.
  #listen() {
    const silence = SILENCE * 1000 * (this.#options.heartbeat_seconds ?? this.#hello?.limits?.heartbeat_seconds ?? 15);
    const left = silence - (performance.now() - this.#heard);
    if (left <= 0) this.#drop("the server has gone silent");
    else this.#set("silence", () => this.#listen(), left);
  }

  // What the application does with a frame, and how that fails, is none of the connection's business.
  #tell(handlers, name, ...said) {
    try {
      handlers[name]?.(...said);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  // --- coming and going ---

  async #open() {
    this.#leave();
    const link = { socket: null, token: null, greeting: null, hello: null, admitted: false, opened: false };
    this.#link = link;
    this.#say({ state: "connecting" });
    this.#set("connect", () => this.#drop("no hello in time"), this.#options.connect_seconds * 1000);
    try {
      const ticket = await this.#options.ticket?.();
      const token = typeof this.#options.token === "function" ? await this.#options.token() : this.#options.token;
      if (this.#link === link) this.#wire(link, { ticket, token });
    } catch (error) {
      if (this.#link === link) this.#unwelcome(error);
    }
  }

  #wire(link, { ticket, token }) {
    const url = new URL("api/ws", this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, protocols(this.#base, { ticket, token }));
    Object.assign(link, { socket, token, admitted: !ticket });
    socket.onopen = () => {
      link.opened = true;
      link.greeting = "hello"; // without a ticket, too: whoever is not signed in is told at once
      socket.send(JSON.stringify({ type: "hello", id: link.greeting, ticket: ticket || undefined, client: "client.js" }));
    };
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.#closed(link, code, reason);
  }

  async #closed(link, code, reason) {
    link.socket = null;
    if (!link.opened || code === SIGNED_OUT) code = await this.#why(link, code);
    if (this.#link === link) this.#drop(reason, code);
  }

  // A page does not hear why its socket was refused, and a session that has ended may have been renewed;
  // a plain request with the same credentials tells.
  async #why({ opened, token }, code) {
    if (this.#options.ticket) return code;
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const signal = AbortSignal.timeout(this.#options.connect_seconds * 1000);
    const asked = await fetch(new URL("api/projects", this.#base), { headers, signal }).catch(() => null);
    asked?.body?.cancel();
    if (asked?.status === 401 && opened) this.#refusals += 1; // another socket would be told no more
    return { 401: SIGNED_OUT, 403: FORBIDDEN }[asked?.status] ?? code;
  }

  #drop(reason, code = LOST) {
    this.#leave();
    if (code === SIGNED_OUT && this.#refusals++ === 0) return this.#open();
    if (STAY_AWAY.has(code)) return this.#end(code === SIGNED_OUT ? "signed_out" : "refused", { code, reason });
    const wait = this.#atLeast + this.#options.random() * Math.max(this.#atLeast, this.#backoff());
    this.#atLeast = 0;
    this.#set("retry", () => this.#open(), wait);
    this.#say({ state: "reconnecting", code, reason, retry_in_ms: Math.ceil(wait) });
  }

  #backoff() {
    const { base_ms, max_ms } = this.#options.backoff;
    return Math.min(max_ms, base_ms * 2 ** Math.min(this.#tries++, 30));
  }

  // Forget the connection: nothing that it still says is heard, and what it owed is asked anew.
  #leave() {
    const socket = this.#link?.socket;
    this.#link = null;
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const subject of this.#subjects()) subject.phase = WANTED;
    const owed = [...this.#asked.values(), ...this.#commands].filter(({ subject }) => !subject);
    this.#asked.clear();
    this.#commands = owed.filter(({ once }) => !once);
    for (const { once, fail } of owed) if (once) fail(offline("the connection was lost"));
  }

  #end(state, detail) {
    this.#say({ state, ...detail });
    for (const command of [...this.#pending]) command.fail(this.#gone());
  }

  #gone() {
    if (this.state !== "signed_out") return offline("the connection is closed");
    return new PodiumError({ code: "unauthenticated", message: "signed out", hint: "sign in, then connect() again" });
  }

  #say(detail) {
    this.state = detail.state;
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  #set(name, action, wait) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(action, wait);
  }
}

// Node's socket takes headers beside the protocol. It sends no Origin by itself, and a ticket needs one.
function protocols(base, { ticket, token }) {
  if (token) return { protocols: [SUBPROTOCOL], headers: { Authorization: `Bearer ${token}` } };
  if (ticket && typeof document === "undefined") return { protocols: [SUBPROTOCOL], headers: { Origin: base.origin } };
  return [SUBPROTOCOL];
}

// Not crypto.randomUUID, which pages without TLS do not have.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What a server or a provider asks us to wait, as far as it makes sense.
function bounded(milliseconds) {
  return Number.isFinite(milliseconds) ? Math.min(MAX_WAIT_MS, Math.max(0, milliseconds)) : 0;
}

function offline(message, hint) {
  return new PodiumError({ code: "offline", message, hint });
}
