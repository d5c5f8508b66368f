"""What the store is asked and answers: its verbs, each one transaction named after a step of a task's life.

`router/store` implements it; the flow and the edges know only this. Reads never wait for the writer. Floor 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router.changes import ChangeReads
from router.keys import KeyStore
from router.leases import CircuitKey, CircuitNews, CircuitSeen, Grant, Want
from router.outbox import Outbox
from router.provider import Handle
from router.relays import RelayStore
from router.shelf import Shelf
from router.task import Attempt, Move, State, Task
from router.usage import UsageReads

ENDED_MAX = 32


# -- money in the store ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Demand:
    """An amount to hold on one budget. `budget` is scope and value (`tenant:acme`), `window` a span (`day:2026-11-21`).

    `unit` is the hold for one paid attempt and `units` how many are held; all in nano-USD. `limit` is the budget's
    limit. The transaction holds all demands or none.
    """

    budget: str
    window: str
    unit: int
    limit: int
    units: int = 1


@dataclass(frozen=True, slots=True)
class Balance:
    """What one budget window has held and spent, in nano-USD. Always the sum of its ledger entries (I8)."""

    budget: str
    window: str
    held: int
    spent: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the ledger, append-only. `budget` is empty on the line that records the spend itself.

    `n` is the attempt, 0 for the task's own hold. `entry` is reserve, hold, settle, release, free, relay (a relayed
    completion, whose request id stands for the task's) or spend. Deltas in
    nano-USD; `spent_delta` None on a spend line means that the amount is unknown.
    """

    task_id: str
    tenant: str
    part: int
    n: int
    entry: str
    budget: str
    window: str
    held_delta: int
    spent_delta: int | None
    provider: str
    model: str
    at: int


# -- answers of the verbs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owner:
    """One life of one daemon. `epoch` grows with every registration in the store and fences its writes."""

    replica: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The task is durable."""

    task: Task


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The tenant has used this idempotency key; `task` is what it stands for. The caller compares the digests."""

    task: Task


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The demand that does not fit, with what is left of its limit. Nothing was written."""

    demand: Demand
    left: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The intent is durable and the task runs."""

    task: Task
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Stale:
    """The row was not as expected (another version, state or fence, or gone). Nothing was written. `task`: as it is."""

    task: Task | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The cancel won. `was` is the state before; the attempt in flight, if any, still has to be heard."""

    task: Task
    was: State


@dataclass(frozen=True, slots=True)
class TooLate:
    """The task had ended (or was already cancelled); nothing was written."""

    task: Task


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task with its attempts in order of `n`."""

    task: Task
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """A listing, newest first. `before`: (created_at, id) of the last row of the page before, None for the first."""

    status: State | None = None
    model: str | None = None
    provider: str | None = None
    created_after: int | None = None
    idempotency_key: str | None = None
    before: tuple[int, str] | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits: counts of pending and retrying tasks by (priority, tenant), and the oldest `created_at`."""

    waiting: Mapping[tuple[int, str], int] = field(default_factory=dict)
    oldest: int | None = None


class Unavailable(Exception):  # noqa: N818 - it is what the caller is told
    """The store cannot answer now (disk full, database away, closed). Nothing is known to have been written."""


class Store(ChangeReads, KeyStore, Outbox, RelayStore, Shelf, UsageReads, Protocol):
    """The truth about tasks. Writing verbs return only when their commit is durable; each is one transaction.

    Guards: a verb that takes a `Task` or an `Attempt` applies only if the row still has its `version` (tasks), `state`
    (attempts) and `fence`; otherwise it answers `Stale` and changes nothing. Every verb raises `Unavailable` when the
    engine cannot serve. The ledger rules are `policy.budget`'s pure functions, the moves `task.apply`'s. Whichever verb
    moves a task writes the webhook that the move owes (`outbox.webhook_of`) in the same transaction.

    `now` of the verbs of ownership and sharing is the caller's clock; a store that several daemons use at once (then
    `shared` is true) goes by its own instead, so that no daemon's wrong clock takes a lease away (I24).
    """

    @property
    def shared(self) -> bool:
        """Whether other daemons may be using this store now."""

    # ownership
    async def register(self, replica: str, now: int) -> Owner:
        """Begin a life: the epoch is one more than any before it in this store."""

    async def heartbeat(self, owner: Owner, now: int) -> bool:
        """Say that the owner lives; False when another life has taken the replica's place."""

    async def leave(self, owner: Owner) -> None:
        """End a life: from now on it counts as silent, and what it leased is free."""

    async def claim(self, owner: Owner, silent_ms: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over tasks that are live, or ended with an attempt still open, from owners silent for that long.

        Former lives of the same replica count as silent. Best priority and oldest first, at most `limit`. The rows get
        this owner and fence (their open attempts too) and a new version. Of daemons that claim at the same time each
        gets other tasks.
        """

    async def relieve(self, owner: Owner, leave: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over tasks that could start now and wait for others, who live: beyond the best `leave` of each life.

        Only waiting tasks whose time has come and that have no attempt out. Otherwise as `claim`.
        """

    # the life of a task
    async def admit(self, task: Task, demands: Sequence[Demand]) -> Admitted | Duplicate | OverBudget:
        """Write the task row, its idempotency key and its reservation, or nothing.

        A key that the tenant has used answers `Duplicate` even when the budget is used up.
        """

    async def open_attempt(
        self, task: Task, attempt: Attempt, move: Move, demands: Sequence[Demand]
    ) -> Opened | OverBudget | Stale:
        """Write the intent and the move `started`; one unit of each task hold becomes the attempt's own.

        `demands` are further holds of this attempt (budgets of its provider). `OverBudget` also when a task hold has no
        unit left.
        """

    async def withdraw(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """Undo an intent of which nothing was sent, with the move `interrupted`: the attempt row and its holds go."""

    async def accept(self, attempt: Attempt, handle: Handle, at: int) -> Attempt | Stale:
        """Make the upstream's job id durable. Applies also when the task was cancelled meanwhile."""

    async def close_attempt(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """Write the ended attempt, settle its holds, add its spend line, and move the task, in one transaction."""

    async def hear(self, attempt: Attempt) -> Attempt | Stale:
        """Write the end of an attempt whose task has already ended; settles its holds. The task's state stays."""

    async def move(self, task: Task, move: Move) -> Task | Stale:
        """Move a task without an attempt (expired, or failed for want of a candidate)."""

    async def cancel(self, tenant: str, task_id: str, move: Move) -> Cancelled | TooLate | None:
        """Cancel whatever version the row has; None when this tenant has no such task."""

    # what daemons share
    async def share(self, owner: Owner, wants: Sequence[Want], silent_ms: int, now: int) -> tuple[Grant, ...]:
        """Lease places and tokens: one grant per want, none to a life that was replaced.

        Places of all lives that were heard within `silent_ms` never sum to more than the provider has, but for those
        that are in use already; `policy.share` divides them. Tokens come from one bucket for all.
        """

    async def exchange(self, owner: Owner, news: Sequence[CircuitNews], now: int) -> tuple[CircuitSeen, ...]:
        """Tell how circuits were moved here, and read those that anybody has moved: one row per circuit."""

    async def lease_probe(self, owner: Owner, key: CircuitKey, lease_ms: int, silent_ms: int, now: int) -> bool:
        """Take the right to probe an open circuit whose time is over: one life at a time has it.

        It ends when the circuit moves, when it is handed back, after `lease_ms`, or when its holder falls silent.
        """

    async def halted(self, owner: Owner) -> tuple[tuple[str, str], ...]:
        """List (tenant, id) of the owner's tasks that have ended while an attempt of theirs is out."""

    async def ended(self, tasks: Sequence[tuple[str, str]]) -> tuple[Task, ...]:
        """Read which of these tasks (tenant, id) have ended; at most `ENDED_MAX` at once."""

    def hint(self, topic: str) -> None:
        """Tell the other daemons that something of this kind has changed: soon, perhaps, and never in a transaction."""

    def listen(self, hear: Callable[[str], None]) -> None:
        """Call `hear` with the topic of each hint of another daemon. What it misses it finds by asking."""

    # results that callers were sent away from (contract 5.4)
    async def leave_uncollected(self, tenant: str, digest: str, until: int, now: int) -> None:
        """Note until when an equal request should attach; what has run out by `now` is dropped."""

    async def collect(self, tenant: str, digest: str) -> None:
        """Forget it: the result has been given out."""

    async def uncollected(self, now: int, limit: int) -> tuple[tuple[str, str, int], ...]:
        """List (tenant, digest, until) of all tenants, those that end last first."""

    # reads
    async def view(self, tenant: str, task_id: str) -> TaskView | None:
        """One task of this tenant."""

    async def search(self, tenant: str, search: Search) -> tuple[TaskView, ...]:
        """A page of this tenant's tasks, newest first."""

    async def alike(self, tenant: str, digest: str, since: int) -> tuple[Task, ...]:
        """Tasks of this tenant with this digest that live or ended at `since` or later, oldest first, at most 100."""

    async def waiting(self, owner: Owner, limit: int) -> tuple[Task, ...]:
        """The owner's pending and retrying tasks, best priority and oldest first: what the queue's window holds."""

    async def backlog(self, owner: Owner) -> Backlog:
        """Count what waits for this owner."""

    async def balances(self, names: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """The balances of these (budget, window) pairs; those never used are left out."""

    async def ledger(self, task_id: str) -> tuple[LedgerEntry, ...]:
        """The ledger lines of one task in the order they were written (for audits and tests)."""

    # housekeeping
    async def keep(self, name: str, value: str) -> str:
        """Write a setting unless it exists; return what stands (generated secrets, so that all lives agree)."""

    async def sweep(self, now: int, limit: int) -> tuple[Task, ...]:
        """Move succeeded tasks past `expires_at` by `swept`, drop the input of other ended ones; return them before."""

    async def forget(self, completed_before: int, limit: int) -> int:
        """Delete rows of ended tasks (never one with an open attempt). Their ledger stays. Returns how many."""

    async def ping(self) -> None:
        """Prove that the store answers; `Unavailable` when not."""

    async def close(self) -> None:
        """Finish what was promised and let go."""
