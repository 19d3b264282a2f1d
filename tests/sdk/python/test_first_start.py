"""The first five minutes: what is printed, and the ways to get a bearer."""

import shutil
import stat
import subprocess
import json

import openai
import pytest

from harness.expect import refused, user
from harness.gateway import NO_LIMIT, running_gateway

SECRET = "5e" * 32


def test_prints_one_curl_line_that_works_as_it_stands(bare):
    lines = [line for line in bare.child.output().splitlines() if line.lstrip().startswith("curl ")]
    assert len(lines) == 1, bare.child.output()
    assert bare.bearer in lines[0]
    assert bare.root in lines[0]
    if shutil.which("curl"):
        shown = subprocess.run(["sh", "-c", lines[0]], capture_output=True, timeout=30, check=True).stdout.decode()
        assert '"choices"' in shown, shown


def test_keeps_the_first_bearer_in_a_file_of_its_owner(bare):
    path = bare.directory / "data" / "keys" / "bootstrap-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(bare.bearer)) == 32


def test_a_second_start_takes_the_same_bearer(tmp_path):
    with running_gateway(tmp_path) as first:
        bearer = first.bearer
    with running_gateway(tmp_path) as second:
        assert second.bearer == bearer
        assert second.client().models.list().data


def test_the_demo_models_are_listed(client):
    models = {model.id: model for model in client.models.list()}
    assert {"demo", "demo-embed"} <= set(models)
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in models.values())


def test_one_model_is_retrieved_by_its_id(client):
    assert client.models.retrieve("demo").id == "demo"
    with refused(openai.NotFoundError, 404, "model_not_found", "path.id"):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("base", ["", "/", "/v1/"])
def test_the_base_url_may_lack_v1_or_end_in_a_slash(bare, base):
    with bare.client(base_url=bare.root + base) as client:
        assert client.chat.completions.create(model="demo", messages=user("hi")).choices[0].message.content


def test_a_bearer_from_the_environment_with_its_user(tmp_path):
    env = NO_LIMIT | {"RUST_API_BEARER": SECRET, "DGX_GATEWAY_DEFAULT_USER_ID": "alice"}
    with running_gateway(tmp_path, bearer=SECRET, env=env) as gateway, gateway.client() as client:
        assert client.chat.completions.create(model="demo", messages=user("hi")).model == "demo"
        with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization"):
            client.chat.completions.create(model="demo", messages=user("hi"), extra_headers={"SPASS-User-Id": "bob"})
        assert not (gateway.directory / "data" / "keys" / "bootstrap-token").exists()


def test_a_bearer_from_the_environment_without_a_user_asks_for_one(tmp_path):
    with running_gateway(tmp_path, bearer=SECRET, env=NO_LIMIT | {"RUST_API_BEARER": SECRET}) as gateway:
        with gateway.client() as client, refused(openai.BadRequestError, 400, "missing_field", "headers.spass-user-id"):
            client.chat.completions.create(model="demo", messages=user("hi"))
        with gateway.client(headers={"SPASS-User-Id": "alice"}) as client:
            assert client.chat.completions.create(model="demo", messages=user("hi")).choices


def test_a_bearer_is_read_from_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    env = NO_LIMIT | {"RUST_API_BEARER_FILE": str(file), "DGX_GATEWAY_DEFAULT_USER_ID": "alice"}
    with running_gateway(tmp_path, bearer=SECRET, env=env) as gateway, gateway.client() as client:
        assert client.models.list().data


def test_no_secret_is_written_to_the_log(bare, client):
    with refused(openai.AuthenticationError, 401, "invalid_authorization", "headers.authorization"):
        client.with_options(api_key="wrong-secret-of-a-caller").models.list()
    client.models.list()
    written = [line for line in bare.child.output().splitlines() if "curl " not in line]
    assert not any(bare.bearer in line or "wrong-secret-of-a-caller" in line for line in written)


def test_pages_without_a_bearer(bare):
    assert bare.raw("GET", "/healthz").json() == {"status": "ok"}
    ready = bare.raw("GET", "/readyz")
    assert ready.status == 200 and ready.json()["ready"] is True
    errors = bare.raw("GET", "/errors").json()
    assert errors["count"] == len(errors["entries"]) == 49
    assert "invalid_authorization" in json.dumps(errors)
    assert bare.raw("GET", "/api/version").json()["name"] == "dgx-gateway"
