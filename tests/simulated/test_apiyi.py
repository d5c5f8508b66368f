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
