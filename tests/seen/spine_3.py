"""spine.3: `kill -9` at random instants, polled and synchronous jobs in flight: nothing lost, nothing paid twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

import aiohttp

from providers import simulated
from providers.simulated.bfl import BflOptions
from tests.seen.stage import Findings, Stage, all_ended, staged

CONFIG = """
version: 1
providers:
  polled: {{adapter: bfl, base_url: "{polled}", api_key: "simulated-polled", max_concurrency: 60}}
  direct: {{adapter: openai, base_url: "{direct}", api_key: "sk-simulated-direct", max_concurrency: 60}}
models:
  polled: {{kind: image, targets: [{{provider: polled, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}]}}
  direct: {{kind: image, targets: [{{provider: direct, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
"""


@dataclass(slots=True)
class Ledger:
    """What the client was told: the id of each prompt that was acknowledged."""

    told: dict[str, str] = field(default_factory=dict)
    unacknowledged: int = 0


async def show(*, short: bool = False) -> int:
    """Kill, start again, and hold what clients were told against the simulators' own bills."""
    findings, dice = Findings(), random.Random(20)  # the instants of the kills
    rounds, each = (2, 10) if short else (20, 50)
    polled_options = BflOptions(time_scale=1.0, latency_s=1.0, active_max=10_000)
    direct_options = simulated.Options(time_scale=1.0, latency_s=1.0)
    ledger, ends, resumed = Ledger(), Counter[str](), 0
    async with (
        simulated.start("bfl", options=polled_options) as polled,
        simulated.start("openai", options=direct_options) as direct,
    ):
        config = CONFIG.format(polled=polled.base_url, direct=direct.base_url)
        async with staged(config) as stage, aiohttp.ClientSession() as client:
            for number in range(rounds):
                fresh = await one_round(stage, client, ledger, number=number, each=each, dice=dice)
                for task in (await all_ended(client, stage.url, fresh, 120.0)).values():
                    error = task["error"]["code"] if task["error"] else None
                    ends[f"{task['model']}: {task['status']}{f' ({error})' if error else ''}"] += 1
                    resumed += task["status"] == "succeeded" and task["model"] == "polled"
        once = judge_bills(findings, polled, direct)
    findings.show("rounds of kill -9", rounds)
    findings.show("ids that clients were told", len(ledger.told))
    findings.show("submits cut before their answer", ledger.unacknowledged)
    for name, count in sorted(ends.items()):
        findings.show(f"  ended {name}", count)
    findings.show("polled jobs submitted once", once)
    findings.expect(sum(ends.values()) == len(ledger.told), "every id that a client saw ends")
    unruly = {name for name in ends if "failed" in name and "outcome_unknown" not in name}
    findings.expect(not unruly, f"tasks fail only by the rule of retry_unknown, not {unruly}")
    findings.expect(ends["polled: succeeded"] > 0, "polled jobs succeed across the kills")
    return findings.verdict()


async def one_round(
    stage: Stage, client: aiohttp.ClientSession, ledger: Ledger, *, number: int, each: int, dice: random.Random
) -> list[str]:
    """Submit to both providers, kill the daemon at a random instant, start it again; returns the ids told."""
    fresh: list[str] = []

    async def submit(model: str, index: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        prompt = f"{model} {number}-{index}"
        try:
            body = {"kind": "image.generation", "model": model, "input": {"prompt": prompt, "size": "512x512"}}
            async with client.post(f"{stage.url}/v1/tasks", json=body) as reply:
                answer = await reply.json()
        except (aiohttp.ClientError, ConnectionError):
            ledger.unacknowledged += 1
            return
        assert reply.status == 202, answer
        ledger.told[prompt] = answer["id"]
        fresh.append(answer["id"])

    spread_s = 0.6
    submits = [
        asyncio.create_task(submit(model, index, dice.random() * spread_s))
        for model in ("polled", "direct")
        for index in range(each)
    ]
    await asyncio.sleep(0.1 + dice.random() * 1.6)
    stage.kill()
    await asyncio.gather(*submits)
    await stage.start()
    return fresh


def judge_bills(findings: Findings, polled: simulated.Running, direct: simulated.Running) -> str:
    """Read the simulators' own books: per prompt at most one paid job."""
    for running in (polled, direct):
        paid = {
            prompt: [entry for entry in entries if entry.amount_usd > Decimal(0)]
            for prompt, entries in running.bill.jobs_by_prompt().items()
        }
        twice = [prompt for prompt, entries in paid.items() if len(entries) > 1]
        findings.show(f"{running.slug}: prompts billed, billed twice", f"{len(paid)}, {len(twice)}")
        findings.expect(not twice, f"{running.slug} is paid twice for {twice[:5]}")
    submitted = {prompt: len(entries) for prompt, entries in polled.bill.jobs_by_prompt().items()}
    more = [prompt for prompt, count in submitted.items() if count > 1]
    findings.expect(not more, f"polled jobs are submitted again: {more[:5]}")
    return f"{len(submitted) - len(more)} of {len(submitted)}"
