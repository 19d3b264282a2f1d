"""Child processes that write to a log file and are gone at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def closed_port():
    """A port that stays taken and refuses every connection: bound, but not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def clean_environment(**extra: str) -> dict[str, str]:
    """Nothing of the caller's shell but what a program needs to run."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE") if name in os.environ}
    return kept | extra


class Child:
    """A process in a group of its own."""

    def __init__(self, argv: list[str], *, log: Path, cwd: Path, env: dict[str, str]):
        self.argv = argv
        self.log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, ready, *, seconds: float) -> None:
        """Polls `ready` until it says yes; fails with the log when the process ends or the time is over."""
        end = time.monotonic() + seconds
        while not ready():
            code = self.process.poll()
            if code is not None:
                raise RuntimeError(f"{self.argv[0]} ended with {code}:\n{self.output()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.argv[0]} was not ready after {seconds} s:\n{self.output()[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Asks twice (the second time means "at once"), then kills the group."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def answers(url: str, headers: dict[str, str] | None = None) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
