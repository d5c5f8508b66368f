"""What generated requests (`make fuzz`) have found, each as a plain test. That an answer is documented is asked by the
house of these tests itself, which holds every answer against the OpenAPI document.
"""

import pytest

from router.outcome import FailureKind
from tests.api.house import failing, open_house

TASKS, IMAGES = "/v1/tasks", "/v1/images/generations"
CAT = {"model": "cat", "prompt": "a cat"}


@pytest.mark.parametrize("field", ["kind", "provider"])
@pytest.mark.parametrize("value", [[], {}, [["price"]]])
async def test_a_list_where_a_word_belongs_is_a_400(field, value):
    async with open_house() as house:
        body = {**CAT, field: value if field == "kind" else {"sort": value}}
        reply = await house.client.post("/v1/route/explain", json=body)
        assert (reply.status, (await reply.json())["error"]["error_type"]) == (400, "invalid_request")


async def test_the_openai_view_of_a_picture_that_was_never_begun_is_a_documented_410():
    async with open_house() as house:
        body = {**CAT, "start_within": 1e-300}
        made = await house.client.post(IMAGES, json=body, headers={"Prefer": "respond-async"})
        task_id = (await made.json())["id"]
        reply = await house.client.get(f"{TASKS}/{task_id}?view=openai", headers={"Prefer": "wait=30"})
        assert (reply.status, (await reply.json())["error"]["error_type"]) == (410, "expired")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FailureKind.REFUSED, 400),
        (FailureKind.BAD_REQUEST, 400),
        (FailureKind.UNUSABLE, 502),
        (FailureKind.UNKNOWN, 504),
    ],
)
async def test_the_openai_view_of_a_picture_that_failed_is_the_documented_error_of_the_call(kind, status):
    async with open_house() as house:
        house.desk.answers = [failing(kind) for _ in range(9)]
        made = await house.client.post(IMAGES, json=CAT, headers={"Prefer": "respond-async"})
        task_id = (await made.json())["id"]
        reply = await house.client.get(f"{TASKS}/{task_id}?view=openai", headers={"Prefer": "wait=30"})
        assert (reply.status, (await reply.json())["error"]["task_id"]) == (status, task_id)
