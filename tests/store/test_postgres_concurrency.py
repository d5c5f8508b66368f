"""Two stores on one PostgreSQL database, as two daemons are: what both want at the same moment, one gets.

Time is the caller's here as in the contract, but where the test is about the database's own clock.
"""

import asyncio
from collections import Counter

import asyncpg
import pytest

from router.leases import CircuitNews, CircuitWord, Want
from router.outbox import Room
from router.outcome import Billed
from router.persistence import Balance, Cancelled, Stale, TooLate
from router.store import sql
from router.store.postgres import migrate, open_store
from router.store.verbs import Verbs
from router.task import State, Task
from tests.postgres import shared_server
from tests.store.engines import open_stores
from tests.store.stage import (
    CENT,
    DAY,
    KEEP_UNTIL,
    LATER,
    NOW,
    Cast,
    a_task,
    an_attempt,
    begin,
    cancel_it,
    check_books,
    count_deadlocks,
    deliver,
    demand,
    end,
    kinds,
)
from tests.waiting import poll_until

ONE_DAY_MS = 86_400_000
SILENT_MS = 10_000
PLENTY = 10_000 * CENT


# -- webhooks ---------------------------------------------------------------------------------------------------------


async def test_a_webhook_that_two_stores_want_at_once_is_taken_by_one(pair):
    asked = {"callback_url": "https://hook.example/x", "callback_events": ("task.succeeded",)}
    for number in range(60):
        await Cast(pair[0]).succeed(a_task(number, **asked))
    room = Room(total=10, strangers=0, places={"hook.example:443": 10})

    taken = []
    while len(taken) < 60:
        claims = (pair[turn % 2].claim_webhooks(turn, room, 30_000, LATER) for turn in range(4))
        taken += [row.id for rows in await asyncio.gather(*claims) for row in rows]

    assert len(set(taken)) == len(taken) == 60


# -- money and keys ---------------------------------------------------------------------------------------------------


async def test_300_at_once_over_two_stores_against_a_budget_for_25_give_exactly_25(pair):
    answers = await asyncio.gather(
        *(pair[number % 2].admit(a_task(number), (demand(),)) for number in range(300)),
    )

    assert kinds(answers) == {"Admitted": 25, "OverBudget": 275}
    assert await pair[0].balances([("tenant:acme", DAY)]) == (Balance("tenant:acme", DAY, 100 * CENT, 0),)
    await check_books(pair[1], *(a_task(number) for number in range(300)))


async def test_one_key_on_two_stores_at_once_makes_one_task(pair):
    for turn in range(20):
        tasks = [a_task(turn * 100 + number, idempotency_key=f"key-{turn}") for number in range(10)]
        answers = await asyncio.gather(
            *(pair[number % 2].admit(task, (demand(limit=PLENTY),)) for number, task in enumerate(tasks))
        )

        assert kinds(answers) == {"Admitted": 1, "Duplicate": 9}
        assert len({answer.task.id for answer in answers}) == 1
    assert (await pair[0].balances([("tenant:acme", DAY)]))[0].held == 20 * 4 * CENT


@pytest.mark.parametrize("limit", [PLENTY, 0])
async def test_keys_that_come_to_two_stores_in_opposite_orders_are_all_answered(pair, connection, limit):
    refused = pair[0].admit(a_task(999), (demand(limit=limit),))  # with 0, its crowd is done one by one
    for turn in range(5):
        numbers = range(100 * turn, 100 * turn + 40)
        forth = [pair[0].admit(a_task(number, idempotency_key=f"key-{number}"), ()) for number in numbers]
        back = [pair[1].admit(a_task(5000 + n, idempotency_key=f"key-{n}"), ()) for n in reversed(numbers)]
        answers = await asyncio.gather(*forth, *back, *([refused] if turn == 0 else []))

        assert kinds(answers[:80]) == {"Admitted": 40, "Duplicate": 40}
    assert await count_deadlocks(connection) == 0


async def test_cancel_and_the_end_of_the_attempt_on_two_stores_have_one_winner(pair):
    tasks, wins = [], Counter()
    for number in range(60):
        cast = Cast(pair[0])
        opened = await cast.open(await cast.admit(a_task(number), demand(limit=PLENTY, units=2)))
        ended = end(opened.attempt, billing=(Billed.YES, Billed.NO, Billed.UNKNOWN)[number % 3])
        cancelled, closed = await asyncio.gather(
            pair[number % 2].cancel("acme", opened.task.id, cancel_it()),
            pair[1 - number % 2].close_attempt(opened.task, ended, deliver()),
        )
        row = (await pair[0].view("acme", opened.task.id)).task

        assert (type(cancelled), type(closed)) in {(Cancelled, Stale), (TooLate, Task)}
        assert row.state is (State.CANCELLED if isinstance(cancelled, Cancelled) else State.SUCCEEDED)
        if isinstance(closed, Stale):
            assert await pair[1].hear(ended) == ended
        wins[row.state] += 1
        tasks.append(row)
    await check_books(pair[1], *tasks)
    (balance,) = await pair[1].balances([("tenant:acme", DAY)])
    # A billed attempt has become spending, an unbilled one nothing, and one of which nobody knows stays held.
    assert (balance.spent, balance.held) == (20 * 4 * CENT, 20 * 4 * CENT)


async def test_many_cancels_on_two_stores_have_one_winner(pair):
    task = await Cast(pair[0]).admit(None, demand())
    answers = await asyncio.gather(*(pair[number % 2].cancel("acme", task.id, cancel_it()) for number in range(12)))

    assert kinds(answers) == {"Cancelled": 1, "TooLate": 11}
    await check_books(pair[0], task)


async def test_one_intent_is_written_by_one_of_two_stores(pair):
    for number in range(20):
        task = await Cast(pair[0]).admit(a_task(number), demand(limit=PLENTY, units=2))
        answers = await asyncio.gather(*(store.open_attempt(task, an_attempt(task), begin(), ()) for store in pair))

        assert kinds(answers) == {"Opened": 1, "Stale": 1}
        assert [line.entry for line in await pair[0].ledger(task.id)] == ["reserve", "hold"]


# -- whose tasks ------------------------------------------------------------------------------------------------------


async def test_claims_on_two_stores_get_different_tasks(pair):
    casts = [Cast(store) for store in pair]
    gone = await casts[0].own("gone")
    for number in range(60):
        task = await casts[0].admit(a_task(number, owner="gone", fence=gone.epoch))
        if number % 4 == 0:
            await pair[0].cancel("acme", (await casts[0].open(task)).task.id, cancel_it())
    owners = [await cast.own(replica) for cast, replica in zip(casts, "ab", strict=True)]
    await pair[0].leave(gone)
    taken = {owner: [] for owner in owners}
    while len(taken[owners[0]]) + len(taken[owners[1]]) < 60:
        answers = await asyncio.gather(
            *(store.claim(owner, SILENT_MS, 8, NOW) for store, owner in zip(pair, owners, strict=True))
        )
        for owner, views in zip(owners, answers, strict=True):
            assert {view.task.fence for view in views} <= {owner.epoch}
            taken[owner] += [view.task.id for view in views]

    assert sorted(taken[owners[0]] + taken[owners[1]]) == [a_task(number).id for number in range(60)]
    rows = [(await pair[0].view("acme", a_task(number).id)).task for number in range(60)]
    assert {row.id: row.fence for row in rows} == {
        task_id: owner.epoch for owner, task_ids in taken.items() for task_id in task_ids
    }
    assert {row.version for row in rows if not row.is_terminal} == {2}


async def test_reliefs_on_two_stores_get_different_tasks(pair):
    busy, *idle = [await Cast(pair[0]).own(replica) for replica in ("busy", "a", "b")]
    for number in range(40):
        await Cast(pair[0]).admit(a_task(number, owner="busy", fence=busy.epoch))
    answers = await asyncio.gather(
        # What the first has taken the second leaves to it: it is no more than every life keeps.
        *(store.relieve(owner, 10, 10, LATER) for store, owner in zip(pair, idle, strict=True))
    )
    taken = [view.task.id for views in answers for view in views]

    assert len(taken) == len(set(taken)) <= 20
    assert len(answers[0]) + len(answers[1]) >= 10
    assert len(await pair[0].waiting(busy, 100)) == 40 - len(taken)


async def is_waited_for(connection):
    """Whether somebody waits for a lock."""
    return await connection.fetchval("select exists (select from pg_locks where not granted)")


class Slow(Verbs):
    """Waits for the lock 7 after it has read who is awake."""

    def _awake(self, owner, silent_ms, now):
        awake = yield from super()._awake(owner, silent_ms, now)
        yield "select pg_advisory_xact_lock(7)", ()
        return awake


async def test_a_life_that_begins_during_a_claim_loses_nothing_to_it(url, connection):
    async with open_stores(url) as (other, _), open_stores(url, 1, Slow) as (slow,):
        old, claimer = await Cast(other).own("old"), await Cast(slow).own("claimer")
        await Cast(other).admit(a_task(1, owner="old", fence=old.epoch))
        await other.leave(old)
        await connection.execute("select pg_advisory_lock(7)")
        claim = asyncio.create_task(slow.claim(claimer, SILENT_MS, 10, NOW))
        await poll_until(lambda: is_waited_for(connection), "the claim to wait")
        young = await Cast(other).own("young")
        mine = await Cast(other).admit(a_task(2, owner="young", fence=young.epoch))
        halted = await Cast(other).open(await Cast(other).admit(a_task(3, owner="young", fence=young.epoch)))
        await other.cancel("acme", halted.task.id, cancel_it())
        await connection.execute("select pg_advisory_unlock(7)")

        assert [view.task.id for view in await claim] == [a_task(1).id]
        assert (await other.view("acme", mine.id)).task == mine
        assert await other.halted(young) == (("acme", a_task(3).id),)


async def test_what_another_transaction_is_busy_with_is_not_waited_for_by_a_claim(pair, connection):
    cast = Cast(pair[0])
    gone, owner = await cast.own("gone"), await cast.own("owner")
    for number in range(3):
        await cast.admit(a_task(number, owner="gone", fence=gone.epoch))
    await pair[0].leave(gone)
    async with connection.transaction():
        await connection.execute(sql.LOCK_TASK.partition("returning")[0], "acme", a_task(1).id)
        first = await pair[0].claim(owner, SILENT_MS, 10, NOW)

    assert [view.task.id for view in first] == [a_task(0).id, a_task(2).id]
    assert [view.task.id for view in await pair[0].claim(owner, SILENT_MS, 10, NOW)] == [a_task(1).id]


async def test_many_lives_that_begin_at_once_get_an_epoch_each(url):
    async with open_stores(url, 8) as opened:
        for turn in range(3):
            owners = await asyncio.gather(*(store.register(f"r{n}", NOW) for n, store in enumerate(opened)))

            assert sorted(owner.epoch for owner in owners) == list(range(8 * turn + 1, 8 * turn + 9))


async def test_sweeps_and_forgettings_on_two_stores_get_different_rows(pair):
    tasks = [await Cast(pair[0]).succeed(a_task(number)) for number in range(30)]
    swept = await asyncio.gather(*(store.sweep(KEEP_UNTIL, 10) for store in pair for _ in range(2)))
    ids = [task.id for each in swept for task in each]
    while rest := await pair[0].sweep(KEEP_UNTIL, 10):
        ids += [task.id for task in rest]
    forgotten = await asyncio.gather(*(store.forget(LATER + 1, 9) for store in pair for _ in range(2)))
    while count := await pair[1].forget(LATER + 1, 9):
        forgotten.append(count)

    assert sorted(ids) == [task.id for task in tasks]
    assert sum(forgotten) == 30
    assert await pair[0].view("acme", tasks[0].id) is None


# -- what is shared ---------------------------------------------------------------------------------------------------


async def test_places_and_starts_are_divided_between_two_stores_that_ask_at_once(pair):
    owners = [await Cast(store).own(replica) for store, replica in zip(pair, "ab", strict=True)]
    wants = [Want(f"provider-{number}", 5, need=5, tokens=10, per_ms=10**9, tokens_wanted=2) for number in range(6)]
    started, held = Counter(), [Counter(), Counter()]
    for turn in range(8):
        answers = await asyncio.gather(
            *(
                store.share(owner, wants if number else wants[::-1], SILENT_MS, NOW)
                for number, (store, owner) in enumerate(zip(pair, owners, strict=True))
            )
        )
        for number, grants in enumerate(answers):
            started.update({grant.provider: grant.tokens for grant in grants})
            held[number] = Counter({grant.provider: grant.places for grant in grants})
        if turn > 1:
            assert {(held[0] + held[1])[want.provider] for want in wants} == {5}

    assert set(started.values()) == {10}


async def test_no_row_is_left_of_the_places_of_a_life_that_was_replaced(pair, connection):
    other = await pair[1].register("other", NOW)
    await pair[1].share(other, (Want("fal", 4),), SILENT_MS, NOW)
    for _turn in range(5):
        owner = await pair[0].register("again", NOW)
        await pair[0].share(owner, (Want("fal", 4), Want("openai", 4)), SILENT_MS, NOW)

    rows = await connection.fetch("select epoch, provider from place order by epoch, provider")
    assert [tuple(row) for row in rows] == [(other.epoch, "fal"), (owner.epoch, "fal"), (owner.epoch, "openai")]


async def test_one_of_two_stores_may_probe(pair):
    owners = [await Cast(store).own(replica) for store, replica in zip(pair, "ab", strict=True)]
    for turn in range(20):
        key = ("fal", "fal", f"model-{turn}")
        await asyncio.gather(
            *(
                store.exchange(owner, (CircuitNews(key, CircuitWord.OPEN, 0),), NOW)
                for store, owner in zip(pair, owners, strict=True)
            )
        )
        answers = await asyncio.gather(
            *(store.lease_probe(owner, key, 5_000, SILENT_MS, NOW) for store, owner in zip(pair, owners, strict=True))
        )

        assert sorted(answers) == [False, True]


# -- the database's clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-ONE_DAY_MS, ONE_DAY_MS])
async def test_a_daemon_whose_clock_is_wrong_by_a_day_takes_nothing_from_the_living(url, wrong):
    async with by_the_database(url) as (store,):
        at = NOW + wrong
        alive, other = [await store.register(replica, at) for replica in ("alive", "other")]
        await store.heartbeat(alive, at)
        task = await Cast(store).admit(a_task(1, owner="alive", fence=alive.epoch))
        news = CircuitNews(("fal", "fal", "m"), CircuitWord.OPEN, ONE_DAY_MS // 2)
        await store.exchange(alive, (news,), at)
        later = at + ONE_DAY_MS

        assert await store.claim(other, 600_000, 10, later) == ()
        assert (await store.view("acme", task.id)).task == task
        assert not await store.lease_probe(other, news.key, 1_000, 600_000, later)
        (seen,) = await store.exchange(other, (), later)
        assert 0 < ONE_DAY_MS // 2 - seen.left_ms < 600_000
        await store.share(alive, (Want("fal", 4, 4, 4),), 600_000, at)
        assert (await store.share(other, (Want("fal", 4, 0, 4),), 600_000, later))[0].places == 0
        assert await store.relieve(other, 0, 10, at) != ()  # due by the database's clock, whatever the caller's says


def by_the_database(url):
    """One store that goes by the database's clock, as the daemon opens it."""
    return open_stores(url, 1, lambda: None)


async def test_who_was_silent_by_the_databases_clock_is_taken_over(url):
    async with by_the_database(url) as (store,):
        silent, other = [await store.register(replica, NOW + ONE_DAY_MS) for replica in ("silent", "other")]
        await Cast(store).admit(a_task(1, owner="silent", fence=silent.epoch))

        async def claim():
            return await store.claim(other, 1, 10, NOW - ONE_DAY_MS)

        (view,) = await poll_until(claim, "a millisecond of silence")
        assert view.task.fence == other.epoch


# -- starting ---------------------------------------------------------------------------------------------------------


async def test_four_starters_at_once_migrate_once():
    server = shared_server()
    url = server.create()
    connections = [await asyncpg.connect(url) for _ in range(4)]
    try:
        counts = await asyncio.gather(*(migrate(one) for one in connections))
        applied = await connections[0].fetch("select number from migration order by number")

        assert sorted(counts) == [0, 0, 0, len(applied)]
        assert [number for (number,) in applied] == list(range(1, len(applied) + 1))
        opened = await asyncio.gather(*(open_store(url) for _ in range(4)))
        for store in opened:
            await store.close()
    finally:
        for one in connections:
            await one.close()
        server.drop(url)
