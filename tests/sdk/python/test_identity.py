"""Who may call what, in the SDK's own error classes."""

import openai
import pytest

from harness.configured import BOUND, CAPPED, EXPIRED, NO_CHAT, UNBOUND
from harness.expect import envelope_holds, refused, user


def chat(client, model="plain", **options):
    return client.chat.completions.create(model=model, messages=user("hi"), **options)


class TestBearer:
    @pytest.mark.parametrize("bearer", ["unknown", "0" * 64, EXPIRED], ids=["unknown", "well-formed", "expired"])
    def test_one_that_does_not_count_is_refused(self, configured, bearer):
        with configured.gateway.client(bearer) as client:
            with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization") as caught:
                client.models.list()
        assert caught.headers["www-authenticate"] == "Bearer"
        assert caught.error.type == "authentication_error"

    def test_none_at_all(self, bare):
        answer = bare.raw("GET", "/v1/models")
        assert (answer.status, answer.json()["error"]["code"]) == (401, "missing_authorization")
        assert answer.headers["www-authenticate"] == "Bearer"
        envelope_holds(answer.json(), 401, answer.headers)

    def test_another_scheme(self, bare):
        answer = bare.raw("GET", "/v1/models", headers={"Authorization": f"Basic {bare.bearer}"})
        assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_authorization")

    def test_the_scheme_in_any_case(self, bare):
        assert bare.raw("GET", "/v1/models", headers={"Authorization": f"bEARER {bare.bearer}"}).status == 200


class TestUser:
    def test_is_required_from_a_token_of_many(self, configured):
        with configured.gateway.client(BOUND) as client:
            with refused(openai.BadRequestError, 400, "missing_field", "headers.spass-user-id"):
                chat(client)
            assert client.models.list().data, "model lists ask for no user"

    def test_of_a_wrong_form(self, configured):
        with configured.gateway.client(BOUND, headers={"SPASS-User-Id": "a b"}) as client:
            with refused(openai.BadRequestError, 400, "invalid_field", "headers.spass-user-id"):
                chat(client)

    def test_of_a_personal_token_may_be_named_but_not_changed(self, alice):
        assert chat(alice, extra_headers={"SPASS-User-Id": "alice"}).choices
        with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization"):
            chat(alice, extra_headers={"SPASS-User-Id": "bob"})


class TestTenant:
    def test_of_a_bound_token_is_fixed(self, configured):
        with configured.gateway.client(BOUND, headers={"SPASS-User-Id": "bob"}) as client:
            assert chat(client, extra_headers={"SPASS-Tenant-Id": "acme"}).choices
            with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization"):
                chat(client, extra_headers={"SPASS-Tenant-Id": "globex"})

    def test_of_an_unbound_token_is_chosen(self, configured):
        with configured.gateway.client(UNBOUND, headers={"SPASS-User-Id": "bob"}) as client:
            assert chat(client, extra_headers={"SPASS-Tenant-Id": "acme"}).choices
            assert chat(client, extra_headers={"X-Tenant-Id": "globex"}).choices
            with refused(openai.BadRequestError, 400, "missing_field", "headers.spass-tenant-id"):
                chat(client)
            with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization"):
                chat(client, extra_headers={"SPASS-Tenant-Id": "initech"})
            with refused(openai.BadRequestError, 400, "invalid_field", "headers.spass-tenant-id"):
                chat(client, extra_headers={"SPASS-Tenant-Id": "acme", "X-Tenant-Id": "globex"})

    def test_decides_on_the_models(self, configured):
        in_globex = {"SPASS-User-Id": "bob", "SPASS-Tenant-Id": "globex"}
        with configured.gateway.client(UNBOUND, headers=in_globex) as client:
            assert {model.id for model in client.models.list()} == {"plain", "plain-local"}
            with refused(openai.BadRequestError, 400, "model_not_in_allowlist", "model"):
                chat(client, "floored")


class TestModel:
    @pytest.mark.parametrize("model", ["no-such-model", "PLAIN", "plain-cloud", "echo"])
    def test_unknown_ones_are_refused(self, configured, alice, model):
        with refused(openai.BadRequestError, 400, "model_not_in_allowlist", "model"):
            chat(alice, model)
        assert configured.backend.requests == []

    def test_a_token_may_be_held_to_some(self, configured):
        with configured.gateway.client(CAPPED, headers={"SPASS-User-Id": "bob"}) as client:
            assert {model.id for model in client.models.list()} == {"plain", "plain-local", "floored", "floored-local"}
            with refused(openai.BadRequestError, 400, "model_not_in_allowlist", "model"):
                chat(client, "vision")

    def test_the_list_keeps_the_order_of_the_catalog(self, alice):
        ids = [model.id for model in alice.models.list()]
        assert ids[:4] == ["plain", "plain-local", "floored", "floored-local"]
        assert len(ids) == len(set(ids))


def test_a_missing_scope_is_a_missing_permission(configured):
    with configured.gateway.client(NO_CHAT, headers={"SPASS-User-Id": "bob"}) as client:
        assert client.models.list().data
        with refused(openai.PermissionDeniedError, 403, "forbidden") as caught:
            chat(client)
    assert "chat:create" not in caught.error.message


class TestPath:
    def test_unknown_ones(self, client):
        with refused(openai.NotFoundError, 404, "route_not_found"):
            client.get("/no/such/path", cast_to=object)

    def test_known_ones_with_another_method(self, client):
        with pytest.raises(openai.APIStatusError) as info:
            client.delete("/chat/completions", cast_to=object)
        assert (info.value.status_code, info.value.code) == (405, "method_not_allowed")
        assert "POST" in info.value.response.headers["allow"]
