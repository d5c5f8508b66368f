"""The two waits: they return what came true, and say what did not."""

import itertools

import pytest

from tests.waiting import poll_until, poll_until_sync


async def test_a_wait_returns_the_first_truthy_answer():
    answers = itertools.chain([None, 0, ""], itertools.repeat("ready"))

    assert await poll_until(lambda: next(answers), "readiness") == "ready"


async def test_a_wait_asks_a_coroutine_function_too():
    answers = iter([False, True])

    async def ask():
        return next(answers)

    assert await poll_until(ask, "the second answer") is True


async def test_a_wait_that_is_in_vain_says_what_for():
    with pytest.raises(AssertionError, match="in vain for godot; the last answer was False"):
        await poll_until(lambda: False, "godot", ceiling_s=0)


def test_a_wait_without_a_loop_keeps_the_same_promise():
    answers = itertools.chain([None], itertools.repeat(7))

    assert poll_until_sync(lambda: next(answers), "seven") == 7
    with pytest.raises(AssertionError, match="in vain for godot; the last answer was None"):
        poll_until_sync(lambda: None, "godot", ceiling_s=0)
