"""The configured start: three files that route to the scripted backend, the mock, and an address where nobody listens."""

from dataclasses import dataclass
from pathlib import Path

from .backend import DIMENSIONS, Backend
from .gateway import Gateway, write_configuration

#: Faults of the mock, each reachable under `fault-<name>`.
FAULTS = ("status-400", "status-401", "status-429", "status-500", "reset", "reset-mid-stream", "hang", "truncated", "wrong-length", "slow", "echo")

#: What the mock speaks.
PROTOCOLS = ("chat", "completions", "embeddings", "responses", "messages")

UPSTREAM_KEY = "upstream-key-of-the-backend"

BOUND = "b0" * 32
UNBOUND = "c1" * 32
PERSONAL = "d2" * 32
EXPIRED = "e3" * 32
NO_CHAT = "f4" * 32
CAPPED = "a5" * 32
BURST_OF_THREE = "96" * 32
FAST_REFILL = "87" * 32


@dataclass
class Configured:
    gateway: Gateway
    backend: Backend


def write(directory: Path, *, scripted: str, mock: str, dead: str, gateway: dict | None = None) -> None:
    def backend(label, base_url, protocols=("chat", "completions", "embeddings"), **more):
        return {
            "id": f"{label}-backend", "label": label, "kind": "openai", "domain": "local", "base_url": base_url,
            "protocols": list(protocols), **more,
        }

    backends = [
        backend("scripted", scripted, api_key=UPSTREAM_KEY),
        backend("mock", mock, PROTOCOLS, first_byte_timeout_seconds=3),
        backend("speech", mock, ("transcription", "translation")),
        # the same mock under a second name, so that its failures are of no account to the tests of the first
        backend("faulty", mock),
        backend("dead", dead),
        backend("gone", dead),
    ]
    models = [
        _chat("plain", ("scripted", "echo")),
        _chat("floored", ("scripted", "echo"), constraints={"min_max_tokens": 200}),
        _chat("vision", ("scripted", "echo"), modalities={"input": ["text", "image"], "output": ["text"]}),
        _chat("gated", ("scripted", "gated")),
        _chat("broken", ("scripted", "broken")),
        _chat("endless", ("scripted", "endless")),
        _chat("tooled", ("scripted", "tools")),
        _chat("failing", ("scripted", "fail")),
        _chat("dead-first", ("dead", "echo"), ("scripted", "echo")),
        _chat("broken-first", ("faulty", "status-500"), ("scripted", "echo")),
        _chat("dead-only", ("gone", "echo")),
        _chat("mock-ok", ("mock", "ok")),
        _chat("mock-sees", ("mock", "ok"), modalities={"input": ["text", "image"], "output": ["text"]}),
        {**_chat("speech", ("speech", "ok")), "type": "audio", "tools": False},
        *(_chat(f"fault-{fault}", ("mock", fault)) for fault in FAULTS),
        {
            **_chat("vectors", ("scripted", "embed")), "type": "embedding", "tools": False,
            "constraints": {"dimensions": DIMENSIONS, "max_inputs": 256, "max_input_bytes": 8192, "max_input_tokens": 2048},
        },
    ]
    write_configuration(directory, gateway={"backends": backends} | (gateway or {}), models=models, tokens=tokens())


def _chat(alias: str, *route: tuple[str, str], **more) -> dict:
    return {
        "alias": alias, "type": "chat", "family": "Test", "vendor": "test", "description": f"Test model {alias}", "context_window": 8192,
        "modalities": {"input": ["text"], "output": ["text"]}, "tools": True,
        "route": [{"backend": f"{label}-backend", "model": model} for label, model in route], **more,
    }


def tokens() -> dict:
    def token(name, secret, **more):
        return {"id": name, "label": name, "role": "user", "secrets": [{"value": secret}], **more}

    acme = {"bound_tenant": "acme"}
    return {
        "version": 1,
        "tenants": [
            {"id": "acme", "name": "Acme Ltd"},
            {"id": "globex", "name": "Globex", "defaults": {"models_allowlist": ["plain"]}},
        ],
        "tokens": [
            token("acme-app", BOUND, **acme),
            token("roaming", UNBOUND),
            token("alice-laptop", PERSONAL, default_user_id="alice", **acme),
            token("acme-no-chat", NO_CHAT, deny_scopes=["chat:create"], **acme),
            token("acme-capped", CAPPED, constraints={"max_tokens": 100, "models": ["plain*", "floored"]}, **acme),
            token("acme-burst", BURST_OF_THREE, rate_limit={"per_second": 1, "burst": 3}, **acme),
            token("acme-refill", FAST_REFILL, rate_limit={"per_second": 5, "burst": 1}, **acme),
            {
                **token("acme-old", EXPIRED, **acme),
                "secrets": [{"value": EXPIRED, "expires_at": "2020-01-01T00:00:00Z"}],
            },
        ],
    }
