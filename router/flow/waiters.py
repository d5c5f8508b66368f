"""Who is waiting for which task on this daemon: sync callers and long polls, woken by the event that ends the task.

The row is the truth; a waiter only saves asking it again and again. Also decides that nobody is left: a sync caller
that hangs up aborts nothing, but a task that nobody can ever collect (contract 5.1: id never told, no key, nothing
sent, no waiter for 60 s) is cancelled unpaid. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from router.events import Event, TaskEnded
from router.task import Task

ABANDONED_AFTER_S = 60.0
TOLD_MAX = 100_000


class Waiters:
    """Open connections per task, and the timers of those that were left alone."""

    def __init__(self, on_abandoned: Callable[[Task], Awaitable[None]]) -> None:
        """`on_abandoned` is asked to cancel a task that nobody waits for any more, unless something was sent."""
        self._on_abandoned = on_abandoned
        self._open: dict[str, list[asyncio.Event]] = {}
        self._tenants: dict[str, str] = {}  # of the tasks that somebody waits for
        self._lonely: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._told: dict[str, None] = {}  # ids that answers have carried, oldest first

    def read(self, event: Event) -> None:
        """Wake those who wait for a task that ended (a reader of the bus)."""
        if isinstance(event, TaskEnded):
            self._befriend(event.task.id)
            self.wake(event.task.id)

    def wake(self, task_id: str) -> None:
        """Wake those who wait for a task that has ended, here or elsewhere."""
        self._told.pop(task_id, None)
        for ending in self._open.get(task_id, ()):
            ending.set()

    def waited_for(self, wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
        """List (tenant, id) of the tasks that somebody waits for, those that are wanted."""
        return [(tenant, task_id) for task_id, tenant in self._tenants.items() if wanted(task_id)]

    def count(self, task_id: str) -> int:
        """How many connections wait for the task now."""
        return len(self._open.get(task_id, ()))

    @contextmanager
    def waiting(self, task: Task) -> Iterator[asyncio.Event]:
        """Be counted as waiting; the event is set when the task ends. Look at the row after entering, then wait."""
        self._befriend(task.id)
        ending = asyncio.Event()
        self._open.setdefault(task.id, []).append(ending)
        self._tenants[task.id] = task.tenant
        try:
            yield ending
        finally:
            left = self._open[task.id]
            left.remove(ending)
            if not left:
                del self._open[task.id], self._tenants[task.id]

    def told(self, task: Task) -> None:
        """An answer carries the id of a task: whoever has it can collect, so nobody's going away ends the task."""
        if task.is_terminal:
            return
        self._befriend(task.id)
        self._told[task.id] = None
        if len(self._told) > TOLD_MAX:
            del self._told[next(iter(self._told))]

    def hung_up(self, task: Task) -> None:
        """The last caller of a task whose id no answer has carried went away: give it 60 s to come back."""
        findable = task.idempotency_key is not None or task.callback_url is not None or task.id in self._told
        if findable or self.count(task.id) or task.id in self._lonely:
            return
        loop = asyncio.get_running_loop()
        self._lonely[task.id] = loop.call_later(ABANDONED_AFTER_S, self._abandon, task)

    def close(self) -> None:
        """Stop every timer."""
        for timer in self._lonely.values():
            timer.cancel()
        self._lonely.clear()

    def _befriend(self, task_id: str) -> None:
        timer = self._lonely.pop(task_id, None)
        if timer is not None:
            timer.cancel()

    def _abandon(self, task: Task) -> None:
        self._lonely.pop(task.id, None)
        if self.count(task.id) == 0:
            ending = asyncio.ensure_future(self._on_abandoned(task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
