"""The simulator of APIYI: what it bills and what it does not, the forms of its pictures, its web page on unknown paths.
Driven by the unmodified `openai` SDK, which is the client that the vendor recommends.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from decimal import Decimal

import aiohttp
import openai
import pytest

from providers.simulated import Fault, FaultKind, Options, Running, What, start
from tests.waiting import poll_until

SIZE = "64x64"


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("apiyi", options=Options(time_scale=0.001, price_usd=Decimal("0.03"))) as running:
        yield running


@pytest.fixture
async def sdk(upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk", base_url=f"{upstream.base_url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as session:
        yield session


async def test_a_client_that_hangs_up_is_billed_and_its_job_runs_to_the_end(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=1000))
    call = asyncio.create_task(sdk.images.generate(model="gpt-image-2", prompt="left alone", size=SIZE))
    await poll_until(lambda: upstream.bill.submitted == 1, "the order to be accepted")
    call.cancel()

    assert [entry.what for entry in upstream.bill.jobs_by_prompt()["left alone"]] == [What.ACCEPTED]
    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [entry.what for entry in upstream.bill.entries] == [What.DISCONNECT]
    assert (1, 1, Decimal("0.03")) == (upstream.bill.submitted, upstream.bill.billed, upstream.bill.total)


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.THROTTLED])
async def test_a_503_and_a_429_never_touch_the_bill_and_carry_no_retry_after(sdk, upstream, kind):
    upstream.dial.set(Fault(kind=kind))
    for _ in range(3):
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)
        assert "retry-after" not in caught.value.response.headers

    assert (0, Decimal(0)) == (upstream.bill.submitted, upstream.bill.total)
    assert upstream.requests.total == 3


async def test_a_refusal_arrives_under_200_without_a_picture_and_is_billed(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.REFUSAL))
    reply = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert reply.data == []
    assert [(What.REFUSAL, Decimal("0.03"))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_a_moderation_400_is_wrapped_with_its_status_and_not_billed(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.MODERATION_BLOCKED))
    body = {"model": "gpt-image-2", "prompt": "a", "size": SIZE}
    async with http.post(f"{upstream.base_url}/v1/images/generations", json=body) as answer:
        document = await answer.json()

    assert (answer.status, document["status_code"], document["error"]["code"]) == (400, 400, "moderation_blocked")
    assert upstream.bill.billed == 0


@pytest.mark.parametrize(("kind", "status"), [(FaultKind.QUOTA, 403), (FaultKind.INVALID_KEY, 401)])
async def test_an_account_without_quota_or_key_is_turned_away(sdk, upstream, kind, status):
    upstream.dial.set(Fault(kind=kind))
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert status == caught.value.status_code
    assert upstream.bill.submitted == 0


async def test_pictures_come_plain_prefixed_or_by_link_as_the_model_has_it(sdk, http):
    plain = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)
    prefixed = await sdk.images.generate(model="gpt-image-2-all", prompt="a", size="whatever")
    asked = await sdk.images.generate(model="gpt-image-2-all", prompt="a", response_format="url")
    linked = await sdk.images.generate(model="flux-pro-1.1", prompt="a", size=SIZE)

    assert base64.b64decode(plain.data[0].b64_json).startswith(b"\x89PNG")
    assert plain.usage.total_tokens > 0
    head, _, rest = prefixed.data[0].b64_json.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(rest).startswith(b"\x89PNG")
    assert prefixed.usage is None
    for reply in (asked, linked):
        async with http.get(reply.data[0].url) as answer:
            assert (await answer.read()).startswith(b"\x89PNG")


async def test_reverse_channels_cost_a_flat_price_and_pass_through_models_the_vendors_list():
    async with (
        start("apiyi", options=Options(time_scale=0.001)) as upstream,
        openai.AsyncOpenAI(api_key="sk", base_url=f"{upstream.base_url}/v1", max_retries=0) as client,
    ):
        await client.images.generate(model="gpt-image-2-vip", prompt="abcd", size=SIZE)
        await client.images.generate(model="gpt-image-1.5", prompt="abcd", quality="low")
        with pytest.raises(openai.BadRequestError):
            await client.images.generate(model="gpt-image-2-vip", prompt="a", n=2)

    assert [Decimal("0.03"), Decimal("0.008709")] == [entry.amount_usd for entry in upstream.bill.entries]


async def test_nothing_can_be_looked_up_and_unknown_paths_show_a_web_page(http, upstream):
    async with http.get(f"{upstream.base_url}/v1/tasks/{'0' * 32}") as answer:
        assert (answer.status, answer.content_type) == (404, "application/json")
    for path in ("/", "/images/generations", "/v1/v1/images/generations"):
        async with http.post(f"{upstream.base_url}{path}", json={}) as answer:
            assert (answer.status, answer.content_type) == (200, "text/html")


async def test_a_missing_key_is_a_401_and_models_are_listed_with_one(http, upstream):
    async with aiohttp.ClientSession() as nobody, nobody.get(f"{upstream.base_url}/v1/models") as answer:
        assert answer.status == 401
    async with http.get(f"{upstream.base_url}/v1/models") as answer:
        assert "gpt-image-2-all" in [row["id"] for row in (await answer.json())["data"]]


# --- videos


async def finish(upstream: Running, job: int = 0) -> None:
    await poll_until(lambda: upstream.bill.entries[job].what is not What.ACCEPTED, "the job to end")


async def test_a_video_is_a_task_with_both_ids_and_both_words_for_being_at_work(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=400))
    body = {"model": "veo-3.1-fast", "prompt": "waves", "duration": "8", "metadata": {"resolution": "1080p"}}
    async with http.post(f"{upstream.base_url}/v1/videos", json=body) as answer:
        created = await answer.json()
    assert created["id"] == created["task_id"]
    assert created["id"].startswith("task_")
    assert (created["object"], created["model"]) == ("video", "veo-3.1-fast")
    seen: list[str] = []

    async def look() -> bool:
        async with http.get(f"{upstream.base_url}/v1/videos/{created['id']}") as answer:
            seen.append((await answer.json())["status"])
        return seen[-1] == "completed"

    await poll_until(look, "the video")
    words = [word for word in dict.fromkeys(seen) if word != "queued"]
    assert words == ["in_progress", "processing", "completed"]
    async with http.get(f"{upstream.base_url}/v1/videos/{created['id']}/content") as answer:
        assert (answer.content_type, (await answer.read())[4:8]) == ("video/mp4", b"ftyp")


async def test_a_video_takes_the_raw_key_and_chat_does_not(upstream):
    raw = {"Authorization": "sk-raw"}
    async with aiohttp.ClientSession(headers=raw) as http:
        async with http.post(f"{upstream.base_url}/v1/videos", json={"prompt": "p"}) as answer:
            assert answer.status == 200
        async with http.post(f"{upstream.base_url}/v1/chat/completions", json={}) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("kind", [FaultKind.REFUSAL, FaultKind.JOB_ERROR])
async def test_a_video_is_charged_by_the_clip_and_only_when_it_succeeds(http, kind):
    async with start("apiyi", options=Options(time_scale=0.001)) as upstream:
        for model in ("veo-3.1-fast", "veo-3.1"):
            async with http.post(f"{upstream.base_url}/v1/videos", json={"model": model, "prompt": "p"}) as answer:
                assert answer.status == 200
        upstream.dial.set(Fault(kind=kind))
        async with http.post(f"{upstream.base_url}/v1/videos", json={"prompt": "p"}) as answer:
            failed = (await answer.json())["id"]
        await finish(upstream, 2)
        async with http.get(f"{upstream.base_url}/v1/videos/{failed}") as answer:
            body = await answer.json()

        assert (body["status"], "error" in body) == ("failed", True)
        assert [entry.amount_usd for entry in upstream.bill.entries] == [Decimal("0.15"), Decimal("0.25"), Decimal(0)]


async def test_a_video_of_sora_of_a_wrong_length_or_by_list_is_refused(http, upstream):
    for body, status, param in (
        ({"model": "sora-2", "prompt": "p"}, 404, "model"),
        ({"model": "veo-3.1", "prompt": "p", "duration": "5"}, 400, "duration"),
        ({"model": "veo-3.1", "prompt": "p", "metadata": {"resolution": "480p"}}, 400, "resolution"),
    ):
        async with http.post(f"{upstream.base_url}/v1/videos", json=body) as answer:
            document = await answer.json()
        assert (answer.status, document["status_code"], document["error"]["param"]) == (status, status, param)
    async with http.get(f"{upstream.base_url}/v1/videos") as answer:
        assert answer.status == 404
    assert upstream.bill.submitted == 0


async def test_the_older_form_wraps_its_tasks_and_its_errors(http, upstream):
    async with http.post(f"{upstream.base_url}/veo/v1/api/video/submit", json={"prompt": "waves"}) as answer:
        created = await answer.json()
    assert (created["success"], created["data"]["status"]) == (True, "processing")
    await finish(upstream)
    async with http.get(created["data"]["pollingUrl"]) as answer:
        done = (await answer.json())["data"]
    assert (done["taskId"], done["status"]) == (created["data"]["taskId"], "completed")
    async with http.get(done["videoUrl"]) as answer:
        assert (await answer.read())[4:8] == b"ftyp"

    upstream.dial.set(Fault(kind=FaultKind.OVERLOADED))
    async with http.post(f"{upstream.base_url}/veo/v1/api/video/submit", json={"prompt": "waves"}) as answer:
        refused = await answer.json()
    assert (answer.status, refused["success"], refused["error_code"]) == (503, False, "upstream_busy")
    async with http.get(f"{upstream.base_url}/veo/v1/api/video/status/nothing") as answer:
        assert (answer.status, (await answer.json())["error_code"]) == (404, "task_not_found")
    assert upstream.bill.submitted == 1


async def test_the_older_form_takes_ten_tasks_at_once(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=100_000))
    statuses = []
    for number in range(11):
        body = {"prompt": f"p{number}"}
        async with http.post(f"{upstream.base_url}/veo/v1/api/video/submit", json=body) as answer:
            statuses.append(answer.status)

    assert statuses == [200] * 10 + [429]
    assert upstream.bill.submitted == 10


# --- chat


async def test_a_chat_refusal_is_billed_and_a_chat_error_is_wrapped_with_its_status(sdk, http, upstream):
    messages = [{"role": "user", "content": "hello"}]
    upstream.dial.set(Fault(kind=FaultKind.REFUSAL))
    reply = await sdk.chat.completions.create(model="gpt-4o", messages=messages)
    assert reply.choices[0].message.refusal
    assert [(What.REFUSAL, Decimal("0.03"))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]

    upstream.dial.set(Fault(kind=FaultKind.THROTTLED))
    body = {"model": "gpt-4o", "messages": messages}
    async with http.post(f"{upstream.base_url}/v1/chat/completions", json=body) as answer:
        assert (answer.status, (await answer.json())["status_code"]) == (429, 429)
    assert upstream.bill.billed == 1
