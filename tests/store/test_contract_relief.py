"""Tasks that change hands while their owner lives, or because it said good-bye, in every engine."""

import asyncio
from dataclasses import replace

import pytest

from router.outcome import Billed
from router.persistence import Cancelled, Owner, Stale, TaskView
from router.task import Priority
from tests.store.stage import (
    LATER,
    NOW,
    Cast,
    a_task,
    an_attempt,
    begin,
    cancel_it,
    deliver,
    demand,
    end,
    fail_with,
    picture_of,
    retry,
)

LONG_MS = 10_000


def ids(views):
    """Name the tasks by their numbers."""
    return [int(view.task.id[5:], 16) for view in views]


async def two_lives(store, count=0):
    """A life with so many tasks that wait, oldest first, and another that has none."""
    cast = Cast(store)
    busy, idle = await cast.own("busy"), await cast.own("idle")
    for number in range(1, count + 1):
        await cast.admit(a_task(number, owner="busy", fence=busy.epoch))
    return busy, idle


# -- relief -----------------------------------------------------------------------------------------------------------


async def test_who_has_room_takes_what_another_will_not_come_to_soon(store):
    busy, idle = await two_lives(store, 5)
    (*views,) = await store.relieve(idle, 2, 10, LATER)

    assert ids(views) == [3, 4, 5]
    for view in views:
        before = a_task(ids([view])[0], owner="busy", fence=busy.epoch)
        assert view == TaskView(replace(before, owner="idle", fence=idle.epoch, version=before.version + 1), ())
        assert view == await store.view("acme", before.id)
    assert ids(TaskView(task, ()) for task in await store.waiting(busy, 10)) == [1, 2]
    assert await store.waiting(idle, 10) == tuple(view.task for view in views)


async def test_each_life_keeps_its_best_and_the_best_of_the_rest_goes_first(store):
    cast = Cast(store)
    first, second, idle = [await cast.own(replica) for replica in ("first", "second", "idle")]
    orders = [Priority.LOW, Priority.URGENT, Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]
    for number, priority in enumerate(orders):
        life = (first, second)[number % 2]  # the first has 0, 2 and 4, the second 1, 3 and 5
        await cast.admit(a_task(number, priority=priority, owner=life.replica, fence=life.epoch))

    assert ids(await store.relieve(idle, 1, 2, LATER)) == [3, 4]
    assert ids(await store.relieve(idle, 1, 10, LATER)) == [0, 5]
    assert await store.relieve(idle, 1, 10, LATER) == ()


async def test_no_more_is_taken_than_there_is_room_for(store):
    _busy, idle = await two_lives(store, 6)

    assert await store.relieve(idle, 1, 0, LATER) == ()
    assert ids(await store.relieve(idle, 1, 2, LATER)) == [2, 3]
    # Two of the others are its own now, and nobody relieves himself.
    assert ids(await store.relieve(idle, 0, 1, LATER)) == [1]
    assert ids(await store.relieve(idle, 0, 10, LATER)) == [4, 5, 6]
    assert await store.relieve(idle, 0, 10, LATER) == ()


async def test_only_what_could_start_now_and_has_no_attempt_out_is_taken(store):
    cast = Cast(store)
    busy, idle = await two_lives(store)

    async def admit(number, **more):
        return await cast.admit(a_task(number, owner="busy", fence=busy.epoch, **more))

    await admit(1)
    await cast.open(await admit(2))
    await cast.succeed(a_task(3, owner="busy", fence=busy.epoch))
    await cast.close(await cast.open(await admit(4)), retry(not_before=LATER + 5), billing=Billed.NO)
    await cast.close(await cast.open(await admit(5)), retry(not_before=LATER), billing=Billed.NO)
    cancelled = await cast.open(await admit(6))
    await store.cancel("acme", cancelled.task.id, cancel_it())
    await admit(7, not_before=LATER + 1)

    assert ids(await store.relieve(idle, 0, 10, LATER)) == [1, 5]
    assert ids(await store.relieve(idle, 0, 10, LATER + 5)) == [4, 7]


async def test_what_waits_for_its_time_is_not_of_those_that_stay(store):
    cast = Cast(store)
    busy, idle = await two_lives(store, 3)
    await cast.admit(a_task(4, owner="busy", fence=busy.epoch, priority=Priority.URGENT, not_before=LATER + 1))

    assert ids(await store.relieve(idle, 2, 10, LATER)) == [3]


async def test_the_attempts_of_the_past_go_along_as_they_were(store):
    cast = Cast(store)
    busy, idle = await two_lives(store, 1)
    (view,) = (await store.view("acme", a_task(1).id),)
    again = await cast.close(await cast.open(view.task), retry(), billing=Billed.NO)
    before = await store.view("acme", again.id)
    (taken,) = await store.relieve(idle, 0, 10, LATER)

    assert taken.attempts == before.attempts
    assert taken.attempts[0].fence == busy.epoch
    opened = await store.open_attempt(taken.task, an_attempt(taken.task), begin(), ())
    assert (await store.close_attempt(opened.task, end(opened.attempt), deliver())).provider == "openai"


@pytest.mark.parametrize("verb", ["open_attempt", "move"])
async def test_the_former_owner_writes_nothing_more_about_what_it_was_relieved_of(store, verb):
    busy, idle = await two_lives(store)
    task = await Cast(store).admit(a_task(owner="busy", fence=busy.epoch), demand())
    (taken,) = await store.relieve(idle, 0, 10, LATER)
    before = await picture_of(store, task)
    calls = {
        "open_attempt": lambda: store.open_attempt(task, an_attempt(task), begin(), ()),
        "move": lambda: store.move(task, fail_with()),
    }

    assert await calls[verb]() == Stale(taken.task)
    assert await picture_of(store, task) == before
    assert isinstance(await store.cancel("acme", task.id, cancel_it()), Cancelled)


async def test_a_replaced_life_relieves_nobody(store):
    _busy, zombie = await two_lives(store, 3)
    await store.register("idle", NOW)

    assert await store.relieve(zombie, 0, 10, LATER) == ()
    assert await store.relieve(Owner("nobody", 99), 0, 10, LATER) == ()


async def test_relieving_another_is_a_sign_of_life(store):
    busy, idle = await two_lives(store, 3)
    await store.relieve(idle, 2, 10, NOW + LONG_MS)
    late = await store.register("late", NOW)

    assert ids(await store.claim(late, LONG_MS, 10, NOW + LONG_MS)) == [1, 2]  # of the busy one, who is silent
    assert ids(TaskView(task, ()) for task in await store.waiting(idle, 10)) == [3]
    assert await store.waiting(busy, 10) == ()


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_what_a_life_leaves_behind_may_be_taken_at_once(store):
    busy, idle = await two_lives(store, 2)

    assert await store.claim(idle, LONG_MS, 10, NOW) == ()
    assert await store.leave(busy) is None
    assert ids(await store.claim(idle, LONG_MS, 10, NOW)) == [1, 2]


async def test_the_leaving_of_a_former_life_leaves_nothing_behind(store):
    cast = Cast(store)
    former = await cast.own("here")
    here, other = await cast.own("here"), await cast.own("other")
    await cast.admit(a_task(1, owner="here", fence=here.epoch))
    await store.leave(former)

    assert await store.claim(other, LONG_MS, 10, NOW) == ()
    assert await store.heartbeat(here, NOW)


async def test_who_has_left_takes_part_again_with_its_next_sign_of_life(store):
    busy, idle = await two_lives(store, 1)
    await store.leave(busy)

    assert await store.heartbeat(busy, NOW)
    assert await store.claim(idle, LONG_MS, 10, NOW) == ()


# -- together ---------------------------------------------------------------------------------------------------------


async def test_lives_that_relieve_at_the_same_time_get_different_tasks(store):
    busy, idle = await two_lives(store, 20)
    others = [idle, *[await store.register(replica, NOW) for replica in "abc"]]
    answers = await asyncio.gather(*(store.relieve(owner, 4, 3, LATER) for owner in others))
    taken = [number for views in answers for number in ids(views)]

    assert [len(views) for views in answers] == [3, 3, 3, 3]
    assert sorted(taken) == list(range(5, 17))
    assert len(await store.waiting(busy, 100)) == 8
    for owner, views in zip(others, answers, strict=True):
        assert await store.waiting(owner, 100) == tuple(view.task for view in views)


async def test_lives_that_claim_at_the_same_time_get_different_tasks(store):
    cast = Cast(store)
    gone, owners = await cast.own("gone"), [await cast.own(replica) for replica in "abc"]
    for number in range(12):
        task = await cast.admit(a_task(number, owner="gone", fence=gone.epoch))
        if number % 3 == 0:
            await store.cancel("acme", (await cast.open(task)).task.id, cancel_it())
    await store.leave(gone)
    answers = await asyncio.gather(*(store.claim(owner, LONG_MS, 5, NOW) for owner in owners))
    rows = {number: (await store.view("acme", a_task(number).id)) for number in range(12)}

    assert sorted(number for views in answers for number in ids(views)) == list(range(12))
    for owner, views in zip(owners, answers, strict=True):
        assert {view.task.fence for view in views} == {owner.epoch}
        assert [rows[number] for number in ids(views)] == list(views)
        assert {one.fence for view in views for one in view.attempts} <= {owner.epoch}


async def test_of_a_claim_and_a_relief_at_the_same_time_each_gets_its_own(store):
    busy, idle = await two_lives(store, 8)
    other = await store.register("other", NOW)
    await store.leave(busy)
    claimed, relieved = await asyncio.gather(
        store.claim(idle, LONG_MS, 4, NOW), store.relieve(other, 0, 4, NOW + LONG_MS)
    )

    # Whoever comes second may relieve the first of what it has just taken; nothing is driven by two.
    rows = [(await store.view("acme", a_task(number).id)).task for number in range(1, 9)]
    assert (len(claimed), len(relieved)) == (4, 4)
    assert {task.fence for task in rows} <= {busy.epoch, idle.epoch, other.epoch}
    for view in claimed:
        row = rows[ids([view])[0] - 1]
        assert row == view.task or (row.fence, row.version) == (other.epoch, view.task.version + 1)
