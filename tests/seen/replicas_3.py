"""replicas.3: the database server killed -9 five times under load: accepts answer 503, nothing is lost, and it is
accepting again within 5 s of its return.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from providers import simulated
from providers.simulated.bfl import BflOptions
from tests.postgres import Server, running_server
from tests.seen.fleet import daemons
from tests.seen.stage import Findings, Stage, all_ended

AWAY_S = (3.0, 0.5, 12.0, 1.0, 30.0)  # also for longer than a lease
UNREADY_WITHIN_S = ACCEPTING_WITHIN_S = 5.0
SUBMIT_EVERY_S = 0.04
READY_ASKED_EVERY_S = 0.05
CONFIG = """
version: 1
providers:
  polled: {{adapter: bfl, base_url: "{polled}", api_key: "simulated-polled", max_concurrency: 40}}
  direct: {{adapter: openai, base_url: "{direct}", api_key: "sk-simulated-direct", max_concurrency: 40}}
models:
  polled: {{kind: image, targets: [{{provider: polled, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}]}}
  direct: {{kind: image, targets: [{{provider: direct, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
budgets:
  - {{scope: all, window: total, limit: 10000.00}}
"""


@dataclass(slots=True)
class Load:
    """What clients were told: ids by prompt, other answers by instant, and when each daemon last accepted."""

    client: aiohttp.ClientSession
    told: dict[str, str] = field(default_factory=dict)
    accepted_s: dict[str, list[float]] = field(default_factory=dict)
    refused: list[tuple[float, str]] = field(default_factory=list)
    submits: set[asyncio.Task[None]] = field(default_factory=set)

    async def submit(self, stage: Stage, prompt: str) -> None:
        """Submit one task, once; an answer other than 202 is noted with its word."""
        body = {
            "kind": "image.generation",
            "model": prompt.partition(" ")[0],
            "input": {"prompt": prompt, "size": "512x512"},
        }
        async with self.client.post(f"{stage.url}/v1/tasks", json=body) as reply:
            answer = await reply.json()
        if reply.status == 202:
            self.told[prompt] = answer["id"]
            self.accepted_s.setdefault(stage.url, []).append(time.monotonic())
        else:
            waits = "Retry-After" if reply.headers.get("Retry-After", "").isdecimal() else "no Retry-After"
            self.refused.append((time.monotonic(), f"{reply.status} {answer['error']['code']}, {waits}"))

    async def go_on(self, stages: list[Stage]) -> None:
        """Submit to each daemon in turn, alternately of both kinds, until cancelled."""
        number = 0
        while True:
            for stage in stages:
                prompt = f"{('polled', 'direct')[number // len(stages) % 2]} {number}"
                submitting = asyncio.create_task(self.submit(stage, prompt))
                self.submits.add(submitting)
                submitting.add_done_callback(self.submits.discard)
                number += 1
            await asyncio.sleep(SUBMIT_EVERY_S)


async def show(*, short: bool = False) -> int:
    """Kill the server under load, start it again, and hold what clients were told against the simulators' bills."""
    findings, away_s = Findings(), AWAY_S[:1] if short else AWAY_S
    async with AsyncExitStack() as stack:
        polled = await stack.enter_async_context(
            simulated.start("bfl", options=BflOptions(latency_s=1.0, active_max=10_000))
        )
        direct = await stack.enter_async_context(
            simulated.start("openai", options=simulated.Options(latency_s=1.0, requests_kept=100_000))
        )
        database = stack.enter_context(running_server())
        config = CONFIG.format(polled=polled.base_url, direct=direct.base_url)
        fleet = await stack.enter_async_context(daemons(database, config))
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        load = Load(client)
        going_on = asyncio.create_task(load.go_on(fleet.stages))
        for seconds in away_s:
            await asyncio.sleep(2.0)
            await one_round(findings, load, fleet.stages, database, seconds)
        await asyncio.sleep(1.0)
        going_on.cancel()
        await asyncio.gather(going_on, *load.submits, return_exceptions=True)
        ended = await all_ended(client, fleet.stages[0].url, list(load.told.values()), 300.0)
        judge(findings, load, ended, polled, direct)
    return findings.verdict()


async def one_round(findings: Findings, load: Load, stages: list[Stage], database: Server, away_s: float) -> None:
    """Kill, stay away, come back; show how soon each daemon says that it is not ready, and accepts again."""
    loop = asyncio.get_running_loop()
    findings.show(f"killed -9 for {away_s:g} s: acknowledged before", len(load.told))
    database.crash()
    killed_s = time.monotonic()
    unready = await asyncio.gather(*(find_state(load.client, stage, ready=False, since_s=killed_s) for stage in stages))
    findings.show("  not ready after (s), each daemon", ", ".join(f"{seconds:.2f}" for seconds in unready))
    findings.expect(max(unready) <= UNREADY_WITHIN_S, f"away for {away_s:g} s: /readyz says no within 5 s")
    await asyncio.sleep(max(0.0, killed_s + away_s - time.monotonic()))
    during = [word for at, word in load.refused if at > killed_s]
    findings.show("  refused while away", len(during))
    findings.expect(bool(during), f"away for {away_s:g} s: submits are refused while the server is away")
    accepted = sum(at > killed_s + 1.0 for instants in load.accepted_s.values() for at in instants)
    findings.expect(accepted == 0, f"away for {away_s:g} s: nothing is accepted while the server is away")
    await loop.run_in_executor(None, database.start)
    back_s = time.monotonic()
    again = await asyncio.gather(*(find_acceptance(load, stage, back_s) for stage in stages))
    findings.show("  accepting again after (s), each daemon", ", ".join(f"{seconds:.2f}" for seconds in again))
    findings.expect(max(again) <= ACCEPTING_WITHIN_S, f"away for {away_s:g} s: it is accepting again within 5 s")


async def find_state(client: aiohttp.ClientSession, stage: Stage, *, ready: bool, since_s: float) -> float:
    """Ask `/readyz` until it says so; returns how long that was since an instant. `/healthz` is 200 all the time."""
    async with asyncio.timeout(60.0):
        while True:
            async with client.get(f"{stage.url}/healthz") as health, client.get(f"{stage.url}/readyz") as reply:
                assert health.status == 200
                if (reply.status == 200) == ready:
                    return time.monotonic() - since_s
            await asyncio.sleep(READY_ASKED_EVERY_S)


async def find_acceptance(load: Load, stage: Stage, since_s: float) -> float:
    """Wait for the first submit that a daemon has acknowledged since an instant; returns how long that took."""
    async with asyncio.timeout(60.0):
        while True:
            for at in load.accepted_s.get(stage.url, ()):
                if at > since_s:
                    return at - since_s
            await asyncio.sleep(READY_ASKED_EVERY_S)


def ending_of(task: dict[str, Any]) -> str:
    """How a task ended, with the word of its error."""
    return f"{task['status']} ({task['error']['code']})" if task["error"] else str(task["status"])


def judge(
    findings: Findings,
    load: Load,
    ended: dict[str, dict[str, Any]],
    polled: simulated.Running,
    direct: simulated.Running,
) -> None:
    """Every acknowledged task succeeds and is paid once; nothing else is paid."""
    words, ends = Counter(word for _at, word in load.refused), Counter(map(ending_of, ended.values()))
    findings.show("acknowledged", len(load.told))
    for word, count in sorted(words.items()):
        findings.show(f"  refused with {word}", count)
    for status, count in sorted(ends.items()):
        findings.show(f"  ended {status}", count)
    findings.expect(set(words) == {"503 unavailable, Retry-After"}, f"refusals are 503 with Retry-After, not {words}")
    findings.expect(ends == Counter(succeeded=len(load.told)), f"everything acknowledged succeeds, not {ends}")
    paid = Counter[str]()
    for running in (polled, direct):
        for prompt, entries in running.bill.jobs_by_prompt().items():
            paid[prompt] += sum(entry.amount_usd > Decimal(0) for entry in entries)
    twice = [prompt for prompt, count in paid.items() if count > 1]
    strangers = [prompt for prompt, count in paid.items() if count and prompt not in load.told]
    findings.show("prompts billed, billed twice, billed and never told", f"{len(paid)}, {len(twice)}, {len(strangers)}")
    findings.expect(not twice, f"paid twice: {twice[:5]}")
    findings.expect(not strangers, f"paid and not acknowledged: {strangers[:5]}")
