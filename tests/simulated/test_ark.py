"""The simulator of Ark selling Seedream's pictures, and its errors: bodies as the provider file prints them, every code
of its table, streams, and what is charged.
"""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from PIL import Image

from providers.simulated import Fault, FaultKind, Running, Step, What, start
from providers.simulated.ark import ArkOptions
from providers.simulated.ark_errors import CODES, RESET, TRIAL
from tests.waiting import poll_until

IMAGES = "/api/v3/images/generations"
TASKS = "/api/v3/contents/generations/tasks"
SEEDREAM = "doubao-seedream-4-0-250828"
CAT = {"model": SEEDREAM, "prompt": "cat", "size": "128x96"}
BATCH = CAT | {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 3}}
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()

# What the file prints, of section 2 and of section 4, and the body of its SDK with every option unset.
PRINTED = {
    "model": "doubao-seedream-4-0-250828",
    "created": 1795000000,
    "data": [
        {"url": "https://ark-content-generation-v2-cn-beijing.tos-cn-beijing.volces.com/x.jpeg", "size": "2048x2048"},
        {"error": {"code": "OutputImageSensitiveContentDetected", "message": "..."}},
    ],
    "usage": {"generated_images": 1, "output_tokens": 16384, "total_tokens": 16384},
}
ERROR = {
    "error": {"code": "InvalidParameter", "message": "... Request id: 021..", "param": "size", "type": "BadRequest"}
}
NULLS = dict.fromkeys(
    (
        *("image", "seed", "guidance_scale", "optimize_prompt", "optimize_prompt_options", "tools", "output_format"),
        *("sequential_image_generation", "sequential_image_generation_options", "layer_decomposition", "stream"),
        *("response_format", "watermark", "size"),
    )
)


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with (
        start("ark", options=ArkOptions(**{"time_scale": 0.001} | options)) as running,
        aiohttp.ClientSession(running.origin, headers={"Authorization": "Bearer ark-x"}) as session,
    ):
        yield running, session


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    async with simulate() as made:
        yield made


async def ask(session: aiohttp.ClientSession, body: object, path: str = IMAGES) -> tuple[int, Any]:
    async with session.post(path, json=body) as answer:
        return answer.status, await answer.json()


async def listen(session: aiohttp.ClientSession, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The events of a stream: name and data; `[DONE]` has no name."""
    async with session.post(IMAGES, json=body | {"stream": True}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        blocks = (await answer.text()).split("\n\n")[:-1]
    events: list[tuple[str, Any]] = []
    for block in blocks:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = lines["data"]
        events.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events


def shape(value: object) -> object:
    """The names and types of a body, in their order: texts and numbers may differ, nothing else."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def charges(running: Running) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in running.bill.entries]


# --- pictures


async def test_a_picture_is_a_link_with_its_size_that_needs_no_key(upstream):
    running, session = upstream
    status, body = await ask(session, CAT | {"response_format": "url"})

    assert (status, shape(body["data"])) == (200, shape(PRINTED["data"][:1]))
    assert body["data"][0]["size"] == "128x96"
    assert body["usage"] == {"generated_images": 1, "output_tokens": 48, "total_tokens": 48}
    async with aiohttp.ClientSession() as anybody, anybody.get(body["data"][0]["url"]) as answer:
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(await answer.read())).size == (128, 96)
    assert charges(running) == [(What.SUCCESS, Decimal("0.03"))]


async def test_the_nulls_of_the_sdk_are_as_good_as_absent_and_two_k_is_the_printed_size(upstream):
    _, session = upstream
    for body in (NULLS, NULLS | {"size": "2K"}):
        status, answered = await ask(session, body | {"model": SEEDREAM, "prompt": "cat"})
        assert (status, answered["data"][0]["size"]) == (200, "2048x2048")
        assert answered["usage"] == PRINTED["usage"]


async def test_base64_is_a_file_of_the_asked_format(upstream):
    _, session = upstream
    asked = CAT | {"response_format": "b64_json"}
    for model, file_format in ((SEEDREAM, "jpeg"), ("doubao-seedream-5-0-260128", "png")):
        _, body = await ask(session, asked | {"model": model, "output_format": file_format})
        picture = Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"])))
        assert (picture.format, picture.size) == (file_format.upper(), (128, 96))


async def test_pictures_go_in_as_links_or_as_data_and_the_model_decides_how_many_come_out():
    async with simulate(sequence_shortfall=1) as (running, session):
        for image in (PIXEL, ["https://pictures.example/a.png", PIXEL]):
            status, body = await ask(session, BATCH | {"image": image})
            assert (status, len(body["data"])) == (200, 2)
        assert (await ask(session, CAT | {"n": 4}))[1]["usage"]["generated_images"] == 1
        assert [amount for _, amount in charges(running)] == [Decimal("0.06"), Decimal("0.06"), Decimal("0.03")]


@pytest.mark.parametrize("word", [None, "OutputImageRiskDetection", "InternalServiceError"])
async def test_a_picture_of_a_batch_fails_alone_and_is_not_paid_for(upstream, word):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.CONTENT_MODERATED, at=Step.SUBMIT, word=word))
    status, body = await ask(session, BATCH | {"size": "256x256"})

    assert status == 200
    assert shape(body) == shape(PRINTED | {"data": [PRINTED["data"][0], *PRINTED["data"]]})
    assert body["data"][2]["error"]["code"] == (word or "OutputImageSensitiveContentDetected")
    assert body["usage"]["generated_images"] == 2
    assert charges(running) == [(What.SUCCESS, Decimal("0.06"))]


async def test_a_batch_of_nothing_but_errors_is_free(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.CONTENT_MODERATED))
    status, body = await ask(session, CAT)
    assert (status, list(body["data"][0]), body["usage"]["generated_images"]) == (200, ["error"], 0)
    assert charges(running) == [(What.REFUSAL, Decimal(0))]


async def test_a_link_lives_for_a_day():
    clock = [1_795_000_000_000]
    async with simulate(time_scale=1, latency_s=0, now_ms=lambda: clock[0]) as (_, session):
        _, body = await ask(session, CAT)
        assert body["created"] == PRINTED["created"]
        for passed_s, status in ((24 * 3600 - 1, 200), (2, 403)):
            clock[0] += passed_s * 1000
            async with session.get(body["data"][0]["url"]) as answer:
                assert answer.status == status


RECORDED = yaml.safe_load((Path(__file__).parents[1] / "providers" / "recorded" / "ark.yaml").read_text())["requests"]


@pytest.mark.parametrize("name", RECORDED)
async def test_every_request_that_the_sdk_was_seen_to_send_is_taken(upstream, name):
    _, session = upstream
    sent = RECORDED[name]
    asked = session.request(
        sent["method"], sent["path"], params=sent.get("query"), headers=sent["headers"], json=sent.get("json")
    )
    async with asked as answer:
        # A task that nobody created is the only thing that may be amiss.
        assert answer.status == (404 if sent["path"].startswith(f"{TASKS}/") else 200), await answer.text()


# --- streams


async def test_a_stream_gives_each_picture_then_the_usage_then_done(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.CONTENT_MODERATED))
    events = await listen(session, BATCH)

    names = ["image_generation." + word for word in ("partial_succeeded", "partial_succeeded", "partial_failed")]
    assert [name for name, _ in events] == [*names, "image_generation.completed", ""]
    assert [data["type"] for _, data in events[:-1]] == [name for name, _ in events[:-1]]
    assert [data["image_index"] for _, data in events[:3]] == [0, 1, 2]
    assert [list(data)[-2:] for _, data in events[:3]] == [["url", "size"]] * 2 + [["image_index", "error"]]
    assert events[3][1]["usage"] == {"generated_images": 2, "output_tokens": 96, "total_tokens": 96}
    assert events[4][1] == "[DONE]"
    assert charges(running) == [(What.SUCCESS, Decimal("0.06"))]


async def test_a_stream_carries_base64_if_it_was_asked_for(upstream):
    _, session = upstream
    _, first = (await listen(session, CAT | {"response_format": "b64_json"}))[0]
    assert Image.open(io.BytesIO(base64.b64decode(first["b64_json"]))).size == (128, 96)


@pytest.mark.parametrize(
    ("kind", "last", "amount"),
    [
        (FaultKind.STREAM_ERROR, "error", "0.03"),
        (FaultKind.UNFINISHED, "image_generation.partial_succeeded", "0.09"),
        (FaultKind.EMPTY_DATA, "", "0.09"),
    ],
)
async def test_a_stream_breaks_as_the_dial_says(upstream, kind, last, amount):
    running, session = upstream
    running.dial.set(Fault(kind=kind, at=Step.SUBMIT))
    events = await listen(session, BATCH)
    assert events[-1][0] == last
    assert ("image_generation.completed" in [name for name, _ in events]) == (kind is FaultKind.EMPTY_DATA)
    await poll_until(lambda: charges(running)[0][0] is not What.ACCEPTED, "the work to end")
    assert charges(running)[0][1] == Decimal(amount)


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.TRUNCATED])
async def test_a_stream_that_is_cut_is_a_broken_connection(upstream, kind):
    running, session = upstream
    running.dial.set(Fault(kind=kind, at=Step.SUBMIT))
    with pytest.raises(aiohttp.ClientError):
        await listen(session, CAT)
    await poll_until(lambda: charges(running)[0][0] is not What.ACCEPTED, "the work to end")
    assert charges(running)[0][1] == Decimal("0.03")


async def test_a_refused_stream_is_a_plain_error(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.REFUSAL))
    status, refused = await ask(session, CAT | {"stream": True})
    assert (status, refused["error"]["code"]) == (400, "OutputImageSensitiveContentDetected")
    assert charges(running) == [(What.REFUSAL, Decimal(0))]


# --- errors


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "MissingParameter", "model"),
        ({"prompt": ""}, "MissingParameter", "prompt"),
        ({"model": "doubao-seedance-1-0-pro-250528"}, "InvalidParameter", "model"),
        ({"size": "8K"}, "InvalidParameter", "size"),
        ({"size": "99999x99999"}, "InvalidParameter", "size"),
        ({"size": "adaptive"}, "InvalidParameter", "size"),
        ({"output_format": "png"}, "InvalidParameter", "output_format"),
        ({"response_format": "bytes"}, "InvalidParameter", "response_format"),
        ({"seed": "7"}, "InvalidParameter", "seed"),
        ({"watermark": "no"}, "InvalidParameter", "watermark"),
        ({"sequential_image_generation": "on"}, "InvalidParameter", "sequential_image_generation"),
        ({"optimize_prompt_options": {"mode": "slow"}}, "InvalidParameter", "mode"),
        ({"image": [PIXEL] * 15}, "InvalidParameter", "image"),
        ({"image": "file:///a.png"}, "InvalidImageURL.InvalidFormat", "image"),
        ({"image": "data:image/png;base64,!"}, "InvalidImageURL.InvalidFormat", "image"),
        ({"image": [""]}, "InvalidImageURL.EmptyURL", "image"),
    ],
)
async def test_a_field_that_breaks_a_rule_is_named(upstream, change, code, param):
    running, session = upstream
    status, refused = await ask(session, CAT | change)
    assert (status, shape(refused)) == (400, shape(ERROR))
    assert (refused["error"]["code"], refused["error"]["param"], refused["error"]["type"]) == (
        code,
        param,
        "BadRequest",
    )
    assert running.bill.submitted == 0


async def test_more_pictures_than_fifteen_are_refused(upstream):
    _, session = upstream
    asked = BATCH | {"sequential_image_generation_options": {"max_images": 16}}
    assert (await ask(session, asked))[1]["error"]["param"] == "max_images"


async def test_an_answer_is_named_by_a_header_and_an_error_by_the_same_name_in_its_sentence(upstream):
    _, session = upstream
    async with session.post(IMAGES, json=CAT) as answer:
        named = answer.headers["x-request-id"]
    async with session.post(IMAGES, json={}) as answer:
        told = (await answer.json())["error"]["message"]
        assert told.endswith(f"Request id: {answer.headers['x-request-id']}")
        assert answer.headers["x-request-id"] != named


@pytest.mark.parametrize("key", [None, "Bearer", "Bearer other", "Key ark-x"])
async def test_a_missing_or_wrong_key_is_refused_everywhere(key):
    async with simulate(api_key="ark-x") as (running, _), aiohttp.ClientSession(running.origin) as stranger:
        headers = {} if key is None else {"Authorization": key}
        for method, path in (("POST", IMAGES), ("POST", TASKS), ("GET", TASKS), ("DELETE", f"{TASKS}/cgt-1")):
            async with stranger.request(method, path, headers=headers) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (401, "AuthenticationError")


async def test_a_model_that_is_not_open_here_is_not_found():
    async with simulate(models=("ep-20260101-abc",)) as (_, session):
        status, refused = await ask(session, CAT)
        assert (status, refused["error"]["code"]) == (404, "InvalidEndpointOrModel.NotFound")
        assert (await ask(session, CAT | {"model": "ep-20260101-abc"}))[0] == 200


# Each row of the table in section 4, its three forms of QuotaExceeded and some of the many codes of content policy.
ROWS = [
    *((code, status) for code, (status, _) in CODES.items()),
    ("MissingParameter.size", 400),
    ("InvalidImageURL.EmptyURL", 400),
    ("InvalidArgumentError.UnknownRole", 400),
    ("SensitiveContentDetected", 400),
    ("SensitiveContentDetected.Violence", 400),
    ("InputTextSensitiveContentDetected", 400),
    ("InputImageSensitiveContentDetected.PrivacyInformation", 400),
    ("OutputVideoSensitiveContentDetected.PolicyViolation", 400),
    ("OutputAudioSensitiveContentDetected.DeepFake", 400),
    ("InputTextRiskDetection", 400),
    ("NotFound.File", 404),
]


@pytest.mark.parametrize("path", [IMAGES, TASKS])
@pytest.mark.parametrize(("code", "status"), ROWS)
async def test_every_code_of_the_table_can_be_dialled_with_its_status(upstream, path, code, status):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.OVERLOADED, at=Step.SUBMIT, word=code))
    content = [{"type": "text", "text": "cat"}]
    answered, refused = await ask(session, CAT if path == IMAGES else {"model": "ep-1", "content": content}, path)
    assert (answered, refused["error"]["code"]) == (status, code.partition(":")[0])
    assert shape(refused) == shape(ERROR)
    assert running.bill.submitted == 0


async def test_three_meanings_of_one_code_are_told_apart_by_the_sentence_only(upstream):
    running, session = upstream
    said = {}
    for word in ("QuotaExceeded", TRIAL, RESET):
        running.dial.set(Fault(kind=FaultKind.QUOTA, at=Step.SUBMIT, word=word))
        said[word] = await ask(session, CAT)
    assert {(status, body["error"]["code"]) for status, body in said.values()} == {(429, "QuotaExceeded")}
    for word, sentence in (
        ("QuotaExceeded", "The request has exceeded the quota"),
        (TRIAL, "free trial quota"),
        (RESET, "usage quota. It will reset at"),
    ):
        holds = [other for other, (_, body) in said.items() if sentence in body["error"]["message"]]
        assert holds == [word]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (FaultKind.THROTTLED, 429, "ModelAccountRpmRateLimitExceeded"),
        (FaultKind.OVERLOADED, 429, "ServerOverloaded"),
        (FaultKind.QUOTA, 403, "AccountOverdueError"),
        (FaultKind.INVALID_KEY, 401, "AuthenticationError"),
        (FaultKind.MODEL_NOT_FOUND, 404, "InvalidEndpointOrModel.NotFound"),
        (FaultKind.UNSUPPORTED_PARAMETER, 400, "InvalidParameter"),
        (FaultKind.MODERATION_BLOCKED, 400, "InputTextSensitiveContentDetected"),
        (FaultKind.SERVER_ERROR, 500, "InternalServiceError"),
    ],
)
async def test_a_kind_without_a_word_has_its_usual_code(upstream, kind, status, code):
    running, session = upstream
    running.dial.set(Fault(kind=kind, at=Step.SUBMIT, retry_after_s=3))
    async with session.post(IMAGES, json=CAT) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], answer.headers["Retry-After"]) == (status, code, "3")
    assert error["param"] == ("size" if kind is FaultKind.UNSUPPORTED_PARAMETER else "")


async def test_an_error_after_acceptance_is_charged_all_the_same(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.ERROR_AFTER))
    status, refused = await ask(session, CAT)
    assert (status, refused["error"]["code"]) == (500, "InternalServiceError")
    assert charges(running) == [(What.TIMEOUT, Decimal("0.03"))]


async def test_a_cut_connection_leaves_a_charge(upstream):
    running, session = upstream
    running.dial.set(Fault(kind=FaultKind.DROP, at=Step.SUBMIT))
    with pytest.raises(aiohttp.ClientError):
        await ask(session, CAT)
    await poll_until(lambda: charges(running) == [(What.DISCONNECT, Decimal("0.03"))], "the work to end")


async def test_a_path_that_is_not_there_is_not_found(upstream):
    _, session = upstream
    status, refused = await ask(session, CAT, "/api/v3/images/edits")
    assert (status, refused["error"]["code"]) == (404, "NotFound.API")
