"""The unmodified Ark runtime against the simulator: pictures plain, in base64, in batches and streamed; tasks created,
read, listed, cancelled and deleted; errors. It never sits in a wait loop of an SDK: a test reads a task itself.
"""

import base64

import httpx
import pytest
from volcenginesdkarkruntime import Ark
from volcenginesdkarkruntime._exceptions import (
    ArkAPIConnectionError,
    ArkAPIError,
    ArkAPIStatusError,
    ArkAuthenticationError,
    ArkBadRequestError,
    ArkConflictError,
    ArkInternalServerError,
    ArkNotFoundError,
    ArkPermissionDeniedError,
    ArkRateLimitError,
)

from tests.sdk.ark.recorded import CALLS, FOUR, SEEDANCE, SEEDREAM
from tests.waiting import poll_until_sync

CAT = {"model": SEEDREAM, "prompt": "cat", "size": "128x96"}
RUN = {"model": SEEDANCE, "content": [{"type": "text", "text": "a cat runs --rs 480p --dur 2"}]}


@pytest.fixture
def upstream(simulate):
    return simulate("ark")


@pytest.fixture
def sdk(upstream):
    with Ark(api_key="ark-x", base_url=upstream.base_url, max_retries=0) as client:
        yield client


def finish(sdk, task_id: str):
    """The task once it has ended."""
    ended = ("succeeded", "failed", "cancelled", "expired")
    tasks = sdk.content_generation.tasks
    return poll_until_sync(lambda: (task := tasks.get(task_id=task_id)).status in ended and task, "the task to end")


def charges(upstream) -> list[tuple[str, str]]:
    return [(job["what"], job["amount_usd"]) for job in upstream.bill()["jobs"]]


# --- pictures


def test_a_picture_is_a_link(sdk, upstream):
    answered = sdk.images.generate(**CAT, response_format="url", watermark=False)
    assert (answered.model, answered.data[0].size, answered.error) == (SEEDREAM, "128x96", None)
    assert (answered.usage.generated_images, answered.usage.output_tokens) == (1, 48)
    fetched = httpx.get(answered.data[0].url)
    assert (fetched.headers["content-type"], fetched.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    assert charges(upstream) == [("success", "0.03")]


def test_a_picture_is_base64_and_made_of_pictures(sdk):
    image = ["https://caller.example/a.png", "data:image/png;base64,aW4vMA=="]
    answered = sdk.images.generate(**CAT, image=image, response_format="b64_json")
    assert base64.b64decode(answered.data[0].b64_json)[:3] == b"\xff\xd8\xff"


def test_a_batch_has_pictures_and_an_error_in_the_place_of_one(sdk, upstream):
    upstream.set_faults([{"kind": "content_moderated"}])
    answered = sdk.images.generate(**CAT, **FOUR)
    assert [bool(getattr(item, "url", None)) for item in answered.data] == [True, True, True, False]
    # The SDK's model of a picture has no error; what came is there all the same.
    assert answered.data[3].error["code"] == "OutputImageSensitiveContentDetected"
    assert (answered.usage.generated_images, charges(upstream)) == (3, [("success", "0.09")])


def test_a_stream_gives_picture_by_picture_and_the_usage(sdk):
    events = list(sdk.images.generate(**CAT, **FOUR, stream=True))
    assert [event.type.partition(".")[2] for event in events] == ["partial_succeeded"] * 4 + ["completed"]
    assert [event.image_index for event in events[:4]] == [0, 1, 2, 3]
    assert httpx.get(events[3].url).status_code == 200
    # The SDK takes every event for one of a picture, whose model knows no usage.
    assert events[4].usage["generated_images"] == 4


def test_a_failed_picture_in_a_stream_is_an_exception_of_the_sdk(sdk, upstream):
    upstream.set_faults([{"kind": "content_moderated"}])
    stream = iter(sdk.images.generate(**CAT, **FOUR, stream=True))
    assert [next(stream).image_index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArkAPIError) as caught:
        next(stream)
    assert caught.value.code == "OutputImageSensitiveContentDetected"


# --- films


def test_a_task_is_created_read_fetched_and_listed(sdk, upstream):
    tasks = sdk.content_generation.tasks
    created = tasks.create(**RUN, return_last_frame=True)
    task = finish(sdk, created.id)

    assert (task.status, task.error, task.model, task.ratio) == ("succeeded", None, SEEDANCE, "16:9")
    assert (task.resolution, task.duration, task.framespersecond) == ("480p", 2, 24)
    assert task.usage.completion_tokens == task.usage.total_tokens == 864 * 480 * 49 // 1024
    film, last = httpx.get(task.content.video_url, timeout=60), httpx.get(task.content.last_frame_url)
    assert (film.headers["content-type"], film.content[4:8]) == ("video/mp4", b"ftyp")
    assert last.content[1:4] == b"PNG"
    page = tasks.list(page_num=1, page_size=10, status="succeeded", task_ids=[created.id], model=SEEDANCE)
    assert (page.total, [item.id for item in page.items]) == (1, [created.id])
    assert charges(upstream) == [("success", "0.10")]


def test_a_queued_task_is_cancelled_and_its_record_deleted(simulate):
    upstream = simulate("ark", "--time-scale", "1000")
    with Ark(api_key="ark-x", base_url=upstream.base_url, max_retries=0, timeout=600) as sdk:
        tasks = sdk.content_generation.tasks
        # Accepted, and never answered in time: it is found on the list.
        with pytest.raises(ArkAPIConnectionError):
            tasks.create(**RUN, timeout=0.5)
        (task,) = tasks.list().items
        assert task.status == "queued"
        tasks.delete(task_id=task.id)
        assert tasks.get(task_id=task.id).status == "cancelled"
        tasks.delete(task_id=task.id)
        with pytest.raises(ArkNotFoundError) as caught:
            tasks.get(task_id=task.id)
    assert caught.value.code == "NotFound.Task"
    assert charges(upstream) == [("failure", "0")]


def test_a_running_task_cannot_be_deleted(sdk, upstream):
    upstream.set_faults([{"kind": "slow", "seconds": 900_000}])
    tasks = sdk.content_generation.tasks
    created = tasks.create(**RUN)
    poll_until_sync(lambda: tasks.get(task_id=created.id).status == "running", "the task to run")
    with pytest.raises(ArkConflictError) as caught:
        tasks.delete(task_id=created.id)
    assert caught.value.code == "InvalidAction.RunningTaskDeletion"


def test_a_refused_film_says_why_and_is_free(sdk, upstream):
    upstream.set_faults([{"kind": "refusal"}])
    task = finish(sdk, sdk.content_generation.tasks.create(**RUN).id)
    assert (task.status, task.error.code) == ("failed", "OutputVideoSensitiveContentDetected")
    assert (task.content, charges(upstream)) == (None, [("refusal", "0")])


# --- errors


@pytest.mark.parametrize("call", [name for name in CALLS if name.startswith(("image", "film", "tasks"))])
def test_every_recorded_call_is_understood(sdk, call):
    assert CALLS[call](sdk) is not None


@pytest.mark.parametrize(
    ("row", "kind", "code"),
    [
        ({"kind": "unsupported_parameter"}, ArkBadRequestError, "InvalidParameter"),
        ({"kind": "moderation_blocked"}, ArkBadRequestError, "InputTextSensitiveContentDetected"),
        ({"kind": "invalid_key"}, ArkAuthenticationError, "AuthenticationError"),
        ({"kind": "quota"}, ArkPermissionDeniedError, "AccountOverdueError"),
        ({"kind": "model_not_found"}, ArkNotFoundError, "InvalidEndpointOrModel.NotFound"),
        ({"kind": "throttled"}, ArkRateLimitError, "ModelAccountRpmRateLimitExceeded"),
        ({"kind": "quota", "word": "SetLimitExceeded"}, ArkRateLimitError, "SetLimitExceeded"),
        ({"kind": "active_limit"}, ArkRateLimitError, "QuotaExceeded"),
        ({"kind": "server_error"}, ArkInternalServerError, "InternalServiceError"),
    ],
)
def test_an_error_is_the_sdks_own(sdk, upstream, row, kind, code):
    upstream.set_faults([row])
    with pytest.raises(kind) as caught:
        sdk.content_generation.tasks.create(**RUN)
    assert (caught.value.code, caught.value.type) == (code, caught.value.body["type"])
    assert "Request id: " in caught.value.body["message"]
    assert upstream.bill()["submitted"] == 0


@pytest.mark.parametrize(
    ("row", "kind", "submitted"),
    [({"kind": "throttled"}, ArkRateLimitError, 0), ({"kind": "drop"}, ArkAPIConnectionError, 3)],
)
def test_the_sdk_submits_three_times_and_a_cut_connection_is_three_jobs(upstream, row, kind, submitted):
    upstream.set_faults([row])
    with Ark(api_key="ark-x", base_url=upstream.base_url) as sdk, pytest.raises(kind):
        sdk.content_generation.tasks.create(**RUN)
    assert (upstream.requests()["total"], upstream.bill()["submitted"]) == (3, submitted)


def test_a_mistake_is_told_with_its_field(sdk):
    with pytest.raises(ArkAPIStatusError) as caught:
        sdk.images.generate(model=SEEDREAM, prompt="cat", size="8K")
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (400, "InvalidParameter", "size")
