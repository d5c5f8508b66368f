"""Simulated sellers of the OpenAI videos form, driven by the unmodified `openai` SDK and by plain HTTP: the life of a
job, the bytes behind the key, what is refused, what the dial does, what is charged.
"""

import io
from collections.abc import AsyncIterator
from decimal import Decimal

import aiohttp
import av
import openai
import pytest
from PIL import Image

from providers.simulated import Fault, FaultKind, Options, Running, Step, What, start
from tests.waiting import poll_until

SIZE = "1280x720"

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("openai", options=Options(time_scale=0.001)) as running:
        yield running


@pytest.fixture
async def sdk(upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-test"}) as session:
        yield session


def draw_frame(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


async def finish(upstream: Running, job: int = 0) -> None:
    await poll_until(lambda: upstream.bill.entries[job].what is not What.ACCEPTED, "the job to end")


# --- what succeeds


async def test_a_video_is_queued_made_and_fetched_as_an_mp4_of_the_length_and_size_asked_for(sdk, upstream):
    created = await sdk.videos.create(model="sora-2", prompt="a red fox runs", seconds="4", size=SIZE)
    assert created.id.startswith("video_")
    assert created.status in ("queued", "in_progress")
    assert (created.seconds, created.size, created.prompt) == ("4", SIZE, "a red fox runs")
    assert (created.completed_at, created.expires_at, created.error) == (None, None, None)

    await finish(upstream)
    done = await sdk.videos.retrieve(created.id)
    assert (done.status, done.progress) == ("completed", 100)
    assert done.expires_at >= done.completed_at >= done.created_at
    content = await sdk.videos.download_content(created.id)

    assert content.response.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(await content.aread())) as film:
        picture = film.streams.video[0]
        assert (picture.width, picture.height) == (1280, 720)
        assert film.duration / av.time_base == pytest.approx(4, abs=0.3)
    assert [("a red fox runs", What.SUCCESS, Decimal("0.40"))] == [
        (entry.prompt, entry.what, entry.amount_usd) for entry in upstream.bill.entries
    ]


async def test_a_job_at_work_is_in_progress_and_its_progress_never_goes_back(sdk, http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=1000))
    video = (await sdk.videos.create(prompt="slow")).id
    seen: list[tuple[str, int]] = []

    async def look() -> bool:
        async with http.get(f"{upstream.base_url}/videos/{video}") as answer:
            assert int(answer.headers["openai-poll-after-ms"]) == 5
            body = await answer.json()
        seen.append((body["status"], body["progress"]))
        return body["status"] == "completed"

    await poll_until(look, "the video")
    assert [word for word, _ in seen] == sorted(
        (word for word, _ in seen), key=["queued", "in_progress", "completed"].index
    )
    assert "in_progress" in [word for word, _ in seen]
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
    assert seen[-1] == ("completed", 100)


@pytest.mark.parametrize("seconds", [8, "8"])
async def test_json_is_taken_too_and_seconds_as_a_number(http, upstream, seconds):
    body = {"model": "sora-2-pro", "prompt": "p", "seconds": seconds, "size": "1792x1024"}
    async with http.post(f"{upstream.base_url}/videos", json=body) as answer:
        video = await answer.json()

    assert (answer.status, video["seconds"], video["size"]) == (200, "8", "1792x1024")
    assert upstream.bill.total == Decimal("4.00")


async def test_a_first_frame_must_have_the_size_of_the_video(sdk, upstream):
    frame = ("a.png", draw_frame(1280, 720))
    await sdk.videos.create(prompt="p", size=SIZE, input_reference=frame)
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.videos.create(prompt="p", size="720x1280", input_reference=frame)
    with pytest.raises(openai.BadRequestError) as unreadable:
        await sdk.videos.create(prompt="p", input_reference=b"no picture")

    assert caught.value.param == unreadable.value.param == "input_reference"
    assert upstream.bill.submitted == 1


async def test_still_variants_are_pictures(sdk, http, upstream):
    video = (await sdk.videos.create(prompt="p", size=SIZE)).id
    await finish(upstream)
    for variant, kind, content_type in (("thumbnail", "WEBP", "image/webp"), ("spritesheet", "JPEG", "image/jpeg")):
        content = await sdk.videos.download_content(video, variant=variant)
        assert content.response.headers["content-type"] == content_type
        with Image.open(io.BytesIO(await content.aread())) as picture:
            assert (picture.format, picture.size) == (kind, (1280, 720))

    async with http.get(f"{upstream.base_url}/videos/{video}/content", params={"variant": "poster"}) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "variant")


async def test_a_part_of_the_bytes_can_be_asked_for(sdk, http, upstream):
    video = (await sdk.videos.create(prompt="p")).id
    await finish(upstream)
    url = f"{upstream.base_url}/videos/{video}/content"
    async with http.get(url) as answer:
        whole = await answer.read()
        assert answer.headers["Accept-Ranges"] == "bytes"

    size = len(whole)
    for asked, part in (("bytes=0-9", whole[:10]), ("bytes=100-", whole[100:]), ("bytes=-5", whole[-5:])):
        async with http.get(url, headers={"Range": asked}) as answer:
            assert (answer.status, await answer.read()) == (206, part)
            begin = whole.index(part) if asked == "bytes=0-9" else size - len(part)
            assert answer.headers["Content-Range"] == f"bytes {begin}-{begin + len(part) - 1}/{size}"
    async with http.get(url, headers={"Range": f"bytes={size}-"}) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


async def test_videos_are_listed_in_pages_the_newest_first_or_the_oldest(sdk):
    made = [(await sdk.videos.create(prompt=f"p{number}")).id for number in range(3)]

    page = await sdk.videos.list(limit=2)
    assert ([video.id for video in page.data], page.has_more) == ([made[2], made[1]], True)
    assert [video.id async for video in sdk.videos.list(limit=1)] == list(reversed(made))
    assert [video.id async for video in sdk.videos.list(limit=2, order="asc")] == made


async def test_only_a_video_that_has_ended_can_be_deleted_and_then_it_is_gone(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=100_000, first=1))
    running = (await sdk.videos.create(prompt="slow")).id
    ended = (await sdk.videos.create(prompt="quick")).id
    await finish(upstream, 1)
    with pytest.raises(openai.BadRequestError):
        await sdk.videos.delete(running)
    deleted = await sdk.videos.delete(ended)

    assert (deleted.id, deleted.object, deleted.deleted) == (ended, "video.deleted", True)
    for call in (sdk.videos.retrieve, sdk.videos.delete, sdk.videos.download_content):
        with pytest.raises(openai.NotFoundError):
            await call(ended)
    assert [video.id async for video in sdk.videos.list()] == [running]


async def test_a_remix_is_a_new_job_of_the_same_kind_and_costs_as_much(sdk, upstream):
    first = await sdk.videos.create(model="sora-2-pro", prompt="p", seconds="8", size=SIZE)
    with pytest.raises(openai.BadRequestError):
        await sdk.videos.remix(first.id, prompt="too early")
    await finish(upstream)
    remix = await sdk.videos.remix(first.id, prompt="again")

    assert (remix.remixed_from_video_id, remix.prompt, remix.seconds, remix.size) == (first.id, "again", "8", SIZE)
    assert [entry.amount_usd for entry in upstream.bill.entries] == [Decimal("2.40")] * 2


# --- what is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"seconds": "5"}, "seconds"),
        ({"seconds": "long"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"size": "1024x1024"}, "size"),
        ({"size": "1792x1024"}, "size"),
        ({"size": 7}, "size"),
        ({"model": "clip-1", "size": "641x480"}, "size"),
        ({"input_reference": "a.png"}, "input_reference"),
    ],
)
async def test_a_field_out_of_range_is_a_400_that_names_it_and_costs_nothing(http, upstream, fields, param):
    body = {"model": "sora-2", "prompt": "p"} | fields
    async with http.post(f"{upstream.base_url}/videos", json=body) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)
    assert upstream.bill.submitted == 0


async def test_a_key_is_asked_for_everywhere_also_for_the_bytes(sdk, upstream):
    video = (await sdk.videos.create(prompt="p")).id
    await finish(upstream)
    async with aiohttp.ClientSession() as nobody:
        for method, path in (
            ("POST", ""),
            ("GET", ""),
            ("GET", f"/{video}"),
            ("DELETE", f"/{video}"),
            ("GET", f"/{video}/content"),
            ("POST", f"/{video}/remix"),
        ):
            async with nobody.request(method, f"{upstream.base_url}/videos{path}") as answer:
                assert answer.status == 401


async def test_bytes_that_are_not_there_yet_or_no_more_are_a_404(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=100_000))
    running = (await sdk.videos.create(prompt="slow")).id
    with pytest.raises(openai.NotFoundError):
        await sdk.videos.download_content(running)

    now_ms = [1_795_000_000_000]
    options = Options(time_scale=0.001, now_ms=lambda: now_ms[0])
    async with (
        start("openai", options=options) as other,
        openai.AsyncOpenAI(api_key="k", base_url=other.base_url, max_retries=0) as client,
    ):
        video = (await client.videos.create(prompt="p")).id
        await finish(other)
        await client.videos.download_content(video)
        now_ms[0] += 3601
        with pytest.raises(openai.NotFoundError):
            await client.videos.download_content(video)
        assert (await client.videos.retrieve(video)).status == "completed"


# --- what the dial does


@pytest.mark.parametrize(
    ("kind", "what", "code"),
    [
        (FaultKind.REFUSAL, What.REFUSAL, "moderation_blocked"),
        (FaultKind.JOB_ERROR, What.FAILURE, "internal_error"),
    ],
)
async def test_a_job_that_fails_says_why_and_costs_nothing(sdk, upstream, kind, what, code):
    upstream.dial.set(Fault(kind=kind))
    video = (await sdk.videos.create(prompt="p")).id
    await finish(upstream)
    failed = await sdk.videos.retrieve(video)

    assert (failed.status, failed.error.code, failed.completed_at) == ("failed", code, None)
    assert [(what, Decimal(0))] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]
    with pytest.raises(openai.NotFoundError):
        await sdk.videos.download_content(video)


async def test_a_create_turned_away_is_free_and_the_next_one_is_charged_once(sdk, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.SERVER_ERROR, first=1),
        Fault(kind=FaultKind.MODERATION_BLOCKED, prompt="forbidden"),
    )
    with pytest.raises(openai.InternalServerError):
        await sdk.videos.create(prompt="p")
    await sdk.videos.create(prompt="p")
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.videos.create(prompt="forbidden")

    assert refused.value.code == "moderation_blocked"
    assert (upstream.bill.submitted, upstream.bill.total) == (1, Decimal("0.40"))


async def test_a_create_whose_answer_is_lost_is_found_in_the_list(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.DROP, first=1))
    with pytest.raises(openai.APIConnectionError):
        await sdk.videos.create(prompt="lost and found")

    assert [video.prompt async for video in sdk.videos.list(limit=20)] == ["lost and found"]


async def test_a_poll_has_faults_of_its_own_and_the_job_goes_on(sdk, upstream):
    upstream.dial.set(
        Fault(kind=FaultKind.OVERLOADED, at=Step.POLL, first=1),
        Fault(kind=FaultKind.TASK_NOT_FOUND, at=Step.POLL, first=2),
    )
    video = (await sdk.videos.create(prompt="p")).id
    with pytest.raises(openai.InternalServerError):
        await sdk.videos.retrieve(video)
    with pytest.raises(openai.NotFoundError):
        await sdk.videos.retrieve(video)
    await finish(upstream)

    assert (await sdk.videos.retrieve(video)).status == "completed"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.EXPIRED, 404),
        (FaultKind.OVERLOADED, 503),
        (FaultKind.SERVER_ERROR, 500),
        (FaultKind.WRONG_MAGIC, 200),
        (FaultKind.HTML, 200),
    ],
)
async def test_the_bytes_have_faults_of_their_own(sdk, http, upstream, kind, status):
    upstream.dial.set(Fault(kind=kind, at=Step.RESULT, first=1))
    video = (await sdk.videos.create(prompt="p")).id
    await finish(upstream)
    url = f"{upstream.base_url}/videos/{video}/content"
    async with http.get(url) as bad, http.get(url) as good:
        assert status == bad.status
        assert (await bad.read())[4:8] != b"ftyp"
        assert (await good.read())[4:8] == b"ftyp"


async def test_the_bytes_may_be_behind_a_redirect_that_needs_no_key(sdk, http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.REDIRECTED))
    video = (await sdk.videos.create(prompt="p")).id
    await finish(upstream)
    async with http.get(f"{upstream.base_url}/videos/{video}/content", allow_redirects=False) as answer:
        assert answer.status == 302
        link = answer.headers["Location"]
    async with aiohttp.ClientSession() as anybody, anybody.get(link) as answer:
        assert (answer.status, answer.content_type) == (200, "video/mp4")
        direct = await answer.read()

    assert await (await sdk.videos.download_content(video)).aread() == direct
