'use strict';
// Transcriptions: this SDK sends the file before the model.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { after, before, describe, test } = require('node:test');
const OpenAI = require('openai');
const { startBackend } = require('../harness/backend');
const { startConfigured, startMock } = require('../harness/gateway');
const { refused } = require('../harness/expect');

const SAID = 'Hello from the mock.';
const RECORDING = crypto.randomBytes(3 * 1024 * 1024);
const SHA256 = crypto.createHash('sha256').update(RECORDING).digest('hex');

describe('recordings', () => {
  let mock;
  let backend;
  let gateway;
  let client;
  const transcribe = async (more = {}, name = 'speech.wav') =>
    client.audio.transcriptions.create({ file: await OpenAI.toFile(RECORDING, name), model: 'speech', ...more });

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

  test('arrive byte for byte, under the name of the model at the backend', async () => {
    const answer = await transcribe({ language: 'en' });
    assert.equal(answer.text, SAID);
    assert.deepEqual(answer.file, { part: 'file', name: 'speech.wav', length: RECORDING.length, sha256: SHA256 });
    assert.deepEqual(answer.fields, { model: 'ok', language: 'en' });
  });

  test('are translated, too', async () => {
    const file = await OpenAI.toFile(RECORDING, 'speech.mp3');
    assert.equal((await client.audio.translations.create({ file, model: 'speech' })).text, SAID);
  });

  test('become text, subtitles and events', async () => {
    for (const form of ['text', 'srt', 'vtt']) assert.ok((await transcribe({ response_format: form })).includes(SAID));
    const types = [];
    for await (const event of await transcribe({ stream: true })) types.push(event.type);
    assert.deepEqual(types, [...Array(4).fill('transcript.text.delta'), 'transcript.text.done']);
  });

  test('are refused with the place of the mistake', async () => {
    await refused(transcribe({}, 'speech.txt'), OpenAI.BadRequestError, 400, 'invalid_field', 'file');
    await refused(transcribe({ model: 'unknown' }), OpenAI.BadRequestError, 400, 'model_not_in_allowlist', 'model');
    await refused(transcribe({ response_format: 'xml' }), OpenAI.BadRequestError, 400, 'invalid_field', 'response_format');
  });
});
