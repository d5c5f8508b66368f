"""The native routes against a task in every state, and what a listing, a link and a name do as time goes on."""

import asyncio
from dataclasses import replace

import pytest

from router.policy.rules import Defaults
from tests.api.house import FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

ONE_PLACE = replace(
    ruleset(), providers={name: replace(one, max_concurrency=1) for name, one in ruleset().providers.items()}
)
BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "size": "1024x1024"}}


async def call(house, method, path, body=None):
    reply = await house.client.request(method, path, json=body)
    return reply.status, reply.headers, await reply.json()


async def submit(house, **more):
    status, _headers, task = await call(house, "POST", "/v1/tasks", {**BODY, **more})
    assert status == 202, task
    return task["id"]


async def until(house, task_id, *wanted):
    async def seen():
        _status, _headers, task = await call(house, "GET", f"/v1/tasks/{task_id}")
        return task if task["status"] in wanted else None

    return await poll_until(seen, f"the task to be {wanted}")


async def pending(house):
    """Its provider has one place, and that is taken."""
    house.desk.open.clear()
    await submit(house)
    await poll_until(lambda: house.desk.jobs, "the only place to be taken")
    return await submit(house)


async def running(house):
    house.desk.open.clear()
    task_id = await submit(house)
    await poll_until(lambda: house.desk.jobs, "the paid call to be out")
    return task_id


async def retrying(house):
    house.desk.answers = [failing(FailureKind.THROTTLED, rest_s=60.0), failing(FailureKind.THROTTLED, rest_s=60.0)]
    task_id = await submit(house)
    await until(house, task_id, "retrying")
    return task_id


async def succeeded(house):
    task_id = await submit(house)
    await until(house, task_id, "succeeded")
    return task_id


async def failed(house):
    house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
    task_id = await submit(house)
    await until(house, task_id, "failed")
    return task_id


async def cancelled(house):
    task_id = await running(house)
    await call(house, "POST", f"/v1/tasks/{task_id}/cancel")
    return task_id


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        (pending, 200, "cancelled"),
        (running, 200, "cancelled"),
        (retrying, 200, "cancelled"),
        (cancelled, 200, "cancelled"),
        (succeeded, 409, "conflict"),
        (failed, 409, "conflict"),
    ],
)
async def test_a_cancel_answers_by_the_state_of_the_task(state, status, word):
    async with open_house(ONE_PLACE) as house:
        task_id = await state(house)
        jobs = len(house.desk.jobs)
        answered, headers, body = await call(house, "POST", f"/v1/tasks/{task_id}/cancel")

        assert answered == status, body
        if status == 200:
            assert (body["status"], body["id"]) == (word, task_id)
        else:
            assert (body["error"]["error_type"], headers["x-should-retry"]) == (word, "false")
        house.desk.open.set()
        assert len(house.desk.jobs) == jobs


@pytest.mark.parametrize(
    ("state", "status"),
    [(pending, 409), (running, 409), (retrying, 409), (cancelled, 409), (succeeded, 409), (failed, 202)],
)
async def test_only_a_failed_task_is_made_again(state, status):
    async with open_house(ONE_PLACE) as house:
        task_id = await state(house)
        answered, _headers, body = await call(house, "POST", f"/v1/tasks/{task_id}/retry")

        assert answered == status, body
        if status == 202:
            assert (body["retry_of"], body["id"] != task_id) == (task_id, True)


async def test_a_task_that_expired_unstarted_is_cancelled_by_nobody():
    async with open_house(ONE_PLACE) as house:
        await running(house)
        task_id = await submit(house, start_within=0.05)
        await until(house, task_id, "expired")
        status, _headers, body = await call(house, "POST", f"/v1/tasks/{task_id}/cancel")

        assert (status, body["error"]["error_type"]) == (409, "conflict")
        assert len(house.desk.jobs) == 1


# -- listings ---------------------------------------------------------------------------------------------------------


async def test_a_cursor_stays_where_it_was_while_new_tasks_come():
    async with open_house() as house:
        made = [await submit(house) for _ in range(6)]
        _status, _headers, page = await call(house, "GET", "/v1/tasks?limit=3")
        await asyncio.gather(*(submit(house) for _ in range(5)))
        _status, _headers, rest = await call(house, "GET", f"/v1/tasks?limit=10&cursor={page['next_cursor']}")

        # Ids tell the order of those that came within one millisecond.
        assert [one["id"] for one in page["data"] + rest["data"]] == sorted(made, reverse=True)
        assert (rest["has_more"], rest["next_cursor"]) == (False, None)


async def test_a_cursor_that_was_made_up_or_cut_is_a_400():
    async with open_house() as house:
        for _ in range(3):
            await submit(house)
        _status, _headers, page = await call(house, "GET", "/v1/tasks?limit=1")
        for cursor in ("bogus", page["next_cursor"][:-3], page["next_cursor"] + "A" * 500, "%00", ""):
            status, _headers, body = await call(house, "GET", f"/v1/tasks?cursor={cursor}")
            assert (status, body["error"]["param"]) == (400, "cursor"), cursor


# -- links ------------------------------------------------------------------------------------------------------------


async def test_each_read_signs_links_anew_and_an_old_one_works_until_it_ends():
    async with open_house(ruleset(defaults=replace(Defaults(), link_ttl_s=3600.0))) as house:
        task_id = await succeeded(house)
        _status, _headers, first = await call(house, "GET", f"/v1/tasks/{task_id}")
        link = first["output_url"].removeprefix(house.url)
        reply = await house.client.get(link)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "image/png")

        forged = link.replace("exp=", "exp=9")
        reply = await house.client.get(forged)
        assert reply.status == 403
        reply = await house.client.get(link.replace(f"{task_id}/0", f"{task_id}/1"))
        assert reply.status == 403


async def test_a_link_that_has_run_out_says_so():
    async with open_house(ruleset(defaults=replace(Defaults(), link_ttl_s=0.0))) as house:
        task_id = await succeeded(house)
        _status, _headers, task = await call(house, "GET", f"/v1/tasks/{task_id}")
        reply = await house.client.get(task["output_url"].removeprefix(house.url))

        assert reply.status == 403
        assert "expired" in (await reply.json())["error"]["message"]


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, "cat", "dall-e-3"])
async def test_a_model_is_found_by_its_name_its_alias_or_as_the_default_of_its_kind(model):
    async with open_house() as house:
        body = {name: value for name, value in {**BODY, "model": model}.items() if value is not None}
        status, _headers, task = await call(house, "POST", "/v1/tasks", body)

        assert (status, task["model"]) == (202, "cat")


async def test_without_a_default_the_first_model_of_the_kind_is_taken():
    async with open_house(ruleset(default_model={})) as house:
        body = {name: value for name, value in BODY.items() if name != "model"}
        _status, _headers, task = await call(house, "POST", "/v1/tasks", body)

        assert task["model"] == "cat"
