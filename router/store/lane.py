"""Lanes: who executes verbs. Somebody who takes together what piled up while he was busy, or nobody but the caller.

A lane is handed verbs one at a time and has them served in batches, on a thread or by a coroutine, so that verbs called
at the same moment share a commit and a hop between threads. What came in during one turn of the event loop is one batch
at least. Everything but `serve` runs on the event loop's thread, so that nothing here needs a lock. Knows no SQL.
Floor 3.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from router.persistence import Unavailable
from router.store.steps import Steps

A = TypeVar("A")

WAITING_MAX = 10_000
BATCH_MAX = 256


class Job:
    """A verb on its way: how to begin its steps, and in the end its answer or its failure."""

    __slots__ = ("answer", "failure", "future", "values", "verb")

    def __init__(
        self, verb: Callable[..., Steps[Any]], values: tuple[Any, ...], future: asyncio.Future[Any] | None = None
    ) -> None:
        """Take up a verb; `future` is where its caller waits, None when the caller does not."""
        self.verb = verb
        self.values = values
        self.future = future
        self.answer: Any = None
        self.failure: Exception | None = None

    def begin(self) -> Steps[Any]:
        """Start its steps, for the first time or again after a rollback."""
        return self.verb(*self.values)


# Serves a batch: sets each job's answer or failure, and returns how many seconds its commit took, None without one.
Serve = Callable[[Sequence[Job]], "float | None"]


class Lane(Protocol):
    """Where verbs are executed."""

    async def ask(self, verb: Callable[..., Steps[A]], *values: Any) -> A:
        """Execute a verb and return its answer; `Unavailable` when the lane is closed, full, or cannot."""

    def shut(self) -> None:
        """Take no more verbs."""

    async def finish(self) -> None:
        """Wait until what was asked is done, and end whoever did it."""


class InlineLane:
    """Executes each verb at once, on the calling thread: for simulations, where nothing may wait."""

    def __init__(self, serve: Serve, served: Callable[[float | None], None]) -> None:
        """`served` is told after each batch."""
        self._serve = serve
        self._served = served
        self._closed = False

    async def ask(self, verb: Callable[..., Steps[A]], *values: Any) -> A:
        """Execute a verb."""
        _refuse_if(closed=self._closed)
        job = Job(verb, values)
        self._served(self._serve([job]))
        if job.failure is not None:
            raise job.failure
        answer: A = job.answer
        return answer

    def shut(self) -> None:
        """Take no more verbs."""
        self._closed = True

    async def finish(self) -> None:
        """Everything was done when it was asked."""


# Has a batch served somewhere else, and then calls the second argument on the event loop's thread, once.
Execute = Callable[[list[Job], Callable[["float | None"], None]], None]


class BatchLane:
    """Has verbs executed elsewhere, in the order they came, many at a time when many wait."""

    def __init__(
        self, execute: Execute, served: Callable[[float | None], None], end: Callable[[], None] = lambda: None
    ) -> None:
        """`served` is told after each batch; `end` is called when the last is done."""
        self._execute = execute
        self._end_executor = end
        self._served = served
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._busy = False
        self._due = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def ask(self, verb: Callable[..., Steps[A]], *values: Any) -> A:
        """Put a verb in line and wait for its answer. A caller that gives up waiting does not undo it."""
        _refuse_if(closed=self._closed)
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable(f"{WAITING_MAX} verbs are waiting for the database")
        future: asyncio.Future[A] = self._loop.create_future()
        self._waiting.append(Job(verb, values, future))
        self._idle.clear()
        if not self._busy and not self._due:
            # Not at once: what else is asked in this turn of the loop shall share the batch.
            self._due = True
            self._loop.call_soon(self._begin)
        return await future

    def shut(self) -> None:
        """Take no more verbs."""
        self._closed = True

    def give_up(self, failure: Unavailable) -> None:
        """Answer everybody who waits: it would only take them longer to learn the same."""
        while self._waiting:
            future = self._waiting.popleft().future
            if future is not None and not future.done():
                future.set_exception(failure)

    async def finish(self) -> None:
        """Wait until the last verb is done."""
        await self._idle.wait()
        self._end_executor()

    def _begin(self) -> None:
        """Hand over what waits."""
        self._due = False
        if self._busy:
            return
        if not self._waiting:
            self._idle.set()
            return
        self._busy = True
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
        self._execute(batch, partial(self._end, batch))

    def _end(self, batch: list[Job], seconds: float | None) -> None:
        """Tell the callers, after the next batch is on its way."""
        self._busy = False
        self._begin()
        for job in batch:
            future = job.future
            if future is None or future.done():
                continue
            if job.failure is None:
                future.set_result(job.answer)
            else:
                future.set_exception(job.failure)
        self._served(seconds)


def on_thread(thread: ThreadPoolExecutor, serve: Serve) -> Execute:
    """Have batches served on a thread, which has exactly one worker."""
    loop = asyncio.get_running_loop()

    def work(batch: list[Job], done: Callable[[float | None], None]) -> None:
        seconds = None
        try:
            seconds = serve(batch)
        except Exception as bug:  # noqa: BLE001 - nobody may wait for ever because of a mistake in `serve`
            _blame(batch, bug)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done, seconds)

    def execute(batch: list[Job], done: Callable[[float | None], None]) -> None:
        thread.submit(work, batch, done)

    return execute


def on_loop(serve: Callable[[Sequence[Job]], Awaitable[float | None]]) -> Execute:
    """Have batches served by a coroutine."""
    loop, serving = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def work(batch: list[Job], done: Callable[[float | None], None]) -> None:
        seconds = None
        try:
            seconds = await serve(batch)
        except Exception as bug:  # noqa: BLE001 - nobody may wait for ever because of a mistake in `serve`
            _blame(batch, bug)
        except asyncio.CancelledError:
            _blame(batch, Unavailable("the store is closed"))
            raise
        finally:
            done(seconds)

    def execute(batch: list[Job], done: Callable[[float | None], None]) -> None:
        task = loop.create_task(work(batch, done))
        serving.add(task)
        task.add_done_callback(serving.discard)

    return execute


def _blame(batch: Sequence[Job], failure: Exception) -> None:
    for job in batch:
        job.failure = failure


def _refuse_if(*, closed: bool) -> None:
    if closed:
        raise Unavailable("the store is closed")
