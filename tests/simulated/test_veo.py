"""The simulator of Veo over plain HTTP: submit, poll the operation, download the film with the key; refusals, failures,
lifetimes and prices. `tests/sdk/test_veo.py` drives it with the official SDK.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from providers.simulated.veo import VeoOptions
from tests.waiting import poll_until

VEO = "veo-3.1-generate-001"
CAT = {"instances": [{"prompt": "a cat runs"}]}


class Clock:
    """A provider's wall clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = 1_795_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("veo", options=Options(time_scale=0.001)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"x-goog-api-key": "k"}) as session:
        yield session


def ask(*, prompt: str | None = "a cat", parameters: dict[str, Any] | None = None, **instance: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"instances": [({} if prompt is None else {"prompt": prompt}) | instance]}
    return body if parameters is None else body | {"parameters": parameters}


def carry() -> dict[str, str]:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return {"bytesBase64Encoded": base64.b64encode(file.getvalue()).decode(), "mimeType": "image/png"}


async def submit(http, upstream, body=CAT, model=VEO) -> tuple[int, Any]:
    url = f"{upstream.base_url}/v1beta/models/{model}:predictLongRunning"
    async with http.post(url, json=body) as answer:
        return answer.status, await answer.json()


async def finish(http, upstream, name, version="v1beta") -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        async with http.get(f"{upstream.base_url}/{version}/{name}") as answer:
            body = await answer.json()
            return body if body.get("done") else None

    return await poll_until(ended, "the operation to be done")


async def make(http, upstream, body=CAT, model=VEO) -> list[str]:
    """The addresses of the films that an order ends with."""
    _, accepted = await submit(http, upstream, body, model)
    response = (await finish(http, upstream, accepted["name"]))["response"]["generateVideoResponse"]
    return [sample["video"]["uri"] for sample in response["generatedSamples"]]


async def fetch(http, uri) -> tuple[int, bytes]:
    async with http.get(uri) as answer:
        return answer.status, await answer.read()


def charged(upstream) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_an_operation_has_its_name_alone_until_it_is_done_with_a_film_of_the_asked_length(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=500))
    status, accepted = await submit(http, upstream, ask(parameters={"durationSeconds": 4, "aspectRatio": "9:16"}))
    assert (status, set(accepted)) == (200, {"name"})
    assert accepted["name"].startswith(f"models/{VEO}/operations/")
    async with http.get(f"{upstream.base_url}/v1beta/{accepted['name']}") as answer:
        assert await answer.json() == accepted

    done = await finish(http, upstream, accepted["name"], version="v1")
    assert done["response"]["@type"].endswith("PredictLongRunningResponse")
    [sample] = done["response"]["generateVideoResponse"]["generatedSamples"]
    assert sample["video"]["uri"].startswith(f"{upstream.origin}/v1/files/")
    assert sample["video"]["uri"].endswith(":download?alt=media")
    async with http.get(sample["video"]["uri"]) as answer:
        assert (answer.status, answer.content_type) == (200, "video/mp4")
        film = av.open(io.BytesIO(await answer.read()))
    with film:
        [track] = film.streams.video
        assert (track.width, track.height, round(film.duration / av.time_base)) == (720, 1280, 4)
        assert sum(1 for _ in film.decode(video=0)) >= 2
    assert charged(upstream) == [(What.SUCCESS, Decimal("1.60"))]


async def test_the_address_of_a_film_is_googles_for_the_official_sdk_and_the_callers_for_others(http, upstream):
    _, accepted = await submit(http, upstream)
    uris = []
    for sdk in (False, True):
        headers = {"x-goog-api-client": "google-genai-sdk/2.34.0 gl-python/3.11.7"} if sdk else {}
        async with aiohttp.ClientSession(headers={"x-goog-api-key": "k"} | headers) as caller:
            done = await finish(caller, upstream, accepted["name"])
        uris.append(done["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"])

    google = "https://generativelanguage.googleapis.com"
    assert [uri.partition("/v1beta/files/")[0] for uri in uris] == [upstream.origin, google]
    async with start("veo", options=VeoOptions(time_scale=0.001, uri="google")) as fixed:
        assert (await make(http, fixed))[0].startswith(google)


async def test_a_film_needs_the_key_that_ordered_it_and_is_kept_for_two_scaled_days():
    clock, keys = Clock(), ({"x-goog-api-key": "k"}, {"x-goog-api-key": "other"}, {})
    async with (
        start("veo", options=Options(time_scale=0.001, now_ms=clock)) as upstream,
        aiohttp.ClientSession(headers=keys[0]) as http,
    ):
        [uri] = await make(http, upstream)
        statuses = []
        async with aiohttp.ClientSession() as anybody:
            for key in keys:
                async with anybody.get(uri, headers=key) as answer:
                    statuses.append(answer.status)
        for passed_ms in (172_800, 1):
            clock.ms += passed_ms
            statuses.append((await fetch(http, uri))[0])
        statuses.append((await fetch(http, uri.replace("?alt=media", "")))[0])
        statuses.append((await fetch(http, uri.replace("/files/", "/files/x")))[0])

    assert statuses == [200, 403, 403, 200, 404, 400, 404]


async def test_a_filtered_order_is_done_without_samples_and_free(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.REFUSAL, word="No people, please."))
    status, accepted = await submit(http, upstream)
    done = await finish(http, upstream, accepted["name"])

    assert (status, "error" in done) == (200, False)
    response = done["response"]["generateVideoResponse"]
    assert response == {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": ["No people, please."]}
    assert charged(upstream) == [(What.REFUSAL, Decimal(0))]


@pytest.mark.parametrize(
    ("word", "code"), [(None, 13), ("RESOURCE_EXHAUSTED", 8), ("UNAVAILABLE", 14), ("INVALID_ARGUMENT", 3), ("ODD", 2)]
)
async def test_a_failed_operation_is_done_with_a_code_and_free(http, upstream, word, code):
    upstream.dial.set(Fault(kind=FaultKind.JOB_ERROR, word=word))
    _, accepted = await submit(http, upstream)
    done = await finish(http, upstream, accepted["name"])

    assert (done["error"]["code"], "response" in done) == (code, False)
    assert done["error"]["message"]
    assert charged(upstream) == [(What.FAILURE, Decimal(0))]


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        (FaultKind.THROTTLED, 429, "retryDelay"),
        (FaultKind.QUOTA, 429, "PerDay"),
        (FaultKind.INVALID_KEY, 400, "API_KEY_INVALID"),
        (FaultKind.MODERATION_BLOCKED, 400, "policy"),
        (FaultKind.UNSUPPORTED_PARAMETER, 400, "parameters.resolution"),
        (FaultKind.MODEL_NOT_FOUND, 404, VEO),
        (FaultKind.SERVER_ERROR, 500, "INTERNAL"),
        (FaultKind.OVERLOADED, 503, "UNAVAILABLE"),
    ],
)
async def test_a_submit_turned_away_makes_no_operation(http, upstream, kind, status, said):
    upstream.dial.set(Fault(kind=kind))
    got, body = await submit(http, upstream)

    assert (got, body["error"]["code"]) == (status, status)
    assert said in json.dumps(body)
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize(("kind", "what"), [(FaultKind.DROP, What.DISCONNECT), (FaultKind.HANG, What.TIMEOUT)])
async def test_a_submit_whose_answer_is_lost_is_charged_all_the_same(http, upstream, kind, what):
    upstream.dial.set(Fault(kind=kind))
    call = asyncio.create_task(submit(http, upstream))
    await poll_until(
        lambda: upstream.bill.submitted == 1 and upstream.bill.entries[0].what is not What.ACCEPTED, "the work to end"
    )
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert charged(upstream) == [(what, Decimal("3.20"))]


async def test_polls_and_downloads_have_faults_of_their_own_and_the_order_lives_through_them(http, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.OVERLOADED, at=Step.POLL, first=1),
        Fault(kind=FaultKind.OVERLOADED, at=Step.RESULT, first=1),
        Fault(kind=FaultKind.LOST, prompt="lost"),
    )
    _, accepted = await submit(http, upstream, ask(parameters={"durationSeconds": 4}))
    _, lost = await submit(http, upstream, ask(prompt="lost"))
    polls = [(await fetch(http, f"{upstream.base_url}/v1beta/{name['name']}"))[0] for name in (accepted, lost)]
    done = await finish(http, upstream, accepted["name"])
    uri = done["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    downloads = [await fetch(http, uri) for _ in range(2)]

    assert polls == [503, 404]
    assert [status for status, _ in downloads] == [503, 200]
    assert downloads[1][1][4:8] == b"ftyp"
    assert upstream.bill.submitted == 2


async def test_a_download_may_be_redirected_to_a_link_that_needs_no_key(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.REDIRECTED))
    [uri] = await make(http, upstream, ask(parameters={"durationSeconds": 4}))
    async with http.get(uri, allow_redirects=False) as answer:
        link = answer.headers["Location"]
        assert answer.status == 302
    async with aiohttp.ClientSession() as anybody:
        status, film = await fetch(anybody, link)

    assert (status, film[4:8]) == (200, b"ftyp")
    assert (await fetch(http, uri))[1] == film


@pytest.mark.parametrize(
    ("model", "parameters", "size", "price"),
    [
        (VEO, {"resolution": "1080p"}, (1920, 1080), "3.20"),
        (VEO, {"resolution": "4k", "aspectRatio": "9:16"}, (2160, 3840), "4.80"),
        ("veo-3.1-fast-generate-001", {"resolution": "1080p", "durationSeconds": 8}, (1920, 1080), "0.96"),
        ("veo-3.1-lite-generate-001", {"durationSeconds": 6, "seed": 7, "negativePrompt": "blur"}, (1280, 720), "0.30"),
        ("veo-3.1-generate-preview", {"personGeneration": "allow_adult"}, (1280, 720), "3.20"),
    ],
)
async def test_the_price_follows_model_resolution_and_seconds(http, upstream, *, model, parameters, size, price):
    [uri] = await make(http, upstream, ask(parameters=parameters), model)

    assert upstream.bill.total == Decimal(price)
    with av.open(io.BytesIO((await fetch(http, uri))[1])) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == size


async def test_several_samples_are_several_films_and_cost_as_many_times(http, upstream):
    body = ask(parameters={"sampleCount": 2, "durationSeconds": 4})
    uris = await make(http, upstream, body, "veo-2.0-generate-001")
    films = [(await fetch(http, uri))[1] for uri in uris]

    assert (len(set(uris)), len(set(films)), upstream.bill.total) == (2, 2, Decimal("3.20"))


async def test_frames_references_and_films_to_extend_are_taken(http, upstream):
    inline = {"inlineData": {"mimeType": "image/png", "data": carry()["bytesBase64Encoded"]}}
    reference = {"image": carry(), "referenceType": "asset"}
    orders = [
        ask(prompt=None, image=carry()),
        ask(image=inline, lastFrame=carry()),
        ask(referenceImages=[reference, reference, reference | {"referenceType": "ASSET"}]),
        ask(prompt=None, video={"uri": f"{upstream.base_url}/v1beta/files/abc:download?alt=media"}),
    ]

    assert [(await submit(http, upstream, order))[0] for order in orders] == [200] * 4


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        (VEO, {}, "instances"),
        (VEO, {"instances": [{}]}, "instances[0].prompt"),
        (VEO, ask(prompt=None), "instances[0].prompt"),
        (VEO, ask() | {"parameters": []}, "parameters"),
        (VEO, ask(image={"gcsUri": "gs://a/b"}), "instances[0].image"),
        (VEO, ask(image=carry() | {"bytesBase64Encoded": "?"}), "instances[0].image.bytesBase64Encoded"),
        (VEO, ask(lastFrame=carry()), "instances[0].lastFrame"),
        (VEO, ask(referenceImages=[{"image": carry(), "referenceType": "asset"}] * 4), "referenceImages"),
        (VEO, ask(referenceImages=[{"image": carry(), "referenceType": "style"}]), "referenceImages[0].referenceType"),
        (VEO, ask(parameters={"durationSeconds": 5}), "parameters.durationSeconds"),
        (VEO, ask(parameters={"durationSeconds": "8"}), "parameters.durationSeconds"),
        (VEO, ask(parameters={"durationSeconds": 4, "resolution": "1080p"}), "parameters.durationSeconds"),
        (VEO, ask(parameters={"resolution": "720"}), "parameters.resolution"),
        (VEO, ask(parameters={"aspectRatio": "1:1"}), "parameters.aspectRatio"),
        (VEO, ask(parameters={"sampleCount": 2}), "parameters.sampleCount"),
        (VEO, ask(parameters={"personGeneration": "ALLOW_ALL"}), "parameters.personGeneration"),
        ("veo-3.1-lite-generate-001", ask(parameters={"resolution": "4k"}), "parameters.resolution"),
        ("veo-2.0-generate-001", ask(parameters={"resolution": "1080p"}), "parameters.resolution"),
    ],
)
async def test_a_field_out_of_range_is_a_400_that_names_it(http, upstream, model, body, field):
    status, answer = await submit(http, upstream, body, model)

    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert field in answer["error"]["message"]
    assert upstream.bill.submitted == 0


async def test_a_missing_key_an_unknown_model_and_another_models_operation_are_refused(http, upstream):
    _, accepted = await submit(http, upstream)
    operation = accepted["name"].rpartition("/")[2]
    async with aiohttp.ClientSession() as anybody:
        statuses = [(await submit(anybody, upstream))[0]]
        statuses.append((await fetch(anybody, f"{upstream.base_url}/v1beta/{accepted['name']}"))[0])
    statuses.append((await submit(http, upstream, CAT, "veo-9"))[0])
    elsewhere = f"{upstream.base_url}/v1beta/models/veo-2.0-generate-001/operations/{operation}"
    statuses.append((await fetch(http, elsewhere))[0])
    async with http.get(f"{upstream.base_url}/v1beta/models") as answer:
        methods = {method for row in (await answer.json())["models"] for method in row["supportedGenerationMethods"]}

    assert (statuses, methods) == ([403, 403, 404, 404], {"predictLongRunning"})
