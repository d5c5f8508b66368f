"""The engines that the contract holds for. A further one joins by a line in `ENGINES`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from router.persistence import Store
from router.store import postgres, sqlite
from router.store.memory import MemoryStore
from router.store.verbs import Verbs
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
    """A store that goes by the caller's time, as the other engines do."""
    async with new_database() as url, open_stores(url, 1) as (store,):
        yield store


@asynccontextmanager
async def new_database() -> AsyncIterator[str]:
    """The address of a database of its own, with the schema and nothing in it."""
    server = shared_server()
    url = server.create(await template_of(server))
    try:
        yield url
    finally:
        server.drop(url)


@asynccontextmanager
async def open_stores(
    url: str, count: int = 2, verbs: Callable[[], Verbs | None] = Verbs
) -> AsyncIterator[list[postgres.PostgresStore]]:
    """So many stores on one database, as so many daemons have them."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(await postgres.open_store(url, verbs=verbs()))
            stack.push_async_callback(opened[-1].close)
        yield opened


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
