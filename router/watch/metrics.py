"""Events into Prometheus metrics: one table, with names and labels exactly as contract section 7 prints them.

Counters and histograms follow the bus; what is a level (depth, slots, circuits, budgets) is taken from `Levels` at the
moment of a scrape and never counted by hand. Label values are bounded by the configuration, whatever callers send. The
page is rendered in a thread and kept for a second, because it can be a megabyte. Floor 3; it knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from router.events import (
    AccountRested,
    AttemptAccepted,
    AttemptEnded,
    AttemptOpened,
    BreakerMoved,
    BudgetRefused,
    BytesStored,
    CallCut,
    ConfigApplied,
    ConfigRejected,
    DrainStarted,
    Event,
    FailedOver,
    KeyChanged,
    LifeReplaced,
    QueueRefused,
    Recovered,
    RelayEnded,
    RelayMoved,
    TaskAdmitted,
    TaskEnded,
    TaskHeld,
    TaskInterrupted,
    TaskProgressed,
    TaskRetrying,
    TasksTaken,
    TaskStarted,
    TaskSwept,
    WebhookTried,
)
from router.money import NANOS_PER_USD
from router.outbox import DELIVERIES
from router.outcome import SUCCEEDED, Billed
from router.policy.rules import Model, Ruleset, Target
from router.task import TERMINAL, Priority, State

OTHER = "other"
APPLIED, REJECTED = "applied", "rejected"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
RENDER_EVERY_S = 1.0
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)
TASK_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

# name -> (kind, labels, what it says). The README's table is held against this one by a test.
COUNTER, HISTOGRAM, GAUGE = "counter", "histogram", "gauge"
METRICS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "http_requests_total": (COUNTER, ("route", "method", "code"), "HTTP requests answered"),
    "http_request_duration_seconds": (HISTOGRAM, (), "time to answer a request"),
    "tasks_submitted_total": (COUNTER, ("model", "surface"), "tasks made durable"),
    "tasks_finished_total": (COUNTER, ("model", "status"), "tasks ended"),
    "task_duration_seconds": (HISTOGRAM, ("model", "status"), "from created to ended"),
    "queue_depth": (GAUGE, ("priority",), "tasks that wait"),
    "queue_wait_seconds": (HISTOGRAM, ("priority",), "from runnable to running"),
    "queue_oldest_seconds": (GAUGE, (), "age of the task that has waited longest"),
    "attempts_total": (COUNTER, ("provider", "model", "outcome", "billing"), "attempts ended"),
    "attempt_duration_seconds": (HISTOGRAM, ("provider", "model"), "from intent to stored result or failure"),
    "failovers_total": (COUNTER, ("model", "from", "to", "reason"), "next attempts at another target"),
    "cost_usd_total": (COUNTER, ("provider", "model", "tenant"), "what attempts cost, where known"),
    "wasted_usd_total": (COUNTER, ("provider", "reason"), "billed attempts that delivered nothing"),
    "circuit_state": (GAUGE, ("provider", "model"), "0 closed, 1 half-open, 2 open; the worst of its targets"),
    "inflight": (GAUGE, ("provider",), "attempts out now"),
    "budget_remaining_usd": (GAUGE, ("scope",), "what the current window of a budget has left"),
    "rehost_bytes_total": (COUNTER, (), "result bytes copied to our storage"),
    "webhook_deliveries_total": (COUNTER, ("result",), "tries of webhooks: delivered, failed, given_up, dropped"),
    "config_reloads_total": (COUNTER, ("result",), "configurations applied or rejected"),
    "config_info": (GAUGE, ("hash",), "1 for the configuration in force"),
    "store_commit_seconds": (HISTOGRAM, (), "time of one commit of the store"),
    "loop_lag_seconds": (GAUGE, (), "how late the event loop was at its last turn"),
}
_BUCKETS: Mapping[str, Sequence[float]] = {
    "http_request_duration_seconds": REQUEST_BUCKETS_S,
    "task_duration_seconds": TASK_BUCKETS_S,
    "attempt_duration_seconds": TASK_BUCKETS_S,
    "queue_wait_seconds": WAIT_BUCKETS_S,
    "store_commit_seconds": COMMIT_BUCKETS_S,
}


@dataclass(frozen=True, slots=True)
class Levels:
    """What stands at the moment of a scrape. `circuits` is keyed by (provider, upstream model): 0, 1 or 2."""

    queue_depth: Mapping[Priority, int] = field(default_factory=dict)
    queue_oldest_s: float = 0.0
    circuits: Mapping[tuple[str, str], int] = field(default_factory=dict)
    inflight: Mapping[str, int] = field(default_factory=dict)
    budgets_left_nanos: Mapping[str, int] = field(default_factory=dict)
    loop_lag_s: float = 0.0


Child = TypeVar("Child", Counter, Histogram)


class Metrics:
    """A registry of its own, its bus reader `read`, and `render` for a scrape. `rules` answers the ruleset in force."""

    def __init__(self, rules: Callable[[], Ruleset], levels: Callable[[], Awaitable[Levels]]) -> None:
        self.registry = CollectorRegistry()
        self._rules = rules
        self._levels = levels
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        for name, (kind, labels, text) in METRICS.items():
            full = f"pointsman_{name}"
            if kind == COUNTER:
                self._counters[name] = Counter(full, text, labels, registry=self.registry)
            elif kind == HISTOGRAM:
                self._histograms[name] = Histogram(full, text, labels, registry=self.registry, buckets=_BUCKETS[name])
            else:
                self._gauges[name] = Gauge(full, text, labels, registry=self.registry)
        self._children: dict[tuple[str, ...], Counter | Histogram] = {}
        self._known = Known.of(rules())
        self._rendering: asyncio.Task[bytes] | None = None
        self._page: tuple[float, bytes] | None = None
        self._begin_at_zero()

    # -- what is told ---------------------------------------------------------------------------------------------

    def on_http(self, route: str, method: str, code: int, seconds: float) -> None:
        """An HTTP request was answered. `route` is the template of a route, never a raw path."""
        self._count("http_requests_total", 1, route, method if method in METHODS else OTHER, str(code))
        self._observe("http_request_duration_seconds", seconds)

    def on_commit(self, seconds: float) -> None:
        """The store has committed."""
        self._observe("store_commit_seconds", seconds)

    def read(self, event: Event) -> None:
        """Update what an event touches (a reader of the bus). Every event is listed, also those that count nothing."""
        match event:
            case TaskAdmitted(task=task):
                self._count("tasks_submitted_total", 1, self._model(task.model), task.surface)
            case TaskStarted(task=task, waited_s=waited_s):
                self._observe("queue_wait_seconds", waited_s, task.priority.word)
            case TaskEnded(task=task):
                self._count("tasks_finished_total", 1, self._model(task.model), task.state.value)
                seconds = max(0, (task.completed_at or event.at) - task.created_at) / 1000
                self._observe("task_duration_seconds", seconds, self._model(task.model), task.state.value)
            case AttemptEnded():
                self._end_attempt(event)
            case FailedOver(task=task, source=source, destination=destination, reason=reason):
                names = self._target(source), self._target(destination)
                self._count("failovers_total", 1, self._model(task.model), *names, reason)
            case RelayEnded():
                self._end_relayed(event)
            case RelayMoved(model=model, source=source, destination=destination, reason=reason):
                names = self._target(source), self._target(destination)
                self._count("failovers_total", 1, self._model(model), *names, reason)
            case BytesStored(bytes=size):
                self._count("rehost_bytes_total", size)
            case WebhookTried(standing=standing):
                self._count("webhook_deliveries_total", 1, DELIVERIES[standing])
            case ConfigApplied():
                self._known = Known.of(self._rules())
                self._begin_at_zero()
                self._count("config_reloads_total", 1, APPLIED)
            case ConfigRejected():
                self._count("config_reloads_total", 1, REJECTED)
            case (
                TaskRetrying()
                | TaskInterrupted()
                | TaskSwept()
                | TaskHeld()
                | TaskProgressed()
                | AttemptOpened()
                | AttemptAccepted()
                | BreakerMoved()
                | AccountRested()
                | BudgetRefused()
                | QueueRefused()
                | DrainStarted()
                | CallCut()
                | Recovered()
                | LifeReplaced()
                | KeyChanged()
                | TasksTaken()
            ):
                return
            case _:
                assert_never(event)

    def _end_attempt(self, event: AttemptEnded) -> None:
        attempt = event.attempt
        provider, model = self._upstream(attempt.provider, attempt.target_model)
        outcome = attempt.outcome or OTHER
        self._count("attempts_total", 1, provider, model, outcome, attempt.billing.value)
        seconds = max(0, (attempt.ended_at or event.at) - attempt.started_at) / 1000
        self._observe("attempt_duration_seconds", seconds, provider, model)
        if not attempt.cost_nanos:
            return  # an unknown cost enters no counter; attempts_total{billing="unknown"} shows it
        usd = attempt.cost_nanos / NANOS_PER_USD
        self._count("cost_usd_total", usd, provider, model, self._tenant(attempt.tenant))
        # A part of a task that goes on counts as delivered: what a cancel makes of it later is in the task's bill.
        delivered = outcome == SUCCEEDED and (event.task.state is State.SUCCEEDED or not event.task.is_terminal)
        if attempt.billing is Billed.YES and not delivered:
            reason = event.task.state.value if outcome == SUCCEEDED else outcome
            self._count("wasted_usd_total", usd, provider, reason)

    def _end_relayed(self, event: RelayEnded) -> None:
        """A try of a relayed completion counts as an attempt."""
        one = event.relayed
        provider, model = self._upstream(one.provider, one.target_model)
        self._count("attempts_total", 1, provider, model, one.outcome, one.billing.value)
        self._observe("attempt_duration_seconds", max(0, one.ended_at - one.started_at) / 1000, provider, model)
        if one.cost_nanos:
            usd = one.cost_nanos / NANOS_PER_USD
            self._count("cost_usd_total", usd, provider, model, self._tenant(one.tenant))
            if one.billing is Billed.YES and one.outcome != SUCCEEDED:
                self._count("wasted_usd_total", usd, provider, one.outcome)

    # -- a scrape ---------------------------------------------------------------------------------------------------

    async def render(self) -> tuple[bytes, str]:
        """The page and its content type. At most one rendering runs, and none within a second of the last."""
        loop = asyncio.get_running_loop()
        if self._page is not None and loop.time() - self._page[0] < RENDER_EVERY_S:
            return self._page[1], CONTENT_TYPE_LATEST
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._render())
            self._rendering.add_done_callback(self._rendered)
        return await asyncio.shield(self._rendering), CONTENT_TYPE_LATEST

    async def _render(self) -> bytes:
        self._put(await self._levels())
        loop = asyncio.get_running_loop()
        page = await loop.run_in_executor(None, generate_latest, self.registry)
        self._page = (loop.time(), page)
        return page

    def _rendered(self, _ended: asyncio.Task[bytes]) -> None:
        self._rendering = None

    def _put(self, levels: Levels) -> None:
        for priority in Priority:
            self._gauges["queue_depth"].labels(priority.word).set(levels.queue_depth.get(priority, 0))
        self._gauges["queue_oldest_seconds"].set(levels.queue_oldest_s)
        self._gauges["loop_lag_seconds"].set(levels.loop_lag_s)
        for name, rows in (
            ("circuit_state", levels.circuits),
            ("inflight", {(provider,): count for provider, count in levels.inflight.items()}),
            ("budget_remaining_usd", {(one,): left / NANOS_PER_USD for one, left in levels.budgets_left_nanos.items()}),
            ("config_info", {(self._rules().hash,): 1}),
        ):
            gauge = self._gauges[name]
            gauge.clear()  # what a reload took away must not stand on
            for labels, value in rows.items():
                gauge.labels(*labels).set(value)

    def _begin_at_zero(self) -> None:
        """Show the counters whose labels are a closed set before they count.

        Prometheus cannot see the step of a counter that appears with its first one: the first file that is rejected
        would raise no alert, and the share of successes of a model that never had one would be missing, not 0.
        """
        for result in (APPLIED, REJECTED):
            self._count("config_reloads_total", 0, result)
        for result in DELIVERIES.values():
            self._count("webhook_deliveries_total", 0, result)
        for model in self._known.models:
            for state in TERMINAL:
                self._count("tasks_finished_total", 0, model, state.value)

    # -- labels -----------------------------------------------------------------------------------------------------

    def _count(self, name: str, amount: float, *labels: str) -> None:
        self._child(name, self._counters[name], labels).inc(amount)

    def _observe(self, name: str, seconds: float, *labels: str) -> None:
        self._child(name, self._histograms[name], labels).observe(seconds)

    def _child(self, name: str, parent: Child, labels: tuple[str, ...]) -> Child:
        """Find the child of these labels; finding it through the library costs four times as much."""
        if not labels:
            return parent
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[name, *labels] = parent.labels(*labels)
        return child  # type: ignore[return-value]  # the key begins with the name, which has one kind

    def _model(self, name: str) -> str:
        return name if name in self._known.models else OTHER

    def _tenant(self, name: str) -> str:
        return name if name in self._known.tenants else OTHER

    def _target(self, name: str) -> str:
        return name if name in self._known.targets else OTHER

    def _upstream(self, provider: str, model: str) -> tuple[str, str]:
        if provider not in self._known.providers:
            return OTHER, OTHER
        return provider, model if (provider, model) in self._known.upstreams else OTHER


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a configuration gives: all that may stand in a label."""

    models: frozenset[str]
    providers: frozenset[str]
    upstreams: frozenset[tuple[str, str]]
    targets: frozenset[str]
    tenants: frozenset[str]

    @classmethod
    def of(cls, rules: Ruleset) -> Known:
        """Collect them. The entry `*` of tenants names nobody."""
        targets = [target for model in rules.models.values() for target in targets_of(model)]
        return cls(
            models=frozenset(rules.models),
            providers=frozenset(rules.providers),
            upstreams=frozenset((target.provider, target.model) for target in targets),
            targets=frozenset(target.name for target in targets),
            tenants=frozenset(rules.tenants) - {"*"},
        )


def targets_of(model: Model) -> tuple[Target, ...]:
    """Every target that a model may use, by its own list or by a rule."""
    return tuple(target for rule in (model.otherwise, *model.rules) for target in rule.targets)
