"""The fixtures of the tests of the SDKs: this library needs an older one, so its packages stand apart from theirs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "python"))

import pytest  # noqa: E402

from harness import configured as configuration  # noqa: E402
from harness.backend import Backend  # noqa: E402
from harness.gateway import running_gateway  # noqa: E402


@pytest.fixture(scope="session")
def configured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("configured")
    with Backend() as backend:
        unused = "http://127.0.0.1:9/v1"
        configuration.write(directory, scripted=backend.base_url, mock=unused, dead=unused)
        with running_gateway(directory, bearer=configuration.PERSONAL) as gateway:
            yield configuration.Configured(gateway, backend)
