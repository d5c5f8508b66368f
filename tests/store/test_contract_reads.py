"""Reads in every engine: lists and their order, what belongs to whom, and what retention takes away."""

from dataclasses import replace

import pytest

from router.outcome import Billed
from router.persistence import Backlog, Owner, Search, Unavailable
from router.task import Preferences, Priority, State
from tests.store.stage import (
    HANDLE,
    KEEP_UNTIL,
    LATER,
    NOW,
    PICTURE,
    Cast,
    a_task,
    an_attempt,
    begin,
    cancel_it,
    deliver,
    demand,
    end,
    fail_with,
    interrupt,
    picture_of,
    retry,
)

OWNER = Owner("here", 1)  # whom `a_task` belongs to


def ids(found):
    """Name the tasks by their numbers."""
    return [int(getattr(one, "task", one).id[5:], 16) for one in found]


# -- search -----------------------------------------------------------------------------------------------------------


async def test_a_listing_is_newest_first_and_has_the_attempts(store):
    cast = Cast(store)
    first = await cast.succeed(a_task(1))
    await cast.admit(a_task(2))
    found = await store.search("acme", Search())

    assert ids(found) == [2, 1]
    assert found[1] == await store.view("acme", first.id)
    assert len(found[1].attempts) == 1


async def test_pages_follow_each_other_without_gap_or_repeat(store):
    for number in range(25):
        # Some were created in the same millisecond: the id decides.
        await Cast(store).admit(a_task(number, created_at=NOW + number // 4))
    seen, before = [], None
    while page := await store.search("acme", Search(before=before, limit=7)):
        assert len(page) <= 7
        seen += ids(page)
        before = page[-1].task.created_at, page[-1].task.id

    assert seen == sorted(range(25), reverse=True)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(status=State.SUCCEEDED), [2]),
        (Search(status=State.PENDING), [5, 4, 3, 1]),
        (Search(model="other"), [3]),
        (Search(provider="openai"), [2]),
        (Search(provider="nobody"), []),
        (Search(created_after=NOW + 3), [5, 4]),
        (Search(idempotency_key="k4"), [4]),
        (Search(idempotency_key="k9"), []),
        (Search(status=State.PENDING, model="gpt-image-2", created_after=NOW + 1), [5, 4]),
        (Search(limit=2), [5, 4]),
        (Search(limit=0), []),
    ],
)
async def test_a_listing_has_what_matches_everything_asked_for(store, search, expected):
    cast = Cast(store)
    await cast.admit(a_task(1))
    await cast.succeed(a_task(2))
    await cast.admit(a_task(3, model="other"))
    await cast.admit(a_task(4, idempotency_key="k4"))
    await cast.admit(a_task(5))

    assert ids(await store.search("acme", search)) == expected


# -- alike ------------------------------------------------------------------------------------------------------------


async def test_equal_requests_are_found_oldest_first(store):
    for number in (3, 1, 2):
        await Cast(store).admit(a_task(number, digest="same"))
    await Cast(store).admit(a_task(4, digest="other"))
    await Cast(store).admit(a_task(5, digest="same", tenant="globex"))

    assert ids(await store.alike("acme", "same", NOW)) == [1, 2, 3]


async def test_equal_requests_that_ended_too_long_ago_are_not_found(store):
    cast = Cast(store)
    await cast.succeed(a_task(1, digest="same"), move=deliver(LATER))
    await cast.succeed(a_task(2, digest="same"), move=deliver(LATER + 100))
    await cast.admit(a_task(3, digest="same"))

    assert ids(await store.alike("acme", "same", LATER)) == [1, 2, 3]
    assert ids(await store.alike("acme", "same", LATER + 1)) == [2, 3]
    assert ids(await store.alike("acme", "same", LATER + 101)) == [3]


async def test_at_most_100_equal_requests_are_found(store):
    for number in range(105):
        await Cast(store).admit(a_task(number, digest="same"))

    assert ids(await store.alike("acme", "same", 0)) == list(range(100))


# -- what waits -------------------------------------------------------------------------------------------------------


async def test_what_waits_comes_best_priority_and_oldest_first(store):
    cast = Cast(store)
    orders = [(1, Priority.LOW), (2, Priority.NORMAL), (3, Priority.URGENT), (4, Priority.NORMAL), (5, Priority.HIGH)]
    for number, priority in orders:
        await cast.admit(a_task(number, priority=priority, tenant=f"tenant-{number}"))

    assert ids(await store.waiting(OWNER, 10)) == [3, 5, 2, 4, 1]
    assert ids(await store.waiting(OWNER, 2)) == [3, 5]


async def test_only_pending_and_retrying_tasks_wait(store):
    cast = Cast(store)
    await cast.admit(a_task(1))
    again = await cast.close(await cast.open(await cast.admit(a_task(2))), retry(), billing=Billed.NO)
    await cast.open(await cast.admit(a_task(3)))
    await cast.succeed(a_task(4))
    opened = await cast.open(await cast.admit(a_task(5)))
    await store.withdraw(opened.task, opened.attempt, interrupt())
    found = await store.waiting(OWNER, 10)

    assert ids(found) == [1, 2, 5]
    assert found[1] == again


async def test_the_backlog_counts_what_waits_by_class_and_tenant(store):
    cast = Cast(store)
    assert await store.backlog(OWNER) == Backlog({}, None)

    await cast.open(await cast.admit(a_task(1)))
    for number in (5, 3, 4):
        await cast.admit(a_task(number))
    await cast.admit(a_task(6, tenant="globex", priority=Priority.LOW))

    assert await store.backlog(OWNER) == Backlog({(2, "acme"): 3, (3, "globex"): 1}, NOW + 3)


async def test_what_waits_for_one_life_does_not_wait_for_another(store):
    await Cast(store).admit()
    other = Owner("here", 2)

    assert await store.waiting(other, 10) == ()
    assert await store.backlog(other) == Backlog({}, None)


# -- retention --------------------------------------------------------------------------------------------------------


async def test_retention_removes_output_and_input_of_a_success_and_keeps_the_rest(store):
    cast = Cast(store)
    task = await cast.succeed(None, demand())
    before = await picture_of(store, task)

    assert await store.sweep(KEEP_UNTIL - 1, 10) == ()
    assert await picture_of(store, task) == before
    assert await store.sweep(KEEP_UNTIL, 10) == (task,)

    view = await store.view("acme", task.id)
    assert (view.task.state, view.task.output, view.task.input) == (State.EXPIRED, (), {})
    assert (view.task.usage, view.task.completed_at, view.task.expires_at) == (task.usage, LATER, KEEP_UNTIL)
    assert view.task.version == task.version + 1
    assert view.attempts == before[0][0].attempts
    assert (await picture_of(store, task))[1:] == before[1:]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_retention_removes_the_input_of_other_endings_and_leaves_the_state(store, ending):
    task = await Cast(store).admit()
    move = fail_with() if ending == "failed" else None
    ended = await store.move(task, move) if move else (await store.cancel("acme", task.id, cancel_it())).task

    assert await store.sweep(KEEP_UNTIL, 10) == (ended,)
    assert (await store.view("acme", task.id)).task == replace(ended, input={})


async def test_retention_takes_each_task_once_the_first_to_expire_first(store):
    cast = Cast(store)
    for number, keep_for in ((1, 30), (2, 10), (3, 20)):
        await cast.succeed(a_task(number, input={}), move=deliver(expires_at=LATER + keep_for))
    await cast.admit(a_task(4))

    assert ids(await store.sweep(LATER + 100, 2)) == [2, 3]
    assert ids(await store.sweep(LATER + 100, 2)) == [1]
    assert ids(await store.sweep(LATER + 100, 2)) == []


async def test_a_result_that_came_after_the_cancel_is_swept_too(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit())
    cancelled = (await store.cancel("acme", opened.task.id, cancel_it())).task

    # While the attempt is out its result may still come, so nothing is swept yet.
    assert await store.sweep(KEEP_UNTIL, 10) == ()
    heard = await store.hear(end(opened.attempt, output=(PICTURE,)))
    assert await store.sweep(KEEP_UNTIL, 10) == (replace(cancelled, output=(PICTURE,)),)

    view = await store.view("acme", opened.task.id)
    assert (view.task, view.attempts) == (replace(cancelled, input={}), (replace(heard, output=()),))


async def test_old_rows_are_deleted_and_their_ledger_stays(store):
    cast = Cast(store)
    old = await cast.succeed(a_task(1, idempotency_key="k"), demand(), move=deliver(LATER))
    new = await cast.succeed(a_task(2), demand(), move=deliver(LATER + 1))
    lines = await store.ledger(old.id)

    assert await store.forget(LATER, 10) == 0
    assert await store.forget(LATER + 1, 10) == 1
    assert await store.view("acme", old.id) is None
    assert (await store.view("acme", new.id)).task == new
    assert await store.ledger(old.id) == lines
    assert [one.spent for one in await store.balances([("tenant:acme", demand().window)])] == [
        2 * lines[-1].spent_delta
    ]
    # The key is free again, as it lives as long as the row.
    await cast.admit(a_task(3, idempotency_key="k"))


async def test_rows_are_deleted_in_batches_the_first_completed_first(store):
    cast = Cast(store)
    for number, at in ((1, 30), (2, 10), (3, 20)):
        await cast.succeed(a_task(number), move=deliver(LATER + at))

    assert await store.forget(LATER + 100, 2) == 2
    assert ids(await store.search("acme", Search())) == [1]
    assert await store.forget(LATER + 100, 2) == 1
    assert await store.forget(LATER + 100, 2) == 0


async def test_living_tasks_and_those_with_an_attempt_out_are_never_deleted(store):
    cast = Cast(store)
    await cast.admit(a_task(1))
    opened = await cast.open(await cast.admit(a_task(2)))
    await store.cancel("acme", opened.task.id, cancel_it())

    assert await store.forget(LATER * 2, 10) == 0
    await store.hear(end(opened.attempt))
    assert await store.forget(LATER * 2, 10) == 1
    assert ids(await store.search("acme", Search())) == [1]


# -- settings and the end ---------------------------------------------------------------------------------------------


async def test_the_first_value_of_a_setting_stands(store):
    assert await store.keep("pepper", "a") == "a"
    assert await store.keep("pepper", "b") == "a"
    assert await store.keep("signing", "c") == "c"


async def test_every_part_of_a_record_comes_back_as_it_went_in(store):
    bare = a_task(1, input={}, metadata={}, preferences=Preferences(), key_id=None, deadline=None, digest="")
    full = a_task(
        2,
        preferences=Preferences(
            order=("a", "b"),
            only=("a",),
            ignore=("c",),
            allow_fallbacks=False,
            sort="latency",
            max_price={"task": 1, "video_second": 2**62},
            require_parameters=True,
        ),
        idempotency_key="ключ",
        not_before=NOW,
        input={"quotes": "'\";--", "nested": [{"a": None}], "float": 0.1, "big": 2**62, "flags": [True, False]},
    )
    cast = Cast(store)
    for task in (bare, full):
        row = await cast.admit(task)
        assert row == task
        assert (await store.view("acme", task.id)).task == task
        opened = await cast.open(row, estimate_nanos=None, detail="one\nline", http_status=429)
        kept = await store.accept(opened.attempt, HANDLE, LATER)
        assert (await store.view("acme", task.id)).attempts == (kept,)


@pytest.mark.parametrize("verb", ["admit", "move", "view", "search", "waiting", "ledger", "keep", "register", "ping"])
async def test_a_closed_store_says_that_it_is_unavailable(store, verb):
    task = await Cast(store).admit()
    await store.ping()
    await store.close()
    calls = {
        "admit": lambda: store.admit(a_task(2), ()),
        "move": lambda: store.move(task, fail_with()),
        "view": lambda: store.view("acme", task.id),
        "search": lambda: store.search("acme", Search()),
        "waiting": lambda: store.waiting(OWNER, 1),
        "ledger": lambda: store.ledger(task.id),
        "keep": lambda: store.keep("a", "b"),
        "register": lambda: store.register("here", NOW),
        "ping": store.ping,
    }

    with pytest.raises(Unavailable):
        await calls[verb]()


async def test_the_writing_verbs_of_a_life_are_counted_and_reads_are_not(store):
    cast = Cast(store)
    task = await cast.admit()
    attempt = an_attempt(task)
    opened = await store.open_attempt(task, attempt, begin(), ())
    kept = await store.accept(opened.attempt, HANDLE, LATER)
    await store.close_attempt(opened.task, end(kept), deliver())
    await store.view("acme", task.id)
    await store.search("acme", Search())

    assert store.writes == {"admit": 1, "open_attempt": 1, "accept": 1, "close_attempt": 1}


# -- sums -------------------------------------------------------------------------------------------------------------


async def test_spending_is_summed_by_day_model_provider_and_key(store):
    cast = Cast(store)
    await cast.succeed(a_task(1))
    await cast.succeed(a_task(2))
    await cast.succeed(a_task(3, model="veo-3", key_id=None))
    await cast.succeed(a_task(4, tenant="globex"))
    lines = await store.spending("acme", 0, 2**53)

    assert [(line.model, line.key_id, line.attempts, line.delivered) for line in lines] == [
        ("gpt-image-2", "key-1", 2, 2),
        ("veo-3", None, 1, 1),
    ]
    (view,) = [one for one in await store.search("acme", Search()) if one.task.model == "veo-3"]
    assert lines[1].cost_nanos == view.attempts[0].cost_nanos
    assert lines[1].day == view.attempts[0].ended_at // 86_400_000
    assert await store.spending("acme", 0, view.attempts[0].ended_at - 10_000) == ()
