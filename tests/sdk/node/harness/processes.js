'use strict';
// Child processes that write to a log file and are gone at the end.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');

/** A temporary directory with a telling name. */
function directory(name) {
  return fs.mkdtempSync(path.join(os.tmpdir(), `dgx-gateway-${name}-`));
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Nothing of the caller's shell but what a program needs to run. */
function cleanEnvironment(extra) {
  const kept = {};
  for (const name of ['PATH', 'HOME', 'TMPDIR', 'LANG', 'RUST_BACKTRACE']) {
    if (process.env[name] !== undefined) kept[name] = process.env[name];
  }
  return { ...kept, ...extra };
}

function binary(variable) {
  const given = process.env[variable];
  if (!given) throw new Error(`${variable} is not set; run tests/test, which builds the binaries and sets it`);
  return path.resolve(given);
}

/** Starts a program; `ready` is polled with its output until it says yes. */
async function start(program, args, { cwd, env, ready, seconds }) {
  const log = path.join(cwd, `${path.basename(program)}.log`);
  const sink = fs.openSync(log, 'w');
  const child = spawn(program, args, { cwd, env, stdio: ['ignore', sink, sink], detached: true });
  fs.closeSync(sink);
  const ended = new Promise((done) => {
    child.once('exit', done);
    child.once('error', done);
  });
  const output = () => fs.readFileSync(log, 'utf8');
  const stop = async () => {
    for (const wait of [200, 3000]) {
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) break;
      child.kill('SIGTERM');
      await Promise.race([ended, sleep(wait, null, { ref: false })]);
    }
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // the group is gone already
    }
    await ended;
  };
  const end = Date.now() + seconds * 1000;
  while (!(await ready(output()))) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined || Date.now() > end) {
      await stop();
      throw new Error(`${program} is not ready (exit code ${child.exitCode}):\n${output()}`);
    }
    await sleep(20);
  }
  return { output, stop, running: () => child.exitCode === null && child.signalCode === null };
}

module.exports = { binary, cleanEnvironment, directory, freePort, start };
