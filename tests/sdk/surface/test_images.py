"""Images: generations, edits and streams, driven by the `openai` SDK of every major version that is about."""

import base64
import io
import urllib.request

import openai
import pytest

from tests.sdk.test_openai import encode_png, read_size

SIZE = "1024x1024"
PICTURE = encode_png(16, 16)


def billed(daemon, slug="openai"):
    return daemon.upstream[slug].bill()["billed"]


def test_pictures_come_inline_with_what_they_used_and_are_charged_once(sdk, daemon):
    before = billed(daemon)
    reply = sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, n=2, quality="low")

    assert [read_size(item.b64_json) for item in reply.data] == [(1024, 1024), (1024, 1024)]
    assert (reply.size, reply.quality, reply.output_format, reply.background) == (SIZE, "low", "png", None)
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert billed(daemon) == before + 1


def test_links_come_on_request_and_can_be_fetched_without_a_key(sdk):
    reply = sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, response_format="url")

    assert reply.data[0].b64_json is None
    with urllib.request.urlopen(reply.data[0].url, timeout=30) as answer:  # noqa: S310 - the address is ours
        assert answer.read().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "image",
    [
        ("a.png", io.BytesIO(PICTURE), "image/png"),
        [("a.png", PICTURE, "image/png")],
        [("a.png", PICTURE, "image/png"), ("b.png", PICTURE, "image/png")],
        PICTURE,
    ],
    ids=["a file", "a list of one", "a list of two", "bytes"],
)
def test_an_edit_takes_a_picture_in_every_form_that_the_sdk_sends(sdk, daemon, image):
    before = billed(daemon)
    reply = sdk.images.edit(model="gpt-image-2", prompt="a hat on it", image=image, size=SIZE)

    assert read_size(reply.data[0].b64_json) == (1024, 1024)
    assert billed(daemon) == before + 1
    seen = daemon.upstream["openai"].requests()["requests"][-1]
    assert (seen["path"], seen["status"]) == ("/v1/images/edits", 200)


def test_an_edit_takes_a_mask_and_extras_of_the_body(sdk):
    reply = sdk.images.edit(
        model="gpt-image-2",
        prompt="a hat on it",
        image=("a.png", PICTURE, "image/png"),
        mask=("m.png", PICTURE, "image/png"),
        n=2,
        output_format="png",
        extra_body={"metadata": {"order": "7"}, "provider": {"only": ["openai"]}, "priority": "low"},
    )

    assert len(reply.data) == 2


def test_an_edit_can_be_had_as_a_task(daemon):
    raw = openai.OpenAI(api_key=daemon.key, base_url=daemon.base_url).images.with_raw_response
    answer = raw.edit(
        model="gpt-image-2", prompt="a hat", image=("a.png", PICTURE, "image/png"), extra_body={"async": True}
    )

    assert answer.status_code == 200
    assert answer.headers["x-task-id"].startswith("task_")
    assert b'"status":"queued"' in answer.content


@pytest.mark.parametrize("verb", ["generate", "edit"])
def test_a_stream_gives_the_partial_pictures_and_then_the_finished_one(sdk, daemon, verb):
    image = {"image": ("a.png", PICTURE, "image/png")} if verb == "edit" else {}
    before = billed(daemon)
    call = getattr(sdk.images, verb)
    events = list(call(model="gpt-image-2", prompt="a cat", size=SIZE, stream=True, partial_images=2, **image))

    word = "image_edit" if verb == "edit" else "image_generation"
    assert events[-1].type == f"{word}.completed"
    assert {event.type for event in events[:-1]} == {f"{word}.partial_image"}
    # Of previews that come faster than they are read the newest is enough.
    assert [event.partial_image_index for event in events[:-1]] in ([0, 1], [1])
    assert all(base64.b64decode(event.b64_json).startswith(b"\x89PNG") for event in events)
    assert (events[-1].size, events[-1].output_format) == (SIZE, "png")
    assert events[-1].usage.output_tokens > 0
    assert billed(daemon) == before + 1


def test_a_target_without_partial_pictures_streams_the_finished_one(sdk):
    events = list(sdk.images.generate(model="silent-image", prompt="a cat", size=SIZE, stream=True, partial_images=2))

    assert [event.type for event in events] == ["image_generation.completed"]
    assert read_size(events[0].b64_json) == (1024, 1024)


def test_two_streamed_pictures_are_two_events(sdk):
    events = list(sdk.images.generate(model="gpt-image-2", prompt="two cats", size=SIZE, n=2, stream=True))

    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert events[0].b64_json != events[1].b64_json


def test_what_fails_before_the_first_byte_of_a_stream_is_the_sdks_own_exception(sdk, daemon):
    daemon.upstream["openai"].set_faults([{"kind": "refusal"}])
    with pytest.raises(openai.BadRequestError) as caught:
        list(sdk.images.generate(model="gpt-image-2", prompt="a cat", size=SIZE, stream=True))

    assert caught.value.code == "moderation_blocked"


def test_an_edit_without_a_picture_that_can_be_read_is_the_sdks_bad_request(sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.images.edit(model="gpt-image-2", prompt="a hat", image=("a.png", b"", "image/png"))

    assert (caught.value.param, caught.value.code) == ("image", "invalid_request")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # so the SDK marks its method
def test_a_variation_is_refused_where_no_target_makes_any(sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.images.create_variation(image=("a.png", PICTURE, "image/png"), model="gpt-image-2")

    assert caught.value.status_code == 400


def test_the_sdks_repeat_of_a_form_attaches_to_the_first_and_is_charged_once(daemon):
    """An `Idempotency-Key` and a new boundary, as the SDK's own repeats have it."""
    before = billed(daemon)
    with openai.OpenAI(api_key=daemon.key, base_url=daemon.base_url) as client:
        replies = [
            client.images.edit(
                model="gpt-image-2",
                prompt="a hat",
                image=("a.png", io.BytesIO(PICTURE), "image/png"),
                extra_headers={"Idempotency-Key": "one-hat"},
            )
            for _ in range(2)
        ]

    assert replies[0].data[0].b64_json == replies[1].data[0].b64_json
    assert billed(daemon) == before + 1


@pytest.mark.parametrize("streamed", [False, True], ids=["an edit", "a streamed edit"])
def test_a_caller_whose_patience_ends_too_soon_collects_by_the_sdks_own_repeats_and_is_charged_once(daemon, streamed):
    # Two seconds of work (the delays are scaled by 0.01), and a caller who waits for less than one.
    daemon.upstream["openai"].set_faults([{"kind": "slow", "seconds": 200}])
    before = billed(daemon)
    with openai.OpenAI(api_key=daemon.key, base_url=daemon.base_url, timeout=0.9, max_retries=5) as client:
        reply = client.images.edit(
            model="gpt-image-2",
            prompt=f"a slow hat {streamed}",
            image=("a.png", io.BytesIO(PICTURE), "image/png"),
            **({"stream": True} if streamed else {}),
        )
        pictures = [event.b64_json for event in reply] if streamed else [item.b64_json for item in reply.data]

    assert len(pictures) == 1
    assert billed(daemon) == before + 1


def test_a_busy_provider_is_tried_again_behind_one_call_and_charged_once(sdk, daemon):
    daemon.upstream["openai"].set_faults([{"kind": "overloaded", "first": 1, "retry_after_s": 0}])
    before = billed(daemon)
    reply = sdk.images.generate(model="gpt-image-2", prompt="a busy cat", size=SIZE)

    assert read_size(reply.data[0].b64_json) == (1024, 1024)
    assert billed(daemon) == before + 1


def test_a_stream_that_fails_after_a_preview_raises_the_sdks_api_error(sdk, daemon):
    daemon.upstream["openai"].set_faults([{"kind": "stream_error"}])
    stream = sdk.images.generate(model="gpt-image-2", prompt="half a cat", size=SIZE, stream=True, partial_images=2)
    told = []
    with pytest.raises(openai.APIError) as caught:
        told.extend(event.type for event in stream)

    assert set(told) == {"image_generation.partial_image"}
    assert caught.value.body["task_id"].startswith("task_")
    assert caught.value.code == caught.value.body["code"]
