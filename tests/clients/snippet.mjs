// An application around the few lines of docs/write-a-client.md, as far as they go: it follows a run.

import { createInterface } from "node:readline";

const { follow } = await import(process.argv[2]);
const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
let socket = null;

const actions = {
  start: ({ url }) => { socket = `${url.replace("http", "ws")}/api/ws`; },
  follow: ({ run }) => follow(socket, run, {
    frame: ({ seq }) => tell({ heard: ["frame", seq] }),
    truncate: (seq) => tell({ heard: ["truncate", seq] }),
  }),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const action = JSON.parse(line);
  actions[action.do](action);
  tell({ did: true });
}).on("close", () => process.exit());
