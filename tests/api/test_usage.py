"""`GET /v1/usage`: sums of what the tenant spent, and what is said when the question makes no sense."""

from datetime import UTC, datetime

import pytest

from tests.api.house import Desk, FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "size": "1024x1024"}}


async def make(house, count=1):
    for _ in range(count):
        reply = await house.client.post("/v1/tasks", json=BODY)
        task_id = (await reply.json())["id"]

        async def over(task_id=task_id):
            task = await (await house.client.get(f"/v1/tasks/{task_id}")).json()
            return task["status"] in {"succeeded", "failed"}

        await poll_until(over, "the task to end")


async def usage(house, query=""):
    reply = await house.client.get(f"/v1/usage{query}")
    return reply.status, await reply.json()


async def test_spending_is_summed_by_day_model_provider_and_key():
    async with open_house() as house:
        await make(house, 3)
        status, body = await usage(house)
        today = datetime.fromtimestamp(house.services.now() / 1000, UTC).date().isoformat()

        assert (status, body["object"], body["tenant"], body["to"]) == (200, "usage", "default", today)
        (line,) = body["data"]
        assert line == {
            "day": today,
            "model": "cat",
            "provider": line["provider"],
            "key_id": None,
            "attempts": 3,
            "delivered": 3,
            "unknown": 0,
            "cost_usd": "0.09",
            "wasted_usd": "0",
        }
        assert body["total"] == {"attempts": 3, "delivered": 3, "unknown": 0, "cost_usd": "0.09", "wasted_usd": "0"}


async def test_an_attempt_whose_bill_nobody_knows_is_counted_and_in_no_sum():
    async with open_house(desk=Desk(answers=[failing(FailureKind.UNKNOWN)])) as house:
        await make(house, 2)
        _status, body = await usage(house)

        assert body["total"] == {"attempts": 2, "delivered": 1, "unknown": 1, "cost_usd": "0.03", "wasted_usd": "0"}


async def test_lines_are_added_up_by_the_groups_asked_for():
    async with open_house() as house:
        await make(house, 2)
        _status, body = await usage(house, "?group_by=model")

        assert body["group_by"] == ["model"]
        assert [(line["model"], line["attempts"]) for line in body["data"]] == [("cat", 2)]
        assert "day" not in body["data"][0]


async def test_days_outside_the_span_are_not_in_the_sums():
    async with open_house() as house:
        await make(house)
        _status, body = await usage(house, "?from=2020-01-01&to=2020-12-31")

        assert (body["data"], body["total"]["attempts"], body["total"]["cost_usd"]) == ([], 0, "0")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?from=yesterday", "from"),
        ("?to=2026-13-01", "to"),
        ("?from=2026-02-02&to=2026-02-01", "from"),
        ("?from=2020-01-01&to=2026-01-01", "from"),
        ("?from=0001-01-01&to=0001-01-02", "to"),
        ("?to=9999-12-31", "to"),
        ("?group_by=colour", "group_by"),
        ("?group_by=day,day", "group_by"),
        ("?group_by=", "group_by"),
    ],
)
async def test_a_question_that_makes_no_sense_names_its_field(query, param):
    async with open_house() as house:
        status, body = await usage(house, query)

        assert (status, body["error"]["param"], body["error"]["error_type"]) == (400, param, "invalid_request")


async def test_another_tenants_spending_is_not_shown():
    async with open_house(rules=ruleset()) as house:
        await make(house)
        assert await house.store.spending("somebody else", 0, 2**53) == ()
