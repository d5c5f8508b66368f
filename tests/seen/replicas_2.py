"""replicas.2: 300 parallel submits against a budget for 25: two daemons on one PostgreSQL, and one on SQLite."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from decimal import Decimal

import aiohttp

from providers import simulated
from tests.postgres import running_server
from tests.seen.fleet import daemons, fleet_database
from tests.seen.stage import Findings, Stage, all_ended, staged

SUBMITS, PLACES, PRICE = 300, 25, Decimal("0.04")
CONFIG = """
version: 1
providers:
  direct: {{adapter: openai, base_url: "{direct}", api_key: "sk-simulated-direct", max_concurrency: 60}}
models:
  m: {{kind: image, targets: [{{provider: direct, model: gpt-image-2, price: {{image: {{default: 0.04}}}}}}]}}
budgets:
  - {{scope: all, window: total, limit: 1.00}}
"""


async def show(*, short: bool = False) -> int:
    """Submit to all at once, count who was accepted, and look at what the database and the simulator say of it."""
    findings = Findings()
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(
            simulated.start("openai", options=simulated.Options(time_scale=1.0, latency_s=0.5))
        )
        config = CONFIG.format(direct=direct.base_url)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        database = stack.enter_context(running_server())
        fleet = await stack.enter_async_context(daemons(database, config))
        await submit_all(findings, client, fleet.stages, name="two daemons, PostgreSQL")
        row = database.administer("select held, spent from balance", fleet_database(fleet.stages[0])).strip()
        findings.show("  balance: held, spent in nano-USD", row.replace("|", ", "))
        findings.expect(row == f"0|{int(PLACES * PRICE * 10**9)}", f"the budget is spent to its last nano, not {row}")
        alone = await stack.enter_async_context(staged(config))
        await submit_all(findings, client, [alone], name="one daemon, SQLite")
        paid = [entries for entries in direct.bill.jobs_by_prompt().values() if any(one.amount_usd for one in entries)]
        findings.show("prompts that the simulator billed", len(paid))
        findings.expect(len(paid) == 2 * PLACES, "every accepted task is paid once, and no other")
    return findings.verdict()


async def submit_all(findings: Findings, client: aiohttp.ClientSession, stages: Sequence[Stage], *, name: str) -> None:
    """Submit everything at the same moment, in turn to each daemon, and wait for what was accepted."""

    async def submit(number: int) -> tuple[int, str]:
        body = {"kind": "image.generation", "model": "m", "input": {"prompt": f"{name} {number}", "size": "512x512"}}
        async with client.post(f"{stages[number % len(stages)].url}/v1/tasks", json=body) as reply:
            answer = await reply.json()
            return reply.status, answer["id"] if reply.status == 202 else answer["error"]["code"]

    answers = await asyncio.gather(*(submit(number) for number in range(SUBMITS)))
    accepted = [word for status, word in answers if status == 202]
    refused = Counter(f"{status} {word}" for status, word in answers if status != 202)
    findings.show(f"{name}: accepted of {SUBMITS}", len(accepted))
    findings.show("  refused", ", ".join(f"{count} with {word}" for word, count in refused.items()))
    findings.expect(len(accepted) == PLACES, f"{name}: exactly {PLACES} are accepted")
    findings.expect(set(refused) == {"402 budget_exceeded"}, f"{name}: the others are refused for the budget")
    ended = await all_ended(client, stages[0].url, accepted)
    findings.expect({task["status"] for task in ended.values()} == {"succeeded"}, f"{name}: what is accepted succeeds")
