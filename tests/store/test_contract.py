"""The life of a task in every engine: what each verb writes, what it answers, and what it refuses without a trace."""

import asyncio
from dataclasses import replace

import pytest

from router.outcome import Billed
from router.persistence import Admitted, Cancelled, Duplicate, Opened, OverBudget, Search, Stale, TaskView, TooLate
from router.provider import Handle, Usage
from router.task import AttemptState, IllegalMove, State, joined, went_on
from tests.store.stage import (
    CENT,
    HANDLE,
    KEEP_UNTIL,
    LATER,
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

# -- admission --------------------------------------------------------------------------------------------------------


async def test_an_admitted_task_is_read_back_as_it_was(store):
    task = a_task(idempotency_key="k", retry_of="task_0", start_by=LATER, warnings=("a", "b"))

    assert await store.admit(task, ()) == Admitted(task)
    assert await store.view("acme", task.id) == TaskView(task, ())


async def test_an_admission_repeated_after_a_lost_answer_is_the_same_task(store):
    task = await Cast(store).admit(a_task(), demand())
    moved = (await Cast(store).open(task)).task

    assert await store.admit(task, (demand(),)) == Admitted(moved)
    assert len(await store.ledger(task.id)) == 2  # the reserve and the hold: nothing is reserved twice


async def test_an_id_of_another_tenant_is_never_overwritten(store):
    task = await Cast(store).admit()

    with pytest.raises(ValueError, match="taken"):
        await store.admit(a_task(tenant="globex"), ())
    assert await store.view("acme", task.id) == TaskView(task, ())


async def test_a_used_key_answers_with_its_task_and_writes_nothing(store):
    first = await Cast(store).admit(a_task(1, idempotency_key="k"), demand())
    second = a_task(2, idempotency_key="k", digest="another body")

    assert await store.admit(second, (demand(),)) == Duplicate(first)
    assert await store.view("acme", second.id) is None
    assert await store.ledger(second.id) == ()


async def test_a_used_key_still_answers_when_the_task_has_ended(store):
    task = await Cast(store).succeed(a_task(1, idempotency_key="k"))

    assert await store.admit(a_task(2, idempotency_key="k"), ()) == Duplicate(task)


async def test_a_used_key_answers_even_when_the_budget_is_used_up(store):
    whole = demand(unit=100 * CENT)
    first = await Cast(store).admit(a_task(1, idempotency_key="k"), whole)

    assert await store.admit(a_task(2, idempotency_key="k"), (whole,)) == Duplicate(first)
    assert isinstance(await store.admit(a_task(3), (whole,)), OverBudget)


async def test_two_tenants_never_share_a_key(store):
    await Cast(store).admit(a_task(1, idempotency_key="k"))

    assert isinstance(await store.admit(a_task(2, tenant="globex", idempotency_key="k"), ()), Admitted)


async def test_tasks_without_a_key_are_never_duplicates(store):
    await Cast(store).admit(a_task(1))

    assert isinstance(await store.admit(a_task(2), ()), Admitted)


async def test_one_key_at_once_from_many_sides_makes_one_task(store):
    tasks = [a_task(number, idempotency_key="k") for number in range(20)]
    answers = await asyncio.gather(*(store.admit(task, (demand(),)) for task in tasks))
    admitted = [answer.task for answer in answers if isinstance(answer, Admitted)]

    assert len(admitted) == 1
    assert {answer.task.id for answer in answers} == {admitted[0].id}
    assert len(await store.search("acme", Search())) == 1


# -- attempts ---------------------------------------------------------------------------------------------------------


async def test_an_intent_is_durable_together_with_the_move(store):
    task = await Cast(store).admit()
    attempt = an_attempt(task)
    opened = await store.open_attempt(task, attempt, begin(), ())

    assert isinstance(opened, Opened)
    assert opened.attempt == attempt
    assert (opened.task.state, opened.task.version, opened.task.tries) == (State.RUNNING, 2, 1)
    assert (opened.task.provider, opened.task.started_at) == ("openai", LATER)
    assert await store.view("acme", task.id) == TaskView(opened.task, (attempt,))


async def test_an_accepted_job_has_its_remote_id_on_disk(store):
    opened = await Cast(store).open(await Cast(store).admit())
    kept = await store.accept(opened.attempt, HANDLE, LATER + 5)

    assert (kept.state, kept.handle, kept.accepted_at) == (AttemptState.ACCEPTED, HANDLE, LATER + 5)
    assert await store.view("acme", opened.task.id) == TaskView(opened.task, (kept,))


async def test_a_delivered_attempt_ends_the_task_in_one_step(store):
    opened = await Cast(store).open(await Cast(store).admit())
    accepted = await store.accept(opened.attempt, HANDLE, LATER)
    ended = end(accepted, detail="", estimated=True)
    task = await store.close_attempt(opened.task, ended, deliver())

    assert (task.state, task.output, task.usage.output_tokens) == (State.SUCCEEDED, (PICTURE,), 100)
    assert await store.view("acme", task.id) == TaskView(task, (ended,))


async def test_a_task_goes_through_attempts_in_their_order(store):
    cast = Cast(store)
    task = await cast.admit()
    for _turn in range(3):
        opened = await cast.open(task)
        task = await cast.close(opened, retry(not_before=LATER + 9), billing=Billed.NO)
        assert (task.state, task.not_before) == (State.RETRYING, LATER + 9)
    opened = await cast.open(task)
    task = await cast.close(opened, fail_with(), billing=Billed.UNKNOWN, detail="no answer came")
    view = await store.view("acme", task.id)

    assert [one.n for one in view.attempts] == [1, 2, 3, 4]
    assert [one.outcome for one in view.attempts] == ["overloaded"] * 3 + ["unknown"]
    assert view.task == task
    assert (task.state, task.error.details, task.version) == (State.FAILED, {"tried": ["openai"]}, 9)


async def test_a_withdrawn_attempt_leaves_the_task_as_if_it_had_not_been(store):
    task = await Cast(store).admit()
    opened = await Cast(store).open(task)
    back = await store.withdraw(opened.task, opened.attempt, interrupt())

    assert (back.state, back.tries, back.started_at, back.provider) == (State.PENDING, 0, None, None)
    assert await store.view("acme", task.id) == TaskView(back, ())


async def test_a_withdrawn_second_attempt_leaves_the_first(store):
    cast = Cast(store)
    task = await cast.close(await cast.open(await cast.admit()), retry(), billing=Billed.NO)
    opened = await cast.open(task)
    back = await store.withdraw(opened.task, opened.attempt, interrupt())

    assert (back.state, back.tries, back.provider) == (State.RETRYING, 1, "openai")
    assert [one.n for one in (await store.view("acme", task.id)).attempts] == [1]


async def test_the_number_of_a_withdrawn_attempt_is_used_again(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()))
    back = await store.withdraw(opened.task, opened.attempt, interrupt())

    assert (await cast.open(back)).attempt.n == 1


async def test_an_accepted_attempt_cannot_be_withdrawn(store):
    opened = await Cast(store).open(await Cast(store).admit())
    await store.accept(opened.attempt, HANDLE, LATER)

    assert await store.withdraw(opened.task, opened.attempt, interrupt()) == Stale(opened.task)


async def test_at_most_one_attempt_of_a_part_is_out(store):
    here = await Cast(store).own("here")
    await Cast(store).open(await Cast(store).admit(a_task(owner="here", fence=here.epoch)))
    there = await Cast(store).own("there")
    (view,) = await store.claim(there, 0, 10, LATER)
    again = an_attempt(view.task, n=2, part=view.attempts[0].part)

    assert await store.open_attempt(view.task, again, begin(), ()) == Stale(view.task)
    assert await store.view("acme", view.task.id) == view


async def test_attempts_of_several_parts_are_out_side_by_side_and_end_one_by_one(store):
    cast = Cast(store)
    first = await cast.open(await cast.admit(), count=1)
    beside = an_attempt(first.task, part=1, count=2, attempt_key="parts")
    second = await store.open_attempt(first.task, beside, joined(LATER, "flux", "flux-2"), ())
    one = replace(end(first.attempt, output=(PICTURE,)), usage=Usage(output_tokens=7))
    task = await store.close_attempt(second.task, one, went_on(LATER))
    going = await store.view("acme", task.id)
    other = end(second.attempt)
    done = await store.close_attempt(task, other, deliver())

    assert (second.task.state, second.task.tries, second.task.provider) == (State.RUNNING, 2, "flux")
    assert going == TaskView(task, (one, second.attempt))
    assert (task.state, task.version, task.tries) == (State.RUNNING, 4, 2)
    assert await store.view("acme", task.id) == TaskView(done, (one, other))


async def test_another_attempt_of_a_part_that_is_out_does_not_join(store):
    opened = await Cast(store).open(await Cast(store).admit(), part=1, count=1)
    again = an_attempt(opened.task, part=1, count=1)

    assert await store.open_attempt(opened.task, again, joined(LATER, "flux", "flux-2"), ()) == Stale(opened.task)
    assert (await store.view("acme", opened.task.id)).attempts == (opened.attempt,)


async def test_a_part_that_is_withdrawn_leaves_the_others_out(store):
    first = await Cast(store).open(await Cast(store).admit(), count=1)
    second = await store.open_attempt(
        first.task, an_attempt(first.task, part=1, count=1), joined(LATER, "flux", "flux-2"), ()
    )
    back = await store.withdraw(second.task, first.attempt, went_on(LATER))

    assert (back.state, back.tries) == (State.RUNNING, 2)
    assert await store.view("acme", back.id) == TaskView(back, (second.attempt,))


async def test_a_task_that_waits_for_its_last_images_is_delivered_without_them_in_one_write(store):
    cast = Cast(store)
    waiting = await cast.close(await cast.open(await cast.admit(), count=1), retry(), output=(PICTURE,))
    done = await store.move(waiting, deliver())

    assert (done.state, done.output, done.version) == (State.SUCCEEDED, (PICTURE,), waiting.version + 2)
    assert (await store.view("acme", done.id)).task == done


async def test_what_several_parts_delivered_is_swept_with_the_task(store):
    cast = Cast(store)
    late = replace(PICTURE, key="k/2/0.png")
    waiting = await cast.close(await cast.open(await cast.admit(), count=1), retry(), output=(late,))
    done = await store.move(waiting, deliver())
    (gone,) = await store.sweep(KEEP_UNTIL, 10)

    assert {output.key for output in gone.output} == {PICTURE.key, late.key}
    assert [one.output for one in (await store.view("acme", done.id)).attempts] == [()]


# -- moves without an attempt -----------------------------------------------------------------------------------------


async def test_a_task_that_nobody_can_do_fails_in_one_write(store):
    task = await Cast(store).admit()
    failed = await store.move(task, fail_with("no_provider_available"))

    assert (failed.state, failed.error.error_type) == (State.FAILED, "no_provider_available")
    assert await store.view("acme", task.id) == TaskView(failed, ())


@pytest.mark.parametrize("verb", ["move", "close_attempt", "open_attempt", "withdraw"])
async def test_a_move_that_the_table_does_not_list_changes_nothing(store, verb):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()))
    before = await picture_of(store, opened.task)
    another = an_attempt(opened.task, n=2, part=1)
    calls = {
        "move": lambda: store.move(opened.task, begin()),
        "close_attempt": lambda: store.close_attempt(opened.task, end(opened.attempt), begin()),
        "open_attempt": lambda: store.open_attempt(opened.task, another, begin(), ()),
        "withdraw": lambda: store.withdraw(opened.task, opened.attempt, begin()),
    }

    with pytest.raises(IllegalMove):
        await calls[verb]()
    assert await picture_of(store, opened.task) == before


async def test_an_attempt_that_has_not_ended_cannot_be_closed(store):
    opened = await Cast(store).open(await Cast(store).admit(None, demand()))
    before = await picture_of(store, opened.task)

    with pytest.raises(ValueError, match="has not ended"):
        await store.close_attempt(opened.task, opened.attempt, deliver())
    assert await picture_of(store, opened.task) == before


# -- guards -----------------------------------------------------------------------------------------------------------

STALE_TASKS = {
    "an older version": lambda task: replace(task, version=task.version - 1),
    "a newer version": lambda task: replace(task, version=task.version + 1),
    "another fence": lambda task: replace(task, fence=task.fence + 1),
    "another tenant": lambda task: replace(task, tenant="globex"),
    "another task": lambda task: replace(task, id="task_" + "f" * 32),
}


@pytest.mark.parametrize("how", STALE_TASKS)
@pytest.mark.parametrize("verb", ["open_attempt", "move"])
async def test_a_waiting_task_that_is_not_as_expected_is_left_alone(store, verb, how):
    task = await Cast(store).admit(None, demand())
    before = await picture_of(store, task)
    expected = STALE_TASKS[how](task)
    calls = {
        "open_attempt": lambda: store.open_attempt(expected, an_attempt(expected), begin(), (demand("all"),)),
        "move": lambda: store.move(expected, fail_with()),
    }

    gone = how in {"another tenant", "another task"}
    assert await calls[verb]() == Stale(None if gone else task)
    assert await picture_of(store, task) == before


@pytest.mark.parametrize("how", STALE_TASKS)
@pytest.mark.parametrize("verb", ["close_attempt", "withdraw"])
async def test_a_running_task_that_is_not_as_expected_is_left_alone(store, verb, how):
    opened = await Cast(store).open(await Cast(store).admit(None, demand()))
    before = await picture_of(store, opened.task)
    expected = STALE_TASKS[how](opened.task)
    attempt = replace(opened.attempt, task_id=expected.id, tenant=expected.tenant)
    calls = {
        "close_attempt": lambda: store.close_attempt(expected, end(attempt), deliver()),
        "withdraw": lambda: store.withdraw(expected, attempt, interrupt()),
    }

    gone = how in {"another tenant", "another task"}
    assert await calls[verb]() == Stale(None if gone else opened.task)
    assert await picture_of(store, opened.task) == before


@pytest.mark.parametrize("change", [{"fence": 9}, {"n": 2}, {"tenant": "globex"}, {"task_id": "task_" + "f" * 32}])
@pytest.mark.parametrize("verb", ["accept", "close_attempt", "hear", "withdraw"])
async def test_an_attempt_that_is_not_as_expected_is_left_alone(store, verb, change):
    opened = await Cast(store).open(await Cast(store).admit(None, demand()))
    task = opened.task
    if verb == "hear":
        task = (await store.cancel("acme", task.id, cancel_it())).task
    before = await picture_of(store, task)
    stranger = replace(opened.attempt, **change)
    calls = {
        "accept": lambda: store.accept(stranger, HANDLE, LATER),
        "close_attempt": lambda: store.close_attempt(task, end(stranger), deliver()),
        "hear": lambda: store.hear(end(stranger)),
        "withdraw": lambda: store.withdraw(task, stranger, interrupt()),
    }
    # close_attempt and withdraw name the task themselves; the others find it by the attempt.
    found = task if verb in {"close_attempt", "withdraw"} or not {"tenant", "task_id"} & set(change) else None

    assert await calls[verb]() == Stale(found)
    assert await picture_of(store, task) == before


@pytest.mark.parametrize("verb", ["accept", "close_attempt", "hear"])
async def test_an_attempt_that_has_ended_does_not_end_again(store, verb):
    cast = Cast(store)
    opened = await cast.open(await cast.admit(None, demand()))
    task = await cast.close(opened, retry(), billing=Billed.NO)
    before = await picture_of(store, task)
    calls = {
        "accept": lambda: store.accept(opened.attempt, HANDLE, LATER),
        "close_attempt": lambda: store.close_attempt(task, end(opened.attempt), deliver()),
        "hear": lambda: store.hear(end(opened.attempt)),
    }

    assert await calls[verb]() == Stale(task)
    assert await picture_of(store, task) == before


async def test_a_job_cannot_be_accepted_twice_under_two_names(store):
    opened = await Cast(store).open(await Cast(store).admit())
    kept = await store.accept(opened.attempt, HANDLE, LATER)

    assert await store.accept(opened.attempt, Handle("another"), LATER) == Stale(opened.task)
    assert (await store.view("acme", opened.task.id)).attempts == (kept,)


async def test_one_of_two_that_open_an_attempt_wins(store):
    task = await Cast(store).admit(None, demand(units=2))
    attempt = an_attempt(task)
    answers = await asyncio.gather(*(store.open_attempt(task, attempt, begin(), ()) for _ in range(5)))

    assert sum(isinstance(answer, Opened) for answer in answers) == 1
    assert sum(isinstance(answer, Stale) for answer in answers) == 4
    assert [line.entry for line in await store.ledger(task.id)] == ["reserve", "hold"]


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_waiting_task_is_cancelled_and_sends_nothing_more(store):
    task = await Cast(store).admit()
    cancelled = await store.cancel("acme", task.id, cancel_it())

    assert isinstance(cancelled, Cancelled)
    assert (cancelled.was, cancelled.task.state) == (State.PENDING, State.CANCELLED)
    assert await store.view("acme", task.id) == TaskView(cancelled.task, ())
    assert await store.open_attempt(task, an_attempt(task), begin(), ()) == Stale(cancelled.task)


@pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
async def test_an_ended_task_is_not_cancelled(store, ending):
    cast = Cast(store)
    task = await cast.admit()
    if ending == "cancelled":
        task = (await store.cancel("acme", task.id, cancel_it())).task
    else:
        task = await cast.close(await cast.open(task), deliver() if ending == "succeeded" else fail_with())

    assert await store.cancel("acme", task.id, cancel_it(LATER + 1)) == TooLate(task)
    assert (await store.view("acme", task.id)).task == task


async def test_a_cancel_and_a_completion_at_once_have_one_winner(store):
    cast = Cast(store)
    for number in range(20):
        opened = await cast.open(await cast.admit(a_task(number), demand()))
        first, second = (
            store.cancel("acme", opened.task.id, cancel_it()),
            store.close_attempt(opened.task, end(opened.attempt), deliver()),
        )
        if number % 2:
            cancelled, closed = await asyncio.gather(first, second)
        else:
            closed, cancelled = await asyncio.gather(second, first)
        row = (await store.view("acme", opened.task.id)).task

        assert isinstance(cancelled, Cancelled) is isinstance(closed, Stale)
        assert row.state is (State.CANCELLED if isinstance(cancelled, Cancelled) else State.SUCCEEDED)
        assert cancelled.task == row


async def test_a_job_is_accepted_and_heard_to_its_end_after_the_cancel(store):
    opened = await Cast(store).open(await Cast(store).admit())
    cancelled = (await store.cancel("acme", opened.task.id, cancel_it())).task
    kept = await store.accept(opened.attempt, HANDLE, LATER + 1)
    late = end(kept, output=(PICTURE,))

    assert kept.handle == HANDLE
    assert await store.close_attempt(opened.task, late, deliver()) == Stale(cancelled)
    assert await store.hear(late) == late
    assert await store.view("acme", opened.task.id) == TaskView(cancelled, (late,))


async def test_an_attempt_of_a_living_task_is_not_heard(store):
    opened = await Cast(store).open(await Cast(store).admit())

    assert await store.hear(end(opened.attempt)) == Stale(opened.task)
    assert await store.view("acme", opened.task.id) == TaskView(opened.task, (opened.attempt,))


# -- tenants ----------------------------------------------------------------------------------------------------------


async def test_a_foreign_tenant_sees_and_cancels_nothing(store):
    task = await Cast(store).admit(a_task(idempotency_key="k"))

    assert await store.view("globex", task.id) is None
    assert await store.cancel("globex", task.id, cancel_it()) is None
    assert await store.search("globex", Search()) == ()
    assert await store.search("globex", Search(idempotency_key="k")) == ()
    assert await store.alike("globex", task.digest, 0) == ()
    assert await store.view("acme", task.id) == TaskView(task, ())
