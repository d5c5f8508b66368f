"""The simulator of OpenAI's images API, proved by driving it with the unmodified `openai` SDK, and with plain HTTP
where the SDK would hide what is on the wire. All delays are scaled to a thousandth.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from decimal import Decimal

import aiohttp
import openai
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from providers.simulated.openai import OpenAIOptions
from tests.waiting import poll_until

FAST = Options(time_scale=0.001)
SIZE = "64x64"


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("openai", options=FAST) as running:
        yield running


@pytest.fixture
async def sdk(upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-test"}) as session:
        yield session


def open_picture(b64_json: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True)))
    picture.load()
    return picture


# --- what succeeds


@pytest.mark.parametrize(("asked", "got"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_the_sdk_gets_a_picture_of_the_size_and_format_it_asked_for(sdk, asked, got):
    reply = await sdk.images.generate(model="gpt-image-2", prompt="a cat", size="160x96", output_format=asked)

    picture = open_picture(reply.data[0].b64_json)
    assert (got, (160, 96)) == (picture.format, picture.size)
    assert (asked, "160x96", "medium", "opaque") == (reply.output_format, reply.size, reply.quality, reply.background)


async def test_pictures_differ_by_prompt_and_by_index_and_are_the_same_for_the_same_order(sdk):
    cats = await sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, n=2)
    again = await sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, n=2)
    dogs = await sdk.images.generate(model="gpt-image-2", prompt="a dog", size=SIZE, n=2)

    assert len({item.b64_json for item in (*cats.data, *dogs.data)}) == 4
    assert [item.b64_json for item in cats.data] == [item.b64_json for item in again.data]


async def test_a_client_in_a_thread_is_served_as_well(upstream):
    def generate() -> str:
        with openai.OpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0) as client:
            return client.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE).data[0].b64_json

    assert open_picture(await asyncio.get_running_loop().run_in_executor(None, generate)).size == (64, 64)


async def test_usage_follows_size_and_quality_and_the_bill_is_usage_times_token_price(sdk, upstream):
    reply = await sdk.images.generate(model="gpt-image-2", prompt="cats", quality="high", size="1536x1024")

    assert reply.usage.output_tokens == 10_550
    assert (reply.usage.input_tokens_details.text_tokens, reply.usage.input_tokens_details.image_tokens) == (1, 0)
    assert Decimal("0.316505") == upstream.bill.total


async def test_dall_e_is_delivered_by_a_link_that_anybody_can_fetch(sdk):
    reply = await sdk.images.generate(model="dall-e-3", prompt="a cat", size="1024x1024")

    assert reply.data[0].b64_json is None
    assert reply.data[0].revised_prompt == "a cat"
    async with aiohttp.ClientSession() as anybody, anybody.get(reply.data[0].url) as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert Image.open(io.BytesIO(await answer.read())).size == (1024, 1024)


async def test_a_gpt_image_comes_inline_whatever_response_format_says_unless_the_seller_is_an_aggregator(sdk):
    inline = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, response_format="url")
    assert inline.data[0].url is None

    async with (
        start("openai", options=OpenAIOptions(time_scale=0.001, aggregator=True)) as reseller,
        openai.AsyncOpenAI(api_key="k", base_url=reseller.base_url) as client,
    ):
        linked = await client.images.generate(model="gpt-image-2", prompt="a", size=SIZE, response_format="url")
    assert linked.data[0].url.startswith(reseller.origin)
    assert linked.data[0].b64_json is None


async def test_a_stream_gives_its_partial_pictures_and_then_the_finished_one_with_usage(sdk, upstream):
    stream = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, stream=True, partial_images=2)
    events = [event async for event in stream]

    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [partial, partial, completed] == [event.type for event in events]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert open_picture(events[2].b64_json).size == (64, 64)
    assert events[2].usage.output_tokens == 7 + 200
    assert [entry.what for entry in upstream.bill.entries] == [What.SUCCESS]


async def test_an_edit_takes_one_file_a_list_and_raw_bytes_and_counts_its_pictures(sdk, upstream):
    picture = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(picture, "PNG")
    png = picture.getvalue()

    one = await sdk.images.edit(model="gpt-image-2", prompt="e", image=("a.png", png), mask=("m.png", png), size=SIZE)
    two = await sdk.images.edit(model="gpt-image-2", prompt="e", image=[("a.png", png), ("b.png", png)], n=2, size=SIZE)
    raw = await sdk.images.edit(model="gpt-image-2", prompt="e", image=png, size=SIZE)

    assert [len(reply.data) for reply in (one, two, raw)] == [1, 2, 1]
    assert [reply.usage.input_tokens_details.image_tokens for reply in (one, two, raw)] == [40, 80, 40]
    assert upstream.bill.billed == 3


async def test_an_edit_streams_under_its_own_event_names(sdk):
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "WEBP")
    stream = await sdk.images.edit(model="gpt-image-2", prompt="e", image=picture.getvalue(), size=SIZE, stream=True)

    assert [event.type async for event in stream] == ["image_edit.completed"]


def draw_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (width, height)).save(file, "PNG")
    return file.getvalue()


async def test_an_edit_with_several_pictures_and_a_mask_streams_its_partial_pictures(sdk, upstream):
    stream = await sdk.images.edit(
        model="gpt-image-2",
        prompt="e",
        image=[("a.png", draw_png(16, 16)), ("b.png", draw_png(32, 16))],
        mask=("m.png", draw_png(16, 16)),
        size=SIZE,
        stream=True,
        partial_images=2,
    )
    events = [event async for event in stream]

    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert all(open_picture(event.b64_json).size == (64, 64) for event in events)
    assert events[-1].usage.input_tokens_details.image_tokens == 80
    assert [entry.what for entry in upstream.bill.entries] == [What.SUCCESS]


async def test_an_edit_is_taken_as_json_with_pictures_pointed_at(http, upstream):
    body = {"model": "gpt-image-2", "prompt": "e", "size": SIZE, "images": [{"image_url": "https://example.org/a.png"}]}
    async with http.post(f"{upstream.base_url}/images/edits", json=body) as answer:
        reply = await answer.json()

    assert (answer.status, reply["usage"]["input_tokens_details"]["image_tokens"]) == (200, 40)


@pytest.mark.parametrize(
    ("model", "extra", "param"),
    [
        ("gpt-image-2", {"mask": ("m.png", draw_png(32, 16))}, "mask"),
        ("gpt-image-2", {"mask": ("m.jpg", b"\xff\xd8\xff nothing more")}, "mask"),
        ("gpt-image-2", {"image": [("a.png", draw_png(16, 16))] * 17}, "image"),
        ("gpt-image-2", {"input_fidelity": "low"}, "input_fidelity"),
        ("gpt-image-1-mini", {"input_fidelity": "high"}, "input_fidelity"),
        ("gpt-image-1.5", {"input_fidelity": "higher"}, "input_fidelity"),
        ("gpt-image-2", {"with_markup": True}, "markup"),
        ("gpt-image-2.5-flare", {"with_markup": True, "mask": ("m.png", draw_png(16, 16))}, "markup"),
    ],
)
async def test_an_edit_against_the_rules_of_its_model_is_a_400_that_names_the_field(
    http, upstream, model, extra, param
):
    form = aiohttp.FormData({"model": model, "prompt": "e"}, default_to_multipart=True)
    for name, content in extra.get("image", [("a.png", draw_png(16, 16))]):
        form.add_field("image[]", content, filename=name)
    if "mask" in extra:
        form.add_field("mask", extra["mask"][1], filename=extra["mask"][0])
    if "input_fidelity" in extra:
        form.add_field("input_fidelity", extra["input_fidelity"])
    if "with_markup" in extra:
        form.add_field("markup", draw_png(16, 16), filename="markup.png")
    async with http.post(f"{upstream.base_url}/images/edits", data=form) as answer:
        error = (await answer.json())["error"]

    assert (answer.status, error["param"]) == (400, param)
    assert upstream.bill.submitted == 0


async def test_a_markup_is_taken_where_the_model_has_it(http, upstream):
    form = aiohttp.FormData({"model": "gpt-image-2.5-flare", "prompt": "e", "size": SIZE}, default_to_multipart=True)
    form.add_field("image", draw_png(16, 16), filename="a.png")
    form.add_field("markup", draw_png(16, 16), filename="m.png")
    async with http.post(f"{upstream.base_url}/images/edits", data=form) as answer:
        assert answer.status == 200


async def test_models_are_listed_and_shown_and_those_given_are_the_only_ones_known():
    options = Options(time_scale=0.001, models=("gpt-image-2", "vendor/flux"))
    async with (
        start("openai", options=options) as upstream,
        openai.AsyncOpenAI(api_key="k", base_url=upstream.base_url, max_retries=0) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["gpt-image-2", "vendor/flux"]
        assert (await client.models.retrieve("vendor/flux")).id == "vendor/flux"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.images.generate(model="gpt-image-1.5", prompt="a")

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert upstream.bill.submitted == 0


async def test_each_answer_carries_a_request_id_and_rate_headers(sdk):
    raw = await sdk.images.with_raw_response.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert raw.headers["x-request-id"].startswith("req_")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])
    assert int(raw.headers["openai-processing-ms"]) >= 0


# --- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": 7}, "prompt", "invalid_value"),
        ({"prompt": "x" * 32_001}, "prompt", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_value"),
        ({"model": "dall-e-3", "size": "1024x1024", "n": 2}, "n", "invalid_value"),
        ({"size": "100x100"}, "size", "invalid_value"),
        ({"size": "64x256"}, "size", "invalid_value"),
        ({"size": "4096x4096"}, "size", "invalid_value"),
        ({"size": "wide"}, "size", "invalid_value"),
        ({"model": "gpt-image-1.5", "size": "2048x2048"}, "size", "invalid_value"),
        ({"model": "dall-e-3", "size": "1536x1024"}, "size", "invalid_value"),
        ({"quality": "hd"}, "quality", "invalid_value"),
        ({"quality": "max"}, "quality", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"partial_images": 4}, "partial_images", "invalid_value"),
        ({"model": "dall-e-3", "size": "1024x1024", "stream": True}, "stream", "unknown_parameter"),
    ],
)
async def test_a_field_out_of_range_is_a_400_that_names_it_and_costs_nothing(http, upstream, fields, param, code):
    body = {"model": "gpt-image-2", "prompt": "a", "size": SIZE} | fields
    async with http.post(f"{upstream.base_url}/images/generations", json=body) as answer:
        error = (await answer.json())["error"]

    assert (400, param, code) == (answer.status, error["param"], error["code"])
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"])
async def test_a_body_that_is_no_json_object_is_a_400(http, upstream, body):
    async with http.post(f"{upstream.base_url}/images/generations", data=body) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_an_edit_without_a_usable_picture_is_a_400_that_names_it(sdk, http, upstream):
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.edit(model="gpt-image-2", prompt="e", image=b"no picture at all")
    assert (caught.value.param, caught.value.code) == ("image", "invalid_image_file")

    torn = {"Content-Type": "multipart/form-data; boundary=b"}
    async with http.post(f"{upstream.base_url}/images/edits", data=b"--b\r\nnonsense", headers=torn) as answer:
        assert answer.status == 400
    async with http.post(f"{upstream.base_url}/images/edits", json={"model": "gpt-image-2", "prompt": "e"}) as answer:
        assert (await answer.json())["error"]["param"] == "image"


async def test_a_key_must_be_there_and_must_be_the_one_that_is_set(upstream):
    async with aiohttp.ClientSession() as nobody, nobody.get(f"{upstream.base_url}/models") as answer:
        assert answer.status == 401

    async with (
        start("openai", options=Options(api_key="sk-right")) as guarded,
        openai.AsyncOpenAI(api_key="sk-wrong", base_url=guarded.base_url, max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.images.generate(model="gpt-image-2", prompt="a")
    assert caught.value.code == "invalid_api_key"
    assert next(iter(guarded.requests)).headers["authorization"] == "***"


@pytest.mark.parametrize("path", ["/images/variations", "/responses"])
async def test_variations_and_unknown_paths_are_404_in_the_error_body(http, upstream, path):
    async with http.post(f"{upstream.base_url}{path}", json={}) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (404, "invalid_request_error")


# --- what the dial does


@pytest.mark.parametrize(
    ("kind", "exception", "words"),
    [
        (FaultKind.OVERLOADED, openai.InternalServerError, (503, "overloaded")),
        (FaultKind.THROTTLED, openai.RateLimitError, (429, "rate_limit_exceeded")),
        (FaultKind.QUOTA, openai.RateLimitError, (429, "insufficient_quota")),
        (FaultKind.SERVER_ERROR, openai.InternalServerError, (500, "server_error")),
        (FaultKind.BAD_GATEWAY, openai.InternalServerError, (502, None)),
        (FaultKind.INVALID_KEY, openai.AuthenticationError, (401, "invalid_api_key")),
        (FaultKind.UNSUPPORTED_PARAMETER, openai.BadRequestError, (400, "invalid_value")),
        (FaultKind.MODEL_NOT_FOUND, openai.NotFoundError, (404, "model_not_found")),
    ],
)
async def test_a_request_turned_away_is_the_sdks_exception_and_not_on_the_bill(sdk, upstream, kind, exception, words):
    upstream.dial.set(Fault(kind=kind, retry_after_s=7))
    with pytest.raises(exception) as caught:
        await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert words == (caught.value.status_code, caught.value.code)
    assert (0, Decimal(0)) == (upstream.bill.submitted, upstream.bill.total)
    if kind in (FaultKind.OVERLOADED, FaultKind.THROTTLED):
        assert caught.value.response.headers["retry-after"] == "7"


async def test_a_refused_prompt_is_a_400_and_free(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.REFUSAL))
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert (caught.value.code, caught.value.type) == ("moderation_blocked", "image_generation_user_error")
    assert [(What.REFUSAL, Decimal(0))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


@pytest.mark.parametrize(
    ("kind", "exception", "what"),
    [
        (FaultKind.DROP, openai.APIConnectionError, What.DISCONNECT),
        (FaultKind.GATEWAY_TIMEOUT, openai.InternalServerError, What.TIMEOUT),
        (FaultKind.TRUNCATED, openai.APIConnectionError, What.SUCCESS),
    ],
)
async def test_an_accepted_order_is_charged_though_its_answer_never_arrives(sdk, upstream, kind, exception, what):
    upstream.dial.set(Fault(kind=kind))
    with pytest.raises(exception):
        await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [what] == [entry.what for entry in upstream.bill.entries]
    assert upstream.bill.billed == 1


@pytest.mark.parametrize(
    ("kind", "what"),
    [(FaultKind.HANG, What.TIMEOUT), (FaultKind.LATE, What.TIMEOUT), (FaultKind.SLOW, What.DISCONNECT)],
)
async def test_a_client_that_gives_up_waiting_is_charged(sdk, upstream, kind, what):
    upstream.dial.set(Fault(kind=kind, seconds=1000))
    call = asyncio.create_task(sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE))
    await poll_until(lambda: upstream.bill.submitted == 1, "the order to be accepted")
    call.cancel()

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [what] == [entry.what for entry in upstream.bill.entries]
    assert (upstream.bill.billed, [seen.status for seen in upstream.requests]) == (1, [None])


async def test_silence_is_the_sdks_timeout(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.HANG))
    with pytest.raises(openai.APITimeoutError):
        await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, timeout=0.5)


async def test_a_web_page_under_200_reaches_the_sdk_as_a_text(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.HTML))
    reply = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert reply.startswith("<!DOCTYPE html>")
    assert upstream.bill.billed == 1


async def test_unusable_pictures_are_charged(sdk, upstream):
    kinds = (FaultKind.GARBAGE_BASE64, FaultKind.WRONG_MAGIC, FaultKind.EMPTY_DATA)
    replies = []
    for kind in kinds:
        upstream.dial.set(Fault(kind=kind))
        replies.append(await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE))

    with pytest.raises(ValueError):  # noqa: PT011 - binascii's, whatever its words
        base64.b64decode(replies[0].data[0].b64_json, validate=True)
    assert base64.b64decode(replies[1].data[0].b64_json).startswith(b"This is not a picture")
    assert replies[2].data == []
    assert upstream.bill.billed == 3


@pytest.mark.parametrize("kind", [FaultKind.ENDLESS, FaultKind.FLOOD])
async def test_a_body_without_end_goes_on_until_the_client_has_enough(http, upstream, kind):
    upstream.dial.set(Fault(kind=kind, seconds=0.01))
    body = {"model": "gpt-image-2", "prompt": "a", "size": SIZE}
    async with http.post(f"{upstream.base_url}/images/generations", json=body) as answer:
        head = await answer.content.readexactly(10_000)
        assert not answer.content.at_eof()

    assert answer.status == 200
    assert head.startswith(b'{"created"')


@pytest.mark.parametrize(
    ("kind", "exception"), [(FaultKind.STREAM_ERROR, openai.APIError), (FaultKind.DROP, openai.APIConnectionError)]
)
async def test_a_stream_breaks_off_after_its_first_partial_picture(sdk, upstream, kind, exception):
    upstream.dial.set(Fault(kind=kind))
    seen: list[str] = []

    async def collect(stream) -> None:
        async for event in stream:
            seen.append(event.type)  # noqa: PERF401 - what came before the break must be kept

    stream = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, stream=True, partial_images=3)
    with pytest.raises(exception):
        await collect(stream)

    assert seen == ["image_generation.partial_image"]
    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")


async def test_an_unfinished_stream_ends_cleanly_after_its_first_partial_picture(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.UNFINISHED))
    stream = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, stream=True, partial_images=3)
    events = [event.type async for event in stream]
    plain = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE)

    assert events == ["image_generation.partial_image"]
    assert open_picture(plain.data[0].b64_json).size == (64, 64)
    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [entry.what for entry in upstream.bill.entries] == [What.FAILURE, What.SUCCESS]


async def test_a_client_that_leaves_a_stream_is_charged(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=100))
    stream = await sdk.images.generate(model="gpt-image-2", prompt="a", size=SIZE, stream=True, partial_images=1)
    async for _ in stream:
        break
    await stream.close()

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [(entry.what, entry.amount_usd > 0) for entry in upstream.bill.entries] == [(What.DISCONNECT, True)]


@pytest.mark.parametrize(
    ("kind", "status"), [(FaultKind.EXPIRED, 403), (FaultKind.SERVER_ERROR, 500), (FaultKind.WRONG_MAGIC, 200)]
)
async def test_a_result_link_has_faults_of_its_own(sdk, http, upstream, kind, status):
    upstream.dial.set(Fault(kind=kind, at=Step.RESULT, first=1))
    reply = await sdk.images.generate(model="dall-e-3", prompt="a cat", size="1024x1024")
    async with http.get(reply.data[0].url) as bad, http.get(reply.data[0].url) as good:
        assert status == bad.status
        assert not (await bad.read()).startswith(b"\x89PNG")
        assert (await good.read()).startswith(b"\x89PNG")
