"""Relayed completions as a dict: the reference for `router.relays.RelayStore`, mixed into `MemoryStore`. Floor 3.

Knows no SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.policy import budget
from router.relays import Charge, Relayed
from router.store.books import Books


class MemoryRelays:
    """The verbs over `_relayed`, by call and number of the try."""

    books: Books
    _relayed: dict[tuple[str, int], Relayed]
    _write: Callable[[str], None]
    _read: Callable[[], None]

    async def book(self, relayed: Relayed, charges: Sequence[Charge]) -> bool:
        """Add a try and what it cost, once."""
        self._write("book")
        key = relayed.request_id, relayed.n
        if key in self._relayed:
            return False
        self._relayed[key] = relayed
        self.books.post(relayed.request_id, budget.book(relayed, charges))
        return True

    async def relayed(self, tenant: str, request_id: str) -> tuple[Relayed, ...]:
        """Look the tries up."""
        self._read()
        found = [one for one in self._relayed.values() if (one.tenant, one.request_id) == (tenant, request_id)]
        return tuple(sorted(found, key=lambda one: one.n))

    async def forget_relayed(self, ended_before: int, limit: int) -> int:
        """Delete the oldest."""
        self._write("forget_relayed")
        old = sorted((one.ended_at, *key) for key, one in self._relayed.items() if one.ended_at < ended_before)[:limit]
        for _ended_at, request_id, n in old:
            del self._relayed[request_id, n]
        return len(old)
