// Node's `ws`, each message encoded once, without compression: `node node_ws.mjs MODULES HEAD TAIL`.
// Each byte of stdin asks for one message; the process ends with it.
import { createRequire } from "node:module";

const [modules, head, tail] = process.argv.slice(2);
const { WebSocketServer } = createRequire(`${modules}/`)("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, perMessageDeflate: false });
let number = 0;

server.on("listening", () => console.log(JSON.stringify({ port: server.address().port })));
server.on("connection", (socket) => socket.send("ready"));
process.stdin.on("data", (asked) => {
  for (let count = 0; count < asked.length; count++) {
    const message = Buffer.from(`${head}#${++number}# ${tail}`);
    for (const socket of server.clients) socket.send(message, { binary: false });
  }
});
process.stdin.on("end", () => process.exit(0));
