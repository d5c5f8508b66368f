"""The simulator of Gemini's image models over plain HTTP: the picture inline, every form of an answer without one,
errors as google.rpc.Status, and a bill of tokens. `tests/sdk/test_google.py` drives it with the official SDK.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, What, start
from tests.waiting import poll_until

FLASH = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image"
PROMPT_TOKENS = 2
PROMPT_USD = PROMPT_TOKENS * Decimal("0.30") / 1_000_000


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("gemini", options=Options(time_scale=0.001)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"x-goog-api-key": "k"}) as session:
        yield session


def ask(text="a cat", *pictures: dict[str, Any], **config) -> dict[str, Any]:
    parts = [{"text": text}, *pictures]
    return {"contents": [{"role": "user", "parts": parts}]} | ({"generationConfig": config} if config else {})


def carry(width=8, height=8, *, urlsafe=False) -> dict[str, str]:
    file = io.BytesIO()
    Image.effect_noise((width, height), 80).save(file, "PNG")
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    return {"mimeType": "image/png", "data": encode(file.getvalue()).decode()}


async def generate(http, upstream, body=None, model=FLASH, call="v1beta", **query) -> tuple[int, Any]:
    url = f"{upstream.base_url}/{call}/models/{model}:generateContent"
    async with http.post(url, json=ask() if body is None else body, params=query) as answer:
        return answer.status, await answer.json()


async def stream(http, upstream, body=None, model=FLASH) -> list[dict[str, Any]]:
    url = f"{upstream.base_url}/v1beta/models/{model}:streamGenerateContent?alt=sse"
    async with http.post(url, json=ask() if body is None else body) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        lines = (await answer.text()).splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def see(part: dict[str, Any]) -> Image.Image:
    assert part["inlineData"]["mimeType"] == "image/png"
    return Image.open(io.BytesIO(base64.b64decode(part["inlineData"]["data"], validate=True)))


def charged(upstream) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_a_picture_comes_inline_with_the_tokens_that_are_charged(http, upstream):
    status, body = await generate(http, upstream)

    [candidate] = body["candidates"]
    text, picture = candidate["content"]["parts"]
    assert (status, candidate["finishReason"], candidate["index"]) == (200, "STOP", 0)
    assert text["text"]
    assert (see(picture).format, see(picture).size) == ("PNG", (1024, 1024))
    assert body["usageMetadata"] == {
        "promptTokenCount": PROMPT_TOKENS,
        "candidatesTokenCount": 1290,
        "totalTokenCount": 1292,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": PROMPT_TOKENS}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    assert body["modelVersion"] == FLASH
    assert charged(upstream) == [(What.SUCCESS, PROMPT_USD + Decimal("0.0387"))]


@pytest.mark.parametrize(
    ("model", "config", "size", "price"),
    [
        (PRO, {"aspectRatio": "16:9", "imageSize": "2K"}, (2720, 1536), "0.1344"),
        (PRO, {"aspect_ratio": "9:16", "image_size": "1K"}, (768, 1360), "0.1344"),
        ("gemini-3.1-flash-image", {"aspectRatio": "8:1", "imageSize": "512"}, (1440, 176), "0.04482"),
        (FLASH, {"aspectRatio": "21:9", "personGeneration": "ALLOW_ADULT"}, (1552, 656), "0.0387"),
    ],
)
async def test_size_and_ratio_shape_the_picture_and_the_size_its_price(http, upstream, *, model, config, size, price):
    _, body = await generate(http, upstream, ask(responseModalities=["IMAGE"], imageConfig=config), model)

    parts = body["candidates"][0]["content"]["parts"]
    assert see(parts[-1]).size == size
    assert not [part for part in parts if "text" in part]
    [(_, amount)] = charged(upstream)
    assert Decimal(price) < amount < Decimal(price) + Decimal("0.00001")


async def test_a_model_that_thinks_sends_its_draft_as_a_thought_before_the_picture(http, upstream):
    _, body = await generate(http, upstream, model=PRO)

    _, draft, picture = body["candidates"][0]["content"]["parts"]
    assert (draft["thought"], see(draft).size) == (True, (256, 256))
    assert ("thought" in picture, see(picture).size) == (False, (1024, 1024))
    assert picture["thoughtSignature"]
    assert body["usageMetadata"]["candidatesTokenCount"] == 1120


async def test_pictures_come_along_in_both_alphabets_and_both_styles_of_names(http, upstream):
    twin = carry(64, 64, urlsafe=True)
    snake = {"inline_data": {"mime_type": twin["mimeType"], "data": twin["data"]}}
    half = {"inlineData": {"mime_type": twin["mimeType"], "data": twin["data"]}}
    linked = {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/1.png"}}
    assert set("-_") & set(twin["data"])
    status, body = await generate(http, upstream, ask("mix", {"inlineData": carry()}, snake, half, linked))

    assert status == 200
    details = body["usageMetadata"]["promptTokensDetails"]
    assert {row["modality"]: row["tokenCount"] for row in details} == {"TEXT": 1, "IMAGE": 4 * 258}
    [seen] = upstream.requests
    assert seen.body["contents"][0]["parts"][0] == {"text": "mix"}


async def test_a_stream_hands_the_parts_over_one_by_one_and_counts_tokens_at_its_end(http, upstream):
    chunks = await stream(http, upstream, model=PRO)

    parts = [chunk["candidates"][0]["content"]["parts"] for chunk in chunks]
    assert [sorted(part) for [part] in parts] == [
        ["text"],
        ["inlineData", "thought"],
        ["inlineData", "thoughtSignature"],
    ]
    assert [chunk["candidates"][0].get("finishReason") for chunk in chunks] == [None, None, "STOP"]
    assert [chunk["usageMetadata"].get("candidatesTokenCount") for chunk in chunks] == [None, None, 1120]
    assert len({chunk["responseId"] for chunk in chunks}) == 1
    assert upstream.bill.submitted == 1


async def test_without_alt_sse_a_stream_is_one_array(http, upstream):
    url = f"{upstream.base_url}/v1/models/{FLASH}:streamGenerateContent"
    async with http.post(url, json=ask()) as answer:
        chunks = await answer.json()

    assert len(chunks) == 2
    assert see(chunks[1]["candidates"][0]["content"]["parts"][0]).size == (1024, 1024)


# --- answers without a picture: row of the dial -> block reason, finish reason, parts, the word on the bill
FORMS = [
    (Fault(kind=FaultKind.REFUSAL), "SAFETY", None, None, What.REFUSAL),
    (Fault(kind=FaultKind.REFUSAL, word="PROHIBITED_CONTENT"), "PROHIBITED_CONTENT", None, None, What.REFUSAL),
    (Fault(kind=FaultKind.CONTENT_MODERATED), None, "IMAGE_SAFETY", None, What.REFUSAL),
    (Fault(kind=FaultKind.CONTENT_MODERATED, word="RECITATION"), None, "RECITATION", None, What.REFUSAL),
    (Fault(kind=FaultKind.TEXT_ONLY, word=""), None, "STOP", [], What.REFUSAL),
    (Fault(kind=FaultKind.JOB_ERROR), None, "NO_IMAGE", None, What.FAILURE),
    (Fault(kind=FaultKind.JOB_ERROR, word="MAX_TOKENS"), None, "MAX_TOKENS", None, What.FAILURE),
    (Fault(kind=FaultKind.EMPTY_DATA), None, None, None, What.FAILURE),
]


@pytest.mark.parametrize(("fault", "block", "finish", "parts", "what"), FORMS)
async def test_an_answer_without_a_picture_comes_under_200_and_costs_its_prompt(
    http, upstream, *, fault, block, finish, parts, what
):
    upstream.dial.set(fault)
    status, body = await generate(http, upstream)
    [streamed] = await stream(http, upstream)

    candidate = body.get("candidates", [{}])[0]
    assert (status, body.get("promptFeedback", {}).get("blockReason")) == (200, block)
    assert ("candidates" in body, candidate.get("finishReason")) == (finish is not None, finish)
    assert candidate.get("content", {}).get("parts") == parts
    assert ("finishMessage" in candidate) == (finish not in (None, "STOP"))
    assert "candidatesTokenCount" not in body["usageMetadata"]
    assert streamed | {"responseId": ""} == body | {"responseId": ""}
    assert charged(upstream) == [(what, PROMPT_USD)] * 2


async def test_a_soft_refusal_is_a_text_in_the_pictures_place_and_its_text_costs_too(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.TEXT_ONLY, word="I would rather not."))
    _, body = await generate(http, upstream)

    [candidate] = body["candidates"]
    assert (candidate["finishReason"], candidate["content"]["parts"]) == ("STOP", [{"text": "I would rather not."}])
    assert body["usageMetadata"]["candidatesTokensDetails"] == [{"modality": "TEXT", "tokenCount": 5}]
    assert charged(upstream) == [(What.REFUSAL, PROMPT_USD + 5 * Decimal(30) / 1_000_000)]


# --- turned away: row of the dial -> HTTP status, word, what stands in the details
ERRORS = [
    (Fault(kind=FaultKind.THROTTLED, retry_after_s=34), 429, "RESOURCE_EXHAUSTED", ["PerMinute", '"34s"']),
    (Fault(kind=FaultKind.QUOTA), 429, "RESOURCE_EXHAUSTED", ["GenerateRequestsPerDayPerProjectPerModel"]),
    (Fault(kind=FaultKind.QUOTA, word="limit: 0"), 429, "RESOURCE_EXHAUSTED", ["limit: 0", "PerMinute"]),
    (Fault(kind=FaultKind.QUOTA, word="FAILED_PRECONDITION"), 400, "FAILED_PRECONDITION", ["Billing"]),
    (Fault(kind=FaultKind.INVALID_KEY), 400, "INVALID_ARGUMENT", ["API key not valid", "API_KEY_INVALID"]),
    (Fault(kind=FaultKind.INVALID_KEY, word="UNAUTHENTICATED"), 401, "UNAUTHENTICATED", ["credentials"]),
    (Fault(kind=FaultKind.INVALID_KEY, word="PERMISSION_DENIED"), 403, "PERMISSION_DENIED", ["denied"]),
    (Fault(kind=FaultKind.UNSUPPORTED_PARAMETER), 400, "INVALID_ARGUMENT", ["imageConfig.imageSize"]),
    (Fault(kind=FaultKind.MODEL_NOT_FOUND), 404, "NOT_FOUND", [f"models/{FLASH}"]),
    (Fault(kind=FaultKind.SERVER_ERROR), 500, "INTERNAL", []),
    (Fault(kind=FaultKind.OVERLOADED), 503, "UNAVAILABLE", ["overloaded"]),
]


@pytest.mark.parametrize(("fault", "status", "word", "said"), ERRORS)
async def test_what_is_turned_away_is_a_status_with_details_and_costs_nothing(
    http, upstream, *, fault, status, word, said
):
    upstream.dial.set(fault)
    got, body = await generate(http, upstream)

    assert (got, body["error"]["code"], body["error"]["status"]) == (status, status, word)
    assert all(text in json.dumps(body) for text in said)
    assert all(detail["@type"].startswith("type.googleapis.com/") for detail in body["error"].get("details", []))
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        (Fault(kind=FaultKind.GATEWAY_TIMEOUT), 504, "DEADLINE_EXCEEDED"),
        (Fault(kind=FaultKind.GATEWAY_TIMEOUT, word="CANCELLED"), 499, "CANCELLED"),
    ],
)
async def test_a_server_that_gives_up_over_an_accepted_order_charges_it(http, upstream, fault, status, word):
    upstream.dial.set(fault)
    got, body = await generate(http, upstream)

    assert (got, body["error"]["status"]) == (status, word)
    assert charged(upstream) == [(What.TIMEOUT, PROMPT_USD + Decimal("0.0387"))]


@pytest.mark.parametrize(("kind", "what"), [(FaultKind.DROP, What.DISCONNECT), (FaultKind.HANG, What.TIMEOUT)])
@pytest.mark.parametrize("call", [generate, stream])
async def test_an_order_whose_answer_is_lost_is_charged_all_the_same(http, upstream, kind, what, call):
    upstream.dial.set(Fault(kind=kind))
    waiting = asyncio.create_task(call(http, upstream))
    await poll_until(
        lambda: upstream.bill.submitted == 1 and upstream.bill.entries[0].what is not What.ACCEPTED, "the work to end"
    )
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert charged(upstream) == [(what, PROMPT_USD + Decimal("0.0387"))]


async def test_a_stream_may_end_in_an_error_event_and_one_answer_in_a_500_and_both_are_free(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.STREAM_ERROR))
    first, second = await stream(http, upstream)
    status, body = await generate(http, upstream)

    assert first["candidates"][0]["content"]["parts"] == [{"text": "Here it is."}]
    assert (second["error"]["code"], status, body["error"]["status"]) == (500, 500, "INTERNAL")
    assert charged(upstream) == [(What.FAILURE, Decimal(0))] * 2


async def test_a_picture_may_be_no_base64_or_no_picture(http, upstream):
    pictures = []
    for kind in (FaultKind.GARBAGE_BASE64, FaultKind.WRONG_MAGIC):
        upstream.dial.set(Fault(kind=kind))
        _, body = await generate(http, upstream)
        pictures.append(body["candidates"][0]["content"]["parts"][1]["inlineData"]["data"])

    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(pictures[0], validate=True)
    assert base64.b64decode(pictures[1], validate=True).startswith(b"This is not a picture")


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        (FLASH, {}, "contents"),
        (FLASH, {"contents": [{"role": "system", "parts": [{"text": "a"}]}]}, "contents[0].role"),
        (FLASH, {"contents": [{"parts": []}]}, "contents[0].parts"),
        (FLASH, ask(""), "contents"),
        (FLASH, ask("a", {}), "contents[0].parts[1]"),
        (FLASH, ask("a", {"text": 7}), "contents[0].parts[1].text"),
        (FLASH, ask("a", {"inlineData": carry() | {"data": "?"}}), "contents[0].parts[1].inlineData.data"),
        (FLASH, ask("a", {"inlineData": carry() | {"data": "YWJj"}}), "contents[0].parts[1].inlineData.data"),
        (FLASH, ask("a", {"inlineData": carry() | {"mimeType": "text/plain"}}), "inlineData.mimeType"),
        (FLASH, ask("a", *[{"inlineData": carry()}] * 15), "14 images"),
        (FLASH, ask(candidateCount=2), "generationConfig.candidateCount"),
        (FLASH, ask(seed="1"), "generationConfig.seed"),
        (FLASH, ask(responseModalities=["TEXT"]), "generationConfig.responseModalities"),
        (FLASH, ask(imageConfig={"imageSize": "1K"}), "imageConfig.imageSize"),
        (FLASH, ask(imageConfig={"aspectRatio": "1:8"}), "imageConfig.aspectRatio"),
        (PRO, ask(imageConfig={"imageSize": "2k"}), "imageConfig.imageSize"),
        (PRO, ask(imageConfig={"imageSize": ["2K"]}), "imageConfig.imageSize"),
        (PRO, ask(imageConfig={"imageSize": "512"}), "imageConfig.imageSize"),
        (PRO, ask(imageConfig={"personGeneration": "allow_all"}), "imageConfig.personGeneration"),
    ],
)
async def test_a_field_out_of_range_is_a_400_that_names_it(http, upstream, model, body, field):
    status, answer = await generate(http, upstream, body, model)

    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert field in answer["error"]["message"]
    assert upstream.bill.submitted == 0


async def test_the_key_stands_in_the_header_or_the_query_and_is_not_logged():
    options = Options(time_scale=0.001, api_key="k-right")
    async with start("gemini", options=options) as upstream, aiohttp.ClientSession() as http:
        missing, _ = await generate(http, upstream)
        wrong, body = await generate(http, upstream, key="k-wrong")
        right, _ = await generate(http, upstream, call="v1", key="k-right")
        url = f"{upstream.base_url}/v1beta/models"
        async with http.get(url, headers={"x-goog-api-key": "k-right"}) as answer:
            listed = await answer.json()
        kept = json.dumps(upstream.requests.as_json())

    assert (missing, wrong, right) == (403, 400, 200)
    assert body["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert {"gemini-3-pro-image", FLASH} <= {row["name"].removeprefix("models/") for row in listed["models"]}
    assert "k-right" not in kept
    assert "k-wrong" not in kept


async def test_the_models_are_shown_in_pages_or_one_by_one_at_no_cost(http):
    async with start("gemini", options=Options(models=("a", "b", "c"))) as upstream:
        names, token = [], "0"
        while token is not None:
            url = f"{upstream.base_url}/v1/models?pageSize=2&pageToken={token}"
            async with http.get(url) as answer:
                page = await answer.json()
            names += [row["name"] for row in page["models"]]
            token = page.get("nextPageToken")
        async with http.get(f"{upstream.base_url}/v1/models/b") as answer:
            shown = await answer.json()
        async with http.get(f"{upstream.base_url}/v1/models/{FLASH}") as answer:
            assert answer.status == 404

    assert names == ["models/a", "models/b", "models/c"]
    assert (shown["name"], "generateContent" in shown["supportedGenerationMethods"]) == ("models/b", True)
    assert upstream.bill.submitted == 0


async def test_an_unknown_model_method_or_path_is_a_404_and_broken_json_a_400(http, upstream):
    statuses = []
    for path in (
        f"v1beta/models/{PRO}-preview:generateContent",
        f"v1beta/models/{FLASH}:predict",
        f"v2/models/{FLASH}",
    ):
        async with http.post(f"{upstream.base_url}/{path}", json=ask()) as answer:
            statuses.append((answer.status, (await answer.json())["error"]["status"]))
    async with http.post(f"{upstream.base_url}/v1/models/{FLASH}:generateContent", data=b"{") as answer:
        statuses.append((answer.status, (await answer.json())["error"]["status"]))

    assert statuses == [(404, "NOT_FOUND")] * 3 + [(400, "INVALID_ARGUMENT")]
