// An application around client.js that does what it is told: a JSON action a line in, events out.
// Node speaks through its pipes, and is given the client: `node runner.mjs /path/of/client.js`. A page
// speaks through two functions that the test gives it.

export function runner(PodiumClient, tell) {
  let podium = null;
  const followed = new Map();

  const answered = (label, promise) => promise.then(
    (ack) => tell({ answer: label, said: ack }),
    ({ code, hint }) => tell({ answer: label, said: { error: code, hint } }),
  );

  function start({ url, options: { tickets, token, random = 0.5, ...options } }) {
    const given = tickets && [...tickets];
    const ticket = given && (async () => {
      const next = given.shift() ?? { code: "unauthenticated" };
      if (typeof next === "string") return next;
      throw Object.assign(new Error("no ticket"), next);
    });
    podium = new PodiumClient(url, { backoff: { base_ms: 1, max_ms: 4 }, random: () => random, ...options, ticket, token });
    podium.addEventListener("state", ({ detail }) => tell({ state: detail }));
    podium.connect();
  }

  function follow({ run, detail, after, tail }) {
    const mine = (...heard) => tell({ heard });
    followed.set(run, podium.follow(run, {
      detail, after, tail,
      onFrame: ({ seq }) => mine("frame", seq),
      onTruncate: (seq) => mine("truncate", seq),
      onReset: ({ head }) => mine("reset", head),
      onCaughtUp: (seq) => mine("caught_up", seq),
      onLagging: (behind) => mine("lagging", behind),
      onError: ({ code }) => mine("error", code),
    }));
  }

  const actions = {
    start,
    follow,
    unfollow: ({ run }) => followed.get(run).unfollow(),
    index: () => podium.followIndex({ onRow: ({ run }) => tell({ row: run.id }) }),
    launch: ({ label, body }) => answered(label, podium.launch(body)),
    cancel: ({ label, run }) => answered(label, podium.cancel(run)),
    ping: ({ label }) => answered(label, podium.ping()),
    connect: () => podium.connect(),
    close: () => podium.close(),
  };
  return (action) => { actions[action.do](action); };
}

if (typeof process !== "undefined") {
  if (!process.argv[2]) {
    process.stderr.write("which client? node runner.mjs /path/of/client.js\n");
    process.exit(2);
  }
  if (typeof WebSocket === "undefined") {
    process.stderr.write(`Node ${process.versions.node} has no WebSocket; it takes 22 or newer\n`);
    process.exit(2);
  }
  const { createInterface } = await import("node:readline");
  const { PodiumClient } = await import(process.argv[2]);
  const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
  const act = runner(PodiumClient, tell);
  createInterface({ input: process.stdin }).on("line", (line) => {
    act(JSON.parse(line));
    tell({ did: true });
  }).on("close", () => process.exit());
}
