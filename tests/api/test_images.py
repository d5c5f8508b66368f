"""`POST /v1/images/generations`: sync, async and `Prefer`, as stock clients use it."""

import asyncio
import base64
import io
import json
from dataclasses import replace

import openai
import pytest

from router.flow.dispatch import sweep
from router.policy.rules import Defaults
from tests.api.house import PNG, FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

BODY = {"model": "cat", "prompt": "a cat", "size": "1024x1024"}
ROUTE = "/v1/images/generations"
PATIENT = {**BODY, "start_within": 600}  # where the wait is short: a slow machine may begin after it


async def test_a_sync_call_gives_base64_by_default_with_usage_cost_and_task_id():
    async with open_house() as house:
        reply = await house.client.post(ROUTE, json=BODY)
        body = await reply.json()

        assert reply.status == 200
        assert base64.b64decode(body["data"][0]["b64_json"]) == PNG
        assert body["data"][0]["revised_prompt"] == "a better cat"
        assert body["usage"]["total_tokens"] == 110
        assert reply.headers["X-Cost-USD"] == reply.headers["x-litellm-response-cost"] == "0.03"
        assert reply.headers["X-Task-Id"].startswith("task_")
        assert reply.headers["X-Request-Id"].startswith("req_")


async def test_a_url_on_request_answers_without_a_key_and_in_ranges():
    async with open_house(auth=True) as house:
        from tests.api.house import ADMIN_KEY

        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        reply = await house.client.post(ROUTE, json={**BODY, "response_format": "url"}, headers=headers)
        url = (await reply.json())["data"][0]["url"]
        whole = await house.client.session.get(url)
        piece = await house.client.session.get(url, headers={"Range": "bytes=1-3"})
        beyond = await house.client.session.get(url, headers={"Range": "bytes=9999-"})
        forged = await house.client.session.get(url[:-4] + "AAAA")

        assert (whole.status, await whole.read(), whole.content_type) == (200, PNG, "image/png")
        assert whole.headers["X-Content-Type-Options"] == "nosniff"
        assert (piece.status, await piece.read()) == (206, b"PNG")
        assert piece.headers["Content-Range"] == f"bytes 1-3/{len(PNG)}"
        assert beyond.status == 416
        assert (forged.status, (await forged.json())["error"]["error_type"]) == (403, "forbidden")


async def test_the_unmodified_sdk_gets_pictures_models_and_its_own_exceptions():
    async with open_house() as house, openai.AsyncOpenAI(api_key="sk-any", base_url=f"{house.url}/v1") as client:
        reply = await client.images.generate(model="cat", prompt="a cat", n=2)
        models = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("cat")
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.images.generate(model="dog", prompt="a dog")
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.images.generate(model="cat", prompt="a cat", size="17x17")

        assert [base64.b64decode(image.b64_json) for image in reply.data] == [PNG, PNG]
        assert models == ["cat", "film", "dall-e-3"]
        assert one.id == "cat"
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        assert wrong.value.param == "size"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "two"}, "n"),
        ({"n": True}, "n"),
        ({"size": "large"}, "size"),
        ({"size": "999x999"}, "size"),
        ({"size": 5}, "size"),
        ({"quality": "best"}, "quality"),
        ({"response_format": "png"}, "response_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"model": 5}, "model"),
        ({"model": "film"}, "model"),
        ({"priority": "asap"}, "priority"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"timeout": 0}, "timeout"),
        ({"start_within": "soon"}, "start_within"),
        ({"provider": {"orders": []}}, "provider.orders"),
        ({"provider": {"sort": "colour"}}, "provider.sort"),
        ({"provider": {"max_price": {"task": "cheap"}}}, "provider.max_price.task"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "async": True}, "stream"),
        ({"async": "yes"}, "async"),
    ],
)
async def test_a_bad_field_is_a_400_that_names_it_and_nothing_is_sent(change, param):
    async with open_house() as house:
        reply = await house.client.post(ROUTE, json={**BODY, **change})
        error = (await reply.json())["error"]

        assert (reply.status, error["param"], error["billing"]) == (400, param, "not_billed")
        assert reply.headers["X-Error-Type"] == error["error_type"] == "invalid_request"
        assert not house.desk.jobs


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"{", 400), (b"[1]", 400), (b'"x"', 400), (b"{}", 400), (b"[" * 100_000, 400), (b'{"prompt": NaN}', 400)],
)
async def test_a_malformed_body_is_a_400_in_the_error_form(raw, status):
    async with open_house() as house:
        reply = await house.client.post(ROUTE, data=raw, headers={"Content-Type": "application/json"})
        body = await reply.json()

        assert reply.status == status
        assert set(body["error"]) == {
            "message", "type", "param", "code", "error_type", "retryable", "billing", "task_id", "request_id",
            "details", "attempts",
        }  # fmt: skip


async def test_a_body_over_the_limit_is_a_413():
    async with open_house() as house:
        body = io.BytesIO(json.dumps({**BODY, "prompt": "x" * 1_100_000}).encode())
        reply = await house.client.post(ROUTE, data=body, headers={"Content-Type": "application/json"})

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (413, "too_large")


async def test_the_async_flag_answers_at_once_in_the_dialect_of_dieyuyun():
    async with open_house() as house:
        house.desk.open.clear()
        reply = await house.client.post(ROUTE, json={**BODY, "async": True})
        body = await reply.json()
        before = await (await house.client.get(f"/v1/tasks/{body['id']}")).json()
        house.desk.open.set()
        after = await poll_until(lambda: completed(house, body["id"]), "the task to complete")

        assert (reply.status, set(body)) == (200, {"id", "status", "progress", "created_at", "request_id"})
        assert body["status"] in {"queued", "processing"}
        assert set(before) == {"id", "status", "progress", "model_code", "created_at", "updated_at"}
        assert set(after) == {"id", "status", "progress", "model_code", "result", "usage", "created_at", "completed_at"}
        assert set(after["result"]["data"][0]) == {"url", "revised_prompt"}
        assert after["usage"] == {"input_tokens": 10, "output_tokens": 100}


async def completed(house, task_id):
    body = await (await house.client.get(f"/v1/tasks/{task_id}")).json()
    return body if body["status"] == "completed" else None


async def test_a_failed_task_of_that_dialect_has_flat_error_fields():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        sent = await (await house.client.post(ROUTE, json={**BODY, "async": True})).json()
        body = await poll_until(lambda: failed(house, sent["id"]), "the task to fail")

        assert {"error_code", "error_message", "failed_at"} <= set(body)
        assert body["error_code"] == "invalid_request"


async def failed(house, task_id):
    body = await (await house.client.get(f"/v1/tasks/{task_id}")).json()
    return body if body["status"] == "failed" else None


async def test_prefer_respond_async_and_a_short_wait_answer_202_with_the_task():
    async with open_house() as house:
        house.desk.open.clear()
        at_once = await house.client.post(ROUTE, json=BODY, headers={"Prefer": "respond-async"})
        waited = await house.client.post(ROUTE, json={**BODY, "prompt": "b"}, headers={"Prefer": "wait=0"})

        assert at_once.status == waited.status == 202
        assert (await at_once.json())["object"] == "task"
        assert at_once.headers["Location"] == f"/v1/tasks/{at_once.headers['X-Task-Id']}"
        assert at_once.headers["Preference-Applied"] == "respond-async"


async def test_a_503_of_the_first_target_fails_over_and_costs_what_the_second_asks():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.OVERLOADED, http_status=503)]
        reply = await house.client.post(ROUTE, json=BODY)
        task = await (await house.client.get(f"/v1/tasks/{reply.headers['X-Task-Id']}")).json()

        assert reply.headers["X-Cost-USD"] == "0.05"
        assert [one["outcome"] for one in task["attempts"]] == ["overloaded", "succeeded"]
        assert [one["cost_usd"] for one in task["attempts"]] == ["0", "0.05"]
        assert task["retry_count"] == 1


@pytest.mark.parametrize(
    ("kind", "more", "status", "error_type", "code", "should_retry"),
    [
        (FailureKind.REFUSED, {}, 400, "content_refused", "moderation_blocked", "false"),
        (FailureKind.BAD_REQUEST, {"param": "user"}, 400, "invalid_request", "invalid_request", None),
        (FailureKind.UNKNOWN, {}, 504, "outcome_unknown", "outcome_unknown", "false"),
        (FailureKind.UNUSABLE, {}, 502, "provider_error", "provider_error", "false"),
        (FailureKind.RESULT_LOST, {}, 502, "provider_error", "result_lost", "false"),
    ],
)
async def test_a_task_that_fails_answers_its_class_and_whether_a_repeat_could_pay_twice(
    kind, more, *, status, error_type, code, should_retry
):
    async with open_house() as house:
        house.desk.answers = [failing(kind, **more)]
        reply = await house.client.post(ROUTE, json=BODY)
        error = (await reply.json())["error"]

        assert (reply.status, error["error_type"], error["code"]) == (status, error_type, code)
        assert reply.headers.get("x-should-retry") == should_retry
        assert error["attempts"][0]["outcome"] == kind.value
        assert error["task_id"] == reply.headers["X-Task-Id"]
        assert len(house.desk.jobs) == 1


async def test_the_same_key_replays_and_another_body_under_it_is_a_422():
    async with open_house() as house:
        headers = {"Idempotency-Key": "k1"}
        first = await house.client.post(ROUTE, json=BODY, headers=headers)
        again = await house.client.post(ROUTE, json=BODY, headers=headers)
        other = await house.client.post(ROUTE, json={**BODY, "prompt": "a dog"}, headers=headers)
        found = await (await house.client.get("/v1/tasks", params={"idempotency_key": "k1"})).json()

        assert again.headers["Idempotent-Replayed"] == "true"
        assert "X-Cost-USD" not in again.headers
        assert first.headers["X-Task-Id"] == again.headers["X-Task-Id"] == found["data"][0]["id"]
        assert other.status == 422
        assert len(house.desk.jobs) == 1


async def test_a_failure_is_replayed_too_and_a_refusal_does_not_bind_the_key():
    async with open_house() as house:
        headers = {"Idempotency-Key": "k2"}
        refused = await house.client.post(ROUTE, json={**BODY, "n": 99}, headers=headers)
        house.desk.answers = [failing(FailureKind.REFUSED)]
        first = await house.client.post(ROUTE, json=BODY, headers=headers)
        again = await house.client.post(ROUTE, json=BODY, headers=headers)

        assert (refused.status, first.status, again.status) == (400, 400, 400)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len(house.desk.jobs) == 1


async def test_a_sync_call_that_is_not_finished_in_time_is_a_504_and_its_repeat_collects_without_paying_again():
    rules = ruleset(defaults=replace(Defaults(), sync_wait_s=0.2))
    async with open_house(rules) as house:
        house.desk.open.clear()
        late = await house.client.post(ROUTE, json=PATIENT)
        error = (await late.json())["error"]
        house.desk.open.set()
        collected = await house.client.post(ROUTE, json=PATIENT)

        assert (late.status, error["error_type"]) == (504, "deadline_exceeded")
        assert late.headers["x-should-retry"] == "true"
        assert {"Location", "Retry-After", "X-Task-Id"} <= set(late.headers)
        assert collected.status == 200
        assert collected.headers["X-Task-Id"] == late.headers["X-Task-Id"]
        assert len(house.desk.jobs) == 1


async def test_the_automatic_repeat_of_the_sdk_attaches_instead_of_paying_again():
    async with open_house() as house:
        first = await house.client.post(ROUTE, json=BODY, headers={"x-stainless-retry-count": "0"})
        repeat = await house.client.post(ROUTE, json=BODY, headers={"x-stainless-retry-count": "1"})
        fresh = await house.client.post(ROUTE, json=BODY, headers={"x-stainless-retry-count": "0"})

        assert first.headers["X-Task-Id"] == repeat.headers["X-Task-Id"] != fresh.headers["X-Task-Id"]
        assert len(house.desk.jobs) == 2


async def test_a_caller_that_hangs_up_aborts_nothing():
    async with open_house() as house:
        house.desk.open.clear()
        call = asyncio.create_task(house.client.post(ROUTE, json=BODY, headers={"Idempotency-Key": "gone"}))
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        house.desk.open.set()
        task = await poll_until(lambda: found_by_key(house, "gone"), "the result to be there")

        assert task["status"] == "succeeded"
        assert len(house.desk.jobs) == 1


async def found_by_key(house, key):
    page = await (await house.client.get("/v1/tasks", params={"idempotency_key": key})).json()
    return next((task for task in page["data"] if task["status"] == "succeeded"), None)


async def test_a_billed_failure_says_its_cost_once_and_its_replay_does_not():
    async with open_house() as house:
        headers = {"Idempotency-Key": "refused"}
        house.desk.answers = [failing(FailureKind.REFUSED)]
        first = await house.client.post(ROUTE, json=BODY, headers=headers)
        again = await house.client.post(ROUTE, json=BODY, headers=headers)

        assert first.headers["X-Cost-USD"] == first.headers["x-litellm-response-cost"] == "0.03"
        assert not {"X-Cost-USD", "x-litellm-response-cost"} & set(again.headers)


async def test_a_failure_of_unknown_cost_says_no_cost():
    async with open_house() as house:
        house.desk.answers = [failing(FailureKind.UNKNOWN)]
        reply = await house.client.post(ROUTE, json=BODY)

        assert reply.status == 504
        assert "X-Cost-USD" not in reply.headers


async def test_who_is_sent_away_from_a_call_that_is_out_hears_that_money_may_have_been_spent():
    rules = ruleset(defaults=replace(Defaults(), sync_wait_s=0.2))
    async with open_house(rules) as house:
        house.desk.open.clear()
        late = await house.client.post(ROUTE, json=PATIENT)
        if not house.desk.jobs:
            await poll_until(lambda: house.desk.jobs, "the paid call to be out")
            late = await house.client.post(ROUTE, json=PATIENT)

        assert (late.status, (await late.json())["error"]["billing"]) == (504, "unknown")


async def test_a_result_behind_a_504_is_collected_by_reading_the_task_too():
    rules = ruleset(defaults=replace(Defaults(), sync_wait_s=0.2))
    async with open_house(rules) as house:
        house.desk.open.clear()
        late = await house.client.post(ROUTE, json=PATIENT)
        house.desk.open.set()
        await poll_until(lambda: has_ended(house, late.headers["Location"]), "the result to be there")
        fresh = await house.client.post(ROUTE, json=PATIENT)

        assert fresh.headers["X-Task-Id"] != late.headers["X-Task-Id"]
        assert "Idempotent-Replayed" not in fresh.headers
        assert len(house.desk.jobs) == 2


async def test_a_used_key_names_the_task_that_has_it():
    async with open_house() as house:
        headers = {"Idempotency-Key": "mine"}
        first = await house.client.post(ROUTE, json=BODY, headers=headers)
        other = await house.client.post(ROUTE, json={**BODY, "prompt": "a dog"}, headers=headers)

        assert other.status == 422
        assert other.headers["X-Task-Id"] == first.headers["X-Task-Id"] == (await other.json())["error"]["task_id"]


async def test_the_wait_that_was_applied_is_told_not_the_one_that_was_asked_for():
    rules = ruleset(defaults=replace(Defaults(), sync_wait_s=0.2))
    async with open_house(rules) as house:
        house.desk.open.clear()
        reply = await house.client.post(ROUTE, json=PATIENT, headers={"Prefer": "wait=50"})

        assert (reply.status, reply.headers["Preference-Applied"]) == (202, "wait=0.2")


async def test_a_range_of_the_whole_file_is_a_part_too():
    async with open_house() as house:
        reply = await house.client.post(ROUTE, json={**BODY, "response_format": "url"})
        url = (await reply.json())["data"][0]["url"]
        piece = await house.client.session.get(url, headers={"Range": "bytes=0-"})

        assert (piece.status, await piece.read()) == (206, PNG)
        assert piece.headers["Content-Range"] == f"bytes 0-{len(PNG) - 1}/{len(PNG)}"
        assert piece.headers["X-Request-Id"].startswith("req_")


async def test_the_replay_of_a_result_that_retention_removed_is_gone_and_was_paid_for():
    rules = ruleset(defaults=replace(Defaults(), retention_s=0.0))
    async with open_house(rules) as house:
        headers = {"Idempotency-Key": "old"}
        first = await house.client.post(ROUTE, json=BODY, headers=headers)
        assert await poll_until(lambda: sweep(house.life.runtime), "its time to be over") == 1
        again = await house.client.post(ROUTE, json=BODY, headers=headers)
        task = await (await house.client.get(f"/v1/tasks/{first.headers['X-Task-Id']}")).json()

        assert (again.status, (await again.json())["error"]["billing"]) == (410, "billed")
        assert (again.headers["x-should-retry"], again.headers["Idempotent-Replayed"]) == ("false", "true")
        assert (task["status"], task["output"], task["progress"], task["cost"]["total_usd"]) == (
            "expired",
            [],
            100,
            "0.03",
        )
        assert len(house.desk.jobs) == 1


async def has_ended(house, path):
    task = await (await house.client.get(path)).json()
    return task["status"] == "succeeded"
