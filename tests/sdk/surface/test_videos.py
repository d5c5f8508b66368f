"""Videos: the whole of `client.videos`, driven by the `openai` SDK of version 2 and later, which checks every answer
from 3 on. Version 1 has no videos, so that nothing is collected under it.
"""

import contextlib

import openai
import pytest

from tests.sdk.test_openai import encode_png
from tests.sdk.test_openai_videos import see_through

MAJOR = int(openai.__version__.partition(".")[0])
__test__ = MAJOR >= 2

# The SDK announces with each call that the service of its vendor has ended.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

FILM = {"model": "veo-3", "prompt": "a red fox runs", "seconds": "4", "size": "1280x720"}


def billed(daemon):
    return daemon.upstream["apiyi"].bill()["billed"]


@pytest.fixture
def film(sdk):
    """A film that is done."""
    return see_through(sdk, sdk.videos.create(**FILM).id)


def test_a_create_answers_at_once_and_the_film_is_downloaded_when_it_is_done(sdk, daemon):
    before = billed(daemon)
    created = sdk.videos.create(**FILM)
    assert (created.object, created.model, created.status, created.progress) == ("video", "veo-3", "queued", 0)
    assert (created.seconds, created.size, created.prompt, created.error) == ("4", "1280x720", FILM["prompt"], None)
    assert created.id.startswith("video_")

    done = see_through(sdk, created.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.created_at <= done.completed_at < done.expires_at
    content = sdk.videos.download_content(created.id)
    assert content.response.headers["content-type"] == "video/mp4"
    assert content.read()[4:8] == b"ftyp"
    assert billed(daemon) == before + 1


def test_a_job_names_its_task_and_its_request(sdk):
    reply = sdk.videos.with_raw_response.create(**FILM)

    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["x-task-id"].replace("task_", "video_") == reply.parse().id


def test_a_first_frame_goes_to_the_target_that_takes_one(sdk, daemon):
    frame = ("a.png", encode_png(1280, 720), "image/png")
    video = see_through(sdk, sdk.videos.create(**{**FILM, "model": "sora-2"}, input_reference=frame).id)

    assert (video.status, video.seconds) == ("completed", "4")
    creates = [one for one in daemon.upstream["openai"].requests()["requests"] if one["path"] == "/v1/videos"]
    assert creates[-1]["headers"]["content-type"].startswith("multipart/form-data")


def test_a_first_frame_that_nobody_takes_is_refused_and_costs_nothing(sdk, daemon):
    before = daemon.upstream["apiyi"].bill()["submitted"]
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.videos.create(**FILM, input_reference=("a.png", encode_png(1280, 720), "image/png"))

    assert refused.value.param == "input_reference"
    assert daemon.upstream["apiyi"].bill()["submitted"] == before


def test_the_sdks_own_polling_comes_to_a_completed_film(sdk):
    video = sdk.videos.create_and_poll(**FILM)

    assert (video.status, video.progress) == ("completed", 100)


def test_the_sdks_own_polling_comes_to_a_failed_film_that_says_why(sdk, daemon):
    daemon.upstream["apiyi"].set_faults([{"kind": "refusal"}])
    video = sdk.videos.create_and_poll(**FILM)

    assert (video.status, video.error.code) == ("failed", "moderation_blocked")
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.videos.download_content(video.id)
    assert missing.value.code == "video_not_ready"


def test_a_poll_is_told_when_to_come_again(sdk):
    created = sdk.videos.create(**FILM)
    reply = sdk.videos.with_raw_response.retrieve(created.id)

    # Two seconds unless more is known, at a twentieth of the time.
    assert reply.parse().status in {"queued", "in_progress"}
    assert reply.headers["openai-poll-after-ms"] == "100"


def test_films_are_listed_over_pages_in_either_direction(sdk):
    made = sorted(sdk.videos.create(**FILM).id for _ in range(3))  # which is by age
    newest = sdk.videos.list(limit=2)
    assert [video.id for video in newest.data] == made[:0:-1]
    assert newest.has_next_page()

    pages = sdk.videos.list(limit=2, after=made[-1])
    assert [video.id for video, _ in zip(pages, range(2), strict=False)] == made[1::-1]
    oldest = sdk.videos.list(limit=2, order="asc", after=made[0])
    assert [video.id for video in oldest] == made[1:]


def test_the_film_is_served_in_ranges(sdk, film):
    whole = sdk.videos.download_content(film.id).read()
    part = sdk.videos.download_content(film.id, extra_headers={"Range": "bytes=4-7"})

    assert (part.response.status_code, part.read()) == (206, whole[4:8])
    assert part.response.headers["content-range"] == f"bytes 4-7/{len(whole)}"


def test_a_variant_that_the_provider_does_not_deliver_is_missing(sdk, film):
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.videos.download_content(film.id, variant="thumbnail")

    assert (missing.value.code, missing.value.param) == ("variant_unavailable", "variant")


def test_a_deleted_film_has_no_content_any_more(sdk, film):
    reply = sdk.videos.delete(film.id)

    assert (reply.id, reply.object, reply.deleted) == (film.id, "video.deleted", True)
    assert sdk.videos.retrieve(film.id).status == "completed"
    with pytest.raises(openai.NotFoundError):
        sdk.videos.download_content(film.id)


def test_a_live_film_is_not_deleted_and_the_sdk_asks_once(sdk, daemon):
    created = sdk.videos.create(**FILM)
    with pytest.raises(openai.ConflictError) as refused:
        sdk.videos.delete(created.id)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert see_through(sdk, created.id).status == "completed"


def test_a_remix_is_made_by_the_target_that_made_the_film_though_it_is_not_the_first(sdk, daemon):
    # The first target makes no twelve seconds.
    film = see_through(sdk, sdk.videos.create(**{**FILM, "model": "sora-2", "seconds": "12"}).id)
    before = {slug: one.bill()["billed"] for slug, one in daemon.upstream.items()}
    remix = sdk.videos.remix(film.id, prompt="the same at night")
    assert (remix.remixed_from_video_id, remix.prompt, remix.seconds) == (film.id, "the same at night", "12")

    assert see_through(sdk, remix.id).status == "completed"
    assert sdk.videos.download_content(remix.id).read()[4:8] == b"ftyp"
    after = {slug: one.bill()["billed"] for slug, one in daemon.upstream.items()}
    assert after == {**before, "openai": before["openai"] + 1}
    posts = [one["path"] for one in daemon.upstream["openai"].requests()["requests"] if one["method"] == "POST"]
    assert posts[-1].endswith("/remix")


def test_a_remix_that_the_provider_does_not_make_is_refused_with_the_reason(sdk, film):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.videos.remix(film.id, prompt="at night")

    assert "apiyi has no remix for veo-3.1-fast" in str(refused.value)


def test_unknown_films_and_what_is_not_made_here_are_errors_of_the_sdk(sdk):
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve("video_" + "0" * 32)
    if MAJOR >= 3:
        with pytest.raises(openai.APIStatusError) as refused, contextlib.closing(sdk):
            sdk.videos.extend(prompt="on", seconds="4", video=b"\x00\x00\x00\x18ftypmp42")
        assert refused.value.status_code == 405
