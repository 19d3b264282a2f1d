"""The real vLLM and the real LiteLLM behind the gateway. The model is tiny and random: its text means nothing, its API is real."""

import json
import os
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from harness.configured import PERSONAL
from harness.expect import refused, text_of, user
from harness.gateway import running_gateway, write_configuration
from harness.processes import Child, answers, clean_environment, free_port

pytestmark = pytest.mark.real

NAME = "llama-4-scout"
FLOOR = 24
WINDOW = 2048
VLLM_SECONDS = 300
LITELLM_SECONDS = 120
LITELLM_KEY = "sk-litellm-test"
#: This vLLM runs without a tool parser and refuses every request that offers tools.
NO_TOOLS = {"SPASS-Augment": "server-tools=off"}


def script(name: str) -> str:
    default = Path(__file__).resolve().parents[3].parent / "shared" / "upstreams"
    path = Path(os.environ.get("UPSTREAMS_DIR", default)) / name
    assert path.is_file(), f"{path} is missing; set UPSTREAMS_DIR"
    return str(path.resolve())


@pytest.fixture(scope="module")
def environment():
    homes = {name: os.environ[name] for name in ("UPSTREAMS_HOME",) if name in os.environ}
    return clean_environment(**homes)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory, environment):
    directory, port = tmp_path_factory.mktemp("vllm"), free_port()
    child = Child(["bash", script("vllm.sh"), "serve", str(port), NAME], log=directory / "log", cwd=directory, env=environment)
    try:
        child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), seconds=VLLM_SECONDS)
        base_url = f"http://127.0.0.1:{port}/v1"
        # the first answer after a start takes many seconds
        with openai.OpenAI(api_key="none", base_url=base_url, timeout=VLLM_SECONDS) as client:
            client.chat.completions.create(model=NAME, messages=user("hi"), max_tokens=2)
        yield base_url
    finally:
        child.stop()


@pytest.fixture(scope="module")
def litellm(tmp_path_factory, environment, vllm):
    directory, port = tmp_path_factory.mktemp("litellm"), free_port()
    argv = ["bash", script("litellm.sh"), "serve", str(port), vllm, NAME]
    child = Child(argv, log=directory / "log", cwd=directory, env=environment)
    try:
        child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health/liveliness"), seconds=LITELLM_SECONDS)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.stop()


@pytest.fixture(scope="module")
def real(tmp_path_factory, vllm, litellm):
    """`direct` goes to vLLM, `proxied` to LiteLLM and from there to vLLM."""
    directory = tmp_path_factory.mktemp("real")
    text = ["chat", "completions"]
    models = {
        "direct": ("vllm", NAME),
        "counted": ("vllm-counted", NAME),
        "floored": ("vllm", NAME),
        "proxied": ("litellm", NAME),
        "unknown-direct": ("vllm", "no-such-model"),
        "canned": ("litellm", "canned"),
        "canned-429": ("litellm", "canned-429"),
        "canned-500": ("litellm", "canned-500"),
    }
    write_configuration(
        directory,
        gateway={
            "backends": [
                {"id": "vllm", "label": "local-a", "kind": "vllm", "domain": "local", "base_url": vllm, "protocols": text},
                {
                    "id": "vllm-counted", "label": "local-c", "kind": "vllm", "domain": "local",
                    "base_url": vllm, "protocols": [*text, "tokenize"], "exact_tokens": True,
                },
                {
                    "id": "litellm", "label": "local-b", "kind": "litellm", "domain": "local",
                    "base_url": litellm, "protocols": text, "api_key": LITELLM_KEY,
                },
            ]
        },
        models=[
            {
                "alias": alias, "type": "chat", "family": "Test", "vendor": "test", "description": alias, "context_window": WINDOW,
                "modalities": {"input": ["text"], "output": ["text"]}, "tools": True, "route": [{"backend": backend, "model": model}],
                "constraints": {"min_max_tokens": FLOOR} if alias == "floored" else {},
            }
            for alias, (backend, model) in models.items()
        ],
        tokens={
            "version": 1,
            "tenants": [{"id": "acme", "name": "Acme Ltd"}],
            "tokens": [
                {
                    "id": "alice", "label": "Alice", "role": "user", "bound_tenant": "acme", "default_user_id": "alice",
                    "secrets": [{"value": PERSONAL}],
                }
            ],
        },
    )
    with running_gateway(directory, bearer=PERSONAL) as gateway:
        with gateway.client(headers=NO_TOOLS) as client:
            yield client.with_options(timeout=120)


BOTH = pytest.mark.parametrize("model", ["direct", "proxied"])


def chat(client, model, text="hi", **options):
    return client.chat.completions.create(model=model, messages=user(text), **options)


@BOTH
def test_chat(real, model):
    raw = real.chat.completions.with_raw_response.create(model=model, messages=user("hi"), max_tokens=8)
    answer = raw.parse()
    assert answer.model == model and answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens <= 8
    assert raw.headers["spass-attempts"] == ("local-a;s=200" if model == "direct" else "local-b;s=200")
    assert not [name for name in raw.headers if name.startswith(("x-litellm", "llm_provider"))]


@BOTH
def test_stream_without_usage(real, model):
    chunks = list(chat(real, model, max_tokens=16, stream=True, extra_body={"ignore_eos": True}))
    assert text_of(chunks) and {chunk.model for chunk in chunks} == {model}
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]


@BOTH
def test_stream_with_usage(real, model):
    options = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"ignore_eos": True}}
    chunks = list(chat(real, model, max_tokens=16, **options))
    assert chunks[-1].usage.completion_tokens == 16
    assert all(chunk.usage is None for chunk in chunks[:-1])


@BOTH
def test_completions(real, model):
    answer = real.completions.create(model=model, prompt="hi", max_tokens=4)
    assert answer.model == model and answer.usage.completion_tokens <= 4


@BOTH
def test_a_prompt_that_does_not_fit(real, model):
    # about four characters to a token here: far above 2048 by every way of counting
    with refused(openai.BadRequestError, 400, "context_length_exceeded", "messages"):
        chat(real, model, "q7Z " * 6000, max_tokens=5)


def test_max_tokens_is_clamped_to_what_is_left(real):
    raw = real.chat.completions.with_raw_response.create(model="counted", messages=user("hi"), max_tokens=100_000)
    answer = raw.parse()
    assert raw.headers["spass-applied"] == f"max_tokens_clamped={WINDOW - answer.usage.prompt_tokens}"


def test_max_tokens_is_raised_to_the_floor(real):
    # without an end of its own the backend writes exactly as much as it was told
    raw = real.chat.completions.with_raw_response.create(
        model="floored", messages=user("hi"), max_tokens=3, extra_body={"ignore_eos": True}
    )
    assert raw.headers["spass-applied"] == f"max_tokens_floored={FLOOR}"
    assert raw.parse().usage.completion_tokens == FLOOR


def test_a_window_that_is_full_to_the_brim(real):
    # counted exactly: nothing is left, and the backend need not be asked
    with refused(openai.BadRequestError, 400, "context_length_exceeded", "messages"):
        chat(real, "counted", "q7Z " * 6000, max_tokens=5)


def test_json_mode(real):
    answer = chat(real, "direct", max_tokens=200, response_format={"type": "json_object"})
    if answer.choices[0].finish_reason == "stop":
        json.loads(answer.choices[0].message.content)


def test_a_model_that_the_backend_does_not_know(real):
    with refused(openai.InternalServerError, 502, "upstream_error"):
        chat(real, "unknown-direct")


def test_messages_are_clean(real):
    with refused(openai.BadRequestError, 400, "upstream_bad_request") as caught:
        chat(real, "proxied", max_tokens=5, extra_body={"temperature": -1})
    message = caught.error.message.lower()
    assert not any(word in message for word in ("litellm", "openai", "vllm", "127.0.0.1", "http://")), message


def test_a_canned_answer(real):
    assert chat(real, "canned").choices[0].message.content == "A fixed answer."
    assert text_of(chat(real, "canned", stream=True)) == "A fixed answer."


@pytest.mark.parametrize("stream", [False, True])
def test_canned_failures(real, stream):
    with refused(openai.RateLimitError, 429, "model_quota_exhausted", "model") as caught:
        chat(real, "canned-429", stream=stream)
    assert int(caught.headers["retry-after"]) >= 1
    with refused(openai.InternalServerError, 502, "upstream_error"):
        chat(real, "canned-500", stream=stream)


def test_leaving_a_stream_frees_the_backend(real, vllm):
    stream = chat(real, "direct", max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    metrics = vllm.removesuffix("/v1") + "/metrics"
    end = time.monotonic() + 5
    while time.monotonic() < end:
        shown = urllib.request.urlopen(metrics, timeout=10).read().decode()
        running = [line for line in shown.splitlines() if line.startswith("vllm:num_requests_running{")]
        if running and all(float(line.rsplit(" ", 1)[1]) == 0 for line in running):
            return
        time.sleep(0.1)
    raise AssertionError(running)
