"""Chat completions, passed on while they are made: no queue, no row before the call, no replay (contract section 2).

A call is planned, given a place and sent like an attempt, and moves to the next candidate as long as the caller has
been given nothing; afterwards a failure is the caller's to see. What it may cost is held in memory, what it did cost is
written soon after (`purse`). A target whose places are taken is waited for, but no longer than `PATIENCE_S`: whoever
waits here has nothing that could be collected later. Who reads what is told here, and how fast, is not known; whoever
does not want the rest closes the generator, and the upstream is hung up on. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from router.events import BudgetRefused, RelayMoved
from router.flow import attempt as attempts
from router.flow.draft import Draft, Refused
from router.flow.fleet import NoRoom
from router.flow.intake import Intake, reservation_of
from router.flow.purse import Purse
from router.flow.relay_try import Call, Trial, Tries
from router.flow.runtime import Runtime
from router.keys import KeyLimits
from router.outcome import Fail, FailureKind
from router.persistence import OverBudget
from router.policy import budget, route, verdict
from router.policy.prompt import count_prompt_chars, read_max_tokens
from router.policy.route import Candidate, Plan
from router.policy.rules import Model, Shape
from router.provider import Delta, Done, Kind
from router.relays import Relayed
from router.task import Error

PATIENCE_S = 10.0  # how long a call waits, in all, for a place, a circuit or a rest
PLACE_ASKED_AGAIN_S = 0.05
OPERATOR_BACK_S = 30.0
RELAYS_MAX = 1_000
CUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Whole:
    """A completion as one document. `cost_nanos` is what the call cost in all, None when that is not known."""

    document: Mapping[str, Any]
    cost_nanos: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The call is over without its end: refused, failed, or broken off. `tries` is what was made for it."""

    error: Error
    retry_after_s: float | None = None
    tries: tuple[Relayed, ...] = ()


Told = Delta | Whole | Failed


class Relay:
    """Relays completions. `cutting` is set when those that are still out must end."""

    def __init__(self, runtime: Runtime, intake: Intake) -> None:
        """Nobody calls yet."""
        self.runtime = runtime
        self.purse = Purse(runtime.world)
        self.cutting = asyncio.Event()
        self._intake = intake
        self._tries = Tries(runtime, self.purse, self.cutting)
        self._tenants: Counter[str] = Counter()
        self._keys: Counter[str | None] = Counter()
        self._nobody = asyncio.Event()
        self._nobody.set()

    async def complete(self, draft: Draft, *, streamed: bool) -> AsyncGenerator[Told, None]:
        """Tell a completion: one `Whole`, or `Delta`s as they come. A `Failed` is the last word.

        Close it to give up.
        """
        model = self._enter(draft, await self.runtime.limits.find(draft.key_id))
        if isinstance(model, Failed):
            yield model
            return
        call = self._call_of(draft, model, streamed=streamed)
        with self._counted(draft):
            try:
                async with aclosing(self._drive(call)) as told:
                    async for one in told:
                        yield one
            finally:
                if call.held is not None:
                    self.purse.give_back(call.held)

    @property
    def out(self) -> int:
        """How many calls are out."""
        return self._tenants.total()

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._nobody.wait()
        except TimeoutError:
            return

    async def finish(self) -> None:
        """Have what is still out cut, and write down what all of it cost."""
        self.cutting.set()
        await self.drain(CUT_S)
        await self.purse.finish()

    # -- entering ---------------------------------------------------------------------------------------------------

    def _enter(self, draft: Draft, key: KeyLimits) -> Model | Failed:
        """See that the call may begin: nobody shuts down, its bill could be written, there is room, and a model."""
        tenant = self.runtime.rules.tenant(draft.tenant)
        if self.purse.behind:
            message = "What earlier calls cost cannot be written down at the moment, so that none may begin."
            return Failed(Error("unavailable", message, "unavailable", retryable=True), 2.0)
        if self.out >= RELAYS_MAX:
            message = f"{RELAYS_MAX} completions are being relayed, which is as many as this service takes at once."
            return Failed(Error("unavailable", message, "unavailable", retryable=True), 2.0)
        bounds = (
            (f"Tenant {draft.tenant}", tenant.max_concurrency, self._tenants[draft.tenant]),
            ("This API key", key.max_concurrency, self._keys[draft.key_id]),
        )
        for whose, most, out in bounds:
            if most is not None and out >= most:
                message = f"{whose} has {most} completions out, which is the limit."
                return Failed(Error("rate_limited", message, "rate_limited", retryable=True), 1.0)
        found = self._intake.pace(draft, key) or self._intake.model_of(draft, key)
        if isinstance(found, Refused):
            return Failed(found.error, found.retry_after_s)
        return found

    def _call_of(self, draft: Draft, model: Model, *, streamed: bool) -> Call:
        n = draft.input.get("n")
        shape = Shape(
            kind=Kind.CHAT_COMPLETION,
            model=model.name,
            tenant=draft.tenant,
            n=n if isinstance(n, int) else 1,
            priority=draft.priority,
            surface=draft.surface,
            metadata=draft.metadata,
            fields=frozenset(draft.input),
            prompt_chars=count_prompt_chars(draft.input),
            max_tokens=read_max_tokens(draft.input),
        )
        options = draft.input.get("stream_options")
        bounds = [one for one in (PATIENCE_S, draft.start_within_s, draft.timeout_s) if one is not None]
        return Call(
            draft=draft,
            shape=shape,
            streamed=streamed,
            usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
            until_s=self.runtime.fleet.monotonic() + min(bounds),
        )

    @contextmanager
    def _counted(self, draft: Draft) -> Iterator[None]:
        self._tenants[draft.tenant] += 1
        self._keys[draft.key_id] += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._tenants -= Counter([draft.tenant])  # which lets go of what is at zero
            self._keys -= Counter([draft.key_id])
            if not self._tenants:
                self._nobody.set()

    # -- from one candidate to the next -----------------------------------------------------------------------------

    async def _drive(self, call: Call) -> AsyncGenerator[Told, None]:
        """Try one candidate after the other, until one answers or nothing more may be tried."""
        while True:
            trial = await self._begin(call)
            if isinstance(trial, Failed):
                yield trial
                return
            async with aclosing(self._tries.tell(call, trial)) as told:
                async for chunk in told:
                    call.begun = True
                    yield Delta(chunk)
            match trial.outcome:
                case Done(media=media):
                    if not call.streamed:
                        yield Whole(media[0].document or {}, self._cost_of(call))
                    return
                case Fail(kind=FailureKind.REFUSED) if call.begun:
                    return  # the caller has seen why it ended
                case Fail() as failure:
                    ending = await self._judge(call, failure)
                    if ending is not None:
                        yield ending
                        return
                case None:
                    raise AssertionError("a try ended without an outcome")

    async def _judge(self, call: Call, failure: Fail) -> Failed | None:
        """Decide what follows a failure; None: the next candidate, which may have had to be waited for."""
        plan = self._plan(call)
        call.error = verdict.error_of(failure, call.history, plan)
        if call.begun:
            return _fail(call, call.error)
        jitter = self.runtime.world.dice("jitter").random()
        match verdict.after(failure, call.history, plan, jitter):
            case verdict.GiveUp(error):
                return _fail(call, error, failure.rest_s if error.retryable else None)
            case verdict.Again(delay_s):
                if not await self._wait(call, delay_s):
                    return _fail(call, call.error, delay_s if call.error.retryable else None)
            case verdict.Elsewhere() | verdict.Deliver():
                pass
        return None

    async def _begin(self, call: Call) -> Trial | Failed:
        """Find who may make the next try and take a place there, or say why nobody can."""
        while True:
            if self.runtime.draining:
                message = "The service is shutting down; nothing was sent."
                leaving = Error("unavailable", message, "unavailable", retryable=True)
                return _fail(call, call.error or leaving, 2.0)
            plan = self._plan(call)
            match verdict.before(plan, call.history):
                case verdict.GiveUp(error):
                    return _fail(call, call.error or error, OPERATOR_BACK_S if error.retryable else None)
                case verdict.Hold(delay_s):
                    if not await self._wait(call, delay_s):
                        return self._nobody_free(call, "Every provider of this model is resting", delay_s)
                    continue
                case verdict.Go(candidate):
                    pass
            begun = await self._take(call, plan, candidate)
            if not isinstance(begun, NoRoom):
                if begun is not None:
                    return begun
                continue
            provider = candidate.provider.name
            delay_s = max(PLACE_ASKED_AGAIN_S, begun.wait_s or self.runtime.fleet.wait_s(candidate.provider))
            self.runtime.relays_waiting[provider] += 1
            try:
                waited = await self._wait(call, delay_s)
            finally:
                self.runtime.relays_waiting[provider] -= 1
            if not waited:
                return self._nobody_free(
                    call, f"All places at {provider} are taken ({begun.reason})", max(1.0, delay_s)
                )

    async def _take(self, call: Call, plan: Plan, candidate: Candidate) -> Trial | Failed | NoRoom | None:
        """Hold the money and take a place; None: this candidate is out, look again."""
        runtime, now = self.runtime, self.runtime.now()
        rules, name = runtime.rules, candidate.provider.name
        if call.held is None:
            refused = await self._hold(call, plan, now)
            if refused is not None:
                return refused
        if candidate.price_nanos is None and budget.covers_provider(rules.budgets, name):
            call.barred |= {name}  # an unknown price fits into no budget (promise 5)
            return None
        demands = budget.provider_demands(
            rules.budgets, name, unit=candidate.price_nanos or 0, now=now, zone=rules.zone
        )
        held = await self.purse.hold(demands)
        if isinstance(held, OverBudget):
            self._tell_refusal(call, held)
            call.barred |= {name}
            return None
        place = runtime.fleet.begin(
            candidate.provider, candidate.target, timeout_s=plan.timeout_s, repeat=candidate.tries > 0
        )
        if isinstance(place, NoRoom):
            self.purse.give_back(held)
            return place
        sick: Fail | None = None
        try:
            sick = await attempts.probe(runtime, candidate, place) if place.probe else None
        except BaseException:
            runtime.fleet.release(place)
            self.purse.give_back(held)
            raise
        if sick is not None:
            runtime.fleet.record(place, sick, 0.0)
            self.purse.give_back(held)
            return None
        if call.history and call.history[-1].target != candidate.target.name:
            draft, last = call.draft, call.history[-1]
            names = (last.target, candidate.target.name, last.kind.value)
            runtime.bus.emit(RelayMoved(runtime.now(), draft.request_id, draft.tenant, call.shape.model, *names))
        return Trial(candidate, place, plan, held, demands, runtime.now(), runtime.fleet.monotonic())

    async def _hold(self, call: Call, plan: Plan, now: int) -> Failed | None:
        """Hold what the call may cost on the budgets that cover it (promise 5, in memory)."""
        rules = self.runtime.rules
        unit, units = reservation_of(plan, call.shape)
        key_id = call.draft.key_id
        demands = budget.demands(rules.budgets, call.shape, key_id, unit=unit, units=units, now=now, zone=rules.zone)
        held = await self.purse.hold(demands)
        if isinstance(held, OverBudget):
            self._tell_refusal(call, held)
            return _fail(call, verdict.over_budget(held.demand.budget, held.demand.window, held.left))
        call.held, call.demands = held, demands
        return None

    def _tell_refusal(self, call: Call, over: OverBudget) -> None:
        demand, now = over.demand, self.runtime.now()
        self.runtime.bus.emit(BudgetRefused(now, call.draft.tenant, demand.budget, demand.window, over.left))

    def _nobody_free(self, call: Call, what: str, delay_s: float) -> Failed:
        message = f"{what}; nothing was sent."
        nobody = Error("no_provider_available", message, "no_provider_available", retryable=True)
        error = call.error or nobody
        return _fail(call, error, delay_s if error.retryable else None)

    async def _wait(self, call: Call, delay_s: float) -> bool:
        """Wait, unless that would take longer than the call has patience."""
        if self.runtime.fleet.monotonic() + delay_s > call.until_s or self.runtime.draining:
            return False
        await asyncio.sleep(delay_s)
        return True

    def _plan(self, call: Call) -> Plan:
        runtime, draft = self.runtime, call.draft
        return route.plan(
            call.shape,
            draft.preferences,
            runtime.rules,
            runtime.fleet,
            now=runtime.now(),
            task_id=draft.request_id,
            history=call.history,
            priced_only=budget.applies(runtime.rules.budgets, call.shape, draft.key_id),
            barred=call.barred,
        )

    def _cost_of(self, call: Call) -> int | None:
        """What all tries cost together; None when it is not known of one."""
        costs = [one.cost_nanos for one in call.tries]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


def _fail(call: Call, error: Error, retry_after_s: float | None = None) -> Failed:
    return Failed(error, retry_after_s, tuple(call.tries))
