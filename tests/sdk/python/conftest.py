"""Fixtures: the gateway as a user starts it, in the ways a user starts it."""

import os

for name in list(os.environ):
    # nothing of the caller's shell may lead a client elsewhere
    if name.lower().endswith("_proxy") or name.startswith(("ANTHROPIC_", "OPENAI_")):
        del os.environ[name]

import pytest  # noqa: E402

from harness import configured as configuration  # noqa: E402
from harness.backend import Backend  # noqa: E402
from harness.gateway import running_gateway, running_mock  # noqa: E402
from harness.processes import closed_port  # noqa: E402


def pytest_collection_modifyitems(items):
    if os.environ.get("GATEWAY_TEST_REAL_UPSTREAMS") == "1":
        return
    skip = pytest.mark.skip(reason="needs GATEWAY_TEST_REAL_UPSTREAMS=1")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """Started with no configuration at all."""
    with running_gateway(tmp_path_factory.mktemp("bare")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def client(bare):
    """What a newcomer has: the plain SDK, the printed bearer, no extra header."""
    with bare.client() as client:
        yield client


@pytest.fixture(scope="session")
def mock_url(tmp_path_factory):
    with running_mock(tmp_path_factory.mktemp("mock")) as url:
        yield url


@pytest.fixture(scope="session")
def scripted():
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="session")
def dead_url():
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def _configured(tmp_path_factory, mock_url, scripted, dead_url):
    directory = tmp_path_factory.mktemp("configured")
    configuration.write(directory, scripted=scripted.base_url, mock=mock_url, dead=dead_url)
    with running_gateway(directory, bearer=configuration.PERSONAL) as gateway:
        yield configuration.Configured(gateway, scripted)


@pytest.fixture
def configured(_configured):
    """Started with backends, models, tenants and tokens; the backend's record is empty at the start of each test."""
    _configured.backend.reset()
    return _configured


@pytest.fixture
def alice(configured):
    """The SDK with a personal token of the configured gateway."""
    with configured.gateway.client() as client:
        yield client
