"""surfaces.2: the code that the aggregators print, cut out by a script, with only the base URL and the key changed.

A sample that names a task of the host's own gets the id of one that was submitted here. It runs as its reader would run
it: in a file of its own, by the language's own command, against a real daemon that demands keys.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from providers import simulated
from tests.seen.samples import Sample, read_samples
from tests.seen.stage import Findings, Stage, staged

KEY = "the-key-of-this-sight"
WITHIN_S = 90.0
CONFIG = """
version: 1
providers:
  quick: {{adapter: openai, base_url: "{quick}", api_key: "sk-simulated"}}
  slow: {{adapter: openai, base_url: "{slow}", api_key: "sk-simulated"}}
  google: {{adapter: gemini, base_url: "{google}", api_key: "simulated"}}
models:
  gpt-image-2: {{kind: image, targets: [{{provider: quick, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
  slow: {{kind: image, targets: [{{provider: slow, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
  gemini-3.1-flash-image-preview:
    kind: image
    targets: [{{provider: google, model: gemini-3.1-flash-image-preview, price: {{image: {{default: 0.05}}}}}}]
"""
HOSTS = re.compile(r"https://(?:open\.dieyuyun\.com|api\.pixapi\.ai|inference-api-pre-d80ca3\.worldrouter\.ai)")
KEYS = re.compile(r"YOUR_API_KEY|<token>|your_api_key")
IDS = re.compile(r"task_abc123xyz|task_01KPQ7J7DWB7QZ3WCEK3YVPBRA|imgtask_\.\.\.")
OURS = re.compile(r"\b(?:img)?task_[0-9a-f]{32}\b")
COMMANDS = {
    "bash": ("sample.sh", ("bash",)),
    "python": ("sample.py", (sys.executable,)),
    "javascript": ("sample.mjs", ("node",)),
    "go": ("sample.go", ("go", "run")),
    "java": ("Sample.java", ("java",)),
    "php": ("sample.php", ("php",)),
}
MUST_BE_HERE = {"bash": "bash and curl", "javascript": "node (Debian: nodejs)", "python": "Python"}
NOT_RUN = {"apiyi.md: the worker of a queue": "pseudocode on one line, over a db and a queue of the reader's own"}
"""What is printed and is no program, with the reason."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who submits what a sample asks about."""

    client: aiohttp.ClientSession
    stage: Stage

    async def submit(self, path: str, model: str) -> dict[str, Any]:
        """Make a task of a dialect."""
        body = {"model": model, "prompt": "a cat", "async": True}
        async with self.client.post(self.stage.url + path, json=body) as reply:
            task: dict[str, Any] = await reply.json()
            assert reply.status == 200, task
            return task

    async def id_for(self, sample: Sample) -> str:
        """The id that takes the place of the host's: a task of the same dialect, alive if it is to be cancelled."""
        if sample.document == "pixapi.md":
            task = await self.submit("/v1/async/images/generations", "gpt-image-2")
        elif sample.document == "worldrouter.md":
            task = await self.submit("/v1/images/generation_tasks", "gpt-image-2")
        else:
            task = await self.submit("/v1/images/generations", "slow" if "/cancel" in sample.text else "gpt-image-2")
        if "/cancel" not in sample.text:
            async with self.client.get(f"{self.stage.url}/v1/tasks/{task['id']}", headers={"Prefer": "wait=60"}):
                pass
        return str(task["id"])


async def show(*, short: bool = False) -> int:
    """Run every sample that this machine can; the short form leaves out what must be compiled first."""
    findings = Findings()
    options = {
        "quick": simulated.Options(time_scale=1.0, latency_s=1.0),
        "google": simulated.Options(time_scale=1.0, latency_s=1.0),
        "slow": simulated.Options(time_scale=1.0, latency_s=600.0),
    }
    async with (
        simulated.start("openai", options=options["quick"]) as quick,
        simulated.start("openai", options=options["slow"]) as slow,
        simulated.start("gemini", options=options["google"]) as google,
    ):
        config = CONFIG.format(quick=quick.base_url, slow=slow.base_url, google=google.base_url)
        environ = {"AUTH": "required", "ADMIN_KEY": KEY, "TIME_SCALE": "1", "DRAIN_TIMEOUT": "0"}
        async with (
            staged(config, **{f"POINTSMAN_{name}": value for name, value in environ.items()}) as stage,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client,
        ):
            samples = read_samples()
            for sample in samples:
                await judge(findings, Caller(client, stage), sample, short=short)
    findings.show("samples", len(samples))
    for name, reason in NOT_RUN.items():
        findings.show(name, f"not run: {reason}")
    findings.expect(len(samples) >= 22, "the documents have all their samples")
    return findings.verdict()


async def judge(findings: Findings, caller: Caller, sample: Sample, *, short: bool) -> None:
    """Run one sample and hold what it printed against what its document promises."""
    _file, command = COMMANDS[sample.language]
    missing = next((one for one in (command[0], "curl") if shutil.which(one) is None), None)
    if missing is not None:
        findings.show(sample.name, f"not run: there is no {missing} here")
        wanted = MUST_BE_HERE.get(sample.language)
        findings.expect(wanted is None, f"{wanted} is needed for {sample.name}")
        return
    if short and sample.language in {"go", "java"}:
        findings.show(sample.name, "left to the long form")
        return
    changed = {"base URL": HOSTS.search(sample.text), "key": True, "id": IDS.search(sample.text)}
    task_id = await caller.id_for(sample) if changed["id"] else ""
    text = IDS.sub(task_id, KEYS.sub(KEY, HOSTS.sub(caller.stage.url, sample.text)))
    code, output = await run(sample.language, text)
    wanted = promise_of(sample)
    held = code == 0 and re.search(wanted, output) is not None
    findings.show(
        sample.name, f"{'as promised' if held else 'NOT as promised'} ({', '.join(filter(changed.get, changed))})"
    )
    findings.expect(held, f"{sample.name} ends with 0 ({code}) and prints {wanted}: {output[-1500:]}")


def promise_of(sample: Sample) -> str:
    """What the output of a sample must contain: an id, the end that it asks about, or the picture of the loop."""
    if "while True" in sample.text:
        return r"(?s)Task submitted: task_[0-9a-f]{32}\n.*Status: completed, Progress: 100%\nResult: .*'url': 'http"
    if "/cancel" in sample.text:
        return r"""status['"]?: ?['"]cancelled['"]"""
    if IDS.search(sample.text):
        return r"completed(?s:.*)100" if sample.document != "worldrouter.md" else r'"completed"(?s:.*)"total_tokens"'
    return OURS.pattern


async def run(language: str, text: str) -> tuple[int, str]:
    """Run a program from a file of its own; returns its exit code and what it printed."""
    file, command = COMMANDS[language]
    environ = {**os.environ, "PIXAPI_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    with TemporaryDirectory(prefix="pointsman-sample-") as folder:
        (Path(folder) / file).write_text(text, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *command, file, cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            output, _ = await process.communicate()
            return 124, output.decode(errors="replace")
    return process.returncode or 0, output.decode(errors="replace")
