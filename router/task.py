"""Task, attempt and their legal moves: everything about state lives here, and nothing here knows who drives it.

A task is what a caller asked for; an attempt is one try of it at one target (contract section 1). Both are frozen
records: a change is a new record made by `apply` (tasks) or by one of the attempt functions below, which refuse a move
that the tables do not list. Stores apply the same functions, so no engine can invent a state. Money is integer
nano-USD (`money.Nanos`), instants are milliseconds since the epoch in UTC. Floor 0: standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from random import Random
from types import MappingProxyType
from typing import Any

from router.outcome import Billed
from router.provider import Handle, Kind, Usage


class State(StrEnum):
    """The states of a task (contract section 1)."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})


class AttemptState(StrEnum):
    """The states of an attempt: written before sending, known upstream, over."""

    INTENT = "intent"
    ACCEPTED = "accepted"
    ENDED = "ended"


class Priority(IntEnum):
    """The four classes of the queue; the lower number goes first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @property
    def word(self) -> str:
        """The name used in JSON and in metric labels."""
        return self.name.lower()


class MoveName(StrEnum):
    """The moves that exist. Each is built by one function below; `MOVES` says from where to where."""

    STARTED = "started"
    DELIVERED = "delivered"
    FAILED = "failed"
    RETRIED = "retried"
    JOINED = "joined"
    WENT_ON = "went_on"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"
    SWEPT = "swept"


# (state before, move) -> state after. DESIGN.md's diagram is printed from this table.
MOVES: Mapping[tuple[State, MoveName], State] = MappingProxyType(
    {
        (State.PENDING, MoveName.STARTED): State.RUNNING,
        (State.RETRYING, MoveName.STARTED): State.RUNNING,
        (State.RUNNING, MoveName.DELIVERED): State.SUCCEEDED,
        (State.RUNNING, MoveName.FAILED): State.FAILED,
        (State.RETRYING, MoveName.FAILED): State.FAILED,
        (State.RUNNING, MoveName.RETRIED): State.RETRYING,
        (State.RUNNING, MoveName.JOINED): State.RUNNING,
        (State.RUNNING, MoveName.WENT_ON): State.RUNNING,
        (State.PENDING, MoveName.CANCELLED): State.CANCELLED,
        (State.RUNNING, MoveName.CANCELLED): State.CANCELLED,
        (State.RETRYING, MoveName.CANCELLED): State.CANCELLED,
        (State.PENDING, MoveName.EXPIRED): State.EXPIRED,
        (State.RUNNING, MoveName.INTERRUPTED): State.PENDING,  # RETRYING when the task had attempts: see `apply`
        (State.SUCCEEDED, MoveName.SWEPT): State.EXPIRED,
    }
)


# Moves that are two of the table in one write.
_THROUGH_RUNNING = frozenset({(State.PENDING, MoveName.FAILED), (State.RETRYING, MoveName.DELIVERED)})


class IllegalMove(Exception):  # noqa: N818 - it names what happened, as the table does
    """A move was asked for that the table does not list. A bug; nothing was changed."""


# -- parts of a task ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Output:
    """One stored result. `key` names the object in the vault; sizes in bytes and pixels; `sha256` in hex."""

    key: str
    content_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    revised_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Error:
    """Why a task failed or a request was refused, in the words of contract 5.5."""

    error_type: str
    message: str
    code: str
    param: str | None = None
    retryable: bool = False
    billing: Billed = Billed.NO
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preferences:
    """The `provider` object of contract 5.4, parsed. `max_price`: nano-USD per unit (task, image, video_second)."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    sort: str | None = None
    max_price: Mapping[str, int] = field(default_factory=dict)
    require_parameters: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One row: what was asked, by whom, and where it stands.

    `version` grows with every move and `fence` is the epoch of the owner; both guard every write. `route` is
    the path it came in by and `digest` the hash of its canonical body (5.4, idempotency). `start_by` and `deadline`
    are instants or None. `tries` counts the attempts made so far. `key_id` is the API key's id, None for the admin key.
    `callback_url` is told of moves of the types in `callback_events` (`router/outbox.py`), with links that begin with
    `link_base`.
    """

    id: str
    tenant: str
    kind: Kind
    model: str
    input: Mapping[str, Any]
    surface: str
    route: str
    priority: Priority
    created_at: int
    digest: str = ""
    state: State = State.PENDING
    version: int = 1
    owner: str = ""
    fence: int = 0
    key_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    preferences: Preferences = Preferences()
    idempotency_key: str | None = None
    request_id: str = ""
    retry_of: str | None = None
    start_by: int | None = None
    deadline: int | None = None
    not_before: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    completed_at: int | None = None
    expires_at: int | None = None
    tries: int = 0
    provider: str | None = None
    target_model: str | None = None
    output: tuple[Output, ...] = ()
    usage: Usage | None = None
    error: Error | None = None
    warnings: tuple[str, ...] = ()
    callback_url: str | None = None
    callback_events: tuple[str, ...] = ()
    link_base: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended (it may still lose its output to retention)."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a task (of a part of it) at one target.

    `n` counts from 1 over the task. Of the images that the task asks for it makes `count`, beginning with that of index
    `part`; a `count` of 0 is all of them. `target` is the target's name in the rules, `account` the label of the
    credential used. `estimate_nanos` is what it was thought to cost when it was opened, None when unknown. `timeout_at`
    is the instant that bounds it. `handle` is set once the upstream has named the job. `output` and `usage` hold a
    result that could not become its task's at once: of an attempt whose task had already ended, or beside which others
    were out. `rules_hash` says under which configuration it was chosen.
    """

    task_id: str
    tenant: str
    n: int
    provider: str
    target: str
    target_model: str
    account: str
    base_url: str
    attempt_key: str
    started_at: int
    timeout_at: int
    rules_hash: str
    part: int = 0
    count: int = 0
    fence: int = 0
    state: AttemptState = AttemptState.INTENT
    estimate_nanos: int | None = None
    handle: Handle | None = None
    accepted_at: int | None = None
    ended_at: int | None = None
    outcome: str | None = None
    http_status: int | None = None
    billing: Billed = Billed.UNKNOWN
    cost_nanos: int | None = None
    estimated: bool = False
    detail: str = ""
    output: tuple[Output, ...] = ()
    usage: Usage | None = None

    def covers(self, asked: int) -> range:
        """The indexes of the images that it makes, of a task that asks for so many."""
        return range(self.part, self.part + self.count) if self.count else range(asked)


def accepted(attempt: Attempt, handle: Handle, at: int) -> Attempt:
    """The upstream has named the job."""
    if attempt.state is not AttemptState.INTENT:
        msg = f"attempt {attempt.n} of {attempt.task_id} is {attempt.state}, not intent"
        raise IllegalMove(msg)
    return replace(attempt, state=AttemptState.ACCEPTED, handle=handle, accepted_at=at)


def ended(
    attempt: Attempt,
    at: int,
    outcome: str,
    billing: Billed,
    cost_nanos: int | None,
    *,
    estimated: bool = False,
    http_status: int | None = None,
    detail: str = "",
    output: tuple[Output, ...] = (),
) -> Attempt:
    """The attempt is over. `cost_nanos` is 0 when nothing was billed and None when the amount is unknown."""
    if attempt.state is AttemptState.ENDED:
        msg = f"attempt {attempt.n} of {attempt.task_id} has already ended"
        raise IllegalMove(msg)
    return replace(
        attempt,
        state=AttemptState.ENDED,
        ended_at=at,
        outcome=outcome,
        billing=billing,
        cost_nanos=cost_nanos,
        estimated=estimated,
        http_status=http_status,
        detail=detail,
        output=output,
    )


# -- moves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """A named step of a task with all that it writes. Build it with the functions below, never by hand."""

    name: MoveName
    at: int
    error: Error | None = None
    output: tuple[Output, ...] = ()
    provider: str | None = None
    target_model: str | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    not_before: int | None = None
    expires_at: int | None = None
    tries: int | None = None


def started(at: int, provider: str | None = None, target_model: str | None = None) -> Move:
    """An attempt's intent is being written: the task runs. Without a provider it only passes through to its end."""
    return Move(MoveName.STARTED, at, provider=provider, target_model=target_model)


def delivered(at: int, output: tuple[Output, ...], usage: Usage, warnings: tuple[str, ...], expires_at: int) -> Move:
    """The result is stored on our side."""
    return Move(MoveName.DELIVERED, at, output=output, usage=usage, warnings=warnings, expires_at=expires_at)


def failed(at: int, error: Error, expires_at: int) -> Move:
    """Nothing more will be tried."""
    return Move(MoveName.FAILED, at, error=error, expires_at=expires_at)


def retried(at: int, not_before: int) -> Move:
    """Another attempt will be made, at `not_before` or later."""
    return Move(MoveName.RETRIED, at, not_before=not_before)


def joined(at: int, provider: str, target_model: str) -> Move:
    """Another attempt's intent is being written, beside those that are out (contract 6, n > 1)."""
    return Move(MoveName.JOINED, at, provider=provider, target_model=target_model)


def went_on(at: int) -> Move:
    """An attempt is over, or withdrawn, and others are still out."""
    return Move(MoveName.WENT_ON, at)


def cancelled(at: int, expires_at: int) -> Move:
    """The caller does not want it any more."""
    error = Error("cancelled", "The task was cancelled.", "cancelled")
    return Move(MoveName.CANCELLED, at, error=error, expires_at=expires_at)


def expired(at: int, message: str, expires_at: int) -> Move:
    """`start_within` or the deadline passed before the task was started."""
    return Move(MoveName.EXPIRED, at, error=Error("expired", message, "expired"), expires_at=expires_at)


def interrupted(at: int, tries: int | None = None) -> Move:
    """A shutdown came between the intent and the first byte; the attempt is withdrawn and costs nothing.

    `tries`: how many attempts are left, where others were withdrawn before; None: one less than there were.
    """
    return Move(MoveName.INTERRUPTED, at, tries=tries)


def swept(at: int) -> Move:
    """Retention removed the output."""
    return Move(MoveName.SWEPT, at)


def apply(task: Task, move: Move) -> Task:
    """Return the task after the move; `IllegalMove` when the table does not list it, and nothing changes.

    Keeps what a move must not touch: a swept task keeps cost, usage and `completed_at` (contract section 1). A pending
    task that nobody can do passes through running to failed within the one write, as the table demands, and so does one
    that waits for its last images and is delivered without them.
    """
    if (task.state, move.name) in _THROUGH_RUNNING:
        return apply(apply(task, started(move.at)), move)
    to = MOVES.get((task.state, move.name))
    if to is None:
        msg = f"{task.id}: no move {move.name} from {task.state}"
        raise IllegalMove(msg)
    after = replace(task, state=to, version=task.version + 1, updated_at=move.at, not_before=move.not_before)
    match move.name:
        case MoveName.STARTED if move.provider is None:
            return after
        case MoveName.STARTED | MoveName.JOINED:
            return replace(
                after,
                tries=task.tries + 1,
                started_at=task.started_at if task.started_at is not None else move.at,
                provider=move.provider,
                target_model=move.target_model,
            )
        case MoveName.INTERRUPTED:
            tries = task.tries - 1 if move.tries is None else move.tries
            return replace(
                after,
                tries=tries,
                state=State.RETRYING if tries else State.PENDING,
                started_at=task.started_at if tries else None,
                provider=task.provider if tries else None,
                target_model=task.target_model if tries else None,
            )
        case MoveName.SWEPT:
            return replace(after, output=(), input={}, expires_at=task.expires_at)
        case MoveName.RETRIED | MoveName.WENT_ON:
            return after
        case MoveName.DELIVERED | MoveName.FAILED | MoveName.CANCELLED | MoveName.EXPIRED:
            return replace(
                after,
                completed_at=move.at,
                expires_at=move.expires_at,
                output=move.output,
                usage=move.usage,
                error=move.error,
                warnings=(*task.warnings, *move.warnings),
            )


# -- the bill of a task ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bill:
    """`total_nanos` is None if any part is unknown; `wasted_nanos` is what was billed and gave no delivered output."""

    total_nanos: int | None
    wasted_nanos: int
    billing: Billed


def bill(task: Task, attempts: Sequence[Attempt]) -> Bill:
    """Sum the attempts of a task (contract 5.3, Money). An open attempt counts as unknown."""
    total, wasted, unknown, billed = 0, 0, False, False
    for attempt in attempts:
        if attempt.billing is Billed.UNKNOWN or (attempt.billing is Billed.YES and attempt.cost_nanos is None):
            unknown = True
        cost = attempt.cost_nanos or 0
        total += cost
        billed = billed or attempt.billing is Billed.YES
        # A part of a task that goes on may still be delivered.
        delivered_by_it = attempt.outcome == "succeeded" and task.state not in {State.FAILED, State.CANCELLED}
        if attempt.billing is Billed.YES and not delivered_by_it and attempt.state is AttemptState.ENDED:
            wasted += cost
    ended_unknown = any(attempt.billing is Billed.UNKNOWN for attempt in attempts)
    billing = Billed.UNKNOWN if ended_unknown else Billed.YES if billed else Billed.NO
    return Bill(None if unknown else total, wasted, billing)


# -- ids ----------------------------------------------------------------------------------------------------


def new_id(now: int, dice: Random, prefix: str = "task_") -> str:
    """Make `prefix` + 32 hex digits of a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    number = (now & (2**48 - 1)) << 80
    number |= 0x7 << 76
    chance = dice.getrandbits(74)  # at once: asking the system is the dearest part of an id
    number |= chance >> 62 << 64
    number |= 0b10 << 62
    number |= chance & (2**62 - 1)
    return f"{prefix}{number:032x}"


def canonical_id(text: str) -> str | None:
    """Read any of the three spellings of a task id (contract 5.2) into `task_<hex>`, None when it is not one."""
    for prefix in ("task_", "imgtask_", "video_"):
        digits = text.removeprefix(prefix)
        if digits != text and len(digits) == 32 and all(char in "0123456789abcdef" for char in digits):
            return f"task_{digits}"
    return None
