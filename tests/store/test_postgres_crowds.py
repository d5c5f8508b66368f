"""Many verbs in one transaction of PostgreSQL: few round trips, one order of locks, and each with its own fate."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from router.outcome import Billed
from router.persistence import Admitted, Balance, Duplicate, OverBudget
from router.store import transaction
from router.store.lane import Job
from router.store.mark import Mark
from router.store.verbs import Verbs
from tests.store.engines import open_stores
from tests.store.stage import (
    CENT,
    DAY,
    NOW,
    Cast,
    a_task,
    an_attempt,
    begin,
    check_books,
    count_deadlocks,
    deliver,
    demand,
    end,
    kinds,
    retry,
)
from tests.waiting import poll_until

PLENTY = 10_000 * CENT


async def test_a_verb_that_is_undone_in_a_crowd_does_not_touch_the_others(pair):
    store = pair[0]
    taken = await Cast(store).admit(a_task(1000, idempotency_key="taken"))
    crowd, expected = [], Counter()
    for number in range(64):
        kind = ("Admitted", "OverBudget", "Duplicate", "Admitted")[number % 4]
        key = "taken" if kind == "Duplicate" else None
        limit = 0 if kind == "OverBudget" else PLENTY
        crowd.append(
            (a_task(number, idempotency_key=key), (demand(f"key:{number % 3}", limit=limit), demand(limit=PLENTY)))
        )
        expected[kind] += 1
    answers = await asyncio.gather(*(store.admit(task, demands) for task, demands in crowd))

    assert kinds(answers) == expected
    for (task, _demands), answer in zip(crowd, answers, strict=True):
        match answer:
            case Admitted():
                assert await store.view("acme", task.id) is not None
            case Duplicate():
                assert answer.task == taken
            case OverBudget():
                assert (answer.demand.limit, await store.view("acme", task.id)) == (0, None)
                assert await store.ledger(task.id) == ()
    (balance,) = await store.balances([("tenant:acme", DAY)])
    assert balance.held == expected["Admitted"] * 4 * CENT
    await check_books(store, taken, *(task for task, _demands in crowd))


async def test_a_refusal_leaves_no_balance_behind(pair):
    answers = await asyncio.gather(
        *(pair[0].admit(a_task(number), (demand(f"key:{number}", limit=0),)) for number in range(3))
    )

    assert kinds(answers) == {"OverBudget": 3}
    assert await pair[0].balances([(f"key:{number}", DAY) for number in range(3)]) == ()


async def test_what_moves_in_the_same_crowd_as_a_refusal_is_paid(pair):
    store, cast = pair[0], Cast(pair[0])
    opened = [await cast.open(await cast.admit(a_task(number), demand(limit=PLENTY))) for number in range(6)]
    answers = await asyncio.gather(
        store.admit(a_task(50), (demand(limit=24 * CENT + 3),)),  # all that is held is 24 cents
        *(store.close_attempt(one.task, end(one.attempt, cost=CENT), deliver()) for one in opened[:3]),
        store.admit(a_task(51), (demand("key:1", limit=0),)),
        *(store.close_attempt(one.task, end(one.attempt, billing=Billed.NO), retry()) for one in opened[3:]),
    )

    # Three have spent a cent instead of four and the others hold what they held, so that the first fits after all.
    assert kinds(answers) == {"Admitted": 1, "Task": 6, "OverBudget": 1}
    assert await store.balances([("tenant:acme", DAY)]) == (Balance("tenant:acme", DAY, 16 * CENT, 3 * CENT),)
    await check_books(store, a_task(50), *(one.task for one in opened))


class Bug(Verbs):
    """Fails after it has written, when the prompt says so."""

    def admit(self, task, demands):
        answer = yield from super().admit(task, demands)
        if task.input == {"fail": True}:
            raise RuntimeError("planted")
        return answer


async def test_a_verb_with_a_bug_takes_nothing_and_nobody_with_it(url):
    async with open_stores(url, 1, Bug) as (store,):
        tasks = [a_task(number, input={"fail": number % 8 == 0}) for number in range(32)]
        answers = await asyncio.gather(
            *(store.admit(task, (demand(limit=PLENTY),)) for task in tasks), return_exceptions=True
        )

        assert kinds(answers) == {"Admitted": 28, "RuntimeError": 4}
        assert (await store.balances([("tenant:acme", DAY)]))[0].held == 28 * 4 * CENT
        assert await store.view("acme", tasks[8].id) is None


async def test_64_submits_at_once_cost_few_commits(pair):
    store = pair[0]
    told = []
    store.on_commit = told.append
    before = store.commits
    answers = await asyncio.gather(*(store.admit(a_task(number), (demand(unit=CENT),)) for number in range(64)))

    assert kinds(answers) == {"Admitted": 64}
    assert 1 <= store.commits - before <= 2
    assert len(told) == store.commits - before


async def settled():
    raise AssertionError("no commit was lost")


@pytest.mark.parametrize(
    ("demands", "trips_max"),
    [((), 4), ((demand(limit=PLENTY), demand("key:1", limit=PLENTY)), 8)],
)
async def test_the_round_trips_of_a_crowd_do_not_grow_with_it(connection, demands, trips_max):
    trips = []
    connection.add_query_logger(lambda record: trips.append(record.query))
    counts = []
    for size in (1, 64):
        jobs = [Job(Verbs().admit, (a_task(100 * size + number), demands)) for number in range(size)]
        trips.clear()
        await transaction.write(connection, jobs, Mark(), settled)
        await poll_until(lambda: trips[-1:] == ["commit"], "the last to be logged")
        counts.append(len(trips))

        assert kinds(job.answer for job in jobs) == {"Admitted": size}
    # begin, its mark, the rows, (the balances, lines, holds, sums,) commit
    assert counts[1] <= counts[0] <= trips_max, trips


async def test_text_that_postgresql_cannot_store_is_replaced_and_harms_nobody(pair):
    store = pair[0]
    odd = a_task(7, model="gpt\x00image", idempotency_key="k\x00", metadata={"order": "\x00"}, tenant="ac\x00me")
    odd_demand = demand("tenant:ac\x00me", limit=PLENTY)
    crowd = [(a_task(number), (demand(limit=PLENTY),)) for number in range(6)] + [(odd, (odd_demand,))]
    answers = await asyncio.gather(*(store.admit(task, demands) for task, demands in crowd))

    assert kinds(answers) == {"Admitted": 7}
    view = await store.view("ac\x00me", odd.id)
    assert view.task == replace(odd, model="gpt\ufffdimage", idempotency_key="k\ufffd", tenant="ac\ufffdme")
    assert (await store.balances([("tenant:ac\x00me", DAY)]))[0].held == 4 * CENT
    again = await store.admit(replace(odd, id=a_task(8).id), ())
    assert isinstance(again, Duplicate)
    assert [task.id for task in await store.alike("ac\x00me", odd.digest, NOW)] == [odd.id]


async def test_crowds_that_cross_over_the_same_budgets_never_wait_for_each_other(pair, connection):
    first, second = pair
    shared, alone = demand("tenant:acme", limit=PLENTY), [demand(f"key:{number}", limit=PLENTY) for number in range(5)]

    def crowd(turn):
        # Locked in the order of the tasks, the first would have key:0 and tenant:acme and want key:2 as well, which
        # the second has, who wants tenant:acme.
        yield from (first.admit(a_task(turn * 100 + number), (alone[number % 3], shared)) for number in range(9))
        yield from (
            second.admit(a_task(turn * 100 + 50 + number), (shared, alone[2 + number % 3])) for number in range(9)
        )

    tasks = []
    for turn in range(10):
        answers = await asyncio.gather(*crowd(turn))
        assert kinds(answers) == {"Admitted": 18}
        opened = await asyncio.gather(
            *(
                pair[answer.task.created_at % 2].open_attempt(
                    answer.task,
                    an_attempt(answer.task),
                    begin(),
                    (demand(f"provider:{answer.task.created_at % 3}", limit=PLENTY),),
                )
                for answer in answers
            )
        )
        assert kinds(opened) == {"Opened": 18}
        closed = await asyncio.gather(
            *(
                pair[number % 2].close_attempt(one.task, end(one.attempt), deliver())
                for number, one in enumerate(opened)
            )
        )
        assert kinds(closed) == {"Task": 18}
        tasks += closed
    await check_books(first, *tasks)
    assert await count_deadlocks(connection) == 0
