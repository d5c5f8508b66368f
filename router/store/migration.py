"""Brings a database's schema up to date: numbered SQL files, each applied exactly once, whoever starts first.

The files in `migrations/` are package data, never changed once they have been released; their checksums are kept in the
database. A file that was edited, or a database written by a newer version, is refused with one line. What is missing is
decided by a pure function; applying it is one transaction that begins with the right to write, so that of several
starters one applies and the others find it done. Floor 3.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")

MAKE_TABLE = """
create table if not exists migration (
    number bigint not null primary key,
    name text not null,
    checksum text not null
)
"""
APPLIED = """
select number, checksum from migration order by number
"""
RECORD = """
insert into migration (number, name, checksum) values ($1, $2, $3)
"""


class CannotOpen(Exception):  # noqa: N818 - it is what the operator is told
    """The database cannot be used; the text is one line that says why."""


class SchemaRefused(Exception):  # noqa: N818 - it is what the operator is told
    """The database's schema is not one that this version can use; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number from 1, its name, its text."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return sha256(self.text.encode()).hexdigest()


def read_migrations() -> tuple[Migration, ...]:
    """Read the files of this version in their order."""
    found = []
    for file in files("router.store").joinpath("migrations").iterdir():
        name = NAME.fullmatch(file.name)
        if name is not None:
            found.append(Migration(int(name["number"]), file.name, file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are numbered from 1 without a gap, not {[one.name for one in found]}")
    return tuple(found)


def find_missing(known: Sequence[Migration], applied: Mapping[int, str]) -> Sequence[Migration]:
    """Say what a database lacks; `applied` maps numbers to checksums. `SchemaRefused` when the two disagree."""
    newest = max(applied, default=0)
    if newest > len(known):
        raise SchemaRefused(f"its schema is number {newest} and this version knows {len(known)}: a newer one wrote it")
    for migration in known:
        if applied.get(migration.number, migration.checksum) != migration.checksum:
            raise SchemaRefused(f"migration {migration.name} is not the file that was applied: it was edited since")
    return [migration for migration in known if migration.number not in applied]


def migrate(connection: sqlite3.Connection, known: Sequence[Migration] | None = None) -> int:
    """Apply what an SQLite database lacks, all or nothing; return how many migrations that were.

    The connection is in autocommit mode and waits for the right to write as long as its busy timeout.
    """
    connection.execute("begin immediate")
    try:
        connection.execute(MAKE_TABLE)
        applied = dict(connection.execute(APPLIED).fetchall())
        missing = find_missing(read_migrations() if known is None else known, applied)
        for migration in missing:
            for statement in split_statements(migration.text):
                connection.execute(statement)
            record = {"1": migration.number, "2": migration.name, "3": migration.checksum}
            connection.execute(RECORD, record)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
    return len(missing)


def split_statements(text: str) -> Iterator[str]:
    """Part a file into its statements, each ending with a semicolon at the end of a line."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if any(line and not line.startswith("--") for line in map(str.strip, statement.splitlines())):
        raise ValueError(f"a statement without an end: {statement!r}")
