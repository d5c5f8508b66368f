"""The store of several daemons: a PostgreSQL database, a pool of connections, and hints from one daemon to the others.

What the verbs mean stands in `verbs`, how a batch of them is executed in `transaction`. Every command has a deadline,
because a query on a dead network never comes back by itself. Instants of leases are the database's. A hint is a NOTIFY
that is sent by a connection of its own, at most ten times a second: inside a transaction it would make all commits of
the database wait for one another. Whoever misses one finds the truth by asking. Floor 3.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from router.store import transaction
from router.store.lane import BatchLane, Job, on_loop
from router.store.migration import (
    APPLIED,
    MAKE_TABLE,
    RECORD,
    CannotOpen,
    Migration,
    SchemaRefused,
    find_missing,
    read_migrations,
)
from router.store.relational import Lanes, RelationalStore
from router.store.steps import Steps
from router.store.verbs import Verbs
from router.world import Unavailable

VERSION_MIN = 14
COMMAND_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 3.0
SETTLE_WITHIN_S = 20.0
SETTLE_EVERY_S = 0.2
MIGRATE_TIMEOUT_S = 600.0
POOL_SIZE = 5  # writer, keeper, reader, lister, and one to ask what became of a commit
HINT_EVERY_S = 0.1
LISTEN_AGAIN_S = 1.0
HINT_CHANNEL = "pointsman"
# A daemon that stops in the midst of a transaction must not keep the others from their rows for long.
SESSION = {"application_name": "pointsman", "lock_timeout": "2500", "idle_in_transaction_session_timeout": "4000"}
# One lock for all starters, so that one migrates and the others find it done. The number is ours, it means nothing.
MIGRATION_LOCK = "select pg_advisory_xact_lock(7037017302211)"
CLOCK = "select cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint)"
STATUS = "select pg_xact_status(cast(cast($1 as text) as xid8))"
NOTIFY = "select pg_notify($1, $2)"


class DatabaseTime(Verbs):
    """The verbs, going by the database's clock where leases are concerned (I24)."""

    def _instant(self, _now: int) -> Steps[int]:
        ((at,),) = yield CLOCK, ()
        return int(at)


async def open_store(url: str, *, verbs: Verbs | None = None) -> PostgresStore:
    """Connect and bring the schema up to date; `CannotOpen` says in one line, without a secret, what is in the way.

    `verbs` replaces what the verbs do (the caller's clock, or planted faults, in tests).
    """
    where = _name_of(url)
    pool = None
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=SESSION,
            init=_insist_on_durability,
            reset=_keep_session,
        )
        async with pool.acquire() as connection:
            await migrate(connection)
    except BaseException as refused:
        if pool is not None:
            pool.terminate()
        reason = _explain(refused)
        if reason is None:
            raise
        raise CannotOpen(f"{where}: {reason}") from None
    return PostgresStore(url, pool, verbs or DatabaseTime())


async def migrate(connection: Any, known: Sequence[Migration] | None = None) -> int:
    """Apply what the database lacks, all or nothing; return how many migrations that were."""
    async with connection.transaction():
        await connection.execute("set local lock_timeout = 0")
        await connection.execute(MIGRATION_LOCK, timeout=MIGRATE_TIMEOUT_S)
        await connection.execute(MAKE_TABLE)
        applied = {row[0]: row[1] for row in await connection.fetch(APPLIED)}
        missing = find_missing(read_migrations() if known is None else known, applied)
        for migration in missing:
            await connection.execute(migration.text, timeout=MIGRATE_TIMEOUT_S)
            await connection.execute(RECORD, migration.number, migration.name, migration.checksum)
    return len(missing)


class PostgresStore(RelationalStore):
    """The store over PostgreSQL. Make it with `open_store`. `commits` counts its transactions."""

    shared = True

    def __init__(self, url: str, pool: Any, verbs: Verbs) -> None:
        """Set up a lane for each connection of the pool."""
        self.commits = 0
        self._pool = pool
        lanes = [BatchLane(on_loop(serve), self._served) for serve in (self._write, self._keep, self._read, self._read)]
        self._lanes = lanes
        super().__init__(Lanes(*lanes), verbs)
        self._hints = Hints(url)

    def hint(self, topic: str) -> None:
        """Tell the other daemons soon."""
        self._hints.tell(topic)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Hear the other daemons."""
        self._hints.listen(hear)

    async def _write(self, batch: Sequence[Job], *, in_step: bool = True) -> float | None:
        seconds: float | None = await self._serve(
            batch, lambda taken: transaction.write(taken, batch, self._settle, in_step=in_step)
        )
        self.commits += seconds is not None
        return seconds

    async def _keep(self, batch: Sequence[Job]) -> float | None:
        return await self._write(batch, in_step=False)

    async def _read(self, batch: Sequence[Job]) -> None:
        await self._serve(batch, lambda taken: transaction.read(taken, batch))

    async def _serve(self, batch: Sequence[Job], work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do it on a connection of the pool. Without one, nobody who waits has to wait for the next to fail."""
        try:
            connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)
        except Exception as trouble:
            if not isinstance(trouble, (*transaction.TROUBLE, asyncpg.PostgresError, asyncpg.InterfaceError)):
                raise
            transaction.fail(batch, trouble)
            self._answer_all(trouble)
            return None
        try:
            return await work(connection)
        finally:
            with suppress(*transaction.TROUBLE, asyncpg.InterfaceError):
                await self._pool.release(connection)

    def _answer_all(self, trouble: Exception) -> None:
        """Tell everybody who waits that the server is away; they would only find out one batch after the other."""
        for lane in self._lanes:
            lane.give_up(Unavailable(f"the database cannot serve: {transaction.describe(trouble)}"))

    async def _settle(self, number: str) -> bool:
        """Ask until it is known whether a transaction was committed whose connection broke at that moment.

        A number that the server does not know is one that it lost with its memory, before it was committed.
        """
        give_up_at = asyncio.get_running_loop().time() + SETTLE_WITHIN_S
        while asyncio.get_running_loop().time() < give_up_at:
            try:
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                    status = await connection.fetchval(STATUS, number)
            except asyncpg.exceptions.InvalidParameterValueError:
                return False
            except (*transaction.TROUBLE, asyncpg.InterfaceError) as trouble:
                self._answer_all(trouble)
                status = "in progress"
            if status != "in progress":
                return bool(status == transaction.COMMITTED)
            await asyncio.sleep(SETTLE_EVERY_S)
        return False

    async def _let_go(self) -> None:
        """Close every connection; a server that does not answer is not waited for."""
        await self._hints.close()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self._pool.close()
        except (*transaction.TROUBLE, asyncpg.InterfaceError):
            self._pool.terminate()


class Hints:
    """A connection that tells and hears. It comes and goes with the server; what was to be told meanwhile waits."""

    def __init__(self, url: str) -> None:
        """Begin to listen as soon as somebody wants to."""
        self._url = url
        self._name = secrets.token_hex(8)  # to know one's own voice
        self._topics: set[str] = set()
        self._due = asyncio.Event()
        self._hearers: list[Callable[[str], None]] = []
        self._running: asyncio.Task[None] | None = None

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with each topic."""
        self._hearers.append(hear)
        self._start()

    def tell(self, topic: str) -> None:
        """Say it soon, with everything else that is said until then."""
        self._topics.add(topic)
        self._due.set()
        self._start()

    async def close(self) -> None:
        """Fall silent."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _start(self) -> None:
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=COMMAND_TIMEOUT_S,
                    server_settings={"application_name": "pointsman hints"},
                )
                await connection.add_listener(HINT_CHANNEL, self._hear)
                await self._speak(connection)
            except (*transaction.TROUBLE, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # a hint is not the truth: everybody asks once a second
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _speak(self, connection: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(10 * LISTEN_AGAIN_S):
                    await self._due.wait()
            except TimeoutError:
                await connection.execute("select 1")  # is anybody there?
                continue
            await asyncio.sleep(HINT_EVERY_S)
            self._due.clear()
            topics, self._topics = sorted(self._topics), set()
            await connection.execute(NOTIFY, HINT_CHANNEL, " ".join([self._name, *topics]))

    def _hear(self, _connection: Any, _pid: int, _channel: str, said: object) -> None:
        name, *topics = str(said).split(" ")
        if name != self._name:
            for topic in topics:
                for hear in self._hearers:
                    hear(topic)


# -- parts ------------------------------------------------------------------------------------------------------------


async def _insist_on_durability(connection: Any) -> None:
    """An answer means that it is on disk, whatever the server's configuration says of commits."""
    if await connection.fetchval("show synchronous_commit") == "off":
        await connection.execute("set synchronous_commit = on")


async def _keep_session(_connection: Any) -> None:
    """Nothing that the verbs do outlives their transaction, so that nothing has to be reset between two uses."""


def _name_of(url: str) -> str:
    """The server and database of an address, without user and password."""
    try:
        parts = urlsplit(url)
        return f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "the database"


def _explain(refused: BaseException) -> str | None:
    """Say in one line why a database cannot be used; None when it is not for want of a usable database."""
    match refused:
        case SchemaRefused():
            return f"cannot be used: {refused}"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"refuses the user or the password: {transaction.describe(refused)}"
        case asyncpg.InsufficientPrivilegeError():
            return f"the user may not make or use the tables: {transaction.describe(refused)}"
        case TimeoutError():
            return f"no answer within {CONNECT_TIMEOUT_S:g} s"
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | OSError() | ValueError():
            return f"cannot be used: {transaction.describe(refused)}"
        case _:
            return None
