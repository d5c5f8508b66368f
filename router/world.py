"""The contract for everything the daemon takes from outside, in one object: `World`.

Wall clock, randomness, provider HTTP, guarded fetches, the store and the vault come in here and nowhere else, so that
the simulator in `tests/sim` replaces the outside and runs the real flow under a virtual clock. Timers are not here:
they are the event loop's own (`asyncio.sleep`, `asyncio.timeout`), which the simulator replaces as a whole.
The verbs of `Store` are steps of a task's life, each one transaction; reads never wait for the writer. Floor 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random, SystemRandom
from types import MappingProxyType
from typing import Protocol, TypeVar

from router.leases import CircuitKey, CircuitNews, CircuitSeen, Grant, Want
from router.provider import Adapter, Broken, Handle, Reply, Request, Stream
from router.task import Attempt, Move, State, Task

T = TypeVar("T")

ENDED_MAX = 32


class Clock(Protocol):
    """The wall clock. Durations are measured on the event loop's clock instead (I24)."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""


class WallClock:
    """The real one."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


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

    `n` is the attempt, 0 for the task's own hold. `entry` is reserve, hold, settle, release, free or spend. Deltas in
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


class Store(Protocol):
    """The truth about tasks. Writing verbs return only when their commit is durable; each is one transaction.

    Guards: a verb that takes a `Task` or an `Attempt` applies only if the row still has its `version` (tasks), `state`
    (attempts) and `fence`; otherwise it answers `Stale` and changes nothing. Every verb raises `Unavailable` when the
    engine cannot serve. The ledger rules are `policy.budget`'s pure functions, the moves `task.apply`'s.

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


# -- result bytes ---------------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where the bytes of one object go before anybody can see it."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Append."""


class Vault(Protocol):
    """Result bytes. An object appears whole and durable, or not at all (I15)."""

    def create(self, key: str) -> AbstractAsyncContextManager[Sink]:
        """Open a new object: visible after the block ends without an exception, gone without a trace otherwise."""

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read a piece of an object; `KeyError` when there is none."""

    async def size(self, key: str) -> int:
        """Tell how many bytes an object has; `KeyError` when there is none."""

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""


class VaultFull(Exception):  # noqa: N818 - it is what the caller is told
    """No room for the object."""


# -- guarded fetches ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """A fetch from outside did not deliver. `gone`: it never will (403, 404, 410, refused by the guard, too large)."""

    detail: str
    gone: bool


class Fetched(Protocol):
    """An answer whose body is being received."""

    content_type: str
    length: int | None

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces; raises `FetchBroken` when it ends early."""


class FetchBroken(Exception):  # noqa: N818 - it names what happened
    """The body of a fetch did not arrive whole."""


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Fetcher(Protocol):
    """The one way to reach a URL that somebody else chose (reliability-security section 7)."""

    def open(
        self, url: str, allowed_origin: str | None, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AbstractAsyncContextManager[Fetched | FetchFailed]:
        """Connect and read the head. `allowed_origin` (scheme://host:port), the provider's own, may be private.

        `headers` go to that origin alone, also after redirects.
        """


# -- the world ------------------------------------------------------------------------------------------------------


class Caller(Protocol):
    """Provider HTTP."""

    async def __call__(self, request: Request, timeout_s: float) -> Reply | Broken:
        """Make one exchange, whole within the timeout, with no retry of its own."""


class Listener(Protocol):
    """Provider HTTP whose answer is a stream."""

    def __call__(
        self, request: Request, timeout_s: float, idle_s: float
    ) -> AbstractAsyncContextManager[Stream | Reply | Broken]:
        """Make one exchange; the whole within `timeout_s`, never longer than `idle_s` without a word."""


class Offload(Protocol):
    """Where CPU-heavy work on megabytes goes: a thread in life, inline in the simulator."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run it and return its result."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything from outside. `adapter` finds an adapter by slug; `mark` is told each crash point as it is passed.

    `dice(name)` gives the stream of randomness of that name: a new draw in one place does not shift another.
    """

    clock: Clock
    dice: Callable[[str], Random]
    call: Caller
    listen: Listener
    fetch: Fetcher
    store: Store
    vault: Vault
    offload: Offload
    adapter: Callable[[str], Adapter]
    mark: Callable[[str], None] = lambda _point: None


def seeded_dice(seed: int) -> Callable[[str], Random]:
    """Make streams of randomness that depend only on (seed, name)."""
    streams: dict[str, Random] = {}

    def dice(name: str) -> Random:
        if name not in streams:
            streams[name] = Random(sha256(f"{seed}:{name}".encode()).digest())
        return streams[name]

    return dice


def system_dice() -> Callable[[str], Random]:
    """Make streams of randomness from the operating system (ids and secrets must not be guessable)."""
    source = _PooledRandom()
    return lambda _name: source


class _PooledRandom(SystemRandom):
    """The operating system's randomness, asked for by the page: an id a call costs as much as the rest of making it.

    For one thread.
    """

    _POOL_BYTES = 4096

    def __init__(self) -> None:
        super().__init__()
        self._pool = b""

    def getrandbits(self, k: int) -> int:
        """Give k random bits."""
        size = (k + 7) // 8
        if len(self._pool) < size:
            self._pool = os.urandom(max(self._POOL_BYTES, size))
        taken, self._pool = self._pool[:size], self._pool[size:]
        return int.from_bytes(taken, "big") >> (size * 8 - k)

    def random(self) -> float:
        """Give a number in [0, 1) of 53 random bits."""
        return self.getrandbits(53) / (1 << 53)
