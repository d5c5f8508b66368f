"""The store of several daemons: a PostgreSQL database, a line to it for each lane, hints from one daemon to the others.

What the verbs mean stands in `verbs`, how a batch of them is executed in `transaction`, and how it is known what became
of one whose answer was lost in `mark`. Instants of leases are the database's. A hint is a NOTIFY that is sent by a
connection of its own, at most ten times a second: inside a transaction it would make all commits of the database wait
for one another. Whoever misses one finds the truth by asking. Floor 3.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import asyncpg

from router.persistence import Unavailable
from router.store import line, mark, transaction
from router.store.lane import BatchLane, Job, on_loop
from router.store.line import Line
from router.store.mark import Mark
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

A = TypeVar("A")

SETTLE_WITHIN_S = 60.0
SETTLE_EVERY_S = 0.2
MIGRATE_TIMEOUT_S = 600.0
HINT_EVERY_S = 0.1
LISTEN_AGAIN_S = 1.0
LISTEN_CHECK_S = 10.0
HINT_CHANNEL = "pointsman"
# One lock for all starters, so that one migrates and the others find it done. The number is ours, it means nothing.
MIGRATION_LOCK = "select pg_advisory_xact_lock(7037017302211)"
CLOCK = "select cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint)"
PING = "select 1"
NOTIFY = "select pg_notify($1, $2)"


class DatabaseTime(Verbs):
    """The verbs, going by the database's clock where leases are concerned (I24)."""

    def _instant(self, _now: int) -> Steps[int]:
        ((at,),) = yield CLOCK, ()
        return int(at)

    def ping(self) -> Steps[None]:
        """Ask something, because a read without a statement would ask nobody."""
        yield PING, ()


async def open_store(url: str, *, verbs: Verbs | None = None) -> PostgresStore:
    """Connect and bring the schema up to date; `CannotOpen` says in one line, without a secret, what is in the way.

    `verbs` replaces what the verbs do (the caller's clock, or planted faults, in tests).
    """
    try:
        where = line.name_of(url)
    except ValueError as unreadable:
        raise CannotOpen(str(unreadable)) from None
    first = Line(url)
    try:
        connection = await first.take()
        await migrate(connection)
        await connection.execute(mark.REMOVE_OLD)
    except BaseException as refused:
        await first.close()
        reason = _explain(refused)
        if reason is None:
            raise
        raise CannotOpen(f"{where}: {reason}") from None
    return PostgresStore(url, first, verbs or DatabaseTime())


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

    def __init__(self, url: str, first: Line, verbs: Verbs) -> None:
        """Set up four lanes with a line each; `first` is one that is open already."""
        self.commits = 0
        self._url = url
        self._lines = [first, Line(url), Line(url), Line(url)]
        writer, keeper, reader, lister = self._lines
        self._lanes = [
            self._open_writer(writer),
            self._open_writer(keeper, in_step=False),
            self._open_reader(reader),
            self._open_reader(lister),
        ]
        super().__init__(Lanes(*self._lanes), verbs)
        self._hints = Hints(url)

    def hint(self, topic: str) -> None:
        """Tell the other daemons soon."""
        self._hints.tell(topic)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Hear the other daemons."""
        self._hints.listen(hear)

    def _open_writer(self, way: Line, *, in_step: bool = True) -> BatchLane:
        own = Mark()
        settle = partial(self._settle, own)

        async def serve(batch: Sequence[Job]) -> float | None:
            work = partial(transaction.write, batch=batch, mark=own, settle=settle, in_step=in_step)
            seconds = await self._serve(lane, way, batch, work)
            self.commits += seconds is not None
            return seconds

        lane = BatchLane(on_loop(serve), self._served)
        return lane

    def _open_reader(self, way: Line) -> BatchLane:
        async def serve(batch: Sequence[Job]) -> None:
            await self._serve(lane, way, batch, partial(transaction.read, batch=batch))

        lane = BatchLane(on_loop(serve), self._served)
        return lane

    async def _serve(
        self, lane: BatchLane, way: Line, batch: Sequence[Job], work: Callable[[Any], Awaitable[A]]
    ) -> A | None:
        """Do it over a line. When that cannot be, nobody who waits for the same server has to find out by waiting."""
        connection = None
        try:
            connection = await way.take()
            return await work(connection)
        except Exception as trouble:
            if not line.is_trouble(connection, trouble) and not isinstance(trouble, transaction.QUICKER):
                raise
            transaction.fail(batch, _say(trouble))
            if connection is None:
                self._answer_all(trouble)
            elif isinstance(trouble, TimeoutError):
                lane.give_up(_say(trouble))
            return None

    def _answer_all(self, trouble: Exception) -> None:
        """Tell everybody who waits that the server is away; they would only find out one batch after the other."""
        for lane in self._lanes:
            lane.give_up(_say(trouble))

    async def _settle(self, own: Mark) -> bool:
        """Ask until it is known whether a transaction was committed whose connection broke at that moment."""
        asker = Line(self._url)
        give_up_at = asyncio.get_running_loop().time() + SETTLE_WITHIN_S
        try:
            while True:
                connection = None
                try:
                    connection = await asker.take()
                    return await own.look(connection)
                except transaction.QUICKER:
                    pass  # it is still open
                except Exception as trouble:
                    if not line.is_trouble(connection, trouble):
                        raise
                    self._answer_all(trouble)
                    if connection is not None:
                        connection.terminate()
                if self._closed or asyncio.get_running_loop().time() >= give_up_at:
                    return False
                await asyncio.sleep(SETTLE_EVERY_S)
        finally:
            await asker.close()

    async def _let_go(self) -> None:
        """Close every connection; a server that does not answer is not waited for."""
        await self._hints.close()
        await asyncio.gather(*(way.close() for way in self._lines))


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
                connection = await line.connect(self._url, {"application_name": "pointsman hints"})
                connection.add_termination_listener(lambda _lost: self._due.set())
                await connection.add_listener(HINT_CHANNEL, self._hear)
                await self._speak(connection)
            except (*line.TROUBLE, line.TooOld, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # a hint is not the truth: everybody asks once a second
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _speak(self, connection: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(LISTEN_CHECK_S):
                    await self._due.wait()
            except TimeoutError:
                await connection.execute(PING)  # is anybody there?
                continue
            await asyncio.sleep(HINT_EVERY_S)
            self._due.clear()
            topics, self._topics = self._topics, set()
            try:
                await connection.execute(NOTIFY, HINT_CHANNEL, " ".join([self._name, *sorted(topics)]))
            except BaseException:
                self._topics |= topics
                self._due.set()
                raise

    def _hear(self, _connection: Any, _pid: int, _channel: str, said: object) -> None:
        name, *topics = str(said).split(" ")
        if name != self._name:
            for topic in topics:
                for hear in self._hearers:
                    hear(topic)


# -- parts ------------------------------------------------------------------------------------------------------------


def _say(trouble: Exception) -> Unavailable:
    return Unavailable(f"the database cannot serve: {line.describe(trouble)}")


def _explain(refused: BaseException) -> str | None:
    """Say in one line why a database cannot be used; None when it is not for want of a usable database."""
    match refused:
        case SchemaRefused() | line.TooOld():
            return f"cannot be used: {refused}"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"refuses the user or the password: {line.describe(refused)}"
        case asyncpg.InsufficientPrivilegeError():
            return f"the user may not make or use the tables: {line.describe(refused)}"
        case TimeoutError():
            return f"no answer within {line.CONNECT_TIMEOUT_S:g} s"
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | OSError() | ValueError():
            return f"cannot be used: {line.describe(refused)}"
        case _:
            return None
