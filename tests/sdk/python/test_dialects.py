"""The APIs of responses and messages, through the SDKs of those who made them."""

import anthropic
import openai
import pytest

from harness.expect import PIXEL, envelope_holds, refused, user

TEXT = "Hello from the mock."


@pytest.fixture
def claude(configured):
    """The SDK of the messages API with a personal token of the configured gateway."""
    with configured.gateway.messages() as client:
        yield client


def say(client, model, **options):
    return client.messages.create(model=model, messages=user("hi"), max_tokens=64, **options)


class TestResponses:
    def test_answers(self, alice):
        raw = alice.responses.with_raw_response.create(model="mock-ok", input="hi", instructions="Be brief.", max_output_tokens=64)
        answer = raw.parse()
        assert (answer.output_text, answer.model, answer.status, answer.store) == (TEXT, "mock-ok", "completed", False)
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 4)
        assert raw.headers["spass-resolved-backend"] == "mock"

    def test_takes_parts(self, alice):
        content = [{"type": "input_text", "text": "What is this?"}]
        assert alice.responses.create(model="mock-ok", input=[{"role": "user", "content": content}]).output_text == TEXT

    def test_streams(self, alice):
        events = list(alice.responses.create(model="mock-ok", input="hi", stream=True))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
        assert events[0].type == "response.created" and events[-1].type == "response.completed"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert {event.response.model for event in (events[0], events[-1])} == {"mock-ok"}
        assert events[-1].response.usage.total_tokens == 16

    def test_streams_with_the_helper(self, alice):
        with alice.responses.stream(model="mock-ok", input="hi") as stream:
            assert [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert stream.get_final_response().output_text == TEXT

    async def test_streams_asynchronously(self, configured):
        async with configured.gateway.async_client() as client:
            stream = await client.responses.create(model="mock-ok", input="hi", stream=True)
            assert [event.type async for event in stream][-1] == "response.completed"

    @pytest.mark.parametrize(
        ("options", "param"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"background": True}, "background"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
        ],
    )
    def test_refuses(self, alice, options, param):
        with refused(openai.BadRequestError, 400, "invalid_field", param):
            alice.responses.create(model="mock-ok", input="hi", **options)

    def test_refuses_an_image_that_the_model_cannot_see(self, alice):
        content = [{"type": "input_image", "image_url": PIXEL, "detail": "auto"}]
        with refused(openai.BadRequestError, 400, "invalid_field", "input[0].content[0].type"):
            alice.responses.create(model="mock-ok", input=[{"role": "user", "content": content}])

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_translates_failures(self, alice, stream):
        with refused(openai.InternalServerError, 502, "upstream_error"):
            alice.responses.create(model="fault-status-500", input="hi", stream=stream)

    def test_a_broken_stream_is_an_error_and_not_a_silent_end(self, configured, alice):
        text = []
        with pytest.raises(openai.APIError) as info:
            for event in alice.responses.create(model="fault-truncated", input="hi", stream=True):
                assert event.type not in ("response.completed", "response.failed")
                if event.type == "error":
                    raise openai.APIError(event.message, request=None, body={"code": event.code})
                if event.type == "response.output_text.delta":
                    text.append(event.delta)
        assert "".join(text) == TEXT
        assert info.value.code == "upstream_error"
        assert configured.gateway.healthy()


class TestMessages:
    def test_answers(self, claude):
        raw = claude.messages.with_raw_response.create(model="mock-ok", messages=user("hi"), max_tokens=64, system="Be brief.")
        answer = raw.parse()
        assert (answer.content[0].text, answer.model, answer.stop_reason) == (TEXT, "mock-ok", "end_turn")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 4)
        assert raw.headers["spass-resolved-backend"] == "mock"
        assert raw.headers["request-id"] == raw.headers["x-request-id"]

    def test_forwards_the_version_and_not_the_key(self, claude):
        seen = claude.messages.with_raw_response.create(
            model="fault-echo", messages=user("hi"), max_tokens=64, extra_headers={"anthropic-beta": "one-2025-01-01"}
        ).http_response.json()
        assert seen["path"] == "/v1/messages"
        sent = claude.default_headers["anthropic-version"]
        assert (seen["headers"]["anthropic-version"], seen["headers"]["anthropic-beta"]) == (sent, "one-2025-01-01")
        assert not {"x-api-key", "authorization", "x-stainless-lang"} & set(seen["headers"])

    def test_streams(self, claude):
        events = list(say(claude, "mock-ok", stream=True))
        assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == TEXT
        assert events[0].message.model == "mock-ok"
        assert [events[0].type, events[-1].type] == ["message_start", "message_stop"]

    def test_streams_with_the_helper(self, claude):
        with claude.messages.stream(model="mock-ok", messages=user("hi"), max_tokens=64) as stream:
            assert "".join(stream.text_stream) == TEXT
            message = stream.get_final_message()
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 12, 4)

    async def test_streams_asynchronously(self, configured):
        async with configured.gateway.async_messages() as client:
            stream = await say(client, "mock-ok", stream=True)
            assert [event.type async for event in stream][-1] == "message_stop"

    def test_counts_tokens(self, claude):
        assert claude.messages.count_tokens(model="mock-ok", messages=user("hi")).input_tokens == 12

    def test_estimates_tokens_where_no_backend_counts(self, claude):
        # 8 bytes of text make 2 tokens, and each message has a frame of 4
        messages = [*user("four"), {"role": "assistant", "content": "more"}]
        assert claude.messages.count_tokens(model="plain", messages=messages).input_tokens == 2 + 2 * 4

    @pytest.mark.parametrize(
        ("model", "kind", "status", "code", "said"),
        [
            ("no-such-model", anthropic.BadRequestError, 400, "model_not_in_allowlist", "invalid_request_error"),
            ("plain", anthropic.BadRequestError, 400, "invalid_field", "invalid_request_error"),
            ("fault-status-400", anthropic.BadRequestError, 400, "upstream_bad_request", "invalid_request_error"),
            ("fault-status-429", anthropic.RateLimitError, 429, "model_quota_exhausted", "rate_limit_error"),
            ("fault-status-500", anthropic.InternalServerError, 502, "upstream_error", "api_error"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_says_errors_in_its_own_dialect(self, claude, model, kind, status, code, said, stream):
        with pytest.raises(kind) as info:
            say(claude, model, stream=stream)
        error = info.value
        assert (error.status_code, error.body["error"]["code"], error.body["error"]["type"]) == (status, code, said)
        assert error.request_id == error.response.headers["x-request-id"] == error.body["request_id"]
        envelope_holds(error.response.json(), status, error.response.headers)

    def test_refuses_an_unknown_key(self, configured):
        with configured.gateway.messages("wrong") as client, pytest.raises(anthropic.AuthenticationError) as info:
            say(client, "mock-ok")
        assert info.value.body["error"]["type"] == "authentication_error"

    @pytest.mark.parametrize(
        ("source", "code"),
        [
            ({"type": "url", "url": "https://example.com/a.png"}, "image_url_not_supported"),
            ({"type": "base64", "media_type": "image/jpeg", "data": PIXEL.split(",")[1]}, "image_decode_error"),
            ({"type": "base64", "media_type": "image/png", "data": "x"}, "image_base64_invalid"),
        ],
    )
    def test_refuses_a_bad_image(self, claude, source, code):
        content = [{"type": "image", "source": source}]
        with pytest.raises(anthropic.BadRequestError) as info:
            claude.messages.create(model="mock-sees", messages=[{"role": "user", "content": content}], max_tokens=64)
        assert (info.value.body["error"]["code"], info.value.body["error"]["param"]) == (code, "messages[0].content[0].source.data")

    def test_takes_an_image(self, claude):
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL.split(",")[1]}
        content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
        answer = claude.messages.create(model="mock-sees", messages=[{"role": "user", "content": content}], max_tokens=64)
        assert answer.content[0].text == TEXT

    def test_a_broken_stream_is_an_error_and_not_a_silent_end(self, configured, claude):
        text = []
        with pytest.raises(anthropic.APIStatusError) as info:
            for event in say(claude, "fault-truncated", stream=True):
                assert event.type != "message_stop"
                if event.type == "content_block_delta":
                    text.append(event.delta.text)
        assert "".join(text) == TEXT
        assert info.value.body["error"]["code"] == "upstream_error"
        assert configured.gateway.healthy()
