"""The money of one transaction on PostgreSQL: which balances it locks, in one order, and what it adds to them.

Two transactions that each hold a balance and want the other's wait until the server ends one of them, a second later.
So nothing is added to a balance before the end of the transaction, and everything that decisions need is locked at
once, in order, together with what is to be added by then. Knows no verb. Floor 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.store import sql

Pair = tuple[str, str]  # budget and period
Amounts = tuple[int, int]  # held and spent

# A balance that exists is locked; one that does not is not made, for the verb that asks for it may yet be undone.
LOCK_KNOWN = "select from balance where budget = $1 and period = $2 for update"


class Till:
    """Balances as locked, and what the verbs have added to them so far."""

    def __init__(self, connection: Any) -> None:
        """Serve the transaction that is open on a connection."""
        self._connection = connection
        self._locked: dict[Pair, Amounts] = {}
        self._added: dict[Pair, Amounts] = {}
        self._kept: dict[Pair, Amounts] = {}

    async def lock(self, pairs: Iterable[Pair]) -> None:
        """Lock balances for decisions; one that nobody has used begins at nothing."""
        wanted = sorted({*pairs, *self._added})
        rows = await self._connection.fetchmany(sql.LOCK_BALANCE, wanted)
        self._locked = {pair: (row[0], row[1]) for pair, row in zip(wanted, rows, strict=True)}

    async def lock_known(self, pairs: Iterable[Pair]) -> None:
        """Lock those that exist. Each is read when it is asked for."""
        await self._connection.executemany(LOCK_KNOWN, sorted({*pairs, *self._added}))

    async def read(self, pair: Pair) -> Amounts:
        """A balance as this transaction would leave it."""
        locked = self._locked.get(pair)
        if locked is None:
            row = await self._connection.fetchrow(sql.LOCK_BALANCE, *pair)
            locked = row[0], row[1]
        return _sum(locked, self._added.get(pair, (0, 0)))

    def add(self, budget: str, period: str, held: int, spent: int) -> None:
        """Add to a balance, at the end."""
        pair = budget, period
        self._added[pair] = _sum(self._added.get(pair, (0, 0)), (held, spent))

    def keep(self) -> None:
        """What was added so far stays."""
        self._kept = dict(self._added)

    def undo(self) -> None:
        """Take back what was added since then."""
        self._added = dict(self._kept)

    async def close(self) -> None:
        """Write down what was added. A balance that comes out as before is written too: it has been used."""
        if self._added:
            rows = [(*pair, *self._added[pair]) for pair in sorted(self._added)]
            await self._connection.executemany(sql.POST_BALANCE, rows)


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return one[0] + other[0], one[1] + other[1]
