"""Waiting for something to come true, the only way in which a test waits: ask, pause a moment, ask again, and give up
after a ceiling that is far above what any machine needs. No test asserts that something was fast.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

CEILING_S = 60.0
PAUSE_S = 0.01


async def poll_until(
    condition: Callable[[], Answer | Awaitable[Answer]], what: str, ceiling_s: float = CEILING_S
) -> Answer:
    """Return the first truthy answer of `condition`, which may be a function or a coroutine function.

    Time is the loop's, so that the wait costs nothing under a virtual clock. After `ceiling_s` seconds it raises an
    AssertionError that says `what` was waited for, and the last answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ceiling_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if loop.time() >= deadline:
            raise AssertionError(_complaint(what, ceiling_s, answer))
        await asyncio.sleep(PAUSE_S)


def poll_until_sync(condition: Callable[[], Answer], what: str, ceiling_s: float = CEILING_S) -> Answer:
    """Return the first truthy answer of `condition`; the same promise as `poll_until`, for tests without a loop."""
    deadline = time.monotonic() + ceiling_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(what, ceiling_s, answer))
        time.sleep(PAUSE_S)


def _complaint(what: str, ceiling_s: float, answer: object) -> str:
    return f"waited {ceiling_s:g} s in vain for {what}; the last answer was {answer!r}"
