"""The engines that the contract holds for. A further one joins by a line in `ENGINES`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from router.store import postgres, sqlite
from router.store.memory import MemoryStore
from router.store.verbs import Verbs
from router.world import Store
from tests.postgres import Server, shared_server


@asynccontextmanager
async def open_memory(_folder: Path) -> AsyncIterator[Store]:
    yield MemoryStore()


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Store]:
    store = await sqlite.open_store(folder / "tasks.db")
    yield store
    await store.close()


@asynccontextmanager
async def open_postgres(_folder: Path) -> AsyncIterator[Store]:
    """A database of its own, made from a template with the schema; time is the caller's, as in the other engines."""
    server = shared_server()
    url = server.create(await template_of(server))
    store = await postgres.open_store(url, verbs=Verbs())
    try:
        yield store
    finally:
        await store.close()
        server.drop(url)


async def template_of(server: Server) -> str:
    """The name of a database with the schema in it, made by the product's own start; once per server."""
    if server not in templates:
        url = server.create()
        await (await postgres.open_store(url)).close()
        templates[server] = url.rpartition("/")[2]
    return templates[server]


templates: dict[Server, str] = {}


ENGINES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    "memory": open_memory,
    "postgres": open_postgres,
    "sqlite": open_sqlite,
}
