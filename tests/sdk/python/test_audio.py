"""Transcriptions and translations: the SDK sends a form, the mock tells what arrived of it."""

import hashlib
import os

import openai
import pytest

from harness.expect import refused

RECORDING = os.urandom(3 * 1024 * 1024)
SAID = "Hello from the mock."


def transcribe(client, content=RECORDING, name="speech.wav", **more):
    return client.audio.transcriptions.create(**{"model": "speech", "file": (name, content)} | more)


def test_every_byte_of_the_recording_arrives(alice):
    answer = transcribe(alice, language="en", prompt="Names: Åsa.", temperature=0.2)
    assert answer.text == SAID
    arrived = answer.model_extra
    assert arrived["file"] == {
        "part": "file", "name": "speech.wav", "length": len(RECORDING), "sha256": hashlib.sha256(RECORDING).hexdigest(),
    }
    assert arrived["fields"] == {"model": "ok", "language": "en", "prompt": "Names: Åsa.", "temperature": "0.2"}


def test_a_translation(alice):
    answer = alice.audio.translations.create(model="speech", file=("speech.mp3", b"x" * 1000))
    assert answer.text == SAID
    assert answer.model_extra["file"]["length"] == 1000


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_forms_that_are_text(alice, form):
    assert SAID in transcribe(alice, b"x", response_format=form)


def test_events(alice):
    events = list(transcribe(alice, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 4 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == SAID


async def test_of_the_asynchronous_client(configured):
    async with configured.gateway.async_client() as client:
        answer = await client.audio.transcriptions.create(model="speech", file=("speech.ogg", RECORDING))
    assert answer.model_extra["file"]["sha256"] == hashlib.sha256(RECORDING).hexdigest()


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"name": "speech.txt"}, "invalid_field", "file"),
        ({"model": "unknown"}, "model_not_in_allowlist", "model"),
        ({"model": "plain"}, "model_not_in_allowlist", "model"),
        ({"response_format": "xml"}, "invalid_field", "response_format"),
        ({"temperature": 3}, "invalid_field", "temperature"),
        ({"extra_body": {"user_id": "mallory"}}, "invalid_field", "body.user_id"),
        ({"extra_headers": {"SPASS-Stt-Mode": "live"}}, "invalid_field", "headers.spass-stt-mode"),
        ({"extra_headers": {"SPASS-Stt-Mode": "chunked"}}, "invalid_field", "headers.spass-stt-mode"),
    ],
)
def test_refusals(alice, given, code, param):
    with refused(openai.BadRequestError, 400, code, param):
        transcribe(alice, **given)
