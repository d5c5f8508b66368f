"""What an operator is told whose PostgreSQL database cannot be used: a line with server and database, no secrets."""

import pytest

from router.store import line, postgres
from router.store.migration import CannotOpen
from tests.loopback import find_closed_port
from tests.postgres import PASSWORD, USER, shared_server
from tests.toxic import Mode, toxic_way


@pytest.fixture
def server():
    """The server of this run."""
    return shared_server()


@pytest.fixture
def url(server):
    """A database of its own."""
    made = server.create()
    yield made
    server.drop(made)


async def refusal_of(url):
    """The line that an operator reads."""
    with pytest.raises(CannotOpen) as refused:
        await (await postgres.open_store(url)).close()
    said = str(refused.value)
    assert said
    assert "\n" not in said
    assert not any(secret in said for secret in (PASSWORD, "pw-secret", "secret")), said
    return said


@pytest.fixture
def cases(server, url):
    """Ways in which an operator can be wrong: the address, and what the line must say beside server and database."""
    name = url.rpartition("/")[2]
    for role, options in (("poor", "login"), ("few", "login connection limit 0"), ("locked", "nologin")):
        server.administer(f"drop role if exists {role}; create role {role} {options} password 'pw-secret'")
    return {
        "password": (server.url(name, password="pw-secret"), name, f'failed for user "{USER}"'),
        "user": (server.url(name, user="nobody_known"), name, 'failed for user "nobody_known"'),
        "database": (server.url("nowhere"), "nowhere", "does not exist"),
        "port": (server.url(name, port=find_closed_port()), name, "connection refused"),
        "host": (f"postgresql://u:pw-secret@no-such-host.invalid/{name}", name, "no-such-host.invalid"),
        "rights": (server.url(name, user="poor", password="pw-secret"), name, "permission denied for schema"),
        "login": (server.url(name, user="locked", password="pw-secret"), name, "not permitted to log in"),
        "connections": (server.url(name, user="few", password="pw-secret"), name, "too many connections"),
        "option": (f"{url}?sslmode=nonsense", name, "sslmode"),
    }


@pytest.mark.parametrize(
    "case", ["password", "user", "database", "port", "host", "rights", "login", "connections", "option"]
)
async def test_what_keeps_it_from_opening_is_one_line_with_server_and_database(cases, case):
    address, name, expected = cases[case]

    said = await refusal_of(address)

    assert f"{address.rpartition('@')[2].partition('?')[0]}: " in said
    assert said.startswith("postgresql://")
    assert name in said
    assert expected in said


async def test_a_server_that_takes_connections_and_says_nothing_is_named(server, url):
    async with toxic_way(server.port) as way:
        way.turn(Mode.SWALLOW)
        address = way.url(url)

        assert await refusal_of(address) == f"postgresql://{address.rpartition('@')[2]}: no answer within 3 s"


@pytest.mark.parametrize(
    "rest",
    [
        "u:pw-secret@host:port/x",
        "u:pw-secret@host:99999/x",
        "u:pw-secret@host:0/x",
        "u:pw-secret@[::1/x",
        "u:secret/secret@host/x",
        "u:secret#secret@host/x",
        "u:secret?secret@host/x",
        "u:secret?a=secret@host/x",
        "u:5432/secret@host/x",
        "u:5432#secret@host/x",
        "u:pw@secret@host/x",
    ],
)
async def test_an_address_that_cannot_be_read_is_not_repeated(rest):
    said = await refusal_of(f"postgresql://{rest}")

    assert said.startswith("the address of the database cannot be read: it must be postgresql://USER:PASSWORD@HOST")
    assert "%2F" in said


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("postgresql://u:p@host:5432/x?sslmode=require", "postgresql://host:5432/x"),
        ("postgres://u:p%40%2F@[::1]:5432/x", "postgresql://[::1]:5432/x"),
        ("postgresql://a:1,b:2/x", "postgresql://a:1,b:2/x"),
        ("postgresql:///x?host=/run/postgresql", "postgresql:///run/postgresql/x"),
    ],
)
def test_an_address_is_named_without_user_and_password(address, name):
    assert line.name_of(address) == name


async def test_a_schema_of_a_newer_version_and_an_edited_one_are_refused(server, url):
    name = url.rpartition("/")[2]
    await (await postgres.open_store(url)).close()

    server.administer("insert into migration values (99, 'later', 'x')", name)
    assert "its schema is number 99" in await refusal_of(url)
    server.administer("delete from migration where number = 99; update migration set checksum = 'x'", name)
    assert "0001_tasks.sql is not the file that was applied" in await refusal_of(url)


async def test_tables_of_somebody_else_and_a_read_only_database_are_refused(server, url):
    name = url.rpartition("/")[2]
    server.administer("create table task (x int)", name)
    assert 'relation "task" already exists' in await refusal_of(url)

    server.administer(f"alter database {name} set default_transaction_read_only = on")
    assert "read-only" in await refusal_of(url)


def test_a_server_that_is_too_old_is_refused():
    line.judge_version(14)
    with pytest.raises(line.TooOld, match="it is PostgreSQL 13, and 14 or newer is needed"):
        line.judge_version(13)
