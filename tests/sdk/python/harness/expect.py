"""Checks that many tests share."""

import contextlib
import re
from dataclasses import dataclass, field

import openai
import pytest

MEMBERS = {"type", "code", "message", "param"}
UUID4 = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")


@dataclass
class Caught:
    """The error that left the block, once it did."""

    error: openai.APIStatusError = None
    headers: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def refused(kind: type[openai.APIStatusError], status: int, code: str, param: str | None = None):
    """The block raises exactly this error of the SDK, and its body has the gateway's shape."""
    caught = Caught()
    with pytest.raises(kind) as info:
        yield caught
    error = info.value
    caught.error, caught.headers = error, error.response.headers
    assert (error.status_code, error.code, error.param) == (status, code, param), error.response.text
    envelope_holds(error.response.json(), status, error.response.headers)
    assert error.request_id == error.response.headers["x-request-id"]


def envelope_holds(body: dict, status: int, headers) -> None:
    """What every error answer keeps, whatever its code."""
    assert set(body["error"]) == MEMBERS, body
    assert body["error"]["message"], body
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == headers["spass-request-id"]
    if status >= 500:
        assert body["request_id"] == headers["x-request-id"]
    if status == 429:
        assert int(headers["retry-after"]) >= 1
        assert int(headers["retry-after-ms"]) >= 0


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def pictured(url: str) -> list[dict]:
    """A message with a text part and an image part, the latter at `messages[0].content[1]`."""
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]}]


#: A whole PNG of one pixel.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
