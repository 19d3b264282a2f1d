"""Embeddings: the SDK asks for base64 by itself and decodes it."""

import openai
import pytest

from harness.expect import refused

TEXTS = ["hello", "world", "hello"]


def test_the_default_of_the_sdk_and_float_are_the_same_vectors(client):
    packed = client.embeddings.create(model="demo-embed", input=TEXTS)
    plain = client.embeddings.create(model="demo-embed", input=TEXTS, encoding_format="float")
    assert [entry.index for entry in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == len(other.embedding) == 768
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.data[0].embedding == packed.data[2].embedding != packed.data[1].embedding
    assert packed.usage.total_tokens > 0


def test_one_string(client):
    assert len(client.embeddings.create(model="demo-embed", input="hello").data) == 1


async def test_of_the_asynchronous_client(bare):
    async with bare.async_client() as client:
        assert len((await client.embeddings.create(model="demo-embed", input=TEXTS)).data) == 3


def test_routed(configured, alice):
    raw = alice.embeddings.with_raw_response.create(model="vectors", input=TEXTS)
    answer = raw.parse()
    assert [entry.embedding for entry in answer.data] == [[float(index), 0.5, -0.25, 1.0] for index in range(3)]
    assert answer.model == "vectors"
    assert raw.headers["spass-resolved-model"] == "vectors"
    assert configured.backend.last().body["model"] == "embed"


def test_the_format_is_float_when_none_is_asked_for(configured):
    body = b'{"model": "vectors", "input": "hello"}'
    bearer = {"Authorization": f"Bearer {configured.gateway.bearer}", "Content-Type": "application/json"}
    assert configured.gateway.raw("POST", "/v1/embeddings", body, bearer).status == 200
    assert configured.backend.last().body["encoding_format"] == "float"


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        (["x"] * 257, "embedding_input_too_large", "input"),
        ("x" * 8193, "embedding_input_too_large", "input"),
        (["x", "x" * 8193], "embedding_input_too_large", "input[1]"),
        ([[1] * 2049], "embedding_input_too_large", "input[0]"),
        ([], "invalid_field", "input"),
        ("", "invalid_field", "input"),
        (["x", ""], "invalid_field", "input[1]"),
    ],
    ids=["257 inputs", "long text", "long second text", "many tokens", "no input", "empty text", "empty second text"],
)
def test_caps(client, given, code, param):
    with refused(openai.BadRequestError, 400, code, param):
        client.embeddings.create(model="demo-embed", input=given)


def test_just_below_the_caps(client):
    assert len(client.embeddings.create(model="demo-embed", input=["x" * 8192] + ["x"] * 255).data) == 256


def test_a_chat_model_is_no_embedding_model(client):
    with refused(openai.BadRequestError, 400, "model_not_in_allowlist", "model"):
        client.embeddings.create(model="demo", input="hello")
