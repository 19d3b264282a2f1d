'use strict';
// Starts the gateway under test, and clients for it.

const fs = require('node:fs');
const path = require('node:path');
const { OpenAI } = require('openai');
const { binary, cleanEnvironment, directory, freePort, start } = require('./processes');

// So high that only the limiter's own test meets it.
const NO_LIMIT = { RATE_LIMIT_PER_SECOND: '1000', RATE_LIMIT_BURST: '10000' };

async function answers(url) {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(2000) });
    await answer.arrayBuffer();
    return answer.ok;
  } catch {
    return false;
  }
}

/** The gateway in `cwd`; without `bearer`, that of the first start is read from its file. */
async function startGateway({ cwd = directory('bare'), env = NO_LIMIT, bearer } = {}) {
  const root = `http://127.0.0.1:${await freePort()}`;
  const data = path.join(cwd, 'data');
  const environment = cleanEnvironment({
    DGX_GATEWAY_LISTEN: new URL(root).host,
    DGX_GATEWAY_ADMIN_LISTEN: `127.0.0.1:${await freePort()}`,
    DGX_GATEWAY_DATA_DIR: data,
    ...env,
  });
  const ready = () => answers(`${root}/healthz`);
  const child = await start(binary('GATEWAY_BIN'), [], { cwd, env: environment, ready, seconds: 30 });
  const secret = bearer ?? fs.readFileSync(path.join(data, 'keys', 'bootstrap-token'), 'utf8').trim();
  return {
    root,
    child,
    healthy: async () => child.running() && (await answers(`${root}/healthz`)),
    client: (options = {}) =>
      new OpenAI({ apiKey: secret, baseURL: `${root}/v1`, maxRetries: 0, timeout: 30_000, ...options }),
    stop: async () => {
      await child.stop();
      fs.rmSync(cwd, { recursive: true, force: true });
    },
  };
}

/** The fault-injecting upstream; `url` is its `/v1` address. */
async function startMock() {
  const cwd = directory('mock');
  const announced = /listening on (\S+)\n/;
  const ready = (output) => announced.test(output);
  const child = await start(binary('MOCK_BIN'), ['--port', '0'], { cwd, env: cleanEnvironment(), ready, seconds: 10 });
  return {
    url: `http://${announced.exec(child.output())[1]}/v1`,
    stop: async () => {
      await child.stop();
      fs.rmSync(cwd, { recursive: true, force: true });
    },
  };
}

const FAULTS = ['ok', 'status-400', 'status-429', 'status-500', 'reset', 'reset-mid-stream', 'truncated'];
const SECRET = 'ab'.repeat(32);

/** The gateway with a configuration (JSON, which is YAML) that routes `fault-<name>` to the mock and some models to `scripted`. */
async function startConfigured({ mock, scripted }) {
  const cwd = directory('configured');
  const backend = (label, url) => ({
    id: `${label}-backend`,
    label,
    kind: 'openai',
    domain: 'local',
    base_url: url,
    protocols: ['chat', 'completions', 'embeddings'],
  });
  const chat = (alias, label, model, more = {}) => ({
    alias,
    type: 'chat',
    family: 'Test',
    vendor: 'test',
    description: `Test model ${alias}`,
    context_window: 8192,
    modalities: { input: ['text'], output: ['text'] },
    tools: true,
    route: [{ backend: `${label}-backend`, model }],
    ...more,
  });
  const speech = { ...backend('speech', mock), protocols: ['transcription', 'translation'] };
  const files = {
    'conf/gateway.yaml': { backends: [backend('scripted', scripted), backend('mock', mock), speech] },
    'conf/models.yaml': {
      version: 1,
      models: [
        chat('plain', 'scripted', 'echo'),
        chat('floored', 'scripted', 'echo', { constraints: { min_max_tokens: 200 } }),
        chat('gated', 'scripted', 'gated'),
        chat('tooled', 'scripted', 'tools'),
        chat('endless', 'scripted', 'endless'),
        chat('speech', 'speech', 'ok', { type: 'audio', tools: false }),
        ...FAULTS.map((fault) => chat(`fault-${fault}`, 'mock', fault)),
      ],
    },
    'auth/tokens.yaml': {
      version: 1,
      tenants: [{ id: 'acme', name: 'Acme Ltd' }],
      tokens: [
        {
          id: 'alice-laptop',
          label: 'Alice',
          role: 'user',
          bound_tenant: 'acme',
          default_user_id: 'alice',
          secrets: [{ value: SECRET }],
        },
      ],
    },
  };
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(cwd, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, JSON.stringify(content, null, 1), { mode: 0o600 });
  }
  return startGateway({ cwd, bearer: SECRET });
}

module.exports = { startConfigured, startGateway, startMock };
