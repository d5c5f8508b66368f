"""How every provider and target stands right now: places, rate, circuits, credentials at rest, latency.

The fleet is asked before a decision (`standing`, `may_repeat`: it is the policies' `FleetView`), gives out the place
for an attempt (`begin`) and learns from its classified outcome (`record`), never from a status code. All of it is in
memory and rebuilt by traffic after a restart. The rules of the parts are in `policy.health` and `policy.pace`, the
records in `flow.roster`, what other daemons have a say in is in `flow.fleet_sharing`; this module owns which circuit,
credential and limit an attempt meets. It knows no task and no store. Every answer is immediate: what cannot start now
is told why, and `on_room` calls when a place or a token has come free. Floor 2.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import assert_never

from router.events import AccountRested, BreakerMoved, Bus
from router.flow.fleet_sharing import SharedFleet
from router.flow.roster import (
    LEASE_BEYOND_TIMEOUT_S,
    PROBE_TIMEOUT_S,
    FleetSnapshot,
    Key,
    LiveProvider,
    LiveTarget,
    Login,
    show_provider,
    show_target,
    stand,
)
from router.outcome import FACTS, Ejects, Fail, FailureKind, Fault, Health
from router.policy.health import Circuit, CircuitState, Ticket, Transition
from router.policy.pace import Latency, Slots, Successes, clamp_rest
from router.policy.route import Standing, TrackRecord
from router.policy.rules import Credential, Provider, Ruleset, Target
from router.world import Clock

SLOTS = "slots"  # all places of the provider are taken
RATE = "rate"  # the provider's rate limit is used up for now
REPEATS = "repeats"  # the retry budget of the provider is used up for now

REPEATS_ASKED_AGAIN_S = 1.0
PINNED_ASKED_AGAIN_S = 60.0


@dataclass(slots=True, eq=False)
class Started:
    """A place for one attempt: give it to `record` or `release`, once. `credential` is the account to use.

    The rest is what the fleet needs to know when it comes back.
    """

    credential: Credential
    probe: bool
    live: LiveProvider
    line: LiveTarget
    ticket: Ticket
    login: Login | None = None
    account_ticket: Ticket | None = None
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No attempt may start there now. `wait_s` None: wait in the provider's lane until `on_room` calls."""

    reason: str
    wait_s: float | None


class Fleet(SharedFleet):
    """The live state behind the rules in force. With `shared`, nothing starts but what was granted (`SharedFleet`)."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        clock: Clock,
        dice: Callable[[str], Random],
        bus: Bus,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
        shared: bool = False,
    ) -> None:
        """Know nobody; `adopt` brings the providers. `call_later` None: the timers of the running loop."""
        super().__init__(monotonic=monotonic, shared=shared)
        self._clock = clock
        self._dice = dice
        self._bus = bus
        self._call_later = _call_loop_later if call_later is None else call_later
        self._alone: frozenset[Key] = frozenset()
        self._turns = 0

    # -- what decisions ask -------------------------------------------------------------------------------------------

    def standing(self, provider: Provider, target: Target) -> Standing:
        """Tell how the target stands; `ready_in_s` is infinite while an operator keeps it open."""
        line = self._target_of(provider, target)
        standing = stand(self._provider_of(provider), line, self.monotonic())
        return self._notice(line, standing, PROBE_TIMEOUT_S)

    def may_repeat(self, provider: Provider, target: Target) -> bool:
        """Tell whether the retry budget, which is the provider's, has room for a repeat at this target."""
        return self._provider_of(provider).retries.affords(self.monotonic())

    def track_record(self, provider: Provider, target: Target) -> TrackRecord:
        """Tell how the target has done lately, at this daemon."""
        line = self._target_of(provider, target)
        return TrackRecord(line.latency.p50_s, line.successes.rate(self.monotonic()))

    def free(self, provider: Provider) -> int:
        """How many attempts could start there now, as far as places and rate are concerned."""
        return self._provider_of(provider).free(self.monotonic())

    def room(self, provider: Provider) -> bool:
        """Whether an attempt could start there now, as far as places and rate are concerned."""
        return self.free(provider) > 0

    def wait_s(self, provider: Provider) -> float:
        """Seconds until the provider's rate limit lets another attempt start; 0.0 when it does now."""
        return self._provider_of(provider).wait_s(self.monotonic())

    def expected_s(self, provider: Provider, target: Target) -> float | None:
        """The median time that a success takes at this target; None below 20 samples."""
        return self._target_of(provider, target).latency.p50_s

    # -- the life of an attempt ---------------------------------------------------------------------------------------

    def begin(self, provider: Provider, target: Target, *, timeout_s: float, repeat: bool) -> Started | NoRoom:
        """Take a place, a token, a credential and, if it is its turn, the probe of a half-open circuit: all or nothing.

        `repeat`: the task has tried this target before, so the retry budget pays.
        """
        now = self.monotonic()
        live, line = self._provider_of(provider), self._target_of(provider, target)
        standing = self._notice(line, stand(live, line, now), timeout_s)
        if standing.reason is not None:
            finite = math.isfinite(standing.ready_in_s)
            return NoRoom(standing.reason, standing.ready_in_s if finite else PINNED_ASKED_AGAIN_S)
        if live.slots.free == 0:
            return NoRoom(SLOTS, None)
        if repeat and not live.retries.affords(now):
            return NoRoom(REPEATS, REPEATS_ASKED_AGAIN_S)
        if live.bucket is not None and live.bucket.take(now) > 0:
            self._arm(live, now)
            return NoRoom(RATE, None)
        self._arm(live, now)
        live.slots.take()
        if repeat:
            live.retries.withdraw(now)
        else:
            live.retries.deposit(now)
        login = live.choose(line, now)
        assert login is not None, "the standing said that there is a credential"
        ticket = self._admit(line, now, timeout_s + LEASE_BEYOND_TIMEOUT_S)
        account_ticket = login.account.admit(now, timeout_s + LEASE_BEYOND_TIMEOUT_S)
        assert ticket is not None, "the standing said that the circuit admits"
        assert account_ticket is not None, "the standing said that the account admits"
        self._tell(line, ticket.moved)
        probe = ticket.probe or account_ticket.probe
        return self._occupy(Started(login.credential, probe, live, line, ticket, login, account_ticket))

    def resume(self, provider: Provider, target: Target, account: str) -> Started:
        """Count an attempt that an earlier life left out: it takes a place (also above the limit), no token, no probe.

        If the credential of that label is gone, another one is used: it may be the same secret under a new label.
        """
        live, line = self._provider_of(provider), self._target_of(provider, target)
        live.slots.take_anyway()
        ticket = line.circuit.join()
        login = next((one for one in live.logins if one.credential.label == account), None)
        login = login or next(iter(live.logins), None)
        if login is None:
            return self._occupy(Started(Credential(account, ""), probe=False, live=live, line=line, ticket=ticket))
        return self._occupy(Started(login.credential, False, live, line, ticket, login, login.account.join()))

    def record(self, place: Started, outcome: Fail | None, elapsed_s: float) -> None:
        """The attempt is over: learn from its classified outcome (None: success after `elapsed_s`), free the place."""
        assert not place.is_over, "the place of an attempt was given back twice"
        if outcome is None:
            self._learn_success(place, elapsed_s)
        else:
            self._learn_failure(place, outcome)
        self._give_back(place)

    def release(self, place: Started) -> None:
        """The attempt was not made, or a shutdown cut it: free the place, learn nothing."""
        assert not place.is_over, "the place of an attempt was given back twice"
        self._hand_back(place.line, place.ticket)
        if place.login is not None and place.account_ticket is not None:
            place.login.account.returned(place.account_ticket)
        self._give_back(place)

    # -- operators and configuration ----------------------------------------------------------------------------------

    def force_open(self, provider: str, target: str) -> bool:
        """Pin the circuits of a target open; False when there is no such target."""
        return self._operate(provider, target, Circuit.force_open)

    def force_close(self, provider: str, target: str) -> bool:
        """Pin the circuits of a target closed; False when there is no such target."""
        return self._operate(provider, target, Circuit.force_close)

    def reset(self, provider: str, target: str) -> bool:
        """Close the circuits of a target, unpinned, and end its rest; False when there is no such target."""
        for line in self._lines_of(provider, target):
            line.rest_until_s = -math.inf
            for login in self._providers[line.key[0]].logins if line.key[0] in self._providers else ():
                login.rests.pop(line.key, None)
        return self._operate(provider, target, Circuit.reset)

    def restore_account(self, provider: str, account: str) -> bool:
        """End the rest of a credential; False when there is no such credential."""
        live = self._providers.get(provider)
        logins = [] if live is None else [one for one in live.logins if one.credential.label == account]
        for login in logins:
            login.account.restore()
        if logins:
            self.on_room(provider)
        return bool(logins)

    def adopt(self, rules: Ruleset) -> None:
        """Go on under another configuration: what stayed keeps its state, what went is dropped, limits apply at once.

        A provider that went stays known while attempts are out, so that its places are counted if it comes back.
        """
        for name in [name for name in self._providers if name not in rules.providers]:
            if self.shared:
                self._providers[name].limit(0, 0)
            elif self._providers[name].slots.in_use == 0:
                del self._providers[name]
        owners: dict[Key, Provider] = {}
        alone: set[Key] = set()
        for model in rules.models.values():
            for rule in (model.otherwise, *model.rules):
                owned = {
                    _key_of(rules.providers[one.provider], one): rules.providers[one.provider] for one in rule.targets
                }
                owners |= owned
                alone |= owned.keys() if len(owned) == 1 else set()
        self._alone = frozenset(alone)
        for line in [line for key, line in self._targets.items() if key not in owners]:
            self._let_go(line)
            del self._targets[line.key]
        for provider in rules.providers.values():
            self._adopt_provider(provider)
        for key, provider in owners.items():
            if key not in self._targets:
                self._targets[key] = self._make_target(key, provider)
            self._targets[key].circuit.adopt(provider.breaker)
        for name in rules.providers:
            self.on_room(name)

    def snapshot(self) -> FleetSnapshot:
        """Show everything, for operators and metrics."""
        now = self.monotonic()
        known = [(self._providers[key[0]], line) for key, line in self._targets.items() if key[0] in self._providers]
        return FleetSnapshot(
            providers=tuple(show_provider(live, now) for live in self._providers.values()),
            targets=tuple(show_target(live, line, now) for live, line in known),
        )

    # -- learning -----------------------------------------------------------------------------------------------------

    def _learn_success(self, place: Started, elapsed_s: float) -> None:
        now = self.monotonic()
        place.line.latency.note(elapsed_s)
        place.line.successes.note(now, succeeded=True)
        self._tell(place.line, place.line.circuit.succeeded(place.ticket, now))
        if place.login is not None and place.account_ticket is not None:
            place.login.account.accepted(place.account_ticket, now)

    def _learn_failure(self, place: Started, outcome: Fail) -> None:
        now = self.monotonic()
        if FACTS[outcome.kind].fault is Fault.PROVIDER:
            place.line.successes.note(now, succeeded=False)
        self._learn_rest(place, outcome, now)
        self._tell(place.line, self._learn_health(place, outcome, now))
        if place.login is None or place.account_ticket is None:
            return
        if outcome.ejects is not Ejects.CREDENTIAL:
            place.login.account.returned(place.account_ticket)
            return
        moved = place.login.account.refused(place.account_ticket, now, outcome.detail)
        if moved is not None:
            at, label = self._clock.now(), place.login.credential.label
            self._bus.emit(AccountRested(at, place.live.name, label, moved.open_for_s, outcome.detail))

    def _learn_rest(self, place: Started, outcome: Fail, now: float) -> None:
        """A throttled target rests; so does an overloaded one that says for how long (reliability-security 5).

        A 429 is one account's: where the provider has another, only the credential that met it stays away.
        """
        asks = outcome.kind is FailureKind.OVERLOADED and outcome.rest_s is not None
        if not (outcome.kind is FailureKind.THROTTLED or asks):
            return
        line, login = place.line, place.login
        rest_s = clamp_rest(outcome.rest_s, has_other=line.key not in self._alone)
        until_s = now + (rest_s or 0.0)
        if outcome.kind is FailureKind.THROTTLED and login is not None and len(place.live.logins) > 1:
            login.rests[line.key] = max(login.rests.get(line.key, -math.inf), until_s)
        else:
            line.rest_until_s = max(line.rest_until_s, until_s)

    def _learn_health(self, place: Started, outcome: Fail, now: float) -> Transition | None:
        circuit, health = place.line.circuit, FACTS[outcome.kind].health
        if outcome.ejects is Ejects.TARGET:
            return circuit.open_long(place.ticket, now)
        if outcome.kind is FailureKind.THROTTLED:
            return circuit.throttled(place.ticket, now)
        match health:
            case Health.FAILURE:
                return circuit.failed(place.ticket, now, self._dice("breaker").random())
            case Health.NEUTRAL:
                self._hand_back(place.line, place.ticket)
                return None
            case _:
                assert_never(health)

    def _tell(self, line: LiveTarget, moved: Transition | None) -> None:
        """Say that a circuit was moved here. Who probes it is nobody else's news: the right tells it."""
        self._announce(line, moved)
        if moved is not None and moved.after is not CircuitState.HALF_OPEN:
            self._note_move(line)

    def _announce(self, line: LiveTarget, moved: Transition | None) -> None:
        if moved is not None:
            at, before, after = self._clock.now(), moved.before.value, moved.after.value
            self._bus.emit(BreakerMoved(at, *line.key, before, after, moved.open_for_s))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _admit(self, line: LiveTarget, now: float, lease_s: float) -> Ticket | None:
        """Let an attempt through. A probe uses up the right to it, and is awaited no longer than the right was leased.

        So nobody waits here for a probe when another daemon may make the next.
        """
        if line.right is not None and line.circuit.outlook(now).probe:
            lease_s = min(lease_s, line.right.use(now))
        return line.circuit.admit(now, lease_s)

    def _occupy(self, place: Started) -> Started:
        place.line.in_use += 1
        place.live.most_in_use = max(place.live.most_in_use, place.live.slots.in_use)
        if place.login is not None:
            self._turns += 1
            place.login.in_use += 1
            place.login.last_turn = self._turns
        return place

    def _give_back(self, place: Started) -> None:
        place.is_over = True
        place.live.slots.give_back()
        place.line.in_use -= 1
        if place.login is not None:
            place.login.in_use -= 1
        self.on_room(place.live.name)

    def _arm(self, live: LiveProvider, now: float) -> None:
        """See that `on_room` calls when the provider's rate limit has its next token, if it has none now.

        Where tokens are granted, the grant calls.
        """
        wait_s = live.wait_s(now)
        if wait_s == 0.0 or live.is_armed or self.shared:
            return
        live.is_armed = True
        live.alarms += 1
        alarm = live.alarms

        def ring() -> None:
            if alarm != live.alarms:
                return
            live.is_armed = False
            later = self.monotonic()
            if live.wait_s(later) > 0.0:
                self._arm(live, later)
            else:
                self.on_room(live.name)

        self._call_later(wait_s, ring)

    def _operate(self, provider: str, target: str, operation: Callable[[Circuit], Transition | None]) -> bool:
        lines = self._lines_of(provider, target)
        for line in lines:
            self._announce(line, operation(line.circuit))
            self._note_move(line, by_hand=True)  # a pin is news although the state may be the same
        if lines:
            self.on_room(provider)
        return bool(lines)

    def _lines_of(self, provider: str, target: str) -> list[LiveTarget]:
        return [line for line in self._targets.values() if line.key[:2] == (provider, target)]

    def _provider_of(self, provider: Provider) -> LiveProvider:
        live = self._providers.get(provider.name)
        return self._adopt_provider(provider) if live is None else live

    def _target_of(self, provider: Provider, target: Target) -> LiveTarget:
        key = _key_of(provider, target)
        line = self._targets.get(key)
        if line is None:
            line = self._targets[key] = self._make_target(key, provider)
        return line

    def _adopt_provider(self, provider: Provider) -> LiveProvider:
        now = self.monotonic()
        live = self._providers.get(provider.name)
        if live is None:
            live = LiveProvider(provider.name, provider.base_url, Slots(0), granted=0 if self.shared else None)
            self._providers[provider.name] = live
        if live.base_url != provider.base_url:
            self._forget(live)
        live.adopt(provider, now)
        live.is_armed = False
        self._arm(live, now)
        return live

    def _forget(self, live: LiveProvider) -> None:
        """Another machine answers under this name now: what was learnt of the old one does not hold."""
        live.logins = []
        for line in self._targets.values():
            if line.key[0] == live.name:
                self._tell(line, line.circuit.reset())
                line.rest_until_s, line.latency, line.successes = -math.inf, Latency(), Successes()


def _key_of(provider: Provider, target: Target) -> Key:
    return (provider.name, target.name, target.model)


def _call_loop_later(delay_s: float, callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(delay_s, callback)
