"""The PostgreSQL store on a bad day: what verbs answer while the server is away, silent, slow or read-only, and what
becomes of a commit whose answer is lost.
"""

import asyncio

import pytest

from router.leases import Want
from router.persistence import Admitted, Cancelled, Duplicate, Opened, Owner, Search, Unavailable
from router.shelf import FilmPage
from router.store import postgres
from router.store.verbs import Verbs
from router.task import AttemptState, State
from tests.postgres import PASSWORD, running_server
from tests.store.stage import (
    HANDLE,
    LATER,
    NOW,
    Cast,
    a_task,
    an_attempt,
    begin,
    cancel_it,
    check_books,
    deliver,
    demand,
    end,
    fail_with,
    interrupt,
)
from tests.toxic import Mode, toxic_way
from tests.waiting import poll_until

KEY = ("provider", "target", "model")


@pytest.fixture(scope="module")
def server():
    """A server that the tests of this file may kill; its log is written late, so that a crash loses something."""
    with running_server("wal_writer_delay=10s") as made:
        yield made


@pytest.fixture
def url(server):
    """A database of its own."""
    made = server.create()
    yield made
    if not server.running:
        server.start()
    server.drop(made)


@pytest.fixture
async def way(server, url):
    """A way to the database that can go bad; `way.address` leads through it."""
    async with toxic_way(server.port) as proxy:
        proxy.address = proxy.url(url)
        yield proxy


@pytest.fixture
async def store(way):
    """A store behind that way."""
    opened = await postgres.open_store(way.address, verbs=Verbs())
    yield opened
    await opened.close()


def count(server, url):
    """How many tasks and balances there are."""
    statement = "select (select count(*) from task) + (select count(*) from balance)"
    return int(server.administer(statement, url.rpartition("/")[2]))


async def start(server):
    """Start the server again, while the loop goes on."""
    await asyncio.get_running_loop().run_in_executor(None, server.start)


def verbs_of(store):
    """Every verb, called with values that do no harm."""
    owner, task, attempt = Owner("nobody", 99), a_task(7, fence=99), an_attempt(a_task(7, fence=99))
    return {
        "register": lambda: store.register("somebody", NOW),
        "heartbeat": lambda: store.heartbeat(owner, NOW),
        "leave": lambda: store.leave(owner),
        "claim": lambda: store.claim(owner, 1_000, 10, NOW),
        "relieve": lambda: store.relieve(owner, 1, 1, NOW),
        "admit": lambda: store.admit(a_task(8, idempotency_key="k"), (demand(),)),
        "open_attempt": lambda: store.open_attempt(task, attempt, begin(), (demand(),)),
        "withdraw": lambda: store.withdraw(task, attempt, interrupt()),
        "accept": lambda: store.accept(attempt, HANDLE, LATER),
        "close_attempt": lambda: store.close_attempt(task, end(attempt), deliver()),
        "hear": lambda: store.hear(end(attempt)),
        "move": lambda: store.move(task, fail_with()),
        "cancel": lambda: store.cancel("acme", task.id, cancel_it()),
        "share": lambda: store.share(owner, (Want("p", 3),), 1_000, NOW),
        "exchange": lambda: store.exchange(owner, (), NOW),
        "lease_probe": lambda: store.lease_probe(owner, KEY, 1_000, 1_000, NOW),
        "halted": lambda: store.halted(owner),
        "ended": lambda: store.ended((("acme", task.id),)),
        "view": lambda: store.view("acme", task.id),
        "search": lambda: store.search("acme", Search()),
        "search by key": lambda: store.search("acme", Search(idempotency_key="k")),
        "alike": lambda: store.alike("acme", "digest", NOW),
        "waiting": lambda: store.waiting(owner, 10),
        "backlog": lambda: store.backlog(owner),
        "balances": lambda: store.balances((("tenant:acme", "total"),)),
        "ledger": lambda: store.ledger(task.id),
        "keep": lambda: store.keep("name", "value"),
        "sweep": lambda: store.sweep(NOW, 10),
        "erase": lambda: store.erase("acme", task.id, NOW),
        "films": lambda: store.films("acme", FilmPage()),
        "forget": lambda: store.forget(NOW, 10),
        "ping": store.ping,
    }


async def call_all(store):
    """Call every verb at once; returns what went wrong, by verb."""
    verbs = verbs_of(store)
    answers = await asyncio.gather(*(verb() for verb in verbs.values()), return_exceptions=True)
    return {name: answer for name, answer in zip(verbs, answers, strict=True) if isinstance(answer, BaseException)}


async def works(store):
    """Whether every verb answers."""
    wrong = await call_all(store)
    assert all(isinstance(one, Unavailable) for one in wrong.values()), wrong
    return not wrong


def all_unavailable(store, wrong):
    assert set(wrong) == set(verbs_of(store))
    assert {type(one) for one in wrong.values()} == {Unavailable}, wrong
    assert not any("\n" in str(one) or PASSWORD in str(one) for one in wrong.values())


# -- a server that goes away ------------------------------------------------------------------------------------------


async def test_every_verb_is_refused_while_the_server_is_dead_and_works_when_it_is_back(server, store):
    assert await works(store)
    for _round in range(2):
        calls = [asyncio.create_task(call_all(store)) for _ in range(3)]
        await asyncio.sleep(0)
        server.crash()
        for wrong in await asyncio.gather(*calls):
            assert {type(one) for one in wrong.values()} <= {Unavailable}, wrong
        all_unavailable(store, await call_all(store))
        await start(server)
        await poll_until(lambda: works(store), "the store to work again")


async def test_nobody_hangs_in_a_black_hole_or_waits_for_the_timeout_of_another(way, store):
    assert await works(store)
    before = way.connections
    way.turn(Mode.SWALLOW)

    for _wave in range(2):
        waves = [asyncio.create_task(call_all(store)) for _ in range(10)]
        for wrong in await asyncio.gather(*waves):
            all_unavailable(store, wrong)

    assert way.connections - before <= 8  # a line each, at most twice, however many wait
    way.turn(Mode.PASS)
    await poll_until(lambda: works(store), "the store to work again")


async def test_a_slow_way_makes_it_slow_and_batches_are_made(way, store):
    way.latency_s = 0.1
    before = store.commits

    answers = await asyncio.gather(*(store.admit(a_task(number), ()) for number in range(1, 201)))
    paid = await asyncio.gather(*(store.admit(a_task(number), (demand(unit=1),)) for number in range(301, 306)))

    assert {type(answer) for answer in (*answers, *paid)} == {Admitted}
    assert store.commits - before < 10
    way.latency_s = 0.0
    assert await works(store)


async def test_sessions_that_an_administrator_ends_are_made_anew(server, store):
    assert await works(store)

    calls = [asyncio.create_task(call_all(store)) for _ in range(5)]
    await asyncio.sleep(0)
    server.administer("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pointsman'")

    for wrong in await asyncio.gather(*calls):
        assert {type(one) for one in wrong.values()} <= {Unavailable}, wrong
    await poll_until(lambda: works(store), "the store to work again")


async def test_a_server_without_a_connection_to_spare_is_away_to_those_who_need_one(server, url):
    name = url.rpartition("/")[2]
    server.administer("drop role if exists one; create role one login password 'p' connection limit 1")
    server.administer("grant all on schema public to one", name)
    store = await postgres.open_store(server.url(name, user="one", password="p"))

    assert isinstance(await store.admit(a_task(), ()), Admitted)
    with pytest.raises(Unavailable, match="too many connections"):
        await store.view("acme", a_task().id)
    assert isinstance(await store.admit(a_task(2), ()), Admitted)

    server.administer("alter role one connection limit 10")
    assert (await store.view("acme", a_task().id)).task.id == a_task().id
    await store.close()


async def test_a_server_that_became_read_only_takes_nothing_and_still_answers(server, url, store):
    name = url.rpartition("/")[2]
    cast = Cast(store)
    await cast.admit(a_task())
    server.administer(f"alter database {name} set default_transaction_read_only = on")
    server.administer("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pointsman'")

    async def reads():
        return await store.view("acme", a_task().id)

    await poll_until(lambda: answers(reads), "reads to be answered")
    for verb in (lambda: store.admit(a_task(2), ()), store.ping, lambda: store.heartbeat(Owner("x", 1), NOW)):
        with pytest.raises(Unavailable, match="read-only"):
            await verb()

    server.administer("set default_transaction_read_only = off; alter database " + name + " reset all", "postgres")
    await poll_until(lambda: answers(lambda: store.admit(a_task(2), ())), "writes to be taken again")


async def answers(verb):
    """Whether a verb answers now."""
    try:
        return await verb()
    except Unavailable:
        return None


@pytest.mark.parametrize("silent", [False, True], ids=["dead", "silent"])
async def test_a_store_whose_server_is_away_can_be_closed(server, way, silent):
    store = await postgres.open_store(way.address)
    assert await works(store)
    store.hint("work")
    if silent:
        way.turn(Mode.SWALLOW)
    else:
        server.crash()
    calls = [asyncio.create_task(call_all(store)) for _ in range(3)]
    await asyncio.sleep(0)

    await store.close()

    for wrong in await asyncio.gather(*calls):
        all_unavailable(store, wrong)
    with pytest.raises(Unavailable, match="the store is closed"):
        await store.ping()


# -- a commit whose answer is lost ------------------------------------------------------------------------------------

SENT, DONE = b"commit\x00", b"COMMIT\x00"


async def strike(way, pattern, mode, verb):
    """Call a verb and lose the way to the server at its commit; returns the call, which is in doubt."""
    way.turn_at(pattern, mode)
    calling = asyncio.create_task(verb())
    await poll_until(way.struck.is_set, "the commit")
    return calling


async def test_a_commit_that_was_done_is_answered_as_done(way, store):
    cast = Cast(store)
    task = await cast.admit(a_task(1), demand())
    attempt = an_attempt(task)

    async def lose(verb):
        calling = await strike(way, DONE, Mode.REFUSE, verb)
        way.turn(Mode.PASS)
        return await calling

    other = await lose(lambda: store.admit(a_task(2, idempotency_key="k"), (demand(),)))
    opened = await lose(lambda: store.open_attempt(task, attempt, begin(), ()))
    closed = await lose(lambda: store.close_attempt(opened.task, end(opened.attempt), deliver()))
    gone = await lose(lambda: store.cancel("acme", a_task(2).id, cancel_it()))
    owner = await lose(lambda: store.register("here", NOW))

    assert isinstance(other, Admitted)
    assert isinstance(opened, Opened)
    assert (closed.state, closed.version) == (State.SUCCEEDED, opened.task.version + 1)
    assert isinstance(gone, Cancelled)
    assert owner == Owner("here", 1)
    again = await store.admit(a_task(3, idempotency_key="k"), ())
    assert isinstance(again, Duplicate)
    (ended,) = (await store.view("acme", task.id)).attempts
    assert ended.state is AttemptState.ENDED
    await check_books(store, a_task(1), a_task(2))


async def test_a_commit_that_was_done_behind_a_black_hole_is_answered_as_done(server, url, way, store):
    calling = await strike(way, DONE, Mode.SWALLOW, lambda: store.admit(a_task(), (demand(),)))
    way.turn(Mode.PASS)

    assert isinstance(await calling, Admitted)
    assert count(server, url) == 2


async def test_a_commit_that_never_arrived_is_answered_as_not_done(server, url, way, store):
    calling = await strike(way, SENT, Mode.REFUSE, lambda: store.admit(a_task(), (demand(),)))
    way.turn(Mode.PASS)

    with pytest.raises(Unavailable):
        await calling
    assert count(server, url) == 0


async def test_a_commit_that_is_still_on_its_way_is_waited_for(server, url, way, store):
    # The server has the transaction open and does not know that nobody is there any more.
    calling = await strike(way, SENT, Mode.SWALLOW, lambda: store.admit(a_task(), (demand(),)))
    way.turn(Mode.PASS)

    with pytest.raises(Unavailable):
        await calling
    open_ones = "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
    assert int(server.administer(open_ones)) == 0  # so that what was said cannot become untrue later
    assert count(server, url) == 0


async def test_a_commit_that_was_done_before_the_server_died_is_answered_as_done(server, url, way, store):
    calling = await strike(way, DONE, Mode.REFUSE, lambda: store.admit(a_task(), (demand(),)))
    server.crash()
    await start(server)
    way.turn(Mode.PASS)

    assert isinstance(await calling, Admitted)
    assert count(server, url) == 2


async def test_a_transaction_that_a_dead_server_forgot_is_not_taken_for_another_of_the_same_number(
    server, url, way, store
):
    name = url.rpartition("/")[2]
    server.administer("create table other (x int); checkpoint", name)
    calling = await strike(way, SENT, Mode.REFUSE, lambda: store.admit(a_task(), (demand(),)))
    server.crash()
    await start(server)
    for _transaction in range(5):  # one of them gets the number that the lost one had
        server.administer("insert into other values (1)", name)
    way.turn(Mode.PASS)

    with pytest.raises(Unavailable):
        await calling
    assert count(server, url) == 0


async def test_others_are_answered_while_one_is_in_doubt_and_closing_ends_the_doubt(way):
    store = await postgres.open_store(way.address)
    calling = await strike(way, DONE, Mode.REFUSE, lambda: store.admit(a_task(), (demand(),)))

    all_unavailable(store, await call_all(store))
    assert not calling.done()
    await store.close()

    with pytest.raises(Unavailable):
        await calling


# -- hints ------------------------------------------------------------------------------------------------------------


async def test_hints_reach_the_others_and_not_oneself_and_outlive_the_server(server, way):
    told, own = [], []
    one, two = await postgres.open_store(way.address), await postgres.open_store(way.address)
    one.listen(own.append)
    two.listen(told.append)

    async def heard(topic):
        one.hint(topic)
        return topic in told

    await poll_until(lambda: heard("work"), "the first hint")
    server.crash()
    one.hint("lost")
    await poll_until(lambda: not server.running, "the end of the server")
    await start(server)
    await poll_until(lambda: "lost" in told, "the hint that was given while the server was away")
    way.turn(Mode.SWALLOW)
    one.hint("ended")
    way.turn(Mode.PASS)
    way.cut()
    await poll_until(lambda: heard("circuit"), "a hint after the way was cut")
    assert own == []
    await one.close()
    await two.close()
