"""Simulators for the tests of the SDKs: each in a process of Pointsman's own interpreter, `POINTSMAN_PYTHON`, ended
with the test that asked for it. No SDK finds a key or an address of this machine's owner, and none gets past loopback.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
OWNERS = ("OPENAI_", "GOOGLE_", "GEMINI_", "FAL_", "REPLICATE_", "ARK_", "VOLC", "BYTEPLUS_", "XAI_")
END_S = 10.0
ANSWER_S = 30.0

# Before any SDK is imported, because some read their variables only then.
for variable in tuple(os.environ):
    if variable.startswith(OWNERS) or variable.upper().endswith("_PROXY"):
        del os.environ[variable]


def stay_on_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: an SDK that was pointed at a simulator must not call its provider."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOOPBACK:
        raise RuntimeError(f"a test called {arguments[1]}, which is not on this machine")
    if event == "socket.getaddrinfo" and arguments[0] not in LOOPBACK | {None}:
        raise RuntimeError(f"a test asked where {arguments[0]!r} is, which is not on this machine")


sys.addaudithook(stay_on_loopback)


@dataclass(frozen=True)
class Simulated:
    """A simulator in a process of its own. `base_url` is what its provider's customers put into an SDK, `origin` its
    scheme, host and port.
    """

    base_url: str
    origin: str

    def bill(self) -> dict[str, Any]:
        """What the provider charged: submitted, billed, total_usd and the jobs, the oldest first."""
        return self._ask("bill")

    def requests(self) -> dict[str, Any]:
        """What the provider was asked: total, answered by status, and the latest requests."""
        return self._ask("requests")

    def set_faults(self, rows: list[dict[str, Any]]) -> None:
        """Turn the dial: `[{"kind": "throttled", "retry_after_s": 7}]`, `[]` for none. AssertionError: not offered."""
        self._ask("faults", {"faults": rows})

    def _ask(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the origin is ours
            f"{self.origin}/_simulator/{what}", data=content, method="GET" if body is None else "PUT"
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{what}: {refused.code} {refused.read().decode()}") from None


@pytest.fixture
def simulate(tmp_path) -> Iterator[Callable[..., Simulated]]:
    """Start a simulator that lives as long as the test: see `simulators`."""
    with simulators(tmp_path) as start:
        yield start


def find_interpreter() -> str:
    """The interpreter that Pointsman is installed for."""
    interpreter = os.environ.get("POINTSMAN_PYTHON")
    if not interpreter:
        raise RuntimeError(
            "POINTSMAN_PYTHON must be the interpreter that Pointsman is installed for; try make test-sdk"
        )
    return interpreter


@contextmanager
def simulators(folder: Path) -> Iterator[Callable[..., Simulated]]:
    """Start a simulator: `start("openai")`, with options of `pointsman simulate` behind the slug if need be. Delays
    are a hundredth of the provider's, unless `"--time-scale"` says otherwise. What they complain of goes to `folder`.
    """
    interpreter = find_interpreter()
    started: list[subprocess.Popen[str]] = []

    def start(slug: str, *options: str) -> Simulated:
        complaints = folder / f"{len(started)}-{slug}.txt"
        command = [interpreter, "-m", "router", "simulate", f"{slug}:0", "--time-scale", "0.01", *options]
        with complaints.open("w") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
        started.append(process)
        # "openai: base_url http://127.0.0.1:40899/v1" is the first line, and comes when it listens.
        base_url = process.stdout.readline().strip().rpartition(" ")[2]
        assert base_url.startswith("http://"), complaints.read_text()
        scheme, _, rest = base_url.partition("://")
        return Simulated(base_url, f"{scheme}://{rest.partition('/')[0]}")

    try:
        yield start
    finally:
        end(started)


def end(processes: list[subprocess.Popen[str]]) -> None:
    """End what a test has started."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
