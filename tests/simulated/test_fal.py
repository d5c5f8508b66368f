"""The simulator of fal: the queue and the direct run, results whose status code is the outcome, the two error families,
cancels in each state, storage. The official client drives it in tests/sdk.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from providers.simulated.fal import FalOptions
from providers.simulated.fal_errors import NAMES, find_failure
from tests.simulated.fal_caller import CAT, FLUX, fetch, finish, produce, read_bill, submit
from tests.waiting import poll_until

VIDEO = "fal-ai/bytedance/seedance/v2/text-to-video"
QUICK: dict[str, Any] = {"time_scale": 0.001}


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("fal", options=Options(**QUICK)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Key id:secret"}) as session:
        yield session


# --- the life of a request


async def test_a_request_goes_from_the_queue_over_progress_to_pictures_that_need_no_key(http):
    async with start("fal", options=FalOptions(time_scale=0.01, queue_s=100, latency_s=60)) as upstream:
        status, accepted = await submit(http, upstream, CAT | {"num_images": 2, "seed": 7})
        base = f"{upstream.origin}/fal-ai/flux/requests/{accepted['request_id']}"
        assert status == 200
        assert accepted == {
            "status": "IN_QUEUE",
            "request_id": accepted["request_id"],
            "queue_position": 0,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }
        waiting, body, _ = await fetch(http, accepted["status_url"])
        assert (waiting, body["status"], body["queue_position"]) == (202, "IN_QUEUE", 0)
        assert (await fetch(http, accepted["response_url"]))[0] == 400

        async def running() -> Any:
            code, shown, _ = await fetch(http, f"{accepted['status_url']}?logs=true")
            return (code, shown) if shown["status"] == "IN_PROGRESS" else None

        code, shown = await poll_until(running, "the request to run")
        assert (code, shown["logs"][0]["level"], shown["response_url"]) == (202, "INFO", base)

        ended = await finish(http, accepted)
        assert (ended["logs"], "error" in ended, ended["metrics"]["inference_time"] > 0) == ([], False, True)
        status, result, headers = await fetch(http, accepted["response_url"])
        assert (status, headers["x-fal-request-id"]) == (200, accepted["request_id"])
        assert (result["seed"], result["has_nsfw_concepts"], result["prompt"]) == (7, [False, False], "a cat")
        async with aiohttp.ClientSession() as anybody, anybody.get(result["images"][1]["url"]) as answer:
            picture = Image.open(io.BytesIO(await answer.read()))
        assert (picture.format, picture.size, result["images"][1]["content_type"]) == ("PNG", (128, 64), "image/png")
        assert [(What.SUCCESS, Decimal("0.05"))] == read_bill(upstream)


async def test_a_video_model_answers_one_video_with_its_size(http, upstream):
    body = {"prompt": "a wave", "duration": "2", "resolution": "360p", "aspect_ratio": "1:1"}
    status, result, _ = await produce(http, upstream, body, VIDEO)

    assert (status, set(result), result["video"]["content_type"]) == (200, {"video"}, "video/mp4")
    async with aiohttp.ClientSession() as anybody, anybody.get(result["video"]["url"]) as answer:
        content = await answer.read()
    assert len(content) == result["video"]["file_size"]
    with av.open(io.BytesIO(content)) as film:
        [stream] = film.streams.video
        frames = sum(1 for _ in film.decode(stream))
        assert (stream.width, stream.height, film.duration / av.time_base) == (360, 360, 2)
        assert frames == stream.frames
    assert [(What.SUCCESS, Decimal("0.6068"))] == read_bill(upstream)


async def test_a_request_is_known_below_owner_and_alias_only(http, upstream):
    _, accepted = await submit(http, upstream)
    request_id = accepted["request_id"]

    for path in ("fal-ai/flux/dev", "fal-ai/other"):
        for tail in ("", "/status"):
            assert (await fetch(http, f"{upstream.base_url}/{path}/requests/{request_id}{tail}"))[0] == 404
    assert (await fetch(http, f"{upstream.base_url}/fal-ai/flux/requests/unknown/status"))[0] == 404


async def test_addresses_follow_the_host_that_the_request_came_to(http, upstream):
    port = upstream.ports[0]
    async with http.post(f"http://localhost:{port}/{FLUX}", json=CAT) as answer:
        accepted = await answer.json()

    assert accepted["status_url"].startswith(f"http://localhost:{port}/fal-ai/flux/requests/")


async def test_a_result_expires_where_the_caller_asks_for_it(http):
    now_ms = [1_795_000_000_000]
    headers = {"X-Fal-Object-Lifecycle-Preference": json.dumps({"expiration_duration_seconds": 3600})}
    async with start("fal", options=Options(**QUICK, now_ms=lambda: now_ms[0])) as upstream:
        links = [(await produce(http, upstream, headers=more))[1]["images"][0]["url"] for more in (headers, {})]
        statuses = []
        for passed_ms in (3600, 1):
            now_ms[0] += passed_ms
            for link in links:
                async with http.get(link) as answer:
                    statuses.append(answer.status)

    assert statuses == [200, 200, 403, 200]


async def test_a_direct_run_answers_the_result_itself(http, upstream):
    async with http.post(f"{upstream.base_url}/run/{FLUX}", json=CAT | {"sync_mode": True}) as answer:
        result = await answer.json()
        assert (answer.status, "x-fal-request-id" in answer.headers) == (200, True)
    kind, _, data = result["images"][0]["url"].partition(",")
    assert (kind, Image.open(io.BytesIO(base64.b64decode(data))).size) == ("data:image/png;base64", (128, 64))

    upstream.dial.set(Fault(kind=FaultKind.JOB_ERROR, param="runner_server_error"))
    async with http.post(f"{upstream.base_url}/run/{FLUX}", json=CAT) as answer:
        assert (answer.status, answer.headers["X-Fal-Error-Type"]) == (500, "runner_server_error")
    assert [(What.SUCCESS, Decimal("0.025")), (What.FAILURE, Decimal(0))] == read_bill(upstream)


async def test_a_status_stream_tells_each_stage_once(http):
    async with start("fal", options=FalOptions(time_scale=0.01, queue_s=100, latency_s=40)) as upstream:
        _, accepted = await submit(http, upstream)
        async with http.get(f"{accepted['status_url']}/stream") as answer:
            text = (await answer.read()).decode()
        events = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]

    assert answer.content_type == "text/event-stream"
    assert [event["status"] for event in events] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


# --- ends without a result


@pytest.mark.parametrize("name", NAMES)
async def test_each_error_comes_after_completed_as_the_status_of_the_result(http, upstream, name):
    upstream.dial.set(Fault(kind=FaultKind.JOB_ERROR, param=name))
    _, accepted = await submit(http, upstream)
    ended = await finish(http, accepted)
    status, body, headers = await fetch(http, accepted["response_url"])

    failure = find_failure(name)
    assert (status, status >= 400) == (failure.status, True)
    if failure.platform:
        assert (body["error_type"], headers["X-Fal-Error-Type"], ended["error_type"]) == (name, name, name)
    else:
        row = body["detail"][0]
        assert {"loc", "msg", "type", "url", "input", "ctx"} == set(row)
        assert (row["type"], headers["X-Fal-Retryable"] in ("true", "false"), "error" in ended) == (name, True, False)
    free = status >= 500 or failure.platform or headers.get("x-fal-billable-units") == "0"
    assert (Decimal(0) if free else Decimal("0.025")) == upstream.bill.total


@pytest.mark.parametrize(("units", "header", "total"), [(None, None, "0.05"), ("0", "0", "0"), ("1", "1", "0.025")])
async def test_a_refusal_costs_what_its_header_says_and_the_full_price_without_one(http, units, header, total):
    options = FalOptions(**QUICK, units_on_4xx=None if units is None else Decimal(units))
    async with start("fal", options=options) as upstream:
        upstream.dial.set(Fault(kind=FaultKind.REFUSAL))
        status, body, headers = await produce(http, upstream, CAT | {"num_images": 2})

    assert (status, body["detail"][0]["type"]) == (422, "content_policy_violation")
    assert headers.get("x-fal-billable-units") == header
    assert [(What.REFUSAL, Decimal(total))] == read_bill(upstream)


async def test_a_flagged_picture_is_a_black_one_under_200_and_charged(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.CONTENT_MODERATED))
    status, result, _ = await produce(http, upstream)
    async with http.get(result["images"][0]["url"]) as answer:
        picture = Image.open(io.BytesIO(await answer.read())).convert("RGB")

    assert (status, result["has_nsfw_concepts"]) == (200, [True])
    assert picture.getextrema() == ((0, 0), (0, 0), (0, 0))
    assert [(What.REFUSAL, Decimal("0.025"))] == read_bill(upstream)


async def test_a_retryable_absence_of_media_says_so(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.JOB_ERROR, param="no_media_generated/retryable"))
    status, body, headers = await produce(http, upstream)

    assert (status, body["detail"][0]["type"], headers["X-Fal-Retryable"]) == (422, "no_media_generated", "true")


@pytest.mark.parametrize(
    ("endpoint", "body", "kind", "loc"),
    [
        (FLUX, {}, "missing", ["body", "prompt"]),
        (FLUX, {"prompt": 7}, "string_type", ["body", "prompt"]),
        (FLUX, CAT | {"num_images": 5}, "less_than_equal", ["body", "num_images"]),
        (FLUX, CAT | {"num_images": 0}, "greater_than_equal", ["body", "num_images"]),
        (FLUX, CAT | {"seed": "x"}, "int_type", ["body", "seed"]),
        (FLUX, CAT | {"image_size": "huge"}, "literal_error", ["body", "image_size"]),
        (FLUX, CAT | {"image_size": {"width": 0, "height": 9}}, "greater_than", ["body", "image_size", "width"]),
        (FLUX, CAT | {"output_format": "gif"}, "literal_error", ["body", "output_format"]),
        (FLUX, CAT | {"sync_mode": "yes"}, "bool_type", ["body", "sync_mode"]),
        ("fal-ai/nano-banana/edit", {"prompt": "a"}, "missing", ["body", "image_url"]),
        (VIDEO, {"prompt": "a", "duration": "0"}, "value_error", ["body", "duration"]),
        (VIDEO, {"prompt": "a", "resolution": "8K"}, "literal_error", ["body", "resolution"]),
        (VIDEO, {"prompt": "a", "aspect_ratio": "9:1"}, "value_error", ["body", "aspect_ratio"]),
    ],
)
async def test_an_input_that_breaks_the_schema_is_accepted_and_fails_free_of_charge(
    http, upstream, *, endpoint, body, kind, loc
):
    status, answer, headers = await produce(http, upstream, body, endpoint)

    assert (status, [(row["type"], row["loc"]) for row in answer["detail"]]) == (422, [(kind, loc)])
    assert headers["x-fal-billable-units"] == "0"
    assert [(What.FAILURE, Decimal(0))] == read_bill(upstream)


@pytest.mark.parametrize(
    ("address", "kind"),
    [("data:text/plain;base64,aGk=", "image_load_error"), ("ftp://a.example/1.png", "file_download_error")],
)
async def test_an_input_picture_that_cannot_be_read_is_a_422(http, upstream, address, kind):
    status, body, _ = await produce(http, upstream, CAT | {"image_url": address})

    assert (status, body["detail"][0]["type"]) == (422, kind)


async def test_a_request_that_waits_longer_than_its_own_limit_never_starts(http):
    async with start("fal", options=FalOptions(**QUICK, queue_s=60)) as upstream:
        status, body, headers = await produce(http, upstream, headers={"X-Fal-Request-Timeout": "30.0"})
        assert (status, body["error_type"], "X-Fal-Request-Timeout-Type" in headers) == (504, "request_timeout", True)
        assert (await produce(http, upstream, headers={"X-Fal-Request-Timeout": "90"}))[0] == 200
        assert (await submit(http, upstream, headers={"X-Fal-Request-Timeout": "soon"}))[0] == 400

    assert [(What.FAILURE, Decimal(0)), (What.SUCCESS, Decimal("0.025"))] == read_bill(upstream)


# --- cancel


async def put(http, url) -> tuple[int, Any]:
    async with http.put(url) as answer:
        return answer.status, await answer.json()


async def test_a_cancel_ends_what_waits_and_costs_nothing(http):
    async with start("fal", options=FalOptions(time_scale=0.01, queue_s=10_000)) as upstream:
        _, first = await submit(http, upstream)
        _, second = await submit(http, upstream)
        assert second["queue_position"] == 1
        assert await put(http, first["cancel_url"]) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert await put(http, first["cancel_url"]) == (400, {"status": "ALREADY_COMPLETED"})
        ended = await finish(http, first)
        status, body, _ = await fetch(http, first["response_url"])
        assert (await put(http, f"{upstream.base_url}/fal-ai/flux/requests/unknown/cancel"))[0] == 404

    assert (ended["error_type"], status, body["error_type"]) == ("client_cancelled", 499, "client_cancelled")
    assert read_bill(upstream)[0] == (What.FAILURE, Decimal(0))


@pytest.mark.parametrize(("stops", "status", "total"), [(False, 200, "0.025"), (True, 499, "0")])
async def test_a_cancel_of_what_runs_is_promised_and_may_come_to_nothing(http, stops, status, total):
    options = FalOptions(time_scale=0.01, queue_s=0, latency_s=150, stops_running=stops)
    async with start("fal", options=options) as upstream:
        _, accepted = await submit(http, upstream)

        async def running() -> bool:
            return (await fetch(http, accepted["status_url"]))[1]["status"] == "IN_PROGRESS"

        await poll_until(running, "the request to run")
        assert await put(http, accepted["cancel_url"]) == (202, {"status": "CANCELLATION_REQUESTED"})
        await finish(http, accepted)
        assert (await fetch(http, accepted["response_url"]))[0] == status

    assert Decimal(total) == upstream.bill.total


# --- the dial


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (Fault(kind=FaultKind.OVERLOADED), 503, "nginx"),
        (Fault(kind=FaultKind.BAD_GATEWAY), 502, "nginx"),
        (Fault(kind=FaultKind.THROTTLED, retry_after_s=3), 429, "Too many"),
        (Fault(kind=FaultKind.ACTIVE_LIMIT), 429, "limit"),
        (Fault(kind=FaultKind.SERVER_ERROR), 500, "internal_error"),
        (Fault(kind=FaultKind.QUOTA), 403, "Exhausted balance"),
        (Fault(kind=FaultKind.QUOTA, param="402"), 402, "Payment"),
        (Fault(kind=FaultKind.INVALID_KEY), 401, "credentials"),
        (Fault(kind=FaultKind.UNSUPPORTED_PARAMETER), 422, "image_size"),
        (Fault(kind=FaultKind.MODEL_NOT_FOUND), 404, "not found"),
    ],
)
async def test_a_submit_turned_away_makes_no_request(http, upstream, fault, status, says):
    upstream.dial.set(fault)
    async with http.post(f"{upstream.base_url}/{FLUX}", json=CAT) as answer:
        text = await answer.text()

    assert (answer.status, says in text, upstream.bill.submitted) == (status, True, 0)
    assert ("x-fal-request-id" in answer.headers) == ("nginx" not in text)
    assert (answer.headers.get("x-fal-billable-units") == "0") == (status in (404, 422))
    assert answer.headers.get("Retry-After") == (None if fault.retry_after_s is None else "3")


@pytest.mark.parametrize(("kind", "what"), [(FaultKind.DROP, What.DISCONNECT), (FaultKind.HANG, What.TIMEOUT)])
@pytest.mark.parametrize("door", ["", "run/"])
async def test_a_submit_whose_answer_is_lost_is_a_request_all_the_same(http, upstream, kind, what, door):
    upstream.dial.set(Fault(kind=kind))
    call = asyncio.create_task(submit(http, upstream, endpoint=door + FLUX))
    await poll_until(lambda: upstream.bill.submitted == 1, "the request to be accepted")
    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the request to end")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert [(what, Decimal("0.025"))] == read_bill(upstream)


async def test_a_proxy_that_gives_up_after_the_acceptance_says_nginx_and_the_request_lives(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.GATEWAY_TIMEOUT))
    async with http.post(f"{upstream.base_url}/{FLUX}", json=CAT) as answer:
        text = await answer.text()

    assert (answer.status, "nginx" in text, upstream.bill.submitted) == (504, True, 1)


async def test_polls_have_faults_of_their_own_and_the_request_lives_through_them(http, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.OVERLOADED, at=Step.POLL, first=1), Fault(kind=FaultKind.TASK_NOT_FOUND, polls=1)
    )
    _, accepted = await submit(http, upstream)
    async with http.get(accepted["status_url"]) as answer:
        assert answer.status == 503
    assert (await fetch(http, accepted["status_url"]))[0] == 404
    await finish(http, accepted)
    assert (await fetch(http, accepted["response_url"]))[0] == 200
    assert upstream.bill.submitted == 1


@pytest.mark.parametrize("header", ["", "Bearer id:secret", "Key", "Key id", "Key :secret", "key id:secret"])
async def test_only_a_key_with_its_secret_is_taken(upstream, header):
    async with aiohttp.ClientSession(headers={"Authorization": header} if header else {}) as http:
        assert (await submit(http, upstream))[0] == 401
        assert (await fetch(http, f"{upstream.base_url}/fal-ai/flux/requests/a/status"))[0] == 401
    assert upstream.bill.submitted == 0


async def test_a_body_that_is_no_object_and_a_path_that_is_not_there_are_told_at_once(http, upstream):
    async with http.post(f"{upstream.base_url}/{FLUX}", data=b"[") as answer:
        assert (answer.status, (await answer.json())["error_type"]) == (400, "bad_request")
    for method, path in (("GET", "nowhere"), ("POST", "fal-ai/flux/requests/a/cancel")):
        async with http.request(method, f"{upstream.base_url}/{path}") as answer:
            assert (answer.status, answer.headers["x-fal-billable-units"]) == (404, "0")
    async with start("fal", options=Options(models=(FLUX,))) as narrow:
        assert (await submit(http, narrow, endpoint="fal-ai/flux/pro"))[0] == 404


@pytest.mark.parametrize(
    ("endpoint", "body", "price"),
    [
        ("fal-ai/flux/schnell", {"prompt": "a", "image_size": {"width": 1500, "height": 1000}}, "0.006"),
        ("fal-ai/flux-pro/v1.1", {"prompt": "a"}, "0.04"),
        ("fal-ai/nano-banana", {"prompt": "a", "aspect_ratio": "16:9", "num_images": 3}, "0.117"),
        ("fal-ai/nano-banana-2", {"prompt": "a", "resolution": "1K"}, "0.08"),
        ("fal-ai/gpt-image-2", {"prompt": "a", "quality": "low"}, "0.006"),
        ("fal-ai/bytedance/seedream/v4/text-to-image", {"prompt": "a", "image_size": "landscape_16_9"}, "0.03"),
    ],
)
async def test_the_price_follows_endpoint_size_and_count(http, upstream, endpoint, body, price):
    await submit(http, upstream, body, endpoint)

    assert Decimal(price) == upstream.bill.total


# --- storage


async def test_an_upload_by_token_can_be_an_input_and_one_that_is_not_there_cannot(http, upstream):
    async with http.post(f"{upstream.base_url}/storage/auth/token?storage_type=fal-cdn-v3", json={}) as answer:
        token = await answer.json()
    assert (token["token_type"], token["base_url"]) == ("Bearer", upstream.origin)
    headers = {"Authorization": f"Bearer {token['token']}", "Content-Type": "image/png"}
    async with http.post(f"{token['base_url']}/files/upload", data=b"png", headers=headers) as answer:
        address = (await answer.json())["access_url"]
    async with aiohttp.ClientSession() as anybody, anybody.get(address) as answer:
        assert (await answer.read(), answer.content_type) == (b"png", "image/png")

    edit = "fal-ai/nano-banana/edit"
    assert (await produce(http, upstream, CAT | {"image_urls": [address]}, edit))[0] == 200
    status, body, _ = await produce(http, upstream, CAT | {"image_urls": [address + "x"]}, edit)
    assert (status, body["detail"][0]["type"]) == (422, "file_download_error")
    async with http.post(f"{upstream.origin}/files/upload", data=b"png") as answer:
        assert answer.status == 401


async def test_an_upload_can_be_initiated_and_put(http, upstream):
    body = {"file_name": "a b.png", "content_type": "image/png"}
    async with http.post(f"{upstream.base_url}/storage/upload/initiate?storage_type=gcs", json=body) as answer:
        places = await answer.json()
    async with aiohttp.ClientSession() as anybody:
        async with anybody.put(places["upload_url"], data=b"png", headers={"Content-Type": "image/png"}) as answer:
            assert answer.status == 200
        async with anybody.put(places["file_url"], data=b"other") as answer:
            assert answer.status == 403
        async with anybody.get(places["file_url"]) as answer:
            assert await answer.read() == b"png"
