"use strict";
// A stand-in for the CLI of qwen-code 0.24.4: it takes the same flags, environment and prompt, and
// then does what `script.json` beside it says, step by step. `stand_in.py` writes the scripts.
//
// What is not scripted behaves as it was measured: flags are checked, stdout is written without
// waiting (so a pipe loses its tail at exit, a regular file does not), a closed stdout is ignored,
// SIGTERM and SIGINT end it with 130 after the partial message, SIGHUP kills it.

const childProcess = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const VERSION = "0.24.4";
const TOOLS = [
  "grep_search", "glob", "read_file", "agent", "ask_user_question", "create_goal", "cron_create",
  "cron_delete", "cron_list", "edit", "enter_worktree", "exit_plan_mode", "exit_worktree",
  "get_goal", "list_agents", "loop_wakeup", "monitor", "notebook_edit", "read_mcp_resource",
  "record_artifact", "report_findings", "run_shell_command", "send_message", "skill", "task_stop",
  "todo_write", "tool_call", "tool_search", "update_goal", "web_fetch", "web_search", "write_file",
  "zoom_image",
];
const TAKES_A_VALUE = [
  "approval-mode", "output-format", "exclude-tools", "max-session-turns", "max-tool-calls",
  "max-wall-time", "session-id", "json-schema", "system-prompt", "append-system-prompt", "add-dir",
];
const SWITCHES = ["safe-mode", "include-partial-messages"];
const MODES = ["plan", "default", "auto-edit", "auto", "yolo"];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

process.stdout.on("error", () => {});

const script = JSON.parse(fs.readFileSync(path.join(__dirname, "script.json"), "utf-8"));
const flags = readFlags(process.argv.slice(2));
const prompt = fs.readFileSync(0, "utf-8");
const words = {
  tree: flags["add-dir"],
  cwd: process.cwd(),
  home: process.env.HOME,
  session: flags["session-id"],
  model: process.env.OPENAI_MODEL,
  here: __dirname,
  prompt,
};
let said = "";

function readFlags(given) {
  const flags = {};
  for (let at = 0; at < given.length; at += 1) {
    const name = given[at].replace(/^--/, "");
    if (SWITCHES.includes(name)) flags[name] = true;
    else if (TAKES_A_VALUE.includes(name) && at + 1 < given.length) flags[name] = given[(at += 1)];
    else complain(`Unknown argument: ${name}`);
  }
  if (!MODES.includes(flags["approval-mode"])) complain("Invalid values:\n  Argument: approval-mode");
  if (!UUID.test(flags["session-id"])) complain("Invalid session id: it must be a UUID");
  if (flags["json-schema"]) JSON.parse(fs.readFileSync(flags["json-schema"].slice(1), "utf-8"));
  return flags;
}

/** As the CLI does it: ten kilobytes of usage on stderr, the complaint last, code 1. */
function complain(why) {
  const options = [...TAKES_A_VALUE, ...SWITCHES].map((name) => `      --${name}  ${"usage ".repeat(120)}`);
  process.stderr.write(`Usage: qwen [options] [command]\n\n${options.join("\n")}\n\n${why}\n`);
  process.exit(1);
}

/** `{"$repeat": text, "times": n}` becomes a long text, `{tree}` and the like what they name. */
function fill(value) {
  if (typeof value === "string") return value.replace(/\{(\w+)\}/g, (all, word) => words[word] ?? all);
  if (Array.isArray(value)) return value.map(fill);
  if (value === null || typeof value !== "object") return value;
  if ("$repeat" in value) return value.$repeat.repeat(value.times);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item)]));
}

function write(data) {
  process.stdout.write(data);
}

function line(event) {
  const { type, subtype, ...rest } = event;
  const envelope = { uuid: crypto.randomUUID(), session_id: flags["session-id"] };
  const parent = type === "result" || subtype === "init" ? {} : { parent_tool_use_id: null };
  if (event.event?.delta?.type === "text_delta") said += event.event.delta.text;
  write(`${JSON.stringify({ type, ...(subtype && { subtype }), ...envelope, ...parent, ...rest })}\n`);
}

/** The first line, with the tools that the flags leave. */
function init(changes) {
  const excluded = (flags["exclude-tools"] ?? "").split(",");
  const tools = TOOLS.filter((name) => !excluded.includes(name));
  if (flags["json-schema"]) tools.push("structured_output");
  const { extra_tools: extra = [], without_tools: without = [], ...others } = changes;
  line({
    type: "system",
    subtype: "init",
    cwd: process.cwd(),
    tools: [...tools, ...extra].filter((name) => !without.includes(name)),
    mcp_servers: [],
    model: process.env.OPENAI_MODEL,
    permission_mode: flags["approval-mode"],
    slash_commands: ["init", "summary"],
    qwen_code_version: VERSION,
    agents: ["general-purpose"],
    ...others,
  });
}

/** A call of the model's endpoint. What came back is said as text, in JSON. */
function request({ method = "POST", route = "/chat/completions", body = null, token = null, url = null, headers = {} }) {
  const target = new URL(url ?? process.env.OPENAI_BASE_URL + route);
  const sent = body === null ? "" : typeof body === "string" ? body : JSON.stringify(body);
  const authorization = `Bearer ${token ?? process.env.OPENAI_API_KEY}`;
  const all = { authorization, "content-type": "application/json", "content-length": Buffer.byteLength(sent), ...headers };
  return new Promise((resolve) => {
    const told = (answer) => { say(JSON.stringify(answer)); resolve(); };
    const asked = http.request(target, { method, headers: all }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", () => {});
      response.on("close", () => told({ status: response.statusCode, body: Buffer.concat(chunks).toString("utf-8").slice(0, 65_536), whole: response.complete }));
    });
    asked.on("error", (error) => told({ error: error.code ?? error.message }));
    asked.end(sent);
  });
}

function say(text) {
  line({ type: "stream_event", event: { type: "content_block_delta", index: 0, delta: { type: "text_delta", text } } });
}

/** A worker in a session of its own that survives this process, as the launcher's does. */
function orphan({ pid_file: place }) {
  const code = `process.on("SIGTERM", () => {}); require("node:fs").writeFileSync(${JSON.stringify(place)}, String(process.pid)); setInterval(() => {}, 1000);`;
  const middle = `require("node:child_process").spawn(process.execPath, ["-e", ${JSON.stringify(code)}], { detached: true, stdio: "ignore" }).unref();`;
  childProcess.spawnSync(process.execPath, ["-e", middle], { detached: true, stdio: "ignore" });
  return existence(place);
}

function existence(place) {
  return new Promise((resolve) => {
    const look = () => (fs.existsSync(place) && fs.statSync(place).size ? resolve() : setTimeout(look, 5));
    look();
  });
}

/** Output without end, as fast as it is taken. */
async function flood({ text = "", event = null }) {
  const piece = text || null;
  for (let count = 0; ; count += 1) {
    if (piece) write(piece);
    else line({ ...event, count });
    if (process.stdout.writableNeedDrain) await new Promise((resolve) => process.stdout.once("drain", resolve));
    else if (count % 64 === 0) await new Promise(setImmediate);
  }
}

function put({ path: place, text }) {
  fs.mkdirSync(path.dirname(place), { recursive: true });
  fs.writeFileSync(place, text);
}

/** What is tried and may fail is said as text: the error's code, or `done`. */
function attempt(action) {
  try {
    action();
    say("done");
  } catch (error) {
    say(String(error.code ?? error.message));
  }
}

const held = [];
const ACTIONS = {
  init,
  line: ({ event }) => line(event),
  raw: ({ base64, text }) => write(base64 === undefined ? text : Buffer.from(base64, "base64")),
  stderr: ({ text }) => process.stderr.write(text),
  wait: ({ seconds }) => new Promise((resolve) => setTimeout(resolve, seconds * 1000)),
  await_file: ({ path: place }) => existence(place),
  hang: () => new Promise(() => setInterval(() => {}, 1000)),
  put: (given) => attempt(() => put(given)),
  read: ({ path: place }) => attempt(() => say(fs.readFileSync(place, "utf-8").slice(0, 4096))),
  environment: () => say(JSON.stringify(process.env)),
  arguments: () => say(JSON.stringify({ argv: process.argv.slice(2), prompt })),
  request,
  orphan,
  flood,
  children: ({ count }) => attempt(() => {
    for (let n = 0; n < count; n += 1) {
      const child = childProcess.spawn("/bin/sleep", ["600"], { stdio: "ignore" });
      child.on("error", (error) => say(String(error.code)));
    }
  }),
  allocate: ({ mib }) => attempt(() => { for (let n = 0; n < mib; n += 1) held.push(Buffer.alloc(1 << 20, 1)); }),
  spin: () => { for (;;); },
  close_stdout: () => fs.closeSync(1),
  ignore_signals: () => ["SIGTERM", "SIGINT"].forEach((name) => {
    process.removeAllListeners(name);
    process.on(name, () => {});
  }),
  kill: ({ signal }) => new Promise(() => { setInterval(() => {}, 1000); process.kill(process.pid, signal); }),
  exit: ({ code }) => process.exit(code),
};

/** As the CLI ends on a signal: what was said so far as a message, no result, 130. */
function interrupted() {
  line({ type: "assistant", message: { id: crypto.randomUUID(), type: "message", role: "assistant", model: words.model, content: [{ type: "text", text: said }], stop_reason: null, usage: { input_tokens: 0, output_tokens: 0 } } });
  line({ type: "stream_event", event: { type: "message_stop" } });
  process.exit(130);
}

process.on("SIGTERM", interrupted);
process.on("SIGINT", interrupted);

async function main() {
  if (flags["safe-mode"]) process.stderr.write("⚠ SAFE MODE — all customizations disabled.\n");
  if (!process.env.OPENAI_API_KEY) {
    line({ type: "result", subtype: "error_during_execution", is_error: true, num_turns: 0, error: { message: "No auth type is selected." } });
    process.exit(1);
  }
  for (const step of script) {
    const { do: name, ...given } = fill(step);
    await ACTIONS[name](given);
  }
}

main();
