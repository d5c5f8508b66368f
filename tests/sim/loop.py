"""An event loop whose clock jumps to the next timer instead of waiting, in an order that only the seed decides.

No real IO is possible in it: the selector never blocks, executors raise. Tasks hash by sequence number, so that sets of
tasks iterate in the same order in every process. A crash is `stop()`: loop and tasks are never freed, so that no
`finally` of the crashed life ever runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any


class Deadlock(Exception):  # noqa: N818 - it names what happened
    """Everything waits and no timer is set: nothing would ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: tells the loop how far to jump instead."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump ahead by the time the loop would have slept."""
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self.jump(timeout)
        return []


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is its number in its loop."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: VirtualLoop, **more: Any) -> None:
        """Take the next number."""
        loop.tasks_made += 1
        self._number = loop.tasks_made
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        """Hash by number, not by address."""
        return self._number

    def __eq__(self, other: object) -> bool:
        """Tasks are equal only to themselves."""
        return self is other


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of one life, beginning at a virtual instant in seconds."""

    def __init__(self, begins_at_s: float) -> None:
        """Set the clock and the task factory."""
        selector = _JumpingSelector()
        selector.jump = self._jump
        self._now_s = begins_at_s
        self.tasks_made = 0
        self.problems: list[str] = []
        super().__init__(selector)
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._note_problem)

    def time(self) -> float:
        """The virtual monotonic clock."""
        return self._now_s

    def run_in_executor(self, *_: Any, **__: Any) -> Any:
        """Threads have no place in a simulation."""
        raise RuntimeError

    def _jump(self, by_s: float) -> None:
        self._now_s = max(self._now_s + by_s, math.nextafter(self._now_s, math.inf))

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        return NumberedTask(coro, loop=self, **more)

    def _note_problem(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")


def live_through(loop: VirtualLoop, life: Coroutine[Any, Any, Any]) -> bool:
    """Run a life on its loop; True when it came to its own end, False when it crashed (the loop was stopped)."""
    asyncio.set_event_loop(loop)
    main = loop.create_task(life)
    main.add_done_callback(lambda _ended: loop.stop())
    loop.run_forever()
    asyncio.set_event_loop(None)
    pending = list(asyncio.all_tasks(loop))
    for task in pending:
        task._log_destroy_pending = False  # noqa: SLF001 - a crashed life says nothing more
        _bury(task)
    _bury(loop)
    if main.done():
        main.result()
    return main.done()


def _bury(corpse: object) -> None:
    """Take a reference that is never given back: freeing a suspended coroutine would run its `finally` blocks."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(corpse))


def run_now(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits (an in-memory store's) and return its result."""
    try:
        coro.send(None)
    except StopIteration as done:
        return done.value
    coro.close()
    msg = "the coroutine waited"
    raise AssertionError(msg)
