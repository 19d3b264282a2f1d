"""A scripted OpenAI-compatible backend: it records what reaches it and answers by the name of the upstream model.

| Upstream model | Answer |
|---|---|
| `echo` | the last user text, word by word when streamed, with usage when asked |
| `gated` | a stream that sends word n+1 only after `release()` was called n times |
| `broken` | as `gated`, but the connection is reset instead of word two |
| `endless` | a stream that ends only when the reader goes away; `reader_gone` is set then |
| `tools` | a call of the first tool; after a tool result, that result as text |
| `fail` | 500 |
| `embed` | one small vector for each input |

Other faults of a broken upstream (truncation, hanging, odd states) are the mock's business.
"""

import base64
import json
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GATE_SECONDS = 15
DIMENSIONS = 4
GATED = ("gated", "broken")
WORDS = ("one", "two", "three", "four", "five")


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict


@dataclass
class Backend:
    server: ThreadingHTTPServer = field(init=False)
    requests: list[Seen] = field(default_factory=list)
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    reader_gone: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        backend = self

        class Bound(_Handler):
            script = backend

        self.server = _Server(("127.0.0.1", 0), Bound)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def reset(self) -> None:
        self.requests.clear()
        self.reader_gone.clear()
        self.gate = threading.Semaphore(0)

    def release(self) -> None:
        self.gate.release()

    def last(self) -> Seen:
        return self.requests[-1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Backend

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._json(200, {"object": "list", "data": [{"id": "echo", "object": "model", "created": 1, "owned_by": "test"}]})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.script.requests.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}, raw, body))
        try:
            if self.path.endswith("/embeddings"):
                self._embed(body)
            elif self.path.endswith("/completions"):
                self._generate(body, chat=self.path.endswith("/chat/completions"))
            else:
                self._json(404, {"detail": "Not Found"})
        except OSError:
            self.script.reader_gone.set()
            self.close_connection = True

    def _generate(self, body: dict, *, chat: bool):
        model = body["model"]
        if model == "fail":
            return self._json(500, {"error": {"message": "it broke", "type": "server_error", "param": None, "code": None}})
        calls = None
        if model == "tools" and body["messages"][-1]["role"] != "tool":
            calls = [{"name": body["tools"][0]["function"]["name"], "pieces": ['{"city":', ' "Bonn"}']}]
        pieces = _pieces(body, chat)
        if body.get("stream"):
            return self._stream(body, pieces, calls, chat)
        text = "".join(pieces)
        if calls:
            made = [_call(0, call["name"], "".join(call["pieces"])) for call in calls]
            choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": made}, "finish_reason": "tool_calls"}
        elif chat:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
        kind = "chat.completion" if chat else "text_completion"
        self._json(200, {"id": "gen-1", "object": kind, "created": 1, "model": model, "choices": [choice], "usage": _usage(pieces)})

    def _stream(self, body: dict, pieces: list[str], calls, chat: bool):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        kind = "chat.completion.chunk" if chat else "text_completion"

        def event(choices, **more):
            self._chunk(b"data: " + json.dumps({"id": "gen-1", "object": kind, "created": 1, "model": body["model"], "choices": choices} | more).encode() + b"\n\n")

        def delta(content, finish=None):
            part = {"delta": content} if chat else {"text": content.get("content", ""), "logprobs": None}
            event([{"index": 0, **part, "finish_reason": finish}])

        if chat:
            delta({"role": "assistant", "content": ""})
        if calls:
            for call in calls:
                delta({"tool_calls": [{"index": 0, **_call(0, call["name"], "")}]})
                for piece in call["pieces"]:
                    delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        elif body["model"] == "endless":
            while True:
                delta({"content": "again "})
                time.sleep(0.01)
        else:
            for position, piece in enumerate(pieces):
                if body["model"] in GATED and position and not self.script.gate.acquire(timeout=GATE_SECONDS):
                    raise TimeoutError("nobody released the gate")
                if body["model"] == "broken" and position:
                    return self._reset()
                delta({"content": piece})
        delta({}, "tool_calls" if calls else "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            event([], usage=_usage(pieces))
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def _embed(self, body: dict):
        given = body["input"]
        inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        data = []
        for index, _ in enumerate(inputs):
            vector = [float(index), 0.5, -0.25, 1.0]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        self._json(200, {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}})

    def _json(self, status: int, value: dict):
        payload = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _chunk(self, payload: bytes):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(payload), payload))
        self.wfile.flush()


def _pieces(body: dict, chat: bool) -> list[str]:
    if body["model"] in GATED:
        return [word + " " for word in WORDS]
    if not chat:
        text = body["prompt"]
    else:
        text = body["messages"][-1].get("content") or ""
        if isinstance(text, list):
            text = " ".join(part.get("text", part["type"]) for part in text)
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


def _call(index: int, name: str, arguments: str) -> dict:
    return {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _usage(pieces: list[str]) -> dict:
    return {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
