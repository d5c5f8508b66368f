"""The surface of WorldRouter over HTTP: what it refuses, what it leaves out, and how its tasks are read."""

import pytest

from router.policy.rules import Rate, Tenant
from tests.api.aggregators import BODY, WORLDROUTER, able, get, over, post, rows, submitted
from tests.api.house import FailureKind, failing, open_house


async def test_a_worldrouter_client_submits_polls_and_gets_its_pictures():
    async with open_house(able()) as house:
        asked = {**BODY, "n": 2, "quality": "low", "output_format": "jpg", "response_format": "url", "user": "u"}
        task = await submitted(house, WORLDROUTER, asked)
        _status, done = await over(house, f"{WORLDROUTER}/{task['id']}")

        assert task["id"] == task["task_id"]
        assert task["id"].startswith("imgtask_")
        assert task["created_at"].endswith("+00:00")
        assert (done["status"], len(done["data"])) == ("completed", 2)
        assert done["usage"] == {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110}
        assert house.desk.jobs[0].input["output_format"] == "jpeg"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": None, "prompt": "x"}, "model"),
        ({"model": "cat"}, "prompt"),
        ({"model": "cat", "prompt": " "}, "prompt"),
        ({**BODY, "response_format": "b64_json"}, "response_format"),
        ({**BODY, "response_format": 1}, "response_format"),
        ({**BODY, "priority": "asap"}, "priority"),
    ],
)
async def test_worldrouter_refuses_only_what_it_says_it_refuses(body, param):
    async with open_house(able()) as house:
        status, answer = await post(house, WORLDROUTER, body)

        assert (status, answer["error"]["param"], answer["error"]["type"]) == (400, param, "invalid_request_error")
        assert await rows(house) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"size": "big"},
        {"size": "640x480"},
        {"size": 7},
        {"quality": "ultra"},
        {"quality": ["low"]},
        {"n": "two"},
        {"n": -1},
        {"n": True},
        {"style": "loud"},
        {"background": "transparent"},
        {"moderation": 1},
        {"output_compression": 101},
        {"output_format": "tiff"},
        {"user": {"id": 1}},
        {"image": "x"},
        {"async": 1},
        {"stream": True},
        {"generationConfig": {"imageConfig": {}}},
    ],
    ids=str,
)
async def test_what_worldrouter_cannot_use_is_ignored(odd):
    async with open_house(able()) as house:
        task = await submitted(house, WORLDROUTER, {"model": "cat", "prompt": "a cat", **odd})
        _status, done = await over(house, f"{WORLDROUTER}/{task['id']}")

        assert done["status"] == "completed"
        assert set(house.desk.jobs[0].input) <= {"prompt"}
        assert house.desk.jobs[0].n == 1


async def test_what_worldrouter_leaves_out_counts_once_and_is_the_same_request_when_it_is_repeated():
    slow = Tenant("default", rate=Rate(1, 36_000.0))
    async with open_house(able(tenants={"default": slow})) as house:
        headers, odd = {"Idempotency-Key": "once"}, {"model": "cat", "prompt": "a cat", "size": "640x480"}
        status, first = await post(house, WORLDROUTER, odd, headers=headers)
        again, same = await post(house, WORLDROUTER, odd, headers=headers)
        limited, _answer = await post(house, WORLDROUTER, odd)

        assert (status, again, limited) == (200, 200, 429)
        assert same["id"] == first["id"]


async def test_worldrouter_caps_the_number_of_pictures():
    async with open_house(able()) as house:
        task = await submitted(house, WORLDROUTER, {**BODY, "n": 5_000})
        _status, done = await over(house, f"{WORLDROUTER}/{task['id']}")

        assert len(done["data"]) == 10


async def test_worldrouter_lists_nothing():
    async with open_house(able()) as house:
        await submitted(house, WORLDROUTER)

        assert (await house.client.get(WORLDROUTER)).status == 405
        assert (await house.client.get(f"{WORLDROUTER}/")).status in {404, 405}


async def test_a_failed_and_a_cancelled_task_of_worldrouter_have_an_error_object():
    async with open_house(able()) as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        task = await submitted(house, WORLDROUTER)
        _status, failed = await over(house, f"{WORLDROUTER}/{task['id']}")
        house.desk.open.clear()
        other = await submitted(house, WORLDROUTER)
        await post(house, f"/v1/tasks/{other['id']}/cancel")
        _status, cancelled = await get(house, f"{WORLDROUTER}/{other['id']}")

        assert (failed["status"], failed["error"]["code"]) == ("failed", "invalid_request")
        assert {"message", "type", "param", "code"} <= set(failed["error"])
        assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
