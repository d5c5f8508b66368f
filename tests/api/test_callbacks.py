"""Webhooks of providers: verified on the raw body, never believed, an early poll at best; and free probes."""

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from router.outcome import FailureKind, fail
from router.policy.rules import Breaker, Webhook
from router.provider import Delivery, Done, Handle, Media, Pending
from tests.api.house import FACTS, Desk, open_house, ruleset
from tests.waiting import poll_until

SECRET = "whsec-of-the-tests"
KEYS_URL = "https://desk.invalid/keys.json"
BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat"}}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def sign(body, secret=SECRET):
    return hashlib.sha256(secret.encode() + body).hexdigest()


@dataclass(slots=True)
class HearingDesk(Desk):
    """A provider of jobs that signs: a job is done when the test says so, and is asked after once an hour."""

    is_done: bool = False
    polls: int = 0
    heard: list = field(default_factory=list)

    async def submit(self, job, call):
        self.jobs.append(job)
        return Pending(Handle("job_1"), after_s=3600)

    async def poll(self, handle, job, call):
        self.polls += 1
        return Done((Media(b64=PICTURE),)) if self.is_done else Pending(handle, after_s=3600)

    def verify(self, delivery: Delivery) -> bool:
        self.heard.append(delivery)
        good = bool(delivery.secret) and delivery.headers.get("x-signature") == sign(delivery.body, delivery.secret)
        return good or delivery.keys == {"keys": [delivery.headers.get("x-signature")]}


def hearing(webhook=Webhook(SECRET)):  # noqa: B008 - a frozen record
    rules = ruleset()
    facts = replace(FACTS, webhooks=True, polls_every_s=3600)
    return replace(
        rules, providers={name: replace(one, adapter=facts, webhook=webhook) for name, one in rules.providers.items()}
    )


@asynccontextmanager
async def house_with_a_job(**options):
    desk = HearingDesk()
    async with open_house(hearing(**options), desk=desk) as house:
        house.life.runtime.public_url = "https://us.example"
        reply = await house.client.post("/v1/tasks", json=BODY)
        task = await reply.json()
        await poll_until(lambda: house.life.runtime.live.get(task["id"]) and desk.jobs, "the job is out")
        yield house, desk, task["id"]
        desk.is_done = True
        live = house.life.runtime.live.get(task["id"])
        if live is not None:
            live.wake.set()
        reply = await house.client.get(f"/v1/tasks/{task['id']}", headers={"Prefer": "wait=30"})
        assert (await reply.json())["status"] == "succeeded"


async def send(house, path, body=b'{"status": "OK"}', signature=None):
    headers = {"X-Signature": sign(body) if signature is None else signature}
    return await house.client.post(path, data=body, headers=headers)


async def test_the_upstream_is_told_where_it_may_wake_us():
    async with house_with_a_job() as (_house, desk, task_id):
        assert desk.jobs[0].callback_url == f"https://us.example/v1/callbacks/one/{task_id}"


async def test_a_signed_webhook_brings_the_poll_forward_and_the_poll_decides():
    async with house_with_a_job() as (house, desk, task_id):
        reply = await send(house, f"/v1/callbacks/one/{task_id}")
        assert (reply.status, await reply.json()) == (200, {"received": True})
        await poll_until(lambda: desk.polls == 1, "the early poll")
        assert desk.heard[0].body == b'{"status": "OK"}', "the raw body, byte by byte"

        shown = await house.client.get(f"/v1/tasks/{task_id}")
        assert (await shown.json())["status"] == "running", "what a webhook says is not believed"


@pytest.mark.parametrize("signature", ["", "0" * 64, sign(b"another body")])
async def test_a_webhook_that_is_not_signed_wakes_nobody(signature):
    async with house_with_a_job() as (house, desk, task_id):
        reply = await send(house, f"/v1/callbacks/one/{task_id}", signature=signature)

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (401, "unauthorized")
        assert not house.life.runtime.live[task_id].wake.is_set()
        assert desk.polls == 0


async def test_an_empty_secret_verifies_nothing():
    async with house_with_a_job(webhook=Webhook("")) as (house, _desk, task_id):
        reply = await send(house, f"/v1/callbacks/one/{task_id}", signature=sign(b'{"status": "OK"}', ""))

        assert reply.status == 401


@pytest.mark.parametrize("path", ["/v1/callbacks/nobody/{id}", "/v1/callbacks/one/nothing"])
async def test_a_webhook_that_nobody_asked_for_is_a_404(path):
    async with house_with_a_job() as (house, _desk, task_id):
        assert (await send(house, path.format(id=task_id))).status == 404


async def test_without_a_public_address_or_a_way_to_verify_no_webhook_is_asked_for():
    for webhook, public_url in ((None, "https://us.example"), (Webhook(SECRET), None)):
        desk = HearingDesk(is_done=True)
        async with open_house(hearing(webhook), desk=desk) as house:
            house.life.runtime.public_url = public_url
            await house.client.post("/v1/tasks", json=BODY)
            await poll_until(lambda: desk.jobs, "the job is out")  # noqa: B023 - awaited within the round
            assert desk.jobs[0].callback_url is None
            await poll_until(lambda: house.life.runtime.live, "the poll loop")
            next(iter(house.life.runtime.live.values())).wake.set()
            await poll_until(lambda: not house.life.runtime.live, "the end")


async def test_published_keys_are_fetched_once_and_kept():
    asked = []

    class Fetcher:
        @asynccontextmanager
        async def open(self, url, allowed_origin, timeout_s):
            asked.append((url, allowed_origin))
            yield self

        async def chunks(self):
            yield b'{"keys": ["key-1"]}'

    async with house_with_a_job(webhook=Webhook(keys_url=KEYS_URL)) as (house, _desk, task_id):
        object.__setattr__(house.services.world, "fetch", Fetcher())
        answers = [
            await send(house, f"/v1/callbacks/one/{task_id}", signature=key) for key in ("key-1", "key-2", "key-1")
        ]

        assert [answer.status for answer in answers] == [200, 401, 200]
        assert asked == [(KEYS_URL, "https://desk.invalid")]


# -- probes -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ProbedDesk(Desk):
    """A provider with a free call."""

    well: bool = False
    probes: int = 0

    async def probe(self, account, call):
        self.probes += 1
        return None if self.well else fail(FailureKind.OVERLOADED, "still down")


async def test_a_provider_that_comes_back_is_asked_something_free_before_a_task_is_risked_on_it():
    rules, facts = ruleset(), replace(FACTS, probes=True)
    short = Breaker(consecutive_failures=1, open_for_s=0.05, open_max_s=0.05)
    one = replace(rules.providers["one"], adapter=facts, breaker=short)
    model = rules.models["cat"]
    alone = replace(model, otherwise=replace(model.otherwise, targets=model.otherwise.targets[:1]))
    rules = replace(rules, providers={"one": one}, models={"cat": alone})
    desk = ProbedDesk(answers=[fail(FailureKind.OVERLOADED, "down")])
    async with open_house(rules, desk=desk) as house:
        reply = await house.client.post("/v1/tasks", json=BODY)
        task = await reply.json()
        await poll_until(lambda: desk.probes >= 3, "free probes")
        assert len(desk.jobs) == 1, "no task was sent to a provider that does not answer a free question"
        desk.well = True
        reply = await house.client.get(f"/v1/tasks/{task['id']}", headers={"Prefer": "wait=30"})

        shown = await reply.json()
        assert (shown["status"], len(desk.jobs), len(shown["attempts"])) == ("succeeded", 2, 2)
