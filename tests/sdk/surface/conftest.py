"""A daemon for the tests of Pointsman's own surface: `pointsman serve` in a process of its own, on simulated providers.

One daemon serves all tests of a run, which takes seconds to start; each test finds the simulators' dials at rest. What
a test counts it counts from its own beginning (`bill()` before and after).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest

from tests.sdk.conftest import ROOT, Simulated, end, find_interpreter, simulators

KEY = "an-admin-key-for-tests"
SIMULATED = ("openai", "apiyi")
# No circuit may open for what a test dials in: the next test uses the same daemon.
ROUTING = """\
version: 1
providers:
  openai:
    adapter: openai
    base_url: "{openai}"
    api_key: sk-a
    breaker: {{consecutive_failures: 1000, minimum: 1000}}
  apiyi:
    adapter: apiyi
    base_url: "{apiyi}"
    api_key: sk-b
    breaker: {{consecutive_failures: 1000, minimum: 1000}}
models:
  gpt-image-2:
    kind: image
    targets:
      - {{provider: openai, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
    retry: {{per_target: 1, total: 2, backoff: {{first: 10ms, max: 20ms}}}}
  silent-image:
    kind: image
    targets:
      - {{provider: apiyi, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
  veo-3:
    kind: video
    targets:
      - {{provider: apiyi, model: veo-3.1-fast, price: {{video_second: {{default: 0.05}}}}}}
    retry: {{per_target: 0, total: 1}}
  sora-2:
    kind: video
    targets:
      - {{provider: apiyi, model: veo-3.1-fast, price: {{video_second: {{default: 0.05}}}}}}
      - {{provider: openai, model: sora-2, price: {{video_second: {{default: 0.1}}}}}}
  gpt-4o:
    kind: chat
    targets:
      - {{provider: openai, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
  # Targets with names of their own: what rests for one test is there for the others.
  pair-overloaded:
    kind: chat
    targets:
      - {{name: overloaded, provider: openai, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
      - {{provider: apiyi, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
  pair-throttled:
    kind: chat
    targets:
      - {{name: throttled, provider: openai, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
      - {{provider: apiyi, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
  gpt-4o-poor:
    kind: chat
    targets:
      - {{provider: openai, model: gpt-4o, price: {{tokens: {{input: 2.5, output: 10}}}}}}
budgets:
  - {{scope: model, match: gpt-4o-poor, window: total, limit: 0.000001}}
"""


@dataclass(frozen=True)
class Served:
    """A running daemon: what a caller puts into the SDK, and the simulators behind it by their slug."""

    base_url: str
    key: str
    upstream: dict[str, Simulated]


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    """Start the simulators and the daemon once."""
    folder = tmp_path_factory.mktemp("surface")
    with simulators(folder) as start:
        upstream = {slug: start(slug) for slug in SIMULATED}
        (folder / "routing.yaml").write_text(
            ROUTING.format(**{slug: one.base_url for slug, one in upstream.items()}), encoding="utf-8"
        )
        ours = {
            "CONFIG": "routing.yaml",
            "DATA_DIR": "data",
            "PORT": "0",
            "ADMIN_KEY": KEY,
            "FETCH_ALLOW": "127.0.0.0/8",
            "TIME_SCALE": "0.05",
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        environment |= {f"POINTSMAN_{name}": value for name, value in ours.items()} | {"PYTHONPATH": str(ROOT)}
        with (folder / "complaints.txt").open("w") as stderr, (folder / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [find_interpreter(), "-m", "router", "serve"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            try:
                url = ""
                while not url:
                    line = process.stdout.readline()
                    log.write(line)
                    assert line, (folder / "complaints.txt").read_text()
                    said = json.loads(line)
                    url = said["url"] if said["event"] == "listening" else ""
                yield Served(f"{url}/v1", KEY, upstream)
            finally:
                end([process])


@pytest.fixture
def daemon(served) -> Served:
    """The daemon, with nothing dialled in at its providers."""
    for one in served.upstream.values():
        one.set_faults([])
    return served


@pytest.fixture
def sdk(daemon) -> Iterator[openai.OpenAI]:
    """The stock SDK as its users make it; from version 3 on it checks every answer."""
    strict = int(openai.__version__.partition(".")[0]) >= 3
    with openai.OpenAI(api_key=daemon.key, base_url=daemon.base_url, _strict_response_validation=strict) as client:
        yield client
