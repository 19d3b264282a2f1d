'use strict';
// Checks that several tests share.

const assert = require('node:assert/strict');

/** The promise is refused with exactly this error of the SDK, in the gateway's shape; gives the error. */
async function refused(promise, kind, status, code, param = null) {
  let error;
  await assert.rejects(
    async () => promise,
    (caught) => {
      error = caught;
      return true;
    },
  );
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  assert.deepEqual({ status: error.status, code: error.code, param: error.param }, { status, code, param });
  assert.deepEqual(Object.keys(error.error).sort(), ['code', 'message', 'param', 'type']);
  assert.equal(error.requestID, error.headers.get('x-request-id'));
  assert.equal(error.headers.get('x-request-id'), error.headers.get('spass-request-id'));
  return error;
}

const user = (text) => [{ role: 'user', content: text }];

async function gathered(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks) =>
  chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? '')).join('');

const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

const pictured = (url) => [
  { role: 'user', content: [{ type: 'text', text: 'What is this?' }, { type: 'image_url', image_url: { url } }] },
];

const WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false },
  },
};

module.exports = { PIXEL, WEATHER, gathered, pictured, refused, textOf, user };
