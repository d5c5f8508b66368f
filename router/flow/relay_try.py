"""One try of a relayed completion at one target: the request, its chunks, the bill, what the fleet learns of it.

Usage is asked for with every stream, because the bill is made of it, and taken out again where the caller did not ask
(contract section 2; openai-chat.md section 4). Until something has been said, chunks that say nothing are kept back, so
that the call can still move to another target. What follows a try is decided in `relay`. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from router.events import RelayEnded
from router.flow.draft import Draft
from router.flow.fleet import Started
from router.flow.purse import Held, Purse
from router.flow.runtime import Runtime
from router.outcome import SUCCEEDED, Billed, Fail, FailureKind, fail
from router.persistence import Demand
from router.policy import budget, chunks, price
from router.policy.route import Candidate, Plan, Try
from router.policy.rules import Shape
from router.provider import Broken, Delta, Done, Job, Kind, Listen, Pending, Reply, Request, Stream, Streaming, Usage
from router.relays import Relayed
from router.task import Error

STREAM_MAX_S = 3600.0  # a stream has no end of its own: it may take as long as its bytes come
HELD_BACK_MAX = 8


@dataclass(slots=True, eq=False)
class Call:
    """A call on its way. `begun`: the caller has been given something, so that nobody else may be tried."""

    draft: Draft
    shape: Shape
    streamed: bool
    usage_wanted: bool
    until_s: float
    held: Held | None = None
    demands: tuple[Demand, ...] = ()
    barred: frozenset[str] = frozenset()
    history: list[Try] = field(default_factory=list)
    tries: list[Relayed] = field(default_factory=list)
    error: Error | None = None  # in whose words it fails if nothing more can be tried
    begun: bool = False


@dataclass(slots=True, eq=False)
class Trial:
    """One try: where, on which place, with what held for it, and what came of it so far."""

    candidate: Candidate
    place: Started
    plan: Plan
    held: Held
    demands: tuple[Demand, ...]
    started_at: int
    began_s: float
    usage: Usage | None = None
    chunks: int = 0
    held_back: list[Mapping[str, Any]] = field(default_factory=list)
    outcome: Done | Fail | None = None


class Tries:
    """Makes tries. `cutting` is set when those that are out are ended by a shutdown."""

    def __init__(self, runtime: Runtime, purse: Purse, cutting: asyncio.Event) -> None:
        self.runtime = runtime
        self.purse = purse
        self.cutting = cutting

    async def tell(self, call: Call, trial: Trial) -> AsyncGenerator[Mapping[str, Any], None]:
        """Make one try, tell its chunks, and write down what came of it, also when nobody wants the rest."""
        outcome: Done | Fail = fail(FailureKind.CANCELLED, "the caller went away before the end")
        try:
            async with aclosing(self._ask(call, trial)) as answers:
                async for answer in answers:
                    if isinstance(answer, Delta):
                        for chunk in _shown(call, trial, answer.data):
                            yield chunk
                    else:
                        outcome = answer
                        break
            if isinstance(outcome, Done) and call.streamed:
                for chunk in _rest_of(call, trial, outcome):
                    yield chunk
        except Exception as bug:  # noqa: BLE001 - the one boundary where an adapter's exception becomes a value
            outcome = fail(FailureKind.BUG, f"the adapter raised {type(bug).__name__}")
        finally:
            trial.outcome = outcome
            self._conclude(call, trial, outcome)

    async def _ask(self, call: Call, trial: Trial) -> AsyncGenerator[Delta | Done | Fail, None]:
        """Have the adapter make the request, as a stream where the caller wants one and the adapter has it."""
        facts, adapter = trial.candidate.provider.adapter, None
        adapter = self.runtime.world.adapter(facts.slug)
        job, idle_s = self._job_of(call, trial), trial.plan.timeout_s
        if call.streamed and Kind.CHAT_COMPLETION in facts.streams:
            async with aclosing(cast("Streaming", adapter).stream(job, self._listen_for(idle_s))) as told:
                async for one in told:
                    if isinstance(one, Delta | Done | Fail):
                        yield one
            yield fail(FailureKind.BUG, "the adapter ended a stream without a word")
            return

        async def call_out(request: Request) -> Reply | Broken:
            return await self.runtime.world.call(request, idle_s)

        answer = await adapter.submit(job, call_out)
        if isinstance(answer, Pending):
            yield fail(FailureKind.UNUSABLE, "the provider made a job of a completion")
            return
        yield answer

    def _listen_for(self, idle_s: float) -> Listen:
        """Bind the wire to the time between bytes: until the head of the answer, and from piece to piece."""

        @asynccontextmanager
        async def listen(request: Request) -> AsyncIterator[Stream | Reply | Broken]:
            async with AsyncExitStack() as stack:
                answer: Stream | Reply | Broken
                try:
                    async with asyncio.timeout(idle_s):
                        answer = await stack.enter_async_context(
                            self.runtime.world.listen(request, STREAM_MAX_S, idle_s)
                        )
                except TimeoutError:
                    answer = Broken(sent=True, timed_out=True, detail=f"no byte within {idle_s:g} s")
                yield answer

        return listen

    def _job_of(self, call: Call, trial: Trial) -> Job:
        target, provider, draft = trial.candidate.target, trial.candidate.provider, call.draft
        taken = target.abilities.fields
        body = {name: value for name, value in draft.input.items() if taken is None or name in taken}
        if call.streamed:
            options = body.get("stream_options")
            body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return Job(
            attempt_key=f"{draft.request_id}-0",
            kind=Kind.CHAT_COMPLETION,
            model=target.model,
            input=body,
            base_url=provider.base_url,
            credential=trial.place.credential.secret,
            now=self.runtime.now(),
        )

    # -- its end ----------------------------------------------------------------------------------------------------

    def _conclude(self, call: Call, trial: Trial, outcome: Done | Fail) -> None:
        """Work out the bill, let the fleet learn, and have it written down. Nothing here waits."""
        runtime, candidate, draft = self.runtime, trial.candidate, call.draft
        failed = outcome if isinstance(outcome, Fail) else None
        cut = failed is not None and failed.kind is FailureKind.CANCELLED and self.cutting.is_set()
        if failed is not None and cut:
            failed = replace(failed, detail="a shutdown cut it short")
        billed, settled, usage = _bill(call, trial, outcome)
        now = runtime.now()
        relayed = Relayed(
            request_id=draft.request_id,
            n=len(call.tries) + 1,
            tenant=draft.tenant,
            key_id=draft.key_id,
            model=call.shape.model,
            provider=candidate.provider.name,
            target=candidate.target.name,
            target_model=candidate.target.model,
            account=trial.place.credential.label,
            streamed=call.streamed,
            begun=call.begun or (failed is None and not call.streamed),
            started_at=trial.started_at,
            ended_at=now,
            outcome=SUCCEEDED if failed is None else failed.kind.value,
            billing=billed,
            cost_nanos=settled.cost_nanos,
            estimated=settled.estimated,
            http_status=outcome.http_status,
            detail="" if failed is None else failed.detail,
            usage=usage or Usage(),
        )
        estimate = candidate.price_nanos
        charges = budget.charges_of((*call.demands, *trial.demands), billed, settled.cost_nanos, estimate or 0)
        self.purse.book(relayed, charges)
        self.purse.give_back(trial.held)
        call.tries.append(relayed)
        if failed is not None:
            call.history.append(Try(candidate.target.name, failed.kind, billed))
        if failed is not None and failed.kind is FailureKind.CANCELLED:
            runtime.fleet.release(trial.place)
        else:
            runtime.fleet.record(trial.place, failed, runtime.fleet.monotonic() - trial.began_s)
        runtime.bus.emit(RelayEnded(now, relayed, estimate, cut=cut))


# -- parts ------------------------------------------------------------------------------------------------------------


def _shown(call: Call, trial: Trial, chunk: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Note the usage that a chunk tells, and pass on what the caller wants to see, once anything has been said."""
    trial.usage = chunks.usage_in(chunk) or trial.usage
    trial.chunks += 1
    shown = chunk if call.usage_wanted else chunks.without_usage(chunk)
    if shown is None:
        return
    if not call.begun and len(trial.held_back) < HELD_BACK_MAX and not chunks.says_something(shown):
        trial.held_back.append(shown)
        return
    yield from trial.held_back
    trial.held_back.clear()
    yield shown


def _rest_of(call: Call, trial: Trial, done: Done) -> Iterator[Mapping[str, Any]]:
    """What a stream still owes its caller: chunks that were kept back, or all of an answer that came whole."""
    if trial.chunks:
        yield from trial.held_back
        trial.held_back.clear()
        return
    for media in done.media[:1]:
        yield from chunks.chunks_of(media.document or {}, usage_wanted=call.usage_wanted)


def _bill(call: Call, trial: Trial, outcome: Done | Fail) -> tuple[Billed, price.Settled, Usage | None]:
    """What a try cost. Whoever said what it used is known to charge it; without usage each chunk counts as a token."""
    usage = trial.usage
    if isinstance(outcome, Done):
        billed, usage = Billed.YES, outcome.usage if outcome.usage != Usage() else usage
    else:
        billed = Billed.YES if outcome.billed is Billed.UNKNOWN and usage is not None else outcome.billed
    shape = replace(call.shape, n=1, max_tokens=trial.chunks) if trial.chunks else call.shape
    settled = price.settle(trial.candidate.target.price, shape, billed=billed, usage=usage, reported=outcome.cost_nanos)
    return billed, settled, usage
