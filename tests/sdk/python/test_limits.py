"""The request limiter, as the SDK meets it."""

import time

import openai

from harness.configured import BURST_OF_THREE, FAST_REFILL
from harness.expect import refused, user
from harness.gateway import running_gateway


def test_the_default_burst_is_thirty(tmp_path):
    with running_gateway(tmp_path, env={}) as gateway, gateway.client() as client:
        first = client.models.with_raw_response.list().headers
        begun = time.monotonic()
        assert first["x-ratelimit-limit-requests"] == "30"
        assert first["x-ratelimit-remaining-requests"] == "29"
        passed = 1
        with refused(openai.RateLimitError, 429, "rate_limit_exceeded") as caught:
            while passed < 60:
                client.models.list()
                passed += 1
        # one more is let in for each second that went by
        assert 30 <= passed <= 31 + (time.monotonic() - begun)
        assert caught.headers["x-ratelimit-remaining-requests"] == "0"
        assert caught.headers["retry-after"] == "1"
        assert 0 < int(caught.headers["retry-after-ms"]) <= 1000
        assert gateway.healthy(), "the public pages are not behind this bucket"


def test_a_token_has_its_own_bucket(configured, alice):
    with configured.gateway.client(BURST_OF_THREE, headers={"SPASS-User-Id": "bob"}) as client:
        with refused(openai.RateLimitError, 429, "rate_limit_exceeded") as caught:
            for _ in range(10):
                client.chat.completions.create(model="plain", messages=user("hi"))
    assert caught.error.type == "rate_limit_error"
    assert caught.headers["x-ratelimit-limit-requests"] == "3"
    assert alice.models.list().data, "others are not affected"


def test_the_sdk_waits_as_told_and_comes_through(configured):
    with configured.gateway.client(FAST_REFILL, headers={"SPASS-User-Id": "bob"}, max_retries=2) as client:
        begun = time.monotonic()
        for _ in range(4):
            assert client.models.list().data
        assert 0.3 < time.monotonic() - begun < 5
