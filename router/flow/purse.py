"""Budgets of calls that are not tasks: held in memory while one is out, written down soon after (contract section 2).

A hold counts against the store's balances together with every other hold of this daemon and with what is still to be
written, so that calls side by side never pass a limit together. Other daemons do not see a hold: between them a budget
may be passed by what is out. What a call cost is written `WRITE_AFTER_S` after it ended, with whatever else ended until
then, in one commit; a crash loses no more than that. While the store cannot be written to, `behind` says so, and no new
call may begin. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from router.persistence import Demand, OverBudget, Unavailable
from router.policy.budget import Pair
from router.relays import Charge, Relayed, RelayStore
from router.world import World

WRITE_AFTER_S = 0.4
WRITE_AGAIN_S = 0.5
BATCH_MAX = 256
LAST_WRITES_S = 5.0  # how long the end of a daemon waits for a store that is away


@dataclass(slots=True, eq=False)
class Held:
    """What a call holds. Give it back once."""

    demands: tuple[Demand, ...] = ()


class Purse:
    """The holds and the unwritten bills of one daemon."""

    def __init__(self, world: World) -> None:
        """Hold nothing."""
        self.behind = False
        self._store: RelayStore = world.store
        self._balances = world.store.balances
        self._held: Counter[Pair] = Counter()
        self._asking: dict[int, Counter[Pair]] = {}  # by number: what was written while somebody reads balances
        self._asked = 0
        self._unwritten: list[tuple[Relayed, tuple[Charge, ...]]] = []
        self._hurry = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    async def hold(self, demands: Sequence[Demand]) -> Held | OverBudget:
        """Hold all demands or none; `OverBudget` names one that does not fit. Raises `Unavailable`.

        What is written down during the read may be in the balances that it finds, or not: it counts twice rather than
        not at all.
        """
        if not demands:
            return Held()
        self._asked += 1
        number, late = self._asked, Counter[Pair]()
        self._asking[number] = late
        try:
            rows = await self._balances([_pair_of(one) for one in demands])
        finally:
            del self._asking[number]
        used = {(row.budget, row.window): row.held + row.spent for row in rows}
        for one in demands:
            pair = _pair_of(one)
            left = one.limit - used.get(pair, 0) - self._held[pair] - late[pair]
            if one.unit * one.units > left:
                return OverBudget(one, max(0, left))
        for one in demands:
            self._held[_pair_of(one)] += one.unit * one.units
        return Held(tuple(demands))

    def give_back(self, held: Held) -> None:
        """The call is over; what it cost has been booked."""
        for one in held.demands:
            self._drop(_pair_of(one), one.unit * one.units)
        held.demands = ()

    def book(self, relayed: Relayed, charges: Sequence[Charge]) -> None:
        """Have a try written down. What it counts for is held until it is."""
        for one in charges:
            self._held[one.budget, one.window] += one.held + one.spent
        self._unwritten.append((relayed, tuple(charges)))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_soon())

    async def finish(self) -> None:
        """Write what is left, now; a store that stays away for `LAST_WRITES_S` does not keep the daemon."""
        self._hurry.set()
        if self._writing is None:
            return
        try:
            async with asyncio.timeout(LAST_WRITES_S):
                await asyncio.shield(self._writing)
        except TimeoutError:
            self._writing.cancel()

    # -- parts ------------------------------------------------------------------------------------------------------

    async def _write_soon(self) -> None:
        """Write until nothing is left."""
        try:
            await self._pause(WRITE_AFTER_S)
            while self._unwritten:
                batch = self._unwritten[:BATCH_MAX]
                answers = await asyncio.gather(
                    *(self._store.book(relayed, charges) for relayed, charges in batch), return_exceptions=True
                )
                left = [one for one, answer in zip(batch, answers, strict=True) if isinstance(answer, Unavailable)]
                self._unwritten[: len(batch)] = left
                self.behind = bool(left)
                for one, answer in zip(batch, answers, strict=True):
                    self._written(one[1], answer)
                if left:
                    await asyncio.sleep(WRITE_AGAIN_S)
        finally:
            self._writing = None

    def _written(self, charges: tuple[Charge, ...], answer: object) -> None:
        """Let go of what the balances have now. What the store cannot take at all stays held, and is told."""
        if isinstance(answer, Unavailable):
            return
        if isinstance(answer, BaseException):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a relayed call could not be written down", "exception": answer}
            )
            return
        for one in charges:
            self._drop((one.budget, one.window), one.held + one.spent)

    def _drop(self, pair: Pair, amount: int) -> None:
        self._held[pair] -= amount
        if not self._held[pair]:
            del self._held[pair]
        for late in self._asking.values():
            late[pair] += amount

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return


def _pair_of(demand: Demand) -> Pair:
    return demand.budget, demand.window
