"""The life of one task after it is taken from the queue: the only place where verdicts become actions.

The loop asks `policy.route` for a plan, `policy.verdict` what to do, writes the answer down and then does it. A task is
driven by one coroutine at a time; attempts at parts of it (`flow.parts`) are driven beside it, and what came of them is
heard here, one by one. Floor 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from router.flow.parts import Heard, Left, Story, Unsent
from router.flow.runtime import Runtime, shape_of
from router.persistence import OverBudget, Stale, TaskView, Unavailable
from router.policy import budget, route, verdict
from router.policy.parts import Piece
from router.policy.route import Candidate, Plan, Try
from router.task import (
    Attempt,
    AttemptState,
    Error,
    Move,
    MoveName,
    State,
    Task,
    delivered,
    expired,
    failed,
    interrupted,
    joined,
    retried,
    started,
    went_on,
)

STORE_AWAY_DELAY_S = 1.0
OPERATOR_ASKED_AGAIN_S = 60.0
LAPSED_DELAY_S = 1.0
PLACE_ASKED_AGAIN_S = 1.0  # how often a part asks for a place while others of its task are out


@dataclass(frozen=True, slots=True)
class Wait:
    """A piece cannot begin now. `delay_s` None: not before a place in the `lane` is free."""

    delay_s: float | None
    lane: str | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be tried: a piece of the task, by the plan's candidate."""

    piece: Piece
    candidate: Candidate
    plan: Plan


async def run(runtime: Runtime, view: TaskView) -> None:
    """Drive a waiting task (or one whose attempts an earlier life left open) until it ends or must wait."""
    story = Story.of(view)
    with runtime.driving(view.task) as story.live:
        try:
            going_on = await _take_over(runtime, story)
            while going_on:
                going_on = await _step(runtime, story)
        except Unavailable:
            if not story.task.is_terminal and story.task.state is not State.RUNNING:
                runtime.wait_in_queue(story.task, STORE_AWAY_DELAY_S)
        finally:
            await story.crew.stop()


async def _step(runtime: Runtime, story: Story) -> bool:
    """Begin an attempt, or hear of one that is out, or let the task wait or end; True when it goes straight on."""
    if runtime.draining or story.is_closed:
        return await _listen(runtime, story, None)
    if story.missing and await _too_late(runtime, story):
        return not story.task.is_terminal
    waits: list[Wait] = []
    for piece in story.pieces(runtime.now()):
        try:
            begun = await _begin(runtime, story, piece)
        except Unavailable:
            if not len(story.crew):
                raise
            begun = Wait(STORE_AWAY_DELAY_S)
        if not isinstance(begun, Wait):
            return begun
        waits.append(begun)
    return await _rest(runtime, story, waits)


async def _begin(runtime: Runtime, story: Story, piece: Piece) -> bool | Wait:
    """Decide about one piece of what is missing, and act on it."""
    plan = plan_for(runtime, story, piece.history)
    decision = verdict.before(plan, piece.history, story.beside(piece.first))
    if plan.waits_for_operator:
        decision = verdict.Hold(OPERATOR_ASKED_AGAIN_S)
    match decision:
        case verdict.GiveUp(error):
            story.give_up(range(piece.first, piece.first + piece.count), error)
            return True
        case verdict.Hold(delay_s):
            return Wait(delay_s, held=True)
        case verdict.Go(candidate):
            place = runtime.fleet.begin(
                candidate.provider, candidate.target, timeout_s=plan.timeout_s, repeat=candidate.tries > 0
            )
            if isinstance(place, NoRoom):
                return Wait(place.wait_s, candidate.provider.name if place.wait_s is None else None)
            return await _try(runtime, story, Choice(piece, candidate, plan), place)


async def _rest(runtime: Runtime, story: Story, waits: list[Wait]) -> bool:
    """Nothing can begin now: hear of what is out; else wait in the queue, or end when nothing is left to try."""
    delays = [one.delay_s for one in waits if one.delay_s is not None]
    own_s = story.wait_s(runtime.now())
    delays += [] if own_s is None else [own_s]
    lane = next((one.lane for one in waits if one.lane is not None), None)
    if len(story.crew):
        delays += [PLACE_ASKED_AGAIN_S] if lane is not None else []
        return await _listen(runtime, story, min(delays, default=None))
    if not delays and lane is None:
        await _move(runtime, story, _ending(runtime, story), story.task.state)
        return False
    if waits and all(one.held for one in waits):
        runtime.bus.emit(TaskHeld(runtime.now(), story.task, min(delays)))
    runtime.wait_in_queue(story.task, min(delays) if lane is None else None, lane)
    return False


async def _listen(runtime: Runtime, story: Story, within_s: float | None) -> bool:
    """Hear of the next attempt that is over, if any is out."""
    if not len(story.crew):
        waits = story.task.state in {State.PENDING, State.RETRYING}
        if waits and story.sealed and not story.over and not runtime.draining:
            runtime.wait_in_queue(story.task, LAPSED_DELAY_S)
        return False
    heard = await story.crew.hear(within_s)
    return True if heard is None else await _go_on(runtime, story, heard)


async def _try(runtime: Runtime, story: Story, choice: Choice, place: Started) -> bool:
    """Open an attempt and drive it; the fleet's place is given back whatever happens."""
    trial: Trial | None = None
    sick = None
    try:
        sick = await attempts.probe(runtime, choice.candidate, place) if place.probe else None
        if sick is not None:
            runtime.fleet.record(place, sick, 0.0)
            return True
        trial = await _open(runtime, story, choice, place)
    finally:
        if trial is None and sick is None:
            runtime.fleet.release(place)
    return True if trial is None else await _send(runtime, story, trial, place)


async def _send(runtime: Runtime, story: Story, trial: Trial, place: Started) -> bool:
    """Drive an attempt: here if it is all that the task waits for, else beside the others."""
    driving = _drive(runtime, trial, place)
    if story.is_whole:
        return await _go_on(runtime, story, await driving)
    story.crew.send(trial.attempt.n, driving)
    return True


async def _drive(runtime: Runtime, trial: Trial, place: Started) -> Heard:
    """Bring an attempt to its end, and let the fleet learn from it."""
    learnt = False
    try:
        ended = await attempts.drive(runtime, trial)
        runtime.fleet.record(place, ended.outcome, _seconds_of(ended.attempt))
        learnt = True
        return ended
    except NothingSent:
        return Unsent(trial.attempt)
    except LeftToNextLife:
        return Left()
    finally:
        trial.live.phases.pop(trial.attempt.n, None)
        if not learnt:
            runtime.fleet.release(place)


async def _go_on(runtime: Runtime, story: Story, heard: Heard) -> bool:
    """Act on what came of an attempt."""
    match heard:
        case Ended():
            return await _conclude(runtime, story, heard)
        case Unsent(attempt):
            await _withdraw(runtime, story, attempt)
            story.sealed = True
            return True
        case Left():
            story.over = True
            return True


async def _open(runtime: Runtime, story: Story, choice: Choice, place: Started) -> Trial | None:
    """Make the intent durable. None: it was not; the provider's budget has no room, or the row is somebody else's."""
    task, piece, candidate, now = story.task, choice.piece, choice.candidate, runtime.now()
    provider, count = candidate.provider, min(piece.count, max(1, candidate.target.abilities.max_n))
    images = range(piece.first, piece.first + count)
    intent = attempts.intend(
        runtime, task, candidate, place, n=story.next_n, images=images, timeout_s=choice.plan.timeout_s
    )
    estimate = intent.estimate_nanos
    if estimate is None and budget.covers_provider(runtime.rules.budgets, provider.name):
        story.barred |= {provider.name}  # an unknown price fits into no budget (promise 5)
        return None
    runtime.world.mark("C2")
    demands = budget.provider_demands(
        runtime.rules.budgets, provider.name, unit=estimate or 0, now=now, zone=runtime.rules.zone
    )
    is_first = not story.out
    move = (started if is_first else joined)(now, provider.name, candidate.target.model)
    opened = await runtime.world.store.open_attempt(task, intent, move, demands)
    if isinstance(opened, OverBudget):
        demand, left = opened.demand, opened.left
        runtime.bus.emit(BudgetRefused(runtime.now(), task.tenant, demand.budget, demand.window, left))
        story.barred |= {provider.name}
        return None
    if isinstance(opened, Stale):
        story.over = True
        return None
    story.task, story.attempts[intent.n] = opened.task, opened.attempt
    if is_first:
        waited_s = max(0, opened.attempt.started_at - (task.not_before or task.created_at)) / 1000
        runtime.bus.emit(TaskStarted(runtime.now(), opened.task, waited_s))
    runtime.bus.emit(AttemptOpened(runtime.now(), opened.task, opened.attempt))
    if piece.history and piece.history[-1].target != candidate.target.name:
        last = piece.history[-1]
        event = FailedOver(runtime.now(), opened.task, last.target, candidate.target.name, last.kind.value)
        runtime.bus.emit(event)
    secret = place.credential.secret
    return attempts.take_up(runtime, opened.task, opened.attempt, candidate, credential=secret, live=story.live)


async def _conclude(runtime: Runtime, story: Story, ended: Ended) -> bool:
    """Commit what came of an attempt together with what follows from it; True to go straight on."""
    story.note(ended)
    if story.task.is_terminal:
        await _hear(runtime, story, ended)
        return True
    move = _what_follows(runtime, story, ended)
    task = story.task
    row = ended.attempt if move.name is MoveName.DELIVERED else _with_result(ended)
    closed = await runtime.insist(lambda: runtime.world.store.close_attempt(task, row, move))
    if isinstance(closed, Stale):
        story.over = True
        await _hear(runtime, story, ended)
        return True
    runtime.world.mark("C9")
    story.task = closed
    runtime.bus.emit(AttemptEnded(runtime.now(), closed, ended.attempt))
    if move.name is MoveName.WENT_ON:
        return True
    if closed.is_terminal:
        runtime.bus.emit(TaskEnded(runtime.now(), closed, State.RUNNING))
        return False
    delay_s = max(0, (move.not_before or 0) - move.at) / 1000
    runtime.bus.emit(TaskRetrying(runtime.now(), closed, delay_s))
    if delay_s:
        runtime.wait_in_queue(closed, delay_s)
    return not delay_s


def _what_follows(runtime: Runtime, story: Story, ended: Ended) -> Move:
    """Ask the policies what an attempt's end means for its images, and what that means for the task."""
    now, images = runtime.now(), ended.attempt.covers(story.asked)
    if ended.outcome is not None:
        history, jitter = story.history_of(images[0]), runtime.world.dice("jitter").random()
        plan = plan_for(runtime, story, history)
        decision = verdict.after(ended.outcome, history, plan, jitter, story.beside(images[0]))
        match decision:
            case verdict.GiveUp(error):
                story.give_up(images, error)
            case verdict.Again(delay_s):
                story.due.update(dict.fromkeys(images, now + round(delay_s * 1000)))
            case verdict.Elsewhere() | verdict.Deliver():
                pass
    if story.out:
        return went_on(now)
    if story.missing:
        return retried(now, max(now, min(story.due.get(image, now) for image in story.missing)))
    return _ending(runtime, story)


def _ending(runtime: Runtime, story: Story) -> Move:
    """Deliver what exists; where nothing does, fail with the last error."""
    now = runtime.now()
    keep_until = now + round(runtime.rules.defaults.retention_s * 1000)
    if story.output:
        return delivered(now, story.output, story.usage, _warnings(runtime, story), keep_until)
    return failed(now, next(reversed(story.lost.values())), keep_until)


async def _hear(runtime: Runtime, story: Story, ended: Ended) -> None:
    """The task ended while its attempt was out (a cancel won): keep the attempt's bill and result."""
    heard = await runtime.insist(lambda: runtime.world.store.hear(_with_result(ended)))
    if isinstance(heard, Stale):
        return
    view = await runtime.insist(lambda: runtime.world.store.view(story.task.tenant, story.task.id))
    story.task = story.task if view is None else view.task  # how it ended is known to the row only
    runtime.bus.emit(AttemptEnded(runtime.now(), story.task, heard, heard=True))


async def _take_over(runtime: Runtime, story: Story) -> bool:
    """Take up what an earlier life left open: accepted jobs are polled on, intents are judged as unknown."""
    story.live.cancelled = story.task.state is State.CANCELLED
    going_on = True
    for attempt in sorted(story.out, key=lambda one: (one.state is not AttemptState.ACCEPTED, one.n)):
        going_on = await _resume(runtime, story, attempt)
    return going_on


async def _resume(runtime: Runtime, story: Story, attempt: Attempt) -> bool:
    """Take up one attempt that an earlier life left open."""
    task = story.task
    candidate = route.reconstruct(runtime.rules, task.model, attempt.provider, attempt.target, attempt.target_model)
    if candidate is None:
        # The configuration no longer has the provider: nobody can ask after the job, so its outcome stays unknown.
        return await _conclude(runtime, story, attempts.orphan(runtime, attempt))
    place = runtime.fleet.resume(candidate.provider, candidate.target, attempt.account)
    secret = place.credential.secret
    trial = attempts.take_up(runtime, task, attempt, candidate, credential=secret, live=story.live)
    if attempt.state is AttemptState.ACCEPTED:
        return await _send(runtime, story, trial, place)
    # That a daemon stopped says nothing about the target: its circuit must not open for it.
    runtime.fleet.release(place)
    return await _conclude(runtime, story, attempts.abandon(runtime, trial))


# -- parts ----------------------------------------------------------------------------------------------------------


def plan_for(runtime: Runtime, story: Story, history: tuple[Try, ...]) -> Plan:
    """Plan a task under the rules in force now. A model that a reload took away gives a plan without candidates."""
    shape = shape_of(story.task)
    return route.plan(
        shape,
        story.task.preferences,
        runtime.rules,
        runtime.fleet,
        now=runtime.now(),
        task_id=story.task.id,
        history=history,
        priced_only=budget.applies(runtime.rules.budgets, shape, story.task.key_id),
        barred=story.barred,
    )


async def _too_late(runtime: Runtime, story: Story) -> bool:
    """Let nothing begin after `start_within` or the deadline has passed (contract 5.4): expired, or given up."""
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
        await _move(runtime, story, move, task.state)
        story.over = True
        return True
    first = story.missing[0]
    billing = verdict.billing_of([*story.history_of(first), *story.beside(first)])
    error = Error("deadline_exceeded", f"{reason} between attempts.", "deadline_exceeded", billing=billing)
    story.give_up(story.missing, error)
    return True


async def _move(runtime: Runtime, story: Story, move: Move, was: State) -> None:
    moved = await runtime.world.store.move(story.task, move)
    if isinstance(moved, Stale):
        return
    story.task = moved
    if moved.is_terminal:
        runtime.bus.emit(TaskEnded(runtime.now(), moved, was))


async def _withdraw(runtime: Runtime, story: Story, attempt: Attempt) -> None:
    """Undo an intent of which nothing was sent: an interruption is not a failure and costs no attempt."""
    del story.attempts[attempt.n]
    now, task = runtime.now(), story.task
    move = went_on(now) if story.out else interrupted(now, max(story.attempts, default=0))
    back = await runtime.insist(lambda: runtime.world.store.withdraw(task, attempt, move))
    if isinstance(back, Stale):
        story.over = True
        return
    story.task = back
    if move.name is MoveName.INTERRUPTED:
        runtime.bus.emit(TaskInterrupted(runtime.now(), back))


def _with_result(ended: Ended) -> Attempt:
    """What is written of an attempt whose result cannot become its task's at once."""
    return replace(ended.attempt, output=ended.output, usage=ended.usage if ended.output else None)


def _warnings(runtime: Runtime, story: Story) -> tuple[str, ...]:
    """Say which fields were not honoured and how many images are missing (contract 5.3)."""
    task, found = story.task, dict[str, None]()
    for one in story.made:
        made_on = route.reconstruct(runtime.rules, task.model, one.provider, one.target, one.target_model)
        dropped = () if made_on is None else route.dropped_fields(made_on, shape_of(task))
        found |= dict.fromkeys(f"{name} is not supported by {one.provider} and was dropped" for name in dropped)
    if len(story.output) < story.asked:
        found[f"{story.asked - len(story.output)} of {story.asked} images are missing"] = None
    return tuple(found)


def _seconds_of(attempt: Attempt) -> float:
    return max(0, (attempt.ended_at or attempt.started_at) - attempt.started_at) / 1000


def cut(runtime: Runtime, task: Task, attempt: Attempt) -> None:
    """Tell what a shutdown cut short, with what it was thought to cost (contract 4, DRAIN_TIMEOUT)."""
    runtime.bus.emit(CallCut(runtime.now(), task, attempt, attempt.estimate_nanos))
