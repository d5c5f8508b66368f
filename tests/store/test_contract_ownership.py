"""Lives of daemons in every engine: epochs, heartbeats, who takes over what, and that the old life writes nothing."""

from dataclasses import replace

import pytest

from router.outcome import Billed
from router.persistence import Owner, Stale
from router.task import AttemptState, Priority, joined
from tests.store.stage import (
    HANDLE,
    LATER,
    NOW,
    Cast,
    a_task,
    an_attempt,
    begin,
    cancel_it,
    check_books,
    deliver,
    demand,
    end,
    fail_with,
    interrupt,
    picture_of,
    retry,
)


def ids(views):
    """Name the tasks by their numbers."""
    return [int(view.task.id[5:], 16) for view in views]


async def test_each_life_has_an_epoch_above_all_before(store):
    owners = [await store.register(replica, NOW) for replica in ("a", "b", "a", "c", "b")]

    assert [owner.replica for owner in owners] == ["a", "b", "a", "c", "b"]
    assert [owner.epoch for owner in owners] == [1, 2, 3, 4, 5]


async def test_a_life_beats_until_another_takes_its_place(store):
    first = await store.register("a", NOW)
    assert await store.heartbeat(first, NOW + 1)

    second = await store.register("a", NOW + 2)

    assert not await store.heartbeat(first, NOW + 3)
    assert await store.heartbeat(second, NOW + 3)
    assert not await store.heartbeat(Owner("nobody", 7), NOW)


async def test_a_new_life_takes_over_what_its_former_self_left(store):
    cast = Cast(store)
    first = await cast.own()
    task = await cast.admit(a_task(1, fence=first.epoch))
    second = await cast.own()
    (view,) = await store.claim(second, 0, 10, LATER)

    assert view.task == replace(task, fence=second.epoch, version=task.version + 1)
    assert await store.view("acme", task.id) == view
    assert await store.waiting(second, 10) == (view.task,)
    assert await store.waiting(first, 10) == ()
    assert await store.claim(second, 0, 10, LATER) == ()


async def test_live_tasks_and_ended_ones_with_an_attempt_out_are_taken_over(store):
    cast = Cast(store)
    await cast.own()
    await cast.admit(a_task(1))
    again = await cast.close(await cast.open(await cast.admit(a_task(2))), retry(), billing=Billed.NO)
    await cast.open(await cast.admit(a_task(3)))
    accepted = await cast.open(await cast.admit(a_task(4)))
    await store.accept(accepted.attempt, HANDLE, LATER)
    await cast.succeed(a_task(5))
    cancelled = await cast.open(await cast.admit(a_task(6)))
    await store.cancel("acme", cancelled.task.id, cancel_it())
    await store.cancel("acme", (await cast.admit(a_task(7))).id, cancel_it())
    owner = await cast.own()
    views = await store.claim(owner, 0, 10, LATER)

    assert ids(views) == [1, 2, 3, 4, 6]
    assert {view.task.fence for view in views} == {owner.epoch}
    for view in views:
        assert view == await store.view("acme", view.task.id)
    open_ones = [one for view in views for one in view.attempts if one.state is not AttemptState.ENDED]
    assert [(one.task_id, one.fence) for one in open_ones] == [(a_task(number).id, owner.epoch) for number in (3, 4, 6)]
    # What has ended keeps the fence of the life that ended it.
    assert [one.fence for one in views[1].attempts] == [again.fence]


async def test_an_ended_task_with_two_parts_out_is_taken_over_once(store):
    cast = Cast(store)
    old = await cast.own()
    task = await cast.admit(a_task(owner=old.replica, fence=old.epoch))
    first = await cast.open(task, part=0, count=1)
    beside = an_attempt(first.task, part=1, count=1)
    second = await store.open_attempt(first.task, beside, joined(LATER, "flux", "flux-2"), ())
    stopped = await store.cancel(task.tenant, task.id, cancel_it())

    (view,) = await store.claim(await cast.own("there"), 0, 30, LATER)
    assert view.task.version == stopped.task.version + 1
    assert [one.n for one in view.attempts] == [1, second.attempt.n]


async def test_taking_over_is_in_batches_best_priority_and_oldest_first(store):
    cast = Cast(store)
    lives = [await cast.own(replica) for replica in ("a", "b", "c")]
    orders = [Priority.LOW, Priority.NORMAL, Priority.URGENT, Priority.NORMAL, Priority.HIGH, Priority.URGENT]
    for number, priority in enumerate(orders):
        life = lives[number % 3]
        await cast.admit(a_task(number, priority=priority, owner=life.replica, fence=life.epoch))
    late = await cast.open(await cast.admit(a_task(9, priority=Priority.HIGH, owner="a", fence=lives[0].epoch)))
    await store.cancel("acme", late.task.id, cancel_it())
    owner = await cast.own("d")
    batches = []
    while views := await store.claim(owner, 0, 3, LATER):
        batches.append(ids(views))

    assert batches == [[2, 5, 4], [9, 1, 3], [0]]


async def test_a_life_that_was_heard_lately_loses_nothing(store):
    cast = Cast(store)
    alive, silent = await cast.own("alive"), await cast.own("silent")
    await store.heartbeat(alive, LATER)
    await cast.admit(a_task(1, owner="alive", fence=alive.epoch))
    await cast.admit(a_task(2, owner="silent", fence=silent.epoch))
    owner = await cast.own("new", LATER)

    assert ids(await store.claim(owner, 1, 10, LATER)) == [2]
    assert await store.claim(owner, 1, 10, LATER) == ()
    # Silent since then means: not heard after that instant.
    assert ids(await store.claim(owner, 0, 10, LATER)) == [1]


async def test_taking_over_is_a_sign_of_life(store):
    cast = Cast(store)
    first = await cast.own("first")
    await store.claim(first, 1_000, 10, LATER)
    await cast.admit(a_task(1, owner="first", fence=first.epoch))
    second = await cast.own("second")

    assert await store.claim(second, 1, 10, LATER) == ()


async def test_a_life_that_was_replaced_takes_over_nothing(store):
    cast = Cast(store)
    zombie = await cast.own()
    owner = await cast.own()
    task = await cast.admit(a_task(1, fence=owner.epoch))

    assert await store.claim(zombie, 0, 10, LATER) == ()
    assert (await store.view("acme", task.id)).task == task


@pytest.mark.parametrize("verb", ["open_attempt", "move"])
async def test_the_old_life_starts_and_moves_nothing_that_was_taken_over(store, verb):
    cast = Cast(store)
    await cast.own()
    task = await cast.admit(None, demand())
    (taken,) = await store.claim(await cast.own(), 0, 10, LATER)
    before = await picture_of(store, task)
    calls = {
        "open_attempt": lambda: store.open_attempt(task, an_attempt(task), begin(), ()),
        "move": lambda: store.move(task, fail_with()),
    }

    assert await calls[verb]() == Stale(taken.task)
    assert await picture_of(store, task) == before


@pytest.mark.parametrize("verb", ["accept", "close_attempt", "hear", "withdraw"])
async def test_the_old_life_ends_nothing_that_was_taken_over(store, verb):
    cast = Cast(store)
    await cast.own()
    opened = await cast.open(await cast.admit(None, demand()))
    if verb == "hear":
        await store.cancel("acme", opened.task.id, cancel_it())
    (taken,) = await store.claim(await cast.own(), 0, 10, LATER)
    before = await picture_of(store, opened.task)
    calls = {
        "accept": lambda: store.accept(opened.attempt, HANDLE, LATER),
        "close_attempt": lambda: store.close_attempt(opened.task, end(opened.attempt), deliver()),
        "hear": lambda: store.hear(end(opened.attempt)),
        "withdraw": lambda: store.withdraw(opened.task, opened.attempt, interrupt()),
    }

    assert await calls[verb]() == Stale(taken.task)
    assert await picture_of(store, opened.task) == before


async def test_the_new_life_ends_what_the_old_one_began(store):
    cast = Cast(store)
    await cast.own()
    opened = await cast.open(await cast.admit(None, demand()))
    await store.accept(opened.attempt, HANDLE, LATER)
    (taken,) = await store.claim(await cast.own(), 0, 10, LATER)
    (attempt,) = taken.attempts
    task = await store.close_attempt(taken.task, end(attempt), deliver())

    assert attempt.handle == HANDLE
    assert (await store.view("acme", task.id)).task == task
    await check_books(store, task)
