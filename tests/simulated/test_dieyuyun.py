"""The simulator of Dieyuyun. There is no SDK: its bodies are compared field for field with those that the provider file
and the vendor's page on async tasks print; each test names the section that it goes by.
"""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from providers.simulated.dieyuyun import DieyuyunOptions
from tests.waiting import poll_until

IMAGES = "/v1/images/generations"
FILMS = "/v1/videos/generations"
# The request that the page prints, and the same with a picture that is quickly drawn.
CAT = {"model": "gpt-image-2", "prompt": "A cat sitting on a windowsill", "size": "1024x1024", "async": True}
SMALL = CAT | {"size": "128x128"}
WAVES = {"model": "sora-2", "prompt": "waves", "size": "320x180", "seconds": 2, "async": True}

# The printed replies: of the submit (section 3), of a task in progress, completed and failed (section 4).
SUBMITTED = {
    "id": "task_d1e2f3",
    "status": "queued",
    "progress": 0,
    "created_at": "2026-11-20T08:00:00Z",
    "request_id": "req_1a2b",
}
PROCESSING = {
    "id": "task_d1e2f3",
    "status": "processing",
    "progress": 60,
    "model_code": "gpt-image-2",
    "created_at": "2026-11-20T08:00:00Z",
    "updated_at": "2026-11-20T08:00:15Z",
}
COMPLETED = {
    "id": "task_d1e2f3",
    "status": "completed",
    "progress": 100,
    "model_code": "gpt-image-2",
    "result": {
        "created": 1795161600,
        "data": [{"url": "https://cdn.example/images/1.png", "revised_prompt": "an orange cat ..."}],
    },
    "usage": {"input_tokens": 0, "output_tokens": 1},
    "created_at": "2026-11-20T08:00:00Z",
    "completed_at": "2026-11-20T08:00:25Z",
}
FAILED = {
    "id": "task_d1e2f3",
    "status": "failed",
    "error_code": "upstream_error",
    "error_message": "The upstream provider returned an error",
    "created_at": "2026-11-20T08:00:00Z",
    "failed_at": "2026-11-20T08:00:10Z",
}
ERROR = {"error": {"message": "...", "type": "...", "code": "..."}}
FLAT_ERROR = {"error_code": "...", "error_message": "..."}
AT_MS = 1_795_161_600_000
AT = "2026-11-20T08:00:00Z"


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("dieyuyun", options=DieyuyunOptions(**{"time_scale": 0.001} | options)) as running,
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


async def submit(session: aiohttp.ClientSession, body: object = SMALL, path: str = IMAGES) -> dict[str, Any]:
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


# --- section 3 and section 4: tasks


async def test_a_submit_with_the_flag_is_answered_with_the_printed_task():
    async with simulate(now_ms=lambda: AT_MS) as (running, session):
        submitted = await submit(session, CAT)

        assert shape(submitted) == shape(SUBMITTED)
        assert {name: submitted[name] for name in ("status", "progress", "created_at")} == {
            "status": "queued",
            "progress": 0,
            "created_at": AT,
        }
        assert submitted["id"].startswith("task_")
        assert submitted["request_id"].startswith("req_")
        assert running.bill.submitted == 1


async def test_a_task_is_queued_then_processing_in_the_printed_body():
    async with simulate(latency_s=1_000_000, now_ms=lambda: AT_MS) as (_, session):
        processing = await reach(session, await submit(session), "processing")
        assert shape(processing) == shape(PROCESSING)
        assert (processing["model_code"], processing["created_at"], processing["updated_at"]) == ("gpt-image-2", AT, AT)

    async with simulate(time_scale=1.0) as (_, session):
        queued = await reach(session, await submit(session), "queued")
        assert shape(queued) == shape(PROCESSING)
        assert queued["progress"] == 0


async def test_progress_goes_in_steps_and_never_back():
    seen: list[int] = []
    async with simulate(latency_s=300) as (_, session):
        submitted = await submit(session)

        async def ended() -> bool:
            _, body = await ask(session, "GET", f"/v1/tasks/{submitted['id']}")
            seen.append(body["progress"])
            return bool(body["status"] == "completed")

        await poll_until(ended, "the task to be completed")

    assert seen == sorted(seen)
    assert set(seen) <= {0, 20, 40, 60, 80, 100}


async def test_a_completed_task_has_its_result_and_beside_it_the_usage_in_units():
    async with simulate(now_ms=lambda: AT_MS) as (running, session):
        submitted = await submit(session)
        completed = await reach(session, submitted, "completed")

        assert shape(completed) == shape(COMPLETED)
        for name in ("status", "progress", "model_code", "usage", "created_at"):
            assert completed[name] == COMPLETED[name]
        assert (completed["id"], completed["result"]["created"]) == (submitted["id"], AT_MS // 1000)
        assert charges(running) == [(What.SUCCESS, Decimal("0.04"))]

        two = await reach(session, await submit(session, SMALL | {"n": 2}), "completed")
        assert (len(two["result"]["data"]), two["usage"]["output_tokens"]) == (2, 2)


async def test_a_completed_picture_is_fetched_without_a_key(upstream):
    _, session = upstream
    completed = await reach(session, await submit(session, SMALL | {"output_format": "webp"}), "completed")

    url = completed["result"]["data"][0]["url"]
    async with aiohttp.ClientSession() as anybody, anybody.get(url) as answer:
        picture = Image.open(io.BytesIO(await answer.read()))
    assert (picture.size, picture.format) == ((128, 128), "WEBP")


async def test_a_failed_task_has_flat_texts_and_no_error_object():
    async with simulate(faults=(Fault(kind=FaultKind.JOB_ERROR),), now_ms=lambda: AT_MS) as (_, session):
        submitted = await submit(session)
        failed = await reach(session, submitted, "failed")
    assert failed == FAILED | {"id": submitted["id"], "failed_at": AT}
    assert shape(failed) == shape(FAILED)


async def test_a_refused_task_is_a_failed_one_with_words_of_moderation(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.REFUSAL))
    failed = await reach(session, await submit(session), "failed")

    assert shape(failed) == shape(FAILED)
    assert "policy" in failed["error_code"]
    assert "moderation" in failed["error_message"]
    assert [entry.what for entry in running.bill.entries] == [What.REFUSAL]


async def test_an_expired_task_has_lost_its_result_and_its_links_but_was_made_and_paid():
    now_ms = AT_MS
    async with simulate(result_lifetime_s=60_000, now_ms=lambda: now_ms) as (running, session):
        submitted = await submit(session)
        completed = await reach(session, submitted, "completed")
        now_ms += 60_000
        assert await reach(session, submitted, "completed") == completed
        now_ms += 1
        expired = await reach(session, submitted, "expired")
        async with session.get(completed["result"]["data"][0]["url"]) as answer:
            assert answer.status == 403

        assert not {"result", "error_code"} & set(expired)
        assert charges(running) == [(What.SUCCESS, Decimal("0.04"))]


async def test_an_unknown_task_is_a_404_and_a_task_may_be_unknown_at_first_or_for_ever(upstream):
    running, session = upstream
    status, refused = await ask(session, "GET", "/v1/tasks/task_0")
    assert (status, shape(refused)) == (404, shape(ERROR))

    running.dial.set(Fault(kind=FaultKind.TASK_NOT_FOUND, polls=1, prompt="late"), Fault(kind=FaultKind.LOST))
    late, lost = await submit(session, SMALL | {"prompt": "late"}), await submit(session)
    assert (await ask(session, "GET", f"/v1/tasks/{late['id']}"))[0] == 404
    await reach(session, late, "completed")
    await poll_until(lambda: running.bill.entries[1].what is What.SUCCESS, "the lost task to be made")
    assert (await ask(session, "GET", f"/v1/tasks/{lost['id']}"))[0] == 404
    assert (await ask(session, "POST", f"/v1/tasks/{lost['id']}/cancel"))[0] == 404


async def test_there_is_no_listing_of_tasks(upstream):
    _, session = upstream
    assert (await ask(session, "GET", "/v1/tasks"))[0] == 404


# --- section 2: films


@pytest.mark.parametrize("path", [IMAGES, FILMS])
async def test_a_film_is_a_task_and_plays_for_the_asked_seconds(upstream, path):
    running, session = upstream
    submitted = await submit(session, WAVES, path)
    assert shape(submitted) == shape(SUBMITTED)
    completed = await reach(session, submitted, "completed")

    [item] = completed["result"]["data"]
    async with session.get(item["url"]) as answer:
        content = io.BytesIO(await answer.read())
    with av.open(content) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (320, 180)
        assert film.duration / av.time_base == pytest.approx(2.0, abs=0.25)
    assert charges(running) == [(What.SUCCESS, Decimal("0.20"))]


async def test_a_film_is_never_answered_at_once():
    async with simulate(default_mode="sync", sync_models=("sora-2",)) as (running, session):
        for flag in ({"async": True}, {"async": None}):
            assert shape(await submit(session, WAVES | flag, FILMS)) == shape(SUBMITTED)
        status, refused = await ask(session, "POST", FILMS, WAVES | {"async": False})
        assert (status, shape(refused), running.bill.submitted) == (400, shape(ERROR), 2)


# --- section 2: the answer goes by the flag and by the model


@pytest.mark.parametrize(
    ("options", "flag", "at_once"),
    [
        ({}, {"async": True}, False),
        ({}, {}, False),
        ({}, {"async": False}, True),
        ({"default_mode": "sync"}, {}, True),
        ({"default_mode": "sync"}, {"async": True}, False),
        ({"sync_models": ("gpt-image-2",)}, {"async": True}, True),
        ({"sync_models": ("other",)}, {"async": True}, False),
    ],
)
async def test_the_flag_and_the_models_mode_decide_between_data_and_a_task(options, flag, at_once):
    body = {name: value for name, value in SMALL.items() if name != "async"} | flag
    async with simulate(**options) as (running, session):
        answer = await submit(session, body)
        assert ("data" in answer, {"id", "status"} <= set(answer)) == (at_once, not at_once)
        if at_once:
            async with session.get(answer["data"][0]["url"]) as fetched:
                assert Image.open(io.BytesIO(await fetched.read())).size == (128, 128)
        assert running.bill.submitted == 1


async def test_a_refusal_at_once_is_an_error_with_words_of_policy(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.REFUSAL))
    status, refused = await ask(session, "POST", IMAGES, SMALL | {"async": False})
    assert (status, shape(refused)) == (400, shape(ERROR))
    assert "policy" in refused["error"]["code"]


# --- section 4: cancel


@pytest.mark.parametrize(("options", "status"), [({"time_scale": 1.0}, "queued"), ({"latency_s": 1e6}, "processing")])
async def test_a_task_is_cancelled_while_it_is_queued_or_processing(options, status):
    async with simulate(**options) as (running, session):
        submitted = await submit(session)
        await reach(session, submitted, status)
        answered, _ = await ask(session, "POST", f"/v1/tasks/{submitted['id']}/cancel")
        _, cancelled = await ask(session, "GET", f"/v1/tasks/{submitted['id']}")

        assert (answered, cancelled["status"]) == (200, "cancelled")
        assert "result" not in cancelled
        assert [entry.what for entry in running.bill.entries] == [What.FAILURE]


@pytest.mark.parametrize(
    ("faults", "options", "status"),
    [
        ((), {}, "completed"),
        ((), {"result_lifetime_s": 0}, "expired"),
        ((Fault(kind=FaultKind.JOB_ERROR),), {}, "failed"),
    ],
)
async def test_a_task_that_has_ended_cannot_be_cancelled(faults, options, status):
    async with simulate(faults=faults, **options) as (running, session):
        submitted = await submit(session)
        await reach(session, submitted, status)
        entries = running.bill.entries
        answered, refused = await ask(session, "POST", f"/v1/tasks/{submitted['id']}/cancel")
        assert (answered, shape(refused)) == (409, shape(ERROR))
        assert (await ask(session, "GET", f"/v1/tasks/{submitted['id']}"))[1]["status"] == status
        assert running.bill.entries == entries


async def test_a_cancelled_task_cannot_be_cancelled_again():
    async with simulate(latency_s=1e6) as (_, session):
        path = f"/v1/tasks/{(await submit(session))['id']}/cancel"
        assert [(await ask(session, "POST", path))[0] for _ in range(2)] == [200, 409]


@pytest.mark.parametrize(("charges_unmade", "amount"), [(True, Decimal("0.04")), (False, Decimal(0))])
async def test_what_a_task_costs_that_made_nothing_is_an_option(charges_unmade, amount):
    for kind in (FaultKind.REFUSAL, FaultKind.JOB_ERROR):
        async with simulate(charges_unmade=charges_unmade, faults=(Fault(kind=kind),)) as (running, session):
            await reach(session, await submit(session), "failed")
            assert running.bill.total == amount
    async with simulate(charges_unmade=charges_unmade, latency_s=1e6) as (running, session):
        await ask(session, "POST", f"/v1/tasks/{(await submit(session))['id']}/cancel")
        assert running.bill.total == amount


# --- section 1: keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer k"}, 200),
        ({"x-api-key": "k"}, 200),
        ({"Authorization": "Bearer other"}, 401),
        ({"x-api-key": "other"}, 401),
        ({"Authorization": "Basic k"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({}, 401),
    ],
)
async def test_the_key_comes_in_either_of_two_headers(headers, status):
    async with simulate(api_key="k", latency_s=1e6) as (running, session):
        task = await submit(session)
        async with aiohttp.ClientSession(running.base_url, headers=headers) as caller:
            for method, path, body in (
                ("POST", IMAGES, SMALL),
                ("POST", FILMS, WAVES),
                ("GET", f"/v1/tasks/{task['id']}", None),
                ("POST", f"/v1/tasks/{task['id']}/cancel", None),
                ("GET", "/v1/models", None),
            ):
                answered, answer = await ask(caller, method, path, body)
                assert answered == status
                assert status == 200 or shape(answer) == shape(ERROR)


# --- section 5: errors


TURNED_AWAY = [
    (FaultKind.UNSUPPORTED_PARAMETER, 400),
    (FaultKind.INVALID_KEY, 401),
    (FaultKind.QUOTA, 402),
    (FaultKind.MODEL_NOT_FOUND, 404),
    (FaultKind.THROTTLED, 429),
    (FaultKind.SERVER_ERROR, 500),
    (FaultKind.OVERLOADED, 503),
]


@pytest.mark.parametrize(("kind", "status"), TURNED_AWAY)
@pytest.mark.parametrize(("form", "printed"), [("openai", ERROR), ("flat", FLAT_ERROR)])
async def test_an_order_that_is_turned_away_is_told_so_in_either_form_and_costs_nothing(kind, status, form, printed):
    async with simulate(error_form=form, faults=(Fault(kind=kind, retry_after_s=7),)) as (running, session):
        for path, body in ((IMAGES, SMALL), (IMAGES, SMALL | {"async": False}), (FILMS, WAVES)):
            async with session.post(path, json=body) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (status, "7")
                assert shape(await answer.json()) == shape(printed)
        assert running.bill.submitted == 0


async def test_an_account_without_money_is_told_so_in_words_of_balance(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.QUOTA))
    assert "balance" in (await ask(session, "POST", IMAGES, SMALL))[1]["error"]["code"]


@pytest.mark.parametrize(
    "wrong",
    [{"model": None}, {"prompt": ""}, {"size": "wide"}, {"n": 0}, {"async": "yes"}],
)
async def test_an_order_that_breaks_a_rule_is_refused_with_the_field(upstream, wrong):
    running, session = upstream
    status, refused = await ask(session, "POST", IMAGES, SMALL | wrong)
    assert (status, shape(refused), running.bill.submitted) == (400, shape(ERROR), 0)
    assert next(iter(wrong)) in refused["error"]["message"]


@pytest.mark.parametrize("wrong", [{"prompt": None}, {"size": "321x180"}, {"seconds": 0}, {"async": 1}])
async def test_a_film_that_breaks_a_rule_is_refused_with_the_field(upstream, wrong):
    running, session = upstream
    status, refused = await ask(session, "POST", FILMS, WAVES | wrong)
    assert (status, shape(refused), running.bill.submitted) == (400, shape(ERROR), 0)
    assert next(iter(wrong)) in refused["error"]["message"]


async def test_a_submit_whose_reply_is_lost_makes_its_task_all_the_same(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.DROP), Fault(kind=FaultKind.OVERLOADED, at=Step.POLL, first=1))
    with pytest.raises(aiohttp.ClientError):
        await submit(session)
    await poll_until(lambda: running.bill.entries[0].what is not What.ACCEPTED, "the unseen task to end")
    assert charges(running) == [(What.DISCONNECT, Decimal("0.04"))]


async def test_a_proxy_in_front_answers_with_pages(upstream):
    running, session = upstream
    for kind, status, accepted in ((FaultKind.BAD_GATEWAY, 502, 0), (FaultKind.GATEWAY_TIMEOUT, 504, 1)):
        running.dial.set(Fault(kind=kind))
        async with session.post(IMAGES, json=SMALL) as answer:
            assert (answer.status, answer.content_type) == (status, "text/html")
        assert running.bill.submitted == accepted


async def test_only_the_models_of_the_options_are_known_and_listed():
    async with simulate(models=("flux-2",)) as (_, session):
        for path, body in ((IMAGES, SMALL), (FILMS, WAVES)):
            status, refused = await ask(session, "POST", path, body)
            assert (status, refused["error"]["code"]) == (404, "model_not_found")
        _, listed = await ask(session, "GET", "/v1/models")
        assert [row["id"] for row in listed["data"]] == ["flux-2"]


async def test_plain_options_suit_the_simulator():
    async with start("dieyuyun", options=Options(time_scale=0.001, price_usd=Decimal("0.5"))) as running:
        assert running.base_url == running.origin
        async with aiohttp.ClientSession(running.base_url, headers={"x-api-key": "k"}) as session:
            await reach(session, await submit(session, SMALL | {"n": 2}), "completed")
        assert running.bill.total == 1
