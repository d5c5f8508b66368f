"""One SQLite file: the lock that keeps a second daemon off it, the one connection that writes, those that read.

SQLite before 3.51.3 can corrupt a file that two connections write or checkpoint at the same moment, so that exactly one
connection here may do either; the others are opened read-only, and the lock file stops a second daemon. Commits are
durable: WAL with synchronous=FULL. Verbs of a batch share a transaction, each in a savepoint of its own. What the
engine cannot do (full, locked, read-only, broken disk) is `Unavailable` for the whole batch, which is rolled back.
Floor 3.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TypeVar
from urllib.parse import quote

from router.persistence import Unavailable
from router.store.lane import Job
from router.store.migration import CannotOpen, SchemaRefused, migrate
from router.store.steps import Steps, Undone

A = TypeVar("A")

BUSY_TIMEOUT_S = 2.0  # nobody else should write; somebody with a tool may
STATEMENTS_MAX = 128  # prepared statements kept per connection; there are fewer
SAFE_SQLITE = (3, 51, 3)

# What is wrong with the engine or the disk, by primary result code; everything else is wrong with us.
ENGINE_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
PLACES = tuple(map(str, range(1, 65)))


class FileLock:
    """The right to be the only daemon on a file, as an advisory lock that ends with the process."""

    def __init__(self, path: Path) -> None:
        """Take the lock or raise `CannotOpen` with the holder's process id."""
        self._file = os.open(f"{path.resolve()}.lock", os.O_RDWR | os.O_CREAT, 0o600)  # one lock for all its names
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise CannotOpen(f"{path}: another daemon (process {holder}) is using this database") from None
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another daemon have it. The file stays: removing it could take it from under a third one."""
        os.close(self._file)


class Database:
    """An open file with its lock and its connections. `commits` counts the transactions that were made durable."""

    def __init__(self, path: Path, *, readers: int, max_page_count: int | None = None) -> None:
        """Lock, open, bring the schema up to date; `CannotOpen` says in one line what is in the way."""
        self.commits = 0
        try:
            _demand_file(path)
            self._lock = FileLock(path)
        except OSError as broken:
            raise CannotOpen(f"{path}: cannot be used: {broken.strerror}") from None
        self.writer: sqlite3.Connection | None = None
        self.readers: list[sqlite3.Connection] = []
        try:
            self.writer = _open_for_writing(path, max_page_count)
            for _ in range(readers):
                self.readers.append(_connect(f"file:{quote(str(path))}?mode=ro", uri=True))
        except (OSError, sqlite3.Error, SchemaRefused) as broken:
            self.close()
            reason = broken.strerror if isinstance(broken, OSError) else broken
            raise CannotOpen(f"{path}: cannot be used: {reason}") from None
        except BaseException:
            self.close()
            raise

    def write(self, batch: Sequence[Job]) -> float | None:
        """Execute verbs in one transaction and return how long its commit took; None when nothing was committed."""
        assert self.writer is not None
        try:
            self.writer.execute("begin immediate")
            for job in batch:
                _try_in_savepoint(self.writer, job)
            began = perf_counter()
            self.writer.execute("commit")
        except sqlite3.Error as trouble:
            _give_up(self.writer, batch, trouble)
            return None
        self.commits += 1
        return perf_counter() - began

    def close(self) -> None:
        """Close the readers, then the writer, which puts the log into the file, and let go of the lock."""
        for connection in (*self.readers, self.writer):
            if connection is not None:
                connection.close()
        self._lock.release()

    def crash(self) -> None:
        """Drop everything that was not committed, as a killed process would."""
        # The writer goes first: it does not tidy up the log while others have the file open.
        for connection in (self.writer, *self.readers):
            if connection is not None:
                connection.close()
        self._lock.release()


def read(connection: sqlite3.Connection, batch: Sequence[Job]) -> None:
    """Execute reads on a connection that cannot write; a batch sees one moment of the database."""
    try:
        connection.execute("begin")
        for job in batch:
            _try(connection, job)
        connection.execute("commit")
    except sqlite3.Error as trouble:
        _give_up(connection, batch, trouble)


def drive(connection: sqlite3.Connection, steps: Steps[A]) -> A:
    """Take a verb through its steps. SQLite knows `$1` as a parameter of the name `1`."""
    try:
        text, values = next(steps)
        while True:
            rows = connection.execute(text, dict(zip(PLACES, values, strict=False))).fetchall()
            text, values = steps.send(rows)
    except StopIteration as done:
        answer: A = done.value
        return answer


def describe_engine() -> str | None:
    """Say what is wrong with the SQLite in use, None when nothing is."""
    if sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} can corrupt a database that several connections write (fixed in 3.51.3); "
        "this daemon writes with one, so open its file with no other tool while it runs"
    )


# -- parts ----------------------------------------------------------------------------------------------------------


def _demand_file(path: Path) -> None:
    """Refuse a device, a pipe or a directory before anything is left beside it."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file")


def _open_for_writing(path: Path, max_page_count: int | None) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # prompts are in it: nobody else's to read
    connection = _connect(str(path))
    try:
        _demand_log(connection)
        connection.execute("pragma synchronous = full")
        connection.execute("pragma journal_size_limit = 67108864")
        migrate(connection)
        if max_page_count is not None:
            bound = f"pragma max_page_count = {max_page_count:d}"  # a pragma takes no bound values
            connection.execute(bound)
    except BaseException:
        connection.close()
        raise
    return connection


def _demand_log(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, which needs memory shared between processes: no network file system has it."""
    (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
    if mode != "wal":
        raise OSError(errno.ENOTSUP, "its file system does not support a write-ahead log")


def _connect(place: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        place,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun and ended by us
        check_same_thread=False,  # a connection is used by one thread at a time: its lane's
        cached_statements=STATEMENTS_MAX,
        uri=uri,
    )
    try:
        connection.execute("pragma cache_size = -16384")  # KiB
        connection.execute("pragma temp_store = memory")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _try_in_savepoint(connection: sqlite3.Connection, job: Job) -> None:
    """Execute one verb of a batch; whatever becomes of it, the others are not touched."""
    connection.execute("savepoint verb")
    try:
        _try(connection, job)
        undone = job.failure is not None
    except Undone as undo:
        job.answer, undone = undo.answer, True
    if undone:
        connection.execute("rollback to verb")
    connection.execute("release verb")


def _try(connection: sqlite3.Connection, job: Job) -> None:
    """Execute one verb; an engine in trouble ends the batch, any other exception is this verb's own."""
    try:
        job.answer = drive(connection, job.begin())
    except Undone:
        raise
    except sqlite3.Error as trouble:
        if _is_engine_trouble(trouble) or not connection.in_transaction:
            raise
        job.failure = trouble
    except Exception as bug:  # noqa: BLE001 - it is raised to whoever called the verb
        job.failure = bug


def _is_engine_trouble(trouble: sqlite3.Error) -> bool:
    return getattr(trouble, "sqlite_errorcode", 0) & 0xFF in ENGINE_TROUBLE


def _give_up(connection: sqlite3.Connection, batch: Sequence[Job], trouble: sqlite3.Error) -> None:
    """Roll back, and tell everybody in the batch that nothing was written."""
    with suppress(sqlite3.Error):  # a connection that cannot even roll back says so again at the next transaction
        if connection.in_transaction:
            connection.execute("rollback")
    for job in batch:
        job.answer, job.failure = None, Unavailable(f"the database cannot serve: {trouble}")
