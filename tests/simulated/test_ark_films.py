"""The simulator of Ark filming with Seedance: tasks from their creation to their end, the list, what a delete does at
each stage, expiry, callbacks, the films themselves, and what is charged.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Running, Step, What, start
from providers.simulated.ark import ArkOptions, name_task
from tests.loopback import http, serve
from tests.waiting import poll_until

TASKS = "/api/v3/contents/generations/tasks"
SEEDANCE = "doubao-seedance-1-0-pro-250528"
SECOND = "doubao-seedance-2-0-260128"
LONG_S = 1_000_000
TEXT = {"type": "text", "text": "a cat runs"}
CAT = {"model": SEEDANCE, "content": [TEXT], "resolution": "480p", "duration": 2}

# The printed body of section 3.
PRINTED = {
    "id": "cgt-20261120-abcde",
    "model": "doubao-seedance-1-0-pro-250528",
    "status": "succeeded",
    "error": None,
    "content": {"video_url": "https://ark-content...mp4?X-Tos-Expires=86400", "last_frame_url": None},
    "usage": {"completion_tokens": 246840, "total_tokens": 246840},
    "created_at": 1795000000,
    "updated_at": 1795000060,
    "seed": 7,
    "resolution": "1080p",
    "ratio": "16:9",
    "duration": 5,
    "framespersecond": 24,
}
NULLS = dict.fromkeys(
    (
        *("safety_identifier", "callback_url", "return_last_frame", "service_tier", "execution_expires_after"),
        *("priority", "generate_audio", "draft", "camera_fixed", "watermark", "seed", "resolution", "ratio"),
        *("duration", "frames", "tools", "output_format", "omni_reference_task_type"),
    )
)


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("ark", options=ArkOptions(**{"time_scale": 0.001} | options)) as running,
        aiohttp.ClientSession(running.origin, headers={"Authorization": "Bearer ark-x"}) as session,
    ):
        yield running, session


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with simulate() as made:
        yield made


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> tuple[int, Any]:
    async with session.request(method, path, json=body) as answer:
        return answer.status, await answer.json()


async def create(session: aiohttp.ClientSession, body: object = CAT) -> str:
    status, task = await ask(session, "POST", TASKS, body)
    assert (status, list(task)) == (200, ["id"]), task
    return str(task["id"])


async def show(session: aiohttp.ClientSession, task: str) -> dict[str, Any]:
    status, body = await ask(session, "GET", f"{TASKS}/{task}")
    assert status == 200, body
    return dict(body)


async def reach(session: aiohttp.ClientSession, task: str, *statuses: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        body = await show(session, task)
        return body if body["status"] in statuses else None

    return await poll_until(reached, f"the task to be {' or '.join(statuses)}")


async def fetch(url: str) -> bytes:
    async with aiohttp.ClientSession() as anybody, anybody.get(url) as answer:
        assert answer.status == 200
        return await answer.read()


def shape(value: object) -> object:
    """The names and types of a body, in their order: texts and numbers may differ, nothing else."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def charges(running: Running) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in running.bill.entries]


# --- the life of a task


async def test_a_task_ends_in_the_printed_body_with_the_printed_tokens(upstream):
    _, session = upstream
    text = {"type": "text", "text": "a cat runs --ratio 16:9 --dur 5 --seed 7"}
    task = await create(session, NULLS | {"model": SEEDANCE, "content": [text]})
    body = await reach(session, task, "succeeded")

    assert re.fullmatch(r"cgt-[0-9]{8}-[a-z0-9]{5}", task)
    assert shape(body) == shape(PRINTED)
    own = ("id", "content", "created_at", "updated_at")
    assert {name: body[name] for name in body if name not in own} == {
        name: PRINTED[name] for name in PRINTED if name not in own
    }
    assert (body["id"], body["content"]["video_url"][:4]) == (task, "http")
    assert body["updated_at"] >= body["created_at"]


async def test_a_task_is_queued_then_running_with_nulls_for_what_is_not_known():
    async with simulate(queue_s=LONG_S) as (_, session):
        body = await show(session, await create(session))
        assert (body["status"], body["error"], body["content"], body["usage"]) == ("queued", None, None, None)
    async with simulate(latency_s=LONG_S) as (running, session):
        await reach(session, await create(session), "running")
        assert (running.bill.submitted, running.bill.billed) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "word", "code", "what"),
    [
        (FaultKind.REFUSAL, None, "OutputVideoSensitiveContentDetected", What.REFUSAL),
        (FaultKind.REFUSAL, "OutputAudioSensitiveContentDetected", None, What.REFUSAL),
        (FaultKind.CONTENT_MODERATED, "InputImageRiskDetection", None, What.REFUSAL),
        (FaultKind.JOB_ERROR, None, "InternalServiceError", What.FAILURE),
    ],
)
async def test_a_task_that_is_refused_or_fails_at_its_end_says_why_and_is_free(upstream, kind, word, code, what):
    running, session = upstream
    running.dial.set(Fault(kind=kind, at=Step.SUBMIT, word=word))
    body = await reach(session, await create(session), "failed")
    assert (list(body["error"]), body["error"]["code"]) == (["code", "message"], code or word)
    assert (body["content"], body["usage"]) == (None, None)
    assert charges(running) == [(what, Decimal(0))]


async def test_a_task_that_is_not_done_in_time_expires_and_is_free():
    async with simulate(latency_s=LONG_S) as (running, session):
        body = await reach(session, await create(session, CAT | {"execution_expires_after": 100}), "expired")
        assert body["error"] is None
        assert charges(running) == [(What.FAILURE, Decimal(0))]


async def test_a_task_that_the_dial_hides_is_not_found_at_first(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.TASK_NOT_FOUND, polls=1))
    task = await create(session)
    status, refused = await ask(session, "GET", f"{TASKS}/{task}")
    assert (status, refused["error"]["code"]) == (404, "NotFound.Task")
    await reach(session, task, "succeeded")


# --- films


@pytest.mark.parametrize(
    ("change", "size", "seconds"),
    [
        ({"duration": 2}, (864, 480), 2.0),
        ({"ratio": "9:16", "frames": 29}, (480, 864), 29 / 24),
        ({"content": [{"type": "text", "text": "x --rs 480p --rt 1:1 --dur 3 --nonsense 4"}]}, (640, 640), 3.0),
        ({"model": SECOND, "resolution": "480p", "ratio": "21:9"}, (992, 432), 2.0),
        ({"model": SECOND, "resolution": "720p"}, (1280, 720), 2.0),
    ],
)
async def test_a_film_plays_for_the_asked_time_in_the_asked_size(upstream, change, size, seconds):
    _, session = upstream
    asked = {"model": SEEDANCE, "content": [TEXT]} | (CAT if "content" not in change else {}) | change
    body = await reach(session, await create(session, asked), "succeeded")
    with av.open(io.BytesIO(await fetch(body["content"]["video_url"]))) as film:
        stream = film.streams.video[0]
        assert (film.format.name.split(",")[1], stream.width, stream.height) == ("mp4", *size)
        assert film.duration / av.time_base == pytest.approx(seconds, abs=0.01)
    assert body.get("frames") == change.get("frames")
    assert ("duration" in body) == ("frames" not in change)


async def test_the_last_frame_is_a_picture_of_the_film_if_it_was_asked_for(upstream):
    _, session = upstream
    body = await reach(session, await create(session, CAT | {"return_last_frame": True}), "succeeded")
    picture = Image.open(io.BytesIO(await fetch(body["content"]["last_frame_url"])))
    assert (picture.format, picture.size) == ("PNG", (864, 480))


async def test_the_bill_has_the_prompt_without_the_options_behind_it(upstream):
    running, session = upstream
    await create(session, {"model": SEEDANCE, "content": [{"type": "text", "text": "a -- b --wm false --dur 2"}]})
    assert [entry.prompt for entry in running.bill.entries] == ["a -- b"]


@pytest.mark.parametrize(
    ("change", "amount"),
    [
        ({"model": SECOND, "resolution": "480p"}, "0.132"),
        ({"model": SECOND, "resolution": "1080p"}, "0.708"),
        ({"model": "dreamina-seedance-2.5-260628", "resolution": "720p"}, "0.432"),
        ({"model": "doubao-seedance-2-0-fast-260128", "resolution": "720p"}, "0.228"),
        ({"model": SECOND, "resolution": "720p", "service_tier": "flex"}, "0.142"),
    ],
)
async def test_a_film_costs_its_seconds_once_it_has_succeeded(change, amount):
    async with simulate(latency_s=1) as (running, session):
        await reach(session, await create(session, CAT | change), "succeeded")
        assert charges(running) == [(What.SUCCESS, Decimal(amount))]


async def test_a_first_and_a_last_frame_are_taken_and_adapted_to(upstream):
    _, session = upstream
    frames = [
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}, "role": role}
        for role in ("first_frame", "last_frame")
    ]
    body = await reach(session, await create(session, CAT | {"content": [TEXT, *frames]}), "succeeded")
    assert body["ratio"] == "16:9"


# --- the list, the delete, the records


async def test_a_task_whose_answer_was_lost_is_found_on_the_list(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.DROP, at=Step.SUBMIT))
    with pytest.raises(aiohttp.ClientError):
        await create(session)
    _, page = await ask(session, "GET", TASKS)
    assert (page["total"], list(page["items"][0])) == (1, list(PRINTED))
    running.dial.clear()
    await reach(session, page["items"][0]["id"], "succeeded")


async def test_the_list_is_filtered_and_paged_with_the_newest_first():
    async with simulate(latency_s=LONG_S) as (_, session):
        tasks = [await create(session, CAT | {"model": model}) for model in (SEEDANCE, SECOND, SEEDANCE)]
        for task in tasks:
            await reach(session, task, "running")

        async def found(query: str) -> tuple[int, list[int]]:
            _, page = await ask(session, "GET", f"{TASKS}?{query}")
            return page["total"], [tasks.index(item["id"]) for item in page["items"]]

        assert await found("") == (3, [2, 1, 0])
        assert await found("page_num=2&page_size=2") == (3, [0])
        assert await found(f"filter.model={SEEDANCE}&filter.status=running") == (2, [2, 0])
        assert await found(f"filter.task_ids={tasks[0]}&filter.task_ids={tasks[1]}") == (2, [1, 0])
        assert await found("filter.status=succeeded") == (0, [])
        assert await found("filter.service_tier=flex") == (0, [])


@pytest.mark.parametrize("query", ["page_num=0", "page_size=501", "page_size=x", "filter.status=done"])
async def test_a_wrong_question_for_the_list_is_refused(upstream, query):
    _, session = upstream
    status, refused = await ask(session, "GET", f"{TASKS}?{query}")
    assert (status, refused["error"]["param"]) == (400, query.partition("=")[0])


async def test_a_delete_cancels_a_queued_task_and_then_deletes_its_record():
    async with simulate(queue_s=LONG_S) as (running, session):
        task = await create(session)
        assert await ask(session, "DELETE", f"{TASKS}/{task}", {}) == (200, {})
        assert (await show(session, task))["status"] == "cancelled"
        assert charges(running) == [(What.FAILURE, Decimal(0))]
        assert await ask(session, "DELETE", f"{TASKS}/{task}") == (200, {})
        assert (await ask(session, "GET", f"{TASKS}/{task}"))[0] == 404
        assert (await ask(session, "DELETE", f"{TASKS}/{task}"))[0] == 404


async def test_a_running_task_is_not_deleted():
    async with simulate(latency_s=LONG_S) as (_, session):
        task = await create(session)
        await reach(session, task, "running")
        status, refused = await ask(session, "DELETE", f"{TASKS}/{task}")
        assert (status, refused["error"]["code"]) == (409, "InvalidAction.RunningTaskDeletion")
        assert (await show(session, task))["status"] == "running"


async def test_a_deleted_record_of_a_film_that_succeeded_stays_on_the_bill(upstream):
    running, session = upstream
    task = await create(session)
    await reach(session, task, "succeeded")
    assert await ask(session, "DELETE", f"{TASKS}/{task}") == (200, {})
    assert (await ask(session, "GET", TASKS))[1] == {"total": 0, "items": []}
    assert running.bill.billed == 1


async def test_more_queued_tasks_than_the_account_may_have_are_refused_and_cost_nothing():
    async with simulate(queue_s=LONG_S, queued_max=2) as (running, session):
        for _ in range(2):
            await create(session)
        status, refused = await ask(session, "POST", TASKS, CAT)
        assert (status, refused["error"]["code"]) == (429, "QuotaExceeded")
        assert "The request has exceeded the quota" in refused["error"]["message"]
        assert running.bill.submitted == 2


async def test_a_link_lives_a_day_and_a_record_seven():
    clock = [1_795_000_000_000]
    async with simulate(time_scale=1, latency_s=0, queue_s=0, now_ms=lambda: clock[0]) as (_, session):
        task = await create(session)
        assert task.startswith("cgt-20261118-")
        url = (await reach(session, task, "succeeded"))["content"]["video_url"]
        clock[0] += (24 * 3600 + 1) * 1000
        async with session.get(url) as answer:
            assert answer.status == 403
        assert (await show(session, task))["content"]["video_url"] == url
        clock[0] += 6 * 24 * 3600 * 1000
        assert (await ask(session, "GET", f"{TASKS}/{task}"))[0] == 404
        assert (await ask(session, "GET", TASKS))[1]["total"] == 0


def test_no_two_tasks_have_one_name():
    assert len({name_task(number, 0) for number in range(50_000)}) == 50_000


# --- callbacks


async def test_each_change_of_status_is_posted_unsigned_as_a_get_shows_it(upstream):
    _, session = upstream
    posted: list[dict[str, Any]] = []

    async def take(request: bytes, writer: asyncio.StreamWriter) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"signature" not in head.lower()
        posted.append(json.loads(body))
        writer.write(http())
        await writer.drain()

    async with serve(take) as peer:
        task = await create(session, CAT | {"callback_url": f"{peer.url}/cb"})
        await poll_until(lambda: len(posted) == 2, "two callbacks")
    assert {body["status"] for body in posted} == {"running", "succeeded"}
    assert await show(session, task) in posted


# --- errors


FRAME = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "MissingParameter", "model"),
        ({"model": "doubao-seedream-4-0-250828"}, "InvalidParameter", "model"),
        ({"content": []}, "MissingParameter", "content"),
        ({"content": "cat"}, "InvalidParameter", "content"),
        ({"content": [{"type": "text"}]}, "MissingParameter", "content[0].text"),
        ({"content": [{"type": "smell"}]}, "InvalidParameter", "content[0].type"),
        ({"content": [{"type": "draft_task", "draft_task": {}}]}, "MissingParameter", "content[0].draft_task.id"),
        ({"content": [TEXT, {"type": "image_url"}]}, "MissingParameter", "content[1].image_url"),
        (
            {"content": [FRAME | {"image_url": {"url": "a"}}]},
            "InvalidImageURL.InvalidFormat",
            "content[0].image_url.url",
        ),
        ({"content": [FRAME | {"role": "hero"}]}, "InvalidParameter", "content[0].role"),
        ({"content": [FRAME | {"role": "last_frame"}]}, "InvalidParameter", "content"),
        ({"content": [FRAME, FRAME]}, "InvalidParameter", "content"),
        ({"content": [FRAME, FRAME | {"role": "reference_image"}]}, "InvalidParameter", "content"),
        ({"resolution": "4k"}, "InvalidParameter", "resolution"),
        ({"ratio": "2:1"}, "InvalidParameter", "ratio"),
        ({"duration": 16}, "InvalidParameter", "duration"),
        ({"duration": "5"}, "InvalidParameter", "duration"),
        ({"frames": 30}, "InvalidParameter", "frames"),
        ({"service_tier": "gold"}, "InvalidParameter", "service_tier"),
        ({"watermark": 1}, "InvalidParameter", "watermark"),
        ({"callback_url": 7}, "InvalidParameter", "callback_url"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_named(upstream, change, code, param):
    running, session = upstream
    status, refused = await ask(session, "POST", TASKS, CAT | change)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, code, param)
    assert running.bill.submitted == 0


@pytest.mark.parametrize(
    ("option", "status"), [("--dur 99", 400), ("--dur x", 400), ("--resolution 9k", 400), ("--ratio 2:1 --fps 99", 200)]
)
async def test_options_behind_the_prompt_are_passed_over_when_wrong_but_for_resolution_and_duration(
    upstream, option, status
):
    _, session = upstream
    text = {"type": "text", "text": f"a cat {option}"}
    assert (await ask(session, "POST", TASKS, {"model": SEEDANCE, "content": [text]}))[0] == status
