"""Who is compared: the mock upstream itself, nginx, the bare engine, the gateway without and with its policies."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from . import configuration, processes
from .processes import Contestant

HERE = Path(__file__).resolve().parent
#: what a plain reverse-proxy route costs: one route, no filter
BARE_ROUTE = "/v1/chat/completions"


def nginx(stack: contextlib.ExitStack, directory: Path, upstream: Contestant) -> Contestant | None:
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        print("nginx is missing and left out (Debian: apt-get install nginx-light)")
        return None
    home, port = directory / "nginx", processes.free_port()
    home.mkdir()
    template = (HERE / "nginx.conf").read_text()
    values = {"HOME": home, "PORT": port, "UPSTREAM": upstream.port, "USER": "user root;" if os.getuid() == 0 else ""}
    for key, value in values.items():
        template = template.replace(f"@{key}@", str(value))
    (home / "nginx.conf").write_text(template)
    argv = [path, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    process = processes.start(stack, argv, directory, "nginx")
    processes.ready(process, lambda: processes.connects(port), directory, "nginx")
    return Contestant("nginx", port, process.pid)


def bare(stack: contextlib.ExitStack, directory: Path, upstream: Contestant) -> Contestant:
    path, port = processes.program("BARE_BIN", "examples/bare-proxy"), processes.free_port()
    argv = [str(path), f"127.0.0.1:{port}", f"127.0.0.1:{upstream.port}"]
    process = processes.start(stack, argv, directory, "bare")
    processes.ready(process, lambda: processes.connects(port), directory, "bare")
    return Contestant("bare", port, process.pid)


def gateway(stack: contextlib.ExitStack, directory: Path, upstream: Contestant, *, policies: bool) -> Contestant:
    name = "gateway" if policies else "unfiltered"
    home = directory / name
    home.mkdir()
    path = processes.program("GATEWAY_BIN", "dgx-gateway")
    server = {"threads": 2}
    began = time.monotonic()
    if policies:
        port, process = configuration.start_gateway(stack, home, [str(path)], upstream, **server)
    else:
        port, process = configuration.start_unfiltered(stack, home, [str(path)], upstream, BARE_ROUTE, **server)
    return Contestant(name, port, process.pid, round((time.monotonic() - began) * 1000))


def all_of(stack: contextlib.ExitStack, directory: Path, events: int, between_ms: int = 0) -> list[Contestant]:
    """All that can be had, each in front of one mock upstream, which comes first."""
    mock = processes.start_mock(stack, directory, processes.program("MOCK_BIN", "mock-upstream"), events, between_ms)
    others = [
        nginx(stack, directory, mock),
        bare(stack, directory, mock),
        gateway(stack, directory, mock, policies=False),
        gateway(stack, directory, mock, policies=True),
    ]
    return [mock, *filter(None, others)]

