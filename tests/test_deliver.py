"""The deliverer against real receivers on the loopback: what is sent and signed, what is repeated, who waits for whom.

The rows come from real moves of the memory store; time is the machine's, with all waits of the schedule scaled down.
Signatures are judged by the public library of Standard Webhooks.
"""

import asyncio
import base64
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from aiohttp import web
from standardwebhooks.webhooks import WebhookVerificationError

from router.deliver import OFFSETS_S, PLACES_PER_HOST, STRANGERS, Deliverer, Office
from router.events import Bus, TaskEnded, WebhookTried
from router.fetch import FetchAllow, GuardedPoster
from router.outbox import (
    TERMINAL_TYPES,
    Room,
    Standing,
    Try,
    TryResult,
    Webhook,
    WebhookSearch,
    derive_secret,
    key_of,
    sign,
)
from router.store.memory import MemoryStore
from router.task import State
from router.world import WallClock, World, seeded_dice
from tests.loopback import find_closed_port
from tests.receiver import always, hang, receiving, then
from tests.store.stage import Cast, a_task, cancel_it, deliver
from tests.waiting import poll_until

SECRET = derive_secret(b"signing secret of the tests", "acme")
KEEP = WallClock().now() + 10**9


def parsed(allowed):
    allow = FetchAllow.parse(allowed)
    assert isinstance(allow, FetchAllow)
    return allow


def compose(webhook, view):
    return {"type": webhook.type, "data": {} if view is None else {"id": view.task.id, "tenant": view.task.tenant}}


def nothing(*_said):
    raise AssertionError("the deliverer needs store, clock and dice only")


@dataclass
class House:
    """A deliverer with its store; `tried` are its events."""

    store: MemoryStore
    deliverer: Deliverer
    tried: list
    bus: Bus

    async def end(self, number, url, **changes):
        """End a task that asks for a webhook; the deliverer is told as the bus would tell it."""
        task = a_task(number, callback_url=url, callback_events=TERMINAL_TYPES, **changes)
        task = await Cast(self.store).succeed(task, move=deliver(expires_at=KEEP))
        self.bus.emit(TaskEnded(task.updated_at, task, State.RUNNING))
        return task

    async def rows(self, **search):
        return await self.store.webhooks(WebhookSearch(limit=1000, **search))

    async def stands(self, number, *standings):
        """Wait until the webhooks of a task stand like that; returns their rows."""

        async def look():
            rows = await self.rows(task_id=a_task(number).id)
            return rows if rows and all(row.state in standings for row in rows) else None

        return await poll_until(look, f"webhook {number} to be {standings}")


@asynccontextmanager
async def open_house(store=None, *, allowed="127.0.0.0/8", time_scale=0.001, keys=None, epoch=1, runs=True):
    async with AsyncExitStack() as stack:
        tried, bus = [], Bus()
        bus.subscribe(lambda event: tried.append(event) if isinstance(event, WebhookTried) else None)
        store = store or MemoryStore()
        world = World(WallClock(), seeded_dice(1), nothing, nothing, nothing, store, nothing, nothing, nothing)
        live = keys or (lambda tenant: (key_of(derive_secret(b"signing secret of the tests", tenant)),))
        office = Office(world, bus, epoch, GuardedPoster(parsed(allowed)), compose, live, time_scale)
        deliverer = Deliverer(office)
        bus.subscribe(deliverer.read)
        if runs:
            running = asyncio.create_task(deliverer.run())

            async def end():
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

            stack.push_async_callback(deliverer.close)
            stack.push_async_callback(end)
        yield House(store, deliverer, tried, bus)


# -- what is sent -----------------------------------------------------------------------------------------------------


async def test_an_ending_arrives_signed_and_is_over():
    async with receiving(always(204)) as receiver, open_house() as house:
        task = await house.end(1, f"{receiver.url}/hook?who=me")
        (row,) = await house.stands(1, Standing.DELIVERED)

    (delivery,) = receiver.deliveries
    assert delivery.path == "/hook?who=me"
    assert delivery.verified(SECRET) == {"type": "task.succeeded", "data": {"id": task.id, "tenant": "acme"}}
    assert delivery.id == row.id
    assert [one.result for one in row.log] == [TryResult.DELIVERED]
    assert [(event.webhook.id, event.standing) for event in house.tried] == [(row.id, Standing.DELIVERED)]


@pytest.mark.parametrize("change", ["body", "id", "timestamp", "secret"])
async def test_one_changed_letter_breaks_the_signature(change):
    async with receiving(always(200)) as receiver, open_house() as house:
        await house.end(1, receiver.url)
        await house.stands(1, Standing.DELIVERED)

    (delivery,) = receiver.deliveries
    if change == "body":
        delivery.raw = delivery.raw.replace(b"acme", b"acne")
    elif change == "id":
        delivery.headers["webhook-id"] += "x"
    elif change == "timestamp":
        delivery.headers["webhook-timestamp"] = str(int(delivery.headers["webhook-timestamp"]) - 1)
    with pytest.raises(WebhookVerificationError):
        delivery.verified(derive_secret(b"another", "acme") if change == "secret" else SECRET)


async def test_while_a_secret_is_replaced_both_verify():
    old, new = (derive_secret(b"signing", name) for name in ("old", "new"))
    async with receiving(always(200)) as receiver, open_house(keys=lambda _: (key_of(old), key_of(new))) as house:
        await house.end(1, receiver.url)
        await house.stands(1, Standing.DELIVERED)

    (delivery,) = receiver.deliveries
    assert delivery.verified(old) == delivery.verified(new)
    assert len(delivery.headers["webhook-signature"].split()) == 2


def test_the_signature_is_that_of_the_published_example():
    """The example of the specification's reference implementation, computed elsewhere."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signed = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_not base64 at all, but long enough",
        base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_what_is_no_secret_is_no_key(text):
    assert key_of(text) is None


def test_each_tenant_has_a_secret_of_its_own():
    secrets = {derive_secret(signing, tenant) for signing in (b"a", b"b") for tenant in ("x", "y")}

    assert len(secrets) == 4
    assert all(len(key_of(secret)) == 32 for secret in secrets)


# -- what is repeated -------------------------------------------------------------------------------------------------


async def test_a_failure_is_repeated_under_the_same_id_until_it_is_taken():
    async with receiving(then(500, 404, 200)) as receiver, open_house() as house:
        await house.end(1, receiver.url)
        (row,) = await house.stands(1, Standing.DELIVERED)

    assert [one.id for one in receiver.deliveries] == [row.id] * 3
    assert [(one.result, one.status) for one in row.log] == [
        (TryResult.REJECTED, 500),
        (TryResult.REJECTED, 404),
        (TryResult.DELIVERED, 200),
    ]
    assert all(one.verified(SECRET) for one in receiver.deliveries)


async def test_after_the_last_of_the_schedule_it_is_given_up():
    async with receiving(always(500)) as receiver, open_house(time_scale=1e-7) as house:
        await house.end(1, receiver.url)
        (row,) = await house.stands(1, Standing.FAILED)

    assert len(receiver.deliveries) == row.tries == len(OFFSETS_S) == 8
    assert [event.standing for event in house.tried] == [Standing.WAITING] * 7 + [Standing.FAILED]


async def test_repeats_follow_the_schedule_from_the_first_try_within_a_fifth():
    async with open_house(runs=False, time_scale=1.0) as house:
        webhook = Webhook("msg_1", "acme", "task_1", "task.failed", "https://a.example", "a.example:443", 0)
        for tries, offset_s in enumerate((5, 300, 1_800, 7_200, 18_000, 36_000, 86_400)):
            drawn = [house.deliverer._repeat_of(replace(webhook, tries=tries), 0).after_first_ms for _ in range(200)]  # noqa: SLF001
            assert 800 * offset_s <= min(drawn) < 840 * offset_s
            assert 1160 * offset_s < max(drawn) <= 1200 * offset_s
        assert house.deliverer._repeat_of(replace(webhook, tries=7), 0) is None  # noqa: SLF001


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(status):
    async with (
        receiving(always(200)) as elsewhere,
        receiving(always(status, Location=elsewhere.url)) as receiver,
        open_house() as house,
    ):
        await house.end(1, receiver.url)
        await poll_until(lambda: house.tried, "the first try")

    (first, *_more) = house.tried
    assert (first.tried.result, first.tried.status, first.standing) == (TryResult.REJECTED, status, Standing.WAITING)
    assert elsewhere.deliveries == []


async def test_a_hanging_receiver_is_given_up_for_now():
    async with receiving(hang) as receiver, open_house() as house:
        await house.end(1, receiver.url)
        await poll_until(lambda: house.tried, "the first try")
        room = house.deliverer._room()  # noqa: SLF001

    assert house.tried[0].tried.result is TryResult.TIMED_OUT
    assert house.tried[0].standing is Standing.WAITING
    assert room.of(f"127.0.0.1:{receiver.port}", 0, 0) <= 1  # it stays among the strangers


async def test_nobody_there_is_a_failure():
    async with open_house() as house:
        await house.end(1, f"http://127.0.0.1:{find_closed_port()}/")
        await poll_until(lambda: house.tried, "the first try")

    assert house.tried[0].tried.result is TryResult.UNREACHABLE


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_the_guard_holds_for_callbacks(host):
    # Another network is listed, so that plain http on any port passes the form and the address alone decides.
    async with receiving(always(200)) as receiver, open_house(allowed="192.0.2.0/24") as house:
        await house.end(1, f"http://{host}:{receiver.port}/")
        await poll_until(lambda: house.tried, "the first try")

    assert house.tried[0].tried.result is TryResult.REFUSED
    assert receiver.deliveries == []


async def test_an_endpoint_that_says_410_is_sent_nothing_more_until_somebody_enables_it():
    async with receiving(then(410, 200)) as receiver, open_house() as house:
        await house.end(1, receiver.url)
        await house.stands(1, Standing.DROPPED)
        await house.end(2, receiver.url)
        await house.stands(2, Standing.DROPPED)
        assert len(receiver.deliveries) == 1

        (first,) = await house.rows(task_id=a_task(1).id)
        await house.store.renew_webhook(first.id)
        house.deliverer.wake()
        await house.stands(1, Standing.DELIVERED)

    assert [one.id for one in receiver.deliveries] == [first.id] * 2


async def test_a_task_whose_row_is_gone_is_told_of_no_more():
    async with receiving(always(200)) as receiver:
        async with open_house(runs=False) as house:
            await house.end(1, receiver.url)
            await house.store.forget(KEEP, 10)
        async with open_house(house.store) as house:
            (row,) = await house.stands(1, Standing.FAILED)

    assert [one.result for one in row.log] == [TryResult.TASK_GONE]
    assert receiver.deliveries == []


async def test_a_crash_between_sending_and_writing_sends_it_again_under_the_same_id():
    async with receiving(always(200)) as receiver:
        async with open_house(runs=False) as house:
            await house.end(1, receiver.url)
            room = Room(1, 1)
            (taken,) = await house.store.claim_webhooks(1, room, 300, WallClock().now())
            await house.deliverer._send(taken, compose(taken, None))  # noqa: SLF001 - and then it dies
        async with open_house(house.store, epoch=2) as house:
            await house.stands(1, Standing.DELIVERED)

    assert [one.id for one in receiver.deliveries] == [taken.id] * 2


async def test_of_two_daemons_one_sends():
    async with receiving(always(200)) as receiver, open_house(epoch=1) as one, open_house(one.store, epoch=2) as other:
        for number in range(1, 41):
            await one.end(number, receiver.url)
            other.deliverer.wake()
        for number in range(1, 41):
            await one.stands(number, Standing.DELIVERED)

    assert max(receiver.seen.values()) == 1
    assert len(receiver.seen) == 40


# -- who waits for whom -----------------------------------------------------------------------------------------------


async def test_hosts_that_hang_delay_nobody_else():
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(receiving(always(200)))
        slow = [await stack.enter_async_context(receiving(hang)) for _ in range(10)]
        house = await stack.enter_async_context(open_house(time_scale=1.0))
        for number in range(100):
            await house.end(1000 + number, slow[number % 10].url)
        for number in range(1, 31):
            await house.end(number, good.url)
        for number in range(1, 31):
            await house.stands(number, Standing.DELIVERED)

        # All that while each slow host has had one place, and none of theirs has come back (15 s).
        assert [len(one.deliveries) for one in slow] == [1] * 10
        assert {event.webhook.host for event in house.tried} == {f"127.0.0.1:{good.port}"}


async def test_a_host_that_answers_soon_gets_more_places_and_never_more_than_its_share():
    out = most = 0

    async def slowly(_delivery, _before):
        nonlocal out, most
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.02)
        out -= 1
        return web.Response(status=204)

    async with receiving(slowly) as receiver, open_house() as house:
        for number in range(1, 41):
            await house.end(number, receiver.url)
        for number in range(1, 41):
            await house.stands(number, Standing.DELIVERED)

    assert most == PLACES_PER_HOST


async def test_strangers_leave_room_for_those_who_answer():
    async with open_house(runs=False) as house:
        for number in range(STRANGERS + 50):
            await house.end(number, f"https://stranger-{number}.example/")
        taken = await house.store.claim_webhooks(1, house.deliverer._room(), 1000, WallClock().now())  # noqa: SLF001

    assert len(taken) == STRANGERS


@pytest.mark.parametrize(
    ("status", "headers", "rests"),
    [
        (429, {"Retry-After": "60"}, True),
        (503, {}, True),
        (400, {"Retry-After": "120"}, True),
        (429, {"Retry-After": "Wed, 01 Jan 2098 00:00:00 GMT"}, True),
        (500, {}, False),
        (503, {"Retry-After": "-5"}, True),
        (200, {"Retry-After": "60"}, False),
    ],
)
async def test_a_host_that_asks_for_it_is_left_alone(status, headers, rests):
    async with receiving(always(status, **headers)) as receiver, open_house(time_scale=1.0) as house:
        await house.end(1, receiver.url)
        await poll_until(lambda: house.tried, "the first try")
        await house.end(2, receiver.url)
        if rests:
            room = house.deliverer._room()  # noqa: SLF001
            assert room.places[f"127.0.0.1:{receiver.port}"] == 0
            (row,) = await house.rows(task_id=a_task(1).id)
            assert row.next_at > row.log[0].at + 3_900
        else:
            await poll_until(lambda: len(house.tried) == 2, "the second webhook")
    assert len(receiver.deliveries) == (1 if rests else 2)


# -- by hand ----------------------------------------------------------------------------------------------------------


async def test_a_test_is_signed_and_tells_of_nothing_and_enables_an_endpoint_that_answers():
    async with receiving(then(200)) as receiver, open_house() as house:
        await house.end(1, receiver.url)
        (row,) = await house.stands(1, Standing.DELIVERED)
        await house.store.close_try(row, Try(0, TryResult.GONE, 410), None, 0)
        assert await house.store.is_disabled("acme", receiver.url)

        one = await house.deliverer.try_out("acme", receiver.url)

        assert (one.result, one.status) == (TryResult.DELIVERED, 200)
        assert not await house.store.is_disabled("acme", receiver.url)
    assert receiver.deliveries[-1].verified(SECRET) == {"type": "webhook.test", "data": {}}


async def test_a_cancelled_task_is_told_as_cancelled():
    async with receiving(always(200)) as receiver, open_house() as house:
        task = await Cast(house.store).admit(a_task(1, callback_url=receiver.url, callback_events=TERMINAL_TYPES))
        await house.store.cancel(task.tenant, task.id, cancel_it())
        house.deliverer.wake()
        await house.stands(1, Standing.DELIVERED)

    assert [one.body["type"] for one in receiver.deliveries] == ["task.cancelled"]
