"""The simulator of OpenAI's images API, driven by the `openai` SDK of every major version that is about: 1, 2 and 3."""

import base64
import io
import struct
import zlib

import openai
import pytest

SIZE = "64x64"


def encode_png(width: int, height: int) -> bytes:
    """A black PNG; no SDK brings a library of pictures along."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\0\0\0\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def read_size(b64_json: str) -> tuple[int, int]:
    """Width and height of a PNG that came inline."""
    png = base64.b64decode(b64_json, validate=True)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


@pytest.fixture
def upstream(simulate):
    return simulate("openai")


@pytest.fixture
def sdk(upstream):
    with openai.OpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0) as client:
        yield client


def test_the_sdk_gets_as_many_pictures_of_the_size_as_it_asked_for_inline_and_with_their_usage(sdk, upstream):
    reply = sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, n=2)

    assert [read_size(item.b64_json) for item in reply.data] == [(64, 64), (64, 64)]
    assert reply.data[0].b64_json != reply.data[1].b64_json
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    bill = upstream.bill()
    assert (bill["submitted"], bill["billed"], [job["what"] for job in bill["jobs"]]) == (1, 1, ["success"])


def test_an_edit_takes_two_pictures_and_a_mask(sdk, upstream):
    png = encode_png(16, 16)
    reply = sdk.images.edit(
        model="gpt-image-2",
        prompt="a hat on it",
        image=[("a.png", io.BytesIO(png), "image/png"), ("b.png", io.BytesIO(png), "image/png")],
        mask=("mask.png", io.BytesIO(png), "image/png"),
        size=SIZE,
    )

    assert read_size(reply.data[0].b64_json) == (64, 64)
    seen = upstream.requests()["requests"][-1]
    assert (seen["method"], seen["path"], seen["status"]) == ("POST", "/v1/images/edits", 200)
    assert upstream.bill()["billed"] == 1


def test_a_stream_gives_two_partial_pictures_and_then_the_finished_one(sdk, upstream):
    stream = sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, stream=True, partial_images=2)
    events = list(stream)

    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [event.type for event in events] == [partial, partial, completed]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert {read_size(event.b64_json) for event in events} == {(64, 64)}
    assert events[-1].usage.output_tokens > 0
    assert upstream.bill()["billed"] == 1


def test_models_are_listed_and_shown_and_an_unknown_one_is_the_sdks_not_found(sdk):
    names = [model.id for model in sdk.models.list()]

    assert "gpt-image-2" in names
    assert sdk.models.retrieve("gpt-image-2").id == "gpt-image-2"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_a_wrong_request_is_the_sdks_bad_request_with_the_parameter(sdk, upstream):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.images.generate(model="gpt-image-2", prompt="a cat", size="100x100")

    assert (caught.value.param, caught.value.code) == ("size", "invalid_value")
    assert upstream.bill()["submitted"] == 0


def test_a_refused_prompt_is_the_sdks_bad_request_and_free(sdk, upstream):
    upstream.set_faults([{"kind": "refusal"}])
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE)

    assert (caught.value.code, caught.value.type) == ("moderation_blocked", "image_generation_user_error")
    assert [(job["what"], float(job["amount_usd"])) for job in upstream.bill()["jobs"]] == [("refusal", 0.0)]


@pytest.mark.parametrize(
    ("kind", "exception", "words"),
    [
        ("throttled", openai.RateLimitError, (429, "rate_limit_exceeded")),
        ("quota", openai.RateLimitError, (429, "insufficient_quota")),
        ("overloaded", openai.InternalServerError, (503, "overloaded")),
        ("server_error", openai.InternalServerError, (500, "server_error")),
        ("invalid_key", openai.AuthenticationError, (401, "invalid_api_key")),
    ],
)
def test_a_request_that_is_turned_away_is_the_sdks_exception_and_not_on_the_bill(sdk, upstream, kind, exception, words):
    upstream.set_faults([{"kind": kind, "retry_after_s": 7}])
    with pytest.raises(exception) as caught:
        sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE)

    assert (caught.value.status_code, caught.value.code) == words
    assert (upstream.requests()["total"], upstream.bill()["submitted"]) == (1, 0)


def test_the_sdks_own_retry_gets_past_a_busy_provider_and_is_charged_once(upstream):
    upstream.set_faults([{"kind": "overloaded", "first": 1, "retry_after_s": 0}])
    with openai.OpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=1) as client:
        reply = client.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE)

    assert read_size(reply.data[0].b64_json) == (64, 64)
    assert (upstream.requests()["answered"], upstream.bill()["billed"]) == ({"200": 1, "503": 1}, 1)


def test_a_wait_that_is_too_short_is_the_sdks_timeout(upstream):
    upstream.set_faults([{"kind": "hang"}])
    with (
        openai.OpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0, timeout=0.5) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE)
