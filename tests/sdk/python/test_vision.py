"""Image parts of chat messages."""

import openai
import pytest

from harness.expect import PIXEL, pictured, refused

PARAM = "messages[0].content[1].image_url.url"


def test_a_data_uri_is_shown_to_the_demo_model(client):
    assert client.chat.completions.create(model="demo", messages=pictured(PIXEL)).choices[0].message.content


def test_a_data_uri_reaches_the_backend_unchanged(configured, alice):
    alice.chat.completions.create(model="vision", messages=pictured(PIXEL))
    assert configured.backend.last().body["messages"][-1]["content"][1]["image_url"]["url"] == PIXEL


def test_a_large_image_passes(configured, alice):
    url = "data:image/png;base64,iVBORw0KGgo" + "A" * (4 * 1024 * 1024 - 3) + "AAAA"
    alice.chat.completions.create(model="vision", messages=pictured(url))
    assert configured.backend.last().body["messages"][-1]["content"][1]["image_url"]["url"] == url


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/a.png", "image_url_not_supported"),
        ("HTTP://example.com/a.png", "image_url_not_supported"),
        ("data:image/png;base64,iVBORw0KGgo", "image_base64_invalid"),
        ("data:image/png;base64,iVBOR!!!", "image_base64_invalid"),
        ("data:image/png;base64,", "image_base64_invalid"),
        ("data:image/jpeg;base64,iVBORw0KGgo=", "image_decode_error"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "image_decode_error"),
        ("data:image/png,iVBORw0KGgo=", "image_decode_error"),
        ("data:;base64,@@@", "image_decode_error"),
        ("file:///a.png", "image_decode_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_other_urls_are_refused(client, url, code, stream):
    with refused(openai.BadRequestError, 400, code, PARAM):
        client.chat.completions.create(model="demo", messages=pictured(url), stream=stream)


def test_the_place_of_the_bad_part_is_named(client):
    good, bad = pictured(PIXEL)[0], pictured("http://example.com/a.png")[0]
    with refused(openai.BadRequestError, 400, "image_url_not_supported", "messages[2].content[1].image_url.url"):
        client.chat.completions.create(model="demo", messages=[good, {"role": "assistant", "content": "A dot."}, bad])


def test_a_model_without_image_input_says_so(configured, alice):
    with refused(openai.BadRequestError, 400, "invalid_field", "messages[0].content[1].type"):
        alice.chat.completions.create(model="plain", messages=pictured(PIXEL))
    assert configured.backend.requests == []
