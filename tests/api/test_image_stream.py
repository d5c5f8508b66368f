"""`stream: true` of images: previews while they are made, comments where there are none, then the pictures."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from router.api.image_stream import Pace
from router.flow.previews import Channel, Preview
from router.outcome import Fail, FailureKind
from router.persistence import Search
from router.provider import Done, Kind, Media, Partial, Usage
from tests.api.house import FACTS, PNG, Desk, failing, open_house, ruleset
from tests.api.test_input_files import URI
from tests.waiting import poll_until

ROUTE = "/v1/images/generations"
CAT = {"model": "cat", "prompt": "a cat", "stream": True}
KINDS = frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT})
PICTURE = base64.b64encode(PNG).decode()
EVER = Pace(silent_s=60.0)


@dataclass(slots=True)
class Easel(Desk):
    """A provider that shows its pictures being made: it gives what the test puts into `words`."""

    words: asyncio.Queue = field(default_factory=lambda: asyncio.Queue(100))
    streamed: list = field(default_factory=list)

    async def stream(self, job, listen):
        self.streamed.append(job)
        while True:
            word = await self.words.get()
            yield word
            if isinstance(word, Done | Fail):
                return

    def say(self, *words):
        """Let the upstream say these."""
        for word in words:
            self.words.put_nowait(word)


def done(n=1):
    return Done(tuple(Media(b64=PICTURE) for _ in range(n)), Usage(input_tokens=10, output_tokens=300))


def rules_of(**abilities):
    """The rules of a house whose first provider streams and whose second does not."""
    rules = ruleset()
    model, every = rules.models["cat"], FACTS.abilities["*"]
    able = replace(every, **{"kinds": KINDS, "fields": every.fields | {"partial_images"}, "max_images": 2, **abilities})
    targets = tuple(replace(one, abilities=able) for one in model.otherwise.targets)
    one = replace(rules.providers["one"], adapter=replace(FACTS, streams=KINDS))
    return replace(
        rules,
        providers={**rules.providers, "one": one},
        models={"cat": replace(model, otherwise=replace(model.otherwise, targets=targets))},
    )


@asynccontextmanager
async def open_studio(pace=EVER, **abilities):
    async with open_house(rules_of(**abilities), desk=Easel(), pace=pace) as house:
        yield house


async def events_of(reply):
    """The events of a stream as they come, comments as None."""
    async for block in blocks_of(reply):
        if block.startswith(":"):
            yield None
            continue
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body.get('type', 'error')}"
        yield body


async def blocks_of(reply):
    held = ""
    async for piece in reply.content.iter_any():
        held += piece.decode()
        while "\n\n" in held:
            block, _, held = held.partition("\n\n")
            yield block


async def task_of(house):
    [view] = await house.store.search("default", Search())
    return view


async def test_previews_come_while_the_picture_is_made_and_the_picture_comes_last():
    async with open_studio() as house:
        house.desk.say(Partial(0, Media(b64="Zmlyc3Q=")))
        reply = await house.client.post(
            ROUTE, json={**CAT, "size": "1024x1024", "quality": "high", "partial_images": 2}
        )
        events = events_of(reply)
        first = await anext(events)
        house.desk.say(Partial(0, Media(b64="c2Vjb25k")))
        second = await anext(events)
        house.desk.say(done())
        rest = [event async for event in events]

        assert (reply.status, reply.content_type) == (200, "text/event-stream")
        view = await task_of(house)
        assert reply.headers["X-Task-Id"] == view.task.id
        about = {"size": "1024x1024", "quality": "high", "background": "auto", "output_format": "png"}
        partial = {"type": "image_generation.partial_image", "created_at": first["created_at"], **about}
        assert first == {**partial, "partial_image_index": 0, "b64_json": "Zmlyc3Q="}
        assert second == {**first, "partial_image_index": 1, "b64_json": "c2Vjb25k", "created_at": second["created_at"]}
        assert rest == [
            {
                "type": "image_generation.completed",
                "b64_json": PICTURE,
                "created_at": view.task.completed_at // 1000,
                **about,
                "size": "1x1",
                "usage": {
                    "input_tokens": 10,
                    "output_tokens": 300,
                    "total_tokens": 310,
                    "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
                },
            }
        ]
        assert view.task.state.value == "succeeded"
        assert [one.billing.value for one in view.attempts] == ["billed"]


async def test_the_upstream_is_asked_for_previews_and_not_told_who_streams():
    async with open_studio() as house:
        house.desk.say(done())
        reply = await house.client.post(ROUTE, json={**CAT, "partial_images": 2})
        await reply.read()

        assert [job.input for job in house.desk.streamed] == [{"prompt": "a cat", "partial_images": 2}]
        assert house.desk.jobs == []
        assert (await task_of(house)).task.warnings == ()


async def test_a_caller_who_does_not_ask_for_a_stream_gets_none():
    async with open_studio() as house:
        reply = await house.client.post(ROUTE, json={**CAT, "stream": False})

        assert (reply.status, reply.content_type) == (200, "application/json")
        assert (len(house.desk.jobs), house.desk.streamed) == (1, [])


async def test_a_target_without_previews_gives_comments_and_then_the_picture():
    async with open_house(desk=Desk(is_open=False), pace=Pace(silent_s=0.01)) as house:
        reply = await house.client.post(ROUTE, json=CAT)
        events = events_of(reply)
        assert await anext(events) is None
        assert await anext(events) is None
        house.desk.open.set()
        told = [event["type"] async for event in events if event is not None]

        assert told == ["image_generation.completed"]


async def test_the_events_of_an_edit_have_its_name():
    async with open_studio() as house:
        house.desk.say(Partial(0, Media(b64="Zmlyc3Q=")), done())
        body = {"prompt": "a hat", "images": [{"image_url": URI}], "stream": True}
        reply = await house.client.post("/v1/images/edits", json=body)

        names = [event["type"] async for event in events_of(reply)]
        assert names == ["image_edit.partial_image", "image_edit.completed"]


async def test_of_several_pictures_each_is_an_event_and_the_last_says_what_all_have_used():
    async with open_studio() as house:
        house.desk.say(Partial(1, Media(b64="c2Vjb25k")), done(2))
        reply = await house.client.post(ROUTE, json={**CAT, "n": 2})
        events = [event async for event in events_of(reply)]

        assert [event.get("partial_image_index") for event in events] == [0, None, None]
        assert [event["usage"]["total_tokens"] for event in events[1:]] == [0, 310]


async def test_what_fails_before_the_first_byte_is_an_ordinary_error():
    async with open_studio() as house:
        house.desk.say(failing(FailureKind.REFUSED))
        reply = await house.client.post(ROUTE, json=CAT)
        body = await reply.json()

        assert (reply.status, body["error"]["error_type"]) == (400, "content_refused")
        assert body["error"]["task_id"] == reply.headers["X-Task-Id"]


async def test_what_fails_afterwards_is_an_event_with_the_same_body():
    async with open_studio() as house:
        house.desk.say(Partial(0, Media(b64="Zmlyc3Q=")))
        reply = await house.client.post(ROUTE, json=CAT)
        events = events_of(reply)
        await anext(events)
        house.desk.say(failing(FailureKind.REFUSED))
        [body] = [event async for event in events]

        view = await task_of(house)
        assert reply.status == 200
        assert (body["error"]["error_type"], body["error"]["task_id"]) == ("content_refused", view.task.id)
        assert len(body["error"]["attempts"]) == 1
        assert view.task.state.value == "failed"


async def test_a_stream_goes_on_with_another_provider_where_the_first_one_fails():
    async with open_studio() as house:
        house.desk.say(Partial(0, Media(b64="Zmlyc3Q=")), failing(FailureKind.OVERLOADED))
        reply = await house.client.post(ROUTE, json=CAT)
        names = [event["type"] async for event in events_of(reply)]

        assert names == ["image_generation.partial_image", "image_generation.completed"]
        view = await task_of(house)
        assert [(one.provider, one.outcome) for one in view.attempts] == [("one", "overloaded"), ("two", "succeeded")]


async def test_a_stream_without_a_last_word_is_the_adapters_mistake():
    class Mumbling(Easel):
        async def stream(self, job, listen):
            yield Partial(0, Media(b64="Zmlyc3Q="))

    async with open_house(rules_of(), desk=Mumbling(), pace=EVER) as house:
        reply = await house.client.post(ROUTE, json=CAT)
        await reply.read()

        assert (await task_of(house)).attempts[0].outcome == "bug"


async def test_a_caller_that_leaves_aborts_nothing_and_the_repeat_attaches():
    async with open_studio() as house:
        house.desk.say(Partial(0, Media(b64="Zmlyc3Q=")))
        reply = await house.client.post(ROUTE, json=CAT)
        await anext(events_of(reply))
        reply.close()
        again = asyncio.create_task(
            house.client.post(ROUTE, json={**CAT, "stream": False}, headers={"x-stainless-retry-count": "1"})
        )
        view = await task_of(house)
        await poll_until(lambda: house.life.waiters.count(view.task.id) > 0, "the repeat to wait")
        house.desk.say(done())

        body = await (await again).json()
        assert body["data"] == [{"b64_json": PICTURE}]
        assert len(house.desk.streamed) == 1


async def test_a_key_gives_the_same_pictures_again_streamed_or_not():
    async with open_studio() as house:
        headers = {"Idempotency-Key": "k"}
        house.desk.say(done())
        await (await house.client.post(ROUTE, json=CAT, headers=headers)).read()
        plain = await house.client.post(ROUTE, json={**CAT, "stream": False}, headers=headers)
        streamed = await house.client.post(ROUTE, json=CAT, headers=headers)
        [event] = [event async for event in events_of(streamed)]

        assert (await plain.json())["data"][0]["b64_json"] == event["b64_json"] == PICTURE
        assert streamed.headers["Idempotent-Replayed"] == "true"
        assert len(house.desk.streamed) == 1


async def test_what_breaks_on_our_side_after_the_first_byte_is_an_event_too():
    complaints = []
    async with open_studio(Pace(silent_s=0.01)) as house:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
        reply = await house.client.post(ROUTE, json=CAT)
        events = events_of(reply)
        assert await anext(events) is None
        house.vault.read = None  # whatever it is that breaks
        house.desk.say(done())
        told = [event async for event in events if event is not None]

        assert [event["error"]["error_type"] for event in told] == ["internal_error"]
        assert complaints == [f"the stream of {reply.headers['X-Task-Id']} failed"]


async def test_a_stream_that_has_been_held_for_too_long_ends_with_an_error_and_its_task_goes_on():
    async with open_studio(Pace(silent_s=0.01, held_s=0.05)) as house:
        reply = await house.client.post(ROUTE, json=CAT)
        events = [event async for event in events_of(reply)]

        assert events[0] is None
        assert events[-1]["error"]["error_type"] == "deadline_exceeded"
        assert (await task_of(house)).task.state.value == "running"
        house.desk.say(done())


async def test_who_does_not_read_is_hung_up_on_and_the_task_goes_on():
    large = Partial(0, Media(b64="A" * (8 << 20)))
    async with open_studio(Pace(silent_s=60.0, read_within_s=0.05)) as house:
        house.desk.say(*[large] * 2)
        reply = await house.client.post(ROUTE, json=CAT)
        view = await task_of(house)
        await poll_until(lambda: house.life.waiters.count(view.task.id) == 0, "the handler to give up")
        house.desk.say(done())
        waited = await house.client.get(f"/v1/tasks/{view.task.id}", headers={"Prefer": "wait=30"})

        assert (await waited.json())["status"] == "succeeded"
        reply.close()


def test_of_previews_that_are_not_read_the_newest_of_each_picture_is_kept():
    channel = Channel()
    for preview in (Preview(0, 0, "a"), Preview(1, 0, "b"), Preview(0, 1, "c")):
        channel.put(preview)

    assert channel.news.is_set()
    assert channel.take() == (Preview(1, 0, "b"), Preview(0, 1, "c"))
    assert (channel.take(), channel.news.is_set()) == ((), False)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (ROUTE, {**CAT, "stream": "true"}),
        (ROUTE, {**CAT, "async": True}),
        ("/v1/images/variations", {"image": URI, "stream": True}),
        ("/v1/tasks", {"kind": "image.generation", "input": {"prompt": "a cat"}, "stream": True}),
        ("/v1/tasks", {"kind": "video.generation", "input": {"prompt": "a cat"}, "stream": True}),
    ],
)
async def test_what_cannot_be_streamed_is_a_400_and_no_task(route, body):
    async with open_studio() as house:
        reply = await house.client.post(route, json=body)

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "stream")
        assert await house.store.search("default", Search()) == ()
