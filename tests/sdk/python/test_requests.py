"""What is taken over, changed and refused in a request, and what the answer says about it."""

import json

import openai
import pytest

from harness.configured import CAPPED, UPSTREAM_KEY
from harness.expect import UUID4, envelope_holds, refused, text_of, user

#: Nothing is injected, so that bodies can be compared byte for byte.
UNTOUCHED = {"SPASS-Augment": "system-prompt=off, server-tools=off, memory=off"}


class TestRequestId:
    def test_one_is_made(self, client):
        raw = client.chat.completions.with_raw_response.create(model="demo", messages=user("hi"))
        answer = raw.parse()
        assert UUID4.match(raw.headers["x-request-id"])
        assert raw.headers["spass-request-id"] == raw.headers["x-request-id"] == answer._request_id

    @pytest.mark.parametrize("header", ["X-Request-Id", "SPASS-Request-Id"])
    def test_the_callers_own_is_taken_over(self, configured, alice, header):
        answer = alice.chat.completions.create(model="plain", messages=user("hi"), extra_headers={header: "job-7/step-2"})
        assert answer._request_id == "job-7/step-2"
        assert configured.backend.last().headers["x-request-id"] == "job-7/step-2"

    def test_an_unusable_one_is_replaced(self, client):
        models = client.models.list(extra_headers={"X-Request-Id": "x" * 129})
        assert UUID4.match(models._request_id)

    def test_errors_carry_it_too(self, client):
        with refused(openai.NotFoundError, 404, "model_not_found", "path.id") as caught:
            client.models.retrieve("nope", extra_headers={"X-Request-Id": "job-8"})
        assert caught.error.request_id == "job-8"

    def test_streams_carry_it_too(self, client):
        options = {"model": "demo", "messages": user("hi"), "stream": True, "extra_headers": {"X-Request-Id": "job-9"}}
        with client.chat.completions.with_streaming_response.create(**options) as answer:
            assert answer.request_id == "job-9"


class TestAnswerHeaders:
    @pytest.mark.parametrize("stream", [False, True])
    def test_model_and_attempts(self, alice, stream):
        raw = alice.chat.completions.with_raw_response.create(model="plain-local", messages=user("hi there"), stream=stream)
        answer = raw.parse()
        assert {chunk.model for chunk in answer} == {"plain-local"} if stream else answer.model == "plain-local"
        assert raw.headers["spass-resolved-model"] == "plain"
        assert raw.headers["spass-resolved-backend"] == "scripted"
        assert raw.headers["spass-attempts"] == "scripted;s=200"
        assert "spass-applied" not in raw.headers and "x-rust-api-applied" not in raw.headers

    def test_the_limit_is_told(self, client):
        headers = client.models.with_raw_response.list().headers
        assert headers["x-ratelimit-limit-requests"] == "10000"
        assert int(headers["x-ratelimit-remaining-requests"]) < 10000
        assert headers["x-ratelimit-reset-requests"]

    def test_nothing_of_the_backend_shows(self, configured, alice):
        raw = alice.chat.completions.with_raw_response.create(model="plain", messages=user("hi"))
        shown = json.dumps(dict(raw.headers)) + raw.text
        assert "server" not in raw.headers
        assert configured.backend.base_url.split("/")[2] not in shown
        assert "scripted-backend" not in shown
        assert UPSTREAM_KEY not in shown


class TestBody:
    def test_reaches_the_backend_byte_for_byte(self, configured):
        sent = (
            b'{ "zzz" : {"b":1 ,"a":[1.0,1e3,-0.50]},\n "model" :\t"plain", "messages":[ {"content":"\\u00e4 \\/ \xc3\xa4" ,"role":"user","x":null}],'
            b'"temperature":0.70,"seed":12345678901234567890,"user":"u-1","metadata":{"user_id":"m-1"} }'
        )
        headers = {"Authorization": f"Bearer {configured.gateway.bearer}", "Content-Type": "application/json", **UNTOUCHED}
        answer = configured.gateway.raw("POST", "/v1/chat/completions", sent, headers)
        assert answer.status == 200, answer.body
        assert configured.backend.last().raw == sent.replace(b'"plain"', b'"echo"')

    def test_unknown_members_of_the_sdk_pass(self, configured, alice):
        alice.chat.completions.create(
            model="plain", messages=user("hi"), user="u-1", extra_body={"guided_regex": "a+", "chat_template_kwargs": {"thinking": False}}
        )
        body = configured.backend.last().body
        assert (body["user"], body["guided_regex"], body["chat_template_kwargs"]) == ("u-1", "a+", {"thinking": False})

    def test_only_known_headers_reach_the_backend(self, configured, alice):
        extra = {"SPASS-Scope-Id": "work", "OpenAI-Organization": "org", "Cookie": "a=b", "X-Own": "1", "Idempotency-Key": "k"}
        alice.chat.completions.create(model="plain", messages=user("hi"), extra_headers=extra)
        headers = configured.backend.last().headers
        assert set(headers) <= {
            "host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "authorization",
            "x-request-id", "traceparent", "tracestate",
        }
        assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("dgx-gateway/")

    def test_a_user_id_in_the_body_is_refused(self, client):
        with refused(openai.BadRequestError, 400, "invalid_field", "body.user_id"):
            client.chat.completions.create(model="demo", messages=user("hi"), extra_body={"user_id": "bob"})

    def test_a_user_id_in_the_query_is_refused(self, client):
        with refused(openai.BadRequestError, 400, "invalid_field", "query.user_id"):
            client.chat.completions.create(model="demo", messages=user("hi"), extra_query={"user_id": "bob"})

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            (b'{"model": "demo", "messages": [', "invalid_json", None),
            (b"[]", "invalid_json", None),
            (b'{"model":"demo","model":"demo","messages":[{"role":"user","content":"hi"}]}', "invalid_json", None),
            (b'{"messages": [{"role": "user", "content": "hi"}]}', "missing_field", "model"),
            (b'{"model": "demo"}', "missing_field", "messages"),
            (b'{"model": "demo", "messages": []}', "invalid_field", "messages"),
            (b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": "yes"}', "invalid_field", "stream"),
        ],
        ids=["cut", "no object", "twice the same member", "no model", "no messages", "empty messages", "stream is a string"],
    )
    def test_other_bad_bodies(self, bare, body, code, param):
        headers = {"Authorization": f"Bearer {bare.bearer}", "Content-Type": "application/json"}
        answer = bare.raw("POST", "/v1/chat/completions", body, headers)
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["param"]) == (400, code, param), answer.body
        envelope_holds(answer.json(), 400, answer.headers)

    def test_another_content_type_is_refused(self, bare):
        headers = {"Authorization": f"Bearer {bare.bearer}", "Content-Type": "text/plain"}
        answer = bare.raw("POST", "/v1/chat/completions", b"{}", headers)
        assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert answer.json()["error"]["param"] == "headers.content-type"


class TestMaxTokens:
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_value_below_the_floor_is_raised(self, configured, alice, field, stream):
        raw = alice.chat.completions.with_raw_response.create(model="floored", messages=user("hi"), stream=stream, **{field: 50})
        assert raw.headers["spass-applied"] == raw.headers["x-rust-api-applied"] == "max_tokens_floored=200"
        assert text_of(raw.parse()) == "hi" if stream else raw.parse().choices
        assert configured.backend.last().body[field] == 200

    @pytest.mark.parametrize("given", [{"max_tokens": 200}, {"max_tokens": 4096}, {}])
    def test_other_values_stay(self, configured, alice, given):
        raw = alice.chat.completions.with_raw_response.create(model="floored", messages=user("hi"), **given)
        assert "spass-applied" not in raw.headers and "x-rust-api-applied" not in raw.headers
        assert {"max_tokens": configured.backend.last().body.get("max_tokens")} == (given or {"max_tokens": None})

    @pytest.mark.parametrize("sent", [9000, None])
    def test_the_token_sets_a_ceiling(self, configured, sent):
        given = {} if sent is None else {"max_tokens": sent}
        with configured.gateway.client(CAPPED, headers={"SPASS-User-Id": "bob"}) as client:
            raw = client.chat.completions.with_raw_response.create(model="plain", messages=user("hi"), **given)
        assert raw.headers["spass-applied"] == raw.headers["x-rust-api-applied"] == "max_tokens_clamped=100"
        assert configured.backend.last().body["max_tokens"] == 100

    def test_the_floor_wins_over_the_ceiling(self, configured):
        with configured.gateway.client(CAPPED, headers={"SPASS-User-Id": "bob"}) as client:
            raw = client.chat.completions.with_raw_response.create(model="floored", messages=user("hi"), max_tokens=50)
        assert raw.headers["spass-applied"] == "max_tokens_floored=200"
        assert configured.backend.last().body["max_tokens"] == 200

    @pytest.mark.parametrize("value", [0, -5, 1.5, "100", 2147483648])
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_values_that_are_no_count_are_refused(self, client, field, value):
        with refused(openai.BadRequestError, 400, "invalid_field", field):
            client.chat.completions.create(model="demo", messages=user("hi"), **{field: value})

    def test_of_completions(self, configured, alice):
        raw = alice.completions.with_raw_response.create(model="floored", prompt="hi", max_tokens=50)
        assert raw.headers["spass-applied"] == "max_tokens_floored=200"
        assert configured.backend.last().body["max_tokens"] == 200
