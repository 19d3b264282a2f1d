'use strict';
// Streams as client libraries read them: text, a tool call and usage, to the end, without an error or a warning.

const assert = require('node:assert/strict');
const { after, before, describe, test } = require('node:test');
const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
const { jsonSchema, stepCountIs, streamText, tool } = require('ai');
const { startBackend } = require('../harness/backend');
const { startConfigured, startMock } = require('../harness/gateway');
const { WEATHER, user } = require('../harness/expect');

const TEXT = 'one two three né 🦀';
const RESULT = 'sunny, 23 degrees';

describe('client libraries', () => {
  let mock;
  let backend;
  let gateway;
  const warnings = [];
  const warned = (warning) => warnings.push(warning);

  before(async () => {
    process.on('warning', warned);
    globalThis.AI_SDK_LOG_WARNINGS = ({ warnings: told }) => warnings.push(...told);
    mock = await startMock();
    backend = await startBackend();
    gateway = await startConfigured({ mock: mock.url, scripted: backend.url });
  });
  after(async () => {
    process.off('warning', warned);
    await gateway?.stop();
    await backend?.stop();
    await mock?.stop();
    assert.deepEqual(warnings, []);
  });

  for (const include_usage of [false, true]) {
    const options = include_usage ? { stream_options: { include_usage } } : {};

    test(`the helper of the SDK, usage ${include_usage}`, async () => {
      const stream = gateway.client().chat.completions.stream({ model: 'plain', messages: user(TEXT), ...options });
      let text = '';
      stream.on('content', (piece) => {
        text += piece;
      });
      const final = await stream.finalChatCompletion();
      assert.equal(text, TEXT);
      assert.equal(final.model, 'plain');
      assert.equal(final.choices[0].message.content, TEXT);
      assert.equal(final.choices[0].finish_reason, 'stop');
      assert.equal((final.usage?.total_tokens ?? 0) > 0, include_usage);
    });

    test(`tools that the SDK runs, usage ${include_usage}`, async () => {
      const asked = [];
      const run = ({ city }) => {
        asked.push(city);
        return RESULT;
      };
      const runner = gateway.client().chat.completions.runTools({
        model: 'tooled',
        messages: user('weather?'),
        stream: true,
        tools: [{ type: 'function', function: { ...WEATHER.function, function: run, parse: JSON.parse } }],
        ...options,
      });
      assert.equal(await runner.finalContent(), RESULT);
      assert.deepEqual(asked, ['Bonn']);
      if (include_usage) assert.ok((await runner.totalUsage()).total_tokens > 0);
    });

    const model = (name) => {
      const bearer = gateway.client().apiKey;
      return createOpenAICompatible({ name: 'gateway', baseURL: `${gateway.root}/v1`, apiKey: bearer, includeUsage: include_usage })(name);
    };
    const failed = ({ error }) => {
      throw error;
    };

    test(`the AI SDK, usage ${include_usage}`, async () => {
      const result = streamText({ model: model('plain'), prompt: TEXT, maxRetries: 0, onError: failed });
      const parts = [];
      for await (const part of result.fullStream) parts.push(part);
      assert.deepEqual(parts.filter((part) => part.type === 'error'), []);
      assert.equal(parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join(''), TEXT);
      assert.equal(await result.finishReason, 'stop');
      assert.equal(((await result.usage).totalTokens ?? 0) > 0, include_usage);
      assert.deepEqual((await result.warnings) ?? [], []);
    });

    test(`tools of the AI SDK, usage ${include_usage}`, async () => {
      const asked = [];
      const weather = tool({
        description: WEATHER.function.description,
        inputSchema: jsonSchema(WEATHER.function.parameters),
        execute: async ({ city }) => {
          asked.push(city);
          return RESULT;
        },
      });
      const result = streamText({
        model: model('tooled'),
        prompt: 'weather?',
        tools: { get_weather: weather },
        stopWhen: stepCountIs(3),
        maxRetries: 0,
        onError: failed,
      });
      assert.ok((await result.text).includes(RESULT));
      assert.deepEqual(asked, ['Bonn']);
      assert.deepEqual((await result.steps).map((step) => step.finishReason), ['tool-calls', 'stop']);
    });
  }
});
