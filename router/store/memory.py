"""The store as plain dicts: the reference model that says what every verb means, with which every engine is compared.

It keeps the contract of `persistence.Store` and nothing else, no durability, threads or speed. A verb never waits and
so is one step of the event loop and thereby one transaction; whatever can refuse is asked before anything is written.
Money goes through `policy.budget` and `books`, moves through `task.apply`. Knows no SQL. Floor 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

from router.keys import ApiKey
from router.leases import CircuitKey, CircuitNews, CircuitSeen, Grant, Want
from router.persistence import (
    ENDED_MAX,
    Admitted,
    Backlog,
    Balance,
    Cancelled,
    Demand,
    Duplicate,
    LedgerEntry,
    Opened,
    OverBudget,
    Owner,
    Search,
    Stale,
    TaskView,
    TooLate,
    Unavailable,
)
from router.policy import budget
from router.provider import Handle
from router.relays import Relayed
from router.store.books import Books
from router.store.memory_changes import MemoryChanges
from router.store.memory_keys import MemoryKeys
from router.store.memory_outbox import MemoryOutbox
from router.store.memory_relays import MemoryRelays
from router.store.memory_shelf import MemoryShelf
from router.store.shares import Shares
from router.store.uncollected import UncollectedDicts
from router.store.usage import join_spending, sum_relayed, sum_spending
from router.task import Attempt, AttemptState, Move, State, Task, accepted, apply, swept
from router.usage import Spending

ALIKE_MAX = 100
WAITING = frozenset({State.PENDING, State.RETRYING})


class MemoryStore(MemoryChanges, MemoryKeys, MemoryOutbox, MemoryRelays, MemoryShelf):
    """All rows in dicts. `writes` counts the writing verbs called, for tests that hold the flow to its envelope."""

    def __init__(self, *, shared: bool = False) -> None:
        """Start empty. `shared`: several lives may use it at once."""
        super().__init__()
        self.writes: Counter[str] = Counter()
        self.books = Books()
        self.shares = Shares()
        self._left = UncollectedDicts()
        self.shared = shared
        self._listeners: list[Callable[[str], None]] = []
        self._tasks: dict[str, Task] = {}
        self._attempts: dict[str, dict[int, Attempt]] = {}
        self._swept: set[str] = set()
        self._relayed: dict[tuple[str, int], Relayed] = {}
        self._lives: dict[str, tuple[int, int]] = {}  # replica -> (epoch, last heartbeat)
        self._settings: dict[str, str] = {}
        self._keys: dict[str, ApiKey] = {}
        self._closed = False

    # -- ownership ----------------------------------------------------------------------------------------------------

    async def register(self, replica: str, now: int) -> Owner:
        """Begin a life, which ends any former one of this replica."""
        self._write("register")
        epoch = 1 + max((epoch for epoch, _beat_at in self._lives.values()), default=0)
        self._lives[replica] = (epoch, now)
        return Owner(replica, epoch)

    async def heartbeat(self, owner: Owner, now: int) -> bool:
        """Note a sign of life, unless a later life has begun."""
        self._write("heartbeat")
        return self._beat(owner, now)

    async def leave(self, owner: Owner) -> None:
        """End a life: it was heard last at the beginning of time."""
        self._write("leave")
        if self._is_latest(owner):
            self._lives[owner.replica] = (owner.epoch, 0)
        self.shares.leave(owner.epoch)

    async def claim(self, owner: Owner, silent_ms: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over what belongs to no life that was heard within `silent_ms`; a superseded life gets nothing."""
        self._write("claim")
        if not self._beat(owner, now):
            return ()
        awake = self._awake(owner, silent_ms, now)
        left = [task for task in self._tasks.values() if task.fence not in awake]
        left = [task for task in left if not task.is_terminal or self._out(task.id)]
        return self._take_over(owner, sorted(left, key=_turn)[:limit])

    async def relieve(self, owner: Owner, leave: int, limit: int, now: int) -> tuple[TaskView, ...]:
        """Take over from every other life what it will not come to soon."""
        self._write("relieve")
        if not self._beat(owner, now):
            return ()
        theirs: dict[int, list[Task]] = {}
        for task in sorted(self._tasks.values(), key=_turn):
            due = task.not_before is None or task.not_before <= now
            if task.fence != owner.epoch and task.state in WAITING and due:
                theirs.setdefault(task.fence, []).append(task)
        left = [task for tasks in theirs.values() for task in tasks[leave : leave + limit]]
        return self._take_over(owner, sorted(left, key=_turn)[:limit])

    def _take_over(self, owner: Owner, tasks: Sequence[Task]) -> tuple[TaskView, ...]:
        """Make tasks, and their attempts that are out, the owner's."""
        taken = [task.id for task in tasks]
        for task_id in taken:
            task = self._tasks[task_id]
            self._tasks[task_id] = replace(task, owner=owner.replica, fence=owner.epoch, version=task.version + 1)
            for attempt in self._out(task_id):
                self._attempts[task_id][attempt.n] = replace(attempt, fence=owner.epoch)
        return tuple(self._view(self._tasks[task_id]) for task_id in taken)

    # -- the life of a task -------------------------------------------------------------------------------------------

    async def admit(self, task: Task, demands: Sequence[Demand]) -> Admitted | Duplicate | OverBudget:
        """Add a task. The same id again is the repeat of an admission whose answer was lost."""
        self._write("admit")
        row = self._row(task.tenant, task.id)
        if row is not None:
            return Admitted(row)
        if task.id in self._tasks:
            raise ValueError(f"the id {task.id} is taken")
        for other in self._of_tenant(task.tenant):
            if task.idempotency_key is not None and other.idempotency_key == task.idempotency_key:
                return Duplicate(other)
        posting = budget.reserve(task, demands, self.books.balances_for(demands))
        if isinstance(posting, OverBudget):
            return posting
        self._tasks[task.id] = row = deepcopy(task)
        self._attempts[task.id] = {}
        self.books.post(task.id, posting)
        return Admitted(row)

    async def open_attempt(
        self, task: Task, attempt: Attempt, move: Move, demands: Sequence[Demand]
    ) -> Opened | OverBudget | Stale:
        """Add an attempt. Its number must be new, and no other attempt of its part may be out (I3)."""
        self._write("open_attempt")
        row = self._current(task)
        if (
            row is None
            or attempt.n in self._attempts[row.id]
            or attempt.part in {one.part for one in self._out(row.id)}
        ):
            return Stale(self._row(task.tenant, task.id))
        after = apply(row, move)
        balances = self.books.balances_for(demands)
        posting = budget.take(row, attempt, demands, self.books.held(row.id), balances=balances, at=move.at)
        if isinstance(posting, OverBudget):
            return posting
        self._attempts[row.id][attempt.n] = attempt
        self.books.post(row.id, posting)
        return Opened(self._moved(after, move), attempt)

    async def withdraw(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """Take an attempt back of which nothing was sent."""
        self._write("withdraw")
        row, intent = self._current(task), self._current_attempt(attempt)
        if row is None or intent is None or intent.state is not AttemptState.INTENT:
            return Stale(self._row(task.tenant, task.id))
        after = apply(row, move)
        self.books.post(row.id, budget.release(row, intent, self.books.held(row.id), move.at, lives=True))
        del self._attempts[row.id][attempt.n]
        return self._moved(after, move)

    async def accept(self, attempt: Attempt, handle: Handle, at: int) -> Attempt | Stale:
        """Note the job id."""
        self._write("accept")
        row = self._current_attempt(attempt)
        if row is None or row.state is not attempt.state:
            return Stale(self._row(attempt.tenant, attempt.task_id))
        self._attempts[row.task_id][row.n] = after = accepted(row, handle, at)
        return after

    async def close_attempt(self, task: Task, attempt: Attempt, move: Move) -> Task | Stale:
        """End an attempt and move its task."""
        self._write("close_attempt")
        row = self._current(task)
        if row is None or self._current_attempt(attempt) is None:
            return Stale(self._row(task.tenant, task.id))
        after = apply(row, move)
        lives = not after.is_terminal
        self.books.post(row.id, budget.settle(row, attempt, self.books.held(row.id), move.at, lives=lives))
        self._attempts[row.id][attempt.n] = attempt
        return self._moved(after, move)

    async def hear(self, attempt: Attempt) -> Attempt | Stale:
        """End an attempt whose task has ended before it."""
        self._write("hear")
        row = self._row(attempt.tenant, attempt.task_id)
        if row is None or not row.is_terminal or self._current_attempt(attempt) is None:
            return Stale(row)
        held, at = self.books.held(row.id), attempt.ended_at or row.updated_at
        self.books.post(row.id, budget.settle(row, attempt, held, at, lives=False))
        self._attempts[row.id][attempt.n] = attempt
        return attempt

    async def move(self, task: Task, move: Move) -> Task | Stale:
        """Move a task alone."""
        self._write("move")
        row = self._current(task)
        return Stale(self._row(task.tenant, task.id)) if row is None else self._moved(apply(row, move), move)

    async def cancel(self, tenant: str, task_id: str, move: Move) -> Cancelled | TooLate | None:
        """End a task that has not ended, whoever drives it."""
        self._write("cancel")
        row = self._row(tenant, task_id)
        if row is None:
            return None
        return TooLate(row) if row.is_terminal else Cancelled(self._moved(apply(row, move), move), row.state)

    # -- what daemons share -------------------------------------------------------------------------------------------

    async def share(self, owner: Owner, wants: Sequence[Want], silent_ms: int, now: int) -> tuple[Grant, ...]:
        """Lease places and tokens."""
        self._write("share")
        if not self._is_latest(owner):
            return ()
        return self.shares.share(owner.epoch, wants, self._awake(owner, silent_ms, now), now)

    async def exchange(self, owner: Owner, news: Sequence[CircuitNews], now: int) -> tuple[CircuitSeen, ...]:
        """Tell of circuits and hear of them."""
        self._write("exchange")
        return self.shares.exchange(owner.epoch, news, now)

    async def lease_probe(self, owner: Owner, key: CircuitKey, lease_ms: int, silent_ms: int, now: int) -> bool:
        """Take the right to probe."""
        self._write("lease_probe")
        return self.shares.lease_probe(owner.epoch, key, lease_ms, self._awake(owner, silent_ms, now), now)

    async def halted(self, owner: Owner) -> tuple[tuple[str, str], ...]:
        """List what others have ended."""
        self._read()
        ended = [task for task in self._tasks.values() if task.is_terminal]
        mine = [task for task in ended if any(one.fence == owner.epoch for one in self._out(task.id))]
        return tuple((task.tenant, task.id) for task in sorted(mine, key=lambda task: task.id))

    async def ended(self, tasks: Sequence[tuple[str, str]]) -> tuple[Task, ...]:
        """Read which have ended."""
        self._read()
        if len(tasks) > ENDED_MAX:
            raise ValueError(f"{len(tasks)} tasks are asked for at once; {ENDED_MAX} may be")
        rows = [self._row(tenant, task_id) for tenant, task_id in sorted(set(tasks), key=lambda pair: pair[1])]
        return tuple(row for row in rows if row is not None and row.is_terminal)

    def hint(self, topic: str) -> None:
        """Tell everybody who listens."""
        for hear in self._listeners:
            hear(topic)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Hear what anybody tells, also oneself."""
        self._listeners.append(hear)

    # -- reads --------------------------------------------------------------------------------------------------------

    async def view(self, tenant: str, task_id: str) -> TaskView | None:
        """Look one up."""
        self._read()
        row = self._row(tenant, task_id)
        return None if row is None else self._view(row)

    async def search(self, tenant: str, search: Search) -> tuple[TaskView, ...]:
        """List those that match everything that is asked for, newest first."""
        self._read()
        found = [task for task in self._of_tenant(tenant) if _matches(task, search)]
        found.sort(key=lambda task: (task.created_at, task.id), reverse=True)
        return tuple(self._view(task) for task in found[: search.limit])

    async def alike(self, tenant: str, digest: str, since: int) -> tuple[Task, ...]:
        """Find equal requests that live or ended not long ago, oldest first."""
        self._read()
        found = [task for task in self._of_tenant(tenant) if task.digest == digest]
        found = [task for task in found if task.completed_at is None or task.completed_at >= since]
        return tuple(sorted(found, key=lambda task: (task.created_at, task.id))[:ALIKE_MAX])

    async def waiting(self, owner: Owner, limit: int) -> tuple[Task, ...]:
        """List what waits for this life, in the order of the queue."""
        self._read()
        return tuple(sorted(self._waiting_for(owner), key=_turn)[:limit])

    async def backlog(self, owner: Owner) -> Backlog:
        """Count what waits for this life."""
        self._read()
        rows = self._waiting_for(owner)
        counts = Counter((int(task.priority), task.tenant) for task in rows)
        return Backlog(dict(counts), min((task.created_at for task in rows), default=None))

    async def balances(self, names: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Read balances."""
        self._read()
        return tuple(self.books.balances(names).values())

    async def ledger(self, task_id: str) -> tuple[LedgerEntry, ...]:
        """Read the lines of one task."""
        self._read()
        return self.books.ledger(task_id)

    async def leave_uncollected(self, tenant: str, digest: str, until: int, now: int) -> None:
        """Note a result that nobody has."""
        self._write("leave_uncollected")
        self._left.put(tenant, digest, until, now)

    async def collect(self, tenant: str, digest: str) -> None:
        """Forget it."""
        self._write("collect")
        self._left.drop(tenant, digest)

    async def uncollected(self, now: int, limit: int) -> tuple[tuple[str, str, int], ...]:
        """List results that nobody has."""
        self._read()
        return self._left.rows(now, limit)

    async def spending(self, tenant: str, since: int, until: int) -> tuple[Spending, ...]:
        """Sum what was spent."""
        self._read()
        pairs = ((task, one) for task in self._of_tenant(tenant) for one in self._view(task).attempts)
        relayed = (one for one in self._relayed.values() if one.tenant == tenant)
        return join_spending(sum_spending(pairs, since, until), sum_relayed(relayed, since, until))

    # -- housekeeping -------------------------------------------------------------------------------------------------

    async def keep(self, name: str, value: str) -> str:
        """The first value stays."""
        self._write("keep")
        return self._settings.setdefault(name, value)

    async def sweep(self, now: int, limit: int) -> tuple[Task, ...]:
        """Strip what expired first, each task once, none with an attempt that may still bring a result."""
        self._write("sweep")
        ended = [task for task in self._tasks.values() if task.is_terminal and task.id not in self._swept]
        due = [(task.expires_at, task.id) for task in ended if task.expires_at is not None and task.expires_at <= now]
        gone = [task_id for _expires_at, task_id in sorted(due) if not self._out(task_id)]
        return tuple(self._strip(self._tasks[task_id], now) for task_id in gone[:limit])

    async def forget(self, completed_before: int, limit: int) -> int:
        """Delete what was completed first, none with an attempt that is still out."""
        self._write("forget")
        ended = [(task.completed_at, task.id) for task in self._tasks.values() if task.completed_at is not None]
        old = [task_id for at, task_id in sorted(ended) if at < completed_before and not self._out(task_id)][:limit]
        for task_id in old:
            del self._tasks[task_id], self._attempts[task_id]
            self._swept.discard(task_id)
            self.books.forget(task_id)
        return len(old)

    async def ping(self) -> None:
        """Answer."""
        self._read()

    async def close(self) -> None:
        """Answer nothing any more."""
        self._closed = True

    # -- parts --------------------------------------------------------------------------------------------------------

    def _write(self, verb: str) -> None:
        self._read()
        self.writes[verb] += 1

    def _read(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")

    def _row(self, tenant: str, task_id: str) -> Task | None:
        row = self._tasks.get(task_id)
        return row if row is not None and row.tenant == tenant else None

    def _current(self, task: Task) -> Task | None:
        """The row, if it is still as the caller knows it."""
        row = self._row(task.tenant, task.id)
        return row if row is not None and (row.version, row.fence) == (task.version, task.fence) else None

    def _current_attempt(self, attempt: Attempt) -> Attempt | None:
        """The attempt's row, if it is still out and owned by the same life."""
        row = self._attempts.get(attempt.task_id, {}).get(attempt.n)
        if row is None or row.state is AttemptState.ENDED:
            return None
        return row if (row.tenant, row.fence) == (attempt.tenant, attempt.fence) else None

    def _out(self, task_id: str) -> list[Attempt]:
        """The attempts that have not ended."""
        return [one for one in self._attempts[task_id].values() if one.state is not AttemptState.ENDED]

    def _of_tenant(self, tenant: str) -> list[Task]:
        return [task for task in self._tasks.values() if task.tenant == tenant]

    def _waiting_for(self, owner: Owner) -> list[Task]:
        """An epoch belongs to one life alone, so that the fence says whose a task is."""
        return [task for task in self._tasks.values() if task.fence == owner.epoch and task.state in WAITING]

    def _view(self, task: Task) -> TaskView:
        rows = self._attempts[task.id]
        return TaskView(task, tuple(rows[n] for n in sorted(rows)))

    def _is_latest(self, owner: Owner) -> bool:
        return self._lives.get(owner.replica, (0, 0))[0] == owner.epoch

    def _beat(self, owner: Owner, now: int) -> bool:
        latest = self._is_latest(owner)
        if latest:
            self._lives[owner.replica] = (owner.epoch, now)
        return latest

    def _awake(self, owner: Owner, silent_ms: int, now: int) -> set[int]:
        """The epochs of the lives that were heard lately, and the asker's."""
        return {epoch for epoch, beat_at in self._lives.values() if beat_at > now - silent_ms} | {owner.epoch}

    def _moved(self, after: Task, move: Move) -> Task:
        """Write a task down with the webhook that it owes; when it has ended, what it still reserved goes back."""
        self._owe(self._tasks[after.id], after)
        self._tasks[after.id] = after
        if after.is_terminal:
            self.books.post(after.id, budget.free(after, self.books.held(after.id), move.at))
        return after

    def _strip(self, task: Task, now: int) -> Task:
        """Apply retention to an ended task. What it was is returned, with the late results of its attempts."""
        rows = self._attempts[task.id]
        late = tuple(output for n in sorted(rows) for output in rows[n].output)
        self._attempts[task.id] = {n: replace(row, output=()) for n, row in rows.items()}
        self._tasks[task.id] = apply(task, swept(now)) if task.state is State.SUCCEEDED else replace(task, input={})
        self._swept.add(task.id)
        return replace(task, output=task.output + late)


def _turn(task: Task) -> tuple[int, int, str]:
    """Best priority and oldest first."""
    return task.priority, task.created_at, task.id


def _matches(task: Task, search: Search) -> bool:
    wanted = ((search.status, task.state), (search.model, task.model), (search.provider, task.provider))
    return (
        all(asked is None or asked == value for asked, value in wanted)
        and search.idempotency_key in {None, task.idempotency_key}
        and (search.created_after is None or task.created_at > search.created_after)
        and (search.before is None or (task.created_at, task.id) < search.before)
    )
