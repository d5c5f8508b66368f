"""Which targets may make an attempt of a task, in which order, and why the others may not: the plan of a decision.

The order is that of contract section 6: the rule (`match`), what each target could do at all (`fit`), the strategy or
the request's own `order` and `sort`; then what is true at this moment (budgets, accounts, circuits) and what the task's
history permits (`retry`). Whether the model is allowed to the tenant is asked before (intake); what to do with a plan
is decided in `verdict`. Pure: the state of the fleet comes in as a `FleetView`, the instant as a number, and `weighted`
is a hash of the task id. Floor 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from hashlib import sha256
from typing import Any, Protocol

from router.money import usd_of
from router.outcome import Billed, FailureKind
from router.policy.fit import Exclusion, Reason, exclude, find_misfit, is_named, untaken_by, wishes_of
from router.policy.match import attempt_timeout_s, match_rule
from router.policy.price import quote_in_parts
from router.policy.retry import permits_other, permits_same
from router.policy.rules import Model, OnFailure, Provider, Retry, Rule, Ruleset, Shape, Strategy, Target, When
from router.provider import Abilities, Kind
from router.task import Preferences

__all__ = [
    "RESTING",
    "Candidate",
    "Exclusion",
    "FleetView",
    "Plan",
    "Reason",
    "Standing",
    "TrackRecord",
    "Try",
    "UnknownModel",
    "attempt_timeout_s",
    "dropped_fields",
    "explain",
    "plan",
    "reconstruct",
]


RESTING = "resting"  # the upstream asked us to stay away for a while
REPEATS = "repeats"  # the retry budget of the provider is used up; it fills by one a second
REPEATS_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a target stands right now.

    `reason`: None, `open`, `probing`, `resting` (ready in `ready_in_s` seconds), or `account`, `forced_open` (out until
    somebody acts). `probe`: the circuit is half-open and this try would be its probe. `detail`: for `account` the
    provider's own words.
    """

    ready_in_s: float
    probe: bool
    reason: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """How a target has done: the median time of its successes, and their share in the last hour; None: too few."""

    latency_s: float | None = None
    success_rate: float | None = None


class FleetView(Protocol):
    """What a decision may ask of the fleet."""

    def track_record(self, provider: Provider, target: Target) -> TrackRecord:
        """Tell how the target has done lately."""

    def standing(self, provider: Provider, target: Target) -> Standing:
        """Tell how the target stands."""

    def may_repeat(self, provider: Provider, target: Target) -> bool:
        """Tell whether the retry budget has room for a repeat at this target."""


@dataclass(frozen=True, slots=True)
class Try:
    """One failed attempt of a task (of a part of it)."""

    target: str
    kind: FailureKind
    billed: Billed


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that may make the next attempt, at once or in `ready_in_s` seconds.

    `price_nanos` is the estimate of the whole shape, in parts where need be, None when unknown. `tries` counts the
    attempts made here. `score` is what it was put in order by, the smaller first, None last. `reason` is the
    standing's or `repeats`.
    """

    target: Target
    provider: Provider
    price_nanos: int | None
    ready_in_s: float
    probe: bool
    tries: int
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of a decision: candidates in the order to take them (untried ones first), and everybody else.

    `timeout_s` bounds one attempt. `dropped` are the input fields that the first candidate does not take, `fields` all
    that were sent and matter. `ordered_by` is the strategy, or `order` or the word of `sort` where the request said so.
    """

    rule: Rule
    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]
    timeout_s: float
    dropped: tuple[str, ...] = ()
    model: str = ""
    ordered_by: str = Strategy.ORDERED.value
    fields: frozenset[str] = frozenset()

    @property
    def waits_for_operator(self) -> bool:
        """Whether only targets that an operator keeps open are left: a task that was admitted waits (contract 1)."""
        return not self.candidates and any(one.reason is Reason.FORCED_OPEN for one in self.excluded)

    def dropped_for(self, candidate: Candidate) -> tuple[str, ...]:
        """Name the input fields that this candidate does not take."""
        return untaken_by(candidate.target, self.fields)


@dataclass(frozen=True, slots=True)
class UnknownModel(Plan):
    """The plan of a model that the configuration does not have (any more): nobody can, and nobody was asked."""


def plan(
    shape: Shape,
    preferences: Preferences,
    rules: Ruleset,
    fleet: FleetView,
    *,
    now: int,
    task_id: str,
    history: Sequence[Try] = (),
    priced_only: bool = False,
    barred: frozenset[str] = frozenset(),
) -> Plan:
    """Decide who may make the next attempt; an `UnknownModel` when there is no such model.

    `history`: the failed attempts so far, oldest first. `priced_only`: a budget applies, so targets without a price are
    left out (promise 5). `barred`: providers whose own budget refused this task. Each target of the rule appears
    once, among the candidates or among the excluded.
    """
    timeout_s = attempt_timeout_s(shape)
    model = rules.model(shape.model)
    if model is None:
        nobody = Rule(0, When(), (), Strategy.ORDERED, OnFailure.NEXT, timeout_s, Retry())
        return UnknownModel(nobody, (), (), timeout_s, model=shape.model)
    rule = _rule_for(model, shape, now=now, zone=rules.zone)
    offers, excluded = _screen(rule, rules, shape, preferences, priced_only=priced_only)
    order = _order_by_sort(offers, preferences, fleet) or _order_by_strategy(offers, rule, preferences, task_id)
    offers.sort(key=lambda one: order.places[one.target.name])
    if not preferences.allow_fallbacks:
        excluded += [exclude(one.target, Reason.NOT_FIRST, "the request allows no fallback") for one in offers[1:]]
        del offers[1:]
    candidates, away = _look_around(offers, order, fleet, _Past(history, rule, model, rules), barred=barred)
    untried = [one for one in candidates if one.tries == 0]
    wants_cheapest = rule.on_failure is OnFailure.CHEAPEST and preferences.sort is None
    if wants_cheapest and _is_disturbed(offers, candidates, history):
        order = _order_on_failure(offers, preferences)
        untried = [replace(one, score=order.scores[one.target.name]) for one in untried]
        untried.sort(key=lambda one: order.places[one.target.name])
    again = sorted((one for one in candidates if one.tries > 0), key=lambda one: one.tries)
    fields = wishes_of(shape)
    lined_up = (*untried, *again)
    places = {target.name: place for place, target in enumerate(rule.targets)}
    return Plan(
        rule=rule,
        candidates=lined_up,
        excluded=tuple(sorted([*excluded, *away], key=lambda one: places[one.target])),
        timeout_s=timeout_s if rule.timeout_s is None else rule.timeout_s,
        dropped=untaken_by(lined_up[0].target, fields) if lined_up else (),
        model=model.name,
        ordered_by=order.by,
        fields=fields,
    )


def explain(plan: Plan) -> dict[str, Any]:
    """Show a plan as JSON: the rule, the candidates in order with price and score, each exclusion with its reason.

    Amounts are decimal strings in USD, null when unknown; seconds are numbers. `rule` is its number in the file, 0 for
    the model's own defaults, null when there is no such model.
    """
    return {
        "model": plan.model,
        "rule": None if isinstance(plan, UnknownModel) else plan.rule.number,
        "ordered_by": plan.ordered_by,
        "timeout_s": plan.timeout_s,
        "candidates": [
            {
                "target": one.target.name,
                "provider": one.provider.name,
                "model": one.target.model,
                "price_usd": usd_of(one.price_nanos),
                "score": one.score,
                "ready_in_s": one.ready_in_s,
                "standing": one.reason,
                "probe": one.probe,
                "tries": one.tries,
                "dropped": list(plan.dropped_for(one)),
            }
            for one in plan.candidates
        ],
        "excluded": [
            {
                "target": one.target,
                "provider": one.provider,
                "reason": one.reason.value,
                "detail": one.detail,
                "param": one.param,
            }
            for one in plan.excluded
        ],
    }


def reconstruct(rules: Ruleset, model: str, provider: str, target: str, target_model: str) -> Candidate | None:
    """Find what an attempt of an earlier life was made on, so that it can be polled and settled.

    A target that the rules no longer name is made up, without a price and able to do anything, as what it could do has
    been decided before; None when the provider itself is gone.
    """
    account = rules.providers.get(provider)
    if account is None:
        return None
    known = rules.model(model)
    places = () if known is None else (known.otherwise, *known.rules)
    alike = [one for rule in places for one in rule.targets if one.provider == provider and one.model == target_model]
    named = [one for one in alike if one.name == target]
    found = next(iter(named or alike), None)
    if found is None:
        found = Target(target, provider, target_model, None, Abilities(frozenset(Kind)))
    return Candidate(found, account, None, ready_in_s=0.0, probe=False, tries=0)


def dropped_fields(candidate: Candidate, shape: Shape) -> tuple[str, ...]:
    """Name the fields of a request that this candidate does not take, in alphabetical order."""
    return untaken_by(candidate.target, wishes_of(shape))


# -- the request ----------------------------------------------------------------------------------------------------


def _rule_for(model: Model, shape: Shape, *, now: int, zone: tzinfo) -> Rule:
    """Find the rule that holds; of a remix one that names the film's maker, should it not be named there."""
    rule = match_rule(model, shape, now=now, zone=zone)
    origin = shape.origin
    if origin is None or any(origin.made_by(target) for target in rule.targets):
        return rule
    makers = [one for other in (model.otherwise, *model.rules) for one in other.targets if origin.made_by(one)]
    return replace(rule, targets=tuple(makers[:1])) if makers else rule


@dataclass(frozen=True, slots=True)
class _Offer:
    """A target that could serve the request at some time."""

    target: Target
    provider: Provider
    price_nanos: int | None


def _screen(
    rule: Rule, rules: Ruleset, shape: Shape, preferences: Preferences, *, priced_only: bool
) -> tuple[list[_Offer], list[Exclusion]]:
    """Part the targets that could serve this request at some time from those that never could."""
    offers: list[_Offer] = []
    excluded: list[Exclusion] = []
    for target in rule.targets:
        provider = rules.providers[target.provider]
        price_nanos = quote_in_parts(target.price, shape, target.abilities.max_n)
        misfit = find_misfit(target, provider, price_nanos, shape, preferences, priced_only=priced_only)
        if misfit is None:
            offers.append(_Offer(target, provider, price_nanos))
        else:
            excluded.append(misfit)
    return offers, excluded


# -- the order ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """The order of the offers. `by` is the word for what the scores are, `places` the result, by target name."""

    by: str
    scores: Mapping[str, float | None]
    places: Mapping[str, int]


def _order_by_sort(offers: Sequence[_Offer], preferences: Preferences, fleet: FleetView) -> _Order | None:
    """Order as the request's `sort` says, which replaces the strategy; None when it says nothing.

    Who has done too little to tell comes last, as the file lists them.
    """
    scores: Mapping[str, float | None]
    match preferences.sort:
        case None:
            return None
        case "latency":
            scores = {one.target.name: fleet.track_record(one.provider, one.target).latency_s for one in offers}
        case "success":
            rates = {one.target.name: fleet.track_record(one.provider, one.target).success_rate for one in offers}
            scores = {name: None if rate is None else 1 - rate for name, rate in rates.items()}
        case _:
            scores = _prices_of(offers)
    return _order(offers, scores, preferences.sort, preferences)


def _order_by_strategy(offers: Sequence[_Offer], rule: Rule, preferences: Preferences, task_id: str) -> _Order:
    """Order as the rule's strategy says."""
    scores: Mapping[str, float | None]
    match rule.strategy:
        case Strategy.ORDERED:
            scores = {target.name: place for place, target in enumerate(rule.targets)}
        case Strategy.CHEAPEST:
            scores = _prices_of(offers)
        case Strategy.WEIGHTED:
            scores = {one.target.name: _draw(task_id, one.target) for one in offers}
    return _order(offers, scores, rule.strategy.value, preferences)


def _order_on_failure(offers: Sequence[_Offer], preferences: Preferences) -> _Order:
    """`on_failure: cheapest`. What the request itself asked for (`order`) stays."""
    return _order(offers, _prices_of(offers), Strategy.CHEAPEST.value, preferences)


def _order(offers: Sequence[_Offer], scores: Mapping[str, float | None], by: str, preferences: Preferences) -> _Order:
    """Put the smaller score first and None last, ties as they are in the file; then those first that `order` names."""
    names = sorted((one.target.name for one in offers), key=lambda name: (scores[name] is None, scores[name] or 0))
    if preferences.order:
        ranks = {one.target.name: _rank_of(one.target, preferences.order) for one in offers}
        names.sort(key=lambda name: ranks[name])
        by, scores = "order", ranks
    return _Order(by, scores, {name: place for place, name in enumerate(names)})


def _prices_of(offers: Sequence[_Offer]) -> dict[str, int | None]:
    return {one.target.name: one.price_nanos for one in offers}


def _rank_of(target: Target, order: tuple[str, ...]) -> int:
    """The place of the first name that means this target, or the place behind all of them."""
    return next((rank for rank, name in enumerate(order) if is_named(target, (name,))), len(order))


def _draw(task_id: str, target: Target) -> float | None:
    """Draw the arrival time of a target in a race that it wins with probability weight / sum of weights.

    The draw is a hash of task and target, so that a task keeps its order over retries, restarts and replicas. A weight
    of 0 never starts: such a target is taken last.
    """
    if target.weight <= 0:
        return None
    digest = sha256(f"{task_id}/{target.name}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 1) / 2**64
    return -math.log(uniform) / target.weight


# -- the moment and the history ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Past:
    """The failures of a task so far, judged under the rules in force now."""

    history: Sequence[Try]
    rule: Rule
    model: Model
    rules: Ruleset

    def tries_at(self, target: Target) -> int:
        """Count the attempts made at a target."""
        return sum(past.target == target.name for past in self.history)

    def bar(self, one: _Offer) -> str | None:
        """Say why this target may not be tried (again), None when it may.

        Every failure of the target itself must permit the same target, every other failure must permit moving on.
        """
        retry = self.rule.retry
        for past in self.history:
            if past.target == one.target.name:
                failures = sum(other.target == past.target and other.kind is past.kind for other in self.history)
                unknown = one.provider.retry_unknown or retry.retry_unknown
                if not permits_same(past.kind, failures, unknown, idempotent=one.provider.adapter.idempotent):
                    return f"an attempt here ended {past.kind.value}, which is not repeated"
                continue
            provider = self._provider_of(past.target)
            unknown = retry.retry_unknown if provider is None else provider.retry_unknown or retry.retry_unknown
            free = provider is not None and provider.adapter.refusals_free
            if not permits_other(past.kind, past.billed, retry, unknown, refusals_free=free):
                return f"an attempt at {past.target} ended {past.kind.value}, which bars other targets"
        tries = self.tries_at(one.target)
        if tries > retry.per_target:
            return f"it was tried {tries} times; the rule allows {retry.per_target} repeats"
        return None

    def _provider_of(self, target: str) -> Provider | None:
        """Find where an earlier attempt was made: this rule's target of that name, else any of the model's."""
        for rule in (self.rule, self.model.otherwise, *self.model.rules):
            for one in rule.targets:
                if one.name == target:
                    return self.rules.providers[one.provider]
        return None


def _look_around(
    offers: Sequence[_Offer], order: _Order, fleet: FleetView, past: _Past, *, barred: frozenset[str]
) -> tuple[list[Candidate], list[Exclusion]]:
    """Part those that may make an attempt, now or soon, from those that budgets, accounts or the history keep out."""
    candidates: list[Candidate] = []
    away: list[Exclusion] = []
    for one in offers:
        if one.provider.name in barred:
            away.append(exclude(one.target, Reason.BUDGET, f"the budget of {one.provider.name} has no room for this"))
            continue
        standing = fleet.standing(one.provider, one.target)
        if standing.reason in {Reason.ACCOUNT, Reason.FORCED_OPEN}:
            detail = standing.detail or f"its circuit is out ({standing.reason})"
            away.append(exclude(one.target, Reason(standing.reason), detail))
            continue
        bar = past.bar(one)
        if bar is not None:
            away.append(exclude(one.target, Reason.TRIED, bar))
            continue
        tries, ready_in_s, reason = past.tries_at(one.target), max(0.0, standing.ready_in_s), standing.reason
        if tries > 0 and ready_in_s < REPEATS_WAIT_S and not fleet.may_repeat(one.provider, one.target):
            # Waited for, not given up: what the budget bounds is the load of repeats, not the task's life.
            ready_in_s, reason = REPEATS_WAIT_S, REPEATS
        candidates.append(
            Candidate(
                target=one.target,
                provider=one.provider,
                price_nanos=one.price_nanos,
                ready_in_s=ready_in_s,
                probe=standing.probe,
                tries=tries,
                score=order.scores[one.target.name],
                reason=reason,
            )
        )
    return candidates, away


def _is_disturbed(offers: Sequence[_Offer], candidates: Sequence[Candidate], history: Sequence[Try]) -> bool:
    """Whether something has failed, or the first of the order cannot be taken now: when `on_failure` takes over."""
    if history or not offers:
        return True
    first = next((one for one in candidates if one.target is offers[0].target), None)
    return first is None or first.ready_in_s > 0
