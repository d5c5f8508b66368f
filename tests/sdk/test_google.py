"""The simulators of Gemini and Veo, driven by the `google-genai` SDK of majors 2 and 3 (ordering a film is for 2 alone,
see `google2`; SDK 3 still polls and downloads).
"""

import base64
import json
import struct
import urllib.request

import pytest
from google import genai
from google.genai import errors, types

from tests.waiting import poll_until_sync

FLASH, PRO, VEO = "gemini-2.5-flash-image", "gemini-3-pro-image", "veo-3.1-generate-001"
# Its base64 is full of the two letters in which the alphabets differ.
JPEG = b"\xff\xd8\xff" + b"\xfb\xef\xbe\xff" * 6
PICTURE = types.Part.from_bytes(data=JPEG, mime_type="image/jpeg")


def connect(upstream, **options) -> genai.Client:
    return genai.Client(api_key="k-test", http_options=types.HttpOptions(base_url=upstream.base_url, **options))


@pytest.fixture
def upstream(simulate):
    return simulate("gemini")


@pytest.fixture
def sdk(upstream):
    with connect(upstream) as client:
        yield client


def read_size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_a_picture_is_made_of_a_text_and_a_picture_in_the_shape_asked_for(sdk, upstream):
    reply = sdk.models.generate_content(
        model=PRO,
        contents=["put a hat on it", PICTURE, PICTURE],
        config=types.GenerateContentConfig(
            response_modalities=["TEXT", "IMAGE"],
            candidate_count=1,
            seed=1,
            image_config=types.ImageConfig(aspect_ratio="16:9", image_size="1K"),
            safety_settings=[
                types.SafetySetting(category="HARM_CATEGORY_DANGEROUS_CONTENT", threshold="BLOCK_ONLY_HIGH")
            ],
        ),
    )

    [candidate] = reply.candidates
    assert candidate.finish_reason is types.FinishReason.STOP
    text, draft, picture = candidate.content.parts
    assert (bool(text.text), draft.thought, picture.thought) == (True, True, None)
    assert (picture.inline_data.mime_type, read_size(picture.inline_data.data)) == ("image/png", (1360, 768))
    usage = reply.usage_metadata
    assert (usage.candidates_token_count, reply.model_version) == (1120, PRO)
    assert usage.total_token_count == usage.prompt_token_count + 1120
    [job] = upstream.bill()["jobs"]
    assert (job["what"], job["prompt"]) == ("success", "put a hat on it")
    assert float(job["amount_usd"]) == pytest.approx((usage.prompt_token_count * 2 + 1120 * 120) / 1_000_000)
    [seen] = upstream.requests()["requests"]
    sent = seen["body"]["contents"][0]["parts"][1]["inlineData"]["data"]
    assert base64.urlsafe_b64decode(sent) == JPEG
    assert "k-test" not in json.dumps(seen)


def test_a_stream_gives_the_text_and_then_the_picture_with_the_usage(sdk, upstream):
    chunks = list(sdk.models.generate_content_stream(model=FLASH, contents="a cat"))

    first, last = [chunk.candidates[0] for chunk in chunks]
    assert first.content.parts[0].text
    assert read_size(last.content.parts[0].inline_data.data) == (1024, 1024)
    assert (first.finish_reason, last.finish_reason) == (None, types.FinishReason.STOP)
    assert chunks[-1].usage_metadata.candidates_token_count == 1290
    assert upstream.bill()["billed"] == 1


def test_a_blocked_prompt_raises_nothing_and_has_its_reason_in_place_of_candidates(sdk, upstream):
    upstream.set_faults([{"kind": "refusal", "word": "PROHIBITED_CONTENT"}])
    reply = sdk.models.generate_content(model=FLASH, contents="a cat")

    assert reply.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT
    assert (reply.candidates, reply.text, reply.usage_metadata.prompt_token_count) == (None, None, 2)
    assert [job["what"] for job in upstream.bill()["jobs"]] == ["refusal"]


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        ({"kind": "content_moderated"}, types.FinishReason.IMAGE_SAFETY, None),
        ({"kind": "content_moderated", "word": "RECITATION"}, types.FinishReason.RECITATION, None),
        ({"kind": "job_error"}, types.FinishReason.NO_IMAGE, None),
        ({"kind": "job_error", "word": "MAX_TOKENS"}, types.FinishReason.MAX_TOKENS, None),
        ({"kind": "text_only", "word": "I would rather not."}, types.FinishReason.STOP, "I would rather not."),
        ({"kind": "text_only", "word": ""}, types.FinishReason.STOP, None),
    ],
)
def test_an_answer_without_a_picture_raises_nothing_and_says_why_it_ended(sdk, upstream, row, reason, text):
    upstream.set_faults([row])
    [whole] = sdk.models.generate_content(model=FLASH, contents="a cat").candidates
    [streamed] = [chunk.candidates[0] for chunk in sdk.models.generate_content_stream(model=FLASH, contents="a cat")]

    for candidate in (whole, streamed):
        parts = candidate.content.parts if candidate.content else None
        assert (candidate.finish_reason, [part.text for part in parts or []]) == (reason, [text] if text else [])
    assert upstream.bill()["submitted"] == 2


def test_an_answer_may_have_neither_candidates_nor_feedback(sdk, upstream):
    upstream.set_faults([{"kind": "empty_data"}])
    reply = sdk.models.generate_content(model=FLASH, contents="a cat")

    assert (reply.candidates, reply.prompt_feedback) == (None, None)


@pytest.mark.parametrize(
    ("row", "exception", "code", "status"),
    [
        ({"kind": "throttled", "retry_after_s": 34}, errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
        ({"kind": "quota", "word": "FAILED_PRECONDITION"}, errors.ClientError, 400, "FAILED_PRECONDITION"),
        ({"kind": "invalid_key"}, errors.ClientError, 400, "INVALID_ARGUMENT"),
        ({"kind": "model_not_found"}, errors.ClientError, 404, "NOT_FOUND"),
        ({"kind": "server_error"}, errors.ServerError, 500, "INTERNAL"),
        ({"kind": "overloaded"}, errors.ServerError, 503, "UNAVAILABLE"),
        ({"kind": "gateway_timeout"}, errors.ServerError, 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_error_is_the_sdks_exception_with_code_and_status(sdk, upstream, *, row, exception, code, status):
    upstream.set_faults([row])
    for generate in (sdk.models.generate_content, sdk.models.generate_content_stream):
        with pytest.raises(exception) as caught:
            list(generate(model=FLASH, contents="a cat"))
        assert (caught.value.code, caught.value.status) == (code, status)

    assert upstream.requests()["total"] == 2
    assert upstream.bill()["submitted"] == (2 if code == 504 else 0)


def test_the_details_of_an_error_reach_the_caller(sdk, upstream):
    upstream.set_faults([{"kind": "quota"}])
    with pytest.raises(errors.ClientError) as caught:
        sdk.models.generate_content(model=FLASH, contents="a cat")

    details = {row["@type"].rpartition(".")[2]: row for row in caught.value.details["error"]["details"]}
    assert details["QuotaFailure"]["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel"
    assert details["RetryInfo"]["retryDelay"]


def test_an_error_in_the_middle_of_a_stream_is_the_sdks_exception(sdk, upstream):
    upstream.set_faults([{"kind": "stream_error"}])
    seen = []
    with pytest.raises(errors.ServerError) as caught:
        seen.extend(sdk.models.generate_content_stream(model=FLASH, contents="a cat"))

    assert (caught.value.code, upstream.bill()["billed"]) == (500, 0)


def test_a_wrong_field_is_the_sdks_client_error_that_names_it(sdk, upstream):
    config = types.GenerateContentConfig(image_config=types.ImageConfig(image_size="2K"))
    with pytest.raises(errors.ClientError, match=r"imageConfig\.imageSize") as caught:
        sdk.models.generate_content(model=FLASH, contents="a cat", config=config)

    assert (caught.value.code, upstream.bill()["submitted"]) == (400, 0)


def test_the_models_are_listed_and_shown(sdk, upstream):
    names = [model.name for model in sdk.models.list()]

    assert f"models/{FLASH}" in names
    assert sdk.models.get(model=PRO).name == f"models/{PRO}"
    assert upstream.bill()["submitted"] == 0


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_both_versions_of_the_api_are_served(upstream, version):
    with connect(upstream, api_version=version) as client:
        reply = client.models.generate_content(model=FLASH, contents="a cat")

    assert read_size(reply.candidates[0].content.parts[-1].inline_data.data) == (1024, 1024)
    assert upstream.requests()["requests"][0]["path"] == f"/{version}/models/{FLASH}:generateContent"


def test_a_finished_film_is_polled_and_downloaded(simulate):
    upstream = simulate("veo")
    order = urllib.request.Request(  # noqa: S310 - the address is ours
        f"{upstream.base_url}/v1beta/models/{VEO}:predictLongRunning",
        data=json.dumps({"instances": [{"prompt": "a cat"}], "parameters": {"durationSeconds": 4}}).encode(),
        headers={"x-goog-api-key": "k-test", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(order, timeout=30) as answer:  # noqa: S310 - as above
        name = json.load(answer)["name"]
    with connect(upstream) as client:
        accepted = types.GenerateVideosOperation(name=name)
        poll_until_sync(lambda: client.operations.get(accepted).done, "the operation to be done")
        operation = client.operations.get(accepted)
        [made] = operation.response.generated_videos
        film = client.files.download(file=made.video)

    assert film[4:8] == b"ftyp"
