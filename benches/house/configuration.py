"""The gateway as the benches run it: every policy on, none of which refuses or changes a request of a bench."""

import contextlib
import http.client
import json
from pathlib import Path

from .processes import SECRET, free_port, ready, start


def files(upstream: int, server: dict, *, budget: str = "warn", durability: str = "auto") -> dict:
    """The configuration files, by path. JSON is YAML.

    The budget warns: the rows of calls that a hard one counts are on the disk before the answer ends, and then the
    bench would measure the disk, which `benches/durability` does.
    """
    chat = {
        "type": "chat", "family": "Bench", "vendor": "bench", "description": "Bench", "context_window": 131072,
        "modalities": {"input": ["text", "image"], "output": ["text"]}, "tools": True, "constraints": {"min_max_tokens": 16},
    }
    return {
        "conf/gateway.yaml": {
            "server": server,
            "ledger": {"durability": durability},
            "limits": {"auth_failures": {"per_minute": 1_000_000, "burst": 1_000_000}},
            "backends": [
                {
                    "id": "mock", "kind": "openai", "domain": "local", "base_url": f"http://127.0.0.1:{upstream}/v1",
                    "protocols": ["chat"], "max_in_flight": 8192,
                }
            ]
        },
        "conf/models.yaml": {
            "version": 1,
            "models": [
                {"alias": name, **chat, "route": [{"backend": "mock", "model": name}]} for name in ("bench", "bench-stream")
            ],
        },
        "auth/tokens.yaml": {
            "version": 1,
            "tenants": [
                {
                    "id": "acme", "name": "Acme Ltd", "defaults": {"models_allowlist": ["bench*"]},
                    "budgets": [
                        {"id": "month", "models": ["*"], "window": "month", "limit_tokens": 10**15, "mode": budget}
                    ],
                    "limits": {"tokens_per_minute": 10**12, "max_in_flight": 8192, "weight": 1},
                }
            ],
            "tokens": [
                {
                    "id": "bench", "label": "Bench", "role": "user", "bound_tenant": "acme",
                    "constraints": {"models": ["bench*"], "max_tokens": 4096},
                    "rate_limit": {"per_second": 10**6, "burst": 10**6}, "secrets": [{"value": SECRET}],
                }
            ],
        },
    }


def start_gateway(
    stack: contextlib.ExitStack, directory: Path, argv: list[str], upstream, *, ready_seconds: float = 20, **server
):
    """With every policy on: its port and its process. `argv` starts it, `server` is what stands under that key."""
    return start_with(files(upstream.port, server), stack, directory, argv, ready_seconds)


def start_unfiltered(stack: contextlib.ExitStack, directory: Path, argv: list[str], upstream, path: str, **server):
    """As a plain reverse proxy: one route without a filter."""
    route = {"path": path, "methods": ["POST"], "upstream": f"http://127.0.0.1:{upstream.port}"}
    return start_with({"conf/gateway.yaml": {"server": server, "routes": [route]}}, stack, directory, argv, 20)


def start_with(content: dict, stack: contextlib.ExitStack, directory: Path, argv: list[str], seconds: float):
    home, port = directory / "home", free_port()
    for name, one in content.items():
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(one, indent=1))
        file.chmod(0o600)
    environment = {
        "DGX_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "DGX_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "DGX_GATEWAY_DATA_DIR": str(home / "data"),
    }
    process = start(stack, argv, home, "gateway", environment)
    ready(process, lambda: is_up(port), home, "gateway", seconds)
    return port, process


def is_up(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
