"""Results that callers were sent away from with the 504 of contract 5.1: until one is collected, an equal request
without a key attaches to its task instead of being made anew.

The store has them, so that the right survives a restart and holds at every replica; each daemon keeps what stands there
in memory, because every submit asks. It hears of other daemons' once a turn, which is when the 504 says to come back.
What is attached to is for the tasks' own rows to say (`Store.alike`); this only says whether to look. Floor 2.
"""

from __future__ import annotations

from router.persistence import Store, Unavailable
from router.task import Task

KEPT_MS = 24 * 3_600_000  # longer than any task takes
KEPT_MAX = 10_000


class Uncollected:
    """(tenant, digest) of requests whose result is waited for by nobody."""

    def __init__(self, store: Store) -> None:
        """Nothing is known before the first `refresh`."""
        self._store = store
        self._until: dict[tuple[str, str], int] = {}
        self._fresh: dict[tuple[str, str], int] = {}  # added here, and not yet read from the store
        self._collected = 0

    def holds(self, tenant: str, digest: str, now: int) -> bool:
        """Whether an equal request should attach."""
        return self._until.get((tenant, digest), 0) > now

    def remember(self, task: Task, now: int) -> None:
        """A caller is sent away while the store is: it is known here, and written with the next `refresh`."""
        if len(self._until) >= KEPT_MAX:
            self._until = {pair: until for pair, until in self._until.items() if until > now}
            self._fresh = {pair: until for pair, until in self._fresh.items() if pair in self._until}
        if len(self._until) < KEPT_MAX:
            pair = (task.tenant, task.digest)
            self._until[pair] = self._fresh[pair] = now + KEPT_MS

    async def add(self, task: Task, now: int) -> None:
        """A caller is sent away."""
        self.remember(task, now)
        try:
            await self._store.leave_uncollected(task.tenant, task.digest, now + KEPT_MS, now)
        except Unavailable:
            return

    async def collect(self, tenant: str, digest: str) -> None:
        """The result has been given out."""
        if self._until.pop((tenant, digest), None) is None:
            return
        self._fresh.pop((tenant, digest), None)
        self._collected += 1
        try:
            await self._store.collect(tenant, digest)
        except Unavailable:
            return  # one more equal request will attach

    async def refresh(self, now: int) -> None:
        """Hear what stands in the store, and write what is known here alone; `Unavailable` leaves what was known.

        What was collected or added meanwhile is not in what was read, so that this never forgets or revives it.
        """
        collected = self._collected
        rows = await self._store.uncollected(now, KEPT_MAX)
        if collected == self._collected:
            seen = {(tenant, digest): until for tenant, digest, until in rows}
            self._fresh = {pair: until for pair, until in self._fresh.items() if pair not in seen and until > now}
            self._until = seen | self._fresh
            for (tenant, digest), until in tuple(self._fresh.items()):
                await self._store.leave_uncollected(tenant, digest, until, now)
