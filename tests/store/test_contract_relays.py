"""Relayed completions in every engine: their rows, what they count for, sums, and what is deleted when."""

import asyncio

from router.outcome import Billed
from router.persistence import Admitted, OverBudget
from tests.store.stage import CENT, DAY, LATER, Cast, a_relayed, a_task, charge, demand

TENANT = ("tenant:acme", DAY)


async def test_a_try_is_read_back_as_it_was_written(store):
    first = a_relayed(n=1, outcome="overloaded", billing=Billed.NO, cost_nanos=0, begun=False, detail="busy 🪲\n")
    second = a_relayed(n=2, key_id=None, estimated=True)
    assert await store.book(second, ())
    assert await store.book(first, ())

    assert await store.relayed("acme", first.request_id) == (first, second)
    assert await store.relayed("acme", "req_nobody") == ()


async def test_another_tenants_call_is_not_shown(store):
    await store.book(a_relayed(), ())

    assert await store.relayed("globex", a_relayed().request_id) == ()


async def test_what_was_billed_is_spent_and_stands_in_the_ledger(store):
    assert await store.book(a_relayed(), (charge(), charge("all", spent=3 * CENT)))

    (balance,) = await store.balances([TENANT])
    assert (balance.held, balance.spent) == (0, 3 * CENT)
    lines = await store.ledger(a_relayed().request_id)
    assert [(line.entry, line.budget, line.held_delta, line.spent_delta) for line in lines] == [
        ("relay", "tenant:acme", 0, 3 * CENT),
        ("relay", "all", 0, 3 * CENT),
        ("spend", "", 0, 3 * CENT),
    ]
    assert {(line.n, line.provider, line.model, line.at) for line in lines} == {(1, "openai", "gpt-4o", LATER)}


async def test_what_nobody_knows_the_bill_of_stays_held(store):
    unknown = a_relayed(billing=Billed.UNKNOWN, cost_nanos=None, outcome="unknown")
    await store.book(unknown, (charge(held=5 * CENT, spent=0),))

    (balance,) = await store.balances([TENANT])
    assert (balance.held, balance.spent) == (5 * CENT, 0)
    assert [line.spent_delta for line in await store.ledger(unknown.request_id)] == [0, None]


async def test_what_was_not_billed_leaves_a_row_and_no_money(store):
    free = a_relayed(billing=Billed.NO, cost_nanos=0, outcome="overloaded")
    assert await store.book(free, ())

    assert await store.ledger(free.request_id) == ()
    assert await store.balances([TENANT]) == ()


async def test_a_try_that_is_said_twice_is_written_once(store):
    answers = [await store.book(a_relayed(), (charge(),)) for _ in range(2)]
    answers += await asyncio.gather(*(store.book(a_relayed(), (charge(),)) for _ in range(3)))

    (balance,) = await store.balances([TENANT])
    assert answers == [True, False, False, False, False]
    assert balance.spent == 3 * CENT
    assert len(await store.ledger(a_relayed().request_id)) == 2


async def test_many_tries_at_once_are_all_written(store):
    answers = await asyncio.gather(*(store.book(a_relayed(number), (charge(),)) for number in range(100)))

    (balance,) = await store.balances([TENANT])
    assert (all(answers), balance.spent) == (True, 300 * CENT)
    assert store.writes["book"] == 100


async def test_a_task_meets_the_budget_that_calls_have_used(store):
    await store.book(a_relayed(), (charge(spent=97 * CENT),))

    wide = demand(unit=4 * CENT)
    assert await store.admit(a_task(1), (wide,)) == OverBudget(wide, 3 * CENT)
    assert isinstance(await store.admit(a_task(2), (demand(unit=3 * CENT),)), Admitted)


async def test_calls_are_part_of_what_was_spent(store):
    await Cast(store).succeed(a_task(1, model="gpt-4o"))
    await store.book(a_relayed(1), ())
    await store.book(a_relayed(2, outcome="job_failed"), ())
    await store.book(a_relayed(3, outcome="cancelled", billing=Billed.UNKNOWN, cost_nanos=None), ())
    await store.book(a_relayed(4, tenant="globex"), ())
    await store.book(a_relayed(5, model="gpt-4o-mini", key_id=None), ())

    lines = await store.spending("acme", 0, 2**53)
    assert [(one.model, one.key_id, one.attempts, one.delivered, one.unknown) for one in lines] == [
        ("gpt-4o", "key-1", 4, 2, 1),
        ("gpt-4o-mini", None, 1, 1, 0),
    ]
    assert (lines[0].cost_nanos, lines[0].wasted_nanos) == (10 * CENT, 3 * CENT)
    assert await store.spending("acme", LATER + 1, 2**53) == ()


async def test_old_rows_are_deleted_and_their_money_stays(store):
    for number in range(1, 4):
        await store.book(a_relayed(number, ended_at=LATER + number), (charge(),))

    assert await store.forget_relayed(LATER + 3, 1) == 1
    assert await store.forget_relayed(LATER + 3, 10) == 1
    assert await store.forget_relayed(LATER + 3, 10) == 0
    left = [await store.relayed("acme", a_relayed(number).request_id) for number in range(1, 4)]
    assert [len(rows) for rows in left] == [0, 0, 1]
    assert (await store.balances([TENANT]))[0].spent == 9 * CENT
    assert len(await store.ledger(a_relayed(1).request_id)) == 2
