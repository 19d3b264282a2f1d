"""The units of systemd: they are well formed, shut the gateway in, and the gateway lives inside."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from harness import GATEWAY, ROOT, SOON, Gateway, directory

UNIT = ROOT / "systemd/dgx-gateway.service"
# Exposure as systemd counts it, from 0 (none) to 10.
MOST_EXPOSURE = 2.0


def setting(name):
    """Every value of a setting of the service, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


class Units(unittest.TestCase):
    def test_systemd_has_nothing_to_say_about_them(self):
        with directory() as home:
            for unit in sorted((ROOT / "systemd").glob("dgx-gateway.*")):
                if unit.suffix in (".service", ".socket"):
                    # the binary is not installed on the machine of the test
                    (home / unit.name).write_text(unit.read_text().replace("/usr/bin/dgx-gateway", str(GATEWAY)))
            checked = run("systemd-analyze", "verify", "--man=no", *sorted(home.iterdir()))
            self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))

    def test_it_works_with_a_dynamic_user_too(self):
        with directory() as home:
            text = UNIT.read_text().replace("/usr/bin/dgx-gateway", str(GATEWAY))
            changed = re.sub(r"^User=.*\nGroup=.*$", "DynamicUser=yes", text, flags=re.MULTILINE)
            self.assertNotEqual(changed, text)
            (home / UNIT.name).write_text(changed)
            checked = run("systemd-analyze", "verify", "--man=no", home / UNIT.name)
            self.assertEqual((checked.returncode, checked.stderr), (0, ""))

    def test_the_service_is_hardly_exposed(self):
        checked = run("systemd-analyze", "security", "--offline=true", UNIT)
        exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", checked.stdout)
        self.assertIsNotNone(exposure, checked.stderr)
        print(f"exposure {exposure[1]}", flush=True)
        self.assertLess(float(exposure[1]), MOST_EXPOSURE)

    def test_stopping_takes_longer_than_draining(self):
        drain, grace = 60, 5
        self.assertGreater(int(setting("TimeoutStopSec")[0]), drain + grace)

    def test_what_the_unit_waits_for_is_reported(self):
        """A unit that waits for a report that never comes would not start."""
        if not {"notify", "notify-reload"} & set(setting("Type")):
            self.skipTest("the unit waits for no report")
        with directory() as home, tempfile.TemporaryDirectory() as run_directory:
            path = pathlib.Path(run_directory) / "notify"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports:
                reports.bind(str(path))
                environment = {"NOTIFY_SOCKET": str(path), "DGX_GATEWAY_DATA_DIR": str(home / "data")}
                if setting("WatchdogSec"):
                    environment["WATCHDOG_USEC"] = "1000000"
                with Gateway(home, environment=environment) as gateway:
                    reports.settimeout(SOON)
                    said = set()

                    def wait_for(*words):
                        try:
                            while not set(words) <= said:
                                said.update(reports.recv(4096).decode().split("\n"))
                        except TimeoutError:
                            self.fail(f"{words} did not come; {said} did")

                    wait_for("READY=1", *(["WATCHDOG=1"] if setting("WatchdogSec") else []))
                    if setting("ExecReload"):
                        gateway.process.send_signal(signal.SIGHUP)
                        wait_for("RELOADING=1")
                    gateway.process.terminate()
                    wait_for("STOPPING=1")


@unittest.skipUnless(os.getuid() == 0, "only root can take rights away")
class Shut(unittest.TestCase):
    """What the unit takes away, taken away here: another user, no rights, nothing to write but the data directory, and
    the system calls that it makes are those that the unit lets pass."""

    def test_it_serves_and_uses_no_more_than_the_unit_grants(self):
        with directory() as home:
            state, traces = home / "state", home / "traces"
            for made in (state, traces):
                made.mkdir(mode=0o700)
                os.chown(made, 65532, 65532)
            (home / "conf").mkdir()
            (home / "conf/gateway.yaml").write_text((ROOT / "conf/default.yaml").read_text())
            binary = home / "dgx-gateway"
            binary.write_bytes(GATEWAY.read_bytes())  # where another user finds it
            binary.chmod(0o755)
            # a name space of its own in which all is read-only but these two directories
            script = (
                f"mount --make-rprivate / && mount --bind {state} {state} && mount --bind {traces} {traces}"
                " && mount -o remount,bind,ro / && umask 0077"
                " && exec setpriv --reuid=65532 --regid=65532 --clear-groups --bounding-set=-all --inh-caps=-all"
                f" --no-new-privs strace -f -qq -o {traces}/calls {binary} serve"
            )
            before = ["unshare", "--mount", "sh", "-c", script, "sh"]
            environment = {
                "DGX_GATEWAY_DATA_DIR": str(state),
                "DGX_GATEWAY_CONFIG": str(home / "conf/gateway.yaml"),
            }
            with Gateway(home, before=before, environment=environment) as gateway:
                bearer = gateway.bootstrap(state)
                status, text = gateway.chat(bearer)
                self.assertEqual(status, 200, text)
                status, text = gateway.chat(bearer, stream=True)
                self.assertEqual(status, 200, text)
                # strace passes the signal on to nobody: the gateway is its child
                children = run("ps", "-eo", "pid,comm,args").stdout.splitlines()
                ours = [line.split()[0] for line in children if f" {binary} serve" in line and "dgx-gateway" in line.split()[1]]
                self.assertEqual(len(ours), 1, children)
                run("kill", "-TERM", ours[0])
                self.assertEqual(gateway.process.wait(timeout=SOON), 0, gateway.said())
            self.assert_private(state)
            calls = (traces / "calls").read_text()
            self.assert_granted(calls)
            self.assert_no_code_is_written(calls)

    def assert_private(self, state):
        for path in state.rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o007, 0, f"everybody can use {path}")

    def assert_granted(self, calls):
        granted, refused = set(), set()
        for line in setting("SystemCallFilter"):
            names = refused if line.startswith("~") else granted
            for group in line.lstrip("~").split():
                names |= expand(group)
        used = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", calls, re.MULTILINE))
        self.assertGreater(len(used), 30, used)
        print(f"{len(used)} system calls", flush=True)
        self.assertEqual(sorted(used - (granted - refused)), [])
        families = set(re.findall(r"socket\((AF_[A-Z0-9]+)", calls))
        # libc asks the kernel for the addresses of the machine before it resolves a name, and goes on without
        self.assertLessEqual(families - {"AF_NETLINK"}, set(" ".join(setting("RestrictAddressFamilies")).split()))

    def assert_no_code_is_written(self, calls):
        """MemoryDenyWriteExecute."""
        bad = [line for line in calls.splitlines() if "PROT_WRITE|PROT_EXEC" in line]
        bad += [line for line in calls.splitlines() if re.search(r"(mprotect|pkey_mprotect)\(.*PROT_EXEC", line)]
        self.assertEqual(bad, [])


def expand(group):
    """The system calls of a group, those of its groups included."""
    if not group.startswith("@"):
        return {group}
    lines = run("systemd-analyze", "syscall-filter", group).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return set().union(*(expand(word) for word in words))


if __name__ == "__main__":
    unittest.main()
