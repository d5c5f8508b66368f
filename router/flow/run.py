"""The life of one task after it is taken from the queue: the only place where verdicts become actions.

The loop asks `policy.route` for a plan, `policy.verdict` what to do, writes the answer down and then does it. A task is
driven by one coroutine at a time. Floor 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from router.events import (
    AttemptEnded,
    AttemptOpened,
    BudgetRefused,
    CallCut,
    FailedOver,
    TaskEnded,
    TaskHeld,
    TaskInterrupted,
    TaskRetrying,
    TaskStarted,
)
from router.flow import attempt as attempts
from router.flow.attempt import Ended, LeftToNextLife, NothingSent, Trial
from router.flow.fleet import NoRoom, Started
from router.flow.runtime import Live, Runtime, shape_of
from router.outcome import SUCCEEDED, FailureKind
from router.policy import budget, route, verdict
from router.policy.route import Candidate, Plan, Try
from router.task import (
    Attempt,
    AttemptState,
    Error,
    Move,
    State,
    Task,
    delivered,
    expired,
    failed,
    interrupted,
    retried,
    started,
)
from router.world import Opened, OverBudget, Stale, TaskView, Unavailable

STORE_AWAY_DELAY_S = 1.0
OPERATOR_ASKED_AGAIN_S = 60.0
LAPSED_DELAY_S = 1.0


@dataclass(slots=True)
class Story:
    """What is known of a task while it is driven."""

    task: Task
    history: tuple[Try, ...]
    barred: frozenset[str] = frozenset()
    live: Live = field(default_factory=lambda: Live(""))


async def run(runtime: Runtime, view: TaskView) -> None:
    """Drive a waiting task (or one whose attempt an earlier life left open) until it ends or must wait."""
    story = Story(view.task, history_of(view.attempts))
    left_open = next((one for one in view.attempts if one.state is not AttemptState.ENDED), None)
    with runtime.driving(view.task) as story.live:
        try:
            going_on = left_open is None or await _resume(runtime, story, left_open)
            while going_on:
                going_on = await _step(runtime, story)
        except LeftToNextLife:
            return
        except Unavailable:
            if not story.task.is_terminal and story.task.state is not State.RUNNING:
                runtime.wait_in_queue(story.task, STORE_AWAY_DELAY_S)


async def _step(runtime: Runtime, story: Story) -> bool:
    """Make one decision and act on it; True when the task goes straight on to another."""
    if runtime.draining or await _too_late(runtime, story):
        return False
    plan = plan_for(runtime, story)
    decision = verdict.before(plan, story.history)
    if plan.waits_for_operator:
        decision = verdict.Hold(OPERATOR_ASKED_AGAIN_S)
    match decision:
        case verdict.GiveUp(error):
            await _give_up(runtime, story, error)
            return False
        case verdict.Hold(delay_s):
            runtime.bus.emit(TaskHeld(runtime.now(), story.task, delay_s))
            runtime.wait_in_queue(story.task, delay_s)
            return False
        case verdict.Go(candidate):
            place = runtime.fleet.begin(
                candidate.provider, candidate.target, timeout_s=plan.timeout_s, repeat=candidate.tries > 0
            )
            if isinstance(place, NoRoom):
                lane = candidate.provider.name if place.wait_s is None else None
                runtime.wait_in_queue(story.task, place.wait_s, lane)
                return False
            return await _try(runtime, story, candidate, plan, place)


async def _try(runtime: Runtime, story: Story, candidate: Candidate, plan: Plan, place: Started) -> bool:
    """Open an attempt and drive it; the fleet's place is given back whatever happens."""
    learnt = False
    opened: Opened | Stale | None = None
    try:
        sick = await attempts.probe(runtime, candidate, place) if place.probe else None
        if sick is not None:
            runtime.fleet.record(place, sick, 0.0)
            learnt = True
            return True
        opened = await _open(runtime, story, candidate, plan, place)
        if opened is None:
            return True
        if isinstance(opened, Stale):
            return False
        trial = attempts.take_up(
            runtime, opened.task, opened.attempt, candidate, credential=place.credential.secret, live=story.live
        )
        ended = await attempts.drive(runtime, trial)
        runtime.fleet.record(place, ended.outcome, _seconds_of(ended.attempt))
        learnt = True
        return await _conclude(runtime, story, ended)
    except NothingSent:
        await _withdraw(runtime, story, opened)
        if not runtime.draining and story.task.state is not State.RUNNING:
            runtime.wait_in_queue(story.task, LAPSED_DELAY_S)
        return False
    finally:
        if not learnt:
            runtime.fleet.release(place)


async def _open(
    runtime: Runtime, story: Story, candidate: Candidate, plan: Plan, place: Started
) -> Opened | Stale | None:
    """Make the intent durable. None: the provider's budget has no room, and the task goes on without that provider."""
    task, provider = story.task, candidate.provider
    if candidate.price_nanos is None and budget.covers_provider(runtime.rules.budgets, provider.name):
        story.barred |= {provider.name}  # an unknown price fits into no budget (promise 5)
        return None
    runtime.world.mark("C2")
    intent = attempts.intend(runtime, task, candidate, plan, place)
    demands = budget.provider_demands(
        runtime.rules.budgets,
        provider.name,
        unit=candidate.price_nanos or 0,
        now=runtime.now(),
        zone=runtime.rules.zone,
    )
    move = started(runtime.now(), provider.name, candidate.target.model)
    opened = await runtime.world.store.open_attempt(task, intent, move, demands)
    match opened:
        case OverBudget(demand, left):
            runtime.bus.emit(BudgetRefused(runtime.now(), task.tenant, demand.budget, demand.window, left))
            story.barred |= {provider.name}
            return None
        case Stale():
            return opened
        case Opened(after, attempt):
            story.task = after
            waited_s = max(0, attempt.started_at - (task.not_before or task.created_at)) / 1000
            runtime.bus.emit(TaskStarted(runtime.now(), after, waited_s), AttemptOpened(runtime.now(), after, attempt))
            if story.history and story.history[-1].target != candidate.target.name:
                last = story.history[-1]
                runtime.bus.emit(FailedOver(runtime.now(), after, last.target, candidate.target.name, last.kind.value))
            return opened


async def _conclude(runtime: Runtime, story: Story, ended: Ended) -> bool:
    """Commit what came of an attempt together with what follows from it; True to go straight on."""
    if ended.outcome is not None:
        story.history += (Try(ended.attempt.target, ended.outcome.kind, ended.outcome.billed),)
    if story.task.is_terminal:
        await _hear(runtime, story, ended)
        return False
    move, decision = _what_follows(runtime, story, ended)
    task = story.task
    closed = await runtime.insist(lambda: runtime.world.store.close_attempt(task, ended.attempt, move))
    if isinstance(closed, Stale):
        await _hear(runtime, story, ended)
        return False
    runtime.world.mark("C9")
    story.task = closed
    runtime.bus.emit(AttemptEnded(runtime.now(), closed, ended.attempt))
    match decision:
        case verdict.Elsewhere():
            runtime.bus.emit(TaskRetrying(runtime.now(), closed, 0.0))
            return True
        case verdict.Again(delay_s):
            runtime.bus.emit(TaskRetrying(runtime.now(), closed, delay_s))
            runtime.wait_in_queue(closed, delay_s)
            return False
        case verdict.Deliver() | verdict.GiveUp():
            runtime.bus.emit(TaskEnded(runtime.now(), closed, State.RUNNING))
            return False


def _what_follows(runtime: Runtime, story: Story, ended: Ended) -> tuple[Move, verdict.After]:
    """Ask the policies what an attempt's end means for its task."""
    now = runtime.now()
    keep_until = now + round(runtime.rules.defaults.retention_s * 1000)
    if ended.outcome is None:
        warnings = _warnings(runtime, story.task, ended)
        return delivered(now, ended.output, ended.usage, warnings, keep_until), verdict.Deliver()
    plan = plan_for(runtime, story)
    decision = verdict.after(ended.outcome, story.history, plan, runtime.world.dice("jitter").random())
    match decision:
        case verdict.GiveUp(error):
            return failed(now, error, keep_until), decision
        case verdict.Again(delay_s):
            return retried(now, now + round(delay_s * 1000)), decision
        case verdict.Elsewhere() | verdict.Deliver():
            return retried(now, now), decision


async def _hear(runtime: Runtime, story: Story, ended: Ended) -> None:
    """The task ended while its attempt was out (a cancel won): keep the attempt's bill and result."""
    late = replace(ended.attempt, output=ended.output)
    heard = await runtime.insist(lambda: runtime.world.store.hear(late))
    if isinstance(heard, Stale):
        return
    view = await runtime.insist(lambda: runtime.world.store.view(story.task.tenant, story.task.id))
    story.task = story.task if view is None else view.task  # how it ended is known to the row only
    runtime.bus.emit(AttemptEnded(runtime.now(), story.task, heard, heard=True))


async def _resume(runtime: Runtime, story: Story, attempt: Attempt) -> bool:
    """Take up an attempt that an earlier life left open: poll an accepted job, judge an intent as unknown."""
    task = story.task
    story.live.cancelled = task.state is State.CANCELLED
    candidate = route.reconstruct(runtime.rules, task.model, attempt.provider, attempt.target, attempt.target_model)
    if candidate is None:
        # The configuration no longer has the provider: nobody can ask after the job, so its outcome stays unknown.
        ended = attempts.orphan(runtime, attempt)
        return await _conclude(runtime, story, ended)
    place = runtime.fleet.resume(candidate.provider, candidate.target, attempt.account)
    learnt = False
    try:
        trial: Trial = attempts.take_up(
            runtime, task, attempt, candidate, credential=place.credential.secret, live=story.live
        )
        if attempt.state is AttemptState.ACCEPTED:
            ended = await attempts.drive(runtime, trial)
            runtime.fleet.record(place, ended.outcome, _seconds_of(ended.attempt))
            learnt = True
        else:
            # That a daemon stopped says nothing about the target: its circuit must not open for it.
            ended = attempts.abandon(runtime, trial)
        return await _conclude(runtime, story, ended)
    finally:
        if not learnt:
            runtime.fleet.release(place)


# -- parts ----------------------------------------------------------------------------------------------------------


def plan_for(runtime: Runtime, story: Story) -> Plan:
    """Plan a task under the rules in force now. A model that a reload took away gives a plan without candidates."""
    shape = shape_of(story.task)
    return route.plan(
        shape,
        story.task.preferences,
        runtime.rules,
        runtime.fleet,
        now=runtime.now(),
        task_id=story.task.id,
        history=story.history,
        priced_only=budget.applies(runtime.rules.budgets, shape, story.task.key_id),
        barred=story.barred,
    )


def history_of(seen: tuple[Attempt, ...]) -> tuple[Try, ...]:
    """See earlier failed attempts as the policies see them."""
    return tuple(
        Try(one.target, FailureKind(one.outcome), one.billing)
        for one in seen
        if one.state is AttemptState.ENDED and one.outcome is not None and one.outcome != SUCCEEDED
    )


async def _too_late(runtime: Runtime, story: Story) -> bool:
    """End a task whose `start_within` or deadline has passed (contract 5.4): no attempt starts after it."""
    task, now = story.task, runtime.now()
    keep_until = now + round(runtime.rules.defaults.retention_s * 1000)
    if task.deadline is not None and now >= task.deadline:
        reason = "The task's timeout passed"
    elif task.state is State.PENDING and task.start_by is not None and now >= task.start_by:
        reason = "The task could not be started within the time it allows"
    else:
        return False
    if task.state is State.PENDING:
        move = expired(now, f"{reason}; nothing was sent and nothing was billed.", keep_until)
    else:
        billing = verdict.billing_of(story.history)
        error = Error("deadline_exceeded", f"{reason} between attempts.", "deadline_exceeded", billing=billing)
        move = failed(now, error, keep_until)
    await _move(runtime, story, move, task.state)
    return True


async def _give_up(runtime: Runtime, story: Story, error: Error) -> None:
    """Fail a task that has no candidate."""
    now, was = runtime.now(), story.task.state
    keep_until = now + round(runtime.rules.defaults.retention_s * 1000)
    await _move(runtime, story, failed(now, error, keep_until), was)


async def _move(runtime: Runtime, story: Story, move: Move, was: State) -> None:
    moved = await runtime.world.store.move(story.task, move)
    if isinstance(moved, Stale):
        return
    story.task = moved
    if moved.is_terminal:
        runtime.bus.emit(TaskEnded(runtime.now(), moved, was))


async def _withdraw(runtime: Runtime, story: Story, opened: Opened | Stale | None) -> None:
    """Undo an intent of which nothing was sent: an interruption is not a failure and costs no attempt."""
    if not isinstance(opened, Opened):
        return
    back = await runtime.insist(
        lambda: runtime.world.store.withdraw(opened.task, opened.attempt, interrupted(runtime.now()))
    )
    if not isinstance(back, Stale):
        story.task = back
        runtime.bus.emit(TaskInterrupted(runtime.now(), back))


def _warnings(runtime: Runtime, task: Task, ended: Ended) -> tuple[str, ...]:
    """Say which fields were not honoured and how many images are missing (contract 5.3)."""
    plan = route.reconstruct(
        runtime.rules, task.model, ended.attempt.provider, ended.attempt.target, ended.attempt.target_model
    )
    dropped = () if plan is None else route.dropped_fields(plan, shape_of(task))
    found = [f"{name} is not supported by {ended.attempt.provider} and was dropped" for name in dropped]
    asked = shape_of(task).n
    if len(ended.output) < asked:
        found.append(f"{asked - len(ended.output)} of {asked} images are missing")
    return tuple(found)


def _seconds_of(attempt: Attempt) -> float:
    return max(0, (attempt.ended_at or attempt.started_at) - attempt.started_at) / 1000


def cut(runtime: Runtime, task: Task, attempt: Attempt) -> None:
    """Tell what a shutdown cut short, with what it was thought to cost (contract 4, DRAIN_TIMEOUT)."""
    runtime.bus.emit(CallCut(runtime.now(), task, attempt, attempt.estimate_nanos))
