"""upstreams.4: two daemons in a row, the second killed -9 while tasks are on it: each prompt is paid for once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import aiohttp

from providers import simulated
from providers.simulated.bfl import BflOptions
from tests.seen.spine_3 import CONFIG as CENTRAL
from tests.seen.stage import Findings, Stage, all_ended, staged

BRANCH = """
version: 1
providers:
  central:
    {{adapter: pointsman, base_url: "{central}", api_key: "any", max_concurrency: 200, retry_unknown: if_idempotent,
      breaker: {{consecutive_failures: 1000, failure_rate: 1.0, open_for: 1s, open_max: 1s}}}}
models:
  polled:
    kind: image
    targets: [{{provider: central, model: polled}}]
    retry: {{per_target: 20, total: 40, backoff: {{first: 200ms, max: 1s}}}}
  direct:
    kind: image
    targets: [{{provider: central, model: direct}}]
    retry: {{per_target: 20, total: 40, backoff: {{first: 200ms, max: 1s}}}}
"""


async def show(*, short: bool = False) -> int:
    """Submit to the branch, kill the central daemon again and again, then read the simulators' own bills."""
    findings, dice = Findings(), random.Random(4)  # the instants of the kills
    kills, each = (2, 5) if short else (10, 6)
    polled_options = BflOptions(time_scale=1.0, latency_s=1.0, active_max=10_000)
    direct_options = simulated.Options(time_scale=1.0, latency_s=1.0)
    ids: list[str] = []
    prompts: list[str] = []
    async with (
        simulated.start("bfl", options=polled_options) as polled,
        simulated.start("openai", options=direct_options) as direct,
        staged(CENTRAL.format(polled=polled.base_url, direct=direct.base_url)) as central,
        staged(BRANCH.format(central=central.url)) as branch,
        aiohttp.ClientSession() as client,
    ):
        for number in range(kills):
            ids += await one_round(client, branch, central, prompts, number=number, each=each, dice=dice)
        ended = await all_ended(client, branch.url, ids, 180.0)
        bills = (polled.bill.jobs_by_prompt(), direct.bill.jobs_by_prompt())
    counts = {prompt: sum(len(bill.get(prompt, ())) for bill in bills) for prompt in prompts}
    ends = Counter(told(task) for task in ended.values())
    repeats = sum(task["retry_count"] for task in ended.values())
    never = [prompt for prompt, count in counts.items() if count == 0]
    twice = [prompt for prompt, count in counts.items() if count > 1]
    findings.show("kill -9 of the second daemon", kills)
    findings.show("tasks submitted to the first", len(ids))
    for name, count in sorted(ends.items()):
        findings.show(f"  ended {name}", count)
    findings.show("attempts repeated under their key", repeats)
    findings.show(
        "prompts billed once, twice, never", f"{len(counts) - len(twice) - len(never)}, {len(twice)}, {len(never)}"
    )
    findings.expect(len(ended) == len(ids), "every task ends")
    findings.expect(not twice, f"paid twice: {twice[:5]}")
    findings.expect(not never, f"never made: {never[:5]}")
    findings.expect(short or repeats > 0, "kills hit requests that were out")
    unruly = [name for name in ends if "failed" in name and "outcome_unknown" not in name]
    findings.expect(not unruly, f"tasks fail only where the daemon died with the request out, not {unruly}")
    findings.expect(any("polled: succeeded" in name for name in ends), "polled jobs survive the kills")
    return findings.verdict()


def told(task: dict[str, Any]) -> str:
    """Say how a task ended."""
    error = f" ({task['error']['code']})" if task["error"] else ""
    return f"{task['model']}: {task['status']}{error}"


async def one_round(
    client: aiohttp.ClientSession,
    branch: Stage,
    central: Stage,
    prompts: list[str],
    *,
    number: int,
    each: int,
    dice: random.Random,
) -> list[str]:
    """Submit to the branch, kill the central daemon at a random instant, start it again; returns the new ids."""
    fresh: list[str] = []

    async def submit(model: str, index: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        prompt = f"{model} {number}-{index}"
        body = {"kind": "image.generation", "model": model, "input": {"prompt": prompt, "size": "512x512"}}
        async with client.post(f"{branch.url}/v1/tasks", json=body) as reply:
            answer = await reply.json()
            assert reply.status == 202, answer
        prompts.append(prompt)
        fresh.append(answer["id"])

    submits = [
        asyncio.create_task(submit(model, index, dice.random() * 0.6))
        for model in ("polled", "direct")
        for index in range(each)
    ]
    await asyncio.sleep(0.1 + dice.random() * 1.2)
    central.kill()
    await asyncio.gather(*submits)
    await central.start()
    return fresh
