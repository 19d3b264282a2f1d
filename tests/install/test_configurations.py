"""Every example configuration starts as it stands, and serves what can be served without its model servers."""

import json
import os
import re
import subprocess
import time
import unittest

from harness import GATEWAY, ROOT, SOON, Gateway, directory, free_port, get

EXAMPLES = sorted(
    path.name
    for path in (ROOT / "conf").glob("*.yaml")
    if path.name not in ("routes.yaml", "pricing.yaml") and not path.name.endswith("-models.yaml")
)


class Examples(unittest.TestCase):
    def test_each_starts_lists_its_models_and_stops(self):
        self.assertGreaterEqual(len(EXAMPLES), 5)
        for name in EXAMPLES:
            with self.subTest(name), directory() as home:
                (home / "conf").symlink_to(ROOT / "conf")
                environment = {"DGX_GATEWAY_DATA_DIR": str(home / "data"), "DGX_GATEWAY_DRAIN_SECONDS": "0"}
                arguments = ["--config", f"conf/{name}"]
                with Gateway(home, environment=environment, arguments=arguments) as gateway:
                    bearer = {"authorization": f"Bearer {gateway.bootstrap(home / 'data')}"}
                    status, text = get(gateway.url("/v1/models"), bearer)
                    self.assertEqual(status, 200, text)
                    models = home / "conf" / name.replace(".yaml", "-models.yaml")
                    if models.exists():
                        aliases = re.findall(r"- alias: (\S+)", models.read_text())
                        listed = {model["id"] for model in json.loads(text)["data"]}
                        self.assertLessEqual(set(aliases), listed)
                    self.assertEqual(gateway.stop(), 0, gateway.said())


class TwoMachines(unittest.TestCase):
    """Two gateways, two model servers and a Redis, as conf/two-machines.yaml wants them."""

    def test_limits_are_shared_and_each_serves_through_the_machine_that_is_left(self):
        mock, store = os.environ["MOCK_BIN"], free_port()
        redis = subprocess.Popen(
            ["redis-server", "--port", str(store), "--save", "", "--daemonize", "no"], stdout=subprocess.DEVNULL
        )
        servers = {}
        try:
            with directory() as home:
                text = (ROOT / "conf/two-machines.yaml").read_text()
                for machine, fixed in (("SPARK", ":8000/v1"), ("STATION", ":8001/v1")):
                    port = free_port()
                    servers[machine] = subprocess.Popen([mock, "--port", str(port)], stdout=subprocess.DEVNULL)
                    self.assertEqual(text.count(fixed), 1)
                    text = text.replace(fixed, f":{port}/v1")
                homes = [home / "a", home / "b"]
                for one in homes:
                    (one / "conf").mkdir(parents=True)
                    (one / "conf/gateway.yaml").write_text(text)
                    models = (ROOT / "conf/two-machines-models.yaml").read_text()
                    (one / "conf/two-machines-models.yaml").write_text(models)
                environment = {
                    "REDIS_URL": f"redis://127.0.0.1:{store}",
                    "RUST_API_BEARER": "b0" * 32,
                    "RATE_LIMIT_BURST": "6",
                    "RATE_LIMIT_PER_SECOND": "0.001",
                }
                with Gateway(homes[0], environment=environment) as one, Gateway(homes[1], environment=environment) as two:
                    self.wait_until_shared(one, two)
                    servers["STATION"].kill()
                    servers["STATION"].wait()
                    answers = [gateway.chat("b0" * 32, "gpt-oss-120b", "alice")[0] for gateway in (one, two) * 4]
                    self.assertEqual(sorted(answers), [200] * 6 + [429] * 2)
        finally:
            for process in (redis, *servers.values()):
                process.kill()
                process.wait()

    def wait_until_shared(self, *gateways):
        end = time.monotonic() + SOON
        for gateway in gateways:
            while "dgx_gateway_rate_limit_store_up 1" not in get(f"http://127.0.0.1:{gateway.admin}/metrics")[1]:
                self.assertLess(time.monotonic(), end, gateway.said())
                time.sleep(0.05)


if __name__ == "__main__":
    assert GATEWAY.exists()
    unittest.main()
