"""A line to a PostgreSQL server: one connection for one user at a time, which comes and goes with the server.

Made when it is wanted and there is none, with a deadline for connecting and one for every command, because on a dead
network nothing ever comes back by itself. What goes over it is not known here. Floor 3.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

VERSION_MIN = 14
COMMAND_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 1.0
IDLE_MAX_S = 60.0  # firewalls forget connections that are silent for minutes, and tell nobody
# A daemon that stops in the midst of a transaction must not keep the others from their rows for long.
SESSION = {
    "application_name": "pointsman",
    "lock_timeout": "2500",
    "idle_in_transaction_session_timeout": "4000",
    # Every statement has an index. A plan made while a table was empty would walk through it when it no longer is.
    "enable_seqscan": "off",
}
PLANS_KEPT_S = 5  # the statistics of a new database change quickly
PLACE = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>\d{1,5}))?")

# The server or the way to it is in trouble.
TROUBLE = (
    OSError,
    TimeoutError,
    asyncpg.exceptions.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.InsufficientPrivilegeError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.InternalClientError,
)


class TooOld(Exception):  # noqa: N818 - it is what the operator is told
    """The server's version is not one that the statements are written for; the text says both."""


class Line:
    """A connection that is there when it is wanted, as long as the server is. `name` is what the server calls it."""

    def __init__(self, url: str) -> None:
        """Connect later."""
        self._url = url
        self._connection: Any = None
        self._used_s = 0.0

    async def take(self) -> Any:
        """Give the connection, made anew when it was lost; raises what keeps it from being made (see `is_trouble`)."""
        now_s = asyncio.get_running_loop().time()
        if self._connection is not None and now_s - self._used_s > IDLE_MAX_S:
            self._connection.terminate()
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, SESSION)
        self._used_s = now_s
        return self._connection

    async def close(self) -> None:
        """Say good-bye; a server that does not answer is not waited for."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with suppress(*TROUBLE, asyncpg.InterfaceError):
                await connection.close(timeout=CLOSE_TIMEOUT_S)


async def connect(url: str, session: dict[str, str]) -> Any:
    """Make a connection on which an answer to a commit means that it is on disk, whatever the server is set to."""
    connection = await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings=session,
        max_cached_statement_lifetime=PLANS_KEPT_S,
    )
    try:
        judge_version(connection.get_server_version().major)
        if await connection.fetchval("show synchronous_commit") == "off":
            await connection.execute("set synchronous_commit = on")
    except BaseException:
        connection.terminate()
        raise
    return connection


def judge_version(major: int) -> None:
    """Refuse a server that does not know the statements."""
    if major < VERSION_MIN:
        raise TooOld(f"it is PostgreSQL {major}, and {VERSION_MIN} or newer is needed")


def is_trouble(connection: Any, found: Exception) -> bool:
    """Whether an exception says that the server cannot serve, and not that a verb is wrong.

    Without a connection (None) whatever the driver says is trouble: it could not make one.
    """
    if connection is None:
        return isinstance(found, (*TROUBLE, TooOld, asyncpg.PostgresError, asyncpg.InterfaceError))
    return isinstance(found, TROUBLE) or connection.is_closed()


def describe(trouble: BaseException) -> str:
    """One line about an exception, without what stands in a row."""
    if isinstance(trouble, OSError) and trouble.errno is not None and trouble.errno > 0:
        return os.strerror(trouble.errno).lower()  # asyncio's own text says which call failed, not why
    said = (isinstance(trouble, OSError) and trouble.strerror) or str(trouble).partition("\n")[0]
    return said or ("it did not answer in time" if isinstance(trouble, TimeoutError) else type(trouble).__name__)


def name_of(url: str) -> str:
    """The server and database of an address, without user and password; `ValueError` when it cannot be read.

    Strict where the driver is not: a `/`, `?`, `#` or `@` of a password that is not percent-encoded would make a part
    of the password look like the name of something, and that is what errors show.
    """
    try:
        parts = urlsplit(url)
        places = parts.netloc.rpartition("@")[2]
        wild = "@" in f"{parts.netloc.rpartition('@')[0]}{parts.path}{parts.query}" or parts.fragment
        ports = [PLACE.fullmatch(place) for place in places.split(",")]
        hosts = ",".join(parse_qs(parts.query, strict_parsing=True).get("host", ())) if parts.query else ""
    except ValueError:
        wild = True
    if wild or not all(port is not None and int(port["port"] or 1) in range(1, 65536) for port in ports):
        expected = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        escapes = "of a password / ? # @ % are written %2F %3F %23 %40 %25"
        raise ValueError(f"the address of the database cannot be read: it must be {expected}; {escapes}")
    return f"postgresql://{places or hosts}{parts.path}"
