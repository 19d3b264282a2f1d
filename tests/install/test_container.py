"""The container: what its files say, held against the rules and against the binary."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

from harness import GATEWAY, ROOT, Gateway, directory

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = ROOT / "compose.yaml"


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def instruction(name):
    """The last one of a name, that of the image itself, with its continued lines."""
    joined = DOCKERFILE.replace("\\\n", " ")
    found = re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)
    return re.sub(" +", " ", found[-1]) if found else None


def tool(name):
    """A program of the installed packages, or of the machine."""
    for path in sys.path:
        candidate = pathlib.Path(path) / "bin" / name
        if candidate.is_file():
            return candidate
    return shutil.which(name) or name


class Image(unittest.TestCase):
    def test_the_linter_has_nothing_to_say(self):
        linted = run(tool("hadolint"), "--no-color", ROOT / "Dockerfile")
        self.assertEqual((linted.returncode, linted.stdout), (0, ""), linted.stderr)

    def test_it_runs_as_a_user_without_rights_and_writes_in_one_place(self):
        self.assertEqual(instruction("USER"), "65532:65532")
        self.assertEqual(json.loads(instruction("VOLUME")), ["/data"])
        self.assertEqual(instruction("STOPSIGNAL"), "SIGTERM")
        self.assertIn("DGX_GATEWAY_DATA_DIR=/data", instruction("ENV"))
        self.assertRegex(DOCKERFILE, r"COPY --from=build --chown=65532:65532 --chmod=0700 /data /data\n")

    def test_what_it_starts_is_a_command_of_the_binary(self):
        command = json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD"))
        self.assertEqual(command, ["dgx-gateway", "serve"])

    def test_its_health_check_tells_life_from_death(self):
        found = instruction("HEALTHCHECK")
        if found is None:
            self.skipTest("the image has no health check")
        words = json.loads(found.split("CMD ")[1])
        self.assertEqual(words, ["dgx-gateway", "health"])
        with directory() as home:
            with Gateway(home, environment={"DGX_GATEWAY_DATA_DIR": str(home / "data")}) as gateway:
                environment = {
                    "DGX_GATEWAY_LISTEN": f"0.0.0.0:{gateway.public}",
                    "DGX_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{gateway.admin}",
                    "DGX_GATEWAY_DATA_DIR": str(home / "data"),
                }
                asked = run(GATEWAY, *words[1:], env=environment, cwd=home)
                self.assertEqual(asked.returncode, 0, asked.stderr)
                gateway.process.kill()
                gateway.process.wait()
                self.assertEqual(run(GATEWAY, *words[1:], env=environment, cwd=home).returncode, 1)

    def test_a_build_gets_what_it_reads_and_no_secrets(self):
        lines = (ROOT / ".dockerignore").read_text().split()
        kept = [line[1:] for line in lines if line.startswith("!")]
        self.assertEqual([line for line in lines if not line.startswith(("!", "#"))][-1], "*")
        for secret in ("data", "auth", ".git", "target"):
            self.assertNotIn(secret, kept)
        with directory() as home:
            for path in kept:
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                copy(ROOT / path, home / path)
            read = run("cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--no-deps", cwd=home)
            self.assertEqual(read.returncode, 0, read.stderr)
            for package in json.loads(read.stdout)["packages"]:
                for target in package["targets"]:
                    if target["kind"][0] in ("bin", "lib", "custom-build", "example"):
                        self.assertTrue(pathlib.Path(target["src_path"]).exists(), target["src_path"])
            # files that code takes in when it is built
            for source in [*home.glob("src/**/*.rs"), *home.glob("filters/*/src/**/*.rs")]:
                for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
                    self.assertTrue((source.parent / name).exists(), f"{source} includes {name}")


class Compose(unittest.TestCase):
    def test_it_is_valid(self):
        checked = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_every_service_is_shut_in_and_the_public_port_stays_on_the_machine(self):
        text = COMPOSE.read_text()
        services = re.split(r"^  (?=\w+:$)", text.split("\nservices:\n")[1].split("\nvolumes:\n")[0], flags=re.MULTILINE)[1:]
        self.assertEqual([service.split(":")[0] for service in services], ["gateway", "redis"])
        for service in services:
            for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
                self.assertIn(f"    {line}\n", service)
            self.assertRegex(service, r'user: "(?!0:)\d+:\d+"')
        self.assertEqual(re.findall(r"ports: \[(.*)\]", text), ['"127.0.0.1:3000:3000"'])
        self.assertIn("    profiles: [shared-limits]\n", services[1])
        grace = int(re.search(r"stop_grace_period: (\d+)s", services[0])[1])
        self.assertGreater(grace, 65, "above drain and grace time")


if __name__ == "__main__":
    unittest.main()
