"""The simulator of Replicate, driven by plain HTTP: the life of a prediction, its words and prices, the list that finds
a lost answer, and files. The unmodified SDK drives it in `tests/sdk/`.
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
from providers.simulated.replicate import ReplicateOptions
from tests.waiting import poll_until

SCHNELL = "/v1/models/black-forest-labs/flux-schnell/predictions"
SDXL = "/v1/models/stability-ai/sdxl/predictions"
SEEDANCE = "/v1/models/bytedance/seedance-1-lite/predictions"
CAT = {"input": {"prompt": "cat", "width": 128, "height": 64}}
ENDED = ("succeeded", "failed", "canceled", "aborted")


class Clock:
    """A provider's wall clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = 1_795_000_000_000

    def __call__(self) -> int:
        return self.ms


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("replicate", options=ReplicateOptions(**{"time_scale": 0.001} | options)) as running,
        aiohttp.ClientSession(running.base_url, headers={"Authorization": "Bearer r8_test"}) as session,
    ):
        yield running, session


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with simulate() as made:
        yield made


async def ask(session: aiohttp.ClientSession, method: str, url: str, body: object = None, **headers: str) -> Any:
    async with session.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def create(session: aiohttp.ClientSession, path: str = SCHNELL, body: object = CAT, **headers: str) -> Any:
    status, prediction = await ask(session, "POST", path, body, **headers)
    assert status == 201, prediction
    return prediction


async def finish(session: aiohttp.ClientSession, prediction: dict[str, Any]) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        _, body = await ask(session, "GET", prediction["urls"]["get"])
        return body if body["status"] in ENDED else None

    return await poll_until(ended, "the prediction to end")


async def reach(session: aiohttp.ClientSession, prediction: dict[str, Any], status: str) -> None:
    async def reached() -> bool:
        return (await ask(session, "GET", prediction["urls"]["get"]))[1]["status"] == status

    await poll_until(reached, f"the prediction to be {status}")


def charges(running: Running) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in running.bill.entries]


# --- the life of a prediction


async def test_a_prediction_begins_as_printed_and_ends_with_a_picture_that_needs_no_key():
    async with simulate(boot_s=1000, time_scale=0.0001) as (running, session):
        begun = await create(session)
        base = f"{running.origin}/v1/predictions/{begun['id']}"
        assert begun == {
            "id": begun["id"],
            "model": "black-forest-labs/flux-schnell",
            "version": "hidden",
            "status": "starting",
            "input": CAT["input"],
            "output": None,
            "logs": "",
            "error": None,
            "metrics": {},
            "data_removed": False,
            "created_at": begun["created_at"],
            "started_at": None,
            "completed_at": None,
            "urls": {"get": base, "cancel": f"{base}/cancel", "web": f"{running.origin}/p/{begun['id']}"},
        }
        assert (len(begun["id"]), begun["created_at"][-1]) == (26, "Z")

        ended = await finish(session, begun)
        assert (ended["status"], ended["error"], len(ended["output"])) == ("succeeded", None, 1)
        assert ended["metrics"] == {"predict_time": 1.2, "total_time": 1001.2}
        assert ended["created_at"] <= ended["started_at"] <= ended["completed_at"]
        async with aiohttp.ClientSession() as anybody, anybody.get(ended["output"][0]) as answer:
            picture = Image.open(io.BytesIO(await answer.read()))
        assert (picture.format, picture.size, answer.content_type) == ("WEBP", (128, 64), "image/webp")
        assert charges(running) == [(What.SUCCESS, Decimal("0.003"))]


async def test_prefer_wait_holds_the_create_until_the_prediction_has_ended(upstream):
    _, session = upstream
    for preference in ("wait", "wait=60"):
        held = await create(session, Prefer=preference)
        assert held["status"] == "succeeded"


async def test_a_held_create_answers_unfinished_when_its_time_is_up():
    async with simulate(boot_s=1_000_000) as (_, session):
        assert (await create(session, Prefer="wait=1"))["status"] == "starting"
        for preference in ("wait=0", "wait=61"):
            assert (await ask(session, "POST", SCHNELL, CAT, Prefer=preference))[0] == 400


async def test_a_model_answers_with_a_list_of_links_or_with_one_link(upstream):
    running, session = upstream
    four = await create(session, SCHNELL, {"input": CAT["input"] | {"num_outputs": 4}}, Prefer="wait")
    single = await create(session, "/v1/models/black-forest-labs/flux-1.1-pro/predictions", CAT, Prefer="wait")

    assert len(set(four["output"])) == 4
    assert single["output"].startswith(f"{running.origin}/delivery/")
    assert charges(running) == [(What.SUCCESS, Decimal("0.012")), (What.SUCCESS, Decimal("0.04"))]


async def test_a_version_is_named_by_its_digits_or_by_its_model(upstream):
    _, session = upstream
    _, model = await ask(session, "GET", "/v1/models/stability-ai/sdxl")
    digits = model["latest_version"]["id"]
    for version in (digits, "stability-ai/sdxl", f"stability-ai/sdxl:{digits}"):
        begun = await create(session, "/v1/predictions", CAT | {"version": version})
        assert (begun["model"], begun["version"]) == ("stability-ai/sdxl", digits)

    _, described = await ask(session, "GET", f"/v1/models/stability-ai/sdxl/versions/{digits}")
    assert described == model["latest_version"]
    assert {"id", "created_at", "cog_version", "openapi_schema"} == set(described)
    for version in ("a" * 64, "stability-ai/sdxl:" + "a" * 64):
        assert (await ask(session, "POST", "/v1/predictions", CAT | {"version": version}))[0] == 404
    assert (await ask(session, "POST", "/v1/predictions", CAT))[0] == 422


async def test_a_film_is_a_file_that_plays_for_the_asked_seconds_and_is_paid_by_them(upstream):
    running, session = upstream
    asked = {"prompt": "waves", "duration": 2, "resolution": "480p", "aspect_ratio": "1:1"}
    ended = await finish(session, await create(session, SEEDANCE, {"input": asked}))

    async with session.get(ended["output"]) as answer:
        content = io.BytesIO(await answer.read())
    assert answer.content_type == "video/mp4"
    with av.open(content) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (480, 480)
        assert film.duration / av.time_base == pytest.approx(2.0, abs=0.25)
    assert charges(running) == [(What.SUCCESS, Decimal("0.072"))]


async def test_output_and_input_are_removed_an_hour_after_the_end():
    clock = Clock()
    async with simulate(time_scale=0.001, now_ms=clock) as (_, session):
        ended = await finish(session, await create(session))
        clock.ms += 3600
        async with session.get(ended["output"][0]) as answer:
            assert answer.status == 200
        clock.ms += 1
        async with session.get(ended["output"][0]) as answer:
            assert answer.status == 404
        _, gone = await ask(session, "GET", ended["urls"]["get"])
    assert (gone["status"], gone["data_removed"], gone["input"], gone["output"]) == ("succeeded", True, {}, None)


# --- cancel


async def test_a_cancel_before_the_start_is_free_and_ends_the_prediction():
    async with simulate(boot_s=1_000_000) as (running, session):
        begun = await create(session, SDXL)
        status, cancelled = await ask(session, "POST", begun["urls"]["cancel"])

        assert (status, cancelled["status"], cancelled["metrics"]) == (200, "canceled", {})
        assert (await ask(session, "POST", begun["urls"]["cancel"]))[1] == cancelled
        assert (await ask(session, "POST", "/v1/predictions/unknown/cancel"))[0] == 404
        assert charges(running) == [(What.FAILURE, Decimal(0))]


async def test_a_cancel_at_work_is_billed_for_the_time_that_the_hardware_ran():
    clock = Clock()
    async with simulate(latency_s=1_000_000, time_scale=0.01, now_ms=clock) as (running, session):
        bills = {}
        for path in (SDXL, SCHNELL):
            begun = await create(session, path)
            await reach(session, begun, "processing")
            clock.ms += 30
            _, cancelled = await ask(session, "POST", begun["urls"]["cancel"])
            bills[path] = cancelled["metrics"]["predict_time"], running.bill.entries[-1].amount_usd
    assert bills == {SDXL: (3.0, Decimal("0.003")), SCHNELL: (3.0, Decimal(0))}


@pytest.mark.parametrize(
    ("late", "status"), [({"boot_s": 1_000_000}, "aborted"), ({"boot_s": 0, "latency_s": 1_000_000}, "canceled")]
)
async def test_a_prediction_that_is_late_is_stopped_and_aborted_if_it_had_not_begun(late, status):
    async with simulate(**late) as (running, session):
        ended = await finish(session, await create(session, SCHNELL, CAT, **{"Cancel-After": "1m30s"}))
        assert ended["status"] == status
        assert charges(running) == [(What.FAILURE, Decimal(0))]
        assert (await ask(session, "POST", SCHNELL, CAT, **{"Cancel-After": "soon"}))[0] == 400


# --- failures


@pytest.mark.parametrize(
    ("kind", "what", "error"),
    [
        (FaultKind.REFUSAL, What.REFUSAL, "NSFW content detected. Try running it again, or try a different prompt."),
        (FaultKind.CONTENT_MODERATED, What.REFUSAL, "(E005)"),
        (FaultKind.JOB_ERROR, What.FAILURE, "CUDA out of memory"),
    ],
)
async def test_failures_say_why_and_cost_the_hardwares_time_or_nothing(upstream, kind, what, error):
    running, session = upstream
    running.dial.set(Fault(kind=kind))
    for path in (SDXL, SCHNELL):
        ended = await finish(session, await create(session, path))
        assert (ended["status"], ended["output"], error in ended["error"]) == ("failed", None, True)

    assert charges(running) == [(what, Decimal("0.006")), (what, Decimal(0))]


async def test_the_text_of_a_failure_can_be_chosen():
    interrupted = "Prediction interrupted; please retry (code: PA)"
    async with simulate(failure_text=interrupted, faults=(Fault(kind=FaultKind.JOB_ERROR),)) as (_, session):
        assert (await finish(session, await create(session)))["error"] == interrupted


@pytest.mark.parametrize(
    ("fault", "status", "title", "retry_after"),
    [
        (Fault(kind=FaultKind.THROTTLED, retry_after_s=30), 429, "Rate limited", "30"),
        (Fault(kind=FaultKind.QUOTA), 402, "Insufficient credit", None),
        (Fault(kind=FaultKind.INVALID_KEY), 401, "Unauthenticated", None),
        (Fault(kind=FaultKind.UNSUPPORTED_PARAMETER, param="seed"), 422, "Input validation failed", None),
        (Fault(kind=FaultKind.SERVER_ERROR), 500, "Internal server error", None),
        (Fault(kind=FaultKind.OVERLOADED, retry_after_s=2), 503, "Service unavailable", "2"),
    ],
)
async def test_requests_that_are_turned_away_carry_a_problem_and_cost_nothing(
    upstream, fault, status, title, retry_after
):
    running, session = upstream
    running.dial.set(fault)
    async with session.post(SCHNELL, json=CAT) as answer:
        problem = await answer.json(content_type=None)

    assert (answer.status, answer.headers.get("Retry-After")) == (status, retry_after)
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, status)
    assert problem["detail"]
    assert running.bill.submitted == 0


async def test_a_throttled_request_may_be_told_its_time_by_the_text_alone():
    fault = Fault(kind=FaultKind.THROTTLED, retry_after_s=30)
    async with (
        simulate(retry_after_header=False, faults=(fault,)) as (_, session),
        session.post(SCHNELL, json=CAT) as answer,
    ):
        problem = await answer.json(content_type=None)
    assert "Retry-After" not in answer.headers
    assert problem["detail"] == "Request was throttled. Your rate limit resets in ~30s."


async def test_an_unknown_model_has_the_older_error_body():
    async with simulate(models=("stability-ai/sdxl",)) as (_, session):
        told = 404, {"detail": "The requested resource could not be found."}
        assert await ask(session, "POST", SCHNELL, CAT) == told
        assert await ask(session, "GET", "/v1/models/black-forest-labs/flux-schnell") == told
        assert await ask(session, "GET", "/v1/nothing") == told


async def test_every_mistake_of_an_input_has_its_row(upstream):
    running, session = upstream
    asked = {"num_outputs": 9, "output_format": "gif", "aspect_ratio": "99:1"}
    wrong = {"input": asked, "webhook": "http://elsewhere.example/x", "webhook_events_filter": ["end"]}
    status, problem = await ask(session, "POST", SCHNELL, wrong)

    rows = {row["field"] for row in problem["invalid_fields"]}
    fields = {"input.prompt", "input.num_outputs", "input.output_format", "input.aspect_ratio"}
    assert (status, rows) == (422, fields | {"webhook_events_filter"})
    status, problem = await ask(session, "POST", SCHNELL, CAT | {"webhook": "http://elsewhere.example/x"})
    assert (status, [row["field"] for row in problem["invalid_fields"]]) == (422, ["webhook"])
    assert running.bill.submitted == 0


async def test_all_but_the_outputs_needs_the_key():
    async with simulate(api_key="r8_right") as (_, session):
        for path in (SCHNELL, "/v1/files"):
            assert (await ask(session, "POST", path, CAT))[0] == 401
        for path in ("/v1/predictions", "/v1/webhooks/default/secret"):
            assert (await ask(session, "GET", path))[0] == 401


# --- lost answers


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.ERROR_AFTER, FaultKind.GATEWAY_TIMEOUT])
async def test_a_job_whose_answer_was_lost_is_found_on_the_list_by_its_input(upstream, kind):
    running, session = upstream
    running.dial.set(Fault(kind=kind))
    status = None
    try:
        async with session.post(SCHNELL, json=CAT) as answer:
            status = answer.status
    except aiohttp.ClientError:
        pass
    assert status == {FaultKind.DROP: None, FaultKind.ERROR_AFTER: 500, FaultKind.GATEWAY_TIMEOUT: 504}[kind]

    _, page = await ask(session, "GET", "/v1/predictions")
    assert [found["input"] for found in page["results"]] == [CAT["input"]]
    assert (await finish(session, page["results"][0]))["status"] == "succeeded"
    assert [entry.amount_usd for entry in running.bill.entries] == [Decimal("0.003")]


async def test_the_list_comes_in_pages_of_a_hundred_the_newest_first():
    async with simulate(now_ms=Clock()) as (_, session):
        made = [(await create(session, SCHNELL, {"input": {"prompt": str(n)}}))["id"] for n in range(120)]
        _, first = await ask(session, "GET", "/v1/predictions")
        _, second = await ask(session, "GET", first["next"])
        _, again = await ask(session, "GET", second["previous"])

        listed = [[row["id"] for row in page["results"]] for page in (first, second, again)]
        assert listed == [made[:19:-1], made[19::-1], made[:19:-1]]
        assert (first["previous"], second["next"], again["next"]) == (None, None, first["next"])
        assert (await ask(session, "GET", "/v1/predictions?cursor=x"))[0] == 400


async def test_a_prediction_may_be_unknown_at_first_or_for_ever(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.TASK_NOT_FOUND, prompt="cat", polls=1), Fault(kind=FaultKind.LOST))
    shy = await create(session)
    lost = await create(session, SCHNELL, {"input": {"prompt": "lost"}})

    assert (await ask(session, "GET", shy["urls"]["get"]))[0] == 404
    assert (await finish(session, shy))["status"] == "succeeded"
    assert (await ask(session, "GET", lost["urls"]["get"]))[0] == 404
    assert [row["id"] for row in (await ask(session, "GET", "/v1/predictions"))[1]["results"]] == [shy["id"]]


async def test_polls_and_outputs_meet_the_dial_too(upstream):
    running, session = upstream
    ended = await finish(session, await create(session))
    running.dial.set(Fault(kind=FaultKind.THROTTLED, at=Step.POLL), Fault(kind=FaultKind.WRONG_MAGIC, at=Step.RESULT))
    async with session.get(ended["output"][0]) as answer:
        assert b"not a picture" in await answer.read()
    assert (await ask(session, "GET", ended["urls"]["get"]))[0] == 429


# --- files


async def test_a_file_is_described_listed_and_deleted(upstream):
    running, session = upstream
    form = aiohttp.FormData()
    form.add_field("content", b"abc", filename="cat.png", content_type="image/png")
    form.add_field("metadata", '{"of": "a test"}')
    async with session.post("/v1/files", data=form) as answer:
        made = await answer.json()

    assert answer.status == 201
    fields = {"id", "name", "content_type", "size", "etag", "checksums", "metadata", "created_at", "expires_at", "urls"}
    assert set(made) == fields
    assert (made["name"], made["content_type"], made["size"]) == ("cat.png", "image/png", 3)
    assert made["checksums"]["sha256"].startswith("ba7816bf")
    assert (made["metadata"], made["urls"]["get"]) == ({"of": "a test"}, f"{running.origin}/v1/files/{made['id']}")
    assert await ask(session, "GET", made["urls"]["get"]) == (200, made)
    assert (await ask(session, "GET", "/v1/files"))[1]["results"] == [made]
    async with session.delete(f"/v1/files/{made['id']}") as answer:
        assert answer.status == 204
    assert (await ask(session, "GET", made["urls"]["get"]))[0] == 404


async def test_a_form_without_content_is_refused(upstream):
    _, session = upstream
    form = aiohttp.FormData({"other": "x"}, default_to_multipart=True)
    async with session.post("/v1/files", data=form) as answer:
        assert answer.status == 400
    async with session.post("/v1/files", data=b"no form") as answer:
        assert answer.status == 400


async def test_plain_options_suit_the_simulator():
    async with start("replicate", options=Options(time_scale=0.001)) as running:
        assert running.base_url == running.origin
