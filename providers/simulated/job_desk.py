"""The life of an accepted job at a seller that answers at once and is asked again later.

A paid request is met by the dial, accepted on the bill and worked on for its time, whoever still listens; polls show
the stage that the work is in, a cancel stops what has not ended. What differs between sellers (ids, bodies, error
words) stands in the seller's module: it gives the desk functions that describe a job. It shares no code with any
adapter.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import NOTHING, What
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.film import Film
from providers.simulated.gallery import RESULT_FAULTS, Gallery
from providers.simulated.picture import Picture
from providers.simulated.workshop import Workshop

JOBS_KEPT = 20_000
"""Jobs that a desk remembers; of those that have ended the oldest is forgotten first."""
ANSWER_S = 0.3
"""Unscaled seconds from a paid request to the reply that names the job."""

Body = dict[str, Any]
Describe = Callable[["Job"], Body]

JOB_OFFER = {
    Step.SUBMIT: (TURNED_AWAY - {FaultKind.ACTIVE_LIMIT, FaultKind.MODERATION_BLOCKED})
    | {
        FaultKind.SLOW,
        FaultKind.LATE,
        FaultKind.HANG,
        FaultKind.DROP,
        FaultKind.GATEWAY_TIMEOUT,
        FaultKind.REFUSAL,
        FaultKind.JOB_ERROR,
        FaultKind.TASK_NOT_FOUND,
        FaultKind.LOST,
        FaultKind.HTML,
        FaultKind.WRONG_MAGIC,
        FaultKind.EMPTY_DATA,
        FaultKind.TRUNCATED,
        FaultKind.ENDLESS,
        FaultKind.FLOOD,
    },
    Step.POLL: frozenset(
        {
            FaultKind.OVERLOADED,
            FaultKind.THROTTLED,
            FaultKind.SERVER_ERROR,
            FaultKind.BAD_GATEWAY,
            FaultKind.SLOW,
            FaultKind.HANG,
            FaultKind.DROP,
            FaultKind.TASK_NOT_FOUND,
            FaultKind.HTML,
            FaultKind.EMPTY_DATA,
            FaultKind.TRUNCATED,
            FaultKind.ENDLESS,
            FaultKind.FLOOD,
        }
    ),
    Step.RESULT: RESULT_FAULTS,
}
"""What a dial can show at a seller of jobs; a seller may add its own kinds, or take away what it cannot show."""


class Stage(StrEnum):
    """Where a job is. A seller translates it into its own words."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Stage.SUCCEEDED, Stage.REFUSED, Stage.FAILED, Stage.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """What a paid request asked for, and what the seller says to it.

    outputs: what is made, in order. waits_s, takes_s: unscaled seconds in the queue and at work. refusal_usd,
    failure_usd, cancel_usd: what is charged for those endings. pays_on_success: nothing is charged before the job has
    succeeded, where other sellers charge at acceptance. deadline_s: unscaled seconds after which the seller cancels the
    job by itself, None for never. lifetime_s: unscaled seconds that its links live, None for the gallery's own. asked:
    the request's own fields, for the seller's bodies.
    """

    model: str
    prompt: str
    outputs: tuple[Picture | Film, ...]
    price_usd: Decimal
    takes_s: float
    waits_s: float = 0.0
    refusal_usd: Decimal = NOTHING
    failure_usd: Decimal = NOTHING
    cancel_usd: Decimal = NOTHING
    pays_on_success: bool = False
    deadline_s: float | None = None
    lifetime_s: float | None = None
    asked: Body = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """One accepted job. `entry` is its id on the bill, `id` its name at the seller; instants are ms since the epoch.

    links: addresses of the results without the origin, once it has succeeded. `began_ms` and `ended_ms` are None
    before those instants. `begun_s` and `busy_s` are the loop's time and scaled seconds, for `progress`. fault, word:
    what it met at its acceptance, and the word of that row; overdue: cancelled by its deadline.
    """

    entry: str
    id: str
    order: JobOrder
    origin: str
    created_ms: int
    begun_s: float
    busy_s: float
    stage: Stage = Stage.WAITING
    began_ms: int | None = None
    ended_ms: int | None = None
    links: tuple[str, ...] = ()
    hidden_polls: int = 0
    lost: bool = False
    fault: FaultKind | None = None
    overdue: bool = False
    word: str | None = None
    work: "asyncio.Task[None] | None" = None

    @property
    def progress(self) -> int:
        """Per cent of its time that has passed; 100 once it has succeeded, at most 99 before."""
        if self.stage is Stage.SUCCEEDED:
            return 100
        passed_s = asyncio.get_running_loop().time() - self.begun_s
        return min(99, int(100 * passed_s / self.busy_s)) if self.busy_s > 0 else 99


class JobDesk:
    """The jobs of one seller. `turn_away` gives its words for a request that is not served (kinds of `TURNED_AWAY`);
    `unknown` its answer to an id that it does not know; `named` makes its own id from a UUID of the bill; `changed` is
    told of each job that has come to another stage, the first one aside; `price_cancelled` says what a cancelled job
    costs where that depends on how far it came.
    """

    def __init__(
        self,
        workshop: Workshop,
        gallery: Gallery,
        *,
        turn_away: Callable[[Fault], web.Response],
        unknown: Callable[[str], web.Response],
        named: Callable[[str], str] = str,
        shown: frozenset[FaultKind] | None = None,
        changed: Callable[[Job], None] = lambda _job: None,
        price_cancelled: Callable[[Job], Decimal] = lambda job: job.order.cancel_usd,
    ) -> None:
        """shown: what a submit can show here, if the seller's other desks can show more."""
        self._workshop = workshop
        self._gallery = gallery
        self._turn_away = turn_away
        self._unknown = unknown
        self._named = named
        self._shown = shown
        self._changed = changed
        self._price_cancelled = price_cancelled
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that are remembered, the oldest first."""
        return tuple(self._jobs.values())

    async def submit(
        self, request: web.Request, order: JobOrder, describe: Describe, *, status: int = 200, hold_s: float = 0.0
    ) -> web.StreamResponse:
        """Meet the dial, charge, begin, and answer with what `describe` says of the new job. hold_s: unscaled seconds
        for which the answer waits for the job to end.
        """
        workshop = self._workshop
        fault = workshop.dial.draw(Step.SUBMIT, model=order.model, prompt=order.prompt, shown=self._shown)
        workshop.describe(request, fault=fault)
        if fault is not None and fault.kind in TURNED_AWAY:
            return self._turn_away(fault)
        if workshop.bill.full:
            return self._turn_away(Fault(kind=FaultKind.OVERLOADED))
        job = self.accept(request, order, fault)
        return await self._answer(request, job, fault, describe, status=status, hold_s=hold_s)

    def accept(self, request: web.Request, order: JobOrder, fault: Fault | None) -> Job:
        """Charge a job and begin its work; for sellers that answer in a way of their own."""
        workshop, kind = self._workshop, fault.kind if fault else None
        amount_usd = NOTHING if order.pays_on_success else order.price_usd
        entry = workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=amount_usd)
        slow_s = fault.delay_s() if fault and kind is FaultKind.SLOW else 0.0
        job = Job(
            entry=entry,
            id=self._named(entry),
            order=order,
            origin=f"{request.scheme}://{request.host}",
            created_ms=workshop.options.now_ms(),
            begun_s=asyncio.get_running_loop().time(),
            busy_s=(order.waits_s + order.takes_s + slow_s) * workshop.options.time_scale,
            hidden_polls=fault.polls if fault and kind is FaultKind.TASK_NOT_FOUND else 0,
            lost=kind is FaultKind.LOST,
            fault=kind,
            word=fault.word if fault else None,
        )
        self._jobs[job.id] = job
        if len(self._jobs) > JOBS_KEPT:
            oldest = next((other for other in self._jobs.values() if other.stage in ENDED), job)
            del self._jobs[oldest.id]
        job.work = workshop.begin(self._work(job, kind, order.takes_s + slow_s))
        if order.deadline_s is not None:
            workshop.begin(self._stop_overdue(job, order.deadline_s))
        return job

    def find(self, job_id: str) -> Job | None:
        """The job of this id, None when there is none (any more)."""
        return self._jobs.get(job_id)

    async def poll(self, request: web.Request, job_id: str, describe: Describe) -> web.StreamResponse:
        """Answer a question after a job: the dial's faults of the step `poll`, else what `describe` says."""
        job = self._jobs.get(job_id)
        if job is None:
            return self._unknown(job_id)
        workshop = self._workshop
        fault = workshop.dial.draw(Step.POLL, model=job.order.model, prompt=job.order.prompt)
        workshop.describe(request, fault=fault)
        kind = fault.kind if fault else None
        if fault is not None and kind in TURNED_AWAY:
            return self._turn_away(fault)
        hidden = job.hidden_polls > 0
        job.hidden_polls -= hidden
        if job.lost or hidden or kind is FaultKind.TASK_NOT_FOUND:
            return self._unknown(job_id)
        if fault is not None and kind is FaultKind.SLOW:
            await workshop.pause(fault.delay_s())
        return await self._deliver(request, {} if kind is FaultKind.EMPTY_DATA else describe(job), fault, 200)

    def forget(self, job: Job) -> None:
        """Know no more of a job, which may have ended; its work, if it goes on, is charged as ever."""
        self._jobs.pop(job.id, None)

    def cancel(self, job: Job) -> bool:
        """Stop a job that has not ended; False when it had."""
        if job.stage in ENDED:
            return False
        job.stage, job.ended_ms = Stage.CANCELLED, self._workshop.options.now_ms()
        if job.work is not None:
            job.work.cancel()
        self._workshop.bill.end(job.entry, What.FAILURE, self._price_cancelled(job))
        self._changed(job)
        return True

    async def wait(self, job: Job) -> None:
        """Wait for a job to end, on behalf of a client that holds its connection."""
        if job.work is not None and job.stage not in ENDED:
            await self._workshop.attend(job.entry, job.work)

    async def _stop_overdue(self, job: Job, deadline_s: float) -> None:
        await self._workshop.pause(deadline_s)
        if job.stage not in ENDED:
            job.overdue = True
            self.cancel(job)

    async def _work(self, job: Job, kind: FaultKind | None, takes_s: float) -> None:
        workshop, bill, order = self._workshop, self._workshop.bill, job.order
        await workshop.pause(order.waits_s)
        job.stage, job.began_ms = Stage.RUNNING, workshop.options.now_ms()
        self._changed(job)
        await workshop.pause(takes_s)
        job.ended_ms = workshop.options.now_ms()
        match kind:
            case FaultKind.REFUSAL | FaultKind.CONTENT_MODERATED:
                job.stage = Stage.REFUSED
                bill.end(job.entry, What.REFUSAL, order.refusal_usd)
            case FaultKind.JOB_ERROR:
                job.stage = Stage.FAILED
                bill.end(job.entry, What.FAILURE, order.failure_usd)
            case _:
                spoilt = kind is FaultKind.WRONG_MAGIC
                job.links = tuple(
                    self._gallery.hang(output, order.model, spoilt=spoilt, lifetime_s=order.lifetime_s)
                    for output in order.outputs
                )
                job.stage = Stage.SUCCEEDED
                silent = kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT, FaultKind.ERROR_AFTER)
                late = kind is FaultKind.LATE and bill.abandoned(job.entry)
                bill.end(job.entry, What.TIMEOUT if silent or late else What.SUCCESS, order.price_usd)
        self._changed(job)

    async def _answer(
        self, request: web.Request, job: Job, fault: Fault | None, describe: Describe, *, status: int, hold_s: float
    ) -> web.StreamResponse:
        workshop, kind = self._workshop, fault.kind if fault else None
        if kind is FaultKind.DROP:
            workshop.bill.abandon(job.entry)
            return mischief.cut(request)
        try:
            await workshop.pause(ANSWER_S + (fault.delay_s() if fault and kind is FaultKind.LATE else 0.0))
            if hold_s > 0 and job.work is not None:
                await asyncio.wait({job.work}, timeout=hold_s * workshop.options.time_scale)
        except asyncio.CancelledError:
            workshop.bill.abandon(job.entry)
            raise
        if kind is FaultKind.ERROR_AFTER:
            return self._turn_away(Fault(kind=FaultKind.SERVER_ERROR))
        return await self._deliver(request, {} if kind is FaultKind.EMPTY_DATA else describe(job), fault, status)

    async def _deliver(self, request: web.Request, body: Body, fault: Fault | None, status: int) -> web.StreamResponse:
        content, options = json.dumps(body).encode(), self._workshop.options
        answer = await mischief.deliver(
            request,
            fault,
            content,
            content_type="application/json",
            closing=self._workshop.closing,
            scale=options.time_scale,
        )
        if answer.status == 200 and not answer.prepared:
            answer.set_status(status)
        return answer
