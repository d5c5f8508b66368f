"""surfaces.6: callbacks against receivers that fail, hang, redirect and restart, the daemon killed in between.

Each ending must arrive at least once with a signature that the public library believes, and under one id however often.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from providers import simulated
from providers.simulated.faults import Fault, FaultKind
from tests.receiver import Answer, Delivery, Receiver, receiving
from tests.seen.stage import Findings, Stage, all_ended, staged
from tests.waiting import poll_until

CONFIG = """
version: 1
providers:
  direct: {{adapter: openai, base_url: "{direct}", api_key: "sk-simulated-direct", max_concurrency: 30}}
  prudish: {{adapter: openai, base_url: "{prudish}", api_key: "sk-simulated-prudish", max_concurrency: 30}}
models:
  direct: {{kind: image, targets: [{{provider: direct, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
  refused: {{kind: image, targets: [{{provider: prudish, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
"""
HABITS = ("good", "fails", "hangs", "redirects")
HANGS_EVERY = 10


@dataclass(slots=True)
class Mail:
    """All that arrived: which ids of a task were taken with 2xx and of which type, how often each id came."""

    secret: str = ""
    taken: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    came: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    slow: int = 0
    forged: int = 0
    strayed: int = 0

    def answer(self, habit: str) -> Answer:
        """How a receiver of this habit answers: badly at first, then well."""

        async def answer(delivery: Delivery, _before: int) -> web.Response:
            try:
                body = delivery.verified(self.secret)
            except Exception:  # noqa: BLE001 - whatever the library says, it does not believe it
                self.forged += 1
                return web.Response(status=400)
            before = self.came[delivery.id]
            self.came[delivery.id] += 1
            task_id = body["data"]["id"]
            self.ids[task_id].add(delivery.id)
            self.strayed += delivery.path != f"/{habit}"
            if habit == "fails" and before < 2:
                self.answers["HTTP 500"] += 1
                return web.Response(status=500)
            if habit == "redirects" and before < 1:
                self.answers["HTTP 307"] += 1
                return web.Response(status=307, headers={"Location": "/elsewhere"})
            if habit == "hangs" and before < 1:
                self.slow += 1
                if self.slow % HANGS_EVERY == 1:
                    self.answers["no answer"] += 1
                    await asyncio.sleep(3600)
            self.taken[task_id].add((body["type"], delivery.id))
            self.answers["HTTP 204"] += 1
            return web.Response(status=204)

        return answer


@dataclass(slots=True)
class Receivers:
    """One receiver per habit, on ports that they keep when they are started again."""

    mail: Mail
    ports: dict[str, int] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """Listen, at the same ports as before."""
        for habit in HABITS:
            made: Receiver = await self.stack.enter_async_context(
                receiving(self.mail.answer(habit), self.ports.get(habit, 0))
            )
            self.ports[habit] = made.port

    async def stop(self) -> None:
        """Be gone; what hangs is cut."""
        await self.stack.aclose()

    def url(self, number: int) -> str:
        """Where the task of a number wants to be told."""
        habit = HABITS[number % len(HABITS)]
        return f"http://127.0.0.1:{self.ports[habit]}/{habit}"


async def show(*, short: bool = False) -> int:
    """Submit, kill, restart, and hold what arrived against what each task came to."""
    findings, dice = Findings(), random.Random(6)  # the instants of the kills
    rounds, each = (2, 20) if short else (5, 200)
    mail, ends, began_s = Mail(), Counter[str](), time.monotonic()
    receivers = Receivers(mail)
    await receivers.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(receivers.stop)
        direct = await stack.enter_async_context(
            simulated.start("openai", options=simulated.Options(time_scale=1.0, latency_s=0.2))
        )
        refusing = simulated.Options(time_scale=0.01, faults=(Fault(kind=FaultKind.MODERATION_BLOCKED),))
        prudish = await stack.enter_async_context(simulated.start("openai", options=refusing))
        config = CONFIG.format(direct=direct.base_url, prudish=prudish.base_url)
        stage = await stack.enter_async_context(staged(config, POINTSMAN_TIME_SCALE="0.001"))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        async with client.get(f"{stage.url}/v1/webhook_secret") as reply:
            mail.secret = (await reply.json())["secret"]
        told: list[str] = []
        for number in range(rounds):
            told += await one_round(stage, client, receivers, first=number * each, each=each, dice=dice)
        statuses = {
            task_id: task["status"] for task_id, task in (await all_ended(client, stage.url, told, 120.0)).items()
        }
        ends.update(statuses.values())
        await poll_until(lambda: all(mail.taken[task_id] for task_id in told), "each ending to arrive", 120.0)
    findings.show("tasks with a callback that clients were told", len(told))
    for status, count in sorted(ends.items()):
        findings.show(f"  ended {status}", count)
    findings.show("kills of the daemon, restarts of the receivers", f"{rounds}, {rounds}")
    for answer, count in sorted(mail.answers.items()):
        findings.show(f"  deliveries answered with {answer}", count)
    findings.show("deliveries, of them repeats", f"{mail.came.total()}, {mail.came.total() - len(mail.came)}")
    findings.show("seconds", round(time.monotonic() - began_s, 1))
    judge(findings, mail, statuses)
    return findings.verdict()


def judge(findings: Findings, mail: Mail, statuses: dict[str, str]) -> None:
    """Each ending arrived, as what it was, under one id, signed; and every habit was met."""
    silent = [task_id for task_id in statuses if not mail.taken[task_id]]
    wrong = [
        task_id
        for task_id, status in statuses.items()
        if {one for one, _id in mail.taken[task_id]} != {f"task.{status}"}
    ]
    shifting = [task_id for task_id, ids in mail.ids.items() if len(ids) != 1]
    findings.expect(bool(statuses), "clients were told of tasks")
    findings.expect(not silent, f"each ending arrives at least once, not {len(silent)} never")
    findings.expect(not wrong, f"what arrives says how the task ended, not {wrong[:3]}")
    findings.expect(not shifting, f"the id stays over repeats, not {shifting[:3]}")
    findings.expect(mail.forged == 0, f"each signature is believed, not {mail.forged} refused")
    findings.expect(mail.strayed == 0, f"no redirect is followed, not {mail.strayed}")
    for answer in ("HTTP 500", "HTTP 307", "no answer"):
        findings.expect(mail.answers[answer] > 0, f"a receiver answers with {answer}")
    findings.expect({"succeeded", "failed"} <= set(statuses.values()), "tasks end well and badly")


async def one_round(
    stage: Stage, client: aiohttp.ClientSession, receivers: Receivers, *, first: int, each: int, dice: random.Random
) -> list[str]:
    """Submit, restart the receivers, kill the daemon at a random instant and start it again; returns the ids told."""
    told: list[str] = []

    async def submit(number: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        body = {
            "kind": "image.generation",
            "model": "refused" if number % 5 == 0 else "direct",
            "input": {"prompt": f"picture {number}", "size": "512x512"},
            "callback_url": receivers.url(number),
        }
        if number % 7 == 0:
            body["start_within"] = 0.05
        try:
            async with client.post(f"{stage.url}/v1/tasks", json=body) as reply:
                answer = await reply.json()
            assert reply.status == 202, answer
            told.append(answer["id"])
            if number % 9 == 0:
                async with client.post(f"{stage.url}/v1/tasks/{answer['id']}/cancel") as reply:
                    await reply.read()
        except (aiohttp.ClientError, ConnectionError):
            return  # cut by the kill: either told already, or nobody knows of it

    submits = [asyncio.create_task(submit(first + index, dice.random() * 0.6)) for index in range(each)]
    await asyncio.sleep(0.3 + dice.random() * 0.5)
    await receivers.stop()
    await asyncio.sleep(0.2)
    await receivers.start()
    await asyncio.sleep(dice.random() * 1.0)
    stage.kill()
    await asyncio.gather(*submits)
    await stage.start()
    return told
