"""The unmodified `openai` SDK against the simulated sellers of the OpenAI videos form. A job is submitted, asked for
and fetched call by call; the SDK's own wait loop is never entered. Version 1 of the SDK has no videos, so that nothing
is collected under it. Source: the provider file of the OpenAI videos API, sections 1 to 5 and 8.
"""

import time

import openai
import pytest

__test__ = int(openai.__version__.partition(".")[0]) >= 2

CEILING_S = 60.0
PAUSE_S = 0.05

# The SDK announces with each call that the service of the vendor has ended.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def seller(simulate):
    """The whole form, as OpenAI had it."""
    return simulate("openai")


@pytest.fixture
def client(seller):
    """The SDK, its own resends switched off."""
    with openai.OpenAI(api_key="sk-test", base_url=seller.base_url, max_retries=0) as sdk:
        yield sdk


def see_through(client, video):
    """Ask for a video until it has ended."""
    deadline = time.monotonic() + CEILING_S
    while True:
        seen = client.videos.retrieve(video)
        if seen.status in ("completed", "failed"):
            return seen
        assert time.monotonic() < deadline, f"waited in vain for {video}: {seen.status}"
        time.sleep(PAUSE_S)


def test_a_video_is_created_retrieved_and_downloaded(seller, client):
    created = client.videos.create(model="sora-2", prompt="a red fox runs", seconds="4", size="1280x720")
    assert (created.object, created.model, created.seconds, created.size) == ("video", "sora-2", "4", "1280x720")
    assert created.status in ("queued", "in_progress")

    done = see_through(client, created.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.expires_at >= done.completed_at >= done.created_at
    content = client.videos.download_content(created.id)
    assert content.response.headers["content-type"] == "video/mp4"
    assert content.read()[4:8] == b"ftyp"
    assert client.videos.download_content(created.id, variant="thumbnail").read()[8:12] == b"WEBP"
    assert [(job["prompt"], job["what"], job["amount_usd"]) for job in seller.bill()["jobs"]] == [
        ("a red fox runs", "success", "0.40")
    ]


def test_a_first_frame_travels_along_as_a_file(seller, client):
    png = b"\x89PNG\r\n\x1a\n" + b"no pixels that anybody looks at"
    client.videos.create(prompt="p", input_reference=("a.png", png, "image/png"))

    (asked,) = [request for request in seller.requests()["requests"] if request["method"] == "POST"]
    assert asked["headers"]["content-type"].startswith("multipart/form-data")
    assert seller.bill()["submitted"] == 1


def test_videos_are_listed_over_pages_and_deleted(client):
    made = [client.videos.create(prompt=f"p{number}").id for number in range(3)]
    assert [video.id for video in client.videos.list(limit=2, order="asc")] == made
    assert [video.id for video in client.videos.list(limit=1)] == made[::-1]

    see_through(client, made[0])
    assert client.videos.delete(made[0]).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made[0])
    assert [video.id for video in client.videos.list(order="asc")] == made[1:]


def test_a_remix_names_the_video_it_came_from(client):
    first = client.videos.create(prompt="p")
    see_through(client, first.id)
    remix = client.videos.remix(first.id, prompt="again")

    assert (remix.remixed_from_video_id, see_through(client, remix.id).status) == (first.id, "completed")


def test_a_job_refused_by_moderation_ends_as_failed_with_its_code(seller, client):
    seller.set_faults([{"kind": "refusal"}])
    failed = see_through(client, client.videos.create(prompt="p").id)

    assert (failed.status, failed.error.code) == ("failed", "moderation_blocked")
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content(failed.id)


def test_the_bytes_are_found_behind_a_redirect(seller, client):
    seller.set_faults([{"kind": "redirected"}])
    video = see_through(client, client.videos.create(prompt="p").id)

    assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"


def test_a_create_turned_away_and_sent_again_by_the_sdk_is_charged_once(seller, client):
    seller.set_faults([{"kind": "server_error", "first": 1}])
    client.with_options(max_retries=2).videos.create(prompt="p")

    assert seller.bill()["submitted"] == 1


def test_apiyi_sells_the_same_form_under_ids_of_its_own(simulate):
    seller = simulate("apiyi")
    with openai.OpenAI(api_key="sk-test", base_url=f"{seller.base_url}/v1", max_retries=0) as client:
        created = client.videos.create(model="veo-3.1-fast", prompt="waves", extra_body={"duration": "8"})
        assert created.id == created.task_id
        done = see_through(client, created.id)
        assert done.status == "completed"
        assert client.videos.download_content(done.id).read()[4:8] == b"ftyp"

    assert [job["amount_usd"] for job in seller.bill()["jobs"]] == ["0.15"]
