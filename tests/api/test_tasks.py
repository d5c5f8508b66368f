"""The native task routes, models, operators' routes and what is said to whom."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from router.events import AttemptEnded, TaskHeld
from router.policy.rules import Tenant
from router.provider import Kind
from router.store.memory import MemoryStore
from router.task import Priority, Task, new_id
from router.world import WallClock
from tests.api.house import ADMIN_KEY, Desk, FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "size": "1024x1024"}}
FIELDS = {
    "id", "object", "kind", "status", "progress", "model", "provider", "target_model", "surface", "priority", "input",
    "metadata", "output", "output_url", "usage", "cost", "retry_count", "queue_position", "eta_seconds", "latency_ms",
    "attempts", "error", "warnings", "retry_of", "events_url", "request_id", "created_at", "started_at", "updated_at",
    "completed_at", "expires_at",
}  # fmt: skip


async def submit(house, **more):
    reply = await house.client.post("/v1/tasks", json={**BODY, **more})
    body = await reply.json()
    assert reply.status == 202, body
    return body


async def read(house, task_id):
    return await (await house.client.get(f"/v1/tasks/{task_id}")).json()


async def ended(house, task_id):
    async def over():
        task = await read(house, task_id)
        return task if task["status"] in {"succeeded", "failed", "cancelled", "expired"} else None

    return await poll_until(over, "the task to end")


async def test_a_task_shows_every_field_of_the_contract_from_its_first_answer_to_its_end():
    async with open_house() as house:
        first = await submit(house, metadata={"team": "ads"})
        last = await ended(house, first["id"])

        assert set(first) == set(last) == FIELDS
        assert last["status"] == "succeeded"
        assert last["cost"] == {"total_usd": "0.03", "wasted_usd": "0", "billing": "billed"}
        assert last["output_url"] == last["output"][0]["url"]
        assert set(last["output"][0]) == {"url", "content_type", "bytes", "width", "height", "sha256", "revised_prompt"}
        assert (last["progress"], last["surface"], last["priority"], last["error"]) == (100, "native", "normal", None)
        assert last["latency_ms"] >= 0
        assert last["created_at"].endswith("Z")


@pytest.mark.parametrize("spelling", ["task_", "imgtask_", "video_"])
async def test_a_task_is_found_under_all_three_spellings_of_its_id(spelling):
    async with open_house() as house:
        task = await submit(house)
        reply = await house.client.get(f"/v1/tasks/{spelling}{task['id'].removeprefix('task_')}")

        assert reply.status == 200
        assert reply.headers["X-Task-Id"] == task["id"]


async def test_reading_and_listing_call_no_writing_verb():
    async with open_house() as house:
        task = await submit(house)
        await ended(house, task["id"])
        before = writes(house)
        await read(house, task["id"])
        await house.client.get("/v1/tasks")

        assert writes(house) == before


def writes(house):
    """The writing verbs called so far; signs of life aside, which go by the clock."""
    return {verb: count for verb, count in house.store.writes.items() if verb != "heartbeat"}


async def test_an_unsupported_field_is_dropped_with_a_warning_unless_it_is_required():
    async with open_house() as house:
        task = await submit(house, input={"prompt": "a cat", "background": "opaque"})
        done = await ended(house, task["id"])
        refused = await house.client.post(
            "/v1/tasks",
            json={**BODY, "input": {"prompt": "a", "background": "opaque"}, "provider": {"require_parameters": True}},
        )

        assert any("background" in warning for warning in done["warnings"])
        assert "background" not in house.desk.jobs[0].input
        assert (refused.status, (await refused.json())["error"]["param"]) == (400, "background")


async def test_a_cancel_ends_a_running_task_at_once_and_its_attempt_is_heard_to_its_bill():
    async with open_house() as house:
        events = []
        house.life.runtime.bus.subscribe(events.append)
        house.desk.open.clear()
        task = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        reply = await house.client.post(f"/v1/tasks/{task['id']}/cancel")
        again = await house.client.post(f"/v1/tasks/{task['id']}/cancel")
        house.desk.open.set()

        async def heard():
            now = await read(house, task["id"])
            return now if now["attempts"][0]["outcome"] else None

        after = await poll_until(heard, "the attempt to be heard")

        assert (reply.status, again.status) == (200, 200)
        assert (await reply.json())["error"]["billing"] == "unknown"
        assert after["error"]["billing"] == "billed"
        assert (await reply.json())["status"] == after["status"] == "cancelled"
        assert after["attempts"][0]["outcome"] == "succeeded"
        assert len(after["attempts"][0]["output"]) == 1
        told = await poll_until(lambda: [one for one in events if isinstance(one, AttemptEnded)], "the news of it")
        assert [(one.heard, one.task.state.value) for one in told] == [(True, "cancelled")]
        assert after["cost"] == {"total_usd": "0.03", "wasted_usd": "0.03", "billing": "billed"}


async def test_a_cancel_after_the_end_is_a_conflict_that_says_do_not_repeat():
    async with open_house() as house:
        task = await submit(house)
        await ended(house, task["id"])
        reply = await house.client.post(f"/v1/tasks/{task['id']}/cancel")

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (409, "conflict")
        assert reply.headers["x-should-retry"] == "false"


async def test_only_a_failed_task_can_be_retried_and_the_new_one_names_the_old():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        task = await submit(house)
        old = await ended(house, task["id"])
        fresh = await (await house.client.post(f"/v1/tasks/{task['id']}/retry")).json()
        new = await ended(house, fresh["id"])
        refused = await house.client.post(f"/v1/tasks/{new['id']}/retry")

        assert old["error"]["error_type"] == "invalid_request"
        assert "attempts" not in old["error"]
        assert (new["retry_of"], new["status"]) == (old["id"], "succeeded")
        assert refused.status == 409


async def test_a_listing_goes_through_all_pages_newest_first_and_takes_filters():
    async with open_house() as house:
        ids = [(await submit(house))["id"] for _ in range(5)]
        for task_id in ids:
            await ended(house, task_id)
        seen, times, cursor = [], [], None
        while True:
            params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            page = await (await house.client.get("/v1/tasks", params=params)).json()
            seen += [task["id"] for task in page["data"]]
            times += [task["created_at"] for task in page["data"]]
            cursor = page["next_cursor"]
            if not page["has_more"]:
                break
        none = await (await house.client.get("/v1/tasks", params={"status": "failed"})).json()

        assert sorted(seen) == sorted(ids)
        assert times == sorted(times, reverse=True)
        assert none["data"] == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"status": "lost"}, "status"),
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "forged"}, "cursor"),
        ({"created_after": "yesterday"}, "created_after"),
    ],
)
async def test_a_bad_filter_is_a_400_that_names_it(params, param):
    async with open_house() as house:
        reply = await house.client.get("/v1/tasks", params=params)

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"kind": None}, "kind"),
        ({"kind": "image.painting"}, "kind"),
        ({"kind": "video.generation", "model": "cat"}, "model"),
        ({"kind": "chat.completion"}, "messages"),
        ({"kind": "image.edit"}, "image"),
        ({"input": None}, "input"),
        ({"input": {"prompt": 1}}, "prompt"),
        ({"colour": "red"}, "colour"),
        ({"input": {"prompt": "a cat", "priority": "high"}}, "input.priority"),
    ],
)
async def test_a_bad_native_field_is_a_400_that_names_it(change, param):
    async with open_house() as house:
        reply = await house.client.post("/v1/tasks", json={**BODY, **change})

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/tasks", 405, "invalid_request"),
        ("GET", "/v1/images/generations", 405, "invalid_request"),
        ("GET", "/v1/tasks/task_unknown", 404, "not_found"),
        ("POST", "/v1/tasks/task_unknown/cancel", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", "/v1/files/task_x/0", 403, "forbidden"),
    ],
)
async def test_what_is_not_there_gets_the_same_error_body(method, path, status, error_type):
    async with open_house() as house:
        reply = await house.client.request(method, path)
        error = (await reply.json())["error"]

        assert (reply.status, error["error_type"]) == (status, error_type)
        assert reply.headers["X-Error-Type"] == error_type
        assert error["request_id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"Authorization": f"Basic {ADMIN_KEY}"}, 401),
        ({"Authorization": f"Bearer {ADMIN_KEY}"}, 200),
        ({"x-api-key": ADMIN_KEY}, 200),
    ],
)
async def test_a_key_is_required_and_read_from_both_headers(headers, status):
    async with open_house(auth=True) as house:
        tasks = await house.client.get("/v1/tasks", headers=headers)
        admin = await house.client.get("/admin/v1/providers", headers=headers)
        in_query = await house.client.get("/v1/tasks", params={"api_key": ADMIN_KEY})

        assert (tasks.status, admin.status, in_query.status) == (status, status, 401)


async def test_health_and_readiness_are_open_and_metrics_answer_on_loopback():
    async with open_house(auth=True) as house:
        health = await house.client.get("/healthz")
        ready = await house.client.get("/readyz")
        metrics = await house.client.get("/metrics")

        assert (health.status, ready.status, metrics.status) == (200, 200, 200)
        assert (await ready.json())["checks"] == {"store": "ok"}


async def test_an_operator_forces_a_breaker_open_and_the_next_task_goes_elsewhere():
    async with open_house() as house:
        forced = await house.client.post("/admin/v1/breakers/one/one/open")
        task = await ended(house, (await submit(house))["id"])
        unknown = await house.client.post("/admin/v1/breakers/none/one/open")
        await house.client.post("/admin/v1/breakers/one/*/reset")
        back = await ended(house, (await submit(house))["id"])

        assert (forced.status, unknown.status) == (200, 404)
        assert (task["provider"], back["provider"]) == ("two", "one")


async def test_a_waiting_task_waits_on_while_an_operator_keeps_every_target_open():
    rules = ruleset()
    providers = {name: replace(one, max_concurrency=1) for name, one in rules.providers.items()}
    async with open_house(replace(rules, providers=providers)) as house:
        held = []
        house.life.runtime.bus.subscribe(lambda event: held.append(event) if isinstance(event, TaskHeld) else None)
        house.desk.open.clear()
        first = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the first to take the only place")
        second = await submit(house)
        for name in ("one", "two"):
            await house.client.post(f"/admin/v1/breakers/{name}/*/open")
        house.desk.open.set()
        await ended(house, first["id"])
        await poll_until(lambda: held, "the second to be held")
        refused = await house.client.post("/v1/tasks", json=BODY)

        assert (await read(house, second["id"]))["status"] == "pending"
        assert (refused.status, (await refused.json())["error"]["error_type"]) == (503, "no_provider_available")


async def test_a_burst_that_waits_at_the_start_never_runs_more_of_a_tenant_than_its_max_concurrency():
    store = MemoryStore()
    left = [waiting_task(number) for number in range(6)]
    for task in left:
        await store.admit(task, ())
    limited = ruleset(tenants={"default": Tenant("default", max_concurrency=2)})
    async with open_house(limited, store=store, desk=Desk(is_open=False)) as house:
        await poll_until(lambda: len(house.desk.jobs) >= 2, "two to run")

        assert (len(house.desk.jobs), len(house.life.runtime.queue)) == (2, 4)
        house.desk.open.set()
        for task in left:
            assert (await ended(house, task.id))["status"] == "succeeded"


def waiting_task(number):
    """A task that an earlier life has admitted and nobody has taken."""
    return Task(
        id=new_id(WallClock().now(), Random(number)),
        tenant="default",
        kind=Kind.IMAGE_GENERATION,
        model="cat",
        input={"prompt": f"cat {number}"},
        surface="native",
        route="/v1/tasks",
        priority=Priority.NORMAL,
        created_at=WallClock().now(),
    )


async def test_explain_names_candidates_with_prices_and_spends_nothing():
    async with open_house() as house:
        reply = await house.client.post("/v1/route/explain", json={"model": "cat", "size": "512x512"})
        body = await reply.json()

        assert [one["provider"] for one in body["candidates"]] == ["one", "two"]
        assert not house.desk.jobs


async def test_a_waiting_caller_of_a_cancelled_task_hears_that_money_may_have_been_spent():
    async with open_house() as house:
        house.desk.open.clear()
        call = asyncio.create_task(house.client.post("/v1/images/generations", json=BODY["input"]))
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        page = await (await house.client.get("/v1/tasks")).json()
        await house.client.post(f"/v1/tasks/{page['data'][0]['id']}/cancel")
        reply = await call
        error = (await reply.json())["error"]

        assert (reply.status, error["error_type"], error["billing"]) == (409, "cancelled", "unknown")
        assert reply.headers["x-should-retry"] == "false"


async def test_an_answer_that_waited_for_the_end_says_the_cost():
    async with open_house() as house:
        reply = await house.client.post("/v1/tasks", json=BODY, headers={"Prefer": "wait=30"})

        assert (reply.status, (await reply.json())["status"]) == (202, "succeeded")
        assert reply.headers["X-Cost-USD"] == "0.03"


async def test_an_operator_ends_the_rest_of_an_account():
    async with open_house() as house:
        only = {"provider": {"only": ["one"]}}
        house.desk.answers = [failing(FailureKind.ACCOUNT)]
        await ended(house, (await submit(house, **only))["id"])
        resting = await ended(house, (await submit(house, **only))["id"])
        await house.client.post("/admin/v1/breakers/one/one/reset")
        back = await ended(house, (await submit(house, **only))["id"])

        assert (resting["status"], resting["attempts"]) == ("failed", [])
        assert back["status"] == "succeeded"


async def test_while_an_operator_holds_everything_open_a_refusal_says_when_to_ask_again():
    async with open_house() as house:
        for name in ("one", "two"):
            await house.client.post(f"/admin/v1/breakers/{name}/*/open")
        reply = await house.client.post("/v1/tasks", json=BODY)

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (503, "no_provider_available")
        assert int(reply.headers["Retry-After"]) > 0


async def test_a_retrying_task_ends_at_its_deadline_though_its_time_to_start_came_first():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.THROTTLED, rest_s=300.0)]
        task = await submit(house, provider={"only": ["one"]}, start_within=0.2, timeout=0.6)
        done = await ended(house, task["id"])

        assert (done["status"], done["error"]["error_type"]) == ("failed", "deadline_exceeded")
        assert [one["outcome"] for one in done["attempts"]] == ["throttled"]


async def test_progress_never_falls_when_an_attempt_fails_and_another_begins():
    async with open_house() as house:
        house.desk.open.clear()
        house.desk.answers = [failing(FailureKind.OVERLOADED)]
        task = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the first call to be out")
        house.life.runtime.live[task["id"]].progress = 40
        before = await read(house, task["id"])
        house.desk.open.set()
        house.desk.open.clear()
        await poll_until(lambda: len(house.desk.jobs) == 2, "the second call to be out")
        house.life.runtime.live[task["id"]].progress = 10
        after = await read(house, task["id"])
        cancelled = await (await house.client.post(f"/v1/tasks/{task['id']}/cancel")).json()

        assert (before["progress"], after["progress"], cancelled["progress"]) == (40, 40, 40)


async def test_a_retry_is_another_request_than_the_submit_whose_key_it_is_given():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        key, own = {"Idempotency-Key": "of the submit"}, {"Idempotency-Key": "of the retry"}
        task = await (await house.client.post("/v1/tasks", json=BODY, headers=key)).json()
        await ended(house, task["id"])
        mismatch = await house.client.post(f"/v1/tasks/{task['id']}/retry", headers=key)
        first = await house.client.post(f"/v1/tasks/{task['id']}/retry", headers=own)
        again = await house.client.post(f"/v1/tasks/{task['id']}/retry", headers=own)
        submit_again = await house.client.post("/v1/tasks", json=BODY, headers=own)

        assert (mismatch.status, submit_again.status) == (422, 422)
        assert (first.status, again.status) == (202, 202)
        assert first.headers["X-Task-Id"] == again.headers["X-Task-Id"] != task["id"]
