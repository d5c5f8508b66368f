"""Real daemons for tests, in this process or in one of their own, on a temporary directory, against simulators."""

import asyncio
import io
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from router.daemon import Daemon
from router.settings import make_settings

ADMIN_KEY = "an-admin-key-for-tests"
ROUTING = """\
version: 1
providers:
  a: {{adapter: openai, base_url: "{a}", api_key: "key-of-provider-a"}}
  b: {{adapter: openai, base_url: "{b}", api_key: "key-of-provider-b"}}
models:
  m:
    kind: image
    targets:
      - {{provider: a, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
      - {{provider: b, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}
"""
NOWHERE = "http://127.0.0.1:9/v1"


def write_routing(folder: Path, a=NOWHERE, b=NOWHERE, text=ROUTING) -> Path:
    """Put a routing file into the folder, by a rename, as editors do; returns its path."""
    fresh, path = folder / "routing.yaml.new", folder / "routing.yaml"
    fresh.write_text(text.format(a=a, b=b), encoding="utf-8")
    return fresh.rename(path)


def settings_for(folder: Path, **said):
    """Settings of a daemon on free ports with everything below the folder."""
    ordinary = {
        "port": 0,
        "config": folder / "routing.yaml",
        "data_dir": folder / "data",
        "admin_key": ADMIN_KEY,
        "fetch_allow": "127.0.0.0/8",
        "drain_timeout": 30.0,
        "time_scale": 0.05,
    }
    return make_settings(**{**ordinary, **said})


@asynccontextmanager
async def running_daemon(folder: Path, **said):
    """A daemon in this process; its log lines are in `daemon.lines()`."""
    stream = io.StringIO()
    daemon = await Daemon.start(settings_for(folder, **said), log_stream=stream)
    daemon.lines = lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    try:
        yield daemon
    finally:
        await daemon.stop(0.0)


def environment(folder: Path, **said):
    """The environment of a daemon of its own: nothing of ours from outside, everything below the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_") or "MARK" in name}
    ours = {
        "CONFIG": "routing.yaml",
        "DATA_DIR": "data",
        "PORT": "0",
        "ADMIN_KEY": ADMIN_KEY,
        "FETCH_ALLOW": "127.0.0.0/8",
    }
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    said = {**ours, **{name.upper(): str(value) for name, value in said.items() if value is not None}}
    return {**kept, "PYTHONPATH": path, **{f"POINTSMAN_{name}": value for name, value in said.items()}}


async def run_command(folder: Path, *words, **said):
    """Run a command to its end; returns exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "router",
        *words,
        cwd=folder,
        env=environment(folder, **said),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


class Served:
    """A `pointsman serve` process: `url`, its log lines so far, signals."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self.url = ""
        self._reading = asyncio.create_task(self._read())
        self._listens = asyncio.Event()

    async def _read(self):
        async for raw in self.process.stdout:
            line = json.loads(raw)
            self.lines.append(line)
            if line["event"] == "listening":
                self.url = line["url"]
                self._listens.set()
        self._listens.set()

    async def ready(self):
        """Wait until it listens; fail with what it said when it ends instead."""
        async with asyncio.timeout(60):
            await self._listens.wait()
        assert self.url, (await self.process.stderr.read()).decode()

    def send(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self):
        """Wait for its end; returns exit code and stderr."""
        async with asyncio.timeout(60):
            err = await self.process.stderr.read()
            code = await self.process.wait()
            await self._reading
        return code, err.decode()


@asynccontextmanager
async def served(folder: Path, **said):
    """`pointsman serve` as a process, killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "router",
        "serve",
        cwd=folder,
        env=environment(folder, **said),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    serving = Served(process)
    try:
        await serving.ready()
        yield serving
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await serving.ended()
