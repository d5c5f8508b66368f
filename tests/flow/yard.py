"""A fleet with its surroundings for the tests of `flow.fleet`: a clock to turn, timers that ring, events to read."""

from datetime import UTC
from random import Random

from router.events import BreakerMoved, Bus
from router.flow.fleet import Fleet
from router.outcome import FailureKind, fail
from router.policy.route import Standing
from router.policy.rules import (
    Breaker,
    Credential,
    Defaults,
    Model,
    OnFailure,
    Provider,
    Retry,
    Rule,
    Ruleset,
    Strategy,
    Target,
    When,
)
from router.provider import Abilities, AdapterFacts, Kind

ABILITIES = Abilities(frozenset(Kind))
BREAKER = Breaker(consecutive_failures=3, open_for_s=30.0, open_max_s=120.0)
READY = Standing(0.0, probe=False, reason=None)
AT = 1_795_176_000_000


def make_provider(name="alpha", *, secrets=("s1",), base_url="https://alpha.invalid", **limits):
    credentials = tuple(Credential(f"#{n}", secret) for n, secret in enumerate(secrets, start=1))
    facts = AdapterFacts(slug="simulated", base_url=None, abilities={"*": ABILITIES})
    return Provider(name, facts, base_url, credentials, **{"breaker": BREAKER, **limits})


def make_target(name="alpha", model="picture-1", provider=None):
    return Target(name, provider or name, model, None, ABILITIES)


def make_rules(*providers, rules=None):
    """A model whose one rule has a target at each provider; or one rule for each tuple of targets in `rules`."""
    rules = rules or [tuple(make_target(one.name) for one in providers)]
    compiled = [
        Rule(number, When(), targets, Strategy.ORDERED, OnFailure.NEXT, None, Retry())
        for number, targets in enumerate(rules)
    ]
    return Ruleset(
        hash="h",
        zone=UTC,
        defaults=Defaults(),
        providers={one.name: one for one in providers},
        models={"m": Model("m", "image", tuple(compiled[1:]), compiled[0])},
        aliases={},
        default_model={},
    )


class NoJitter(Random):
    def random(self):
        return 0.0


class Wall:
    def now(self):
        return AT


class Yard:
    """A fleet with its surroundings: a clock to turn, timers that ring, and what it said meanwhile."""

    def __init__(self, *providers, rules=None, shared=False):
        self.now_s = 100.0
        self.timers = []
        self.events = []
        self.rooms = []
        bus = Bus()
        bus.subscribe(self.events.append)
        self.fleet = Fleet(
            monotonic=lambda: self.now_s,
            clock=Wall(),
            dice=lambda _name: NoJitter(1),
            bus=bus,
            call_later=lambda delay_s, ring: self.timers.append((self.now_s + delay_s, ring)),
            shared=shared,
        )
        self.fleet.adopt(make_rules(*providers, rules=rules))
        self.fleet.on_room = self.rooms.append
        self.provider, self.target = providers[0], make_target(providers[0].name)

    def wait(self, seconds):
        """Let time pass; timers ring when they are due."""
        end = self.now_s + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now_s = max(self.now_s, first[0])
            first[1]()
        self.now_s = end

    def begin(self, *, repeat=False, timeout_s=60.0):
        return self.fleet.begin(self.provider, self.target, timeout_s=timeout_s, repeat=repeat)

    def end(self, place, kind=None, elapsed_s=1.0, **facts):
        """End an attempt; `kind` None: it succeeded."""
        self.fleet.record(place, None if kind is None else fail(FailureKind(kind), "their words", **facts), elapsed_s)

    def attempt(self, kind=None, elapsed_s=1.0, **facts):
        """Make one attempt that ends at once."""
        place = self.begin()
        self.end(place, kind, elapsed_s, **facts)
        return place

    def open(self):
        for _ in range(BREAKER.consecutive_failures):
            self.attempt("server_error")

    def standing(self):
        return self.fleet.standing(self.provider, self.target)

    def moves(self):
        return [(one.before, one.after) for one in self.events if isinstance(one, BreakerMoved)]

    def view(self):
        return self.fleet.snapshot().targets[0]
