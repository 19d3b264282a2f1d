'use strict';
// A scripted backend: `echo` streams the last message word by word, `gated` waits for `release()` before each word but
// the first, `tools` calls the first tool and says its result, `endless` ends only when its reader goes away (`readerGone` resolves then). All requests are recorded.

const http = require('node:http');
const { once, EventEmitter } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

const WORDS = ['one ', 'two ', 'three ', 'four ', 'five'];

async function startBackend() {
  const requests = [];
  const gate = new EventEmitter();
  let released = 0;
  let readerIsGone;
  const readerGone = new Promise((done) => {
    readerIsGone = done;
  });

  async function answer(body, response) {
    const words = body.model === 'gated' ? WORDS : body.messages.at(-1).content.split(/(?<= )/);
    const usage = { prompt_tokens: 7, completion_tokens: words.length, total_tokens: 7 + words.length };
    const head = { id: 'gen-1', created: 1, model: body.model };
    if (!body.stream) {
      const message = { role: 'assistant', content: words.join('') };
      response.setHeader('content-type', 'application/json');
      response.end(
        JSON.stringify({ ...head, object: 'chat.completion', choices: [{ index: 0, message, finish_reason: 'stop' }], usage }),
      );
      return;
    }
    response.setHeader('content-type', 'text/event-stream; charset=utf-8');
    const event = (choices, more = {}) =>
      response.write(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices, ...more })}\n\n`);
    const delta = (content, finish = null) => event([{ index: 0, delta: content, finish_reason: finish }]);
    delta({ role: 'assistant', content: '' });
    if (body.model === 'endless') {
      response.once('close', readerIsGone);
      while (!response.destroyed) {
        delta({ content: 'again ' });
        await sleep(10);
      }
      return;
    }
    if (body.model === 'tools' && body.messages.at(-1).role !== 'tool') {
      const { name } = body.tools[0].function;
      delta({ tool_calls: [{ index: 0, id: 'call_0', type: 'function', function: { name, arguments: '' } }] });
      for (const piece of ['{"city":', ' "Bonn"}']) delta({ tool_calls: [{ index: 0, function: { arguments: piece } }] });
      delta({}, 'tool_calls');
      if (body.stream_options?.include_usage) event([], { usage });
      response.end('data: [DONE]\n\n');
      return;
    }
    for (const [position, word] of words.entries()) {
      while (body.model === 'gated' && released < position) await once(gate, 'released');
      delta({ content: word });
    }
    delta({}, 'stop');
    if (body.stream_options?.include_usage) event([], { usage });
    response.end('data: [DONE]\n\n');
  }

  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    if (request.method !== 'POST') {
      response.setHeader('content-type', 'application/json');
      response.end('{"object":"list","data":[{"id":"echo","object":"model","created":1,"owned_by":"test"}]}');
      return;
    }
    const body = JSON.parse(Buffer.concat(parts));
    requests.push({ headers: request.headers, body });
    await answer(body, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}/v1`,
    requests,
    readerGone,
    release: () => {
      released += 1;
      gate.emit('released');
    },
    stop: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

module.exports = { startBackend };
