"""Callers whose task was accepted, and a store that cannot be asked while they wait: they are never told otherwise."""

import asyncio
from dataclasses import replace

from router.persistence import Unavailable
from router.policy.rules import Defaults
from router.store.memory import MemoryStore
from tests.api.house import open_house, ruleset
from tests.waiting import poll_until

BODY = {"model": "cat", "prompt": "a cat", "size": "1024x1024", "start_within": 600}
ROUTE = "/v1/images/generations"


class BlindStore(MemoryStore):
    """Takes what is written and cannot be asked what a task has become. `looks` counts who tried."""

    def __init__(self):
        super().__init__()
        self.is_blind = True
        self.looks = 0

    async def view(self, tenant, task_id):
        self.looks += 1
        if self.is_blind:
            raise Unavailable
        return await super().view(tenant, task_id)


async def test_a_caller_waits_until_the_store_can_be_asked_again():
    store = BlindStore()
    async with open_house(store=store) as house:
        calling = asyncio.create_task(house.client.post(ROUTE, json=BODY))
        await poll_until(lambda: store.looks >= 2, "the caller and the pump to look")
        store.is_blind = False
        reply = await calling

        assert (reply.status, len((await reply.json())["data"]), len(house.desk.jobs)) == (200, 1, 1)


async def test_a_caller_whose_time_is_up_is_told_to_collect_what_was_accepted():
    store = BlindStore()
    rules = ruleset()
    impatient = replace(rules, defaults=replace(Defaults(), sync_wait_s=0.2))
    async with open_house(impatient, store=store) as house:
        reply = await house.client.post(ROUTE, json=BODY)
        error, task_id = (await reply.json())["error"], reply.headers["X-Task-Id"]
        assert (reply.status, error["code"], error["billing"]) == (503, "unavailable", "unknown")
        assert "was accepted and goes on" in error["message"]
        assert (reply.headers["x-should-retry"], reply.headers["Location"]) == ("true", f"/v1/tasks/{task_id}")

        native = {"kind": "image.generation", "model": "cat", "input": {"prompt": "another", "size": "1024x1024"}}
        accepted = await house.client.post("/v1/tasks", json=native, headers={"Prefer": "wait=1"})
        assert (accepted.status, (await accepted.json())["status"]) == (202, "pending")

        store.is_blind = False
        house.life.adopt(rules)
        collected = await house.client.post(ROUTE, json=BODY)
        assert (collected.status, collected.headers["X-Task-Id"]) == (200, task_id)
