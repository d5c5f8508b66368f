"""The stores that the simulator can run over, by name: each call makes a fresh one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from router.persistence import Store
from router.store.memory import MemoryStore
from router.store.sqlite import Executor, SqliteStore, open_store
from tests.sim.loop import run_now
from tests.sim.simulation import Engine


def memory(store: type[MemoryStore] = MemoryStore) -> Engine:
    """The reference model; it survives a crash as it is."""
    made = store()
    return Engine(store=made, audit=made)


def sqlite() -> Engine:
    """The real engine on a real file, executed inline; a crash rolls back, and the file is opened again."""
    folder = Path(tempfile.mkdtemp(prefix="pointsman-sim-"))
    reopening = Reopening(folder / "tasks.db")
    return Engine(
        store=reopening.store,
        audit=reopening,
        crash=reopening.crash,
        reopen=reopening.open,
        close=lambda: (reopening.close(), shutil.rmtree(folder))[0],
    )


class Reopening:
    """The file as an auditor sees it: always the store that is open now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.store: SqliteStore = run_now(open_store(path, executor=Executor.INLINE))

    def __getattr__(self, verb: str) -> object:
        """Give the verb of the store that is open."""
        return getattr(self.store, verb)

    def crash(self) -> None:
        """Roll back and close, without any cleanup."""
        self.store.crash()

    def open(self) -> Store:
        """Open the file again, as the next life does."""
        self.store = run_now(open_store(self._path, executor=Executor.INLINE))
        return self.store

    def close(self) -> None:
        """Close for good."""
        run_now(self.store.close())


ENGINES: Mapping[str, Callable[[], Engine]] = {"memory": memory, "sqlite": sqlite}
