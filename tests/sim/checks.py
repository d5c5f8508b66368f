"""The invariants, judged from outside: events as they happen, providers' books, the store's rows and ledger at the end.

Each check names the invariant of the design that it holds (I1 to I9, I14, I20, I25). A violation is a line of text; the
run fails with all of them. Checks read the store through `audit`, which sees exactly what a restart would see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from router.events import (
    AttemptAccepted,
    AttemptEnded,
    AttemptOpened,
    BreakerMoved,
    Event,
    TaskEnded,
)
from router.outbox import TERMINAL_TYPES, WebhookSearch
from router.outcome import SUCCEEDED, Billed, FailureKind
from router.persistence import Store, TaskView
from router.policy.rules import RetryUnknown, Ruleset
from router.task import Attempt, AttemptState, State
from tests.sim.fleet import FakeProvider, images_of, task_of
from tests.sim.loop import run_now

BARRING = {FailureKind.UNKNOWN.value, FailureKind.LOST.value}


@dataclass(slots=True)
class Judge:
    """Watches a whole simulation, all its lives."""

    audit: Store
    providers: dict[str, FakeProvider]
    rules: Ruleset
    tenants: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    ends: dict[str, State] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    circuits: dict[tuple[int, str, str], tuple[str, int]] = field(default_factory=dict)
    probing: dict[tuple[int, str, str], list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    owner: int = 0
    taken_over_at: int = 0
    submissions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def reader(self, life: int) -> Callable[[Event], None]:
        """Judge the events of one life; each has breakers of its own."""
        return lambda event: self.read(life, event)

    def blame(self, check: str, text: str) -> None:
        """Note a violation."""
        self.violations.append(f"{check}: {text}")

    def row(self, task_id: str) -> TaskView | None:
        """Read a task as a restart would find it."""
        tenant = self.tenants.get(task_id)
        return None if tenant is None else run_now(self.audit.view(tenant, task_id))

    # -- while it runs ----------------------------------------------------------------------------------------------

    def takeover(self, life: int, at: int) -> None:
        """From now on only this life may write (I7)."""
        self.owner, self.taken_over_at = life, at

    def receipt(self, provider: FakeProvider, key: str, n: int) -> None:
        """I4: a paid request has arrived, so its intent must be durable. I5 and I6: and it must be permitted."""
        task_id = task_of(key)
        view = self.row(task_id)
        if view is None:
            self.blame("I4 intent", f"{provider.habits.name} received {key}, and there is no such task")
            return
        if not any((one.provider, one.attempt_key) == (provider.habits.name, key) for one in view.attempts):
            self.blame("I4 intent", f"{provider.habits.name} received {key} without a durable intent")
        self.submissions[task_id].append(provider.habits.name)
        self._check_resubmission(provider, key, n, view)

    def _check_resubmission(self, provider: FakeProvider, key: str, n: int, view: TaskView) -> None:
        """I5, I6: no second paid request while an earlier one may have succeeded, unless the rule says so."""
        if self.model_retries(view.task.model) is RetryUnknown.ALWAYS:
            return
        same_and_safe = self.model_retries(view.task.model) is RetryUnknown.IF_IDEMPOTENT and provider.habits.idempotent
        for other in self.providers.values():
            for sale in other.sales.values():
                again = sale.task_id == task_of(key) and set(sale.images) & set(images_of(key, n))
                if not again or not sale.charged or sale.cancelled:
                    continue
                if sale.fate in {"fine", "result_lost"} and not (same_and_safe and other is provider):
                    self.blame(
                        "I5 paid again", f"{key} was sold by {sale.provider} and asked of {provider.habits.name}"
                    )

    def read(self, life: int, event: Event) -> None:
        """Judge an event when it happens."""
        task = getattr(event, "task", None)
        if task is not None:
            self.tenants[task.id] = task.tenant
            self.states[task.id] = task.state
        match event:
            case AttemptOpened(task=task, attempt=attempt):
                if life < self.owner and attempt.started_at > self.taken_over_at:
                    self.blame("I7 fence", f"life {life} opened an attempt of {task.id} after life {self.owner} began")
                view = self.row(task.id)
                still = [one for one in view.attempts if one.state is not AttemptState.ENDED] if view else []
                if max(self._count_images(view, still).values(), default=0) > 1:
                    self.blame("I3 one attempt", f"{task.id} has {len(still)} open attempts of one part")
                self._check_circuit((life, attempt.provider, attempt.target), attempt)
            case AttemptAccepted(task=task, attempt=attempt):
                view = self.row(task.id)
                known = view is not None and any(
                    one.n == attempt.n and (one.handle is not None or one.state is AttemptState.ENDED)
                    for one in view.attempts
                )
                if not known:
                    self.blame("I6 remote id", f"{task.id}: the job id is not durable when its polling begins")
            case AttemptEnded(attempt=attempt):
                if life < self.owner and (attempt.ended_at or 0) > self.taken_over_at:
                    self.blame("I7 fence", f"life {life} ended an attempt of {attempt.task_id} after it was replaced")
                self._check_probe((life, attempt.provider, attempt.target), attempt)
            case TaskEnded(task=task):
                before = self.ends.setdefault(task.id, task.state)
                if before is not task.state:
                    self.blame("I2 one end", f"{task.id} ended {before} and then {task.state}")
            case BreakerMoved(at=at, provider=provider, target=target, after=after):
                self.circuits[(life, provider, target)] = (after, at)
                if after == "half_open":
                    self.probing[(life, provider, target)] = []
            case _:
                return

    def _check_circuit(self, where: tuple[int, str, str], attempt: Attempt) -> None:
        """I20: an open breaker sees only probes, one at a time."""
        state, since = self.circuits.get(where, ("closed", 0))
        # An attempt that had its place before the breaker opened may still be writing its intent.
        if state == "open" and attempt.started_at > since:
            self.blame("I20 breaker", f"an attempt went to {where} while its breaker was open")
        if state == "half_open":
            self.probing[where].append(attempt)

    def _check_probe(self, where: tuple[int, str, str], ended: Attempt) -> None:
        """I20: no other probe may have begun before this one was over."""
        probes = self.probing[where]
        mine = [one for one in probes if (one.task_id, one.n) == (ended.task_id, ended.n)]
        for one in probes:
            if mine and one is not mine[0] and mine[0].started_at <= one.started_at < (ended.ended_at or 0):
                self.blame("I20 probe", f"two probes at once at {where}: {mine[0].task_id} and {one.task_id}")

    # -- at the end -------------------------------------------------------------------------------------------------

    def model_retries(self, model: str) -> RetryUnknown:
        """What the rules of a model say about unknown outcomes."""
        return self.rules.models[model].otherwise.retry.retry_unknown

    def final(self) -> None:
        """Judge what is left when everything should have ended."""
        for task_id in self.acknowledged:
            view = self.row(task_id)
            if view is None:
                self.blame("I1 lost", f"{task_id} was acknowledged and is gone")
            elif not view.task.is_terminal:
                self.blame("I1 stuck", f"{task_id} was acknowledged and is still {view.task.state}")
        for task_id in self.tenants:
            view = self.row(task_id)
            if view is not None:
                self._check_end(view)
                self._check_webhooks(view)
                self._check_bill(view)
                self._check_ledger(view)
        self._check_balances()

    def _check_end(self, view: TaskView) -> None:
        ended = self.ends.get(view.task.id)
        swept = ended is State.SUCCEEDED and view.task.state is State.EXPIRED
        if ended is not None and view.task.state is not ended and not swept:
            self.blame("I2 one end", f"{view.task.id} ended {ended} and its row says {view.task.state}")
        if any(one.state is not AttemptState.ENDED for one in view.attempts) and view.task.is_terminal:
            self.blame("I1 unheard", f"{view.task.id} has ended with an attempt that nobody heard")
        if self.model_retries(view.task.model) is RetryUnknown.NEVER:
            for at, one in enumerate(view.attempts):
                later = self._count_images(view, view.attempts[at + 1 :])
                if one.outcome in BARRING and any(image in later for image in one.covers(_asked_of(view))):
                    self.blame("I5 unknown", f"{view.task.id} went on after attempt {one.n} ended {one.outcome}")
        if view.task.state is State.SUCCEEDED:
            made = self._count_images(view, [one for one in view.attempts if one.outcome == SUCCEEDED])
            if len(view.task.output) != len(made):
                self.blame("I25 parts", f"{view.task.id} has {len(view.task.output)} of {len(made)} images made")
            if (len(made) < _asked_of(view)) != any("missing" in warning for warning in view.task.warnings):
                self.blame("I25 parts", f"{view.task.id} says {view.task.warnings} of {len(made)} images")
            if len({output.key for output in view.task.output}) != len(view.task.output):
                self.blame("I25 parts", f"{view.task.id} has an output twice")

    def _check_webhooks(self, view: TaskView) -> None:
        """Promise 7: a row of the outbox for the ending of each task that asked for it, and no other ending told."""
        rows = run_now(self.audit.webhooks(WebhookSearch(task_id=view.task.id, limit=1000)))
        told = [row.type for row in rows if row.type in TERMINAL_TYPES]
        lost_output = view.task.state is State.EXPIRED and view.task.error is None
        word = State.SUCCEEDED if lost_output else view.task.state
        owed = [f"task.{word}"] if view.task.is_terminal and view.task.callback_url is not None else []
        if told != owed:
            self.blame("I14 webhook", f"{view.task.id} is {view.task.state} and owes {owed}, its rows say {told}")

    def _count_images(self, view: TaskView, attempts: Sequence[Attempt]) -> Counter[int]:
        """How many of these attempts make each image."""
        return Counter(image for one in attempts for image in one.covers(_asked_of(view)))

    def _check_bill(self, view: TaskView) -> None:
        """Each known bill of the router equals the provider's own; at most one billed success per part."""
        sold = [
            sale
            for provider in self.providers.values()
            for sale in provider.sales.values()
            if sale.task_id == view.task.id and sale.charged
        ]
        paid = sum(sale.charged for sale in sold)
        known = sum(one.cost_nanos or 0 for one in view.attempts if one.billing is not Billed.UNKNOWN)
        unknowns = [one for one in view.attempts if one.billing is Billed.UNKNOWN]
        if not unknowns and known != paid:
            self.blame("I8 bill", f"{view.task.id}: the router wrote {known}, the providers charge {paid}")
        if unknowns and known > paid:
            self.blame("I8 bill", f"{view.task.id}: the router wrote {known}, more than the {paid} charged")
        successes = self._count_images(view, [one for one in view.attempts if one.outcome == SUCCEEDED])
        if max(successes.values(), default=0) > 1:
            self.blame("I5 paid twice", f"{view.task.id} has an image twice: {successes}")
        once = self.model_retries(view.task.model) is not RetryUnknown.ALWAYS
        good = Counter(image for sale in sold if sale.fate in {"fine", "result_lost"} for image in sale.images)
        if once and max(good.values(), default=0) > 1:
            self.blame("I5 paid twice", f"{view.task.id} was sold an image twice: {good}")

    def _check_ledger(self, view: TaskView) -> None:
        """I8: per attempt and budget one hold, then one settle or release (none while it is open or unknown)."""
        lines = run_now(self.audit.ledger(view.task.id))
        for one in view.attempts:
            for budget in {line.budget for line in lines if line.n == one.n and line.budget}:
                # An interrupted attempt leaves a hold and its release behind, and its number is used again.
                mine = [line.entry for line in lines if line.n == one.n and line.budget == budget]
                held = mine.count("hold") - mine.count("settle") - mine.count("release")
                elsewhere = budget.startswith("provider:") and budget != f"provider:{one.provider}"
                still = not elsewhere and (one.state is not AttemptState.ENDED or one.billing is Billed.UNKNOWN)
                if held != (1 if still else 0):
                    self.blame("I8 settle", f"{view.task.id} attempt {one.n}: {mine} of {budget}")
        spent = sum(line.spent_delta or 0 for line in lines if line.entry == "spend")
        known = sum(one.cost_nanos or 0 for one in view.attempts)
        if spent != known:
            self.blame("I8 spend", f"{view.task.id}: spend lines say {spent}, attempts say {known}")
        if self.must_reserve(view) and not any(line.entry == "reserve" for line in lines):
            self.blame("I9 reservation", f"{view.task.id} was admitted without a reservation")

    def must_reserve(self, view: TaskView) -> bool:
        """Whether a tenant budget covers the task."""
        return any(view.task.tenant == one.match and one.scope.value == "tenant" for one in self.rules.budgets)

    def _check_balances(self) -> None:
        """I8 and I9: every balance is the sum of its ledger lines and within its limit."""
        held: Counter[tuple[str, str]] = Counter()
        spent: Counter[tuple[str, str]] = Counter()
        for task_id in self.tenants:
            for line in run_now(self.audit.ledger(task_id)):
                if line.budget:
                    held[(line.budget, line.window)] += line.held_delta
                    spent[(line.budget, line.window)] += line.spent_delta or 0
        names = sorted(held)
        limits = {f"{one.scope.value}:{one.match}": one.limit for one in self.rules.budgets}
        for balance in run_now(self.audit.balances(names)):
            name = (balance.budget, balance.window)
            if (balance.held, balance.spent) != (held[name], spent[name]):
                self.blame("I8 balance", f"{name} says {balance}, its lines say {held[name]}, {spent[name]}")
            if balance.held < 0:
                self.blame("I8 balance", f"{name} holds less than nothing: {balance.held}")
            if balance.held + balance.spent > limits[balance.budget]:
                self.blame("I9 budget", f"{name} is overspent: {balance.held} + {balance.spent}")


def _asked_of(view: TaskView) -> int:
    """How many images a task asks for; retention takes its input away, and then the attempts tell."""
    return int(view.task.input.get("n", max((one.part + one.count for one in view.attempts), default=1)))
