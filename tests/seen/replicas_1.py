"""replicas.1: two daemons on one PostgreSQL, killed with and without return, and one that sleeps through its lease."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from providers import simulated
from providers.simulated.bfl import BflOptions
from router.flow.replicas import LEASE_S
from tests.postgres import Server, running_server
from tests.seen.fleet import Daemons, daemons, fleet_database
from tests.seen.spine_3 import CONFIG, Ledger, judge_bills
from tests.seen.stage import Findings, Stage, all_ended

SUBMITS_SPREAD_S = 0.6
ENDED_WITHIN_S = 180.0
# Everything that a daemon writes about tasks, as text; what only keeps the fleet together (life, place) is left out.
ROWS = """
select string_agg(line, chr(10) order by line) from (
    select task::text as line from task union all select attempt::text from attempt union all
    select hold::text from hold union all select ledger::text from ledger union all select balance::text from balance
) as rows
"""


async def show(*, short: bool = False) -> int:
    """Kill daemons at random instants, and hold what clients were told against the simulators' own bills."""
    findings, dice = Findings(), random.Random(31)  # the instants of the kills
    rounds, each = (1, 8) if short else (20, 20)
    ledger, ends = Ledger(), Counter[str]()
    async with AsyncExitStack() as stack:
        database = stack.enter_context(running_server())
        polled = await stack.enter_async_context(
            simulated.start("bfl", options=BflOptions(time_scale=1.0, latency_s=1.0, active_max=10_000))
        )
        direct = await stack.enter_async_context(
            simulated.start("openai", options=simulated.Options(time_scale=1.0, latency_s=1.0))
        )
        client = await stack.enter_async_context(aiohttp.ClientSession())
        fleet = await stack.enter_async_context(
            daemons(database, CONFIG.format(polled=polled.base_url, direct=direct.base_url))
        )
        for number in range(rounds):
            for returns in (True, False):
                victim, other = fleet.pair(dice)
                told = await submit_and_kill(client, (victim, other), ledger, number=number, each=each, dice=dice)
                if returns:
                    await victim.start()
                ended = await end_all(client, other, told, database)
                ends.update(describe(task) for task in ended.values())
                if not returns:
                    await fleet.replace(victim)
        await sleep_through_the_lease(findings, client, fleet, ledger, database=database, each=each)
        once = judge_bills(findings, polled, direct)
        submits = {prompt: len(jobs) for prompt, jobs in direct.bill.jobs_by_prompt().items()}
    findings.show("rounds of kill -9: with return, for good", f"{rounds}, {rounds}")
    findings.show("ids that clients were told", len(ledger.told))
    findings.show("submits cut before their answer", ledger.unacknowledged)
    for name, count in sorted(ends.items()):
        findings.show(f"  ended {name}", count)
    findings.show("polled jobs submitted once", once)
    findings.show("direct calls made once", f"{sum(count == 1 for count in submits.values())} of {len(submits)}")
    findings.expect(set(submits.values()) == {1}, "no task is run by two daemons")
    unruly = {name for name in ends if "failed" in name and "outcome_unknown" not in name}
    findings.expect(not unruly, f"tasks fail only by the rule of retry_unknown, not {unruly}")
    findings.expect(ends["polled: succeeded"] > 0, "polled jobs succeed across the kills")
    return findings.verdict()


async def submit(client: aiohttp.ClientSession, stage: Stage, ledger: Ledger, *, model: str, prompt: str) -> str | None:
    """Submit a task; None when the daemon was gone before its answer."""
    body = {"kind": "image.generation", "model": model, "input": {"prompt": prompt, "size": "512x512"}}
    try:
        async with client.post(f"{stage.url}/v1/tasks", json=body) as reply:
            answer = await reply.json()
    except (aiohttp.ClientError, ConnectionError):
        ledger.unacknowledged += 1
        return None
    assert reply.status == 202, answer
    ledger.told[prompt] = answer["id"]
    return str(answer["id"])


async def submit_and_kill(
    client: aiohttp.ClientSession,
    stages: Sequence[Stage],
    ledger: Ledger,
    *,
    number: int,
    each: int,
    dice: random.Random,
) -> list[str]:
    """Submit to both daemons and both providers, kill the first daemon at a random instant; returns the ids told."""

    async def submit_later(stage: Stage, model: str, index: int, delay_s: float) -> str | None:
        await asyncio.sleep(delay_s)
        prompt = f"{model} {number}-{stage.environ['POINTSMAN_REPLICA_ID']}-{len(ledger.told)}-{index}"
        return await submit(client, stage, ledger, model=model, prompt=prompt)

    submits = [
        asyncio.create_task(submit_later(stage, model, index, dice.random() * SUBMITS_SPREAD_S))
        for stage in stages
        for model in ("polled", "direct")
        for index in range(each)
    ]
    await asyncio.sleep(0.1 + dice.random() * 1.6)
    stages[0].kill()
    return [task_id for task_id in await asyncio.gather(*submits) if task_id is not None]


async def end_all(
    client: aiohttp.ClientSession, stage: Stage, told: list[str], database: Server
) -> dict[str, dict[str, Any]]:
    """Wait until every task has ended; say what the rows are when they do not."""
    try:
        return await all_ended(client, stage.url, told, ENDED_WITHIN_S)
    except TimeoutError:
        name = fleet_database(stage)
        print(
            database.administer(
                "select id, state, owner, fence, version, tries, not_before from task "
                "where state in ('pending', 'running', 'retrying')",
                name,
            )
        )
        print(database.administer("select * from life", name), database.administer("select * from place", name))
        print(database.administer("select * from circuit", name), stage.log()[-3000:])
        raise


async def sleep_through_the_lease(
    findings: Findings,
    client: aiohttp.ClientSession,
    fleet: Daemons,
    ledger: Ledger,
    *,
    database: Server,
    each: int,
) -> None:
    """Stop a daemon for two leases in the midst of its tasks; when it goes on it must change nothing."""
    sleeper, other = fleet.stages
    prompts = [(model, f"{model} asleep {index}") for model in ("polled", "direct") for index in range(each)]
    told = await asyncio.gather(
        *(submit(client, sleeper, ledger, model=model, prompt=prompt) for model, prompt in prompts)
    )
    assert sleeper.process is not None
    sleeper.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(2 * LEASE_S)
        ended = await all_ended(client, other.url, [one for one in told if one is not None], ENDED_WITHIN_S)
        name = fleet_database(sleeper)
        before = database.administer(ROWS, name)
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(LEASE_S / 2)  # it has every chance
    after = database.administer(ROWS, name)
    findings.show("SIGSTOP for s, tasks taken over and ended meanwhile", f"{2 * LEASE_S:g}, {len(ended)}")
    findings.show(
        "rows before SIGCONT, and that differ after it", f"{len(before.splitlines())}, {differing(before, after)}"
    )
    findings.expect(before == after, "a daemon that slept through its lease changes no row")
    findings.expect(len(ended) == len(prompts), "every task of the sleeper ends elsewhere")


def differing(before: str, after: str) -> int:
    """How many rows are not as they were."""
    return len(set(before.splitlines()) ^ set(after.splitlines()))


def describe(task: dict[str, object]) -> str:
    """Model, end, and the word of the error."""
    error = task["error"]
    why = f" ({error['code']})" if isinstance(error, dict) else ""
    return f"{task['model']}: {task['status']}{why}"
