"""Who follows which tasks on this daemon, and what is new for them. `stream` tells it, over SSE or WebSocket.

The row is the truth, whoever drives the task: once a turn the store is asked, for all followers together, which of
their tasks have another version than before, and only those are read. Events of this daemon's bus and hints of other
daemons bring that forward and carry nothing. What runs here is looked at once a turn besides, since its progress and
its place in the queue are in no row.

A follower has the newest view of each task that it was not told of yet, and never more: who is slow misses steps, not
states. There are bounds on followers and on the tasks that one may have left; who is beyond that is let go, and comes
back with the id that it had last. Knows no request. Floor 3.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any

from router.api import views
from router.api.errors import Refusal
from router.api.services import Services
from router.changes import VERSIONS_MAX, Change
from router.events import (
    Event,
    TaskAdmitted,
    TaskEnded,
    TaskInterrupted,
    TaskRetrying,
    TaskStarted,
    TaskSwept,
)
from router.flow.dispatch import report
from router.persistence import TaskView, Unavailable
from router.task import Error

# How long a move may take to be seen in its row: its transaction, and how far the clocks of daemons may be apart.
OVERLAP_MS = 15_000
PAGE = 500
PAGES_MAX = 20
READ_AT_ONCE = 64
RUNNING_MAX = 1_000
RETRY_AFTER_S = 10.0
HINTS = frozenset({"ended", "cancel"})


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How streams are kept, in seconds, and how many there may be.

    `turn_s`: how often rows are looked at; `hint_s`: the least time between two looks; `ping_s`: a word when there is
    nothing to tell; `stall_s`: how long a client may take nothing; `look_s`: how soon one that has gone is noticed.
    `unread`: tasks that a follower may have left to be told of.
    """

    turn_s: float = 1.0
    hint_s: float = 0.1
    ping_s: float = 15.0
    stall_s: float = 20.0
    look_s: float = 2.0
    streams: int = 800
    streams_per_tenant: int = 200
    unread: int = 1_000


class Over(StrEnum):
    """Why a follower is told nothing more."""

    CLOSING = "closing"  # the daemon stops
    SLOW = "slow"  # too much was left unread
    GONE = "gone"  # the row was deleted


class Follower:
    """One stream's side: what it was not told yet. `over` says why nothing more will come."""

    __slots__ = ("_unread", "_unread_max", "over", "task_id", "tenant", "wake")

    def __init__(self, tenant: str, task_id: str | None, unread_max: int) -> None:
        """Nothing is new. `task_id` None: all tasks of the tenant."""
        self.tenant = tenant
        self.task_id = task_id
        self.wake = asyncio.Event()
        self.over: Over | None = None
        self._unread: dict[str, TaskView] = {}
        self._unread_max = unread_max

    def put(self, view: TaskView) -> None:
        """Have a view to tell, in place of an older one of the same task."""
        task = view.task
        kept = self._unread.get(task.id)
        if kept is None and len(self._unread) >= self._unread_max:
            self.end(Over.SLOW)
        elif kept is None or kept.task.version <= task.version:
            self._unread[task.id] = view
            self.wake.set()

    def take(self) -> TaskView | None:
        """What is to be told next, None when there is nothing."""
        if not self._unread:
            self.wake.clear()
            return None
        return self._unread.pop(next(iter(self._unread)))

    def end(self, over: Over) -> None:
        """Tell nothing more."""
        self.over = self.over or over
        self._unread.clear()
        self.wake.set()


@dataclass(slots=True)
class Followed:
    """A task and its newest view that was read (None before the first), and who follows it by itself.

    `far`: its progress and its place in the queue, as they were when somebody looked last.
    """

    followers: list[Follower] = field(default_factory=list)
    view: TaskView | None = None
    far: tuple[int, int | None] | None = None


@dataclass(slots=True)
class Crowd:
    """The followers of one tenant: of single tasks, and of everything (`wide`).

    For the latter, what was moved lately is in `window`, which begins at `place`, and what may be running in `running`.
    `since`: what was moved before is not new to anybody here; None once the window has been read.
    """

    tasks: dict[str, Followed] = field(default_factory=dict)
    wide: list[Follower] = field(default_factory=list)
    window: dict[str, Change] = field(default_factory=dict)
    running: dict[str, Followed] = field(default_factory=dict)
    place: tuple[int, str] = (0, "")
    since: int | None = None

    def everybody(self) -> Iterator[Follower]:
        """All of them."""
        yield from self.wide
        for followed in self.tasks.values():
            yield from followed.followers

    def settle(self, place: tuple[int, str]) -> None:
        """The window was read and begins here from now on."""
        self.place, self.since = place, None
        self.window = {task_id: one for task_id, one in self.window.items() if one.updated_at >= place[0]}


class Followers:
    """The turns, taken while there is anybody to take them for. Made by `application.build`, closed with it."""

    def __init__(self, services: Services, limits: StreamLimits) -> None:
        """Nobody follows anything."""
        self.limits = limits
        self._services = services
        self._store = services.world.store
        self._crowds: dict[str, Crowd] = {}
        self.count = 0
        self._new: dict[tuple[str, str], None] = {}  # (tenant, id) of what has to be read
        self._wake = asyncio.Event()
        self._is_hinted = False
        self._away_at_s = -math.inf
        self._turning: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._listens = False
        self._is_closed = False

    @contextmanager
    def following(self, tenant: str, task_id: str | None = None) -> Iterator[Follower]:
        """Be told what is new from now on; `Refusal` (429) when too many are. Look at the row after entering."""
        crowd = self._crowds.get(tenant)
        if self.count >= self.limits.streams:
            raise _too_many(f"{self.limits.streams} in all")
        if crowd is not None and sum(1 for _ in crowd.everybody()) >= self.limits.streams_per_tenant:
            raise _too_many(f"{self.limits.streams_per_tenant} of yours")
        follower = Follower(tenant, task_id, self.limits.unread)
        self._enter(follower)
        try:
            yield follower
        finally:
            self._leave(follower)

    def close(self) -> None:
        """Let everybody go, and whoever still comes."""
        self._is_closed = True
        for crowd in self._crowds.values():
            for follower in crowd.everybody():
                follower.end(Over.CLOSING)

    # -- coming and going -------------------------------------------------------------------------------------------

    def _enter(self, follower: Follower) -> None:
        if self._is_closed:
            follower.end(Over.CLOSING)
        crowd = self._crowds.setdefault(follower.tenant, Crowd())
        if follower.task_id is not None:
            crowd.tasks.setdefault(follower.task_id, Followed()).followers.append(follower)
        else:
            if not crowd.wide:
                crowd.since = self._services.now()
                crowd.place = (crowd.since - OVERLAP_MS, "")
            crowd.wide.append(follower)
        self.count += 1
        self._hint()
        if self._turning is None:
            self._begin()

    def _leave(self, follower: Follower) -> None:
        self.count -= 1
        crowd = self._crowds[follower.tenant]
        if follower.task_id is None:
            crowd.wide.remove(follower)
            if not crowd.wide:
                crowd.window.clear()
                crowd.running.clear()
        else:
            followed = crowd.tasks[follower.task_id]
            followed.followers.remove(follower)
            if not followed.followers:
                del crowd.tasks[follower.task_id]
        if not crowd.wide and not crowd.tasks:
            del self._crowds[follower.tenant]
        if not self._crowds and self._turning is not None:
            self._unsubscribe()
            self._turning.cancel()
            self._turning = None
            self._new.clear()

    def _begin(self) -> None:
        self._unsubscribe = self._services.life.runtime.bus.subscribe(self._read_event)
        if not self._listens:
            self._listens = True
            self._store.listen(self._hear)
        self._turning = asyncio.create_task(self._take_turns())
        self._turning.add_done_callback(partial(report, what="the turns for those who follow tasks"))

    # -- what brings a turn forward ---------------------------------------------------------------------------------

    def _read_event(self, event: Event) -> None:
        """Note what has changed here (a reader of the bus)."""
        match event:
            case (
                TaskAdmitted(task=task)
                | TaskStarted(task=task)
                | TaskRetrying(task=task)
                | TaskInterrupted(task=task)
                | TaskEnded(task=task)
                | TaskSwept(task=task)
            ):
                crowd = self._crowds.get(task.tenant)
                if crowd is not None and (crowd.wide or task.id in crowd.tasks):
                    self._new[task.tenant, task.id] = None
                    self._wake.set()
            case _:
                return

    def _hear(self, topic: str) -> None:
        """Another daemon has ended something (a listener of the store)."""
        if topic in HINTS and self._turning is not None:
            self._hint()

    def _hint(self) -> None:
        self._is_hinted = True
        self._wake.set()

    # -- turns ------------------------------------------------------------------------------------------------------

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        looked_at_s, due_s = -math.inf, loop.time()
        while True:
            self._wake.clear()
            if self._is_hinted:
                due_s = min(due_s, looked_at_s + self.limits.hint_s)
            is_due = loop.time() >= due_s
            if is_due:
                self._is_hinted, looked_at_s = False, loop.time()
                due_s = looked_at_s + self.limits.turn_s
            try:
                if is_due:
                    await _all(self._look(tenant, crowd) for tenant, crowd in tuple(self._crowds.items()))
                await self._read_new()
            except Unavailable:
                self._away_at_s = loop.time()  # what is new stays so until the store is back
            if is_due:
                self._tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due_s - loop.time())):
                    await self._wake.wait()

    async def _look(self, tenant: str, crowd: Crowd) -> None:
        """Ask which of the tasks that are followed were moved."""
        ids = list(crowd.tasks)
        for first in range(0, len(ids), VERSIONS_MAX):
            asked = ids[first : first + VERSIONS_MAX]
            found = {one.task_id: one.version for one in await self._store.versions(tenant, asked)}
            for task_id in asked:
                followed = crowd.tasks.get(task_id)
                if followed is not None and task_id not in found:
                    self._lose(followed)
                elif followed is not None and (followed.view is None or followed.view.task.version < found[task_id]):
                    self._new[tenant, task_id] = None
        if crowd.wide:
            await self._look_around(tenant, crowd)

    async def _look_around(self, tenant: str, crowd: Crowd) -> None:
        """Ask what was moved lately. An instant is older than its commit, so that the last while is asked for again.

        After an outage of the store it is asked for from before that, as long as late commits may come.
        """
        begun, place = self._services.now(), crowd.place
        for _page in range(PAGES_MAX):
            found = await self._store.changed(tenant, place, PAGE)
            for one in found:
                known = crowd.window.get(one.task_id)
                crowd.window[one.task_id] = one
                is_old = crowd.since is not None and one.updated_at < crowd.since
                if (known is None or known.version < one.version) and not is_old:
                    self._new[tenant, one.task_id] = None
            if len(found) < PAGE:
                recovering = asyncio.get_running_loop().time() - self._away_at_s < OVERLAP_MS / 1000
                crowd.settle(crowd.place if recovering else (begun - OVERLAP_MS, ""))
                return
            place = (found[-1].updated_at, found[-1].task_id)
        crowd.place = place  # the rest next time

    async def _read_new(self) -> None:
        """Read what is new, and give it to those who follow it."""
        while self._new:
            batch = list(islice(self._new, READ_AT_ONCE))
            for key in batch:
                del self._new[key]  # before it is read: what happens meanwhile makes it new again
            try:
                found = await _all(self._store.view(*key) for key in batch)
            except Unavailable:
                self._new.update(dict.fromkeys(batch))
                raise
            for (tenant, task_id), view in zip(batch, found, strict=True):
                crowd = self._crowds.get(tenant)
                if crowd is None:
                    continue
                if view is not None:
                    _give(crowd, view)
                elif task_id in crowd.tasks:
                    self._lose(crowd.tasks[task_id])

    def _tick(self) -> None:
        """Give what runs or waits here again: how far it is may have changed."""
        runtime = self._services.life.runtime
        for crowd in self._crowds.values():
            for task_id, followed in crowd.tasks.items():
                if task_id in runtime.live or runtime.queue.contains(task_id):
                    self._look_closely(followed, followed.followers)
            for task_id, running in crowd.running.items():
                if task_id in runtime.live:
                    self._look_closely(running, crowd.wide)

    def _look_closely(self, followed: Followed, followers: Sequence[Follower]) -> None:
        """Give a view again when the task has come further or moved in the queue since it was given last."""
        view = followed.view
        if view is None or view.task.is_terminal:
            return
        far = views.progress_of(self._services, view), views.position_of(self._services, view.task)
        if far != followed.far:
            followed.far = far
            for follower in followers:
                follower.put(view)

    def _lose(self, followed: Followed) -> None:
        for follower in followed.followers:
            follower.end(Over.GONE)


def _give(crowd: Crowd, view: TaskView) -> None:
    task = view.task
    followed = crowd.tasks.get(task.id)
    if followed is not None:
        followed.view = view
        for follower in followed.followers:
            follower.put(view)
    if crowd.wide:
        crowd.window[task.id] = Change(task.id, task.version, task.updated_at)
        crowd.running.pop(task.id, None)
        if not task.is_terminal:
            crowd.running[task.id] = Followed(view=view)
            if len(crowd.running) > RUNNING_MAX:
                del crowd.running[next(iter(crowd.running))]
        for follower in crowd.wide:
            follower.put(view)


async def _all(work: Iterable[Coroutine[Any, Any, Any]]) -> Sequence[Any]:
    """Do it side by side; if some of it fails, say so when all is done."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _too_many(what: str) -> Refusal:
    message = f"Too many streams of events are open ({what}); close some, or follow all tasks with one."
    error = Error("rate_limited", message, "too_many_streams", retryable=True)
    return Refusal(error, retry_after_s=RETRY_AFTER_S)
