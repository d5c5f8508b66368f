"""The engines that the contract holds for. A further one joins by a line in `ENGINES`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from router.store.memory import MemoryStore
from router.store.sqlite import open_store
from router.world import Store


@asynccontextmanager
async def open_memory(_folder: Path) -> AsyncIterator[Store]:
    yield MemoryStore()


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(folder / "tasks.db")
    yield store
    await store.close()


ENGINES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    "memory": open_memory,
    "sqlite": open_sqlite,
}
