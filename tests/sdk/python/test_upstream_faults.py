"""What callers see when a backend fails: the right class, a clean message, and never a silent end."""

import openai
import pytest

from harness import configured as configuration
from harness.expect import refused, text_of, user
from harness.gateway import NO_LIMIT, running_gateway

UPSTREAM_NAMES = ("openai", "mock-backend", "127.0.0.1", "localhost")


def chat(client, model, **options):
    return client.chat.completions.create(model=model, messages=user("hi"), **options)


def test_the_mock_answers(alice):
    assert chat(alice, "mock-ok").model == "mock-ok"
    chunks = list(chat(alice, "mock-ok", stream=True))
    assert text_of(chunks) and {chunk.model for chunk in chunks} == {"mock-ok"}


def test_a_slow_one_is_waited_for(alice):
    assert text_of(chat(alice, "fault-slow", stream=True))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
class TestStatus:
    @pytest.mark.parametrize(
        ("fault", "kind", "status", "code", "param"),
        [
            ("status-400", openai.BadRequestError, 400, "upstream_bad_request", None),
            ("status-401", openai.InternalServerError, 502, "upstream_error", None),
            ("status-429", openai.RateLimitError, 429, "model_quota_exhausted", "model"),
            ("status-500", openai.InternalServerError, 502, "upstream_error", None),
            ("reset", openai.InternalServerError, 502, "upstream_error", None),
        ],
    )
    def test_is_translated(self, alice, fault, kind, status, code, param, stream):
        with refused(kind, status, code, param) as caught:
            chat(alice, f"fault-{fault}", stream=stream)
        assert caught.headers["spass-attempts"].startswith("mock;")
        assert not any(name in caught.error.message.lower() for name in UPSTREAM_NAMES)

    def test_of_a_backend_that_is_not_there(self, alice, stream):
        with refused(openai.InternalServerError, 503, "upstream_unavailable") as caught:
            chat(alice, "dead-only", stream=stream)
        assert caught.headers["spass-attempts"] == "gone;e=connect"
        assert caught.headers["x-should-retry"] == "false"

    def test_the_sdk_does_not_multiply_the_attempts(self, configured, stream):
        with configured.gateway.client(max_retries=2) as client:
            with refused(openai.InternalServerError, 502, "upstream_error") as caught:
                chat(client, "failing", stream=stream)
        assert caught.headers["x-should-retry"] == "false"
        assert len(configured.backend.requests) == 1


class TestFallback:
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("model", ["dead-first", "broken-first"])
    def test_goes_to_the_next_entry_of_the_route(self, alice, model, stream):
        raw = alice.chat.completions.with_raw_response.create(model=model, messages=user("hi"), stream=stream)
        answer = raw.parse()
        assert (text_of(answer) if stream else answer.choices[0].message.content) == "hi"
        assert raw.headers["spass-resolved-backend"] == "scripted"
        # a backend that is known to be down is tried last, so its attempt may be missing
        assert raw.headers["spass-attempts"].split(", ")[-1] == "scripted;s=200"

    def test_names_every_attempt(self, tmp_path, mock_url, scripted, dead_url):
        configuration.write(tmp_path, scripted=scripted.base_url, mock=mock_url, dead=dead_url)
        with running_gateway(tmp_path, bearer=configuration.PERSONAL) as gateway, gateway.client() as client:
            raw = client.chat.completions.with_raw_response.create(model="broken-first", messages=user("hi"))
        assert raw.headers["spass-attempts"] == "faulty;s=500, scripted;s=200"
        assert raw.parse().model == "broken-first"


class TestBrokenStream:
    def test_is_an_error_and_not_a_silent_end(self, configured, alice):
        chunks = []
        with pytest.raises(openai.APIError) as info:
            for chunk in chat(alice, "broken", stream=True):
                chunks.append(chunk)
                if text_of([chunk]):
                    configured.backend.release()
        assert text_of(chunks) == "one ", "what came before the break is handed on, and nothing is sent twice"
        assert info.value.code == "upstream_error"
        assert len(configured.backend.requests) == 1, "nothing is tried again behind the caller's back"
        assert configured.gateway.healthy()

    @pytest.mark.parametrize("fault", ["reset-mid-stream", "truncated"])
    def test_is_an_error_in_the_other_ways_to_break(self, configured, alice, fault):
        chunks = []
        with pytest.raises(openai.APIError) as info:
            for chunk in chat(alice, f"fault-{fault}", stream=True):
                chunks.append(chunk)
        # a reset may overtake the text that was sent before it; then the answer is a plain 502
        assert text_of(chunks) or isinstance(info.value, openai.InternalServerError)
        assert not any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        assert info.value.code == "upstream_error"
        assert configured.gateway.healthy()

    def test_is_an_error_of_the_helper_too(self, alice):
        with pytest.raises(openai.APIError), alice.chat.completions.stream(model="fault-reset-mid-stream", messages=user("hi")) as stream:
            for _ in stream:
                pass

    async def test_is_an_error_of_the_asynchronous_client_too(self, configured):
        async with configured.gateway.async_client() as client:
            with pytest.raises(openai.APIError):
                async for _ in await chat(client, "fault-reset-mid-stream", stream=True):
                    pass

    def test_a_whole_answer_that_stops_short_is_an_error(self, configured, alice):
        with pytest.raises(openai.APIError):
            chat(alice, "fault-wrong-length")
        assert configured.gateway.healthy()


class TestTimeout:
    def test_of_the_first_byte_of_a_stream(self, alice):
        # the configured backend has `first_byte_timeout_seconds: 3`
        with refused(openai.InternalServerError, 504, "upstream_timeout") as caught:
            chat(alice, "fault-hang", stream=True)
        assert caught.headers["spass-attempts"] == "mock;e=timeout"

    def test_of_a_whole_answer(self, tmp_path, mock_url, scripted, dead_url):
        configuration.write(tmp_path, scripted=scripted.base_url, mock=mock_url, dead=dead_url)
        env = NO_LIMIT | {"HTTP_TOTAL_TIMEOUT_SECS": "2"}
        with running_gateway(tmp_path, bearer=configuration.PERSONAL, env=env) as gateway, gateway.client() as client:
            with refused(openai.InternalServerError, 504, "upstream_timeout"):
                chat(client, "fault-hang")

    def test_a_caller_that_gives_up_leaves_the_gateway_healthy(self, configured, alice):
        with pytest.raises(openai.APITimeoutError):
            chat(alice, "fault-hang", timeout=0.5)
        assert configured.gateway.healthy()
        assert chat(alice, "plain").choices
