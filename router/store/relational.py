"""The verbs of `persistence.Store` over an engine: which lane each takes. What they mean stands in `verbs`.

A writing verb returns after the commit that made it durable; verbs called together share that commit. Reads never wait
for writes: short ones and long ones have a lane each. What keeps the fleet together (signs of life, leases, retention)
has its own lane where the engine can write on several, so that it never waits behind a crowd of submits. Floor 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.changes import Change
from router.leases import CircuitKey, CircuitNews, CircuitSeen, Grant, Want
from router.persistence import (
    Admitted,
    Backlog,
    Balance,
    Cancelled,
    Demand,
    Duplicate,
    LedgerEntry,
    Opened,
    OverBudget,
    Owner,
    Search,
    Stale,
    TaskView,
    TooLate,
)
from router.provider import Handle
from router.store.keys import KeyLanes
from router.store.lane import Lane
from router.store.outbox import OutboxLanes
from router.store.relays import RelayLanes
from router.store.shelf import ShelfLanes
from router.store.verbs import Verbs
from router.task import Attempt, Move, Task
from router.usage import Spending


@dataclass(frozen=True, slots=True)
class Lanes:
    """Who executes what: `writer` the life of tasks, `keeper` the fleet's own, `reader` short reads, `lister` long."""

    writer: Lane
    keeper: Lane
    reader: Lane
    lister: Lane


class RelationalStore(KeyLanes, OutboxLanes, RelayLanes, ShelfLanes):
    """The store over an SQL engine. `writes` counts the writing verbs; `on_commit` is told the seconds of each commit.

    `warning` is a line for the operator about the engine in use, None when there is nothing to say.
    """

    shared: bool
    _verbs: Verbs
    warning: str | None = None

    def __init__(self, lanes: Lanes, verbs: Verbs) -> None:
        """Serve over lanes that are open."""
        self.writes: Counter[str] = Counter()
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        self._verbs = verbs
        self._writer, self._keeper = lanes.writer, lanes.keeper
        self._reader, self._lister = lanes.reader, lanes.lister
        self._closed = False

    # -- ownership ----------------------------------------------------------------------------------------------------

    async def register(self, replica: str, now: int) -> Owner:
        """Begin a life."""
        self.writes["register"] += 1
        return await self._keeper.ask(self._verbs.register, replica, now)

    async def heartbeat(self, owner: Owner, now: int) -> bool:
        """Note a sign of life."""
        self.writes["heartbeat"] += 1
        return await self._keeper.ask(self._verbs.heartbeat, owner, now)

    async def leave(self, owner: Owner) -> None:
        """End a life."""
        self.writes["leave"] += 1
        await self._keeper.ask(self._verbs.leave, owner)

    async def claim(self, owner: Owner, silent_ms: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over what silent lives left."""
        self.writes["claim"] += 1
        return await self._keeper.ask(self._verbs.claim, owner, silent_ms, limit, now)

    async def relieve(self, owner: Owner, leave: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over what others will not come to soon."""
        self.writes["relieve"] += 1
        return await self._keeper.ask(self._verbs.relieve, owner, leave, limit, now)

    # -- the life of a task -------------------------------------------------------------------------------------------

    async def admit(self, task: Task, demands: Sequence[Demand]) -> Admitted | Duplicate | OverBudget:
        """Write a task with its reservation."""
        self.writes["admit"] += 1
        return await self._writer.ask(self._verbs.admit, task, demands)

    async def open_attempt(
        self, task: Task, attempt: Attempt, move: Move, demands: Sequence[Demand]
    ) -> Opened | OverBudget | Stale:
        """Write an intent."""
        self.writes["open_attempt"] += 1
        return await self._writer.ask(self._verbs.open_attempt, task, attempt, move, demands)

    async def withdraw(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """Take back an intent."""
        self.writes["withdraw"] += 1
        return await self._writer.ask(self._verbs.withdraw, task, attempt, move)

    async def accept(self, attempt: Attempt, handle: Handle, at: int) -> Attempt | Stale:
        """Write down a job id."""
        self.writes["accept"] += 1
        return await self._writer.ask(self._verbs.accept, attempt, handle, at)

    async def close_attempt(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """End an attempt and move its task."""
        self.writes["close_attempt"] += 1
        return await self._writer.ask(self._verbs.close_attempt, task, attempt, move)

    async def hear(self, attempt: Attempt) -> Attempt | Stale:
        """End an attempt whose task has ended before it."""
        self.writes["hear"] += 1
        return await self._writer.ask(self._verbs.hear, attempt)

    async def move(self, task: Task, move: Move) -> Task | Stale:
        """Move a task alone."""
        self.writes["move"] += 1
        return await self._writer.ask(self._verbs.move, task, move)

    async def cancel(self, tenant: str, task_id: str, move: Move) -> Cancelled | TooLate | None:
        """End a task whatever version it has."""
        self.writes["cancel"] += 1
        return await self._writer.ask(self._verbs.cancel, tenant, task_id, move)

    # -- what daemons share -------------------------------------------------------------------------------------------

    async def share(self, owner: Owner, wants: Sequence[Want], silent_ms: int, now: int) -> tuple[Grant, ...]:
        """Lease places and tokens."""
        self.writes["share"] += 1
        return await self._keeper.ask(self._verbs.share, owner, wants, silent_ms, now)

    async def exchange(self, owner: Owner, news: Sequence[CircuitNews], now: int) -> tuple[CircuitSeen, ...]:
        """Tell of circuits and hear of them."""
        self.writes["exchange"] += 1
        return await self._keeper.ask(self._verbs.exchange, owner, news, now)

    async def lease_probe(self, owner: Owner, key: CircuitKey, lease_ms: int, silent_ms: int, now: int) -> bool:
        """Take the right to probe."""
        self.writes["lease_probe"] += 1
        return await self._keeper.ask(self._verbs.lease_probe, owner, key, lease_ms, silent_ms, now)

    async def halted(self, owner: Owner) -> tuple[tuple[str, str], ...]:
        """List what others have ended."""
        return await self._lister.ask(self._verbs.halted, owner)

    async def ended(self, tasks: Sequence[tuple[str, str]]) -> tuple[Task, ...]:
        """Read which have ended."""
        return await self._lister.ask(self._verbs.ended, tasks)

    # -- reads --------------------------------------------------------------------------------------------------------

    async def view(self, tenant: str, task_id: str) -> TaskView | None:
        """Read one task."""
        return await self._reader.ask(self._verbs.view, tenant, task_id)

    async def search(self, tenant: str, search: Search) -> tuple[TaskView, ...]:
        """Read a page of tasks, or the one that a key stands for."""
        lane = self._lister if search.idempotency_key is None else self._reader
        return await lane.ask(self._verbs.search, tenant, search)

    async def alike(self, tenant: str, digest: str, since: int) -> tuple[Task, ...]:
        """Read equal requests."""
        return await self._reader.ask(self._verbs.alike, tenant, digest, since)

    async def waiting(self, owner: Owner, limit: int) -> tuple[Task, ...]:
        """Read what waits."""
        return await self._lister.ask(self._verbs.waiting, owner, limit)

    async def backlog(self, owner: Owner) -> Backlog:
        """Count what waits."""
        return await self._lister.ask(self._verbs.backlog, owner)

    async def balances(self, names: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Read balances."""
        return await self._reader.ask(self._verbs.balances, names)

    async def ledger(self, task_id: str) -> tuple[LedgerEntry, ...]:
        """Read the ledger of one task."""
        return await self._reader.ask(self._verbs.ledger, task_id)

    async def versions(self, tenant: str, task_ids: Sequence[str]) -> tuple[Change, ...]:
        """Read how far tasks are."""
        return await self._lister.ask(self._verbs.versions, tenant, task_ids)

    async def changed(self, tenant: str, after: tuple[int, str], limit: int) -> tuple[Change, ...]:
        """List what was moved."""
        return await self._lister.ask(self._verbs.changed, tenant, after, limit)

    async def leave_uncollected(self, tenant: str, digest: str, until: int, now: int) -> None:
        """Note a result that nobody has."""
        self.writes["leave_uncollected"] += 1
        await self._writer.ask(self._verbs.leave_uncollected, tenant, digest, until, now)

    async def collect(self, tenant: str, digest: str) -> None:
        """Forget it."""
        self.writes["collect"] += 1
        await self._writer.ask(self._verbs.collect, tenant, digest)

    async def uncollected(self, now: int, limit: int) -> tuple[tuple[str, str, int], ...]:
        """List results that nobody has."""
        return await self._reader.ask(self._verbs.uncollected, now, limit)

    async def spending(self, tenant: str, since: int, until: int) -> tuple[Spending, ...]:
        """Sum what was spent."""
        return await self._lister.ask(self._verbs.spending, tenant, since, until)

    # -- housekeeping -------------------------------------------------------------------------------------------------

    async def keep(self, name: str, value: str) -> str:
        """Write a setting unless it exists."""
        self.writes["keep"] += 1
        return await self._keeper.ask(self._verbs.keep, name, value)

    async def sweep(self, now: int, limit: int) -> tuple[Task, ...]:
        """Strip ended tasks."""
        self.writes["sweep"] += 1
        return await self._keeper.ask(self._verbs.sweep, now, limit)

    async def forget(self, completed_before: int, limit: int) -> int:
        """Delete old rows."""
        self.writes["forget"] += 1
        return await self._keeper.ask(self._verbs.forget, completed_before, limit)

    async def ping(self) -> None:
        """Prove that the writer gets through to the engine and that a reader answers."""
        await self._writer.ask(self._verbs.ping)
        await self._reader.ask(self._verbs.ping)

    def hint(self, topic: str) -> None:
        """Nobody else is there to hear it, unless the engine says otherwise."""

    def listen(self, hear: Callable[[str], None]) -> None:
        """Nobody else is there to be heard, unless the engine says otherwise."""

    async def close(self) -> None:
        """Take no more verbs, finish what was asked, and let go."""
        if self._closed:
            return
        self._closed = True
        lanes = list(dict.fromkeys((self._reader, self._lister, self._keeper, self._writer)))
        for lane in lanes:
            lane.shut()
        for lane in lanes:
            await lane.finish()
        await self._let_go()

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _let_go(self) -> None:
        """Close the engine; every lane has finished."""
        raise NotImplementedError

    def _served(self, seconds: float | None) -> None:
        """A batch is done; `seconds` is what its commit took, None for reads."""
        if seconds is not None:
            with suppress(Exception):  # whoever watches must not steer
                self.on_commit(seconds)
