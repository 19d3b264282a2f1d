'use strict';
// The gateway with no configuration, as a newcomer meets it.

const assert = require('node:assert/strict');
const { after, before, describe, test } = require('node:test');
const OpenAI = require('openai');
const { startGateway } = require('../harness/gateway');
const { PIXEL, WEATHER, gathered, pictured, refused, user } = require('../harness/expect');

describe('without configuration', () => {
  let gateway;
  let client;

  before(async () => {
    gateway = await startGateway();
    client = gateway.client();
  });
  after(() => gateway?.stop());

  test('lists the demo models', async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes('demo') && ids.includes('demo-embed'), ids.join());
    assert.equal((await client.models.retrieve('demo')).id, 'demo');
  });

  test('answers a chat', async () => {
    const { data, response, request_id } = await client.chat.completions
      .create({ model: 'demo', messages: user('Say hello.') })
      .withResponse();
    assert.equal(data.model, 'demo');
    assert.ok(data.choices[0].message.content);
    assert.ok(data.usage.total_tokens > 0);
    assert.equal(data._request_id, response.headers.get('x-request-id'));
    assert.equal(request_id, response.headers.get('spass-request-id'));
  });

  test('streams in several chunks over time', async () => {
    const arrivals = [];
    const chunks = [];
    for await (const chunk of await client.chat.completions.create({ model: 'demo', messages: user('Tell me a lot.'), stream: true })) {
      arrivals.push(performance.now());
      chunks.push(chunk);
    }
    assert.ok(chunks.filter((chunk) => chunk.choices[0]?.delta.content).length > 3);
    assert.ok(arrivals.at(-1) - arrivals[0] > 50);
    assert.deepEqual([...new Set(chunks.map((chunk) => chunk.model))], ['demo']);
    assert.ok(chunks.every((chunk) => !chunk.usage && chunk.choices.length));
  });

  test('sends usage last when it is asked for', async () => {
    const options = { stream: true, stream_options: { include_usage: true } };
    const chunks = await gathered(await client.chat.completions.create({ model: 'demo', messages: user('hi'), ...options }));
    assert.ok(chunks.at(-1).usage.total_tokens > 0);
    assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage));
  });

  test('feeds the stream helper', async () => {
    const stream = client.chat.completions.stream({ model: 'demo', messages: user('Say hello.') });
    let text = '';
    stream.on('content', (piece) => {
      text += piece;
    });
    assert.equal(await stream.finalContent(), text);
    assert.ok(text);
  });

  test('calls a tool and reads its result', async () => {
    const asked = user('What is the weather in Bonn?');
    const choice = { type: 'function', function: { name: 'get_weather' } };
    const first = await client.chat.completions.create({ model: 'demo', messages: asked, tools: [WEATHER], tool_choice: choice });
    const { message } = first.choices[0];
    const [call] = message.tool_calls;
    assert.equal(call.function.name, 'get_weather');
    assert.equal(typeof JSON.parse(call.function.arguments).city, 'string');
    const result = { role: 'tool', tool_call_id: call.id, content: 'sunny, 23 degrees' };
    const second = await client.chat.completions.create({ model: 'demo', messages: [...asked, message, result], tools: [WEATHER] });
    assert.match(second.choices[0].message.content, /sunny, 23 degrees/);
  });

  test('streams a tool call in deltas', async () => {
    const choice = { type: 'function', function: { name: 'get_weather' } };
    const stream = client.chat.completions.stream({ model: 'demo', messages: user('Weather?'), tools: [WEATHER], tool_choice: choice });
    const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
    assert.equal(call.function.name, 'get_weather');
    assert.equal(typeof JSON.parse(call.function.arguments).city, 'string');
  });

  test('takes images as data URIs and nothing else', async () => {
    const shown = await client.chat.completions.create({ model: 'demo', messages: pictured(PIXEL) });
    assert.ok(shown.choices[0].message.content);
    const param = 'messages[0].content[1].image_url.url';
    for (const [url, code] of [
      ['https://example.com/a.png', 'image_url_not_supported'],
      ['data:image/png;base64,iVBORw0KGgo', 'image_base64_invalid'],
      ['data:image/jpeg;base64,iVBORw0KGgo=', 'image_decode_error'],
    ]) {
      const asked = client.chat.completions.create({ model: 'demo', messages: pictured(url) });
      await refused(asked, OpenAI.BadRequestError, 400, code, param);
    }
  });

  test('answers in JSON', async () => {
    const format = { type: 'json_object' };
    const answer = await client.chat.completions.create({ model: 'demo', messages: user('JSON please'), response_format: format });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content), 'object');
  });

  test('completes a text', async () => {
    assert.ok((await client.completions.create({ model: 'demo', prompt: 'Once upon a time' })).choices[0].text);
  });

  test('embeds, in the format the SDK asks for by itself and as numbers', async () => {
    const input = ['hello', 'world'];
    const packed = await client.embeddings.create({ model: 'demo-embed', input });
    const plain = await client.embeddings.create({ model: 'demo-embed', input, encoding_format: 'float' });
    for (const [index, { embedding }] of packed.data.entries()) {
      assert.equal(embedding.length, 768);
      embedding.forEach((value, at) => assert.ok(Math.abs(value - plain.data[index].embedding[at]) < 1e-6));
    }
    const many = client.embeddings.create({ model: 'demo-embed', input: Array(257).fill('x') });
    await refused(many, OpenAI.BadRequestError, 400, 'embedding_input_too_large', 'input');
  });

  test('refuses in the error classes of the SDK', async () => {
    const chat = (more, options) => client.chat.completions.create({ model: 'demo', messages: user('hi'), ...more }, options);
    await refused(gateway.client({ apiKey: 'unknown' }).models.list(), OpenAI.AuthenticationError, 401, 'invalid_authorization', 'headers.authorization');
    await refused(chat({ model: 'no-such-model' }), OpenAI.BadRequestError, 400, 'model_not_in_allowlist', 'model');
    await refused(chat({ max_tokens: 0 }), OpenAI.BadRequestError, 400, 'invalid_field', 'max_tokens');
    await refused(chat({ user_id: 'bob' }), OpenAI.BadRequestError, 400, 'invalid_field', 'body.user_id');
    await refused(client.models.retrieve('no-such-model'), OpenAI.NotFoundError, 404, 'model_not_found', 'path.id');
    await refused(client.get('/no/such/path'), OpenAI.NotFoundError, 404, 'route_not_found');
    const error = await refused(
      chat({ max_tokens: -1 }, { headers: { 'X-Request-Id': 'job-7' } }),
      OpenAI.BadRequestError,
      400,
      'invalid_field',
      'max_tokens',
    );
    assert.equal(error.requestID, 'job-7');
  });
});

test('the default burst is thirty', async () => {
  const gateway = await startGateway({ env: {} });
  try {
    const client = gateway.client();
    let passed = 0;
    const many = async () => {
      for (; passed < 60; passed += 1) await client.models.list();
    };
    const error = await refused(many(), OpenAI.RateLimitError, 429, 'rate_limit_exceeded');
    assert.ok(passed >= 30 && passed < 60, `${passed} passed`);
    assert.equal(error.headers.get('retry-after'), '1');
    assert.ok(Number(error.headers.get('retry-after-ms')) <= 1000);
  } finally {
    await gateway.stop();
  }
});
