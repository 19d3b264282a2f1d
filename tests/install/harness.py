"""Starts the built binary as an installed one would be started. GATEWAY_BIN and MOCK_BIN name the binaries."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = pathlib.Path(os.environ["GATEWAY_BIN"]).resolve()
# The longest that anything takes which happens at once, on a busy machine.
SOON = 30


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def directory():
    """A directory that everybody may enter, so that other users find their files in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="dgx-gateway-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def get(url, headers=None, body=None):
    """Status and body; an error of HTTP is an answer, too."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Gateway:
    """A running gateway. `before` stands in front of the command: what shuts it in."""

    def __init__(self, home, before=(), environment=None, arguments=()):
        self.public, self.admin = free_port(), free_port()
        self.log = open(home / "log", "w+")
        variables = {
            "DGX_GATEWAY_LISTEN": f"127.0.0.1:{self.public}",
            "DGX_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **(environment or {}),
        }
        command = [*map(str, before), str(GATEWAY), *arguments]
        self.process = subprocess.Popen(
            command, cwd=home, env=variables, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def __enter__(self):
        end = time.monotonic() + SOON
        while True:
            try:
                if get(self.url("/healthz"))[0] == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.said()
                self.__exit__()
                raise AssertionError(f"the gateway does not start: {said}")
            time.sleep(0.02)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def url(self, path):
        return f"http://127.0.0.1:{self.public}{path}"

    def said(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def chat(self, bearer, model="demo", user=None, **more):
        """Status and body of a chat request; the bearer of the first start names its user itself."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
        headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
        if user:
            headers["spass-user-id"] = user
        return get(self.url("/v1/chat/completions"), headers, json.dumps(body).encode())

    def bootstrap(self, data):
        return (data / "keys/bootstrap-token").read_text().strip()

    def stop(self):
        """Ends it with SIGTERM; gives its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=SOON)
