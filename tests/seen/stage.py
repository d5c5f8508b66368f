"""A stage for the sights: the real `pointsman serve` as a process on a data directory of its own, and a client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.leftovers import MARK

READY_WITHIN_S = 60.0
ENDED = {"succeeded", "failed", "cancelled", "expired"}


@dataclass(slots=True)
class Stage:
    """One data directory and one configuration; the daemon on it can be started, killed and started again."""

    folder: Path
    config: str
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    port: int = 0

    def write_config(self, text: str) -> None:
        """Put the configuration in place by an atomic rename, as an editor does."""
        whole = self.folder / "routing.yaml.new"
        whole.write_text(text)
        whole.rename(self.folder / "routing.yaml")

    async def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.write_config(self.config)
        log = (self.folder / "daemon.log").open("ab")
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_") or name == MARK},
            "POINTSMAN_DATA_DIR": str(self.folder / "data"),
            "POINTSMAN_CONFIG": str(self.folder / "routing.yaml"),
            "POINTSMAN_PORT": str(self.port),
            "POINTSMAN_HOST": "127.0.0.1",
            "POINTSMAN_AUTH": "disabled",
            "POINTSMAN_FETCH_ALLOW": "127.0.0.0/8",
            "POINTSMAN_TIME_SCALE": "0.05",
            "POINTSMAN_LOG_FORMAT": "json",
            **self.environ,
        }
        seen = len(self.log())
        self.process = subprocess.Popen([sys.executable, "-m", "router", "serve"], env=environ, stdout=log, stderr=log)
        log.close()
        self.url = ""
        async with asyncio.timeout(READY_WITHIN_S):
            while not self.url:
                if self.process.poll() is not None:
                    raise AssertionError(f"the daemon did not start:\n{self.log()[-2000:]}")
                await asyncio.sleep(0.02)
                self.url = url_in(self.log()[seen:])
        self.port = int(self.url.rpartition(":")[2])

    def log(self) -> str:
        """What the daemon wrote."""
        return (self.folder / "daemon.log").read_text(errors="replace")

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, then wait; returns the exit code."""
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.terminate()
        return self.process.wait(timeout=60)


def url_in(log: str) -> str:
    """Find where the daemon says that it listens."""
    for line in log.splitlines():
        if '"listening"' in line and line.endswith("}"):
            return str(json.loads(line)["url"])
    return ""


@asynccontextmanager
async def staged(config: str, **environ: str) -> AsyncIterator[Stage]:
    """Run a daemon on a configuration in a folder of its own; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pointsman-seen-") as folder:
        stage = Stage(Path(folder), config, environ)
        try:
            await stage.start()
            yield stage
        finally:
            if stage.process is not None and stage.process.poll() is None:
                stage.process.terminate()
                try:
                    stage.process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    stage.process.kill()
                    stage.process.wait()


async def read_task(client: aiohttp.ClientSession, url: str, task_id: str) -> dict[str, Any]:
    """GET one native task."""
    async with client.get(f"{url}/v1/tasks/{task_id}", params={"view": "native"}) as reply:
        body: dict[str, Any] = await reply.json()
        assert reply.status == 200, body
        return body


async def all_ended(
    client: aiohttp.ClientSession, url: str, ids: list[str], within_s: float = 60.0
) -> dict[str, dict[str, Any]]:
    """Poll until every task has ended; returns them by id."""
    ended: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(within_s):
        while len(ended) < len(ids):
            for task_id in ids:
                if task_id not in ended:
                    task = await read_task(client, url, task_id)
                    if task["status"] in ENDED:
                        ended[task_id] = task
            if len(ended) < len(ids):
                await asyncio.sleep(0.1)
    return ended


class Findings:
    """Figures as they are printed, and what was wrong with them."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def show(self, name: str, figure: object) -> None:
        """Print a figure."""
        print(f"{name:58} {figure}", flush=True)

    def expect(self, holds: bool, sentence: str) -> None:
        """Note a sentence that does not hold."""
        if not holds:
            self.wrong.append(sentence)

    def verdict(self) -> int:
        """0 if all held, else 1, with every sentence that did not."""
        for sentence in self.wrong:
            print(f"FAILED {sentence}", file=sys.stderr)
        print("seen" if not self.wrong else "NOT seen")
        return 1 if self.wrong else 0
