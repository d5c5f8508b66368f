"""Holds in memory beside balances that others read and write meanwhile."""

import asyncio

from router.flow.purse import Purse
from router.persistence import Balance, Demand, OverBudget, Unavailable
from tests.sim.loop import VirtualLoop, live_through
from tests.store.stage import a_relayed, charge

PAIR = ("all", "total")


class Counter:
    """A store with one balance. A read answers what stood when it began, `slow_s` later."""

    def __init__(self):
        self.spent = 0
        self.slow_s = 0.0
        self.refuses = None
        self.booked = []

    async def balances(self, names):
        found = tuple(Balance(*name, 0, self.spent) for name in names)
        await asyncio.sleep(self.slow_s)
        return found

    async def book(self, relayed, charges):
        if self.refuses is not None:
            raise self.refuses
        self.booked.append(relayed.n)
        self.spent += sum(one.spent + one.held for one in charges)
        return True


class Outside:
    def __init__(self, store):
        self.store = store


def demand(unit, limit=100):
    return Demand(*PAIR, unit, limit)


def cost(amount):
    return (charge(*PAIR[:1], spent=amount, window=PAIR[1]),)


def play(scene, problems=0):
    loop, store = VirtualLoop(0.0), Counter()
    assert live_through(loop, scene(Purse(Outside(store)), store))
    assert len(loop.problems) == problems


def test_what_is_held_is_not_there_for_others_until_it_is_given_back():
    async def scene(purse, _store):
        held = await purse.hold([demand(60)])
        assert await purse.hold([demand(41)]) == OverBudget(demand(41), 40)
        purse.give_back(held)
        purse.give_back(held)
        assert not isinstance(await purse.hold([demand(100)]), OverBudget)
        assert isinstance(await purse.hold([demand(1)]), OverBudget)

    play(scene)


def test_all_demands_are_held_or_none():
    async def scene(purse, _store):
        tight = Demand("tenant:a", "total", 5, 4)
        assert await purse.hold([demand(60), tight]) == OverBudget(tight, 4)
        assert not isinstance(await purse.hold([demand(100)]), OverBudget)

    play(scene)


def test_what_is_written_while_a_balance_is_read_counts_in_that_read():
    async def scene(purse, store):
        held = await purse.hold([demand(60)])
        purse.book(a_relayed(), cost(60))
        purse.give_back(held)
        store.slow_s = 5.0  # the read begins before the bill is written and ends after
        assert isinstance(await purse.hold([demand(50)]), OverBudget)
        assert store.spent == 60
        store.slow_s = 0.0
        assert not isinstance(await purse.hold([demand(40)]), OverBudget)

    play(scene)


def test_a_bill_is_tried_again_until_the_store_takes_it():
    async def scene(purse, store):
        store.refuses = Unavailable("away")
        purse.book(a_relayed(), cost(60))
        await asyncio.sleep(3)
        assert purse.behind
        assert isinstance(await purse.hold([demand(41)]), OverBudget)
        store.refuses = None
        await asyncio.sleep(3)
        assert (purse.behind, store.booked, store.spent) == (False, [1], 60)
        assert not isinstance(await purse.hold([demand(40)]), OverBudget)

    play(scene)


def test_a_bill_that_the_store_cannot_take_at_all_stays_held_and_is_told():
    async def scene(purse, store):
        store.refuses = ValueError("odd")
        purse.book(a_relayed(), cost(60))
        await asyncio.sleep(3)
        assert not purse.behind
        assert isinstance(await purse.hold([demand(41)]), OverBudget)

    play(scene, problems=1)


def test_more_than_a_batch_is_written_too():
    async def scene(purse, store):
        for number in range(600):
            purse.book(a_relayed(n=number), ())
        await asyncio.sleep(1)
        assert store.booked == list(range(600))

    play(scene)


def test_the_end_writes_at_once_and_does_not_wait_for_ever():
    async def scene(purse, store):
        loop = asyncio.get_running_loop()
        purse.book(a_relayed(), ())
        await purse.finish()
        assert (store.booked, loop.time() < 0.1) == ([1], True)
        store.refuses = Unavailable("away")
        purse.book(a_relayed(n=2), ())
        await purse.finish()
        assert loop.time() < 10

    play(scene)
