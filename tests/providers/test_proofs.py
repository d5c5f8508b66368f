"""What each adapter can do, seen through a real daemon against its provider's simulator; the matrix's cells.

`test_<column>[slug]` is the cell of that column and provider in docs/providers.md (`tests/providers/matrix.py`).
"""

from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import pytest
from PIL import Image

from providers import load
from providers.simulated import Fault, FaultKind
from providers.simulated.picture import Picture, render
from router.api.uploads import FIELDS
from router.provider import Account, Delta, Done, Job, Kind, Partial, Role, Source
from router.wire import Wire
from tests.providers.proofs import ENDED, key_of, on_trial, provers, setup_of
from tests.waiting import poll_until

END_S = 60


async def no_files(key):
    raise KeyError(key)


async def give_picture(_key):
    return render(Picture("an input", 256, 256))


async def inline(work):
    return work()


def billed(running):
    return [entry for entry in running.bill.entries if entry.amount_usd > 0]


@pytest.mark.parametrize("slug", list(provers("generate")))
async def test_generate(slug, tmp_path):
    """A picture is made, stored and billed once."""
    async with on_trial(slug, tmp_path) as trial:
        task = await trial.submit(Kind.IMAGE_GENERATION)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task
        Image.open(BytesIO(await trial.result(task))).verify()
        assert len(billed(trial.running)) == 1


@pytest.mark.parametrize("slug", list(provers("edit")))
async def test_edit(slug, tmp_path):
    """A picture that the caller sends is worked on."""
    async with on_trial(slug, tmp_path) as trial:
        task = await trial.submit(Kind.IMAGE_EDIT)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task
        Image.open(BytesIO(await trial.result(task))).verify()
        assert len(billed(trial.running)) == 1


@pytest.mark.parametrize("slug", list(provers("video")))
async def test_video(slug, tmp_path):
    """A film of the asked length is made, and what is stored plays."""
    async with on_trial(slug, tmp_path) as trial:
        task = await trial.submit(Kind.VIDEO_GENERATION)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task
        with av.open(BytesIO(await trial.result(task))) as film:
            [stream] = film.streams.video
            seconds = Fraction(film.duration, av.time_base)
            assert sum(1 for _ in film.decode(stream)) > 1
        asked = setup_of(slug)[Kind.VIDEO_GENERATION.value]["input"].get("seconds")
        assert asked is None or abs(seconds - int(asked)) < 1
        assert len(billed(trial.running)) == 1


@pytest.mark.parametrize("slug", list(provers("chat")))
async def test_chat(slug, tmp_path):
    """A chat completion is kept as it is, with its usage."""
    async with on_trial(slug, tmp_path) as trial:
        task = await trial.submit(Kind.CHAT_COMPLETION)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task
        assert task["output"][0]["content_type"] == "application/json"
        assert task["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("slug", list(provers("poll")))
async def test_poll(slug, tmp_path):
    """An accepted job is asked after by its name, and submitted once."""
    kind = Kind(setup_of(slug)["polled"])
    async with on_trial(slug, tmp_path) as trial:
        task = await trial.submit(kind)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task
        [attempt] = task["attempts"]
        assert attempt["remote_id"]
        assert len(trial.running.bill.entries) == 1


@pytest.mark.parametrize("slug", list(provers("cancel")))
async def test_cancel(slug, tmp_path):
    """A cancel is handed on to the job upstream."""
    kind = Kind(setup_of(slug)["polled"])
    slow = Fault(kind=FaultKind.SLOW, seconds=100_000)
    async with on_trial(slug, tmp_path, faults=(slow,), options=setup_of(slug).get("cancellable")) as trial:
        task = await trial.submit(kind)

        async def is_accepted():
            shown = await trial.read(task["id"])
            return any(one["remote_id"] for one in shown["attempts"])

        await poll_until(is_accepted, "the job's name")
        async with trial.client.post(f"/v1/tasks/{task['id']}/cancel") as reply:
            assert (reply.status, (await reply.json())["status"]) == (200, "cancelled")

        async def is_heard():
            shown = await trial.read(task["id"])
            return all(one["ended_at"] for one in shown["attempts"])

        await poll_until(is_heard, "the end of an attempt that by itself would take a quarter of an hour")


@pytest.mark.parametrize("slug", list(provers("webhook")))
async def test_webhook(slug, tmp_path):
    """A signed webhook wakes the poll early."""
    kind = Kind(setup_of(slug)["polled"])
    async with on_trial(slug, tmp_path, account={"webhooks": True}) as trial:
        runtime = trial.daemon.life.runtime
        runtime.public_url, runtime.time_scale = trial.daemon.url, 1000.0  # no poll of its own within the test
        task = await trial.submit(kind)
        task = await trial.read(task["id"], END_S)

        assert task["status"] == "succeeded", task


@pytest.mark.parametrize("slug", list(provers("streaming")))
async def test_streaming(slug, tmp_path):
    """What comes before the end is told as it comes."""
    adapter: Any = load(slug)
    wire = Wire(inline, give_picture)
    kept = Source(Role.IMAGE, key="in/0", content_type="image/png")
    try:
        async with on_trial(slug, tmp_path) as trial:
            for kind in sorted(adapter.facts.streams & {kind for kind in Kind if kind.value in setup_of(slug)}):
                said = setup_of(slug)[kind.value]
                fields = {name: value for name, value in said["input"].items() if name not in FIELDS}
                fields |= {"partial_images": 2} if kind.family == "image" else {}
                files = (kept,) if kind is Kind.IMAGE_EDIT else ()
                job = Job("task_1-0", kind, said["model"], fields, trial.base_url, key_of(slug), 0, files)
                told = [one async for one in adapter.stream(job, lambda request: wire.listen(request, 30, 30))]

                assert isinstance(told[-1], Done), told[-1]
                assert any(isinstance(one, Partial | Delta) for one in told[:-1])
    finally:
        await wire.close()


@pytest.mark.parametrize("slug", list(provers("probe")))
async def test_probe(slug, tmp_path):
    """A free call tells whether the provider is up."""
    adapter: Any = load(slug)
    wire = Wire(inline, no_files)

    async def call(request):
        return await wire(request, 30)

    try:
        async with on_trial(slug, tmp_path) as trial:
            account = Account(trial.base_url, key_of(slug), 0)
            assert await adapter.probe(account, call) is None
            assert trial.running.bill.entries == ()
            nobody = replace(account, base_url="http://127.0.0.1:9")
        assert await adapter.probe(nobody, call) is not None
    finally:
        await wire.close()


@pytest.mark.parametrize("slug", [slug for slug in provers("generate") if "behind" not in setup_of(slug)])
async def test_a_task_that_meets_an_outage_is_tried_again_and_paid_once(slug, tmp_path):
    outage = Fault(kind=FaultKind.OVERLOADED, first=1)
    async with on_trial(slug, tmp_path, faults=(outage,)) as trial:
        task = await trial.submit(Kind.IMAGE_GENERATION)
        task = await trial.read(task["id"], END_S)

        assert task["status"] in ENDED
        assert task["status"] == "succeeded", task
        assert [one["outcome"] for one in task["attempts"]] == ["overloaded", "succeeded"]
        assert len(billed(trial.running)) == 1
