"""The unmodified SDK of Replicate against the simulator: create, reload, fetch, cancel, list, files, models, webhooks
and errors. It never sits in the SDK's own wait loop: a test reloads a prediction itself.
"""

import http.server
import io
import threading
import time
from collections.abc import Callable

import httpx
import pytest
import replicate
from replicate.exceptions import ReplicateError
from replicate.prediction import Prediction

SCHNELL = "black-forest-labs/flux-schnell"
SDXL = "stability-ai/sdxl"
SEEDANCE = "bytedance/seedance-1-lite"
CEILING_S = 60.0


@pytest.fixture
def upstream(simulate):
    return simulate("replicate")


@pytest.fixture
def client(upstream):
    made = replicate.Client(api_token="r8_test", base_url=upstream.base_url)
    yield made
    made._client.close()  # noqa: SLF001 - the SDK has no way to close its connections


def poll_until(reached: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + CEILING_S
    while not reached():
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"


def finish(prediction: Prediction) -> Prediction:
    def ended() -> bool:
        prediction.reload()
        return prediction.status in ("succeeded", "failed", "canceled")

    poll_until(ended, "the prediction to end")
    return prediction


def test_a_prediction_is_created_reloaded_and_its_picture_fetched(client, upstream):
    prediction = client.models.predictions.create(SCHNELL, {"prompt": "cat"})
    assert (prediction.status, prediction.model, prediction.version) == ("starting", SCHNELL, "hidden")
    finish(prediction)

    assert (prediction.status, prediction.error, prediction.metrics["predict_time"]) == ("succeeded", None, 1.2)
    picture = httpx.get(prediction.output[0])
    assert (picture.headers["content-type"], picture.content[:4], picture.content[8:12]) == (
        "image/webp",
        b"RIFF",
        b"WEBP",
    )
    assert client.predictions.get(prediction.id).output == prediction.output
    assert [job["amount_usd"] for job in upstream.bill()["jobs"]] == ["0.003"]


def test_run_holds_the_create_and_gives_the_links_as_they_are(client, upstream):
    links = client.run(SCHNELL, input={"prompt": "cat", "num_outputs": 2})

    assert [link.startswith(f"{upstream.origin}/") for link in links] == [True, True]
    requests = upstream.requests()["requests"]
    assert [(seen["method"], seen["headers"]["prefer"]) for seen in requests] == [("POST", "wait")]


def test_a_version_is_read_from_the_model_and_run(client):
    version = client.models.get(SDXL).latest_version
    assert client.models.get(SDXL).versions.get(version.id).id == version.id
    prediction = finish(client.predictions.create(version=version, input={"prompt": "cat"}))
    assert (prediction.status, prediction.version, len(prediction.output)) == ("succeeded", version.id, 1)


def test_a_film_is_one_link(client):
    asked = {"prompt": "waves", "duration": 1, "resolution": "480p"}
    prediction = finish(client.models.predictions.create(SEEDANCE, asked))
    film = httpx.get(prediction.output, timeout=60)
    assert (film.headers["content-type"], film.content[4:8]) == ("video/mp4", b"ftyp")


def test_a_prediction_is_cancelled(client, upstream):
    upstream.set_faults([{"kind": "slow", "seconds": 100_000}])
    prediction = client.models.predictions.create(SDXL, {"prompt": "cat"})
    prediction.cancel()
    assert prediction.status == "canceled"
    assert client.predictions.get(prediction.id).status == "canceled"


def test_a_prediction_whose_answer_was_lost_is_found_on_the_list(client, upstream):
    upstream.set_faults([{"kind": "drop"}])
    with pytest.raises(httpx.HTTPError):
        client.models.predictions.create(SCHNELL, {"prompt": "lost"})
    page = client.predictions.list()
    assert [found.input for found in page.results] == [{"prompt": "lost"}]
    assert upstream.bill()["submitted"] == 1


def test_a_file_of_an_input_is_uploaded_and_named_by_its_address(client, upstream):
    prediction = client.models.predictions.create(SDXL, {"prompt": "cat", "image": io.BytesIO(b"abc")})
    address = prediction.input["image"]
    file = client.files.get(address.rpartition("/")[2])

    assert (file.size, file.urls["get"], [listed.id for listed in client.files.list()]) == (3, address, [file.id])
    assert client.files.delete(file.id)
    assert client.files.list() == []


@pytest.mark.parametrize(
    ("kind", "text"), [("refusal", "NSFW content detected"), ("content_moderated", "E005"), ("job_error", "CUDA")]
)
def test_a_failed_prediction_says_why(client, upstream, kind, text):
    upstream.set_faults([{"kind": kind}])
    prediction = finish(client.models.predictions.create(SDXL, {"prompt": "cat"}))
    assert (prediction.status, text in prediction.error, prediction.output) == ("failed", True, None)
    assert upstream.bill()["billed"] == 1


@pytest.mark.parametrize(
    ("kind", "status"), [("throttled", 429), ("quota", 402), ("invalid_key", 401), ("server_error", 500)]
)
def test_an_error_is_the_sdks_own_and_a_create_is_sent_once(client, upstream, kind, status):
    upstream.set_faults([{"kind": kind}])
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create(SCHNELL, {"prompt": "cat"})
    assert (caught.value.status, bool(caught.value.title), bool(caught.value.detail)) == (status, True, True)
    assert upstream.requests()["total"] == 1
    assert upstream.bill()["submitted"] == 0


def test_an_input_that_breaks_a_rule_is_an_error_with_its_field(client):
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create(SCHNELL, {"num_outputs": 9})
    assert caught.value.status == 422
    assert "prompt is required" in caught.value.detail


def test_a_webhook_passes_the_sdks_check(client):
    events = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            events.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments):
            """Be quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/x"
            wanted = {"webhook": url, "webhook_events_filter": ["start", "completed"]}
            prediction = client.models.predictions.create(SCHNELL, {"prompt": "cat"}, **wanted)
            poll_until(lambda: len(events) == 2, "two events")
        finally:
            server.shutdown()
            thread.join()
    secret = client.webhooks.default.secret()
    for headers, body in events:
        replicate.webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
        assert prediction.id in body
