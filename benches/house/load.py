"""Load on a contestant: wrk for what is counted, plain sockets for streams that stay open."""

import base64
import contextlib
import functools
import json
import os
import resource
import selectors
import socket
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from .processes import SECRET, Contestant, Unusable, cpu_seconds

HERE = Path(__file__).resolve().parent
BODY_BYTES = 1024
PATH = "/v1/chat/completions"
USER = "bench"
#: requests whose first byte is timed
FIRST_BYTES = 50


#: the model name that stands for a chat with a large image; the model itself is that of the other chats
IMAGE = "bench-image"
IMAGE_BYTES = 8 << 20


@functools.cache
def image() -> bytes:
    """A chat with an image of IMAGE_BYTES bytes in base64, of random content."""
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + os.urandom(IMAGE_BYTES * 3 // 4)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return json.dumps({"model": "bench", "messages": [{"role": "user", "content": [part]}], "max_tokens": 256}).encode()


def body(model: str) -> bytes:
    """A chat of exactly BODY_BYTES bytes, or with an image."""
    if model == IMAGE:
        return image()
    request = {"model": model, "messages": [{"role": "user", "content": ""}], "max_tokens": 256, "temperature": 0.7}
    if model == "bench-stream":
        request["stream"] = True
    request["messages"][0]["content"] = "lorem ipsum " * (BODY_BYTES // 12)
    surplus = len(json.dumps(request)) - BODY_BYTES
    request["messages"][0]["content"] = request["messages"][0]["content"][:-surplus]
    return json.dumps(request).encode()


def headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}", "SPASS-User-Id": USER}


def raw(model: str) -> bytes:
    content = body(model)
    lines = [f"POST {PATH} HTTP/1.1", "Host: bench", f"Content-Length: {len(content)}", *(f"{k}: {v}" for k, v in headers().items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


def check_alike(contestants: list[Contestant], models: set[str]) -> None:
    """Every contestant must answer, and with the tokens of the mock."""
    for model in models:
        wanted = None
        for contestant in contestants:
            try:
                with contextlib.closing(HTTPConnection("127.0.0.1", contestant.port, timeout=10)) as connection:
                    connection.request("POST", PATH, body(model), headers())
                    answer = connection.getresponse()
                    status, seen = answer.status, answer.read()
            except (OSError, HTTPException) as error:
                raise Unusable(f"{contestant.name} does not answer {model}: {error!r}") from error
            marks = seen.count(b"token ") if model == "bench-stream" else json.loads(seen).get("choices")
            wanted = wanted or marks
            if status != 200 or marks != wanted:
                raise Unusable(f"{contestant.name} answers {model} with {status}: {seen[:500]!r}")


def first_byte_us(contestant: Contestant, model: str) -> float:
    """Median time to the first byte of a body, one request at a time on one connection."""
    times = []
    with contextlib.closing(HTTPConnection("127.0.0.1", contestant.port, timeout=10)) as connection:
        for _ in range(FIRST_BYTES):
            began = time.perf_counter()
            connection.request("POST", PATH, body(model), headers())
            answer = connection.getresponse()
            answer.read(1)
            times.append(time.perf_counter() - began)
            answer.read()
    return sorted(times)[len(times) // 2] * 1e6


def drive(contestant: Contestant, model: str, connections: int, seconds: int, directory: Path) -> dict:
    (directory / "body.json").write_bytes(body(model))
    environment = os.environ | {"BENCH_BODY": str(directory / "body.json"), "BENCH_SECRET": SECRET, "BENCH_USER": USER}
    argv = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
        "-s", str(HERE / "chat.lua"), f"http://127.0.0.1:{contestant.port}{PATH}",
    ]
    before = cpu_seconds(contestant.pid)
    shown = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    used = cpu_seconds(contestant.pid) - before
    result = json.loads(next(line for line in shown.splitlines() if line.startswith("RESULT "))[len("RESULT ") :])
    if result["errors"] or not result["requests"]:
        raise Unusable(f"{contestant.name} failed {result['errors']} of {result['requests']} requests:\n{shown}")
    if not used:
        raise Unusable(f"{contestant.name} used too little CPU to be read from /proc: more --seconds")
    return {
        "cpu_us": used * 1e6 / result["requests"],
        "rps": result["requests"] * 1e6 / result["duration_us"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "first_byte_us": first_byte_us(contestant, model),
        "requests": result["requests"],
    }


class OpenStreams:
    """Streams that are begun and read slowly, until the end of the `with`."""

    def __init__(self, port: int, count: int):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 200
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        self.port, self.count, self.sockets, self.open = port, count, [], 0

    def __enter__(self):
        for _ in range(self.count):
            one = socket.create_connection(("127.0.0.1", self.port), timeout=10)
            one.sendall(raw("bench-stream"))
            self.sockets.append(one)
        with selectors.DefaultSelector() as waiting:
            for one in self.sockets:
                waiting.register(one, selectors.EVENT_READ)
            end = time.monotonic() + 20
            while waiting.get_map() and time.monotonic() < end:
                for key, _ in waiting.select(1):
                    waiting.unregister(key.fileobj)
                    with contextlib.suppress(ConnectionResetError):
                        self.open += key.fileobj.recv(4096).startswith(b"HTTP/1.1 200")
        return self

    def __exit__(self, *_):
        for one in self.sockets:
            one.close()
