"""This daemon among others on one store: signs of life, what is leased, and what others have done to its tasks.

A life gives a sign of itself and so keeps what is its own; who is silent for `LEASE_S` loses his tasks to the others,
who judge them by the rules of every recovery. All that a daemon has to know of the others it asks for once a turn, and
what it asks for is the truth; a hint only brings the turn forward. A turn, in order: the sign of life, places and
starts, circuits and the right to probe, tasks of ours that others ended, tasks of others that somebody waits for here,
and what silent or busy lives have left. Where the store is one daemon's, only the sign of life is given.

**Leases.** What is held is held from the last sign of life on, by the loop's own clock and for a little less than the
others wait, so that no two daemons believe in one lease. After a gap (the store away, the process stopped) everything
that was begun before it may belong to somebody else: nothing of it is sent (`Runtime.holds`). And who comes back from
a gap of the store takes nothing over for a whole lease, since all the others were silent as well. A gap is known by
the instants of the signs, not by refusals: an answer that was in doubt comes when the store is back. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from router.events import BreakerMoved, Event, LifeReplaced, TaskAdmitted, TaskEnded, TasksTaken
from router.flow.intake import Intake
from router.flow.runtime import Runtime
from router.flow.waiters import Waiters
from router.persistence import ENDED_MAX, TaskView, Unavailable
from router.task import Task

LEASE_S = 10.0
HOLD_S = LEASE_S - 1.0  # clocks need not agree about how long a second is
BEAT_EVERY_S = 2.0
GAP_S = 6.0  # between two signs: who was silent for a lease had the rest of it to be heard
BEAT_ALONE_EVERY_S = 5.0
TURN_EVERY_S = 1.0
TURN_JITTER = 0.2
COUNT_EVERY_S = 10.0
CLAIM_BATCH = 500
LEFT_TO_THE_BUSY = 16  # what a busy life will come to soon stays its own
RELIEVED_MAX = 64
EVERYTHING = frozenset({"work", "cancel", "ended", "circuit"})


class Driver(Protocol):
    """What the dispatcher is asked here."""

    def take_over(self, views: tuple[TaskView, ...]) -> None:
        """Go on with tasks that have become this life's."""

    def is_driven(self, task_id: str) -> bool:
        """Whether a task is driven here, and by nobody else."""

    def forget(self, task: Task) -> None:
        """Let a task go that has ended elsewhere while it waited here."""

    def room(self) -> int:
        """How many more tasks could start now, when nothing waits here; else 0."""

    def stop_taking(self) -> None:
        """Take no task any more."""


class Replicas:
    """The turns. `begin` before the first task is taken, `start` after; `stop` ends them."""

    def __init__(self, runtime: Runtime, driver: Driver, waiters: Waiters, intake: Intake) -> None:
        """Nothing is asked yet."""
        self._runtime = runtime
        self._driver = driver
        self._waiters = waiters
        self._intake = intake
        self._store = runtime.world.store
        self._topics: set[str] = set()
        self._hinted = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._beat_due_s = self._count_due_s = 0.0
        self._steady_since_s = self._heard_at_s = 0.0

    async def begin(self, heard_at_s: float) -> None:
        """Ask for what the first task needs. The life was heard at that instant, or later: when it was registered."""
        self._steady_since_s = self._heard_at_s = heard_at_s
        self._beat_due_s = heard_at_s + BEAT_EVERY_S
        self._count_due_s = heard_at_s + COUNT_EVERY_S
        if not self._store.shared:
            return
        self._runtime.leased_until_s = heard_at_s + HOLD_S
        self._store.listen(self._hear)
        self._runtime.bus.subscribe(self._read)
        await self._try(self._share)
        await self._try(self._exchange)

    def start(self) -> asyncio.Task[None]:
        """Begin to take turns."""
        self._running = asyncio.create_task(self._take_turns() if self._store.shared else self._beat_alone())
        return self._running

    async def stop(self) -> None:
        """Take no more turns. In a shared store the life ends, so that nobody has to wait for its silence."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._store.shared and not self._runtime.replaced:
            try:
                await self._store.leave(self._runtime.owner)
            except Unavailable:
                return  # the others will find out by the silence

    # -- turns --------------------------------------------------------------------------------------------------------

    async def _beat_alone(self) -> None:
        while not self._runtime.replaced:
            await asyncio.sleep(BEAT_ALONE_EVERY_S)
            await self._try(self._beat)

    async def _take_turns(self) -> None:
        dice, turn_due_s = self._runtime.world.dice("turns"), 0.0
        while not self._runtime.replaced:
            now_s = self._runtime.fleet.monotonic()
            if now_s >= turn_due_s:
                turn_due_s = now_s + TURN_EVERY_S * (1 + TURN_JITTER * (dice.random() - 0.5))
                self._topics.clear()
                await self._take_turn(EVERYTHING)
            elif self._topics:
                topics, self._topics = frozenset(self._topics), set()
                await self._take_turn(topics)
            self._hinted.clear()
            if not self._topics:
                await self._rest(turn_due_s - self._runtime.fleet.monotonic())

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._hinted.wait()
        except TimeoutError:
            return

    async def _take_turn(self, topics: frozenset[str]) -> None:
        """Take a turn, or the parts of it that a hint is about."""
        whole = topics == EVERYTHING
        if whole:
            await self._try(self._beat)
            if self._runtime.fleet.monotonic() >= self._runtime.leased_until_s:
                self._runtime.fleet.lapse()
        if self._runtime.replaced:
            return
        if whole:
            await self._try(self._share)
        if "circuit" in topics:
            await self._try(self._exchange)
        if "cancel" in topics:
            await self._try(self._hear_endings)
        if "ended" in topics:
            await self._try(self._wake_waiters)
        if whole:
            await self._try(self._take_over)
            await self._try(self._count)
            await self._try(self._refresh)
        if "work" in topics:
            await self._try(self._relieve)

    async def _try(self, part: Callable[[], Awaitable[None]]) -> None:
        """Do a part of a turn; without the store it waits for the next."""
        try:
            await part()
        except Unavailable:
            return

    # -- the life -----------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Give a sign of life; when another life answers for this one, take nothing more and say so, once."""
        runtime, now_s = self._runtime, self._runtime.fleet.monotonic()
        if self._store.shared and now_s < self._beat_due_s:
            return
        if await self._store.heartbeat(runtime.owner, runtime.now()):
            if self._store.shared:
                self._beaten(now_s)
            return
        runtime.replaced = True
        self._driver.stop_taking()
        runtime.bus.emit(LifeReplaced(runtime.now(), runtime.owner.replica, runtime.owner.epoch))
        runtime.on_replaced()

    def _beaten(self, at_s: float) -> None:
        """The sign that was given at this instant was taken: everything is held for another while."""
        runtime = self._runtime
        if at_s - self._heard_at_s > GAP_S:
            self._steady_since_s = at_s
        self._heard_at_s = at_s
        if at_s >= runtime.leased_until_s:
            runtime.lapses += 1
            runtime.fleet.lapse()
        runtime.leased_until_s = at_s + HOLD_S
        self._beat_due_s = at_s + BEAT_EVERY_S

    # -- what is leased -----------------------------------------------------------------------------------------------

    async def _share(self) -> None:
        """Lease places and starts, and give those back that are not needed."""
        runtime = self._runtime
        wants = runtime.fleet.wants(lambda name: runtime.queue.waiting_in(name) + runtime.relays_waiting[name])
        runtime.fleet.grant(await self._store.share(runtime.owner, wants, _ms(LEASE_S), runtime.now()))

    async def _exchange(self) -> None:
        """Tell of circuits and hear of them; lease the right to probe those whose time is over."""
        runtime, fleet = self._runtime, self._runtime.fleet
        news = fleet.take_news()
        try:
            seen = await self._store.exchange(runtime.owner, news, runtime.now())
        except Unavailable:
            fleet.put_back(news)
            raise
        fleet.adopt_circuits(seen, runtime.owner.epoch)
        for key, lease_ms in fleet.probes_wanted():
            if await self._store.lease_probe(runtime.owner, key, lease_ms, _ms(LEASE_S), runtime.now()):
                fleet.allow_probe(key, lease_ms / 1000)
        if news:
            self._store.hint("circuit")

    # -- what others have done ----------------------------------------------------------------------------------------

    async def _hear_endings(self) -> None:
        """Tell the drivers of tasks that others have cancelled meanwhile, and those who wait for them here (I11)."""
        for _tenant, task_id in await self._store.halted(self._runtime.owner):
            live = self._runtime.live.get(task_id)
            if live is not None and not live.cancelled:
                live.cancelled = True
                live.wake.set()
                self._waiters.wake(task_id)

    async def _wake_waiters(self) -> None:
        """Tell those who wait here for tasks that are done elsewhere, or wait here and were cancelled elsewhere."""
        pairs = self._waiters.waited_for(lambda task_id: not self._driver.is_driven(task_id))
        for first in range(0, len(pairs), ENDED_MAX):
            for task in await self._store.ended(pairs[first : first + ENDED_MAX]):
                self._driver.forget(task)
                self._waiters.wake(task.id)

    async def _take_over(self) -> None:
        """Go on with what silent lives have left, if this one has been heard without a gap for a whole lease."""
        runtime, now_s = self._runtime, self._runtime.fleet.monotonic()
        if runtime.draining or now_s - self._heard_at_s > GAP_S or now_s - self._steady_since_s < LEASE_S:
            return
        while True:
            views = await self._store.claim(runtime.owner, _ms(LEASE_S), CLAIM_BATCH, runtime.now())
            self._go_on_with(views, silent=True)
            if len(views) < CLAIM_BATCH:
                return

    async def _relieve(self) -> None:
        """Take work from those who have more than they can start, when there is none here."""
        runtime, room = self._runtime, self._driver.room()
        if runtime.draining or room == 0 or runtime.fleet.monotonic() >= runtime.leased_until_s:
            return
        limit = min(room, RELIEVED_MAX)
        views = await self._store.relieve(runtime.owner, LEFT_TO_THE_BUSY, limit, runtime.now())
        self._go_on_with(views, silent=False)

    def _go_on_with(self, views: tuple[TaskView, ...], *, silent: bool) -> None:
        if views:
            self._runtime.bus.emit(TasksTaken(self._runtime.now(), len(views), silent))
            self._driver.take_over(views)

    async def _count(self) -> None:
        """Set the counts of what waits here to what the store says: others take from it and end it, too."""
        now_s = self._runtime.fleet.monotonic()
        if now_s >= self._count_due_s:
            self._count_due_s = now_s + COUNT_EVERY_S
            self._intake.depth.reset((await self._store.backlog(self._runtime.owner)).waiting)

    async def _refresh(self) -> None:
        """Hear from which results callers were sent away elsewhere."""
        await self._intake.uncollected.refresh(self._runtime.now())

    # -- hints --------------------------------------------------------------------------------------------------------

    def _hear(self, topic: str) -> None:
        if topic in EVERYTHING:
            self._topics.add(topic)
            self._hinted.set()

    def _read(self, event: Event) -> None:
        """Tell the others what they may be waiting for (a reader of the bus)."""
        match event:
            case TaskAdmitted() if len(self._runtime.queue) > LEFT_TO_THE_BUSY:
                self._store.hint("work")
            case TaskEnded(task=task):
                self._store.hint("ended" if task.fence == self._runtime.owner.epoch else "cancel")
            case BreakerMoved():
                self._topics.add("circuit")
                self._hinted.set()
            case _:
                return


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
