"""The embedded store: one SQLite file, one thread that writes, two that read. The default engine.

A writing verb returns after the commit that made it durable; verbs called together share that commit. Reads never wait
for the writer: short ones and long ones have a thread each. What the verbs mean stands in `verbs`, how they are batched
in `lane`, what they are executed on in `database`. With `Executor.INLINE` everything happens at once on the calling
thread, for simulations. Floor 3.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path

from router.provider import Handle
from router.store.database import CannotOpen, Database, describe_engine, read
from router.store.lane import InlineLane, Lane, Serve, ThreadLane
from router.store.verbs import Verbs
from router.task import Attempt, Move, Task
from router.world import (
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

__all__ = ["CannotOpen", "Executor", "SqliteStore", "open_store"]


class Executor(StrEnum):
    """Who executes the verbs."""

    THREADS = "threads"
    INLINE = "inline"


async def open_store(
    path: Path,
    *,
    executor: Executor = Executor.THREADS,
    verbs: Verbs | None = None,
    max_page_count: int | None = None,
) -> SqliteStore:
    """Open the database file, making it and its schema if need be; `CannotOpen` says in one line what is in the way.

    `verbs` replaces what the verbs do (planted faults in tests). `max_page_count` bounds the file, in pages of 4 KiB.
    """

    def prepare() -> Database:
        return Database(path, readers=2, max_page_count=max_page_count)

    if executor is Executor.INLINE:
        return SqliteStore(prepare(), None, verbs or Verbs())
    threads = [ThreadPoolExecutor(1, thread_name_prefix=f"store-{name}") for name in ("write", "read", "list")]
    try:
        database = await asyncio.get_running_loop().run_in_executor(threads[0], prepare)
    except BaseException:
        for thread in threads:
            thread.shutdown(wait=False)
        raise
    return SqliteStore(database, threads, verbs or Verbs())


class SqliteStore:
    """The store over one SQLite file. Make it with `open_store`.

    `writes` counts the writing verbs called and `commits` the transactions they took. `on_commit` is told the seconds
    of each commit. `warning` is a line for the operator about the SQLite in use, None when there is nothing to say.
    """

    def __init__(self, database: Database, threads: Sequence[ThreadPoolExecutor] | None, verbs: Verbs) -> None:
        """Set up the lanes over an open database, on three threads or inline."""
        self.writes: Counter[str] = Counter()
        self.on_commit: Callable[[float], None] = lambda _seconds: None
        self.warning = describe_engine()
        self._database = database
        self._verbs = verbs
        self._closed = False
        serves: list[Serve] = [database.write, *(partial(read, connection) for connection in database.readers)]
        if threads is None:
            lanes: list[Lane] = [InlineLane(serve, self._served) for serve in serves]
        else:
            lanes = [ThreadLane(thread, serve, self._served) for thread, serve in zip(threads, serves, strict=True)]
        self._writer, self._reader, self._lister = lanes

    @property
    def commits(self) -> int:
        """How many transactions were made durable."""
        return self._database.commits

    # -- ownership ----------------------------------------------------------------------------------------------------

    async def register(self, replica: str, now: int) -> Owner:
        """Begin a life."""
        self.writes["register"] += 1
        return await self._writer.ask(self._verbs.register(replica, now))

    async def heartbeat(self, owner: Owner, now: int) -> bool:
        """Note a sign of life."""
        self.writes["heartbeat"] += 1
        return await self._writer.ask(self._verbs.heartbeat(owner, now))

    async def claim(self, owner: Owner, silent_since: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over what silent lives left."""
        self.writes["claim"] += 1
        return await self._writer.ask(self._verbs.claim(owner, silent_since, limit, now))

    # -- the life of a task -------------------------------------------------------------------------------------------

    async def admit(self, task: Task, demands: Sequence[Demand]) -> Admitted | Duplicate | OverBudget:
        """Write a task with its reservation."""
        self.writes["admit"] += 1
        return await self._writer.ask(self._verbs.admit(task, demands))

    async def open_attempt(
        self, task: Task, attempt: Attempt, move: Move, demands: Sequence[Demand]
    ) -> Opened | OverBudget | Stale:
        """Write an intent."""
        self.writes["open_attempt"] += 1
        return await self._writer.ask(self._verbs.open_attempt(task, attempt, move, demands))

    async def withdraw(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """Take back an intent."""
        self.writes["withdraw"] += 1
        return await self._writer.ask(self._verbs.withdraw(task, attempt, move))

    async def accept(self, attempt: Attempt, handle: Handle, at: int) -> Attempt | Stale:
        """Write down a job id."""
        self.writes["accept"] += 1
        return await self._writer.ask(self._verbs.accept(attempt, handle, at))

    async def close_attempt(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """End an attempt and move its task."""
        self.writes["close_attempt"] += 1
        return await self._writer.ask(self._verbs.close_attempt(task, attempt, move))

    async def hear(self, attempt: Attempt) -> Attempt | Stale:
        """End an attempt whose task has ended before it."""
        self.writes["hear"] += 1
        return await self._writer.ask(self._verbs.hear(attempt))

    async def move(self, task: Task, move: Move) -> Task | Stale:
        """Move a task alone."""
        self.writes["move"] += 1
        return await self._writer.ask(self._verbs.move(task, move))

    async def cancel(self, tenant: str, task_id: str, move: Move) -> Cancelled | TooLate | None:
        """End a task whatever version it has."""
        self.writes["cancel"] += 1
        return await self._writer.ask(self._verbs.cancel(tenant, task_id, move))

    # -- reads --------------------------------------------------------------------------------------------------------

    async def view(self, tenant: str, task_id: str) -> TaskView | None:
        """Read one task."""
        return await self._reader.ask(self._verbs.view(tenant, task_id))

    async def search(self, tenant: str, search: Search) -> tuple[TaskView, ...]:
        """Read a page of tasks, or the one that a key stands for."""
        lane = self._lister if search.idempotency_key is None else self._reader
        return await lane.ask(self._verbs.search(tenant, search))

    async def alike(self, tenant: str, digest: str, since: int) -> tuple[Task, ...]:
        """Read equal requests."""
        return await self._reader.ask(self._verbs.alike(tenant, digest, since))

    async def waiting(self, owner: Owner, limit: int) -> tuple[Task, ...]:
        """Read what waits."""
        return await self._lister.ask(self._verbs.waiting(owner, limit))

    async def backlog(self, owner: Owner) -> Backlog:
        """Count what waits."""
        return await self._lister.ask(self._verbs.backlog(owner))

    async def balances(self, names: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Read balances."""
        return await self._reader.ask(self._verbs.balances(names))

    async def ledger(self, task_id: str) -> tuple[LedgerEntry, ...]:
        """Read the ledger of one task."""
        return await self._reader.ask(self._verbs.ledger(task_id))

    # -- housekeeping -------------------------------------------------------------------------------------------------

    async def keep(self, name: str, value: str) -> str:
        """Write a setting unless it exists."""
        self.writes["keep"] += 1
        return await self._writer.ask(self._verbs.keep(name, value))

    async def sweep(self, now: int, limit: int) -> tuple[Task, ...]:
        """Strip ended tasks."""
        self.writes["sweep"] += 1
        return await self._writer.ask(self._verbs.sweep(now, limit))

    async def forget(self, completed_before: int, limit: int) -> int:
        """Delete old rows."""
        self.writes["forget"] += 1
        return await self._writer.ask(self._verbs.forget(completed_before, limit))

    async def ping(self) -> None:
        """Prove that the writer gets through to the file and that a reader answers."""
        await self._writer.ask(self._verbs.ping())
        await self._reader.ask(self._verbs.ping())

    async def close(self) -> None:
        """Take no more verbs, finish what was asked, and let go of the file."""
        if self._closed:
            return
        self._closed = True
        lanes = self._reader, self._lister, self._writer
        for lane in lanes:
            lane.shut()
        for lane in lanes:
            await lane.finish()
        self._database.close()

    def crash(self) -> None:
        """Die as a killed process would (only with `Executor.INLINE`, where no thread is in the midst of something)."""
        self._database.crash()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _served(self, seconds: float | None) -> None:
        """A batch is done; `seconds` is what its commit took, None for reads."""
        if seconds is not None:
            with suppress(Exception):  # whoever watches must not steer
                self.on_commit(seconds)
