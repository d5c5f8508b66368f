"""Films by age, and tasks erased before their time, in every engine."""

from dataclasses import replace

import pytest

from router.provider import Kind
from router.shelf import Erased, FilmPage, StillOut
from router.task import State
from tests.store.stage import (
    KEEP_UNTIL,
    LATER,
    NOW,
    PICTURE,
    Cast,
    a_task,
    cancel_it,
    demand,
    end,
    fail_with,
    picture_of,
)

FILM = Kind.VIDEO_GENERATION


def ids(views):
    """Name the tasks by their numbers."""
    return [int(view.task.id[5:], 16) for view in views]


async def shelf_of_films(store):
    """Films 1 to 4 of one tenant, the last two of the same instant; a picture between them, and a stranger's film."""
    cast = Cast(store)
    for number in (2, 1):
        await cast.admit(a_task(number, kind=FILM))
    await cast.admit(a_task(9, created_at=NOW + 2))
    await cast.admit(a_task(8, kind=FILM, tenant="globex"))
    for number in (3, 4):
        await cast.admit(a_task(number, kind=FILM, created_at=NOW + 3))


async def test_films_are_listed_by_age_newest_first_and_nothing_else_is(store):
    await shelf_of_films(store)

    views = await store.films("acme", FilmPage())
    assert ids(views) == [4, 3, 2, 1]
    assert list(views) == [await store.view("acme", view.task.id) for view in views]
    assert ids(await store.films("globex", FilmPage())) == [8]
    assert ids(await store.films("nobody", FilmPage())) == []


@pytest.mark.parametrize(("oldest_first", "pages"), [(False, [[4, 3], [2, 1], []]), (True, [[1, 2], [3, 4], []])])
async def test_pages_follow_one_another_in_either_direction(store, oldest_first, pages):
    await shelf_of_films(store)

    after, seen = None, []
    for _page in pages:
        views = await store.films("acme", FilmPage(2, oldest_first, after))
        seen.append(ids(views))
        after = (views[-1].task.created_at, views[-1].task.id) if views else None
    assert seen == pages


async def test_a_film_is_listed_with_its_attempts(store):
    cast = Cast(store)
    task = await cast.succeed(a_task(1, kind=FILM))

    [view] = await store.films("acme", FilmPage())
    assert view.task == task
    assert [one.n for one in view.attempts] == [1]


# -- erasing ----------------------------------------------------------------------------------------------------------


async def test_a_success_that_is_erased_is_as_retention_leaves_it_and_its_money_stays(store):
    task = await Cast(store).succeed(None, demand())
    before = await picture_of(store, task)

    assert await store.erase("acme", task.id, LATER + 7) == Erased(task)

    view = await store.view("acme", task.id)
    assert (view.task.state, view.task.output, view.task.input) == (State.EXPIRED, (), {})
    assert (view.task.usage, view.task.completed_at, view.task.expires_at) == (task.usage, LATER, KEEP_UNTIL)
    assert (view.task.version, view.task.updated_at) == (task.version + 1, LATER + 7)
    assert view.attempts == before[0][0].attempts
    assert (await picture_of(store, task))[1:] == before[1:]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_of_other_endings_the_input_goes_and_the_state_stays(store, ending):
    task = await Cast(store).admit()
    move = fail_with() if ending == "failed" else None
    ended = await store.move(task, move) if move else (await store.cancel("acme", task.id, cancel_it())).task

    assert await store.erase("acme", task.id, LATER) == Erased(ended)
    assert (await store.view("acme", task.id)).task == replace(ended, input={})


async def test_what_was_erased_is_not_swept_and_erasing_it_again_changes_nothing(store):
    task = await Cast(store).succeed()
    await store.erase("acme", task.id, LATER)
    left = await store.view("acme", task.id)

    assert await store.erase("acme", task.id, LATER + 9) == Erased(left.task)
    assert await store.sweep(KEEP_UNTIL, 10) == ()
    assert await store.view("acme", task.id) == left


async def test_a_live_task_is_not_erased(store):
    cast = Cast(store)
    pending = await cast.admit(a_task(1))
    running = (await cast.open(await cast.admit(a_task(2)))).task

    for task in (pending, running):
        assert await store.erase("acme", task.id, LATER) == StillOut(task)
        assert (await store.view("acme", task.id)).task == task


async def test_a_task_whose_attempt_is_out_is_erased_when_that_has_been_heard_with_what_it_brought(store):
    cast = Cast(store)
    opened = await cast.open(await cast.admit())
    cancelled = (await store.cancel("acme", opened.task.id, cancel_it())).task

    assert await store.erase("acme", cancelled.id, LATER) == StillOut(cancelled)
    heard = await store.hear(end(opened.attempt, output=(PICTURE,)))
    assert await store.erase("acme", cancelled.id, LATER) == Erased(replace(cancelled, output=(PICTURE,)))

    view = await store.view("acme", cancelled.id)
    assert (view.task, view.attempts) == (replace(cancelled, input={}), (replace(heard, output=()),))


async def test_nobody_erases_a_strangers_task(store):
    task = await Cast(store).succeed()

    assert await store.erase("globex", task.id, LATER) is None
    assert await store.erase("acme", "task_none", LATER) is None
    assert (await store.view("acme", task.id)).task == task
