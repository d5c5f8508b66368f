"""What only the SQLite engine promises: commits that survive anything, shared by those that come together; one daemon
per file; and a plain word when the disk or the path will not do.
"""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import router.store
from router.persistence import Admitted, OverBudget, Search, Unavailable
from router.store.database import CannotOpen, Database, drive
from router.store.lane import WAITING_MAX, Job
from router.store.sqlite import Executor, open_store
from router.store.verbs import Verbs
from tests.store.stage import CENT, HANDLE, LATER, NOW, Cast, a_task, demand, picture_of
from tests.waiting import poll_until_sync

# Every statement of every area, so that a new file joins by itself; the marks of transactions are PostgreSQL's alone.
NAMES = {found.name for found in iter_modules(router.store.__path__)} - {"mark", "postgres"}
TABLES = "task|attempt|hold|ledger|balance|api_key|webhook|relayed"
AREAS = [import_module(f"router.store.{name}") for name in sorted(NAMES)]
STATEMENTS = {
    name: text
    for area in AREAS
    for name, text in vars(area).items()
    if name.isupper() and isinstance(text, str) and re.match(r"\n(with|select|insert|update|delete)\b", text)
}


@pytest.fixture
async def store(tmp_path):
    opened = await open_store(tmp_path / "tasks.db")
    yield opened
    await opened.close()


def now(coroutine):
    """Run a coroutine of an inline store, which never waits."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    return done.value.value


def check_file(path):
    """See that SQLite finds nothing wrong with a file."""
    with sqlite3.connect(path) as opened:
        assert opened.execute("pragma integrity_check").fetchall() == [("ok",)]
    opened.close()


# -- durability -------------------------------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(tmp_path):
    first = await open_store(tmp_path / "tasks.db")
    cast = Cast(first)
    await first.keep("pepper", "a")
    opened = await cast.open(await cast.admit(a_task(1, idempotency_key="k"), demand()), demand("provider:openai"))
    await first.accept(opened.attempt, HANDLE, LATER)
    await cast.succeed(a_task(2), demand())
    before = await picture_of(first, a_task(1), a_task(2))
    await first.close()

    second = await open_store(tmp_path / "tasks.db")
    assert await picture_of(second, a_task(1), a_task(2)) == before
    assert await second.keep("pepper", "b") == "a"
    assert len(await second.search("acme", Search(idempotency_key="k"))) == 1
    await second.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from router.store.sqlite import open_store
from tests.store.stage import a_task, demand

async def main():
    store = await open_store(Path(sys.argv[1]))

    async def admit(number):
        answer = await store.admit(a_task(number), (demand(unit=1),))
        print(answer.task.id, flush=True)

    for number in range(0, 1_000_000, 8):
        await asyncio.gather(*(admit(number + place) for place in range(8)))

asyncio.run(main())
"""


def test_what_was_answered_before_a_kill_is_there_after_it(tmp_path):
    path = tmp_path / "tasks.db"
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        acknowledged = [child.stdout.readline().strip() for _ in range(100)]
        child.kill()
        acknowledged += child.stdout.read().split("\n")[:-1]  # what it said last, whole lines only
    store = now(open_store(path, executor=Executor.INLINE))

    assert len(acknowledged) >= 100
    assert [task_id for task_id in acknowledged if now(store.view("acme", task_id)) is None] == []
    (balance,) = now(store.balances([("tenant:acme", demand().window)]))
    assert balance.held >= len(acknowledged)
    now(store.close())
    check_file(path)


def test_an_inline_store_answers_at_once_and_survives_a_crash(tmp_path):
    first = now(open_store(tmp_path / "tasks.db", executor=Executor.INLINE))
    task = now(first.admit(a_task(), (demand(),))).task
    assert now(first.view("acme", task.id)).task == task
    first.crash()
    second = now(open_store(tmp_path / "tasks.db", executor=Executor.INLINE))

    assert now(second.view("acme", task.id)).task == task
    with pytest.raises(Unavailable):
        first.admit(a_task(2), ()).send(None)
    now(second.close())


# -- group commit -----------------------------------------------------------------------------------------------------


async def test_64_submits_at_once_cost_at_most_16_commits(store):
    told = []
    store.on_commit = told.append
    before = store.commits
    answers = await asyncio.gather(*(store.admit(a_task(number), (demand(unit=CENT),)) for number in range(64)))

    assert all(isinstance(answer, Admitted) for answer in answers)
    assert 1 <= store.commits - before <= 16
    assert store.writes["admit"] == 64
    assert len(told) == store.commits - before
    assert all(seconds >= 0 for seconds in told)


async def test_a_watcher_of_commits_that_fails_harms_nothing(store):
    store.on_commit = lambda seconds: seconds / 0

    assert isinstance(await store.admit(a_task(), ()), Admitted)
    assert await store.register("here", NOW)


async def test_reads_cost_no_commit(store):
    task = await Cast(store).admit()
    before = store.commits
    await asyncio.gather(*(store.view("acme", task.id) for _ in range(50)), store.search("acme", Search()))

    assert store.commits == before


class Faulty(Verbs):
    """Fails after it has written, in one of three ways, when a prompt asks for it."""

    def admit(self, task, demands):
        answer = yield from super().admit(task, demands)
        if task.input == {"fail": "bug"}:
            raise RuntimeError("planted")
        if task.input == {"fail": "sql"}:
            yield "insert into task (id) values ($1)", (task.id,)
        return answer


@pytest.mark.parametrize(("fault", "error"), [("bug", RuntimeError), ("sql", sqlite3.IntegrityError)])
async def test_a_verb_that_fails_takes_nothing_and_nobody_with_it(tmp_path, fault, error):
    store = await open_store(tmp_path / "tasks.db", verbs=Faulty())
    broken = a_task(2, input={"fail": fault})
    calls = [store.admit(task, (demand(),)) for task in (a_task(1), broken, a_task(3))]
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(second, error)
    assert isinstance(first, Admitted)
    assert isinstance(third, Admitted)
    assert await store.view("acme", broken.id) is None
    assert [one.held for one in await store.balances([("tenant:acme", demand().window)])] == [8 * CENT]
    await store.close()


async def test_a_refusal_in_a_shared_commit_leaves_nothing(store):
    whole = demand(unit=100 * CENT)
    first, second = await asyncio.gather(store.admit(a_task(1), (whole,)), store.admit(a_task(2), (whole,)))

    assert isinstance(first, Admitted)
    assert isinstance(second, OverBudget)
    assert len(await store.search("acme", Search())) == 1


async def test_a_caller_that_goes_away_does_not_undo_its_verb(store):
    going = asyncio.ensure_future(store.admit(a_task(1), ()))
    await asyncio.sleep(0)
    going.cancel()
    await store.admit(a_task(2), ())

    assert going.cancelled()
    assert await store.view("acme", a_task(1).id) is not None


async def test_closing_finishes_what_was_asked(tmp_path):
    store = await open_store(tmp_path / "tasks.db")
    asked = [asyncio.ensure_future(store.admit(a_task(number), ())) for number in range(300)]
    await asyncio.sleep(0)
    await store.close()

    assert {type(answer) for answer in await asyncio.gather(*asked)} == {Admitted}
    await store.close()  # twice is once


async def test_more_verbs_than_may_wait_are_refused(store):
    owner = await store.register("here", NOW)
    answers = await asyncio.gather(
        *(store.heartbeat(owner, NOW) for _ in range(WAITING_MAX + 5)), return_exceptions=True
    )

    assert Counter(map(type, answers)) == {bool: WAITING_MAX, Unavailable: 5}


# -- one daemon per file, and paths that will not do ------------------------------------------------------------------


async def test_a_second_daemon_is_told_who_uses_the_file(tmp_path):
    path = tmp_path / "tasks.db"
    first = await open_store(path)

    with pytest.raises(CannotOpen, match=f"process {os.getpid()}") as refused:
        await open_store(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(CannotOpen, match="another daemon"):
        await open_store(link)
    await first.admit(a_task(), ())
    await first.close()
    await (await open_store(path)).close()


@contextmanager
def nobody():
    """Be a user without rights for a while, as the superuser may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def missing_folder(folder):
    return folder / "nowhere" / "tasks.db"


def a_folder(folder):
    (folder / "tasks.db").mkdir()
    return folder / "tasks.db"


def below_a_file(folder):
    (folder / "file").write_text("x")
    return folder / "file" / "tasks.db"


def not_a_database(folder):
    (folder / "tasks.db").write_text("this is not a database, but long enough to be taken for one " * 20)
    return folder / "tasks.db"


def read_only_folder(folder):
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o500)
    return folder / "locked" / "tasks.db"


@pytest.mark.parametrize("place", [missing_folder, a_folder, below_a_file, not_a_database, read_only_folder])
async def test_a_path_that_will_not_do_is_named_in_one_line(tmp_path, place):
    path = place(tmp_path)

    who = nobody() if place is read_only_folder else nullcontext()
    with who, pytest.raises(CannotOpen, match=r"cannot be used: .") as refused:
        await open_store(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


async def test_a_store_that_did_not_open_keeps_nothing_locked(tmp_path):
    path = not_a_database(tmp_path)
    with pytest.raises(CannotOpen):
        await open_store(path)
    path.unlink()

    await (await open_store(path)).close()


async def test_the_file_is_its_owners_alone(tmp_path, store):
    await store.register("here", NOW)

    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}


# -- a disk that will not do ------------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_harms_nothing(tmp_path):
    path = tmp_path / "tasks.db"
    store = await open_store(path, max_page_count=80)
    admitted, refused = [], []
    for round_of_eight in range(100):
        tasks = [a_task(8 * round_of_eight + place, input={"prompt": "x" * 2000}) for place in range(8)]
        answers = await asyncio.gather(*(store.admit(one, (demand(unit=1),)) for one in tasks), return_exceptions=True)
        for task, answer in zip(tasks, answers, strict=True):
            (admitted if isinstance(answer, Admitted) else refused).append(task)
            assert isinstance(answer, Admitted | Unavailable), answer
        if refused:
            break

    assert admitted
    assert refused
    assert [task for task in refused if await store.view("acme", task.id) is not None] == []
    assert [task for task in admitted if await store.view("acme", task.id) is None] == []
    assert [one.held for one in await store.balances([("tenant:acme", demand().window)])] == [len(admitted)]
    await store.close()
    check_file(path)

    # With room again the same verb goes through, under the same id.
    store = await open_store(path)
    assert isinstance(await store.admit(refused[0], ()), Admitted)
    await store.close()


async def test_a_file_that_somebody_else_has_locked_is_unavailable_until_it_is_free(tmp_path, store):
    await store.ping()
    other = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    other.execute("begin immediate")

    refused = asyncio.gather(store.admit(a_task(), ()), store.ping(), return_exceptions=True)
    assert await store.view("acme", a_task().id) is None  # reads do not wait for writers
    assert not refused.done()
    assert [(type(one), "locked" in str(one)) for one in await refused] == [(Unavailable, True)] * 2
    other.execute("rollback")
    other.close()

    assert isinstance(await store.admit(a_task(), ()), Admitted)
    await store.ping()


# -- statements -------------------------------------------------------------------------------------------------------


def test_values_are_bound_by_number_wherever_they_stand(tmp_path):
    database = Database(tmp_path / "tasks.db", readers=1)

    def asking():
        return (yield "select $2, $1, $2, cast($3 as text)", ("'; drop table task; --", 7, None))

    job = Job(asking, ())
    database.write([job])

    assert job.answer == [(7, "'; drop table task; --", 7, None)]
    assert drive(database.readers[0], asking()) == job.answer
    database.close()


def test_the_reading_connections_cannot_write(tmp_path):
    database = Database(tmp_path / "tasks.db", readers=2)

    for connection in database.readers:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("delete from task")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("create table more (a text)")
    database.close()


def test_every_commit_is_synchronous(tmp_path):
    database = Database(tmp_path / "tasks.db", readers=1)

    assert database.writer.execute("pragma synchronous").fetchone() == (2,)  # FULL
    assert database.writer.execute("pragma journal_mode").fetchone() == ("wal",)
    database.close()


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_walks_through_a_table(tmp_path, name):
    database = Database(tmp_path / "tasks.db", readers=1)
    text = STATEMENTS[name]
    values = {str(number): 1 for number in map(int, re.findall(r"\$(\d+)", text))}
    question = f"explain query plan {text}"
    plan = [row[3] for row in database.writer.execute(question, values)]
    database.close()
    walks = [step for step in plan if re.match(rf"SCAN ({TABLES})\b", step)]

    # The jump over the fences begins at the index's first entry; attempts that are out have an index of their own.
    # A page of all keys begins where the page before it ended, in the order of the primary key.
    allowed = {"FENCES": "task_live", "ORPHANS_OUT": "attempt_out", "HALTED": "attempt_out"}
    allowed["KEYS"] = "sqlite_autoindex_api_key_1"
    assert all(name in allowed and f"INDEX {allowed[name]}" in step for step in walks), plan


def test_statements_on_a_tenants_rows_name_the_tenant(tmp_path):
    """Which tables have tenants is read from the schema; who looks across them is listed here, and nobody else does."""
    across = {"WAITING", "FENCES", "ORPHANS", "ORPHANS_OUT", "RUNNABLE", "HALTED", "ENDED", "BACKLOG"}  # the fleet
    across |= {"TO_SWEEP", "TO_FORGET", "LEDGER", "UNCOLLECTED", "DROP_STALE"}  # retention, audits
    across |= {"FIND_KEY", "KEY", "KEYS"}  # whose key it is; operators
    # Who delivers, and operators.
    across |= {"ANY_DUE", "WAITING_HOSTS", "DUE_OF_HOST", "LOCK_ANY_WEBHOOK", "SWEEP_WEBHOOKS"}
    across |= {"WEBHOOKS", "WEBHOOKS_OF_TASK", "RELAYED_TO_FORGET"}
    database = Database(tmp_path / "tasks.db", readers=1)
    with_tenant = (
        "select entry.name from sqlite_master as entry join pragma_table_info(entry.name) as column "
        "where entry.type = 'table' and column.name = 'tenant'"
    )
    owned = [name for (name,) in database.writer.execute(with_tenant)]
    database.close()
    touched = re.compile(rf"\b(from|into|update|join) ({'|'.join(owned)})\b")
    on_rows = {name for name, text in STATEMENTS.items() if touched.search(text)}
    bound = {name for name in on_rows if re.search(r"tenant = \$1|insert into \w+ \([^)]*tenant", STATEMENTS[name])}

    assert {"task", "attempt", "hold", "ledger", "api_key"} <= set(owned)
    assert len(on_rows) > 40
    assert on_rows - bound == across


def test_an_old_sqlite_is_warned_of(tmp_path):
    store = now(open_store(tmp_path / "tasks.db", executor=Executor.INLINE))
    now(store.close())

    if sqlite3.sqlite_version_info >= (3, 51, 3):
        assert store.warning is None
    else:
        assert sqlite3.sqlite_version in store.warning
        assert "3.51.3" in store.warning


def test_the_lock_file_names_its_holder(tmp_path):
    store = now(open_store(tmp_path / "tasks.db", executor=Executor.INLINE))

    assert poll_until_sync((tmp_path / "tasks.db.lock").read_text, "the lock file").strip() == str(os.getpid())
    now(store.close())
