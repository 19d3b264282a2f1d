"""The real vLLM and the real LiteLLM behind the gateway. The model is tiny and random: its text means nothing, its API is real."""

import contextlib
import json
import os
import socket
import sqlite3
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
#: Requests that this vLLM takes at the same time.
SLOTS = 16
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


#: How soon the backend must be free again.
FREE_SECONDS = 1
#: Frames of HTTP/2, and their flags.
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def running(vllm) -> float:
    """Requests that the model server works on, those that wait included."""
    shown = urllib.request.urlopen(vllm.removesuffix("/v1") + "/metrics", timeout=10).read().decode()
    lines = [line for line in shown.splitlines() if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{"))]
    assert lines
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_until(what, ready, seconds):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.02)


class Leaver:
    """A client that speaks HTTP/1.1, or HTTP/2 without TLS, and leaves when it likes."""

    def __init__(self, gateway, http2):
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
        self.gateway, self.http2 = gateway, http2

    def ask(self, path, body):
        payload, bearer = json.dumps(body).encode(), f"Bearer {self.gateway.bearer}"
        if not self.http2:
            head = (
                f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: {bearer}\r\nspass-augment: server-tools=off\r\n"
                f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
            )
            self.socket.sendall(head.encode() + payload)
            return
        fields = [
            (":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "gateway"), ("authorization", bearer),
            ("spass-augment", "server-tools=off"), ("content-type", "application/json"), ("content-length", str(len(payload))),
        ]
        # each field as a literal without indexing (RFC 7541, 6.2.2); the words are short or ASCII
        block = b"".join(b"\x00" + literal(name) + literal(value) for name, value in fields)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        self.socket.sendall(frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, payload))

    def read_until(self, text):
        seen = b""
        while text not in seen:
            piece = self.socket.recv(65536)
            assert piece, seen
            seen += piece

    def read_head(self):
        if not self.http2:
            self.read_until(b"\r\n\r\n")
            return
        seen = b""
        while True:
            while len(seen) >= 9 and len(seen) >= (whole := 9 + int.from_bytes(seen[:3], "big")):
                if seen[3] == HEADERS:
                    return
                seen = seen[whole:]
            piece = self.socket.recv(65536)
            assert piece, seen
            seen += piece

    def leave(self):
        self.socket.close()


def literal(text: str) -> bytes:
    raw, length = text.encode(), len(text)
    if length < 127:
        return bytes([length]) + raw
    rest, prefix = length - 127, b"\x7f"
    while rest >= 128:
        prefix, rest = prefix + bytes([rest % 128 + 128]), rest // 128
    return prefix + bytes([rest]) + raw


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settled(gateway) -> list[str]:
    """The status of each call in the ledger; `reserved` is none."""
    with contextlib.closing(sqlite3.connect(gateway.directory / "data" / "sqlite" / "gateway.sqlite", timeout=20)) as database:
        return [status for (status,) in database.execute("SELECT coalesce(status, state) FROM usage_calls ORDER BY call_id")]


@pytest.fixture(scope="module")
def left(tmp_path_factory, vllm):
    """A gateway in front of vLLM alone that sends the head of a silent stream after a second."""
    directory = tmp_path_factory.mktemp("left")
    backend = {"id": "vllm", "label": "local-a", "kind": "vllm", "domain": "local", "base_url": vllm, "protocols": ["chat", "completions"]}
    model = {
        "alias": "direct", "type": "chat", "family": "Test", "vendor": "test", "description": "direct", "context_window": WINDOW,
        "modalities": {"input": ["text"], "output": ["text"]}, "route": [{"backend": "vllm", "model": NAME}],
    }
    tokens = {
        "version": 1,
        "tenants": [{"id": "acme", "name": "Acme Ltd"}],
        "tokens": [
            {
                "id": "alice", "label": "Alice", "role": "user", "bound_tenant": "acme", "default_user_id": "alice",
                "secrets": [{"value": PERSONAL}],
            }
        ],
    }
    gateway = {"backends": [backend], "stream": {"commit_after_seconds": 1}, "ledger": {"durability": "strict"}}
    write_configuration(directory, gateway=gateway, models=[model], tokens=tokens)
    with running_gateway(directory, bearer=PERSONAL) as gateway:
        yield gateway


WHOLE, EARLY = "waiting for a whole answer", "behind an early head"
SILENT = ("before the first token", EARLY)
PHASES = (*SILENT, "inside the stream", WHOLE)


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("phase", PHASES)
def test_leaving_frees_the_backend_and_is_booked_once(left, vllm, phase, path, http2):
    wait_until("the backend is idle", lambda: running(vllm) == 0, 60)
    before = len(settled(left))
    fillers = []
    if phase in SILENT:
        # as many as the backend takes at one time: the one that leaves gets no token for a long time
        fillers = [Leaver(left, http2=False) for _ in range(SLOTS)]
        for filler in fillers:
            filler.ask("/v1/completions", {"model": "direct", "prompt": "hi", "max_tokens": 2000, "ignore_eos": True})
        wait_until("all places are taken", lambda: running(vllm) == SLOTS, 60)
    client = Leaver(left, http2)
    body = {"model": "direct", "max_tokens": 1500, "ignore_eos": True, "stream": phase != WHOLE}
    body |= {"messages": user("hi")} if "chat" in path else {"prompt": "hi"}
    client.ask(path, body)
    if phase == "inside the stream":
        client.read_until(b"data: ")
    elif phase == EARLY:
        client.read_head()
    wait_until("the backend has it", lambda: running(vllm) == len(fillers) + 1, 20)
    client.leave()
    at = time.monotonic()
    wait_until("the backend is free", lambda: running(vllm) == len(fillers), FREE_SECONDS)
    print(f"{phase}, {path}, HTTP/2 {http2}: free after {time.monotonic() - at:.3f} s")
    wait_until("the call is settled", lambda: settled(left).count("aborted") == before + 1, 5)
    for filler in fillers:
        filler.leave()
    wait_until("all calls are settled", lambda: len(settled(left)) == before + 1 + len(fillers) and "reserved" not in settled(left), 20)
    assert settled(left)[before:] == ["aborted"] * (1 + len(fillers))
    wait_until("the backend is free", lambda: running(vllm) == 0, FREE_SECONDS)
