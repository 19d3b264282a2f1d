"""Processes of a bench: started, watched, and gone with everything they started when the bench ends."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TICKS = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 20
#: the bearer of all benches
SECRET = "be" * 32


class Unusable(Exception):
    """The run can't be made or its figures would mean nothing."""


@dataclass
class Contestant:
    name: str
    port: int
    pid: int
    #: from its start to its first answer
    start_ms: float | None = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(stack: contextlib.ExitStack, argv: list[str], directory: Path, name: str, env: dict[str, str] | None = None):
    """A process that is gone, with all its children, when the stack unwinds."""
    log = (directory / f"{name}.log").open("wb")
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ} | (env or {})
    process = subprocess.Popen(
        argv, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )

    def stop():
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()

    stack.callback(stop)
    return process


def ready(process: subprocess.Popen, check, directory: Path, name: str, seconds: float = READY_SECONDS):
    """Polls until `check` gives something."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := check():
                return found
        time.sleep(0.02)
    shown = (directory / f"{name}.log").read_text(errors="replace")[-2000:]
    raise Unusable(f"{name} did not start (exit code {process.poll()}):\n{shown}")


def connects(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def tree(pid: int):
    """A process and its descendants."""
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        yield current
        with contextlib.suppress(FileNotFoundError):
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads and its descendants."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_kib(pid: int) -> int:
    """Memory of a process and its descendants; what they share counts for each."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(FileNotFoundError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            total += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
    return total


def program(variable: str, name: str, profile: str = "release") -> Path:
    """A program of this repository: from the environment, else from the folder of its profile."""
    path = Path(os.environ.get(variable, TARGET / profile / name))
    if not path.is_file():
        raise Unusable(f"no {name}: {path} is no file; build it, or set {variable}")
    return path.resolve()


def start_mock(stack: contextlib.ExitStack, directory: Path, path: Path, events: int, between_ms: int = 0) -> Contestant:
    argv = [str(path), "--port", "0", "--events", str(events), "--between-ms", str(between_ms)]
    process = start(stack, argv, directory, "mock")

    def announced():
        lines = (directory / "mock.log").read_text().splitlines(keepends=True)
        return next((line for line in lines if line.startswith("listening on ") and line.endswith("\n")), None)

    port = int(ready(process, announced, directory, "mock").rsplit(":", 1)[1])
    return Contestant("direct", port, process.pid)
