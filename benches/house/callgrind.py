"""What requests cost, counted by callgrind: instructions, and how often memory is asked for."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from .processes import SECRET, Unusable

#: seconds until the ledger's thread, which gathers rows and runs when nothing else does, has written what came before
SETTLED = 1.0
#: functions that give memory: those of the C library, which serve C code and the bare proxy, and those of Rust
C_ALLOCATES = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}
RUST_ALLOCATES = {f"__rustc::__rust_{how}" for how in ("alloc", "alloc_zeroed", "realloc")}
#: how Rust asks the C library, which is not another allocation
RUST_ASKS_C = {f"__rustc::__rdl_{how}" for how in ("alloc", "alloc_zeroed", "realloc")}
#: a function that is named for the first time in a dump, or again by its number: `fn=(7) name`, `cfn=(7)`
NAMED = re.compile(r"^(c?)fn=\((\d+)\)(?: (.*))?$")


@dataclass
class Count:
    instructions: int
    allocations: int

    def each(self, requests: int) -> "Count":
        return Count(self.instructions // requests, round(self.allocations / requests))


@dataclass
class Request:
    method: str
    path: str
    body: bytes | None = None
    bearer: str = SECRET
    expected: int = 200


def chat(content, **members) -> bytes:
    return json.dumps({"model": "bench", "messages": [{"role": "user", "content": content}], "max_tokens": 256, **members}).encode()


def argv(directory: Path, *program: str) -> list[str]:
    """A command line that counts a program."""
    if shutil.which("valgrind") is None:
        raise Unusable("valgrind is missing (Debian: apt-get install valgrind)")
    return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={directory}/callgrind.out", *program]


def drive(port: int, request: Request, times: int) -> bytes:
    """Sends a request so many times over one connection; gives the last answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {request.bearer}", "SPASS-User-Id": "bench"}
    seen = b""
    with closing(HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
        for _ in range(times):
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            seen = answer.read()
            if answer.status != request.expected:
                raise Unusable(f"{request.method} {request.path} is answered {answer.status}: {seen[:300]!r}")
    return seen


def counted(directory: Path, pid: int, act) -> tuple[Count, Path]:
    """What the process does while `act` runs and until all of it is written, and the file with the details."""
    time.sleep(SETTLED)
    subprocess.run(["callgrind_control", "--zero", str(pid)], check=True, capture_output=True, timeout=120)
    before = set(directory.glob("callgrind.out*"))
    act()
    time.sleep(SETTLED)
    subprocess.run(["callgrind_control", "--dump", str(pid)], check=True, capture_output=True, timeout=120)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for dump in set(directory.glob("callgrind.out*")) - before:
            text = dump.read_text(errors="replace")
            if found := re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE):
                return Count(int(found[1]), allocations(text)), dump
        time.sleep(0.1)
    raise Unusable("callgrind wrote nothing")


def each(directory: Path, port: int, pid: int, request: Request, times: int, warm_up: int) -> tuple[Count, Path]:
    """What one request costs, after some that are not counted, and the file with the details."""
    drive(port, request, warm_up)
    count, dump = counted(directory, pid, lambda: drive(port, request, times))
    return count.each(times), dump


def allocations(dump: str) -> int:
    """How often memory was given, by the calls that a dump lists."""
    names: dict[str, str] = {}
    given, caller, called = 0, "", None
    for line in dump.splitlines():
        if line.startswith("calls=") and called is not None:
            is_given = called in RUST_ALLOCATES or (called in C_ALLOCATES and caller not in RUST_ASKS_C | C_ALLOCATES)
            if is_given:
                with contextlib.suppress(ValueError, IndexError):
                    given += int(line[len("calls=") :].split()[0])
        elif found := NAMED.match(line):
            is_call, number, name = found.groups()
            if name is not None:
                names[number] = name.split("'")[0]
            if is_call:
                called = names.get(number)
            else:
                caller, called = names.get(number, ""), None
    return given
