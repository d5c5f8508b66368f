"""A seeded scenario: which providers and rules there are, what clients do and when, and when the daemon dies.

Each seed switches on a random subset of faults and features, so that no single mixture hides another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from random import Random

from router.policy.rules import (
    Breaker,
    Budget,
    Credential,
    Defaults,
    OnFailure,
    Price,
    Provider,
    Rate,
    Retry,
    RetryUnknown,
    Rule,
    Ruleset,
    Scope,
    Strategy,
    Target,
    Tenant,
    When,
    Window,
)
from router.policy.rules import Model as RoutedModel
from router.task import Priority
from tests.sim.fleet import Habits, facts_of

USD = 1_000_000_000
FAULTS_UNTIL_S = 900.0
CRASH_POINTS = tuple(f"C{number}" for number in range(10))
UNKNOWN_RULES = {
    "never": RetryUnknown.NEVER,
    "if_idempotent": RetryUnknown.IF_IDEMPOTENT,
    "always": RetryUnknown.ALWAYS,
}


# The state that a cancel waits for, the rare ones more often.
CANCELLED_IN = ("pending", "running", "running", "retrying", "retrying", "retrying", "succeeded", "failed", "expired")


@dataclass(frozen=True, slots=True)
class Submit:
    """A client asks for a picture; with a key it asks again with the same key after a crash."""

    at_s: float
    number: int
    tenant: str
    model: str
    key: str | None
    priority: Priority
    start_within_s: float | None
    timeout_s: float | None
    n: int = 1


@dataclass(frozen=True, slots=True)
class Cancel:
    """A client cancels the task of a submit once it is in that state, if it ever is; perhaps twice."""

    at_s: float
    number: int
    when_state: str
    twice: bool


@dataclass(frozen=True, slots=True)
class Reload:
    """An operator changes the rules."""

    at_s: float
    variant: int


@dataclass(frozen=True, slots=True)
class Restart:
    """The daemon is told to stop when so many intents are about to be written, or is taken over while it still runs."""

    at_s: float
    takeover: bool
    intents: int


Action = Submit | Cancel | Reload | Restart


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that a seed decides beforehand. `crashes`: (point, how often it is passed first); `storm`: when all fail."""

    seed: int
    habits: tuple[Habits, ...]
    actions: tuple[Action, ...]
    crashes: tuple[tuple[str, int], ...]
    storm: tuple[float, float]
    rules: Mapping[int, Ruleset] = field(default_factory=dict)


def draw(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    dice, parts = Random(f"scenario {seed}"), Random(f"parts {seed}")
    habits = tuple(
        _habits(dice, name, index, max_n=parts.choice((1, 2, 4)))
        for index, name in enumerate(("alpha", "beta", "gamma", "delta"))
    )
    actions: list[Action] = []
    for number in range(60):
        at_s = dice.random() * FAULTS_UNTIL_S * 0.9
        actions.append(
            Submit(
                at_s=at_s,
                number=number,
                tenant=dice.choice(("free", "free", "poor", "studio")),
                model=dice.choice(tuple(UNKNOWN_RULES)),
                key=f"key-{number}" if dice.random() < 0.5 else None,
                priority=dice.choice(tuple(Priority)),
                start_within_s=dice.choice((0.2, 5.0)) if dice.random() < 0.1 else None,
                timeout_s=dice.choice((1.0, 20.0)) if dice.random() < 0.15 else None,
                n=parts.choice((1, 1, 1, 2, 3, 4)),
            )
        )
        if dice.random() < 0.55:
            state = dice.choice(CANCELLED_IN)
            delay_s = 0.0 if state == "pending" else dice.random() * 5
            actions.append(Cancel(at_s + delay_s, number, state, twice=dice.random() < 0.3))
    actions.extend(Reload(dice.random() * FAULTS_UNTIL_S, variant) for variant in range(1, 4))
    for turn in range(2):
        at_s = dice.random() * FAULTS_UNTIL_S
        actions.append(Restart(at_s, takeover=False, intents=dice.randint(1, 5)))
        actions.extend(_urgent(at_s, 100 + 10 * turn + index) for index in range(4))
    if dice.random() < 0.5:
        at_s = dice.random() * FAULTS_UNTIL_S
        actions.append(Restart(at_s, takeover=True, intents=2))
        actions.extend(_urgent(at_s, 120 + index) for index in range(3))
    crashes = tuple((CRASH_POINTS[(seed + turn) % len(CRASH_POINTS)], dice.randint(1, 9)) for turn in range(4))
    storm_at_s = dice.random() * FAULTS_UNTIL_S * 0.8
    # Enough to open every breaker, and then a herd that waits for the first to be probed.
    actions.extend(_urgent(storm_at_s + 3.0 * index, 140 + index) for index in range(6))
    actions.extend(_urgent(storm_at_s + 55.0 + 0.1 * index, 150 + index) for index in range(10))
    return Scenario(
        seed=seed,
        habits=habits,
        actions=tuple(sorted(actions, key=lambda action: (action.at_s, str(action)))),
        crashes=crashes,
        storm=(storm_at_s, storm_at_s + 60.0),
        rules={variant: ruleset(habits, variant) for variant in range(4)},
    )


def _urgent(restart_at_s: float, number: int) -> Submit:
    """A submit just before a restart, so that the shutdown has something to interrupt."""
    return Submit(
        at_s=restart_at_s - 0.1,
        number=number,
        tenant="free",
        model="never",
        key=None,
        priority=Priority.URGENT,
        start_within_s=None,
        timeout_s=None,
    )


def _habits(dice: Random, name: str, index: int, *, max_n: int) -> Habits:
    faults = {
        fate: share * dice.choice((0.0, 1.0, 1.0, 2.0))
        for fate, share in {
            "unsent": 0.04,
            "throttled": 0.05,
            "overloaded": 0.05,
            "server_error": 0.04,
            "account": 0.01,
            "bad_request": 0.015,
            "unsupported": 0.01,
            "unknown_free": 0.05,
            "unknown_paid": 0.05,
            "unusable": 0.02,
            "refused": 0.02,
            "result_lost": 0.02,
            "bug": 0.015,
            "job_failed": 0.04,
            "lost": 0.03,
            "hang": 0.01,
        }.items()
    }
    return Habits(
        name=name,
        polled=index % 2 == 0,
        price=USD * (3 + index) // 100,
        max_n=max_n,
        idempotent=index >= 2,
        cancels=index == 0,
        refusals_billed=index != 2,
        faults=faults,
        latency_s=(0.3, dice.choice((4.0, 15.0))),
    )


def ruleset(habits: tuple[Habits, ...], variant: int) -> Ruleset:
    """Compile the rules of a scenario; each variant differs in strategy, order and patience."""
    order = habits[variant % len(habits) :] + habits[: variant % len(habits)]
    providers = {
        one.name: Provider(
            name=one.name,
            adapter=facts_of(one),
            base_url=f"https://{one.name}.invalid",
            credentials=(Credential("one", f"secret-{variant % 2}"), Credential("two", "secret")),
            max_concurrency=3,
            rate=Rate(30, 10.0) if one.name == "beta" else None,
            breaker=Breaker(consecutive_failures=4, minimum=6, open_for_s=10.0, open_max_s=40.0),
        )
        for one in habits
    }
    targets = tuple(
        Target(one.name, one.name, "picture-1", Price(image={"default": one.price}), facts_of(one).abilities["*"])
        for one in order
    )
    models = {}
    for name, unknown in UNKNOWN_RULES.items():
        rule = Rule(
            number=0,
            when=When(),
            targets=targets,
            strategy=(Strategy.ORDERED, Strategy.CHEAPEST, Strategy.WEIGHTED, Strategy.ORDERED)[variant],
            on_failure=OnFailure.CHEAPEST if variant % 2 else OnFailure.NEXT,
            timeout_s=60.0,
            retry=Retry(
                per_target=1,
                total=4,
                retry_unknown=unknown,
                retry_unusable_failover=name == "always",
                on_refusal_failover=variant == 2,
            ),
        )
        models[name] = RoutedModel(name=name, family="image", rules=(), otherwise=rule)
    return Ruleset(
        hash=f"variant-{variant}",
        zone=UTC,
        defaults=Defaults(max_pending=500, per_tenant=200, retention_s=1200.0, row_retention_s=10**7),
        providers=providers,
        models=models,
        aliases={},
        default_model={},
        budgets=(
            Budget(Scope.TENANT, "poor", Window.TOTAL, 60 * USD // 100),
            Budget(Scope.TENANT, "studio", Window.HOUR, 5 * USD),
            Budget(Scope.PROVIDER, "alpha", Window.TOTAL, 90 * USD // 100),
        ),
        tenants={"studio": Tenant("studio", weight=3, max_concurrency=4)},
    )
