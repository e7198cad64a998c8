// Tries to get out, and prints what it reached: {name: true | what refused it}.
// Runs in place of the agent's CLI; what to reach comes as JSON in stdin.
'use strict';
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawnSync } = require('node:child_process');

const target = JSON.parse(fs.readFileSync(0, 'utf8'));
const reached = {};

function attempt(name, action) {
  try {
    action();
    reached[name] = true;
  } catch (error) {
    reached[name] = error.code ?? error.message;
  }
}

function connect(name, where) {
  return new Promise((resolve) => {
    const socket = net.connect(where, () => {
      reached[name] = true;
      socket.destroy();
      resolve();
    });
    socket.on('error', (error) => {
      reached[name] = error.code;
      resolve();
    });
  });
}

function native(name) {
  const done = spawnSync('/usr/bin/python3', ['-I', '-S', '-c', target.native, name, String(target.pid)]);
  reached[name] = done.status === 0 || (done.error?.code ?? done.stderr.toString().trim());
}

async function main() {
  const { tree, host } = target;
  attempt('create', () => fs.writeFileSync(`${tree}/new`, 'x'));
  attempt('create_folder', () => fs.mkdirSync(`${tree}/folder`));
  attempt('create_link', () => fs.symlinkSync('/', `${tree}/link`));
  attempt('overwrite', () => fs.writeFileSync(`${tree}/a.py`, 'A = 2\n'));
  attempt('append', () => fs.appendFileSync(`${tree}/a.py`, '#'));
  attempt('truncate', () => fs.truncateSync(`${tree}/a.py`));
  attempt('rights', () => fs.chmodSync(`${tree}/a.py`, 0o777));
  attempt('times', () => fs.utimesSync(`${tree}/a.py`, 1, 1));
  attempt('rename', () => fs.renameSync(`${tree}/b.py`, `${tree}/c.py`));
  attempt('delete', () => fs.unlinkSync(`${tree}/d.py`));
  attempt('hard_link', () => {
    const link = path.join(os.homedir(), 'hard');
    fs.linkSync(`${tree}/a.py`, link);
    fs.writeFileSync(link, 'A = 3\n');
  });
  attempt('by_descriptor', () => {
    const opened = fs.openSync(`${tree}/a.py`, 'r');
    fs.writeFileSync(`/proc/self/fd/${opened}`, 'A = 4\n');
  });
  attempt('create_beside', () => fs.writeFileSync(`${path.dirname(tree)}/beside`, 'x'));
  attempt('read_file', () => fs.readFileSync(host));
  attempt('read_through_proc', () => fs.readFileSync(`/proc/1/root${host}`));
  attempt('read_through_server', () => fs.readFileSync(`/proc/${target.pid}/root${host}`));
  attempt('read_environment', () => fs.readFileSync(`/proc/${target.pid}/environ`));
  attempt('list_data', () => fs.readdirSync(target.data));
  attempt('shared_memory', () => fs.readFileSync(target.shared));
  attempt('signal', () => process.kill(target.pid, 0));
  attempt('see', () => fs.readFileSync(`/proc/${target.pid}/stat`));
  attempt('accounts', () => {
    if (!fs.readFileSync('/etc/passwd', 'utf8').includes('daemon')) throw new Error('not the host’s');
  });
  await connect('unix_socket', { path: target.socket });
  await connect('abstract_socket', { path: `\0${target.abstract}` });
  await connect('loopback', { host: '127.0.0.1', port: target.port });
  for (const name of target.natives) native(name);
  if (target.inside) {
    for (const place of ['/', '/podium', '/podium/cwd', '/podium/qwen', '/dev', '/etc', '/usr'])
      attempt(`write ${place}`, () => fs.writeFileSync(`${place}/new`, 'x'));
    for (const place of ['/podium/node', '/podium/qwen/cli.js', '/podium/settings.json', '/etc/passwd'])
      attempt(`overwrite ${place}`, () => fs.openSync(place, 'r+'));
    attempt('kernel', () => fs.openSync('/proc/sys/kernel/core_pattern', 'r+'));
    attempt('disk', () => fs.readdirSync('/sys'));
    attempt('interface', () => {
      if (Object.keys(os.networkInterfaces()).every((name) => name === 'lo')) throw new Error('lo');
    });
    attempt('processes', () => {
      const seen = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name));
      if (seen.length <= 2) throw new Error('own');
    });
    attempt('home_is_bounded', () => {
      for (let n = 0; n < 200; n++) fs.writeFileSync(`${os.homedir()}/${n}`, Buffer.alloc(1 << 20));
    });
  }
  console.log(JSON.stringify(reached));
}

main();
