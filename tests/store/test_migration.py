"""The schema: applied once by whoever comes first, all of it or nothing, and refused when it is not ours."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from router.store.database import CannotOpen
from router.store.migration import (
    Migration,
    SchemaRefused,
    find_missing,
    migrate,
    read_migrations,
    split_statements,
)
from router.store.sqlite import open_store

FIRST = Migration(1, "0001_one.sql", "create table one (a text);\n")
SECOND = Migration(2, "0002_two.sql", "create table two (a text);\ncreate table three (a text);\n")


@pytest.fixture
def connection(tmp_path):
    opened = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    yield opened
    opened.close()


def tables(connection):
    return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def test_the_files_of_this_version_are_found_in_their_order():
    found = read_migrations()

    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert found[0].name == "0001_tasks.sql"


def test_a_new_database_gets_everything_and_an_up_to_date_one_nothing(connection):
    assert migrate(connection, [FIRST]) == 1
    assert migrate(connection, [FIRST, SECOND]) == 1
    assert migrate(connection, [FIRST, SECOND]) == 0
    assert tables(connection) == {"migration", "one", "two", "three"}


@pytest.mark.parametrize("applied", [0, 1])
def test_four_starters_at_once_apply_each_migration_once(tmp_path, connection, applied):
    known, barrier = [read_migrations()[0], Migration(2, "0002_two.sql", SECOND.text)], Barrier(4)
    if applied:
        migrate(connection, known[:applied])

    def start(_number):
        opened = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None, timeout=60)
        barrier.wait(60)
        count = migrate(opened, known)
        opened.close()
        return count

    with ThreadPoolExecutor(4) as threads:
        counts = sorted(threads.map(start, range(4)))

    assert counts == [0, 0, 0, 2 - applied]


def test_a_migration_that_fails_leaves_nothing_behind(connection):
    broken = Migration(2, "0002_two.sql", "create table two (a text);\ncreate table two (a text);\n")

    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        migrate(connection, [FIRST, broken])
    assert tables(connection) == set()
    assert not connection.in_transaction


@pytest.mark.parametrize(
    ("known", "applied", "missing"),
    [
        ([], {}, []),
        ([FIRST, SECOND], {}, [FIRST, SECOND]),
        ([FIRST, SECOND], {1: FIRST.checksum}, [SECOND]),
        ([FIRST, SECOND], {1: FIRST.checksum, 2: SECOND.checksum}, []),
    ],
)
def test_what_is_missing_is_what_was_not_applied(known, applied, missing):
    assert list(find_missing(known, applied)) == missing


@pytest.mark.parametrize(
    ("applied", "reason"),
    [
        ({1: FIRST.checksum, 2: SECOND.checksum, 3: "c"}, "a newer one wrote it"),
        ({1: "another"}, "0001_one.sql .* was edited"),
        ({1: FIRST.checksum, 2: "another"}, "0002_two.sql .* was edited"),
    ],
)
def test_a_schema_that_is_not_ours_is_refused(applied, reason):
    with pytest.raises(SchemaRefused, match=reason):
        find_missing([FIRST, SECOND], applied)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("update migration set checksum = 'edited'", "was edited"),
        ("insert into migration values (9999, '9999_later.sql', 'x')", "newer"),
    ],
)
async def test_a_store_says_in_one_line_why_it_does_not_open_a_foreign_schema(tmp_path, change, reason):
    path = tmp_path / "tasks.db"
    await (await open_store(path)).close()
    with sqlite3.connect(path) as opened:
        opened.execute(change)
    opened.close()

    with pytest.raises(CannotOpen, match=reason) as refused:
        await open_store(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


async def test_a_device_or_a_folder_is_refused_and_nothing_is_left_beside_it(tmp_path):
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, reason in ((pipe, "it is not a file"), (folder, "Is a directory")):
        with pytest.raises(CannotOpen, match=reason):
            await open_store(path)
    assert sorted(tmp_path.iterdir()) == [folder, pipe]


def test_statements_end_at_their_own_semicolon_only():
    text = (
        "-- a; comment\ncreate table a (\n  b text default 'x;\ny' -- c;\n);\n\ncreate table d (e text);\n-- the end;\n"
    )

    assert [one.strip() for one in split_statements(text)] == [
        "-- a; comment\ncreate table a (\n  b text default 'x;\ny' -- c;\n);",
        "create table d (e text);",
    ]


def test_a_statement_without_an_end_is_a_mistake():
    with pytest.raises(ValueError, match="without an end"):
        list(split_statements("create table a (b text)\n"))
