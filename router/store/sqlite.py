"""The embedded store: one SQLite file, one thread that writes, two that read. The default engine.

What the verbs mean stands in `verbs`, who executes which in `relational`, how they are batched in `lane`, what they are
executed on in `database`. With `Executor.INLINE` everything happens at once on the calling
thread, for simulations. Floor 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path

from router.store.database import Database, describe_engine, read
from router.store.lane import BatchLane, InlineLane, Lane, Serve, on_thread
from router.store.migration import CannotOpen
from router.store.relational import Lanes, RelationalStore
from router.store.verbs import Verbs

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


class SqliteStore(RelationalStore):
    """The store over one SQLite file. Make it with `open_store`. `commits` counts its transactions."""

    shared = False

    def __init__(self, database: Database, threads: Sequence[ThreadPoolExecutor] | None, verbs: Verbs) -> None:
        """Set up the lanes over an open database, on three threads or inline."""
        serves: list[Serve] = [database.write, *(partial(read, connection) for connection in database.readers)]
        if threads is None:
            lanes: list[Lane] = [InlineLane(serve, self._served) for serve in serves]
        else:
            lanes = [
                BatchLane(on_thread(thread, serve), self._served, partial(thread.shutdown, wait=False))
                for thread, serve in zip(threads, serves, strict=True)
            ]
        writer, reader, lister = lanes
        super().__init__(Lanes(writer, writer, reader, lister), verbs)
        self.warning = describe_engine()
        self._database = database

    @property
    def commits(self) -> int:
        """How many transactions were made durable."""
        return self._database.commits

    def crash(self) -> None:
        """Die as a killed process would (only with `Executor.INLINE`, where no thread is in the midst of something)."""
        self._database.crash()

    async def _let_go(self) -> None:
        """Close the file."""
        self._database.close()
