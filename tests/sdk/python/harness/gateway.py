"""Starts the gateway under test, and clients for it."""

import contextlib
import json
import os
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import anthropic
import openai

from .processes import Child, answers, clean_environment, free_port

#: So high that only the limiter's own tests meet it.
NO_LIMIT = {"RATE_LIMIT_PER_SECOND": "1000", "RATE_LIMIT_BURST": "10000"}
START_SECONDS = 30
CLIENT_SECONDS = 30


@dataclass
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Gateway:
    child: Child
    directory: Path
    port: int
    bearer: str

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _options(self, bearer, headers, base_url, max_retries):
        return {
            "api_key": bearer or self.bearer,
            "base_url": base_url or f"{self.root}/v1",
            "default_headers": headers or {},
            "max_retries": max_retries,
            "timeout": CLIENT_SECONDS,
        }

    def client(self, bearer=None, *, headers=None, base_url=None, max_retries=0) -> openai.OpenAI:
        return openai.OpenAI(**self._options(bearer, headers, base_url, max_retries))

    def async_client(self, bearer=None, *, headers=None, max_retries=0) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options(bearer, headers, None, max_retries))

    def messages(self, bearer=None, *, headers=None) -> anthropic.Anthropic:
        """The client of the messages API; it sends the bearer in `x-api-key`."""
        return anthropic.Anthropic(
            api_key=bearer or self.bearer, base_url=self.root, default_headers=headers or {}, max_retries=0, timeout=CLIENT_SECONDS
        )

    def async_messages(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(api_key=self.bearer, base_url=self.root, max_retries=0, timeout=CLIENT_SECONDS)

    def raw(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> RawAnswer:
        """One request outside the SDK, for what an SDK can't send."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=CLIENT_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return RawAnswer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def healthy(self) -> bool:
        return self.child.process.poll() is None and answers(f"{self.root}/healthz")


def binary(variable: str) -> str:
    path = os.environ.get(variable)
    if not path:
        raise RuntimeError(f"{variable} is not set; run tests/test, which builds the binaries and sets it")
    return str(Path(path).resolve())


@contextlib.contextmanager
def running_gateway(directory: Path, *, bearer: str | None = None, env: dict[str, str] | None = None):
    """The gateway in `directory`; without `bearer`, that of the first start is read from its file."""
    port, admin_port = free_port(), free_port()
    data = directory / "data"
    environment = clean_environment(
        DGX_GATEWAY_LISTEN=f"127.0.0.1:{port}",
        DGX_GATEWAY_ADMIN_LISTEN=f"127.0.0.1:{admin_port}",
        DGX_GATEWAY_DATA_DIR=str(data),
        **(NO_LIMIT if env is None else env),
    )
    child = Child([binary("GATEWAY_BIN")], log=directory / "gateway.log", cwd=directory, env=environment)
    try:
        child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), seconds=START_SECONDS)
        if bearer is None:
            bearer = (data / "keys" / "bootstrap-token").read_text().strip()
        yield Gateway(child, directory, port, bearer)
    finally:
        child.stop()


@contextlib.contextmanager
def running_mock(directory: Path):
    """The fault-injecting upstream; gives its `/v1` address."""
    announced = "listening on "
    child = Child([binary("MOCK_BIN"), "--port", "0"], log=directory / "mock.log", cwd=directory, env=clean_environment())
    try:
        child.wait_until(lambda: announced in child.output() and child.output().endswith("\n"), seconds=10)
        address = child.output().split(announced, 1)[1].split()[0]
        yield f"http://{address}/v1"
    finally:
        child.stop()


def write_configuration(directory: Path, *, gateway: dict, models: list[dict], tokens: dict) -> None:
    """The three files of a configured start. They are written as JSON, which is YAML."""
    files = {"conf/gateway.yaml": gateway, "conf/models.yaml": {"version": 1, "models": models}, "auth/tokens.yaml": tokens}
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
        path.chmod(0o600)
