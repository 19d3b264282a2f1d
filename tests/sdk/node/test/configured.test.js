'use strict';
// The gateway in front of backends that work, and of one that fails in every way.

const assert = require('node:assert/strict');
const { after, before, describe, test } = require('node:test');
const OpenAI = require('openai');
const { startBackend } = require('../harness/backend');
const { startConfigured, startMock } = require('../harness/gateway');
const { gathered, refused, textOf, user } = require('../harness/expect');

describe('with backends', () => {
  let mock;
  let backend;
  let gateway;
  let client;
  const chat = (model, more = {}, options = {}) => client.chat.completions.create({ model, messages: user('hi'), ...more }, options);

  before(async () => {
    mock = await startMock();
    backend = await startBackend();
    gateway = await startConfigured({ mock: mock.url, scripted: backend.url });
    client = gateway.client();
  });
  after(async () => {
    await gateway?.stop();
    await backend?.stop();
    await mock?.stop();
  });

  test('names the requested model and how it was served', async () => {
    const { data, response } = await chat('plain-local', { vendor_extension: { a: [1] } }).withResponse();
    assert.equal(data.model, 'plain-local');
    assert.equal(response.headers.get('spass-resolved-model'), 'plain');
    assert.equal(response.headers.get('spass-resolved-backend'), 'scripted');
    assert.equal(response.headers.get('spass-attempts'), 'scripted;s=200');
    const { body, headers } = backend.requests.at(-1);
    assert.equal(body.model, 'echo');
    assert.deepEqual(body.vendor_extension, { a: [1] });
    assert.equal(headers.authorization, undefined);
    assert.ok(!Object.keys(headers).some((name) => name.startsWith('x-stainless') || name.startsWith('spass')));
  });

  test('hands on each chunk before the next is made', async () => {
    const words = [];
    for await (const chunk of await chat('gated', { stream: true })) {
      assert.equal(chunk.model, 'gated');
      const word = chunk.choices[0]?.delta.content;
      if (word) {
        words.push(word.trim());
        backend.release();
      }
    }
    assert.deepEqual(words, ['one', 'two', 'three', 'four', 'five']);
  });

  test('raises max_tokens to the floor and says so', async () => {
    const { response } = await chat('floored', { max_tokens: 50 }).withResponse();
    assert.equal(response.headers.get('spass-applied'), 'max_tokens_floored=200');
    assert.equal(response.headers.get('x-rust-api-applied'), 'max_tokens_floored=200');
    assert.equal(backend.requests.at(-1).body.max_tokens, 200);
  });

  test('translates the failures of a backend', async () => {
    await refused(chat('fault-status-400'), OpenAI.BadRequestError, 400, 'upstream_bad_request');
    const limited = await refused(chat('fault-status-429'), OpenAI.RateLimitError, 429, 'model_quota_exhausted', 'model');
    assert.ok(Number(limited.headers.get('retry-after')) >= 1);
    await refused(chat('fault-status-500'), OpenAI.InternalServerError, 502, 'upstream_error');
    await refused(chat('fault-reset'), OpenAI.InternalServerError, 502, 'upstream_error');
    await refused(chat('fault-status-500', { stream: true }), OpenAI.InternalServerError, 502, 'upstream_error');
  });

  for (const fault of ['reset-mid-stream', 'truncated']) {
    test(`does not end silently: ${fault}`, async () => {
      const chunks = [];
      await assert.rejects(async () => {
        for await (const chunk of await chat(`fault-${fault}`, { stream: true })) chunks.push(chunk);
      }, OpenAI.APIError);
      assert.ok(chunks.every((chunk) => !chunk.choices[0]?.finish_reason));
      assert.ok(await gateway.healthy());
    });
  }

  test('ends the work of the backend when a stream is left early', async () => {
    // the connection of a stream that failed is closed behind it, and a pool may notice that only when it uses it
    const stream = await chat('endless', { stream: true }, { maxRetries: 2 });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) break;
    }
    stream.controller.abort();
    const late = new Promise((_, fail) => setTimeout(() => fail(new Error('the backend still writes')), 3000).unref());
    await Promise.race([backend.readerGone, late]);
    assert.ok(await gateway.healthy());
  });

  test('keeps fifty streams apart', async () => {
    const talk = async (number) => {
      const text = `caller ${number} ${`w${number} `.repeat(20)}end`;
      const chunks = await gathered(await chat('plain', { messages: user(text), stream: true }));
      assert.equal(textOf(chunks), text);
    };
    await Promise.all(Array.from({ length: 50 }, (_, number) => talk(number)));
  });
});
