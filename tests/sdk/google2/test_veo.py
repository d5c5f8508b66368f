"""The simulator of Veo, driven by `google-genai` 2.34: submit, poll, download. SDK 3 refuses to submit on the API for
developers. The SDK's examples wait in a loop; here every poll is one call.
"""

import io

import av
import pytest
from google import genai
from google.genai import errors, types

from tests.waiting import poll_until_sync

VEO = "veo-3.1-generate-001"
JPEG = types.Image(image_bytes=b"\xff\xd8\xff" + b"\xfb\xef\xbe\xff" * 6, mime_type="image/jpeg")
CAT = types.GenerateVideosSource(prompt="a cat runs")


@pytest.fixture
def upstream(simulate):
    return simulate("veo")


@pytest.fixture
def sdk(upstream):
    with genai.Client(api_key="k-test", http_options=types.HttpOptions(base_url=upstream.base_url)) as client:
        yield client


def finish(sdk, operation: types.GenerateVideosOperation) -> types.GenerateVideosOperation:
    """The operation once it is done."""
    poll_until_sync(lambda: sdk.operations.get(operation).done, "the operation to be done")
    return sdk.operations.get(operation)


def test_a_film_is_ordered_polled_and_downloaded_and_has_the_length_and_size_asked_for(sdk, upstream):
    config = types.GenerateVideosConfig(
        number_of_videos=1,
        duration_seconds=8,
        aspect_ratio="9:16",
        resolution="720p",
        person_generation="allow_all",
        negative_prompt="blur",
    )
    accepted = sdk.models.generate_videos(model=VEO, source=CAT, config=config)
    assert accepted.name.startswith(f"models/{VEO}/operations/")
    assert (accepted.done, accepted.response) == (None, None)

    operation = finish(sdk, accepted)
    [made] = operation.response.generated_videos
    film = sdk.files.download(file=made.video)
    with av.open(io.BytesIO(film)) as opened:
        [track] = opened.streams.video
        assert (track.width, track.height, round(opened.duration / av.time_base)) == (720, 1280, 8)
    assert made.video.video_bytes == film
    assert [(job["what"], float(job["amount_usd"])) for job in upstream.bill()["jobs"]] == [("success", 3.2)]


def test_first_and_last_frame_and_reference_images_are_taken(sdk, upstream):
    reference = types.VideoGenerationReferenceImage(image=JPEG, reference_type="asset")
    framed = types.GenerateVideosSource(prompt="a cat runs", image=JPEG)
    sdk.models.generate_videos(model=VEO, source=framed, config=types.GenerateVideosConfig(last_frame=JPEG))
    sdk.models.generate_videos(model=VEO, source=CAT, config=types.GenerateVideosConfig(reference_images=[reference]))

    sent = [sorted(seen["body"]["instances"][0]) for seen in upstream.requests()["requests"]]
    assert sent == [["image", "lastFrame", "prompt"], ["prompt", "referenceImages"]]
    assert upstream.bill()["submitted"] == 2


def test_a_filtered_order_is_done_with_its_reasons_and_free(sdk, upstream):
    upstream.set_faults([{"kind": "refusal"}])
    operation = finish(sdk, sdk.models.generate_videos(model=VEO, source=CAT))

    assert (operation.error, operation.response.generated_videos) == (None, None)
    assert operation.response.rai_media_filtered_count == 1
    assert operation.response.rai_media_filtered_reasons
    assert (upstream.bill()["submitted"], upstream.bill()["billed"]) == (1, 0)


def test_a_failed_operation_is_done_with_an_error_and_free(sdk, upstream):
    upstream.set_faults([{"kind": "job_error", "word": "RESOURCE_EXHAUSTED"}])
    operation = finish(sdk, sdk.models.generate_videos(model=VEO, source=CAT))

    assert (operation.response, operation.error["code"], upstream.bill()["billed"]) == (None, 8, 0)


@pytest.mark.parametrize(
    ("kind", "exception", "code"),
    [
        ("throttled", errors.ClientError, 429),
        ("moderation_blocked", errors.ClientError, 400),
        ("overloaded", errors.ServerError, 503),
    ],
)
def test_an_order_turned_away_is_the_sdks_exception_and_not_on_the_bill(sdk, upstream, kind, exception, code):
    upstream.set_faults([{"kind": kind}])
    with pytest.raises(exception) as caught:
        sdk.models.generate_videos(model=VEO, source=CAT)

    assert (caught.value.code, upstream.bill()["submitted"]) == (code, 0)


def test_a_download_follows_a_redirect(sdk, upstream):
    upstream.set_faults([{"kind": "redirected", "first": 1}])
    config = types.GenerateVideosConfig(duration_seconds=4)
    operation = finish(sdk, sdk.models.generate_videos(model=VEO, source=CAT, config=config))

    assert sdk.files.download(file=operation.response.generated_videos[0].video)[4:8] == b"ftyp"
    assert upstream.requests()["answered"]["302"] == 1
