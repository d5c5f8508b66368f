"""The pump: takes the best waiting task whenever somebody may run it; also boot recovery, deadlines and drain.

The queue says who is next, the fleet who has room, the tenant's limit who must wait. Tasks are driven by `run.py`, one
coroutine each. At boot everything that earlier lives left is claimed from the store and judged by the same rules as
ever: what waited waits again, an accepted job is polled on, an intent without a job id is an unknown outcome (promise
2 and 3). Floor 2.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Collection, Coroutine
from functools import partial
from typing import Any

from router.events import AttemptOpened, DrainStarted, Event, Recovered, TaskAdmitted
from router.flow import run, uploads
from router.flow.intake import Depth
from router.flow.queue import Entry
from router.flow.runtime import Phase, Runtime, clear_away
from router.persistence import TaskView, Unavailable
from router.task import Priority, State, Task

RUNNING_MAX = 10_000
TAKING_MAX = 256  # tasks between the queue and their place in the fleet
CLAIM_BATCH = 500
REFILL_BATCH = 2_000
FOREVER_MS = 100 * 365 * 86_400_000
SWEEP_EVERY_S = 60.0
SWEEP_BATCH = 200
STORE_AWAY_S = 1.0


class Dispatcher:
    """Drives everything that this daemon owns."""

    def __init__(self, runtime: Runtime, depth: Depth) -> None:
        """`depth` counts what waits; recovery adds to it what the store holds."""
        self.runtime = runtime
        self._depth = depth
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._taking: dict[str, str | None] = {}
        self._tenants: Counter[str] = Counter()
        self._keys: Counter[str] = Counter()
        self._strange_keys: set[str] = set()  # with tasks running, and nobody here knows how many may
        self._due: list[tuple[float, str, str]] = []  # (monotonic, tenant, task id) of waiting tasks with a deadline
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        runtime.wake_pump = self._wake.set
        runtime.fleet.on_room = lambda _provider: self._wake.set()
        runtime.bus.subscribe(self._read)

    # -- life -------------------------------------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        """Claim what earlier lives left, before the first submit is taken.

        Where others use the store too, that is only what this replica's own former lives left: of the others nobody
        knows yet who is silent.
        """
        runtime, counts = self.runtime, Counter[str]()
        silent_ms = FOREVER_MS if runtime.world.store.shared else 0
        while True:
            claimed = await runtime.world.store.claim(runtime.owner, silent_ms, CLAIM_BATCH, runtime.now())
            for view in claimed:
                counts[self._go_on_with(view)] += 1
            if len(claimed) < CLAIM_BATCH:
                break
        summary = Recovered(runtime.now(), counts["waiting"], counts["resumed"], counts["unknown"])
        runtime.bus.emit(summary)
        return summary

    def take_over(self, views: tuple[TaskView, ...]) -> None:
        """Go on with tasks of other lives that have become this one's."""
        for view in views:
            self._go_on_with(view)

    def _go_on_with(self, view: TaskView) -> str:
        """Let a task wait again, or take up its attempt: poll an accepted job, judge an intent as unknown."""
        if view.task.state in {State.PENDING, State.RETRYING}:
            self._depth.count(view.task, +1)
            self._put_back(view.task)
            return "waiting"
        self._drive(view)
        return "resumed" if any(one.handle is not None and one.ended_at is None for one in view.attempts) else "unknown"

    def start(self) -> None:
        """Begin to take tasks."""
        self._loops = [asyncio.create_task(self._pump()), asyncio.create_task(self._sweep())]
        for loop, name in zip(self._loops, ("pump", "sweep"), strict=True):
            loop.add_done_callback(partial(report, what=f"the {name}"))

    async def drain(self, timeout_s: float) -> None:
        """Stop taking; wait for the synchronous calls that are out; leave accepted jobs to the next life."""
        self.runtime.bus.emit(DrainStarted(self.runtime.now(), len(self._driving)))
        self.stop_taking()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(asyncio.gather(*self._driving.values(), return_exceptions=True))
        except TimeoutError:
            await self.cut()

    def stop_taking(self) -> None:
        """Begin no attempt any more."""
        self.runtime.draining = True
        for live in self.runtime.live.values():
            live.wake.set()
        for loop in self._loops:
            loop.cancel()

    async def cut(self) -> None:
        """End what is still out; its rows say that it is unknown, its cost is logged."""
        for task_id, driving in tuple(self._driving.items()):
            live = self.runtime.live.get(task_id)
            submitting = () if live is None else [n for n, phase in live.phases.items() if phase is Phase.SUBMITTING]
            if live is not None and submitting:
                await self._tell_cut(live.tenant, task_id, submitting)
            driving.cancel()
        await asyncio.gather(*self._driving.values(), return_exceptions=True)

    async def _tell_cut(self, tenant: str, task_id: str, numbers: Collection[int]) -> None:
        """Tell which calls are cut; without a store they are cut all the same."""
        try:
            view = await self.runtime.world.store.view(tenant, task_id)
        except Unavailable:
            return
        if view is not None:
            for attempt in view.attempts:
                if attempt.n in numbers:
                    run.cut(self.runtime, view.task, attempt)

    def is_driven(self, task_id: str) -> bool:
        """Whether a task is driven here, and by nobody else: a drive from before a lapse may have lost its task."""
        live = self.runtime.live.get(task_id)
        return live is not None and live.lapses == self.runtime.lapses

    def forget(self, task: Task) -> None:
        """Let a task go that has ended elsewhere while it waited here."""
        if self.runtime.queue.remove(task.id) and task.fence == self.runtime.owner.epoch:
            self._depth.count(task, -1)

    def room(self) -> int:
        """How many more tasks could start now, when nothing waits here; else 0."""
        queue, fleet = self.runtime.queue, self.runtime.fleet
        if len(queue) or queue.overflowed or self._taking:
            return 0
        return sum(fleet.free(provider) for provider in self.runtime.rules.providers.values())

    # -- taking -----------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            now_s = self.runtime.fleet.monotonic()
            self._end_overdue(now_s)
            while self._take_next(now_s):
                pass
            if await self._learn_keys():
                continue
            await self._refill()
            await self._sleep(now_s)

    def _take_next(self, now_s: float) -> bool:
        """Take the best task that somebody may run; False when there is none."""
        if len(self._taking) >= TAKING_MAX or len(self._driving) >= RUNNING_MAX:
            return False
        entry = self.runtime.queue.pop(now_s, self._open_lanes(), self._blocked_tenants(), self._blocked_keys())
        if entry is None:
            return False
        self._taking[entry.task_id] = entry.lane
        self._spawn(entry.task_id, entry.tenant, self._take(entry), entry.key_id)
        return True

    async def _take(self, entry: Entry, *, overdue: bool = False) -> None:
        """Read the row of a taken entry and drive it, if it still waits and is still ours.

        `overdue`: it was taken because an instant of its own has passed. One that has been started since has met its
        `start_by`, and waits on for the time of its next attempt.
        """
        runtime = self.runtime
        try:
            view = await runtime.world.store.view(entry.tenant, entry.task_id)
        except Unavailable:
            runtime.queue.push(entry, lane=None, not_before_s=STORE_AWAY_S)
            return
        if view is None or view.task.fence != runtime.owner.epoch:
            return
        deadline = view.task.deadline
        if overdue and view.task.state is State.RETRYING and (deadline is None or runtime.now() < deadline):
            self._put_back(view.task)
        elif view.task.state in {State.PENDING, State.RETRYING}:
            await run.run(runtime, view)

    def _drive(self, view: TaskView) -> None:
        """Drive a task that is not in the queue (taken over from an earlier life)."""
        self._spawn(view.task.id, view.task.tenant, run.run(self.runtime, view), view.task.key_id)

    def _spawn(self, task_id: str, tenant: str, work: Coroutine[Any, Any, None], key_id: str | None = None) -> None:
        """Drive a task; it counts against the limits of its tenant and its key from now on, before its row is read."""
        driving = asyncio.create_task(work)
        self._driving[task_id] = driving
        counted = [(self._tenants, tenant), *([] if key_id is None else [(self._keys, key_id)])]
        for counter, name in counted:
            counter[name] += 1

        def done(ended: asyncio.Task[None]) -> None:
            if self._driving.get(task_id) is ended:
                del self._driving[task_id]
            self._taking.pop(task_id, None)
            for counter, name in counted:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]
            self._wake.set()
            report(ended, f"driving {task_id}")

        driving.add_done_callback(done)

    def _open_lanes(self) -> set[str | None]:
        """The lanes from which a task may be taken: unrouted ones, and those of providers with room to spare."""
        spoken_for: dict[str, int] = {}
        for lane in self._taking.values():
            if lane is not None:
                spoken_for[lane] = spoken_for.get(lane, 0) + 1
        lanes: set[str | None] = {None}
        for name, provider in self.runtime.rules.providers.items():
            if self.runtime.fleet.free(provider) > spoken_for.get(name, 0):
                lanes.add(name)
        return lanes

    def _blocked_tenants(self) -> set[str]:
        rules = self.runtime.rules
        limits = ((name, count, rules.tenant(name).max_concurrency) for name, count in self._tenants.items())
        return {name for name, count, limit in limits if limit is not None and count >= limit}

    def _blocked_keys(self) -> set[str]:
        """The keys that have enough running, and those of which that is not known yet."""
        blocked = set()
        for key_id, count in self._keys.items():
            limits = self.runtime.limits.known(key_id)
            if limits is None:
                self._strange_keys.add(key_id)
            if limits is None or (limits.max_concurrency is not None and count >= limits.max_concurrency):
                blocked.add(key_id)
        return blocked

    async def _learn_keys(self) -> bool:
        """Read the limits of keys whose tasks an earlier life has left; whether there was any to learn."""
        strange, self._strange_keys = self._strange_keys, set()
        try:
            for key_id in strange:
                await self.runtime.limits.find(key_id)
        except Unavailable:
            asyncio.get_running_loop().call_later(STORE_AWAY_S, self._wake.set)
            return False
        return bool(strange)

    async def _refill(self) -> None:
        """Fetch from the store what did not fit into the window."""
        runtime = self.runtime
        if not runtime.queue.overflowed or len(runtime.queue) > runtime.queue.window // 2:
            return
        try:
            rows = await runtime.world.store.waiting(runtime.owner, REFILL_BATCH)
        except Unavailable:
            return
        runtime.queue.overflowed = len(rows) >= REFILL_BATCH
        for row in rows:
            if row.id not in self._driving and not runtime.queue.contains(row.id):
                self._put_back(row)

    def _put_back(self, task: Task) -> None:
        delay_s = None if task.not_before is None else max(0.0, (task.not_before - self.runtime.now()) / 1000)
        self.runtime.wait_in_queue(task, delay_s)
        self._watch_deadline(task)

    async def _sleep(self, now_s: float) -> None:
        """Wait for a push, a free place, or the next timer."""
        dues = [due for due in (self.runtime.queue.next_due(now_s), self._due[0][0] if self._due else None) if due]
        timeout_s = max(0.0, min(dues) - now_s) if dues else SWEEP_EVERY_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    # -- deadlines and housekeeping -----------------------------------------------------------------------------------

    def _read(self, event: Event) -> None:
        match event:
            case TaskAdmitted(task=task):
                self._watch_deadline(task)
            case AttemptOpened(task=task):
                self._taking.pop(task.id, None)  # it has its place in the fleet now
            case _:
                return

    def _watch_deadline(self, task: Task) -> None:
        now_s, now = self.runtime.fleet.monotonic(), self.runtime.now()
        start_by = task.start_by if task.state is State.PENDING else None  # what has been started has met it
        for instant in (start_by, task.deadline):
            if instant is not None:
                heapq.heappush(self._due, (now_s + max(0, instant - now) / 1000, task.tenant, task.id))

    def _end_overdue(self, now_s: float) -> None:
        """Take tasks whose time to start is over; `run` ends them without an attempt."""
        while self._due and self._due[0][0] <= now_s:
            _due_s, tenant, task_id = heapq.heappop(self._due)
            if task_id not in self._driving and self.runtime.queue.remove(task_id):
                entry = Entry(task_id=task_id, tenant=tenant, priority=Priority.URGENT, created_at=0)
                self._taking[task_id] = None
                self._spawn(task_id, tenant, self._take(entry, overdue=True))

    async def _sweep(self) -> None:
        """Apply retention: remove outputs, then rows, in small batches (contract 6, Retention)."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await sweep(self.runtime)
                await uploads.sweep(self.runtime)
            except Unavailable:
                continue


def report(ended: asyncio.Task[None], what: str) -> None:
    """Tell the loop's exception handler (the log) that something of ours broke; nobody awaits it."""
    if not ended.cancelled() and ended.exception() is not None:
        context = {"message": f"{what} failed", "exception": ended.exception(), "task": ended}
        asyncio.get_running_loop().call_exception_handler(context)


async def sweep(runtime: Runtime) -> int:
    """Remove what retention no longer keeps; returns how many tasks lost their output or input."""
    now, removed = runtime.now(), 0
    world, rules = runtime.world, runtime.rules
    while True:
        gone = await world.store.sweep(now, SWEEP_BATCH)
        for task in gone:
            await clear_away(runtime, task, now)
        removed += len(gone)
        if len(gone) < SWEEP_BATCH:
            break
    forgotten = now - round(rules.defaults.row_retention_s * 1000)
    while await world.store.forget_relayed(forgotten, SWEEP_BATCH) == SWEEP_BATCH:
        pass
    while await world.store.forget(forgotten, SWEEP_BATCH) == SWEEP_BATCH:
        await asyncio.sleep(0)
    return removed
