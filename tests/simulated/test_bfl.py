"""The simulator of Black Forest Labs: a job's life over polling address and signed sample, its limits, its faults.
There is no SDK of the vendor, so plain HTTP drives it.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from providers.simulated.bfl import BflOptions
from tests.waiting import poll_until

CAT = {"prompt": "a cat", "width": 128, "height": 64}


class Clock:
    """A provider's wall clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = 1_795_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("bfl", options=Options(time_scale=0.001)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"x-key": "k"}) as session:
        yield session


async def submit(http, upstream, body=CAT, model="flux-2-pro") -> tuple[int, Any]:
    async with http.post(f"{upstream.base_url}/v1/{model}", json=body) as answer:
        return answer.status, await answer.json()


async def poll(http, url) -> dict[str, Any]:
    async with http.get(url) as answer:
        return await answer.json()


async def finish(http, url) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        body = await poll(http, url)
        return body if body["status"] not in ("Pending", "Task not found") else None

    return await poll_until(ended, "the job to end")


async def test_a_job_goes_from_pending_to_a_sample_that_needs_no_key(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=500))
    status, accepted = await submit(http, upstream)
    assert (status, accepted["cost"], accepted["output_mp"]) == (200, 3.0, 0.01)

    first = await poll(http, accepted["polling_url"])
    assert (first["status"], first["result"]) == ("Pending", None)
    assert 0 <= first["progress"] < 1
    ready = await finish(http, accepted["polling_url"])
    assert (ready["status"], ready["progress"], ready["result"]["prompt"]) == ("Ready", 1.0, "a cat")
    async with aiohttp.ClientSession() as anybody, anybody.get(ready["result"]["sample"]) as answer:
        picture = Image.open(io.BytesIO(await answer.read()))
    assert (picture.format, picture.size, answer.content_type) == ("JPEG", (128, 64), "image/jpeg")
    assert [(What.SUCCESS, Decimal("0.03"))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_the_polling_address_is_on_another_port_and_the_base_host_does_not_know_the_job(http, upstream):
    _, accepted = await submit(http, upstream)
    await finish(http, accepted["polling_url"])

    assert not accepted["polling_url"].startswith(upstream.origin)
    built = await poll(http, f"{upstream.base_url}/v1/get_result?id={accepted['id']}")
    assert built["status"] == "Task not found"


async def test_the_polling_address_can_be_on_another_host_name(http):
    async with start("bfl", options=BflOptions(time_scale=0.001, poll_host="localhost")) as upstream:
        _, accepted = await submit(http, upstream)
        assert accepted["polling_url"].startswith("http://localhost:")
        assert (await finish(http, accepted["polling_url"]))["status"] == "Ready"


async def test_with_a_webhook_the_reply_has_no_polling_address_and_the_base_host_answers(http, upstream):
    _, accepted = await submit(http, upstream, CAT | {"webhook_url": "https://caller.example/hook"})

    assert {"id", "status", "webhook_url"} == set(accepted)
    built = f"{upstream.base_url}/v1/get_result?id={accepted['id']}"
    assert (await finish(http, built))["status"] == "Ready"


async def test_the_sample_link_expires_after_ten_scaled_minutes_and_cannot_be_altered(http):
    clock = Clock()
    async with start("bfl", options=Options(time_scale=0.001, now_ms=clock)) as upstream:
        _, accepted = await submit(http, upstream)
        sample = (await finish(http, accepted["polling_url"]))["result"]["sample"]
        statuses = []
        for url, passed_ms in ((sample, 600), (sample, 1), (sample.replace("se=1", "se=2"), 0), (sample[:-1], 0)):
            clock.ms += passed_ms
            async with http.get(url) as answer:
                statuses.append(answer.status)

    assert statuses == [200, 403, 403, 403]


@pytest.mark.parametrize(
    ("kind", "status", "what"),
    [
        (FaultKind.REFUSAL, "Request Moderated", What.REFUSAL),
        (FaultKind.CONTENT_MODERATED, "Content Moderated", What.REFUSAL),
        (FaultKind.JOB_ERROR, "Error", What.FAILURE),
    ],
)
async def test_refused_and_failed_jobs_end_under_200_with_the_vendors_words_and_are_free(
    http, upstream, kind, status, what
):
    upstream.dial.set(Fault(kind=kind))
    submitted, accepted = await submit(http, upstream)
    ended = await finish(http, accepted["polling_url"])

    assert (200, status, None) == (submitted, ended["status"], ended["result"])
    assert ended["details"]
    assert [(what, Decimal(0))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_a_job_may_be_unknown_for_its_first_polls_or_for_ever(http, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.TASK_NOT_FOUND, prompt="shy", polls=2), Fault(kind=FaultKind.LOST, prompt="lost")
    )
    _, shy = await submit(http, upstream, CAT | {"prompt": "shy"})
    _, lost = await submit(http, upstream, CAT | {"prompt": "lost"})

    assert [(await poll(http, shy["polling_url"]))["status"] for _ in range(2)] == ["Task not found"] * 2
    assert (await finish(http, shy["polling_url"]))["status"] == "Ready"
    await poll_until(lambda: upstream.bill.jobs_by_prompt()["lost"][0].what is What.SUCCESS, "the lost job to end")
    assert (await poll(http, lost["polling_url"]))["status"] == "Task not found"


async def test_more_than_24_jobs_at_once_are_a_429(http):
    async with start("bfl", options=Options(time_scale=0.001, latency_s=100_000)) as upstream:
        answers = await asyncio.gather(*(submit(http, upstream) for _ in range(26)))

    assert sorted(status for status, _ in answers) == ([200] * 24 + [429] * 2)
    assert upstream.bill.submitted == 24


async def test_a_job_that_ends_makes_room_for_the_next(http):
    async with start("bfl", options=BflOptions(time_scale=0.001, latency_s=300, active_max=1)) as upstream:
        _, accepted = await submit(http, upstream)
        assert (await submit(http, upstream))[0] == 429
        await finish(http, accepted["polling_url"])
        assert (await submit(http, upstream))[0] == 200


async def test_kontext_max_has_a_limit_of_its_own(http):
    async with start("bfl", options=Options(time_scale=0.001, latency_s=100_000)) as upstream:
        answers = [await submit(http, upstream, {"prompt": "a"}, "flux-kontext-max") for _ in range(7)]
        assert [status for status, _ in answers] == [200] * 6 + [429]
        assert (await submit(http, upstream))[0] == 200


async def test_credits_are_spent_by_pictures_and_their_end_is_a_402(http):
    async with start("bfl", options=BflOptions(time_scale=0.001, credits=Decimal(7))) as upstream:
        statuses = []
        for _ in range(3):
            status, body = await submit(http, upstream)
            statuses.append(status)
            if status == 200:
                await finish(http, body["polling_url"])
        async with http.get(f"{upstream.base_url}/v1/credits") as answer:
            left = (await answer.json())["credits"]

    assert (statuses, left) == ([200, 200, 402], 1.0)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.OVERLOADED, 503),
        (FaultKind.THROTTLED, 429),
        (FaultKind.ACTIVE_LIMIT, 429),
        (FaultKind.SERVER_ERROR, 500),
        (FaultKind.QUOTA, 402),
        (FaultKind.INVALID_KEY, 401),
        (FaultKind.UNSUPPORTED_PARAMETER, 422),
        (FaultKind.MODEL_NOT_FOUND, 404),
    ],
)
async def test_a_submit_turned_away_makes_no_job(http, upstream, kind, status):
    upstream.dial.set(Fault(kind=kind))
    got, body = await submit(http, upstream)

    assert status == got
    assert "detail" in body or "error" in body
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize(("kind", "what"), [(FaultKind.DROP, What.DISCONNECT), (FaultKind.HANG, What.TIMEOUT)])
async def test_a_submit_whose_answer_is_lost_is_a_job_all_the_same(http, upstream, kind, what):
    upstream.dial.set(Fault(kind=kind))
    call = asyncio.create_task(submit(http, upstream))
    await poll_until(lambda: upstream.bill.submitted == 1, "the job to be accepted")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [(what, Decimal("0.03"))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_the_reply_may_be_silent_about_the_cost_which_is_charged_all_the_same(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.NO_COST))
    _, accepted = await submit(http, upstream)

    assert {"id", "polling_url"} == set(accepted)
    assert Decimal("0.03") == upstream.bill.total


async def test_polls_and_samples_have_faults_of_their_own_and_the_job_lives_through_them(http, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.OVERLOADED, at=Step.POLL, first=1), Fault(kind=FaultKind.EXPIRED, at=Step.RESULT, first=1)
    )
    _, accepted = await submit(http, upstream)
    async with http.get(accepted["polling_url"]) as answer:
        assert answer.status == 503
    sample = (await finish(http, accepted["polling_url"]))["result"]["sample"]
    async with http.get(sample) as expired, http.get(sample) as served:
        assert (expired.status, served.status) == (403, 200)
    assert upstream.bill.submitted == 1


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        ("flux-2-pro", {}, "prompt"),
        ("flux-2-pro", {"prompt": 7}, "prompt"),
        ("flux-2-pro", {"prompt": "a", "width": 100}, "width"),
        ("flux-2-pro", {"prompt": "a", "width": 48}, "width"),
        ("flux-2-pro", {"prompt": "a", "width": 2064, "height": 2048}, "width"),
        ("flux-2-pro", {"prompt": "a", "height": "64"}, "height"),
        ("flux-2-pro", {"prompt": "a", "safety_tolerance": 6}, "safety_tolerance"),
        ("flux-2-pro", {"prompt": "a", "output_format": "webp"}, "output_format"),
        ("flux-2-pro", {"prompt": "a", "seed": 1.5}, "seed"),
        ("flux-pro-1.1", {"prompt": "a", "width": 1472}, "width"),
        ("flux-pro-1.1", {"prompt": "a", "height": 272}, "height"),
        ("flux-kontext-pro", {"prompt": "a", "aspect_ratio": "3:1"}, "aspect_ratio"),
        ("flux-pro-1.0-fill", {"prompt": "a"}, "image"),
    ],
)
async def test_a_field_out_of_range_is_a_422_that_names_it(http, upstream, model, body, field):
    status, answer = await submit(http, upstream, body, model)

    assert (422, [["body", field]]) == (status, [row["loc"] for row in answer["detail"]])
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize(
    ("model", "body", "price"),
    [
        ("flux-2-pro", {"prompt": "a", "width": 2048, "height": 1024}, "0.045"),
        ("flux-2-pro", {"prompt": "a", "input_image": "https://a.example/1.png"}, "0.045"),
        ("flux-2-max", {"prompt": "a", "width": 2048, "height": 2048}, "0.16"),
        ("flux-kontext-max", {"prompt": "a", "aspect_ratio": "16:9"}, "0.08"),
        ("flux-pro-1.1-ultra", {"prompt": "a", "aspect_ratio": "21:9"}, "0.06"),
    ],
)
async def test_the_cost_follows_model_megapixels_and_inputs(http, upstream, model, body, price):
    _, accepted = await submit(http, upstream, body, model)

    assert float(Decimal(price) * 100) == accepted["cost"]
    assert Decimal(price) == upstream.bill.total


async def test_only_the_x_key_header_is_taken_and_unknown_models_are_404(upstream):
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as bearer:
        status, body = await submit(bearer, upstream)
    assert (status, body) == (403, {"detail": "Not authenticated"})

    async with aiohttp.ClientSession(headers={"x-key": "k"}) as http:
        assert (await submit(http, upstream, CAT, "flux-9"))[0] == 404
        async with http.post(f"{upstream.base_url}/v1/flux-2-pro", data=b"{") as answer:
            assert answer.status == 422
