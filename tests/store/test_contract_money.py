"""Budgets in every engine: what is held when, what is given back, and that balances are always the ledger's sums."""

import asyncio

import pytest

from router.outcome import Billed
from router.persistence import Admitted, Balance, OverBudget, Stale
from router.task import joined, went_on
from tests.store.stage import (
    CENT,
    DAY,
    LATER,
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
    retry,
)

TENANT = ("tenant:acme", DAY)
JOIN = joined(LATER, "flux", "flux-2")
PROVIDER = ("provider:openai", DAY)


async def balance_of(store, pair=TENANT):
    """Read (held, spent) of a budget in cents."""
    (balance,) = await store.balances([pair])
    return balance.held / CENT, balance.spent / CENT


async def entries_of(store, task, n=None):
    """Read the ledger as (entry, budget, cents held, cents spent)."""
    return [
        (line.entry, line.budget, line.held_delta / CENT, None if line.spent_delta is None else line.spent_delta / CENT)
        for line in await store.ledger(task.id)
        if n is None or line.n == n
    ]


# -- admission --------------------------------------------------------------------------------------------------------


async def test_admission_reserves_the_units_of_every_budget(store):
    task = await Cast(store).admit(None, demand(units=3), demand("all", unit=2 * CENT))

    assert await balance_of(store) == (12, 0)
    assert await balance_of(store, ("all", DAY)) == (2, 0)
    assert await entries_of(store, task) == [("reserve", "tenant:acme", 12, 0), ("reserve", "all", 2, 0)]
    assert {line.n for line in await store.ledger(task.id)} == {0}


async def test_what_does_not_fit_is_named_and_nothing_is_written(store):
    await Cast(store).admit(a_task(1), demand(unit=70 * CENT))
    wide, tight = demand("all"), demand(unit=31 * CENT)

    assert await store.admit(a_task(2), (wide, tight)) == OverBudget(tight, 30 * CENT)
    assert await store.view("acme", a_task(2).id) is None
    assert await store.balances([("all", DAY)]) == ()
    assert await store.ledger(a_task(2).id) == ()


async def test_a_budget_is_filled_to_its_last_nano(store):
    await Cast(store).admit(a_task(1), demand(unit=99 * CENT))
    last = demand(unit=CENT)

    assert isinstance(await store.admit(a_task(2), (last,)), Admitted)
    assert await store.admit(a_task(3), (demand(unit=1),)) == OverBudget(demand(unit=1), 0)


async def test_a_new_window_starts_with_nothing_spent(store):
    whole = demand(unit=100 * CENT)
    await Cast(store).succeed(a_task(1), whole)

    assert isinstance(await store.admit(a_task(2), (whole,)), OverBudget)
    assert isinstance(await store.admit(a_task(3), (demand(unit=100 * CENT, window="day:2026-11-21"),)), Admitted)


async def test_300_at_once_against_a_budget_for_25_gives_exactly_25(store):
    answers = await asyncio.gather(*(store.admit(a_task(number), (demand(),)) for number in range(300)))

    assert sum(isinstance(answer, Admitted) for answer in answers) == 25
    assert sum(isinstance(answer, OverBudget) for answer in answers) == 275
    assert await balance_of(store) == (100, 0)


async def test_a_budget_window_that_is_demanded_twice_is_a_mistake(store):
    with pytest.raises(ValueError, match="demanded twice"):
        await store.admit(a_task(), (demand(), demand(unit=CENT)))
    assert await store.view("acme", a_task().id) is None


# -- attempts ---------------------------------------------------------------------------------------------------------


async def test_an_attempt_takes_a_unit_and_holds_its_providers_budget(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=2)), demand("provider:openai", unit=3 * CENT))

    assert await balance_of(store) == (8, 0)
    assert await balance_of(store, PROVIDER) == (3, 0)
    assert await entries_of(store, opened.task, 1) == [("hold", "tenant:acme", 0, 0), ("hold", "provider:openai", 3, 0)]
    await check_books(store, opened.task)


async def test_an_attempt_takes_a_unit_for_each_image_and_gives_back_what_it_took(store):
    cast = Cast(store)
    first = await cast.open(await cast.admit(None, demand(units=4)), count=3)
    second = await store.open_attempt(first.task, an_attempt(first.task, part=3, count=1), JOIN, ())
    fourth = an_attempt(second.task, part=4, count=1)
    refused = await store.open_attempt(second.task, fourth, JOIN, ())
    task = await store.close_attempt(second.task, end(first.attempt, billing=Billed.NO), went_on(LATER))
    after_release = await balance_of(store)
    again = await store.open_attempt(task, an_attempt(task, n=3, part=0, count=3), JOIN, ())
    task = await store.close_attempt(again.task, end(again.attempt, cost=10 * CENT), went_on(LATER))
    between = await balance_of(store)
    task = await store.close_attempt(task, end(second.attempt, billing=Billed.UNKNOWN), deliver())

    assert refused == OverBudget(demand(), 0)
    assert (after_release, between, await balance_of(store)) == ((16, 0), (4, 10), (4, 10))
    assert await entries_of(store, task, 1) == [("hold", "tenant:acme", 0, 0), ("release", "tenant:acme", 0, 0)]
    assert [line for line in await entries_of(store, task, 3) if line[1]] == [
        ("hold", "tenant:acme", 0, 0),
        ("settle", "tenant:acme", -12, 10),
    ]
    await check_books(store, task)


async def test_a_bill_of_unknown_amount_counts_as_the_estimate_of_all_its_images(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=3)), count=3)
    await cast.close(opened, cost=None)

    assert await balance_of(store) == (0, 12)


async def test_a_task_without_a_unit_left_opens_no_attempt(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()))
    task = await cast.close(opened, retry(), billing=Billed.UNKNOWN)

    assert await store.open_attempt(task, an_attempt(task), begin(), ()) == OverBudget(demand(), 0)
    assert (await store.view("acme", task.id)).task == task
    assert len((await store.view("acme", task.id)).attempts) == 1


async def test_a_full_provider_budget_opens_no_attempt_and_takes_no_unit(store):
    cast = Cast(store)
    task = await cast.admit(None, demand())
    narrow = demand("provider:openai", unit=5 * CENT, limit=4 * CENT)

    assert await store.open_attempt(task, an_attempt(task), begin(), (narrow,)) == OverBudget(narrow, 4 * CENT)
    assert (await store.view("acme", task.id)).task == task
    await cast.open(task, demand("provider:flux", unit=5 * CENT), provider="flux")
    assert await entries_of(store, task, 1) == [("hold", "tenant:acme", 0, 0), ("hold", "provider:flux", 5, 0)]


async def test_a_billed_attempt_is_settled_at_its_cost_and_the_rest_is_freed(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=2)), demand("provider:openai"))
    task = await cast.close(opened, cost=3 * CENT)

    assert await balance_of(store) == (0, 3)
    assert await balance_of(store, PROVIDER) == (0, 3)
    assert await entries_of(store, task) == [
        ("reserve", "tenant:acme", 8, 0),
        ("hold", "tenant:acme", 0, 0),
        ("hold", "provider:openai", 4, 0),
        ("settle", "provider:openai", -4, 3),
        ("settle", "tenant:acme", -4, 3),
        ("spend", "", 0, 3),
        ("free", "tenant:acme", -4, 0),
    ]
    await check_books(store, task)


async def test_a_bill_above_the_estimate_is_written_as_it_is(store):
    cast = Cast(store)
    await cast.close(await cast.open(await cast.admit(None, demand())), cost=130 * CENT)

    assert await balance_of(store) == (0, 130)
    assert await store.admit(a_task(2), (demand(),)) == OverBudget(demand(), 0)


async def test_a_billed_attempt_of_unknown_amount_counts_as_its_estimate(store):
    cast = Cast(store)
    task = await cast.close(await cast.open(await cast.admit(None, demand())), cost=None)

    assert await balance_of(store) == (0, 4)
    assert await entries_of(store, task, 1) == [
        ("hold", "tenant:acme", 0, 0),
        ("settle", "tenant:acme", -4, 4),
        ("spend", "", 0, None),
    ]


async def test_an_unbilled_attempt_gives_its_unit_back_to_the_task_that_goes_on(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()), demand("provider:openai"))
    task = await cast.close(opened, retry(), billing=Billed.NO)

    assert await balance_of(store) == (4, 0)
    assert await balance_of(store, PROVIDER) == (0, 0)
    assert await entries_of(store, task, 1) == [
        ("hold", "tenant:acme", 0, 0),
        ("hold", "provider:openai", 4, 0),
        ("release", "provider:openai", -4, 0),
        ("release", "tenant:acme", 0, 0),
    ]
    done = await cast.close(await cast.open(task))
    assert await balance_of(store) == (0, 4)
    await check_books(store, done)


async def test_an_unbilled_attempt_that_ends_the_task_gives_everything_back(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=2)))
    task = await cast.close(opened, fail_with(), billing=Billed.NO)

    assert await balance_of(store) == (0, 0)
    assert (await entries_of(store, task))[2:] == [("release", "tenant:acme", -4, 0), ("free", "tenant:acme", -4, 0)]
    await check_books(store, task)


async def test_an_unknown_bill_keeps_its_unit_and_frees_the_rest(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=3)), demand("provider:openai"))
    task = await cast.close(opened, fail_with("outcome_unknown"), billing=Billed.UNKNOWN)

    assert await balance_of(store) == (4, 0)
    assert await balance_of(store, PROVIDER) == (4, 0)
    assert (await entries_of(store, task))[3:] == [("spend", "", 0, None), ("free", "tenant:acme", -8, 0)]
    await check_books(store, task)


async def test_a_withdrawn_attempt_costs_nothing(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()), demand("provider:openai"))
    back = await store.withdraw(opened.task, opened.attempt, interrupt())

    assert await balance_of(store) == (4, 0)
    assert await balance_of(store, PROVIDER) == (0, 0)
    done = await cast.close(await cast.open(back, demand("provider:openai")))
    assert await balance_of(store) == (0, 4)
    assert [line.entry for line in await store.ledger(done.id) if line.n == 1 and line.budget == "tenant:acme"] == [
        *("hold", "release"),
        *("hold", "settle"),
    ]
    await check_books(store, done)


# -- ends without an attempt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "move"])
async def test_a_waiting_task_that_ends_frees_its_reservation(store, how):
    task = await Cast(store).admit(None, demand(units=2), demand("all"))
    await (store.cancel("acme", task.id, cancel_it()) if how == "cancel" else store.move(task, fail_with()))

    assert await balance_of(store) == (0, 0)
    assert (await entries_of(store, task))[2:] == [("free", "all", -4, 0), ("free", "tenant:acme", -8, 0)]


@pytest.mark.parametrize(("billing", "after"), [(Billed.YES, (0, 3)), (Billed.NO, (0, 0)), (Billed.UNKNOWN, (4, 0))])
async def test_a_cancel_frees_what_is_not_out_and_the_hearing_settles_the_rest(store, billing, after):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand(units=3)), demand("provider:openai"))
    await store.cancel("acme", opened.task.id, cancel_it())
    assert await balance_of(store) == (4, 0)

    heard = await store.hear(end(opened.attempt, billing=billing, cost=3 * CENT))

    assert heard.billing is billing
    assert await balance_of(store) == after
    assert await balance_of(store, PROVIDER) == after
    await check_books(store, opened.task)


async def test_nothing_is_refunded_twice(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()))
    await store.cancel("acme", opened.task.id, cancel_it())
    ended = end(opened.attempt, billing=Billed.NO)
    answers = await asyncio.gather(*(store.hear(ended) for _ in range(4)))

    assert sum(isinstance(answer, Stale) for answer in answers) == 3
    assert await balance_of(store) == (0, 0)
    assert [line.entry for line in await store.ledger(opened.task.id)] == ["reserve", "hold", "release"]


async def test_spending_is_written_without_any_budget_too(store):
    cast = Cast(store)
    task = await cast.succeed()
    (line,) = await store.ledger(task.id)

    assert (line.entry, line.budget, line.window, line.spent_delta) == ("spend", "", "", 4 * CENT)
    assert (line.tenant, line.provider, line.model, line.n, line.at) == ("acme", "openai", "gpt-image-2", 1, LATER)


async def test_balances_never_used_are_left_out(store):
    await Cast(store).admit(None, demand())

    assert await store.balances([("tenant:nobody", DAY), TENANT, TENANT]) == (Balance(*TENANT, 4 * CENT, 0),)
    assert await store.balances([]) == ()


async def test_the_books_of_many_tasks_at_once_add_up(store):
    async def live(number):
        cast, shared = Cast(store), (demand(limit=10_000 * CENT, units=2), demand("all", limit=10_000 * CENT))
        task = await cast.admit(a_task(number), *shared)
        for turn in range(number % 4):
            opened = await cast.open(task, demand("provider:openai", limit=10_000 * CENT))
            billing = (Billed.NO, Billed.UNKNOWN, Billed.YES)[(number + turn) % 3]
            last = turn == number % 4 - 1 or billing is not Billed.NO
            task = await cast.close(opened, deliver() if last else retry(), billing=billing, cost=number * 7)
            if last:
                return
        await store.cancel("acme", task.id, cancel_it())

    await asyncio.gather(*(live(number) for number in range(40)))

    await check_books(store, *(a_task(number) for number in range(40)))
