"""Run one seed with two daemons on one store: killed, killed for good, put to sleep for two leases, drained, overrun.

Both live on one virtual loop. A daemon that dies is cut off from everything outside at a crash point: no verb and no
call of it gets through any more, in either direction. One that sleeps is cut off for two leases and then goes on, with
all that it believed. The judge is the one of a single daemon; what only a pair can do wrong is judged here: two probes
in the fleet, more attempts than a provider has places, waiters that nobody wakes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from router.events import AttemptEnded, AttemptOpened, BreakerMoved, Bus, ConfigApplied, Event, Recovered, TasksTaken
from router.flow import life
from router.flow.draft import Accepted, Draft
from router.flow.life import Life
from router.flow.replicas import LEASE_S
from router.outbox import TERMINAL_TYPES
from router.persistence import Cancelled, Unavailable
from router.provider import Broken, Kind, Reply, Request
from router.store.memory import MemoryStore
from router.task import Attempt, Priority, Task
from router.world import World, seeded_dice
from tests.sim.checks import Judge
from tests.sim.fleet import FakeProvider
from tests.sim.loop import Deadlock, VirtualLoop, live_through
from tests.sim.simulation import DRAIN_S, LIVENESS_BOUND_S, Engine, Report, Simulation
from tests.sim.traffic import CRASH_POINTS, FAULTS_UNTIL_S, Cancel, Reload, Restart, Scenario, Submit, draw
from tests.sim.world import Outside, make_world

BLOWS = 5
BURST = 60
WOKEN_WITHIN_S = 10.0
STOPPED_WITHIN_S = 4.0
PAIR_CELLS = ("takeover", "relief", "foreign cancel", "foreign waiter", "asleep", "killed, returned", "killed for good")


class Gate:
    """What stands between a daemon and the outside; closed, nothing passes in either direction."""

    def __init__(self) -> None:
        """Open."""
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether the daemon runs, as far as anybody can tell."""
        return self._open.is_set()

    def close(self) -> None:
        """Cut the daemon off."""
        self._open.clear()

    def reopen(self) -> None:
        """Let it go on."""
        self._open.set()

    async def through(self) -> None:
        """Get past, now or when it opens again."""
        await self._open.wait()


class GatedStore:
    """A store behind a gate; half of the hints get lost."""

    def __init__(self, inner: Any, gate: Gate, dice: Random) -> None:
        """Wrap."""
        self._inner, self._gate, self._dice = inner, gate, dice

    def __getattr__(self, verb: str) -> Any:
        """Give the verb of that name."""
        plain = getattr(self._inner, verb)
        if verb in {"shared", "listen"}:
            return plain
        if verb == "hint":
            return lambda topic: plain(topic) if self._gate.is_open and self._dice.random() < 0.5 else None

        async def gated(*args: Any, **named: Any) -> Any:
            await self._gate.through()
            try:
                return await plain(*args, **named)
            finally:
                await self._gate.through()

        return gated


def gated(world: World, gate: Gate, dice: Random, mark: Callable[[str], None]) -> World:
    """Put a gate between a daemon and everything outside."""

    async def call(request: Request, timeout_s: float) -> Reply | Broken:
        await gate.through()
        reply = await world.call(request, timeout_s)
        await gate.through()
        return reply

    class Fetcher:
        @asynccontextmanager
        async def open(
            self, url: str, allowed_origin: str | None, timeout_s: float, _headers: Any
        ) -> AsyncIterator[Any]:
            await gate.through()
            async with world.fetch.open(url, allowed_origin, timeout_s) as answer:
                yield answer

    return replace(world, store=GatedStore(world.store, gate, dice), call=call, fetch=Fetcher(), mark=mark)


@dataclass(slots=True)
class Daemon:
    """One life of one daemon."""

    name: str
    number: int
    gate: Gate
    life: Life | None = None
    blow: tuple[str, int, str] | None = None  # crash point, how often it is passed before, and what it is


@dataclass(slots=True)
class Pair(Simulation):
    """Two daemons and what befalls them."""

    dice: Random = field(default_factory=Random)
    daemons: list[Daemon] = field(default_factory=list)
    made: int = 0
    blows: int = 0
    blown: bool = False  # somebody was cut off or has left
    moved_house: bool = False  # attempts were taken over, and count above the limit
    probes: dict[tuple[str, str], tuple[Daemon, Attempt]] = field(default_factory=dict)
    circuits: dict[tuple[int, str, str], str] = field(default_factory=lambda: defaultdict(lambda: "closed"))
    unwoken: dict[str, Daemon] = field(default_factory=dict)
    repairs: set[asyncio.Task[None]] = field(default_factory=set)

    def run(self) -> Report:
        """Live until everything has ended."""
        loop = VirtualLoop(0.0)
        try:
            live_through(loop, self._live())
        except Deadlock:
            self.judge.blame("I1 stuck", "everything waits and nothing will ever happen")
        for problem in loop.problems:
            self.judge.blame("bug", problem)
        self.judge.final()
        return Report(
            seed=self.scenario.seed,
            trace=self.trace.hexdigest(),
            violations=self.judge.violations,
            met=self.met,
            attempts=self.attempts,
            unknown=self.unknown,
            lives=self.begun,
            ended_s=loop.time(),
        )

    # -- daemons ----------------------------------------------------------------------------------------------------

    async def _begin_daemon(self, name: str) -> Daemon:
        number = self.begun = self.begun + 1
        daemon = Daemon(name, number, Gate())
        bus = Bus()
        bus.subscribe(self.judge.reader(number))
        bus.subscribe(self.read)
        bus.subscribe(lambda event: self._watch(daemon, event))
        world = gated(
            make_world(self.outside, number), daemon.gate, self.dice, lambda point: self._pass_point(daemon, point)
        )
        rules = self.scenario.rules[self.variant]
        daemon.life = await life.begin(world, bus, rules, replica=name, queue_window=200)
        self.daemons.append(daemon)
        self._aim()
        return daemon

    def _standing(self) -> list[Daemon]:
        return [one for one in self.daemons if one.gate.is_open]

    def _aim(self) -> None:
        """Set the next blow on one of those who stand."""
        if self.blows < BLOWS and self.outside.faulty and not any(one.blow for one in self.daemons):
            self.blows += 1
            target = self.dice.choice(self._standing())
            kind = self.dice.choice(("killed, returned", "killed for good", "asleep"))
            target.blow = (self.dice.choice(CRASH_POINTS), self.dice.randint(1, 6), kind)

    def _pass_point(self, daemon: Daemon, point: str) -> None:
        self.outside.marks[point] += 1
        if daemon.blow is None or daemon.blow[0] != point or not self.outside.faulty:
            return
        point, left, kind = daemon.blow
        daemon.blow = (point, left - 1, kind)
        if left > 1 or len(self._standing()) < 2:
            return
        daemon.blow = None
        daemon.gate.close()
        self.met[kind] += 1
        self.blown = self.moved_house = True
        self._go_on(self._repair(daemon, kind))

    async def _repair(self, daemon: Daemon, kind: str) -> None:
        """What happens after a blow, until there are two again."""
        if kind == "asleep":
            await asyncio.sleep(2 * LEASE_S + self.dice.random())
            daemon.gate.reopen()
            self._aim()
            return
        self._drop(daemon)
        if kind == "killed, returned":
            await asyncio.sleep(0.5 + 5 * self.dice.random())
            await self._begin_daemon(daemon.name)
        else:
            await asyncio.sleep(2 * LEASE_S)
            await self._begin_daemon(self._fresh_name())

    def _drop(self, daemon: Daemon) -> None:
        self.daemons.remove(daemon)
        self.unwoken = {task_id: where for task_id, where in self.unwoken.items() if where is not daemon}

    def _fresh_name(self) -> str:
        self.made += 1
        return f"daemon-{self.made}"

    def _go_on(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.repairs.add(task)
        task.add_done_callback(self.repairs.discard)

    # -- the course ---------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        for _number in range(2):
            await self._begin_daemon(self._fresh_name())
        burst_at_s, burst_due = self.dice.random() * FAULTS_UNTIL_S, True
        for action in self.scenario.actions:
            if burst_due and action.at_s >= burst_at_s:
                burst_due = False
                self._burst()
            await self._sleep_until(action.at_s)
            self.next_action += 1
            self.running = self.dice.choice(self._standing()).life
            match action:
                case Submit():
                    self._spawn(self._submit_and_wait(action))
                case Cancel():
                    self._spawn(self._cancel(action))
                case Reload(variant=variant):
                    self.variant = variant
                    rules = self.scenario.rules[variant]
                    for one in self.daemons:
                        one.life.adopt(rules)
                        one.life.runtime.bus.emit(ConfigApplied(one.life.runtime.now(), rules.hash, ""))
                case Restart() if len(self._standing()) == 2:
                    await self._drain(self.dice.choice(self._standing()))
                case Restart():
                    continue
        await self._sleep_until(FAULTS_UNTIL_S)
        self.outside.faulty = False
        for provider in self.outside.providers.values():
            provider.faulty = False
        while self.repairs:
            await asyncio.sleep(1.0)
        loop = asyncio.get_running_loop()
        while not self._all_done() and loop.time() < LIVENESS_BOUND_S:
            await asyncio.sleep(5.0)
        await asyncio.sleep(WOKEN_WITHIN_S)
        for task_id in self.unwoken:
            self.judge.blame("waiter", f"nobody has told those who wait for {task_id} that it ended")
        for one in self._standing():
            await one.life.end(DRAIN_S)

    async def _drain(self, daemon: Daemon) -> None:
        daemon.blow, self.blown = None, True
        await daemon.life.end(DRAIN_S)
        daemon.gate.close()
        self._drop(daemon)
        self.moved_house = True
        await self._begin_daemon(daemon.name)

    def _burst(self) -> None:
        """More at once for one daemon than it can start, while the other has nothing to do."""
        target = self.dice.choice(self._standing()).life
        for number in range(BURST):
            draft = Draft(
                tenant="free",
                kind=Kind.IMAGE_GENERATION,
                input={"prompt": f"burst {number}"},
                surface="native",
                route="/v1/tasks",
                digest=f"burst-{number}",
                request_id=f"burst_{number}",
                model="never",
                priority=Priority.NORMAL,
                callback_url="https://hook.example/tasks",
                callback_events=TERMINAL_TYPES,
            )
            self._spawn(self._submit_draft(target, draft))

    async def _submit_draft(self, target: Life, draft: Draft) -> None:
        try:
            answer = await target.intake.submit(draft)
        except Unavailable:
            return
        if isinstance(answer, Accepted):
            self.judge.acknowledged.add(answer.task.id)

    # -- clients ----------------------------------------------------------------------------------------------------

    async def _submit_and_wait(self, action: Submit) -> None:
        """Submit at one daemon and wait for the end at another."""
        await self._submit(action)
        known = self.ids.get(action.number)
        if known is None or self.dice.random() < 0.5:
            return
        try:
            view = await self.dice.choice(self._standing()).life.runtime.world.store.view(*known)
        except Unavailable:
            return
        strangers = [one for one in self._standing() if view and one.life.runtime.owner.epoch != view.task.fence]
        if view is not None and not view.task.is_terminal and strangers:
            await self._wait_at(strangers[0], view.task)

    async def _wait_at(self, daemon: Daemon, task: Task) -> None:
        with daemon.life.waiters.waiting(task) as ending:
            self.unwoken[task.id] = daemon
            await ending.wait()
        self.unwoken.pop(task.id, None)
        self.met["foreign waiter"] += 1

    async def _cancel_once(self, known: tuple[str, str]) -> None:
        where = self.dice.choice(self._standing()).life
        try:
            result = await where.intake.cancel(*known)
        except Unavailable:
            return
        if isinstance(result, Cancelled) and result.task.fence != where.runtime.owner.epoch:
            self.met["foreign cancel"] += 1
            owner = next((one for one in self._standing() if one.life.runtime.owner.epoch == result.task.fence), None)
            if owner is not None:
                self._spawn(self._see_stopped(result.task, owner))

    async def _see_stopped(self, task: Task, owner: Daemon) -> None:
        """I11: the job that is out for a task cancelled elsewhere is stopped upstream, if its owner lives."""
        await asyncio.sleep(STOPPED_WITHIN_S)
        try:
            view = await owner.life.runtime.world.store.view(task.tenant, task.id)
        except Unavailable:
            return
        # A job whose id was lost with the answer is known to its provider alone.
        known = {one.handle.remote_id for one in view.attempts if one.handle is not None} if view else set()
        for provider in self.outside.providers.values():
            stoppable = provider.habits.polled and provider.habits.cancels
            if not stoppable or owner not in self._standing() or owner.life.runtime.lapses:
                continue
            now_s = asyncio.get_running_loop().time()
            for sale in provider.sales.values():
                out = sale.at < now_s - STOPPED_WITHIN_S and sale.ends_at > now_s
                if sale.task_id == task.id and sale.remote_id in known and out and not sale.cancelled:
                    self.judge.blame("I11 cancel", f"{task.id} was cancelled elsewhere and {sale.remote_id} goes on")

    # -- what only a pair can do wrong --------------------------------------------------------------------------------

    def _watch(self, daemon: Daemon, event: Event) -> None:
        match event:
            case TasksTaken(count=count, silent=silent):
                self.met["takeover" if silent else "relief"] += 1
                if silent and not self.blown:
                    self.judge.blame("robbed", f"{daemon.name} took {count} tasks over, and everybody lives")
                self.moved_house = True
            case Recovered(resumed=resumed, unknown=unknown) if resumed or unknown:
                self.moved_house = True
            case BreakerMoved(provider=provider, target=target, after=after):
                self.circuits[daemon.number, provider, target] = after
            case AttemptOpened(attempt=attempt):
                self._check_places(attempt)
                if self.circuits[daemon.number, attempt.provider, attempt.target] == "half_open":
                    self._check_probes(daemon, attempt)
            case AttemptEnded(attempt=attempt):
                held = self.probes.get((attempt.provider, attempt.target))
                if held is not None and (held[1].task_id, held[1].n) == (attempt.task_id, attempt.n):
                    del self.probes[attempt.provider, attempt.target]
            case _:
                return

    def _check_probes(self, daemon: Daemon, attempt: Attempt) -> None:
        """I20: one probe in the whole fleet. The right of one that is cut off runs out with its lease."""
        key = (attempt.provider, attempt.target)
        held = self.probes.get(key)
        rival = None if held is None or held[0] is daemon else held[0]
        if rival is not None and rival in self._standing() and rival.life.runtime.lapses == 0:
            self.judge.blame("I20 fleet", f"{daemon.name} and {rival.name} probe {key} at once")
        self.probes[key] = (daemon, attempt)

    def _check_places(self, attempt: Attempt) -> None:
        """The places of a provider are shared by all; what was taken over counts above them."""
        lives = [one.life for one in self.daemons if one.life is not None]
        used = [
            shown for one in lives for shown in one.runtime.fleet.snapshot().providers if shown.name == attempt.provider
        ]
        limit = self.scenario.rules[self.variant].providers[attempt.provider].max_concurrency
        if sum(shown.in_use for shown in used) > limit and not self.moved_house and self.variant == 0:
            self.judge.blame("places", f"{attempt.provider} has {limit} places, used: {[one.in_use for one in used]}")


def simulate_pair(seed: int, store: MemoryStore | None = None) -> Report:
    """Run a seed with two daemons over a store that they share."""
    scenario: Scenario = draw(seed)
    engine = Engine(store or MemoryStore(shared=True), MemoryStore())
    engine.audit = engine.store
    streams = seeded_dice(seed)
    providers = {one.name: FakeProvider(one, streams(f"provider:{one.name}"), lambda: 0.0) for one in scenario.habits}
    outside = Outside(seed=seed, providers=providers, store=engine.store, audit=engine.audit)
    for provider in providers.values():
        provider.storm = scenario.storm
    judge = Judge(audit=engine.audit, providers=providers, rules=scenario.rules[0])
    outside.on_receipt = judge.receipt
    return Pair(scenario, engine, outside, judge, dice=streams("pair")).run()


__all__ = ["LIVENESS_BOUND_S", "PAIR_CELLS", "simulate_pair"]
