"""What the fleet keeps of each provider, target and credential, what follows from it, and how operators see it.

Records of live state, changed by `flow.fleet` alone and never shared beyond it; the views are frozen copies for the
admin API and the metrics. `stand` puts circuit, credential and rest together into the one answer that decisions read.
Knows no event, task or store; `now` is monotonic seconds. Floor 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.policy.health import Account, Bar, Circuit, CircuitState, Outlook
from router.policy.pace import Bucket, Latency, RetryBudget, Slots
from router.policy.route import RESTING, Standing
from router.policy.rules import Credential, Provider

ACCOUNT = "account"  # every credential of the provider is at rest
PROBE_ASKED_AGAIN_S = 1.0

Key = tuple[str, str, str]  # provider, target name, upstream model


@dataclass(slots=True, eq=False)
class Login:
    """A credential, whether it is at rest, and how busy it is."""

    credential: Credential
    account: Account = field(default_factory=Account)
    in_use: int = 0
    last_turn: int = 0


@dataclass(slots=True, eq=False)
class LiveTarget:
    """What belongs to one target. Until `rest_until_s` (monotonic) it is left alone, as its upstream asked."""

    key: Key
    circuit: Circuit
    rest_until_s: float = -math.inf
    latency: Latency = field(default_factory=Latency)
    in_use: int = 0

    def wait_of(self, outlook: Outlook) -> float:
        """Seconds until it is worth asking again. While a probe is out: until it should be back, by what is known."""
        if outlook.bar is not Bar.PROBING:
            return outlook.ready_in_s
        gone_s = outlook.probing_for_s
        left_s = (self.latency.p50_s or 0.0) - gone_s
        return min(outlook.ready_in_s, max(PROBE_ASKED_AGAIN_S, left_s, gone_s / 4))


@dataclass(slots=True, eq=False)
class LiveProvider:
    """What belongs to a whole provider. `alarms` counts the timers set for its next token; one runs if `is_armed`."""

    name: str
    base_url: str
    slots: Slots
    bucket: Bucket | None = None
    retries: RetryBudget = field(default_factory=RetryBudget)
    logins: list[Login] = field(default_factory=list)
    is_armed: bool = False
    alarms: int = 0

    def free(self, now: float) -> int:
        """How many attempts could start now, as far as places and rate are concerned."""
        return self.slots.free if self.bucket is None else min(self.slots.free, self.bucket.left(now))

    def wait_s(self, now: float) -> float:
        """Seconds until the rate limit lets an attempt start; 0.0 when it does now."""
        return 0.0 if self.bucket is None else self.bucket.wait_s(now)

    def choose(self, line: LiveTarget, now: float) -> Login | None:
        """Pick the credential that is usable soonest, then one that must prove itself, then the least busy one."""

        def merit(login: Login) -> tuple[float, bool, int, int]:
            outlook = login.account.outlook(now)
            return (line.wait_of(outlook), not outlook.probe, login.in_use, login.last_turn)

        return min(self.logins, key=merit, default=None)

    def adopt(self, provider: Provider, now: float) -> None:
        """Take over limits and credentials. An account is its secret: its label may change when a list is reordered."""
        self.base_url = provider.base_url
        self.slots.limit = provider.max_concurrency
        if provider.rate is None:
            self.bucket = None
        elif self.bucket is None:
            self.bucket = Bucket(provider.rate, now)
        else:
            self.bucket.adopt(provider.rate, now)
        known = {login.credential.secret: login for login in self.logins}
        self.logins = [_relabelled(known.pop(one.secret, None), one) for one in provider.credentials]


def stand(live: LiveProvider, line: LiveTarget, now: float) -> Standing:
    """Put together how a target stands. Who must act first names the reason: operator, account, circuit, rest."""
    circuit = line.circuit.outlook(now)
    if circuit.bar is Bar.FORCED_OPEN:
        return Standing(math.inf, probe=False, reason=Bar.FORCED_OPEN.value)
    login = live.choose(line, now)
    if login is None:
        return Standing(math.inf, probe=False, reason=ACCOUNT, detail="there is no credential")
    account = login.account.outlook(now)
    rest_s = max(0.0, line.rest_until_s - now)
    wait_s = max(rest_s, line.wait_of(circuit), line.wait_of(account))
    if account.bar is Bar.OPEN:
        return Standing(wait_s, probe=False, reason=ACCOUNT, detail=login.account.detail)
    for outlook in (circuit, account):
        if outlook.bar is not None:
            return Standing(wait_s, probe=False, reason=outlook.bar.value)
    return Standing(wait_s, probe=circuit.probe or account.probe, reason=RESTING if rest_s > 0 else None)


# -- views ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target as operators see it. `ready_in_s` None: until somebody acts. Durations of successes in seconds."""

    provider: str
    target: str
    model: str
    state: CircuitState
    is_pinned: bool
    reason: str | None
    detail: str
    ready_in_s: float | None
    in_use: int
    average_s: float | None
    expected_s: float | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """A credential as operators see it; `detail` are the upstream's words while it rests."""

    label: str
    reason: str | None
    ready_in_s: float
    detail: str
    in_use: int


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider as operators see it. `rate_wait_s`: until its rate limit lets the next attempt start."""

    name: str
    in_use: int
    limit: int
    rate_wait_s: float
    accounts: tuple[AccountView, ...]


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """Everything at one moment."""

    providers: tuple[ProviderView, ...]
    targets: tuple[TargetView, ...]


def show_target(live: LiveProvider, line: LiveTarget, now: float) -> TargetView:
    """Copy what operators may see of a target."""
    standing = stand(live, line, now)
    return TargetView(
        *line.key,
        state=line.circuit.state,
        is_pinned=line.circuit.is_forced,
        reason=standing.reason,
        detail=standing.detail,
        ready_in_s=standing.ready_in_s if math.isfinite(standing.ready_in_s) else None,
        in_use=line.in_use,
        average_s=line.latency.ewma_s,
        expected_s=line.latency.p50_s,
    )


def show_provider(live: LiveProvider, now: float) -> ProviderView:
    """Copy what operators may see of a provider; no secret."""
    return ProviderView(
        name=live.name,
        in_use=live.slots.in_use,
        limit=live.slots.limit,
        rate_wait_s=live.wait_s(now),
        accounts=tuple(_show_account(login, login.account.outlook(now)) for login in live.logins),
    )


def _show_account(login: Login, outlook: Outlook) -> AccountView:
    return AccountView(
        label=login.credential.label,
        reason=None if outlook.bar is None else outlook.bar.value,
        ready_in_s=outlook.ready_in_s,
        detail=login.account.detail,
        in_use=login.in_use,
    )


def _relabelled(login: Login | None, credential: Credential) -> Login:
    if login is None:
        return Login(credential)
    login.credential = credential
    return login
