"""The unmodified client of fal against the simulator: submit, status, result, cancel, run, upload, errors, and what the
client sends again on its own. It never sits in the client's own wait loop: a test asks for the status itself.
"""

import fal_client
import httpx
import pytest

from tests.waiting import poll_until_sync

FLUX = "fal-ai/flux/dev"
SEEDANCE = "fal-ai/bytedance/seedance/v2/text-to-video"
SMALL = {"width": 64, "height": 64}

# For each upload the client opens a connection and leaves it to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def upstream(simulate):
    return simulate("fal")


@pytest.fixture
def client(upstream, monkeypatch):
    # The client takes other hosts from its environment, but always by https; its own names lead it to plain http.
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{upstream.base_url}/")
    monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", f"{upstream.base_url}/run/")
    monkeypatch.setattr(fal_client.client, "REST_URL", upstream.base_url)
    monkeypatch.setattr(fal_client.client, "CDN_URL", upstream.base_url)
    caller = fal_client.SyncClient(key="id:secret")
    yield caller
    caller._client.close()  # noqa: SLF001 - it closes none of its connections itself, and offers no other way


def finish(handle: fal_client.SyncRequestHandle) -> fal_client.Completed:
    seen = []

    def ended() -> bool:
        seen[:] = [handle.status(with_logs=True)]
        return isinstance(seen[0], fal_client.Completed)

    poll_until_sync(ended, "the request to end")
    return seen[0]


def test_a_request_is_submitted_asked_for_and_its_picture_fetched(client, upstream):
    handle = client.submit(FLUX, {"prompt": "cat", "image_size": SMALL, "seed": 3})
    completed = finish(handle)
    result = client.result(FLUX, handle.request_id)

    assert handle.status_url == f"{upstream.origin}/fal-ai/flux/requests/{handle.request_id}/status"
    assert ([line["level"] for line in completed.logs], completed.metrics["inference_time"] >= 0) == (["INFO"], True)
    assert (result["seed"], result["has_nsfw_concepts"], result["images"][0]["width"]) == (3, [False], 64)
    picture = httpx.get(result["images"][0]["url"])
    assert (picture.headers["content-type"], picture.content[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
    assert [(job["model"], job["amount_usd"]) for job in upstream.bill()["jobs"]] == [(FLUX, "0.025")]


def test_a_request_waits_runs_and_ends(client, upstream):
    upstream.set_faults([{"kind": "slow", "seconds": 100}])
    handle = client.submit(FLUX, {"prompt": "cat", "image_size": SMALL})
    kinds = [type(client.status(FLUX, handle.request_id))]
    poll_until_sync(lambda: type(handle.status(with_logs=True)) is fal_client.InProgress, "the request to run")
    finish(handle)

    assert kinds[0] in (fal_client.Queued, fal_client.InProgress)


def test_a_film_is_fetched_whole(client, upstream):
    asked = {"prompt": "waves", "duration": "1", "resolution": "360p"}
    handle = client.submit(SEEDANCE, asked)
    finish(handle)
    video = handle.get()["video"]

    film = httpx.get(video["url"], timeout=60)
    assert (film.headers["content-type"], film.content[4:8]) == ("video/mp4", b"ftyp")
    assert (len(film.content), video["content_type"]) == (video["file_size"], "video/mp4")
    assert upstream.bill()["total_usd"] == "0.3034"


def test_a_request_that_runs_is_cancelled_by_promise_only(client, upstream):
    upstream.set_faults([{"kind": "slow", "seconds": 300}])
    handle = client.submit(FLUX, {"prompt": "cat", "image_size": SMALL})
    poll_until_sync(lambda: isinstance(handle.status(), fal_client.InProgress), "the request to run")
    handle.cancel()
    finish(handle)

    assert len(handle.get()["images"]) == 1
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.cancel(FLUX, handle.request_id)
    assert caught.value.status_code == 400


def test_a_direct_run_gives_the_result(client, upstream):
    result = client.run(FLUX, {"prompt": "cat", "image_size": SMALL, "sync_mode": True})

    assert result["images"][0]["url"].startswith("data:image/png;base64,")
    assert [seen["path"] for seen in upstream.requests()["requests"]] == [f"/run/{FLUX}"]


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_an_uploaded_file_can_be_an_input(client, repository):
    address = client.upload(b"png", "image/png", "a.png", repository=repository)
    assert httpx.get(address).content == b"png"

    handle = client.submit("fal-ai/nano-banana/edit", {"prompt": "cat", "image_urls": [address]})
    finish(handle)
    assert handle.get()["prompt"] == "cat"


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ({"kind": "refusal"}, 422, None),
        ({"kind": "job_error", "param": "generation_timeout"}, 504, None),
        ({"kind": "job_error", "param": "startup_timeout"}, 504, "startup_timeout"),
        ({"kind": "job_error", "param": "runner_server_error"}, 500, "runner_server_error"),
    ],
)
def test_a_completed_request_may_have_failed(client, upstream, fault, status, kind):
    upstream.set_faults([fault])
    handle = client.submit(FLUX, {"prompt": "cat"})
    finish(handle)
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()

    assert (caught.value.status_code, caught.value.error_type, bool(caught.value.message)) == (status, kind, True)


@pytest.mark.parametrize(("kind", "status"), [("quota", 403), ("invalid_key", 401), ("server_error", 500)])
def test_a_submit_that_is_refused_is_sent_once(client, upstream, kind, status):
    upstream.set_faults([{"kind": kind}])
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.submit(FLUX, {"prompt": "cat"})

    assert (caught.value.status_code, upstream.requests()["total"], upstream.bill()["submitted"]) == (status, 1, 0)


@pytest.mark.parametrize(
    ("kind", "made"), [("throttled", 1), ("overloaded", 1), ("bad_gateway", 1), ("drop", 2), ("gateway_timeout", 2)]
)
def test_a_submit_that_the_client_sends_again_is_charged_twice_where_it_was_taken(client, upstream, kind, made):
    upstream.set_faults([{"kind": kind, "first": 1}])
    handle = client.submit(FLUX, {"prompt": "cat", "image_size": SMALL})
    finish(handle)

    assert (upstream.requests()["requests"][1]["path"], upstream.bill()["submitted"]) == (f"/{FLUX}", made)


def test_the_headers_of_a_submit_are_taken(client, upstream):
    more = {"webhook_url": "https://my.app/hook?x=1", "priority": "low", "hint": "h1", "start_timeout": 30}
    finish(client.submit(FLUX, {"prompt": "cat", "image_size": SMALL}, **more))

    [sent] = [seen for seen in upstream.requests()["requests"] if seen["method"] == "POST"]
    assert sent["query"] == {"fal_webhook": "https://my.app/hook?x=1"}
    names = ("x-fal-queue-priority", "x-fal-runner-hint", "x-fal-request-timeout")
    assert [sent["headers"][name] for name in names] == ["low", "h1", "30.0"]
