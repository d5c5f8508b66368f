"""Run one seed: lives of the daemon one after another over the same outside, clients, crashes, and the judge.

Phase one has faults and crashes and checks safety as it goes; in phase two the faults stop and everything that was
acknowledged must end within a bound. The trace hash is over every event in order: one seed, one hash, in any process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from router.events import (
    AttemptEnded,
    AttemptOpened,
    BudgetRefused,
    Bus,
    ConfigApplied,
    Event,
    TaskAdmitted,
    TaskEnded,
    TaskHeld,
    TaskInterrupted,
    TaskRetrying,
    TaskStarted,
    TaskSwept,
)
from router.flow import life
from router.flow.draft import Accepted, Draft
from router.flow.fleet import Fleet
from router.flow.life import Life
from router.outbox import CALLBACK_TYPES, TERMINAL_TYPES
from router.outcome import FailureKind
from router.persistence import Cancelled, Store, TooLate, Unavailable
from router.policy.rules import RetryUnknown
from router.provider import Kind
from router.task import MOVES, State
from router.world import seeded_dice
from tests.sim.checks import Judge
from tests.sim.fleet import FakeProvider
from tests.sim.loop import Deadlock, VirtualLoop, live_through, run_now
from tests.sim.traffic import CRASH_POINTS, FAULTS_UNTIL_S, Cancel, Reload, Restart, Scenario, Submit, draw
from tests.sim.world import Outside, make_world

LIVENESS_BOUND_S = 4 * 3600.0
DRAIN_S = 30.0
LIVES_MAX = 40


@dataclass(slots=True)
class Engine:
    """A store that survives crashes. `audit` reads it at once; `crash` and `reopen` are what a crash does to it."""

    store: Store
    audit: Store
    crash: Callable[[], None] = lambda: None
    reopen: Callable[[], Store] | None = None
    close: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Report:
    """What came of a seed."""

    seed: int
    trace: str
    violations: list[str]
    met: Counter[str]
    attempts: int
    unknown: int
    lives: int
    ended_s: float


@dataclass(slots=True)
class Simulation:
    """One seed in the making."""

    scenario: Scenario
    engine: Engine
    outside: Outside
    judge: Judge
    fleet: type[Fleet] = Fleet
    met: Counter[str] = field(default_factory=Counter)
    trace: object = field(default_factory=hashlib.sha256)
    ids: dict[int, tuple[str, str]] = field(default_factory=dict)  # submit number -> (tenant, task id), as told
    next_action: int = 0
    lives: int = 0
    begun: int = 0
    variant: int = 0
    attempts: int = 0
    unknown: int = 0
    clients: list[object] = field(default_factory=list)
    running: Life | None = None

    # -- readers ----------------------------------------------------------------------------------------------------

    def read(self, event: Event) -> None:
        """Hash the event into the trace and count what was met (a reader of the bus)."""
        task = getattr(event, "task", None)
        attempt = getattr(event, "attempt", None)
        words = [type(event).__name__, str(event.at)]
        words += [task.id, task.state.value, str(task.version)] if task is not None else [str(event)]
        words += [str(attempt.n), attempt.provider, str(attempt.outcome)] if attempt is not None else []
        self.trace.update("|".join(words).encode())
        self._count(event)

    def _count(self, event: Event) -> None:
        met = self.met
        match event:
            case AttemptOpened():
                met["verdict go"] += 1
                self.attempts += 1
            case AttemptEnded(task=task, attempt=attempt):
                if task.state is State.RUNNING:
                    met["move running>running"] += 1
                if attempt.outcome in set(FailureKind):
                    met[f"outcome {attempt.outcome}"] += 1
                if attempt.outcome == FailureKind.UNKNOWN:
                    self.unknown += 1
                    met[f"retry_unknown {self.judge.model_retries(task.model).value}"] += 1
            case TaskStarted(task=task):
                met[f"move {'pending' if task.tries == 1 else 'retrying'}>running"] += 1
            case TaskRetrying(delay_s=delay_s):
                met["verdict again" if delay_s else "verdict elsewhere"] += 1
                met["move running>retrying"] += 1
            case TaskInterrupted(task=task):
                met[f"move interrupted>{task.state.value}"] += 1
            case TaskHeld():
                met["verdict hold"] += 1
            case TaskEnded(task=task, was=was):
                self._count_end(task.state, was, task.warnings)
            case TaskSwept():
                met["move succeeded>expired"] += 1
            case BudgetRefused():
                met["budget refusal"] += 1
            case ConfigApplied():
                met["reload"] += 1
            case _:
                return

    def _count_end(self, state: State, was: State, warnings: tuple[str, ...]) -> None:
        self.met[f"move {was.value}>{state.value}"] += 1
        if state is State.SUCCEEDED:
            self.met["verdict deliver"] += 1
            self.met["images missing"] += any("missing" in warning for warning in warnings)
        if state is State.FAILED:
            self.met["verdict give_up"] += 1

    # -- lives ------------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Live until everything has ended."""
        now_s, done = 0.0, False
        while not done:
            self.lives += 1
            if self.lives > LIVES_MAX:
                self.judge.blame("I1 stuck", f"{LIVES_MAX} lives were not enough")
                break
            loop = VirtualLoop(now_s)
            try:
                done = live_through(loop, self._live()) and self._all_done()
            except Deadlock:
                self.judge.blame("I1 stuck", "everything waits and nothing will ever happen")
                done = True
            now_s = loop.time()
            for problem in loop.problems:
                self.judge.blame("bug", problem)
            self.engine.crash()
            if self.engine.reopen is not None:
                self.outside.store = self.engine.reopen()
            if now_s > LIVENESS_BOUND_S:
                done = True
        self.judge.final()
        self.met.update({f"crash {point}": count for point, count in self.outside.crashed_at.items()})
        return Report(
            seed=self.scenario.seed,
            trace=self.trace.hexdigest(),
            violations=self.judge.violations,
            met=self.met,
            attempts=self.attempts,
            unknown=self.unknown,
            lives=self.lives,
            ended_s=now_s,
        )

    async def _live(self) -> None:
        """One life: begin, let clients act, drain at a restart; ends by itself only at the very end."""
        running = await self._begin()
        while self.next_action < len(self.scenario.actions):
            action = self.scenario.actions[self.next_action]
            await self._sleep_until(action.at_s)
            self.next_action += 1
            match action:
                case Submit():
                    self._spawn(self._submit(action))
                case Cancel():
                    self._spawn(self._cancel(action))
                case Reload(variant=variant):
                    self.variant = variant
                    rules = self.scenario.rules[variant]
                    running.adopt(rules)
                    running.runtime.bus.emit(ConfigApplied(running.runtime.now(), rules.hash, ""))
                case Restart(takeover=False, intents=intents):
                    for _turn in range(intents):
                        await self._intent_coming()
                    await running.end(DRAIN_S)
                    return
                case Restart(takeover=True, intents=intents):
                    for _turn in range(intents):
                        await self._intent_coming()
                    await asyncio.sleep(1.0)  # long enough for a polled job to be accepted
                    # The old life is not told: it goes on as a zombie until the loop ends, and may change nothing.
                    running = await self._begin()
                    self.met["takeover"] += 1
        await self._sleep_until(FAULTS_UNTIL_S)
        self.outside.faulty = False
        for provider in self.outside.providers.values():
            provider.faulty = False
        self.outside.crash_at = None
        await self._settle(running)
        await running.end(DRAIN_S)

    async def _begin(self) -> Life:
        bus = Bus()
        number = self.begun = self.begun + 1
        bus.subscribe(self.judge.reader(number))
        bus.subscribe(self.read)
        world = make_world(self.outside, self.begun)
        self._arm()
        running = await life.begin(
            world, bus, self.scenario.rules[self.variant], replica="sim", fleet=self.fleet, queue_window=30
        )
        self.judge.takeover(number, running.runtime.now())
        self.running = running
        return running

    def _arm(self) -> None:
        """Set the next crash."""
        turn = self.outside.crashed_at.total()
        if turn < len(self.scenario.crashes):
            self.outside.crash_at = self.scenario.crashes[turn]

    async def _intent_coming(self) -> None:
        """Wait until an attempt is about to be opened: a shutdown at that instant has something to withdraw."""
        self.outside.intent_coming = asyncio.Event()
        try:
            async with asyncio.timeout(2.0):
                await self.outside.intent_coming.wait()
        except TimeoutError:
            return
        finally:
            self.outside.intent_coming = None

    async def _settle(self, running: Life) -> None:
        """Liveness: with the faults gone, everything ends."""
        loop = asyncio.get_running_loop()
        while not self._all_done() and loop.time() < LIVENESS_BOUND_S:
            await asyncio.sleep(5.0)
        await asyncio.sleep(1500.0)  # long enough for retention to pass
        self.met["settled"] += 1
        del running

    def _all_done(self) -> bool:
        if self.next_action < len(self.scenario.actions):
            return False
        views = [self.judge.row(task_id) for task_id in self.judge.tenants]
        return all(
            view is None or (view.task.is_terminal and all(one.ended_at is not None for one in view.attempts))
            for view in views
        )

    # -- clients ----------------------------------------------------------------------------------------------------

    def _spawn(self, client: object) -> None:
        task = asyncio.get_running_loop().create_task(client)
        self.clients.append(task)

    async def _submit(self, action: Submit) -> None:
        draft = Draft(
            tenant=action.tenant,
            kind=Kind.IMAGE_GENERATION,
            input={"prompt": f"picture {action.number}", "n": action.n},
            surface="native",
            route="/v1/tasks",
            digest=f"digest-{action.number}",
            request_id=f"req_{action.number}",
            model=action.model,
            priority=action.priority,
            idempotency_key=action.key,
            start_within_s=action.start_within_s,
            timeout_s=action.timeout_s,
            callback_url="https://hook.example/tasks" if action.number % 4 else None,
            callback_events=CALLBACK_TYPES if action.number % 2 else TERMINAL_TYPES,
        )
        for _turn in range(2 if action.key else 1):
            try:
                answer = await self.running.intake.submit(draft)
            except Unavailable:
                continue
            if isinstance(answer, Accepted):
                known = self.ids.get(action.number)
                if known is not None and known[1] != answer.task.id:
                    self.judge.blame("I10 key", f"one key gave {known[1]} and {answer.task.id}")
                self.ids[action.number] = (action.tenant, answer.task.id)
                self.judge.acknowledged.add(answer.task.id)
            await asyncio.sleep(3.0)

    async def _cancel(self, action: Cancel) -> None:
        """Cancel once the task is in the wanted state, or after a while in any."""
        for _turn in range(1000):
            known = self.ids.get(action.number)
            if known and self.judge.states.get(known[1]) == action.when_state:
                break
            await asyncio.sleep({"pending": 0.005, "running": 0.1, "retrying": 0.01}.get(action.when_state, 3.0))
        known = self.ids.get(action.number)
        if known is None:
            return
        for _turn in range(2 if action.twice else 1):
            await self._cancel_once(known)

    async def _cancel_once(self, known: tuple[str, str]) -> None:
        try:
            result = await self.running.intake.cancel(*known)
        except Unavailable:
            return
        if isinstance(result, Cancelled):
            self.met[f"cancel {result.was.value}"] += 1
        elif isinstance(result, TooLate):
            self.met[f"cancel {result.task.state.value}"] += 1

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))


def simulate(seed: int, engine: Engine, *, fleet: type[Fleet] = Fleet) -> Report:
    """Run a seed over an engine."""
    scenario = draw(seed)
    streams = seeded_dice(seed)
    providers = {one.name: FakeProvider(one, streams(f"provider:{one.name}"), lambda: 0.0) for one in scenario.habits}
    outside = Outside(seed=seed, providers=providers, store=engine.store, audit=engine.audit)
    for provider in providers.values():
        provider.storm = scenario.storm
    judge = Judge(audit=engine.audit, providers=providers, rules=scenario.rules[0])
    outside.on_receipt = judge.receipt
    try:
        return Simulation(scenario, engine, outside, judge, fleet).run()
    finally:
        engine.close()


def cells() -> tuple[str, ...]:
    """Every cell of the table of what a run must have met."""
    moves = {f"move {before.value}>{after.value}" for (before, name), after in MOVES.items() if name != "interrupted"}
    return (
        *(f"outcome {kind.value}" for kind in FailureKind),
        *(f"verdict {word}" for word in ("go", "hold", "deliver", "again", "elsewhere", "give_up")),
        *sorted(moves),
        "move interrupted>pending",
        "move interrupted>retrying",
        *(f"crash {point}" for point in CRASH_POINTS),
        *(f"retry_unknown {word.value}" for word in RetryUnknown),
        *(f"cancel {state.value}" for state in State),
        "images missing",
        "move retrying>succeeded",
        "budget refusal",
        "reload",
        "takeover",
    )


__all__ = ["Engine", "Report", "TaskAdmitted", "cells", "run_now", "simulate"]
