"""Marks: how a writer finds out whether a transaction was committed whose connection broke at that moment.

Each transaction begins by writing its number into its writer's own row. Whoever is in doubt looks whether the number
stands there. The look waits for the row, so that it sees the end of a transaction that is still open, and never less.
PostgreSQL's own number of a transaction would not do: a server that crashes may give it to another one. Floor 3.
"""

from __future__ import annotations

import secrets
from typing import Any

BEGIN = "begin"
LEAVE = """
insert into mark (writer, number, at) values ($1, $2, cast(extract(epoch from clock_timestamp()) * 1000 as bigint))
on conflict (writer) do update set number = excluded.number, at = excluded.at
"""
# Also where there is no row yet, it waits for whoever is about to write the first.
LOOK = """
insert into mark (writer, number, at) values ($1, 0, cast(extract(epoch from clock_timestamp()) * 1000 as bigint))
on conflict (writer) do update set at = excluded.at returning number
"""
REMOVE_OLD = """
delete from mark where at < cast(extract(epoch from clock_timestamp()) * 1000 as bigint) - 86400000
"""


class Mark:
    """The mark of one writer, who writes one transaction after the other."""

    def __init__(self) -> None:
        """Choose a name that nobody has."""
        self._writer = secrets.token_hex(8)
        self._number = 0

    async def leave(self, connection: Any) -> None:
        """Mark the transaction that has just begun."""
        self._number += 1
        await connection.execute(LEAVE, self._writer, self._number)

    async def look(self, connection: Any) -> bool:
        """Whether the transaction that was marked last has been committed; waits while it is open."""
        return bool(await connection.fetchval(LOOK, self._writer) == self._number)
