"""The outbox in every engine: what each move owes, who takes it, and what each try makes of it."""

from dataclasses import replace

import pytest

from router.outbox import (
    CALLBACK_TYPES,
    TERMINAL_TYPES,
    TRIES_KEPT,
    Repeat,
    Room,
    Standing,
    Try,
    TryResult,
    WebhookSearch,
)
from router.outcome import Billed
from router.task import expired, joined, went_on
from tests.store.stage import (
    KEEP_UNTIL,
    LATER,
    NOW,
    Cast,
    a_task,
    a_webhook,
    an_attempt,
    begin,
    cancel_it,
    deliver,
    end,
    fail_with,
    interrupt,
    retry,
)

URL = "https://hook.example/tasks?x=1"
HOST = "hook.example:443"
ROOM = Room(total=100, strangers=100, places={HOST: 100})
LEASE_MS = 30_000
OK = Try(LATER, TryResult.DELIVERED, 200, "", 12)
REJECTED = Try(LATER, TryResult.REJECTED, 500, "HTTP 500", 7)
GONE = Try(LATER, TryResult.GONE, 410, "HTTP 410", 7)
SOON = Repeat(5_000)


def asking(number=1, url=URL, events=TERMINAL_TYPES, **changes):
    return a_task(number, callback_url=url, callback_events=events, link_base="https://images.example", **changes)


async def types(store, **search):
    """The types of all rows, oldest first."""
    rows = await store.webhooks(WebhookSearch(limit=1000, **search))
    return [row.type for row in sorted(rows, key=lambda row: (row.task_id, len(row.id), row.id))]


async def owe(store, *numbers, **asked):
    """End tasks that ask for it; returns their rows as taken by nobody."""
    for number in numbers:
        await Cast(store).succeed(asking(number, **asked))
    return await store.webhooks(WebhookSearch(limit=1000))


# -- what is owed -----------------------------------------------------------------------------------------------------


async def test_what_a_task_asked_for_is_read_back(store):
    task = asking(events=("task.failed", "task.running"))
    await store.admit(task, ())

    assert (await store.view("acme", task.id)).task == task


async def test_each_way_to_end_owes_its_webhook_with_the_move(store):
    cast = Cast(store)
    succeeded = await cast.succeed(asking(1))
    failed = await cast.succeed(asking(2), move=fail_with())
    cancelled = await cast.admit(asking(3))
    await store.cancel("acme", cancelled.id, cancel_it())
    late = await cast.admit(asking(4))
    await store.move(late, expired(LATER, "too late", KEEP_UNTIL))
    nobody = await cast.admit(asking(5))
    await store.move(nobody, fail_with())
    running = (await cast.open(await cast.admit(asking(6)))).task
    await store.cancel("acme", running.id, cancel_it())

    rows = await store.webhooks(WebhookSearch(limit=100))
    found = {row.task_id: (row.type, row.state, row.tenant, row.url, row.host, row.tries, row.log) for row in rows}
    rest = (Standing.WAITING, "acme", URL, "hook.example:443", 0, ())
    assert found == {
        succeeded.id: ("task.succeeded", *rest),
        failed.id: ("task.failed", *rest),
        cancelled.id: ("task.cancelled", *rest),
        late.id: ("task.expired", *rest),
        nobody.id: ("task.failed", *rest),
        running.id: ("task.cancelled", *rest),
    }
    assert len({row.id for row in rows}) == 6
    assert all(row.id.startswith("msg_") and "." not in row.id for row in rows)


async def test_running_and_retrying_are_told_only_to_those_who_ask(store):
    cast = Cast(store)
    for number, events in ((1, CALLBACK_TYPES), (2, TERMINAL_TYPES), (3, ("task.running",))):
        task = await cast.close(
            await cast.open(await cast.admit(asking(number, events=events))), retry(), billing=Billed.NO
        )
        await cast.close(await cast.open(task))

    told = ["task.running", "task.retrying", "task.running", "task.succeeded"]
    assert await types(store, task_id=a_task(1).id) == told
    assert await types(store, task_id=a_task(2).id) == ["task.succeeded"]
    assert await types(store, task_id=a_task(3).id) == ["task.running", "task.running"]


async def test_a_move_that_leaves_the_state_owes_nothing(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(asking(events=CALLBACK_TYPES)), count=1)
    beside = an_attempt(opened.task, part=1, count=1)
    second = await store.open_attempt(opened.task, beside, joined(LATER, "flux", "flux-2"), ())
    await store.close_attempt(second.task, end(opened.attempt), went_on(LATER))

    assert await types(store) == ["task.running"]


async def test_a_task_without_a_callback_owes_nothing(store):
    await Cast(store).succeed(a_task(1))

    assert await store.webhooks(WebhookSearch()) == ()
    assert not await store.webhooks_due(LATER)


async def test_a_refused_verb_owes_nothing(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(asking(1, events=CALLBACK_TYPES)))
    before = await store.webhooks(WebhookSearch())
    await store.close_attempt(replace(opened.task, version=99), end(opened.attempt), deliver())
    await store.cancel("globex", opened.task.id, cancel_it())
    await store.open_attempt(opened.task, opened.attempt, begin(), ())

    assert await store.webhooks(WebhookSearch()) == before


async def test_retention_owes_nothing(store):
    await Cast(store).succeed(asking(1), move=deliver(LATER, LATER))
    await store.sweep(LATER, 10)

    assert await types(store) == ["task.succeeded"]


async def test_a_withdrawn_first_attempt_owes_nothing_more(store):
    opened = await Cast(store).open(await Cast(store).admit(asking(1)))
    await store.withdraw(opened.task, opened.attempt, interrupt())

    assert await types(store) == []


# -- who takes it -----------------------------------------------------------------------------------------------------


async def test_what_is_due_is_taken_once_and_again_after_the_lease(store):
    (row,) = await owe(store, 1)

    assert await store.webhooks_due(LATER)
    (taken,) = await store.claim_webhooks(7, ROOM, LEASE_MS, LATER)
    assert taken == replace(row, fence=7, first_at=LATER, next_at=LATER + LEASE_MS)
    assert await store.claim_webhooks(8, ROOM, LEASE_MS, LATER + LEASE_MS - 1) == ()
    (again,) = await store.claim_webhooks(8, ROOM, LEASE_MS, LATER + LEASE_MS)
    assert (again.id, again.fence, again.first_at) == (row.id, 8, LATER)


async def test_a_host_with_many_rows_gets_its_share_and_hides_nobody(store):
    await owe(store, *range(1, 9), url="https://slow.example/x")
    await owe(store, 9, 10, url="https://quick.example/x")
    await owe(store, 11, url="https://resting.example/x")
    room = Room(total=5, strangers=5, places={"quick.example:443": 4, "resting.example:443": 0})

    taken = await store.claim_webhooks(1, room, LEASE_MS, LATER)

    assert sorted(row.host for row in taken) == ["quick.example:443"] * 2 + ["slow.example:443"]
    few = Room(total=3, strangers=0, places={"slow.example:443": 9})
    assert len(await store.claim_webhooks(1, few, LEASE_MS, LATER)) == 3


async def test_strangers_together_get_no_more_than_their_share(store):
    for number in range(1, 6):
        await owe(store, number, url=f"https://stranger-{number}.example/x")
    await owe(store, 6, 7, url="https://known.example/x")

    room = Room(total=10, strangers=2, places={"known.example:443": 2})
    hosts = [row.host for row in await store.claim_webhooks(1, room, LEASE_MS, LATER)]

    assert (len(hosts), hosts.count("known.example:443")) == (4, 2)


async def test_the_host_that_has_waited_longest_comes_first(store):
    await owe(store, 1, url="https://a.example/x")
    (early,) = await store.claim_webhooks(1, ROOM, LEASE_MS, NOW)
    await owe(store, 2, url="https://b.example/x")
    await store.close_try(early, REJECTED, SOON, NOW)

    (first,) = await store.claim_webhooks(1, Room(total=1, strangers=1), LEASE_MS, NOW + 6_000)

    assert first.host == "b.example:443"


# -- what becomes of it -----------------------------------------------------------------------------------------------


async def test_a_delivered_webhook_is_over(store):
    await owe(store, 1)
    (taken,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)

    after = await store.close_try(taken, OK, None, LATER + 9)

    assert (after.state, after.tries, after.ended_at, after.log) == (Standing.DELIVERED, 1, LATER + 9, (OK,))
    assert await store.webhooks(WebhookSearch(state=Standing.DELIVERED)) == (after,)
    assert await store.claim_webhooks(1, ROOM, LEASE_MS, LATER + 10**9) == ()


async def test_a_failed_try_is_repeated_so_long_after_the_first(store):
    await owe(store, 1)
    (first,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)
    after = await store.close_try(first, REJECTED, Repeat(5_000), LATER + 1_000)
    assert (after.state, after.tries, after.next_at) == (Standing.WAITING, 1, LATER + 5_000)

    (second,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER + 5_000)
    after = await store.close_try(second, REJECTED, Repeat(300_000, rest_ms=400_000), LATER + 6_000)
    assert (after.tries, after.next_at, after.log) == (2, LATER + 406_000, (REJECTED, REJECTED))


async def test_the_last_failure_gives_up(store):
    await owe(store, 1)
    (taken,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)

    after = await store.close_try(taken, REJECTED, None, LATER + 9)

    assert (after.state, after.ended_at) == (Standing.FAILED, LATER + 9)


async def test_a_failure_that_comes_after_the_lease_counts_for_nothing_but_a_delivery_does(store):
    await owe(store, 1)
    (slow,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)
    (quick,) = await store.claim_webhooks(2, ROOM, LEASE_MS, LATER + LEASE_MS)

    assert await store.close_try(slow, REJECTED, None, LATER + LEASE_MS) is None
    assert (await store.close_try(slow, OK, None, LATER + LEASE_MS)).state is Standing.DELIVERED
    assert await store.close_try(quick, REJECTED, SOON, LATER + LEASE_MS) is None
    assert await store.close_try(a_webhook(77), OK, None, LATER) is None


async def test_an_endpoint_that_is_gone_is_sent_nothing_more(store):
    await owe(store, 1, 2)
    await Cast(store).succeed(asking(3, tenant="globex"))
    (taken,) = await store.claim_webhooks(1, Room(total=1, strangers=1), LEASE_MS, LATER)
    assert taken.tenant == "acme"

    assert (await store.close_try(taken, GONE, SOON, LATER)).state is Standing.DROPPED
    assert await store.is_disabled("acme", URL)
    assert not await store.is_disabled("globex", URL)
    (other,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)
    assert other.tenant == "globex"
    dropped = await store.webhooks(WebhookSearch(state=Standing.DROPPED))
    assert [(row.tenant, row.ended_at) for row in dropped] == [("acme", LATER)] * 2


async def test_an_operator_sends_again_whatever_it_had_come_to(store):
    await owe(store, 1)
    (taken,) = await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)
    await store.close_try(taken, GONE, None, LATER)

    again = await store.renew_webhook(taken.id)

    assert (again.state, again.tries, again.log) == (Standing.WAITING, 0, (GONE,))
    assert not await store.is_disabled("acme", URL)
    assert [row.id for row in await store.claim_webhooks(1, ROOM, LEASE_MS, LATER)] == [taken.id]
    assert await store.renew_webhook("msg_0_0") is None


async def test_an_endpoint_is_enabled_once(store):
    (row,) = await owe(store, 1)
    await store.close_try(row, GONE, None, LATER)

    assert [await store.enable_endpoint("acme", URL) for _ in range(2)] == [True, False]


async def test_the_log_keeps_the_last_tries(store):
    await owe(store, 1)
    for number in range(TRIES_KEPT + 3):
        at = LATER + number * 10 * LEASE_MS
        (taken,) = await store.claim_webhooks(1, ROOM, LEASE_MS, at)
        after = await store.close_try(taken, replace(REJECTED, at=at), Repeat(0), at)

    assert after.tries == TRIES_KEPT + 3
    assert [one.at for one in after.log] == [LATER + number * 10 * LEASE_MS for number in range(3, TRIES_KEPT + 3)]


async def test_the_log_is_read_in_pages(store):
    rows = await owe(store, 1, 2, 3)
    await Cast(store).succeed(asking(4, tenant="globex"))
    mine = WebhookSearch(tenant="acme", limit=2)

    first = await store.webhooks(mine)
    rest = await store.webhooks(replace(mine, before=(first[-1].created_at, first[-1].id)))

    assert (*first, *rest) == rows
    assert await store.webhooks(WebhookSearch(tenant="globex", task_id=rows[0].task_id)) == ()


@pytest.mark.parametrize("limit", [1, 10])
async def test_what_ended_long_ago_is_swept(store, limit):
    await owe(store, 1, 2, 3)
    for number, taken in enumerate(
        await store.claim_webhooks(1, Room(total=2, strangers=0, places={HOST: 2}), LEASE_MS, LATER)
    ):
        await store.close_try(taken, OK, None, LATER + number)

    assert await store.sweep_webhooks(LATER, 10) == 0
    assert await store.sweep_webhooks(LATER + 5, limit) == min(limit, 2)
    assert len(await store.webhooks(WebhookSearch())) == 3 - min(limit, 2)
