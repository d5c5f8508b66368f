"""The simulator of Pixapi. There is no SDK: its bodies are compared field for field with those that the provider file
and the vendor's page print.
"""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, What, start
from providers.simulated.pixapi import PixapiOptions
from tests.waiting import poll_until

GENERATIONS = "/v1/async/images/generations"
EDITS = "/v1/async/images/edits"
FILMS = "/v1/async/videos/generations"
# The printed requests, with a smaller size where the picture is fetched.
CUP = {
    "model": "gemini-3.1-flash-image-preview",
    "prompt": "A cinematic product photo of a ceramic coffee cup",
    "size": "2048x2048",
}
SMALL = CUP | {"size": "128x128"}
SORA = {"model": "sora-2", "prompt": "waves", "size": "320x180", "duration": 2}

# The printed replies: of the submit, of a task at work, of one completed, of one refused, of an error.
SUBMITTED = {
    "status": "submitted",
    "id": "task_01KPQ7J7DWB7QZ3WCEK3YVPBRA",
    "progress": 0,
    "created_at": 1703884800,
    "model": "gemini-3.1-flash-image-preview",
}
PROCESSING = {
    "id": "task_01K...",
    "status": "processing",
    "progress": 40,
    "model": "gemini-3.1-flash-image-preview",
}
COMPLETED = {
    "id": "xxx",
    "status": "completed",
    "credits_cost": 1.5,
    "model": "sora-2",
    "progress": 100,
    "result": {"type": "video", "data": [{"url": "https://xxx.xxx"}]},
    "created": 1763088289,
    "completed": 1763088308,
}
REFUSED = {
    "id": "task_01K...",
    "status": "failed",
    "progress": 100,
    "error": {"code": 422, "message": "prompt rejected", "type": "prompt_rejected"},
}
ERROR = {"error": {"code": 400, "message": "xxx", "type": "invalid_request_error"}}
WORDED_ERROR = {"error": {"code": "insufficient_credits", "message": "...", "request_id": "req_1"}}


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("pixapi", options=PixapiOptions(**{"time_scale": 0.001} | options)) as running,
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


async def submit(session: aiohttp.ClientSession, path: str = GENERATIONS, body: object = SMALL) -> dict[str, Any]:
    status, task = await ask(session, "POST", path, body)
    assert status == 200, task
    return task


async def reach(session: aiohttp.ClientSession, task: dict[str, Any], *statuses: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        _, body = await ask(session, "GET", f"/v1/tasks/{task['id']}")
        return body if body["status"] in statuses else None

    return await poll_until(reached, f"the task to be {' or '.join(statuses)}")


def shape(value: object) -> object:
    """The names and types of a body, in their order: texts and numbers may differ, nothing else."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def charges(running: Running) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in running.bill.entries]


# --- tasks


async def test_a_task_is_submitted_processed_and_completed_in_the_printed_bodies():
    async with simulate(latency_s=1_000_000) as (_, session):
        submitted = await submit(session, GENERATIONS, CUP)
        assert shape(submitted) == shape(SUBMITTED)
        assert {name: submitted[name] for name in ("status", "progress", "model")} == {
            "status": "submitted",
            "progress": 0,
            "model": CUP["model"],
        }
        assert (submitted["id"][:5], len(submitted["id"])) == ("task_", len(SUBMITTED["id"]))
        assert shape(await reach(session, submitted, "processing")) == shape(PROCESSING)

    async with simulate() as (running, session):
        submitted = await submit(session, FILMS, SORA)
        completed = await reach(session, submitted, "completed")
        assert shape(completed) == shape(COMPLETED)
        for name in ("status", "credits_cost", "model", "progress"):
            assert completed[name] == COMPLETED[name]
        assert (completed["id"], completed["created"]) == (submitted["id"], submitted["created_at"])
        assert completed["completed"] >= completed["created"]
        assert charges(running) == [(What.SUCCESS, Decimal("0.015"))]


async def test_a_completed_picture_is_fetched_without_a_key(upstream):
    _, session = upstream
    completed = await reach(session, await submit(session, GENERATIONS, SMALL | {"n": 2}), "completed")

    assert (completed["result"]["type"], completed["credits_cost"]) == ("image", 3.0)
    for item in completed["result"]["data"]:
        async with aiohttp.ClientSession() as anybody, anybody.get(item["url"]) as answer:
            assert Image.open(io.BytesIO(await answer.read())).size == (128, 128)


async def test_a_completed_film_plays_for_the_asked_seconds(upstream):
    _, session = upstream
    completed = await reach(session, await submit(session, FILMS, SORA), "completed")

    async with session.get(completed["result"]["data"][0]["url"]) as answer:
        content = io.BytesIO(await answer.read())
    with av.open(content) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (320, 180)
        assert film.duration / av.time_base == pytest.approx(2.0, abs=0.25)


async def test_credits_are_taken_when_a_task_has_succeeded_and_not_before():
    async with simulate(latency_s=1_000_000) as (running, session):
        await reach(session, await submit(session), "processing")
        assert (running.bill.submitted, running.bill.billed) == (1, 0)


@pytest.mark.parametrize(
    ("path", "body", "credits_cost"),
    [
        (GENERATIONS, {"model": "gpt-image-2", "prompt": "x", "quality": "low"}, 1.0),
        (GENERATIONS, {"model": "gpt-image-2", "prompt": "x"}, 4.0),
        (GENERATIONS, {"model": "gpt-image-2", "prompt": "x", "quality": "high", "n": 2}, 28.0),
        (FILMS, {"model": "veo-3.1-fast", "prompt": "x", "duration": 8}, 16.0),
    ],
)
async def test_the_known_prices_are_charged_in_credits_of_a_cent(upstream, path, body, credits_cost):
    running, session = upstream
    completed = await reach(session, await submit(session, path, body), "completed")
    assert completed["credits_cost"] == credits_cost
    assert running.bill.total * 100 == Decimal(str(credits_cost))


async def test_an_edit_is_a_form_or_json(upstream):
    _, session = upstream
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    form = aiohttp.FormData(SMALL)
    form.add_field("image", picture.getvalue(), filename="a.png", content_type="image/png")
    async with session.post(EDITS, data=form) as answer:
        assert shape(await answer.json()) == shape(SUBMITTED)
    for pictures in ({"image": "https://pictures.example/a.png"}, {"images": ["https://pictures.example/a.png"]}):
        assert shape(await submit(session, EDITS, SMALL | pictures)) == shape(SUBMITTED)
    status, refused = await ask(session, "POST", EDITS, SMALL)
    assert (status, refused["error"]["type"]) == (400, "invalid_request_error")


# --- the synchronous paths


async def test_the_synchronous_path_answers_with_links_or_with_base64(upstream):
    running, session = upstream
    _, linked = await ask(session, "POST", "/v1/images/generations", SMALL)
    _, inline = await ask(session, "POST", "/v1/images/generations", SMALL | {"response_format": "b64_json"})
    _, edited = await ask(session, "POST", "/v1/images/edits", SMALL | {"image": "https://pictures.example/a.png"})

    async with session.get(linked["data"][0]["url"]) as answer:
        assert Image.open(io.BytesIO(await answer.read())).size == (128, 128)
    assert Image.open(io.BytesIO(base64.b64decode(inline["data"][0]["b64_json"]))).size == (128, 128)
    assert edited["data"][0]["url"].startswith(running.origin)
    assert charges(running) == [(What.SUCCESS, Decimal("0.015"))] * 3


async def test_films_have_no_synchronous_path(upstream):
    running, session = upstream
    status, refused = await ask(session, "POST", "/v1/videos/generations", SORA)
    assert (status, shape(refused), running.bill.submitted) == (404, shape(ERROR), 0)


@pytest.mark.parametrize(("strict", "status"), [(True, 400), (False, 200)])
async def test_the_flag_async_is_refused_only_by_a_strict_server(strict, status):
    async with simulate(strict=strict) as (_, session):
        for path, body in ((GENERATIONS, SMALL), (FILMS, SORA)):
            assert (await ask(session, "POST", path, body | {"async": True}))[0] == status
            assert (await ask(session, "POST", f"{path}?async=true", body))[0] == status


# --- errors


TURNED_AWAY = [
    (FaultKind.UNSUPPORTED_PARAMETER, 400, "invalid_request_error"),
    (FaultKind.INVALID_KEY, 401, "unauthorized"),
    (FaultKind.QUOTA, 402, "insufficient_credits"),
    (FaultKind.MODEL_NOT_FOUND, 404, "model_not_found"),
    (FaultKind.MODERATION_BLOCKED, 422, "prompt_rejected"),
    (FaultKind.THROTTLED, 429, "rate_limited"),
    (FaultKind.SERVER_ERROR, 500, "internal_error"),
    (FaultKind.OVERLOADED, 503, "model_unavailable"),
]


@pytest.mark.parametrize(("kind", "status", "word"), TURNED_AWAY)
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/images/generations"])
async def test_an_error_carries_its_status_as_a_number(upstream, path, kind, status, word):
    running, session = upstream
    running.dial.set(Fault(kind=kind))
    answered, refused = await ask(session, "POST", path, SMALL)

    assert (answered, shape(refused)) == (status, shape(ERROR))
    assert (refused["error"]["code"], refused["error"]["type"]) == (status, word)
    assert running.bill.submitted == 0


@pytest.mark.parametrize(("kind", "status", "word"), TURNED_AWAY)
async def test_an_error_may_carry_a_word_and_a_request_id(kind, status, word):
    async with simulate(error_code="word", faults=(Fault(kind=kind),)) as (_, session):
        answered, refused = await ask(session, "POST", FILMS, SORA)
    assert (answered, shape(refused)) == (status, shape(WORDED_ERROR))
    assert (refused["error"]["code"], refused["error"]["request_id"]) == (word, "req_1")


async def test_a_refused_task_ends_in_the_printed_body_and_is_free(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.REFUSAL))
    submitted = await submit(session)
    assert await reach(session, submitted, "failed") == REFUSED | {"id": submitted["id"]}
    assert charges(running) == [(What.REFUSAL, Decimal(0))]


async def test_a_failed_task_has_an_error_of_either_form_and_is_free():
    for error_code, code in (("number", 500), ("word", "internal_error")):
        options = {"error_code": error_code, "faults": (Fault(kind=FaultKind.JOB_ERROR),)}
        async with simulate(**options) as (running, session):
            failed = await reach(session, await submit(session, FILMS, SORA), "failed")
            assert failed["error"]["code"] == code
            assert charges(running) == [(What.FAILURE, Decimal(0))]


async def test_a_submit_whose_reply_is_lost_is_charged_all_the_same(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.DROP))
    with pytest.raises(aiohttp.ClientError):
        await submit(session)
    await poll_until(lambda: running.bill.billed == 1, "the lost task to succeed")


async def test_an_unknown_task_and_a_wrong_key_are_refused():
    async with simulate(api_key="k") as (running, session):
        status, refused = await ask(session, "GET", "/v1/tasks/task_0")
        assert (status, shape(refused)) == (404, shape(ERROR))
        async with aiohttp.ClientSession(running.base_url, headers={"Authorization": "Bearer other"}) as stranger:
            for method, path in (("POST", GENERATIONS), ("POST", FILMS), ("POST", EDITS), ("GET", "/v1/tasks/task_0")):
                assert (await ask(stranger, method, path, SORA))[0] == 401
            assert (await ask(stranger, "POST", "/v1/images/generations", SMALL))[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None},
        {"prompt": ""},
        {"size": "wide"},
        {"size": "321x180"},
        {"size": "320x4098"},
        {"duration": 0},
        {"input_image": 7},
    ],
)
async def test_a_film_that_breaks_a_rule_is_refused_with_the_field(upstream, wrong):
    running, session = upstream
    status, refused = await ask(session, "POST", FILMS, SORA | wrong)
    assert (status, shape(refused), running.bill.submitted) == (400, shape(ERROR), 0)
    assert next(iter(wrong)) in refused["error"]["message"]


async def test_only_the_models_of_the_options_are_known():
    async with simulate(models=("sora-2",)) as (_, session):
        for path, body in ((GENERATIONS, SMALL), (FILMS, SORA | {"model": "other"})):
            status, refused = await ask(session, "POST", path, body)
            assert (status, refused["error"]["type"]) == (404, "model_not_found")


async def test_plain_options_suit_the_simulator():
    async with start("pixapi", options=Options(time_scale=0.001)) as running:
        assert running.base_url == running.origin
