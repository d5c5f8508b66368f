"""Submit and cancel: the front door of the flow, the same for every surface.

A submit is refused with a reason before a row exists, or becomes durable in one transaction together with its budget
reservation and its idempotency key (promise 1, I1). What it is attached to instead of being made anew (a used key, the
automatic repeat of a client) is decided here too (contract 5.4). Floor 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from router.events import (
    BudgetRefused,
    Event,
    QueueRefused,
    TaskAdmitted,
    TaskEnded,
    TaskInterrupted,
    TaskRetrying,
    TaskStarted,
)
from router.flow import uploads
from router.flow.draft import Accepted, Draft, Folder, Refused
from router.flow.runtime import Runtime, clear_away, shape_of
from router.flow.uncollected import Uncollected
from router.flow.waiters import Waiters
from router.keys import KeyLimits
from router.outcome import Billed
from router.persistence import Admitted, Cancelled, Duplicate, OverBudget, Search, TooLate
from router.policy import budget, route, verdict
from router.policy.errors import IDEMPOTENCY_MISMATCH
from router.policy.pace import DrainRate
from router.policy.price import quote
from router.policy.route import Plan
from router.policy.rules import Model, Provider, RetryUnknown, Rule, Shape
from router.shelf import Erased, StillOut
from router.task import Error, Priority, State, Task, cancelled, new_id
from router.world import VaultFull

ATTACH_FOR_MS = 15 * 60_000
OPERATOR_BACK_S = 30.0  # when to ask again while an operator holds every circuit open: nobody knows how long that is


class Intake:
    """Submits and cancels on behalf of all surfaces."""

    def __init__(self, runtime: Runtime, waiters: Waiters) -> None:
        """Start with nothing owed; the counts of what waits are set by recovery."""
        self.runtime = runtime
        self.waiters = waiters
        self.depth = Depth(runtime.owner.epoch)
        self.drain_rate = DrainRate()
        self.uncollected = Uncollected(runtime.world.store)

    async def submit(self, draft: Draft) -> Accepted | Refused:
        """Make a request durable, or find what it repeats, or say why not."""
        runtime = self.runtime
        found = await self._repeated(draft)
        if found is not None:
            return found
        key = await runtime.limits.find(draft.key_id)
        limited = self.pace(draft, key) or self._limited(draft)
        if limited is not None:
            return limited
        model = self.model_of(draft, key)
        if isinstance(model, Refused):
            return model
        task = self._task_of(draft, model)
        shape = shape_of(task)
        plan = self._planned(draft, task, shape)
        if isinstance(plan, Refused):
            return plan
        unit, units = reservation_of(plan, shape)
        demands = budget.demands(
            runtime.rules.budgets,
            shape,
            task.key_id,
            unit=unit,
            units=units,
            now=task.created_at,
            zone=runtime.rules.zone,
        )
        folder = uploads.folder_of(draft, task.id)
        kept = await self._keep_files(draft, task, folder)
        if isinstance(kept, Refused):
            return kept
        self.depth.count(task, +1)
        admitted = None
        try:
            runtime.world.mark("C0")
            admitted = await runtime.world.store.admit(task, demands)
        finally:
            if not isinstance(admitted, Admitted):
                self.depth.count(task, -1)
        if draft.files:
            await self._settle_files(task, folder, taken=isinstance(admitted, Admitted))
        match admitted:
            case Admitted(row):
                runtime.bus.emit(TaskAdmitted(runtime.now(), row))
                first = plan.candidates[0] if plan.candidates else None
                runtime.wait_in_queue(row, lane=None if first is None else self._lane_of(first.provider))
                runtime.world.mark("C1")
                return Accepted(row)
            case Duplicate(row):
                return _same_or_mismatch(row, draft)
            case OverBudget(demand, left):
                runtime.bus.emit(BudgetRefused(runtime.now(), task.tenant, demand.budget, demand.window, left))
                return Refused(verdict.over_budget(demand.budget, demand.window, left))

    async def cancel(self, tenant: str, task_id: str) -> Cancelled | TooLate | None:
        """Cancel a task: at once where nothing is out, else no further attempt and the one in flight is heard (I11)."""
        runtime = self.runtime
        now = runtime.now()
        move = cancelled(now, now + round(runtime.rules.defaults.retention_s * 1000))
        result = await runtime.world.store.cancel(tenant, task_id, move)
        if isinstance(result, Cancelled):
            runtime.queue.remove(task_id)
            live = runtime.live.get(task_id)
            if live is not None:
                live.cancelled = True
                live.wake.set()
            runtime.bus.emit(TaskEnded(runtime.now(), result.task, result.was))
        return result

    async def erase(self, tenant: str, task_id: str) -> Erased | StillOut | None:
        """Remove input and output of an ended task at once, the bytes after the row that names them."""
        runtime, now = self.runtime, self.runtime.now()
        result = await runtime.world.store.erase(tenant, task_id, now)
        if isinstance(result, Erased):
            await clear_away(runtime, result.task, now)
        return result

    async def judge(self, draft: Draft) -> Error | None:
        """Say what a submit would be refused for by its plan, without making it or using up a limit."""
        model = self.model_of(draft, await self.runtime.limits.find(draft.key_id))
        if isinstance(model, Refused):
            return model.error
        task = self._task_of(draft, model)
        plan = self._planned(draft, task, shape_of(task))
        return plan.error if isinstance(plan, Refused) else None

    async def explain(self, draft: Draft) -> Mapping[str, Any] | Error:
        """Say what a submit would plan, without making anything of it."""
        model = self.model_of(draft, await self.runtime.limits.find(draft.key_id))
        if isinstance(model, Refused):
            return model.error
        task = self._task_of(draft, model)
        return route.explain(self._plan(task, shape_of(task)))

    async def abandoned(self, task: Task) -> None:
        """Cancel a task that nobody can collect, if nothing was sent for it (contract 5.1)."""
        view = await self.runtime.world.store.view(task.tenant, task.id)
        if view is not None and view.task.state is State.PENDING and not view.attempts:
            await self.cancel(task.tenant, task.id)

    def read(self, event: Event) -> None:
        """Keep the counts of what waits and the rate at which it is taken (a reader of the bus)."""
        self.depth.read(event)
        if isinstance(event, TaskStarted | TaskEnded):
            self.drain_rate.note(self.runtime.fleet.monotonic())

    # -- parts ------------------------------------------------------------------------------------------------------

    async def _repeated(self, draft: Draft) -> Accepted | Refused | None:
        """Find the task that this request repeats, by its key or as a client's automatic repeat (contract 5.4)."""
        store, now = self.runtime.world.store, self.runtime.now()
        if draft.idempotency_key is not None:
            found = await store.search(draft.tenant, Search(idempotency_key=draft.idempotency_key, limit=1))
            return _same_or_mismatch(found[0].task, draft) if found else None
        if not (draft.repeats or self.uncollected.holds(draft.tenant, draft.digest, now)):
            return None
        alike = await store.alike(draft.tenant, draft.digest, now - ATTACH_FOR_MS)
        fit = [task for task in alike if not _failed_unpaid(task)]
        lonely = [task for task in fit if self.waiters.count(task.id) == 0]
        chosen = (lonely or fit)[:1]
        return Accepted(chosen[0], replayed=True) if chosen else None

    async def _keep_files(self, draft: Draft, task: Task, folder: Folder) -> Refused | None:
        """Keep the bytes of the input files under the task, before its row."""
        vault = self.runtime.world.vault
        folder.offered = True
        try:
            await uploads.keep(vault, draft, task.id, folder, task.created_at)
        except KeyError:
            await uploads.discard(vault, folder)
            return Refused(Error("conflict", "The input files of that task are gone.", "conflict"))
        except VaultFull:
            await uploads.discard(vault, folder)
            message = "There is no room for the input files."
            return Refused(Error("unavailable", message, "storage_full", retryable=True), OPERATOR_BACK_S)
        return None

    async def _settle_files(self, task: Task, folder: Folder, *, taken: bool) -> None:
        """Leave the files to the row, or remove them with their mark. What fails here the sweep of uploads does."""
        vault = self.runtime.world.vault
        with suppress(OSError, VaultFull):
            await (uploads.settle(vault, folder) if taken else uploads.discard(vault, folder))

    def pace(self, draft: Draft, key: KeyLimits) -> Refused | None:
        """Apply drain and the rates of key and tenant to a submit or a call, in that order."""
        runtime = self.runtime
        rules = runtime.rules
        if runtime.draining:
            return Refused(
                Error(
                    "unavailable", "The service is shutting down; nothing was accepted.", "unavailable", retryable=True
                ),
                2.0,
            )
        return runtime.limits.take(replace(rules.tenant(draft.tenant), name=draft.tenant), draft.key_id, key)

    def _limited(self, draft: Draft) -> Refused | None:
        """Apply the bounds of the queue."""
        runtime = self.runtime
        rules, now_s = runtime.rules, runtime.fleet.monotonic()
        total, own = self.depth.total, self.depth.by_tenant.get(draft.tenant, 0)
        bound = "max_pending" if total >= rules.defaults.max_pending else None
        bound = "per_tenant" if bound is None and own >= rules.defaults.per_tenant else bound
        if bound is None:
            return None
        runtime.bus.emit(QueueRefused(runtime.now(), draft.tenant, bound))
        excess = total - rules.defaults.max_pending if bound == "max_pending" else own - rules.defaults.per_tenant
        message = f"The queue is full ({bound})."
        error = Error("queue_full", message, "queue_full", retryable=True, details={"bound": bound})
        return Refused(error, self.drain_rate.seconds_for(max(1, excess + 1), now_s))

    def model_of(self, draft: Draft, key: KeyLimits) -> Model | Refused:
        """Find the model: named, default of the kind, or the first of the kind in the file; same 404 if not allowed."""
        rules = self.runtime.rules
        family = draft.kind.family
        name = draft.model or rules.default_model.get(family)
        if name is None:
            name = next((one.name for one in rules.models.values() if one.family == family), "")
        model = rules.model(name)
        allowed = (rules.tenant(draft.tenant).models, key.models)
        if model is None or any(names is not None and model.name not in names for names in allowed):
            message = (
                f"The model {name!r} does not exist or is not available to you." if name else f"No {family} model."
            )
            return Refused(Error("model_not_found", message, "model_not_found", param="model"))
        if model.family != family:
            message = f"The model {name!r} makes {model.family}s; this request asks for {draft.kind.value}."
            return Refused(Error("invalid_request", message, "invalid_request", param="model"))
        return model

    def _task_of(self, draft: Draft, model: Model) -> Task:
        runtime = self.runtime
        now = runtime.now()
        start_within_s = draft.start_within_s if draft.start_within_s is not None else draft.wait_s
        task_id = uploads.folder_of(draft, new_id(now, runtime.world.dice("ids"))).task_id
        return Task(
            id=task_id,
            tenant=draft.tenant,
            kind=draft.kind,
            model=model.name,
            input=uploads.rows_of(draft, task_id),
            surface=draft.surface,
            route=draft.route,
            priority=draft.priority,
            created_at=now,
            updated_at=now,
            digest=draft.digest,
            owner=runtime.owner.replica,
            fence=runtime.owner.epoch,
            key_id=draft.key_id,
            metadata=draft.metadata,
            preferences=draft.preferences,
            idempotency_key=draft.idempotency_key,
            request_id=draft.request_id,
            retry_of=draft.retry_of,
            start_by=None if start_within_s is None else now + round(start_within_s * 1000),
            deadline=None if draft.timeout_s is None else now + round(draft.timeout_s * 1000),
            callback_url=draft.callback_url,
            callback_events=draft.callback_events,
            link_base=draft.link_base if draft.callback_url is not None else None,
        )

    def _plan(self, task: Task, shape: Shape) -> Plan:
        runtime = self.runtime
        return route.plan(
            shape,
            task.preferences,
            runtime.rules,
            runtime.fleet,
            now=task.created_at,
            task_id=task.id,
            priced_only=budget.applies(runtime.rules.budgets, shape, task.key_id),
        )

    def _lane_of(self, provider: Provider) -> str | None:
        """The lane of a provider that has no place now, or has others waiting for it; None: it may be taken at once."""
        runtime = self.runtime
        free = runtime.fleet.room(provider) and not runtime.queue.waiting_in(provider.name)
        return None if free else provider.name

    def _planned(self, draft: Draft, task: Task, shape: Shape) -> Plan | Refused:
        """See that somebody could do it; a request that nobody can do is refused before it costs a row."""
        plan = self._plan(task, shape)
        match verdict.before(plan, ()):
            case verdict.GiveUp(error) if error.error_type != "provider_error":
                return Refused(error, OPERATOR_BACK_S if error.retryable else None)
            case verdict.Hold(delay_s) if draft.wait_s is not None and delay_s > draft.wait_s:
                message = "Every provider of this model is resting after failures; nothing was sent."
                return Refused(
                    Error("no_provider_available", message, "no_provider_available", retryable=True), delay_s
                )
            case _:
                return plan


class Depth:
    """Counts of waiting tasks (pending and retrying), also of those beyond the queue's window, by class and tenant."""

    def __init__(self, epoch: int = 0) -> None:
        """Start empty; recovery adds what the store holds. `epoch` is the life whose tasks count."""
        self.epoch = epoch
        self.total = 0
        self.by_priority = dict.fromkeys(Priority, 0)
        self.by_tenant: dict[str, int] = {}

    def count(self, task: Task, change: int) -> None:
        """Add or take away one waiting task."""
        self.add(task.priority, task.tenant, change)

    def add(self, priority: Priority, tenant: str, change: int) -> None:
        """Add or take away some. A submit counts itself before it is durable, so that the bound is hard."""
        self.total += change
        self.by_priority[priority] += change
        left = self.by_tenant.get(tenant, 0) + change
        if left > 0:
            self.by_tenant[tenant] = left
        else:
            self.by_tenant.pop(tenant, None)

    def reset(self, waiting: Mapping[tuple[int, str], int]) -> None:
        """Count anew, by (priority, tenant): others take from what waits here, and end it."""
        self.total, self.by_tenant = 0, {}
        self.by_priority = dict.fromkeys(Priority, 0)
        for (priority, tenant), count in waiting.items():
            self.add(Priority(priority), tenant, count)

    def read(self, event: Event) -> None:
        """Follow tasks in and out of the waiting states."""
        match event:
            case TaskStarted(task=task):
                self.count(task, -1)
            case TaskRetrying(task=task) | TaskInterrupted(task=task):
                self.count(task, +1)
            case TaskEnded(task=task, was=State.PENDING | State.RETRYING) if task.fence == self.epoch:
                self.count(task, -1)
            case _:
                return


def reservation_of(plan: Plan, shape: Shape) -> tuple[int, int]:
    """What promise 5 reserves: the dearest single permitted target, times the paid attempts that the rule allows.

    A unit is for one image. Where images may be made in parts, it is what one alone costs at the dearest target, since
    after a failure the parts may go to another; else the share of one in the whole.
    """
    in_parts = any(one.target.abilities.max_n < shape.n for one in plan.candidates)
    if in_parts:
        alone = replace(shape, n=1)
        unit = max((quote(one.target.price, alone) or 0 for one in plan.candidates), default=0)
    else:
        unit = -(-max((one.price_nanos or 0 for one in plan.candidates), default=0) // max(1, shape.n))
    return unit, max(1, shape.n) * paid_attempts(plan.rule, plan)


def paid_attempts(rule: Rule, plan: Plan) -> int:
    """1; more only where the rule (or a provider of it) may pay again after an unknown or unusable outcome."""
    unknowns = {rule.retry.retry_unknown, *(one.provider.retry_unknown for one in plan.candidates)}
    if RetryUnknown.ALWAYS in unknowns or rule.retry.retry_unusable_failover:
        return rule.retry.total
    # A repeat under the same key is one purchase, but its attempt needs a hold of its own while the first is unknown.
    keyed = RetryUnknown.IF_IDEMPOTENT in unknowns and any(one.provider.adapter.idempotent for one in plan.candidates)
    return 1 + rule.retry.per_target if keyed else 1


def _same_or_mismatch(row: Task, draft: Draft) -> Accepted | Refused:
    if row.digest == draft.digest and row.route == draft.route:
        return Accepted(row, replayed=True)
    message = "This Idempotency-Key was used for another request."
    details = {"task_id": row.id}
    return Refused(Error("conflict", message, IDEMPOTENCY_MISMATCH, param="Idempotency-Key", details=details))


def _failed_unpaid(task: Task) -> bool:
    """A task that failed with nothing billed does not qualify for attaching (contract 5.4)."""
    return task.state is State.FAILED and task.error is not None and task.error.billing is Billed.NO
