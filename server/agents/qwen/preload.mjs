// Loaded into the agent's own process before its program (`node --import`), inside the containment.
//
// It tries what must be impossible there, tells podium's relay what came of it, and only then lets
// the program start: node waits for this module's last `await`. What succeeded ends the process.
// Afterwards it carries the program's requests from a port of the contained network to the relay.
//
// Everything comes in one variable of the environment, which is gone before the program starts: its
// children inherit nothing of this. See server/agents/containment/cage.py for what is in it.

import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream';

const VARIABLE = 'PODIUM_SELF_TEST';
const ESCAPED = 86; // something succeeded that must fail
const SETTING = '/proc/sys/kernel/core_pattern'; // what is written there runs as the host's root
const UNREPORTED = 87; // the relay did not take the report in time

const text = process.env[VARIABLE];
if (text !== undefined) {
  delete process.env[VARIABLE];
  forgetOptions();
  await main(JSON.parse(text));
}

async function main(order) {
  const came = {
    write: outcome(order, 'filesystem', await reachesFiles(order)),
    network: outcome(order, 'network', await reachesHost(order)),
    processes: outcome(order, 'processes', await reachesProcesses(order)),
  };
  try {
    await within(order.seconds, report(order, came));
  } catch (error) {
    end(UNREPORTED, `the self-test could not be reported: ${error.message}`);
  }
  const escaped = Object.keys(came).filter((name) => came[name] === 'succeeded');
  if (escaped.length > 0) end(ESCAPED, `not contained: ${escaped.join(', ')}`);
  if (order.port) await carry(order);
}

// --- what must fail -----------------------------------------------------------------------------
// Each answers what it reached, or null. None of them changes a file that is there, even where it
// succeeds, and none is tried at a level that is not contained.

function outcome(order, level, reached) {
  if (!order.levels.includes(level)) return 'not_run';
  if (reached === null) return 'failed_as_it_must';
  process.stderr.write(`podium self-test: ${level}: ${reached}\n`);
  return 'succeeded';
}

function reachesFiles({ levels, tree, hidden }) {
  if (!levels.includes('filesystem')) return null;
  const name = `.podium-self-test-${process.pid}`;
  const fresh = path.join(tree, name);
  const beside = path.join(path.dirname(tree), name);
  const tries = {
    'created a file': () => fs.rmSync(created(fresh)),
    'created a folder': () => (fs.mkdirSync(fresh), fs.rmdirSync(fresh)),
    'created a link': () => (fs.symlinkSync('.', fresh), fs.unlinkSync(fresh)),
    'changed the rights of the copy': () => fs.chmodSync(tree, fs.statSync(tree).mode),
    'created a file beside the copy': () => fs.rmSync(created(beside)),
    'opened a setting of the kernel': () => fs.closeSync(fs.openSync(SETTING, 'r+')),
  };
  const file = someFile(tree);
  if (file) {
    // Opening to write, moving a file onto itself (which a folder allows or forbids as it does a
    // deletion) and setting the rights that it has: allowed or not, the file stays as it is.
    tries['opened a file to write'] = () => fs.closeSync(fs.openSync(file, 'r+'));
    tries['could delete a file'] = () => fs.renameSync(file, file);
    tries['changed the rights of a file'] = () => fs.chmodSync(file, fs.statSync(file).mode);
  }
  for (const place of hidden) tries[`saw ${place}`] = () => fs.lstatSync(place);
  return first(tries);
}

function created(place) {
  fs.closeSync(fs.openSync(place, 'wx'));
  return place;
}

function someFile(folder) {
  const entries = fs.readdirSync(folder, { withFileTypes: true, recursive: false });
  const file = entries.find((entry) => entry.isFile());
  if (file) return path.join(folder, file.name);
  for (const entry of entries.filter((entry) => entry.isDirectory())) {
    const found = someFile(path.join(folder, entry.name));
    if (found) return found;
  }
  return null;
}

async function reachesHost({ levels, canary, seconds }) {
  if (!levels.includes('network')) return null;
  const others = Object.keys(os.networkInterfaces()).filter((name) => name !== 'lo');
  if (others.length > 0) return `saw the interface ${others[0]}`;
  return within(seconds, connected({ host: '127.0.0.1', port: canary })).then(
    (socket) => (socket.destroy(), `connected to port ${canary} of the host`),
    () => null,
  );
}

function reachesProcesses({ levels, pid, started }) {
  if (!levels.includes('processes')) return null;
  const parents = new Map(processes().map((number) => [number, parent(number)]));
  const line = [process.pid];
  while (parents.get(line.at(-1))) line.push(parents.get(line.at(-1)));
  // This process and those that it comes from; there are no others in a namespace of its own.
  const others = [...parents.keys()].filter((number) => !line.includes(number));
  if (others.length > 0) return `saw the process ${others[0]}`;
  // The host's number may well be that of a process or thread of ours.
  if (threads().includes(pid) || (parents.has(pid) && field(pid, 19) !== started)) return null;
  return first({ [`could signal the process ${pid} of the host`]: () => process.kill(pid, 0) });
}

function processes() {
  return fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number);
}

function threads() {
  try {
    return fs.readdirSync('/proc/self/task').map(Number);
  } catch {
    return Array.from({ length: 64 }, (_, n) => n); // where there is no /proc, the first numbers
  }
}

function parent(pid) {
  return Number(field(pid, 1) ?? 0);
}

// A field of /proc/PID/stat, counted from the state, which follows the name in parentheses.
function field(pid, number) {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[number];
  } catch {
    return undefined; // it ended meanwhile
  }
}

function first(tries) {
  for (const [reached, attempt] of Object.entries(tries)) {
    try {
      attempt();
      return reached;
    } catch {
      continue; // as it must
    }
  }
  return null;
}

// --- the relay ----------------------------------------------------------------------------------

// By hand: node's own client takes longer to load than all the rest of this.
async function report({ relay }, came) {
  const body = JSON.stringify(came);
  const socket = await connected({ path: relay });
  // Not ended: many servers take that for a client that has gone.
  socket.write(
    'POST /podium/self-test HTTP/1.1\r\n' +
      'Host: podium\r\n' +
      `Authorization: Bearer ${process.env.OPENAI_API_KEY}\r\n` +
      'Content-Type: application/json\r\n' +
      `Content-Length: ${Buffer.byteLength(body)}\r\n` +
      'Connection: close\r\n\r\n' +
      body,
  );
  let answer = '';
  for await (const data of socket) {
    answer += data;
    if (answer.includes('\r\n')) break;
  }
  const status = /^HTTP\/1\.[01] (\d{3}) /.exec(answer)?.[1] ?? 'nothing';
  if (!status.startsWith('2')) throw new Error(`the relay answered ${status}`);
}

// Carry each connection to the port on to the relay's socket. Nothing of it keeps the process
// alive: the program's own end of a connection does, as long as the program waits for an answer.
async function carry({ port, relay }) {
  const server = net.createServer({ allowHalfOpen: true }, (inner) => {
    const outer = net.connect({ path: relay, allowHalfOpen: true });
    for (const [from, to] of [[inner, outer], [outer, inner]]) {
      from.unref();
      pipeline(from, to, () => {}); // an error of one ends both
    }
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  server.unref();
}

function connected(where) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(where, () => resolve(socket));
    socket.on('error', reject);
  });
}

async function within(seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// --- the process --------------------------------------------------------------------------------

// Without this a child that the program forks would load this module too.
function forgetOptions() {
  const place = process.execArgv.indexOf('--import');
  if (place >= 0) process.execArgv.splice(place, 2);
}

function end(code, message) {
  process.stderr.write(`podium self-test: ${message}\n`);
  process.exit(code);
}
