"""The simulator of WorldRouter. There is no SDK: its bodies are compared field for field with those that the provider
file and the vendor's page on async image tasks print; each test names the section that it goes by.
"""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, What, start
from providers.simulated.worldrouter import WorldRouterOptions
from tests.waiting import poll_until

TASKS = "/v1/images/generation_tasks"
SYNC = "/v1/images/generations"
GEMINI = "gemini-3.1-flash-image-preview"
# The request that the page prints, and the same with a picture that is quickly drawn.
STAR = {
    "model": "gpt-image-2",
    "prompt": "A small clean five-point star icon, centered on a white background.",
    "n": 1,
    "size": "1024x1024",
    "quality": "low",
    "output_format": "png",
    "response_format": "url",
}
SMALL = STAR | {"size": "128x128"}

# The printed replies: of the create (section 3), of a task completed (section 4), at work and failed (section 7).
CREATED = {
    "id": "imgtask_01",
    "object": "image.generation_task",
    "created": 1780501937,
    "task_id": "imgtask_01",
    "status": "queued",
    "model": "gpt-image-2",
    "created_at": "2026-06-11T12:00:00+00:00",
}
IN_PROGRESS = CREATED | {"status": "in_progress"}
COMPLETED = {
    **CREATED,
    "status": "completed",
    "data": [{"url": "https://storage.example/x.png"}],
    "usage": {"input_tokens": 20, "output_tokens": 397, "total_tokens": 417},
}
FAILED = CREATED | {"status": "failed", "error": {"message": "...", "type": "...", "code": "..."}}
# Section 5: the OpenAI body.
ERROR_MEMBERS = ["message", "type", "param", "code"]
AT_MS = 1_780_501_937_000


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("worldrouter", options=WorldRouterOptions(**{"time_scale": 0.001} | options)) as running,
        aiohttp.ClientSession(running.base_url, headers={"Authorization": "Bearer k"}) as session,
    ):
        yield running, session


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with simulate() as made:
        yield made


async def ask(session: aiohttp.ClientSession, method: str, url: str, body: object = None) -> Any:
    async with session.request(method, url, json=body) as answer:
        return answer.status, await answer.json()


async def create(session: aiohttp.ClientSession, body: object = SMALL) -> dict[str, Any]:
    status, task = await ask(session, "POST", TASKS, body)
    assert status == 200, task
    return task


async def reach(session: aiohttp.ClientSession, task: dict[str, Any], status: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        _, body = await ask(session, "GET", f"{TASKS}/{task['id']}")
        return body if body["status"] == status else None

    return await poll_until(reached, f"the task to be {status}")


async def fetch(task: dict[str, Any], index: int = 0) -> Image.Image:
    """A stored picture, without a key."""
    async with aiohttp.ClientSession() as anybody, anybody.get(task["data"][index]["url"]) as answer:
        assert answer.status == 200
        return Image.open(io.BytesIO(await answer.read()))


def shape(value: object) -> object:
    """The names and types of a body, in their order: texts and numbers may differ, nothing else."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def assert_error(answered: tuple[int, Any], status: int) -> None:
    """Hold an answer against the status and the members of the error body."""
    assert (answered[0], list(answered[1]), list(answered[1]["error"])) == (status, ["error"], ERROR_MEMBERS)


# --- section 3: create


async def test_a_create_is_answered_with_the_printed_task():
    async with simulate(now_ms=lambda: AT_MS) as (running, session):
        created = await create(session, STAR)

    assert shape(created) == shape(CREATED)
    assert created["id"] == created["task_id"]
    assert created["id"].startswith("imgtask_")
    assert {name: created[name] for name in ("object", "created", "status", "model")} == {
        name: CREATED[name] for name in ("object", "created", "status", "model")
    }
    assert datetime.fromisoformat(created["created_at"]).timestamp() == created["created"]
    assert created["created_at"].endswith("+00:00")
    assert running.bill.submitted == 1


@pytest.mark.parametrize("field", ["model", "prompt"])
async def test_model_and_prompt_are_required(upstream, field):
    running, session = upstream
    for missing in (None, ""):
        status, refused = await ask(session, "POST", TASKS, SMALL | {field: missing})
        assert_error((status, refused), 400)
        assert refused["error"]["param"] == field
    assert running.bill.submitted == 0


@pytest.mark.parametrize("model", ["gpt-image-2", GEMINI])
async def test_a_response_format_other_than_url_is_refused_and_none_is_taken(upstream, model):
    running, session = upstream
    answered = await ask(session, "POST", TASKS, SMALL | {"model": model, "response_format": "b64_json"})
    assert_error(answered, 400)
    assert answered[1]["error"]["param"] == "response_format"
    assert running.bill.submitted == 0
    await create(session, SMALL | {"model": model, "response_format": None})


@pytest.mark.parametrize(
    "model",
    ["gpt-image-2", "gemini-2.5-flash-image", "gemini-3-pro-image-preview", "gemini-3.1-flash-image-preview"],
)
async def test_the_listed_models_make_tasks(upstream, model):
    _, session = upstream
    assert (await create(session, SMALL | {"model": model}))["model"] == model


async def test_a_model_without_tasks_is_refused_and_a_deployment_may_have_others():
    async with simulate() as (_, session):
        assert_error(await ask(session, "POST", TASKS, SMALL | {"model": "grok-imagine-image"}), 400)
    async with simulate(models=("grok-imagine-image",)) as (_, session):
        await create(session, SMALL | {"model": "grok-imagine-image"})
        assert_error(await ask(session, "POST", TASKS, SMALL), 400)


async def test_what_a_model_does_not_know_is_passed_over(upstream):
    _, session = upstream
    unknown = {"style": "vivid", "aspect_ratio": "16:9", "seed": 7, "generationConfig": {"imageConfig": {}}}
    await reach(session, await create(session, SMALL | unknown), "completed")


async def test_a_gemini_model_ignores_size_quality_and_count_and_decides_for_itself(upstream):
    _, session = upstream
    nonsense = {"size": "wide", "quality": 7, "n": 3, "output_format": "gif", "background": "none", "style": 1}
    completed = await reach(session, await create(session, SMALL | {"model": GEMINI} | nonsense), "completed")

    picture = await fetch(completed)
    assert picture.size not in ((1024, 1024), (128, 128))
    assert (picture.format, len(completed["data"])) == ("PNG", 1)


@pytest.mark.parametrize(("name", "stored"), [("png", "PNG"), ("jpeg", "JPEG"), ("jpg", "JPEG"), ("webp", "WEBP")])
async def test_gpt_image_2_has_the_size_and_the_format_that_were_asked_for(upstream, name, stored):
    _, session = upstream
    completed = await reach(session, await create(session, SMALL | {"output_format": name}), "completed")
    picture = await fetch(completed)
    assert (picture.size, picture.format) == ((128, 128), stored)


@pytest.mark.parametrize("wrong", [{"size": "wide"}, {"quality": 7}, {"n": 0}, {"output_format": "gif"}])
async def test_gpt_image_2_refuses_what_it_would_apply_and_cannot(upstream, wrong):
    _, session = upstream
    status, refused = await ask(session, "POST", TASKS, SMALL | wrong)
    assert_error((status, refused), 400)
    assert refused["error"]["param"] == next(iter(wrong))


@pytest.mark.parametrize(("asked", "made"), [(2, 2), (4, 4), (5, 4), (100, 4)])
async def test_the_count_is_capped_without_a_word(upstream, asked, made):
    _, session = upstream
    completed = await reach(session, await create(session, SMALL | {"n": asked}), "completed")
    assert len({item["url"] for item in completed["data"]}) == made


# --- section 4: poll


async def test_a_task_is_queued_then_in_progress_and_shows_nothing_more():
    async with simulate(latency_s=1_000_000) as (_, session):
        created = await create(session)
        in_progress = await reach(session, created, "in_progress")
    assert shape(in_progress) == shape(IN_PROGRESS)
    assert in_progress == created | {"status": "in_progress"}

    async with simulate(time_scale=1.0) as (_, session):
        created = await create(session)
        assert await reach(session, created, "queued") == created


async def test_a_completed_task_has_stored_links_and_the_tokens_that_it_is_charged_for(upstream):
    running, session = upstream
    created = await create(session, STAR)
    completed = await reach(session, created, "completed")

    assert shape(completed) == shape(COMPLETED)
    assert {name: completed[name] for name in CREATED} == created | {"status": "completed"}
    usage = completed["usage"]
    assert (usage["output_tokens"], usage["total_tokens"]) == (397, 397 + usage["input_tokens"])
    assert (await fetch(completed)).size == (1024, 1024)
    [entry] = running.bill.entries
    assert (entry.what, entry.amount_usd) == (
        What.SUCCESS,
        Decimal(5 * usage["input_tokens"] + 30 * usage["output_tokens"]) / 1_000_000,
    )


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gemini-2.5-flash-image", "0.0387"),
        ("gemini-3-pro-image-preview", "0.1344"),
        ("gemini-3.1-flash-image-preview", "0.0672"),
    ],
)
async def test_a_gemini_task_has_usage_of_the_same_form_and_its_models_price(upstream, model, price):
    running, session = upstream
    completed = await reach(session, await create(session, SMALL | {"model": model}), "completed")
    assert shape(completed) == shape(COMPLETED)
    assert running.bill.total == Decimal(price)


@pytest.mark.parametrize(
    ("kind", "what", "word"),
    [(FaultKind.JOB_ERROR, What.FAILURE, "upstream"), (FaultKind.REFUSAL, What.REFUSAL, "moderation")],
)
@pytest.mark.parametrize("charges_unmade", [True, False])
async def test_a_failed_task_has_an_error_object_and_its_charge_is_an_option(kind, what, word, charges_unmade):
    async with simulate(charges_unmade=charges_unmade, faults=(Fault(kind=kind),)) as (running, session):
        failed = await reach(session, await create(session), "failed")
        [entry] = running.bill.entries

    assert shape(failed) == shape(FAILED)
    assert word in failed["error"]["code"]
    assert (entry.what, entry.amount_usd > 0) == (what, charges_unmade)


async def test_listing_and_cancelling_are_not_supported(upstream):
    running, session = upstream
    created = await create(session)
    assert_error(await ask(session, "GET", TASKS), 405)
    assert_error(await ask(session, "POST", f"{TASKS}/{created['id']}/cancel"), 404)
    assert_error(await ask(session, "DELETE", f"{TASKS}/{created['id']}"), 404)
    await reach(session, created, "completed")
    assert running.bill.submitted == 1


async def test_a_task_is_unknown_and_its_links_are_dead_after_its_time():
    now_ms = AT_MS
    async with simulate(kept_s=60_000, now_ms=lambda: now_ms) as (running, session):
        created = await create(session)
        completed = await reach(session, created, "completed")
        now_ms += 60_000
        await fetch(await reach(session, created, "completed"))
        now_ms += 1
        assert_error(await ask(session, "GET", f"{TASKS}/{created['id']}"), 404)
        async with session.get(completed["data"][0]["url"]) as answer:
            assert answer.status == 403
        assert [entry.what for entry in running.bill.entries] == [What.SUCCESS]


async def test_an_unknown_task_is_a_404_and_a_task_may_be_unknown_at_first_or_for_ever(upstream):
    running, session = upstream
    assert_error(await ask(session, "GET", f"{TASKS}/imgtask_0"), 404)
    running.dial.set(Fault(kind=FaultKind.TASK_NOT_FOUND, polls=1, prompt="late"), Fault(kind=FaultKind.LOST))
    late, lost = await create(session, SMALL | {"prompt": "late"}), await create(session)
    assert (await ask(session, "GET", f"{TASKS}/{late['id']}"))[0] == 404
    await reach(session, late, "completed")
    await poll_until(lambda: running.bill.entries[1].what is What.SUCCESS, "the lost task to be made")
    assert (await ask(session, "GET", f"{TASKS}/{lost['id']}"))[0] == 404


# --- section 2: the synchronous path


@pytest.mark.parametrize("model", ["gpt-image-2", "grok-imagine-image", "grok-imagine-image-quality"])
async def test_the_synchronous_path_answers_inline(upstream, model):
    running, session = upstream
    body = {"model": model, "prompt": "star", "size": "128x128"}
    status, made = await ask(session, "POST", SYNC, body)

    assert status == 200
    assert Image.open(io.BytesIO(base64.b64decode(made["data"][0]["b64_json"]))).size == (128, 128)
    assert [entry.what for entry in running.bill.entries] == [What.SUCCESS]


async def test_the_synchronous_path_knows_other_models_than_the_tasks(upstream):
    running, session = upstream
    assert_error(await ask(session, "POST", SYNC, SMALL | {"model": GEMINI}), 404)
    assert running.bill.submitted == 0


async def test_an_edge_timeout_cuts_the_synchronous_path_and_the_picture_is_paid_all_the_same(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.GATEWAY_TIMEOUT))
    async with session.post(SYNC, json={"model": "gpt-image-2", "prompt": "star"}) as answer:
        assert (answer.status, answer.content_type) == (504, "text/html")
    assert [(entry.what, entry.amount_usd > 0) for entry in running.bill.entries] == [(What.TIMEOUT, True)]


async def test_a_refusal_on_the_synchronous_path_is_an_error(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.REFUSAL))
    answered = await ask(session, "POST", SYNC, {"model": "gpt-image-2", "prompt": "star"})
    assert_error(answered, 400)
    assert "moderation" in answered[1]["error"]["code"]


# --- section 1 and section 5: keys, budgets, errors


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"x-api-key": "k"}])
async def test_a_bearer_key_is_asked_for_everywhere(headers):
    async with simulate(api_key="k") as (running, session):
        task = await create(session)
        async with aiohttp.ClientSession(running.base_url, headers=headers) as stranger:
            for method, path in (("POST", TASKS), ("GET", TASKS), ("GET", f"{TASKS}/{task['id']}"), ("POST", SYNC)):
                body = {"model": "gpt-image-2", "prompt": "star"} if method == "POST" else None
                assert_error(await ask(stranger, method, path, body), 401)
        assert running.bill.submitted == 1


async def test_the_budget_of_one_end_user_stops_nobody_else():
    async with simulate(user_budget_usd=Decimal("0.10"), price_usd=Decimal("0.06")) as (running, session):
        await create(session, SMALL | {"user": "ann"})
        answered = await ask(session, "POST", TASKS, SMALL | {"user": "ann"})
        assert_error(answered, 402)
        assert "budget" in answered[1]["error"]["type"]
        await create(session, SMALL | {"user": "bob"})
        await create(session)
        assert running.bill.submitted == 3


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.UNSUPPORTED_PARAMETER, 400),
        (FaultKind.INVALID_KEY, 401),
        (FaultKind.QUOTA, 402),
        (FaultKind.MODEL_NOT_FOUND, 404),
        (FaultKind.THROTTLED, 429),
        (FaultKind.SERVER_ERROR, 500),
        (FaultKind.OVERLOADED, 503),
    ],
)
async def test_an_order_that_is_turned_away_has_an_error_body_and_costs_nothing(upstream, kind, status):
    running, session = upstream
    running.dial.set(Fault(kind=kind, retry_after_s=7))
    for path, body in ((TASKS, SMALL), (SYNC, {"model": "gpt-image-2", "prompt": "star"})):
        async with session.post(path, json=body) as answer:
            assert answer.headers["Retry-After"] == "7"
            assert_error((answer.status, await answer.json()), status)
    assert running.bill.submitted == 0


async def test_a_create_whose_reply_is_lost_makes_its_task_all_the_same(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.DROP))
    with pytest.raises(aiohttp.ClientError):
        await create(session)
    await poll_until(lambda: running.bill.entries[0].what is What.DISCONNECT, "the unseen task to end")
    assert running.bill.billed == 1


async def test_a_body_that_is_no_object_is_refused(upstream):
    _, session = upstream
    for body in (b"{", b"[]", b""):
        async with session.post(TASKS, data=body) as answer:
            assert_error((answer.status, await answer.json()), 400)


async def test_plain_options_suit_the_simulator():
    async with start("worldrouter", options=Options(time_scale=0.001)) as running:
        assert running.base_url == running.origin
