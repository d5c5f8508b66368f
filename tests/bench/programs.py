"""The processes of a run: compiled, started, pinned to their CPU, measured, ended.

The server under measure has one CPU to itself; load, upstream and database share the other, so that a rate is one
core's. With one CPU all share it, and only CPU per request says something. Times are those of the kernel for the
process and its children, in seconds; sizes in bytes.
"""

from __future__ import annotations

import array
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.leftovers import MARK

SOURCES = Path(__file__).parent / "c"
ROOT = Path(__file__).parent.parent.parent
LOAD_LIMIT_S = 90.0
START_WITHIN_S = 60.0
END_WITHIN_S = 20.0
LOOK_EVERY_S = 0.01


class CannotMeasure(Exception):  # noqa: N818 - it is what the caller is told, in one line
    """There are no figures to be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which CPU the server under measure has, and which everybody else."""

    server: frozenset[int]
    others: frozenset[int]


def find_places() -> Places:
    """The first CPU that we may use for the server, the second for the rest; the same where there is but one."""
    usable = sorted(os.sched_getaffinity(0))
    return Places(frozenset(usable[:1]), frozenset(usable[1:2] or usable[:1]))


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """Processes that are started in here stay on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compile_programs(folder: Path) -> None:
    """Compile the load generator and the upstream into a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotMeasure("there is no C compiler (cc) for the load generator; install one, such as gcc")
    for name in ("loadgen", "upstream"):
        command = [compiler, "-O2", "-o", str(folder / name), str(SOURCES / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotMeasure(f"{name}.c does not compile: {done.stderr.strip().partition(chr(10))[0]}")


@contextmanager
def running(
    command: Sequence[str], out: Path, *, cpus: frozenset[int], environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on its CPUs that writes into the files `out` and `out`.err; killed at the end: its data is nobody's.

    Of our own settings it sees none but those in `environ`.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_") or name == MARK}
    with out.open("wb") as said, errors_of(out).open("wb") as complaints, pinned(cpus):
        process = subprocess.Popen(command, stdout=said, stderr=complaints, cwd=ROOT, env={**kept, **(environ or {})})
    try:
        yield process
    finally:
        for one in list_family(process.pid):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(timeout=END_WITHIN_S)


def errors_of(out: Path) -> Path:
    """Where a process that writes to `out` complains."""
    return out.with_name(f"{out.name}.err")


def await_line(process: subprocess.Popen[bytes], out: Path, find: Callable[[str], str]) -> str:
    """Read what a process writes until `find` makes something of a line; `CannotMeasure` when it ends before."""
    until = time.monotonic() + START_WITHIN_S
    while True:
        ended = process.poll() is not None  # asked before reading, so that its last words are read
        found = next(filter(None, map(find, out.read_text(errors="replace").splitlines())), "")
        if found:
            return found
        if ended or time.monotonic() > until:
            complaints = errors_of(out).read_text(errors="replace").strip().splitlines()
            raise CannotMeasure(f"{out.stem} does not start: {complaints[-1] if complaints else 'it says nothing'}")
        time.sleep(LOOK_EVERY_S)


def list_family(pid: int) -> list[psutil.Process]:
    """A process with its children and theirs, as far as they live."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU: all of them, and those of them that were spent in the kernel."""

    whole_s: float = 0.0
    kernel_s: float = 0.0

    def __sub__(self, before: Cpu) -> Cpu:
        """What was used since."""
        return Cpu(self.whole_s - before.whole_s, self.kernel_s - before.kernel_s)


def measure_cpu(pid: int) -> Cpu:
    """What a process, its children and those of them that are gone have used."""
    user_s = kernel_s = 0.0
    for one in list_family(pid):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            user_s += times.user + times.children_user
            kernel_s += times.system + times.children_system
    return Cpu(user_s + kernel_s, kernel_s)


def measure_rss(pid: int) -> int:
    """Resident bytes of a process and its children."""
    return sum(one.memory_info().rss for one in list_family(pid))


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for: a URL by a number of connections, for so long or so many times. `body` None is a GET."""

    url: str
    connections: int
    seconds: float
    warm_up_s: float = 0.0
    requests: int = 0
    body: bytes | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back. `answered` counts from the first on, the window begins after the warm-up; latencies sorted."""

    answered: int
    failed: int
    in_window: int
    window_s: float
    latencies_us: Sequence[int]


def press(folder: Path, load: Load, *, cpus: frozenset[int]) -> Answers:
    """Run the load generator once."""
    latencies, body = folder / "latencies", folder / "body.json"
    words = ["-u", load.url, "-c", str(load.connections), "-d", str(load.seconds), "-w", str(load.warm_up_s)]
    words += ["-o", str(latencies)]
    if load.requests:
        words += ["-n", str(load.requests)]
    if load.body is not None:
        body.write_bytes(load.body)
        words += ["-b", str(body)]
    for header in load.headers:
        words += ["-H", header]
    with pinned(cpus):
        done = subprocess.run(
            [str(folder / "loadgen"), *words], capture_output=True, text=True, timeout=LOAD_LIMIT_S, check=True
        )
    said = json.loads(done.stdout)
    times = array.array("I")
    times.frombytes(latencies.read_bytes())
    return Answers(
        answered=said["answered"],
        failed=said["answered"] - said["answered_ok"] + said["broken"] + said["unanswered"],
        in_window=said["window_ok"],
        window_s=said["window_s"],
        latencies_us=sorted(times),
    )


def ask(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = 10.0
) -> tuple[int, bytes]:
    """Make one call over a connection of its own: status and body."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    try:
        connection.request(method, f"/{path}", body, {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
