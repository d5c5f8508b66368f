"""Rulesets and fleets for the tests of decisions: small, explicit, and ready unless a test says otherwise."""

from dataclasses import dataclass, field
from datetime import UTC

from router.outcome import FACTS, Billed, FailureKind
from router.policy.route import Standing, TrackRecord, Try
from router.policy.rules import (
    Credential,
    Defaults,
    Model,
    OnFailure,
    Price,
    Provider,
    Retry,
    Rule,
    Ruleset,
    Shape,
    Strategy,
    Target,
    When,
)
from router.provider import Abilities, AdapterFacts, Kind
from router.task import Preferences

NOON = 1_795_176_000_000  # 2026-11-20T12:00:00Z, a Friday
IMAGES = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), max_n=10)
CENT = 10_000_000  # nano-USD
PICTURE = Shape(kind=Kind.IMAGE_GENERATION, model="m", size="1024x1024", fields=frozenset({"prompt", "size"}))


def adapter(slug="simulated", **facts):
    return AdapterFacts(slug=slug, base_url=None, abilities={"*": IMAGES}, **facts)


def provider(name, *, credentials=1, retry_unknown=None, **facts):
    secrets = tuple(Credential(f"#{n}", "s") for n in range(credentials))
    return Provider(name, adapter(**facts), "http://127.0.0.1", secrets, retry_unknown=retry_unknown)


def target(name, *, cents=4, abilities=IMAGES, weight=1, at=None):
    """Make a target at the provider `at` (its own name by default); `cents` per image, None for an unknown price."""
    price = None if cents is None else Price(image={"default": round(cents * CENT)})
    return Target(name, at or name, f"{name}-model", price, abilities, weight)


def rule(
    *targets, number=0, when=None, strategy=Strategy.ORDERED, on_failure=OnFailure.NEXT, timeout_s=None, retry=None
):
    return Rule(number, when or When(), targets, strategy, on_failure, timeout_s, retry or Retry())


def ruleset(otherwise, *rules, providers=(), zone=UTC):
    """Make a ruleset with the one model `m`; a provider that is not given is an ordinary one with a credential."""
    given = {one.name: one for one in providers}
    names = {one.provider for each in (otherwise, *rules) for one in each.targets}
    return Ruleset(
        hash="0" * 16,
        zone=zone,
        defaults=Defaults(),
        providers={name: given.get(name) or provider(name) for name in sorted(names)},
        models={"m": Model("m", "image", rules, otherwise)},
        aliases={"alias": "m"},
        default_model={},
    )


READY = Standing(0.0, probe=False, reason=None)


@dataclass
class Yard:
    """A fleet that stands as the test says; `worn` are the targets whose retry budget is used up."""

    standings: dict[str, Standing] = field(default_factory=dict)
    worn: frozenset[str] = frozenset()
    records: dict[str, TrackRecord] = field(default_factory=dict)

    def standing(self, _provider, target):
        return self.standings.get(target.name, READY)

    def may_repeat(self, _provider, target):
        return target.name not in self.worn

    def track_record(self, _provider, target):
        return self.records.get(target.name, TrackRecord())


def out_for(seconds, reason="open"):
    return Standing(seconds, probe=False, reason=reason)


def tried(name, kind, billed=None):
    """Make one failed attempt; its bill is the default of its kind unless the test says."""
    return Try(name, kind, FACTS[kind].billed if billed is None else billed)


NO_WISHES = Preferences()
KINDS = tuple(FailureKind)
BILLS = tuple(Billed)
