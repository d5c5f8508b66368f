"""spine.4: six requests go where the rules say, `explain` says so beforehand, a live edit moves the seventh."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from providers import simulated
from router.flow.draft import Accepted, Draft
from router.provider import Kind
from tests.daemons import running_daemon
from tests.seen.stage import Findings, Stage, all_ended, read_task, staged

TARGETS = """      - {{provider: alpha, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}
      - {{provider: beta, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
      - {{provider: gamma, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}
"""
CONFIG = (
    """
version: 1
providers:
  alpha: {{adapter: openai, base_url: "{alpha}", api_key: "sk-simulated-alpha"}}
  beta:  {{adapter: apiyi, base_url: "{beta}", api_key: "sk-simulated-beta"}}
  gamma: {{adapter: bfl, base_url: "{gamma}", api_key: "simulated-gamma"}}
models:
  picture:
    kind: image
    targets:
"""
    + TARGETS
    + """    rules:
      - when: {{tenant: ["studio-*"]}}
        targets: [gamma]
      - when: {{metadata.team: ["ads"], tenant: [default]}}
        targets: [beta]
      - when: {{quality: high}}
        targets: [alpha]
      - when: {{size: ["512x512", "768x768"]}}
        targets: [gamma, beta]
      - when: {{priority: low}}
        strategy: cheapest
"""
)


@dataclass(frozen=True, slots=True)
class Case:
    """One request and the provider it must go to."""

    name: str
    expected: str
    input: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    priority: str = "normal"
    tenant: str = "default"

    def arguments(self) -> list[str]:
        """The request as `pointsman explain` takes it."""
        words = ["--model", "picture", "--priority", self.priority, "--tenant", self.tenant]
        for name in ("size", "quality"):
            if name in self.input:
                words += [f"--{name}", self.input[name]]
        for name, value in self.metadata.items():
            words += ["--metadata", f"{name}={value}"]
        return words


CASES = (
    Case("plain: the first target of the model", "alpha", {"size": "1024x1024"}),
    Case("small size", "gamma", {"size": "512x512"}),
    Case("high quality", "alpha", {"size": "512x512", "quality": "high"}),
    Case("metadata team=ads", "beta", {"size": "1024x1024"}, {"team": "ads"}),
    Case("low priority takes the cheapest", "beta", {"size": "1024x1024"}, priority="low"),
)
TENANT_CASE = Case("tenant studio-7", "gamma", {"size": "1024x1024"}, tenant="studio-7")


async def show(*, short: bool = False) -> int:
    """Ask `explain`, then send the requests, then edit the file under the running daemon."""
    findings = Findings()
    options = simulated.Options(time_scale=0.01)
    async with (
        simulated.start("openai", options=options) as alpha,
        simulated.start("apiyi", options=options) as beta,
        simulated.start("bfl", options=options) as gamma,
    ):
        config = CONFIG.format(alpha=alpha.base_url, beta=beta.base_url, gamma=gamma.base_url)
        async with staged(config) as stage, aiohttp.ClientSession() as client:
            for case in CASES:
                said = await explain(stage, case)
                went = await send(stage, client, case)
                findings.show(case.name, f"explain {said}, went to {went}")
                findings.expect(said == went == case.expected, f"{case.name}: {case.expected}, not {said} and {went}")
            said, went = await explain(stage, TENANT_CASE), await send_as_tenant(stage.folder, TENANT_CASE)
            findings.show(TENANT_CASE.name, f"explain {said}, went to {went}")
            findings.expect(said == went == "gamma", f"{TENANT_CASE.name}: gamma, not {said} and {went}")
            await edit(stage, client, config)
            case = CASES[0]
            said, went = await explain(stage, case), await send(stage, client, case)
            findings.show("after the live edit: plain", f"explain {said}, went to {went}")
            findings.expect(said == went == "gamma", "a live edit moves the seventh request to gamma")
    return findings.verdict()


async def explain(stage: Stage, case: Case) -> str:
    """Ask the command line; returns the first candidate's provider."""
    command = [sys.executable, "-m", "router", "explain", "--config", str(stage.folder / "routing.yaml"), "--json"]
    process = await asyncio.create_subprocess_exec(*command, *case.arguments(), stdout=subprocess.PIPE)
    output = (await process.communicate())[0]
    assert process.returncode == 0, output
    return str(json.loads(output)["candidates"][0]["provider"])


async def send(stage: Stage, client: aiohttp.ClientSession, case: Case) -> str:
    """Send the request and see where its first attempt went."""
    body = {
        "kind": "image.generation",
        "model": "picture",
        "input": {"prompt": case.name, **case.input},
        "metadata": case.metadata,
        "priority": case.priority,
    }
    async with client.post(f"{stage.url}/v1/tasks", json=body) as reply:
        answer = await reply.json()
        assert reply.status == 202, answer
    await all_ended(client, stage.url, [answer["id"]])
    task = await read_task(client, stage.url, answer["id"])
    return str(task["attempts"][0]["provider"])


async def send_as_tenant(folder: Path, case: Case) -> str:
    """Send a request as another tenant. Keys of tenants come in a later version, so it enters below HTTP.

    The daemon is a second one with the same routing file and a data directory of its own.
    """
    async with running_daemon(folder, data_dir=folder / "tenant", auth="disabled") as daemon:
        draft = Draft(
            tenant=case.tenant,
            kind=Kind.IMAGE_GENERATION,
            model="picture",
            input={"prompt": case.name, **case.input},
            surface="native",
            route="/v1/tasks",
            digest="tenant",
            request_id="req_tenant",
        )
        accepted = await daemon.life.intake.submit(draft)
        assert isinstance(accepted, Accepted), accepted
        async with asyncio.timeout(60):
            while True:
                view = await daemon.life.runtime.world.store.view(case.tenant, accepted.task.id)
                if view is not None and view.task.is_terminal:
                    return view.attempts[0].provider
                await asyncio.sleep(0.05)


async def edit(stage: Stage, client: aiohttp.ClientSession, config: str) -> None:
    """Put the last target first in the file and wait until the daemon runs the new one."""
    lines = TARGETS.splitlines(keepends=True)
    rendered = config.split("    targets:\n", 1)
    before = "".join(rendered[1].splitlines(keepends=True)[: len(lines)])
    own = before.splitlines(keepends=True)
    moved = config.replace(before, "".join([own[2], own[0], own[1]]))
    old = await config_hash(client, stage.url)
    stage.write_config(moved)
    async with asyncio.timeout(60):
        while await config_hash(client, stage.url) == old:
            await asyncio.sleep(0.05)


async def config_hash(client: aiohttp.ClientSession, url: str) -> str:
    """Which configuration the daemon runs."""
    async with client.get(f"{url}/admin/v1/config") as reply:
        return str((await reply.json())["hash"])
