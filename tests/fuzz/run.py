"""A daemon on simulated providers, and schemathesis at it until enough has been asked or a finding is made."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from providers import simulated
from providers.simulated.ark import ArkOptions
from tests.api.house import PNG
from tests.daemons import ADMIN_KEY, Served, served

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COMMAND = "POINTSMAN_SCHEMATHESIS"
USUAL_COMMAND = ".venv-fuzz/bin/schemathesis"
# Not asked: whether what the document does not allow is refused (fields it does not name are kept for the providers,
# and /metrics is open on loopback), whether all it allows is taken (not every string is a cursor), whether what was
# deleted is gone (a revoked key is shown as revoked, and a task without its film still has its bill), and what `Allow`
# says (`/v1/videos/generations` is also a film of that name, which can be read and deleted).
CHECKS = (
    "no_server_error",  # of hooks.py
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ensure_resource_availability",
)
ROUTING = """\
version: 1
defaults: {{sync_wait: 10s}}
providers:
  pictures: {{adapter: openai, base_url: "{openai}", api_key: "sk-simulated-pictures", max_concurrency: 64}}
  films: {{adapter: ark, base_url: "{ark}", api_key: "simulated-films", max_concurrency: 64}}
default_model: {{image: gpt-image-2, video: veo-3}}
models:
  gpt-image-2:
    kind: image
    targets: [{{provider: pictures, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}]
  veo-3:
    kind: video
    targets: [{{provider: films, model: doubao-seedance-1-0-pro-250528, price: {{video_second: {{default: 0.05}}}}}}]
  gpt-5-mini:
    kind: chat
    targets: [{{provider: pictures, model: gpt-5-mini, price: {{tokens: {{input: 1, output: 2}}}}}}]
"""


@dataclass(slots=True)
class Fuzzed:
    """What came of it: how many answers by route and status, and what schemathesis said where it found something."""

    answers: Mapping[str, int] = field(default_factory=dict)
    finding: str = ""
    rounds: int = 0

    @property
    def requests(self) -> int:
        """How many were answered."""
        return sum(self.answers.values())


async def fuzz(*, requests: int, seed: int, at_most_s: float, round_s: int, database_url: str | None = None) -> Fuzzed:
    """Ask until `requests` were answered, `at_most_s` have passed or something was found, in rounds of about `round_s`.

    Each round has the next seed. `database_url` None: on SQLite.
    """
    fuzzed, until = Fuzzed(), time.monotonic() + at_most_s
    with tempfile.TemporaryDirectory(prefix="pointsman-fuzz-") as folder:
        async with _daemon(Path(folder), database_url) as (daemon, files):
            while fuzzed.requests < requests and not fuzzed.finding:
                left_s = int(until - time.monotonic())
                if left_s < 5:
                    break
                fuzzed.finding = await _one_round(
                    Path(folder), daemon, files, seed=seed + fuzzed.rounds, round_s=min(left_s, round_s)
                )
                fuzzed.rounds += 1
                fuzzed.answers = json.loads((Path(folder) / "answers.json").read_text(encoding="utf-8"))
            assert daemon.process.returncode is None, "the daemon ended"
            fuzzed.finding += "".join(
                f"\nthe daemon logged {json.dumps(line)}" for line in daemon.lines if _is_grave(line)
            )
    return fuzzed


@asynccontextmanager
async def _daemon(folder: Path, database_url: str | None) -> AsyncIterator[tuple[Served, str]]:
    """A daemon, and a server on loopback that has a picture at every path."""
    quick = {"time_scale": 0.01, "latency_s": 0.5}
    async with (
        simulated.start("openai", options=simulated.Options(**quick)) as openai,
        simulated.start("ark", options=ArkOptions(**quick)) as ark,
        TestServer(_pictures()) as pictures,
    ):
        config = ROUTING.format(openai=openai.base_url, ark=ark.base_url)
        (folder / "routing.yaml").write_text(config, encoding="utf-8")
        async with served(folder, time_scale=0.01, database_url=database_url) as daemon:
            yield daemon, str(pictures.make_url("/cat.png"))


def _pictures() -> web.Application:
    async def picture(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=PNG, content_type="image/png")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", picture)
    return app


def _is_grave(line: Mapping[str, str]) -> bool:
    """Whether a line of the log is about a mistake of ours; aiohttp's own are about what was no HTTP."""
    return line.get("level") in {"error", "critical"} and "aiohttp.http_exceptions.Bad" not in line.get("exception", "")


async def _one_round(folder: Path, daemon: Served, files: str, *, seed: int, round_s: int) -> str:
    """Run schemathesis once; returns what it printed if it found something, else nothing."""
    command = os.environ.get(COMMAND, str(ROOT / USUAL_COMMAND))
    process = await asyncio.create_subprocess_exec(
        command,
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        f"{daemon.url}/openapi.json",
        f"--header=Authorization: Bearer {ADMIN_KEY}",
        f"--seed={seed}",
        f"--max-time={round_s}",
        f"--checks={','.join(CHECKS)}",
        "--continue-on-failure",
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HERE),
            "SCHEMATHESIS_HOOKS": "hooks",
            "FUZZ_FILES": files,
            "FUZZ_ANSWERS": str(folder / "answers.json"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "" if process.returncode == 0 else printed.decode(errors="replace")
