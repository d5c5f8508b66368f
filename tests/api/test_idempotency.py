"""One request is one task (contract 5.4): under a key, as an SDK's own repeat, behind a 504; at once, at another
replica, after a restart.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from router.policy.rules import Defaults
from router.store.memory import MemoryStore
from tests.api.house import DictVault, FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

ROUTE = "/v1/images/generations"
BODY = {"model": "cat", "prompt": "a cat", "size": "1024x1024"}
NATIVE = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "size": "1024x1024"}}
KEY = {"Idempotency-Key": "order-7"}
REPEAT = {"x-stainless-retry-count": "1"}
IMPATIENT = ruleset(defaults=replace(Defaults(), sync_wait_s=0.2))
PATIENT = {**BODY, "start_within": 30}  # not to be ended by a short sync_wait


@asynccontextmanager
async def two_replicas(rules=None):
    """Two daemons on one store, each with a provider of its own."""
    said = {"store": MemoryStore(shared=True), "vault": DictVault()}
    async with open_house(rules, replica="one", **said) as one, open_house(rules, replica="two", **said) as two:
        yield one, two


async def ask(house, headers=None, body=None):
    reply = await house.client.post(ROUTE, json=body or BODY, headers=headers or {})
    return reply.status, reply.headers, await reply.json()


def paid(*houses):
    return sum(len(house.desk.jobs) for house in houses)


async def test_fifty_equal_calls_under_one_key_at_once_are_one_picture():
    async with open_house() as house:
        answers = await asyncio.gather(*(ask(house, KEY) for _ in range(50)))

        assert {status for status, _headers, _body in answers} == {200}
        assert len({headers["X-Task-Id"] for _status, headers, _body in answers}) == 1
        assert len({body["data"][0]["b64_json"] for _status, _headers, body in answers}) == 1
        assert paid(house) == 1


async def test_equal_calls_under_one_key_at_two_replicas_are_one_picture():
    async with two_replicas() as (one, two):
        calls = [ask(house, KEY) for _ in range(10) for house in (one, two)]
        answers = await asyncio.gather(*calls)

        assert {status for status, _headers, _body in answers} == {200}
        assert len({headers["X-Task-Id"] for _status, headers, _body in answers}) == 1
        assert paid(one, two) == 1


async def test_a_key_replays_after_a_restart():
    store = MemoryStore()
    async with open_house(store=store) as house:
        _status, first, _body = await ask(house, KEY)
        vault = house.vault
    async with open_house(store=store, vault=vault) as house:
        status, again, _body = await ask(house, KEY)

        assert (status, again["X-Task-Id"], again["Idempotent-Replayed"]) == (200, first["X-Task-Id"], "true")
        assert "X-Cost-USD" not in again
        assert paid(house) == 0


async def test_a_key_belongs_to_the_tenant_whatever_the_extras():
    async with open_house() as house:
        await ask(house, KEY)
        _status, headers, _body = await ask(house, KEY, {**BODY, "priority": "low", "metadata": {"a": "b"}})

        assert headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("other", ["another body", "another route"])
async def test_a_key_that_was_used_for_something_else_is_a_422(other):
    async with open_house() as house:
        await ask(house, KEY)
        if other == "another body":
            reply = await house.client.post(ROUTE, json={**BODY, "prompt": "a dog"}, headers=KEY)
        else:
            reply = await house.client.post("/v1/tasks", json=NATIVE, headers=KEY)

        assert reply.status == 422
        assert reply.headers["x-should-retry"] == "false"
        assert paid(house) == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "k" * 300, "tab\there"])
async def test_a_key_that_is_none_is_a_400_that_names_it(key):
    async with open_house() as house:
        status, _headers, body = await ask(house, {"Idempotency-Key": key})

        assert (status, body["error"]["param"], paid(house)) == (400, "Idempotency-Key", 0)


async def test_a_key_of_255_characters_is_one():
    async with open_house() as house:
        assert (await ask(house, {"Idempotency-Key": "k" * 255}))[0] == 200


# -- an SDK's own repeats ---------------------------------------------------------------------------------------------


async def test_an_announced_repeat_attaches_at_another_replica():
    async with two_replicas() as (one, two):
        one.desk.open.clear()
        first = asyncio.create_task(ask(one))
        await poll_until(lambda: one.desk.jobs, "the paid call to be out")
        repeat = asyncio.create_task(ask(two, REPEAT))
        await poll_until(lambda: two.life.waiters.waited_for(lambda _id: True), "the repeat to wait")
        one.desk.open.set()

        (_s, told, _b), (status, headers, _body) = await first, await repeat
        assert (status, headers["X-Task-Id"]) == (200, told["X-Task-Id"])
        assert paid(one, two) == 1


async def test_repeats_of_several_equal_calls_attach_to_different_tasks():
    async with open_house() as house:
        first = [await ask(house), await ask(house)]
        house.desk.open.clear()
        again = [asyncio.create_task(ask(house)) for _ in range(2)]
        await poll_until(lambda: len(house.desk.jobs) == 4, "four paid calls")
        # Both of those that live are waited for; of the others each repeat takes the oldest that nobody waits for.
        _status, repeat, _body = await ask(house, REPEAT)
        house.desk.open.set()
        await asyncio.gather(*again)

        assert repeat["X-Task-Id"] == first[0][1]["X-Task-Id"]
        assert paid(house) == 4


async def test_a_repeat_of_what_failed_unpaid_is_made_anew():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        status, failed, _body = await ask(house)
        again, headers, _body = await ask(house, REPEAT)

        assert (status, again) == (400, 200)
        assert headers["X-Task-Id"] != failed["X-Task-Id"]


# -- behind a 504 -----------------------------------------------------------------------------------------------------


async def test_a_plain_repeat_behind_a_504_collects_at_another_replica():
    async with two_replicas(IMPATIENT) as (one, two):
        one.desk.open.clear()
        two.desk.open.clear()
        status, late, _body = await ask(one, body=PATIENT)
        assert status == 504
        await poll_until(lambda: knows(two, one), "the other replica to hear of it")
        one.desk.open.set()
        two.desk.open.set()
        status, headers, _body = await ask(two, body=PATIENT)
        while status == 504:
            status, headers, _body = await ask(two, body=PATIENT)

        assert (status, headers["X-Task-Id"]) == (200, late["X-Task-Id"])
        assert paid(one, two) == 1


async def knows(house, other):
    now = house.services.now()
    left = await other.store.uncollected(now, 10)
    return left and all(house.life.intake.uncollected.holds(tenant, digest, now) for tenant, digest, _until in left)


async def test_a_plain_repeat_behind_a_504_collects_after_a_restart():
    store = MemoryStore()
    async with open_house(IMPATIENT, store=store) as house:
        house.desk.open.clear()
        status, late, _body = await ask(house, body=PATIENT)
        assert status == 504
        vault = house.vault
    async with open_house(store=store, vault=vault) as house:
        status, headers, _body = await ask(house, body=PATIENT)
        fresh, other, _body = await ask(house, body=PATIENT)

        assert (status, headers["X-Task-Id"]) == (200, late["X-Task-Id"])
        assert (fresh, other["X-Task-Id"] != late["X-Task-Id"]) == (200, True)
