"""What each verb of `persistence.Store` does in a database, as steps that any SQL engine can take.

A verb is a generator: it yields a statement with its values, is sent the rows, and returns its answer. The engine that
drives it owns connection and transaction, so that the same text serves a thread of SQLite and a line to another engine.
A verb runs whole in one transaction or leaves nothing: what it finds out after it has written is told by `Undone`, and
the driver rolls back. Meaning is defined by `memory`; money goes through `policy.budget`, moves through `task.apply`.
Guards stand in the statements, because a row that has the version and the fence that the caller knows is the row that
the caller has. Floor 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.money import NANOS_MAX
from router.persistence import (
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
)
from router.policy import budget
from router.policy.budget import Balances, Hold, Posting
from router.provider import Handle
from router.store import sql
from router.store.changes import ChangeVerbs
from router.store.keys import KeyVerbs
from router.store.outbox import OutboxVerbs
from router.store.posting import post
from router.store.relays import RelayVerbs
from router.store.rows import (
    ATTEMPT_COLUMNS,
    TASK_COLUMNS,
    Row,
    attempt_of_row,
    dump,
    dump_if_any,
    row_of_attempt,
    row_of_task,
    task_of_row,
)
from router.store.sharing import Sharing
from router.store.shelf import ShelfVerbs
from router.store.steps import Steps, Undone
from router.store.uncollected import UncollectedVerbs
from router.store.usage import UsageVerbs
from router.task import Attempt, AttemptState, IllegalMove, Move, Task, accepted, apply

ALIKE_MAX = 100
TASK_WIDTH, ATTEMPT_WIDTH = len(TASK_COLUMNS), len(ATTEMPT_COLUMNS)


class Verbs(Sharing, ChangeVerbs, KeyVerbs, OutboxVerbs, RelayVerbs, ShelfVerbs, UsageVerbs, UncollectedVerbs):
    """The verbs without state. Tests plant faults by overriding one."""

    # -- ownership ----------------------------------------------------------------------------------------------------

    def register(self, replica: str, now: int) -> Steps[Owner]:
        """Begin a life. An epoch is above all others only if nobody else chooses one at the same time."""
        yield sql.LOCK_LIVES, ()
        rows = yield sql.REGISTER, (replica, (yield from self._instant(now)))
        yield sql.DELETE_DEAD_PLACES, ()
        return Owner(replica, rows[0][0])

    def heartbeat(self, owner: Owner, now: int) -> Steps[bool]:
        """Note a sign of life."""
        rows = yield sql.HEARTBEAT, (owner.replica, owner.epoch, (yield from self._instant(now)))
        return bool(rows)

    def leave(self, owner: Owner) -> Steps[None]:
        """End a life."""
        yield sql.LEAVE, (owner.replica, owner.epoch)
        yield sql.DELETE_PLACES, (owner.epoch,)

    def claim(self, owner: Owner, silent_ms: int, limit: int, now: int) -> Steps[tuple[TaskView, ...]]:
        """Take over the best of what silent lives left: the best of each fence first, then the best of those.

        Whose tasks there are is read before who is awake: a life that began in between would count as silent.
        """
        if not (yield from self.heartbeat(owner, now)):
            return ()
        fences = yield sql.FENCES, ()
        halted = yield sql.ORPHANS_OUT, ()
        awake = yield from self._awake(owner, silent_ms, now)
        found: list[Row] = []
        for (fence,) in fences:
            if fence not in awake:
                found += yield sql.ORPHANS, (fence, limit)
        # One row for each attempt that is out: a task of several parts may have more than one.
        found += {row[:4] for row in halted if row[4] not in awake}
        return (yield from self._take_over(owner, sorted(found)[:limit]))

    def relieve(self, owner: Owner, leave: int, limit: int, now: int) -> Steps[tuple[TaskView, ...]]:
        """Take over from every other life what it will not come to soon."""
        if not (yield from self.heartbeat(owner, now)):
            return ()
        at = yield from self._instant(now)
        found: list[Row] = []
        for (fence,) in (yield sql.FENCES, ()):
            if fence != owner.epoch:
                found += yield sql.RUNNABLE, (fence, at, leave, limit)
        return (yield from self._take_over(owner, sorted(found)[:limit]))

    # -- the life of a task -------------------------------------------------------------------------------------------

    def admit(self, task: Task, demands: Sequence[Demand]) -> Steps[Admitted | Duplicate | OverBudget]:
        """Write the row, then see whether the budgets allow it: a used key answers before a budget does."""
        if not (yield sql.INSERT_TASK, row_of_task(task)):
            return (yield from self._find_duplicate(task))
        posting = budget.reserve(task, demands, (yield from self._balances_for(demands)))
        if isinstance(posting, OverBudget):
            raise Undone(posting)
        yield from self._post(task, posting)
        return Admitted(task)

    def open_attempt(
        self, task: Task, attempt: Attempt, move: Move, demands: Sequence[Demand]
    ) -> Steps[Opened | OverBudget | Stale]:
        """Write the intent and the move, then take the money."""
        if not (yield sql.INSERT_ATTEMPT, row_of_attempt(attempt)):
            return (yield from self._stale(task.tenant, task.id))
        after = yield from self._moved(task, move)
        if after is None:
            raise Undone((yield from self._stale(task.tenant, task.id)))
        held, balances = (yield from self._held(task)), (yield from self._balances_for(demands))
        posting = budget.take(task, attempt, demands, held, balances=balances, at=move.at)
        if isinstance(posting, OverBudget):
            raise Undone(posting)
        yield from self._post(task, posting)
        return Opened(after, attempt)

    def withdraw(self, task: Task, attempt: Attempt, move: Move) -> Steps[Task | Stale]:
        """Delete the intent, release its holds, move the task back."""
        if not (yield sql.DELETE_INTENT, _key_of(attempt)):
            return (yield from self._stale(task.tenant, task.id))
        after = yield from self._moved(task, move)
        if after is None:
            raise Undone((yield from self._stale(task.tenant, task.id)))
        held = yield from self._held(task)
        yield from self._post(task, budget.release(task, attempt, held, move.at, lives=True))
        return after

    def accept(self, attempt: Attempt, handle: Handle, at: int) -> Steps[Attempt | Stale]:
        """Write down the upstream's name of the job."""
        if attempt.state is AttemptState.INTENT:
            after = accepted(attempt, handle, at)
            if (yield sql.ACCEPT_ATTEMPT, (*_key_of(attempt), dump(handle), at)):
                return after
        elif (yield sql.IS_OUT, _key_of(attempt)) == [(attempt.state.value,)]:
            accepted(attempt, handle, at)  # says what is wrong with the caller
        return (yield from self._stale(attempt.tenant, attempt.task_id))

    def close_attempt(self, task: Task, attempt: Attempt, move: Move) -> Steps[Task | Stale]:
        """End the attempt, settle it, move the task, and free what an ended task still reserves."""
        if not (yield from self._ended(attempt)):
            return (yield from self._stale(task.tenant, task.id))
        after = yield from self._moved(task, move)
        if after is None:
            raise Undone((yield from self._stale(task.tenant, task.id)))
        held = yield from self._held(task)
        yield from self._post(task, budget.settle(task, attempt, held, move.at, lives=not after.is_terminal))
        if after.is_terminal:
            yield from self._post(task, budget.free(task, held, move.at))
        return after

    def hear(self, attempt: Attempt) -> Steps[Attempt | Stale]:
        """End and settle an attempt whose task has ended before it."""
        row = yield from self._task(attempt.tenant, attempt.task_id)
        if row is None or not row.is_terminal or not (yield from self._ended(attempt)):
            return Stale(row)
        held = yield from self._held(row)
        at = row.updated_at if attempt.ended_at is None else attempt.ended_at
        yield from self._post(row, budget.settle(row, attempt, held, at, lives=False))
        return attempt

    def move(self, task: Task, move: Move) -> Steps[Task | Stale]:
        """Move a task alone, and free what an ended task still reserves."""
        after = yield from self._moved(task, move)
        if after is None:
            return (yield from self._stale(task.tenant, task.id))
        if after.is_terminal:
            held = yield from self._held(task)
            yield from self._post(task, budget.free(task, held, move.at))
        return after

    def cancel(self, tenant: str, task_id: str, move: Move) -> Steps[Cancelled | TooLate | None]:
        """Read the row as it is now and end it."""
        rows = yield sql.LOCK_TASK, (tenant, task_id)
        if not rows:
            return None
        row = task_of_row(rows[0])
        if row.is_terminal:
            return TooLate(row)
        after = yield from self.move(row, move)
        assert isinstance(after, Task), "a row that is locked is not stale"
        return Cancelled(after, row.state)

    # -- reads --------------------------------------------------------------------------------------------------------

    def view(self, tenant: str, task_id: str) -> Steps[TaskView | None]:
        """Read one task with its attempts."""
        views = _views_of((yield sql.VIEW, (tenant, task_id)))
        return views[0] if views else None

    def search(self, tenant: str, search: Search) -> Steps[tuple[TaskView, ...]]:
        """Read a page of tasks with their attempts."""
        status = None if search.status is None else search.status.value
        after = -1 if search.created_after is None else search.created_after
        before = (NANOS_MAX, "") if search.before is None else search.before
        wanted = (tenant, status, search.model, search.provider, after, *before)
        if search.idempotency_key is None:
            return tuple(_views_of((yield sql.SEARCH, (*wanted, search.limit))))
        return tuple(_views_of((yield sql.SEARCH_KEY, (*wanted, search.idempotency_key)))[: search.limit])

    def alike(self, tenant: str, digest: str, since: int) -> Steps[tuple[Task, ...]]:
        """Read equal requests."""
        return tuple(map(task_of_row, (yield sql.ALIKE, (tenant, digest, since, ALIKE_MAX))))

    def waiting(self, owner: Owner, limit: int) -> Steps[tuple[Task, ...]]:
        """Read what waits for a life."""
        return tuple(map(task_of_row, (yield sql.WAITING, (owner.epoch, limit))))

    def backlog(self, owner: Owner) -> Steps[Backlog]:
        """Count what waits for a life."""
        rows = yield sql.BACKLOG, (owner.epoch,)
        counts = {(priority, tenant): count for priority, tenant, count, _oldest in rows}
        return Backlog(counts, min((oldest for *_rest, oldest in rows), default=None))

    def balances(self, names: Sequence[tuple[str, str]]) -> Steps[tuple[Balance, ...]]:
        """Read balances, each once."""
        found: dict[tuple[str, str], Balance] = {}
        for pair in names:
            rows = yield sql.BALANCE, pair
            if rows:
                found[pair] = Balance(*pair, *rows[0])
        return tuple(found.values())

    def ledger(self, task_id: str) -> Steps[tuple[LedgerEntry, ...]]:
        """Read the lines of one task."""
        return tuple(LedgerEntry(*row) for row in (yield sql.LEDGER, (task_id,)))

    # -- housekeeping -------------------------------------------------------------------------------------------------

    def keep(self, name: str, value: str) -> Steps[str]:
        """Write a setting unless it exists, and read what stands."""
        yield sql.KEEP_SETTING, (name, value)
        rows = yield sql.SETTING, (name,)
        return str(rows[0][0])

    def sweep(self, now: int, limit: int) -> Steps[tuple[Task, ...]]:
        """Strip ended tasks; what they were is returned, with the late results of their attempts."""
        gone: list[Task] = []
        for row in (yield sql.TO_SWEEP, (now, limit)):
            gone += [(yield from self.strip(task_of_row(row), now))]
        return tuple(gone)

    def forget(self, completed_before: int, limit: int) -> Steps[int]:
        """Delete old rows; their ledger stays."""
        rows = yield sql.TO_FORGET, (completed_before, limit)
        for key in rows:
            yield sql.FORGET_TASK, key
            yield sql.FORGET_ATTEMPTS, key
            yield sql.FORGET_HOLDS, key
        return len(rows)

    def ping(self) -> Steps[None]:
        """Nothing: an empty transaction answers."""
        yield from ()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _take_over(self, owner: Owner, found: Sequence[Row]) -> Steps[tuple[TaskView, ...]]:
        """Make tasks, and their attempts that are out, the owner's."""
        views: list[TaskView] = []
        for _priority, _created_at, task_id, tenant in found:
            yield sql.CLAIM_TASK, (tenant, task_id, owner.replica, owner.epoch)
            yield sql.CLAIM_ATTEMPTS, (tenant, task_id, owner.epoch)
            views += _views_of((yield sql.VIEW, (tenant, task_id)))
        return tuple(views)

    def _task(self, tenant: str, task_id: str) -> Steps[Task | None]:
        rows = yield sql.TASK, (tenant, task_id)
        return task_of_row(rows[0]) if rows else None

    def _stale(self, tenant: str, task_id: str) -> Steps[Stale]:
        return Stale((yield from self._task(tenant, task_id)))

    def _find_duplicate(self, task: Task) -> Steps[Admitted | Duplicate]:
        """Say what stood in the way of a new row."""
        row = yield from self._task(task.tenant, task.id)
        if row is not None:
            return Admitted(row)
        keyed = yield sql.TASK_OF_KEY, (task.tenant, task.idempotency_key)
        if not keyed:
            raise ValueError(f"the id {task.id} is taken")
        return Duplicate(task_of_row(keyed[0]))

    def _moved(self, task: Task, move: Move) -> Steps[Task | None]:
        """Move a row that is still as expected; None when it is not."""
        guard = (task.tenant, task.id, task.version, task.fence)
        try:
            after = apply(task, move)
        except IllegalMove:
            if (yield sql.IS_CURRENT, guard):
                raise
            return None
        step = (after.state.value, after.version, after.updated_at, after.not_before)
        if after.is_terminal:
            error, usage = dump_if_any(after.error), dump_if_any(after.usage)
            end = (after.completed_at, after.expires_at, dump(after.output), usage, error, dump(after.warnings))
            rows = yield sql.END_TASK, (*guard, *step, *end)
        else:
            where = (after.started_at, after.tries, after.provider, after.target_model)
            rows = yield sql.STEP_TASK, (*guard, *step, *where)
        if not rows:
            return None
        if after.callback_url is not None:
            yield from self.owe(task, after)
        return after

    def _ended(self, attempt: Attempt) -> Steps[bool]:
        """Write the end of an attempt that is still out; False when it is not."""
        handle = dump_if_any(attempt.handle)
        bill = (attempt.billing.value, attempt.cost_nanos, int(attempt.estimated), attempt.detail, dump(attempt.output))
        told = (*bill, dump_if_any(attempt.usage))
        end = (handle, attempt.accepted_at, attempt.ended_at, attempt.outcome, attempt.http_status, *told)
        rows = yield sql.END_ATTEMPT, (*_key_of(attempt), *end)
        return bool(rows)

    def _held(self, task: Task) -> Steps[list[Hold]]:
        rows = yield sql.HOLDS, (task.tenant, task.id)
        return [Hold(*row) for row in rows]

    def _balances_for(self, demands: Sequence[Demand]) -> Steps[Balances]:
        """Read the balances that a decision needs, in one order everywhere, so that no two wait for each other."""
        found: dict[tuple[str, str], Balance] = {}
        for pair in sorted({(one.budget, one.window) for one in demands}):
            (row,) = yield sql.LOCK_BALANCE, pair
            found[pair] = Balance(*pair, *row)
        return found

    def _post(self, task: Task, posting: Posting) -> Steps[None]:
        """Write down what a step does to the books of a task."""
        yield from post(task.tenant, task.id, posting)


def _key_of(attempt: Attempt) -> tuple[str, str, int, int]:
    """What an attempt's row is found and guarded by."""
    return attempt.tenant, attempt.task_id, attempt.n, attempt.fence


def _views_of(rows: Sequence[Row]) -> list[TaskView]:
    """Gather rows of (task, attempt or nulls) into views; the rows of one task stand together."""
    views: list[TaskView] = []
    for row in rows:
        attempts = () if row[TASK_WIDTH] is None else (attempt_of_row(row[TASK_WIDTH : TASK_WIDTH + ATTEMPT_WIDTH]),)
        if views and views[-1].task.id == row[0]:
            views[-1] = TaskView(views[-1].task, views[-1].attempts + attempts)
        else:
            views.append(TaskView(task_of_row(row), attempts))
    return views
