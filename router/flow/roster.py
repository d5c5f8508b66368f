"""What the fleet keeps of each provider, target and credential, what follows from it, and how operators see it.

Records of live state, changed by `flow.fleet` alone and never shared beyond it; the views are frozen copies for the
admin API and the metrics. `stand` puts circuit, credential and rest together into the one answer that decisions read.
Where several daemons share the providers, a record also keeps what this one was granted: places, starts, and the right
to probe a circuit. Knows no event, task or store; `now` is monotonic seconds. Floor 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from router.leases import Grant, Want
from router.policy.health import Account, Bar, Circuit, CircuitState, Outlook
from router.policy.pace import Allowance, Bucket, Latency, RetryBudget, Slots, Successes
from router.policy.route import RESTING, Standing
from router.policy.rules import Credential, Provider

ACCOUNT = "account"  # every credential of the provider is at rest
PROBE_ASKED_AGAIN_S = 1.0

# The right to probe comes within a turn of sharing unless another daemon has it: who needs it looks again soon, and the
# later the longer all have waited, so that a long queue does not spend the time of a long probe on looking.
RIGHT_ASKED_AGAIN_S, RIGHT_ASKED_AGAIN_MOST_S = 0.5, 15.0
WISHES_IN_A_ROW_S = 2 * RIGHT_ASKED_AGAIN_MOST_S
# Who asked may have sent its task elsewhere, and the next may be late: the wish outlives the task, so that a target of
# little traffic comes back too. A right that nobody uses goes round among those who wish for it.
RIGHT_WISHED_FOR_S = 600.0
RIGHT_KEPT_S = 5.0
RIGHT_PAUSE_S = 5.0
# An attempt's longest timeout that the configuration does not lengthen (contract 6), and what may follow the attempt:
# storing the result, waiting for the store.
PROBE_TIMEOUT_S = 1_800.0
LEASE_BEYOND_TIMEOUT_S = 1_000.0

Key = tuple[str, str, str]  # provider, target name, upstream model


@dataclass(slots=True, eq=False)
class Login:
    """A credential, whether it is at rest, and how busy it is.

    `rests`: until when (monotonic) a target asked this credential to stay away, by target, while others may go on.
    """

    credential: Credential
    account: Account = field(default_factory=Account)
    in_use: int = 0
    last_turn: int = 0
    rests: dict[Key, float] = field(default_factory=dict)

    def rest_s(self, line: LiveTarget, now: float) -> float:
        """Seconds for which this target wants this credential to stay away."""
        return max(0.0, self.rests.get(line.key, 0.0) - now)


@dataclass(slots=True, eq=False)
class ProbeRight:
    """The right to probe one circuit, which one daemon of the fleet has at a time. All instants are monotonic.

    `wished_at_s`: when a task last met the circuit without it; `wished_since_s`: when the first of a row of them did.
    `until_s`: when the lease ends (None: it is not held); `kept_until_s`: when it goes back if nobody has used it;
    `let_go_at_s`: when that last happened.
    """

    wished_at_s: float = -math.inf
    wished_since_s: float = -math.inf
    timeout_s: float = PROBE_TIMEOUT_S
    until_s: float | None = None
    kept_until_s: float = 0.0
    let_go_at_s: float = -math.inf

    def is_held(self, now: float) -> bool:
        """Whether the next attempt may be the probe."""
        return self.until_s is not None and now < min(self.until_s, self.kept_until_s)

    def wish(self, now: float, timeout_s: float) -> None:
        """A task needs it for an attempt of that timeout."""
        if now - self.wished_at_s > WISHES_IN_A_ROW_S:
            self.wished_since_s = now
        self.wished_at_s = now
        self.timeout_s = max(self.timeout_s, timeout_s)

    def wished_for_s(self, now: float) -> float:
        """How long tasks have needed it, one after the other."""
        return 0.0 if now - self.wished_at_s > WISHES_IN_A_ROW_S else now - self.wished_since_s

    def wait_s(self, now: float) -> float:
        """How long a task that needs it waits before it looks again."""
        return min(RIGHT_ASKED_AGAIN_MOST_S, max(RIGHT_ASKED_AGAIN_S, self.wished_for_s(now) / 4))

    def is_wished(self, now: float) -> bool:
        """Whether to ask for it: at once if a task needs it, and after a pause if one did before it was let go."""
        if self.until_s is not None or now - self.wished_at_s > RIGHT_WISHED_FOR_S:
            return False
        return self.wished_at_s > self.let_go_at_s or now - self.let_go_at_s >= RIGHT_PAUSE_S

    @property
    def lease_s(self) -> float:
        """For how long it is needed: until it is used, the attempt, and what follows the attempt."""
        return RIGHT_KEPT_S + RIGHT_ASKED_AGAIN_MOST_S + self.timeout_s + LEASE_BEYOND_TIMEOUT_S

    def lease(self, now: float, lease_s: float) -> None:
        """It was leased to this daemon, and is kept until those who need it should have looked again."""
        self.until_s, self.kept_until_s = now + lease_s, now + self.wait_s(now) + RIGHT_KEPT_S

    def use(self, now: float) -> float:
        """Begin the probe; returns the seconds that are left of the lease."""
        assert self.until_s is not None, "the standing said that the right is held"
        left_s = self.until_s - now
        self.forget()
        return left_s

    def lapse(self, now: float) -> bool:
        """Let go of it if nobody has used it in time; True when it has to be handed back."""
        if self.until_s is None or self.is_held(now):
            return False
        self.until_s, self.let_go_at_s = None, now
        return True

    def forget(self) -> None:
        """It was used, or the circuit has moved, which ends every lease and every wish."""
        self.wished_at_s = self.let_go_at_s = -math.inf
        self.timeout_s, self.until_s = PROBE_TIMEOUT_S, None


@dataclass(slots=True, eq=False)
class LiveTarget:
    """What belongs to one target. Until `rest_until_s` (monotonic) it is left alone, as its upstream asked.

    `right` None: no other daemon may probe it, so that none is needed. `version` is the last move of its circuit that
    was read from the store, 0 for none.
    """

    key: Key
    circuit: Circuit
    rest_until_s: float = -math.inf
    latency: Latency = field(default_factory=Latency)
    successes: Successes = field(default_factory=Successes)
    in_use: int = 0
    right: ProbeRight | None = None
    version: int = 0

    def outlook(self, now: float) -> Outlook:
        """How its circuit stands for this daemon: without the right to probe it is as if the probe were out."""
        outlook = self.circuit.outlook(now)
        if not outlook.probe or self.right is None or self.right.is_held(now):
            return outlook
        return Outlook(outlook.state, Bar.PROBING, self.right.wait_s(now), probing_for_s=self.right.wished_for_s(now))

    def wait_of(self, outlook: Outlook) -> float:
        """Seconds until it is worth asking again. While a probe is out: until it should be back, by what is known."""
        if outlook.bar is not Bar.PROBING:
            return outlook.ready_in_s
        gone_s = outlook.probing_for_s
        left_s = (self.latency.p50_s or 0.0) - gone_s
        return min(outlook.ready_in_s, max(PROBE_ASKED_AGAIN_S, left_s, gone_s / 4))


@dataclass(slots=True, eq=False)
class LiveProvider:
    """What belongs to a whole provider. `alarms` counts the timers set for its next token; one runs if `is_armed`.

    `places` is its `max_concurrency`, 0 once the configuration no longer has it. Of those this daemon may use
    `granted`; None: all, as no other daemon uses them. `most_in_use` and `told_in_use` are of the last time it asked.
    """

    name: str
    base_url: str
    slots: Slots
    bucket: Bucket | Allowance | None = None
    retries: RetryBudget = field(default_factory=RetryBudget)
    logins: list[Login] = field(default_factory=list)
    is_armed: bool = False
    alarms: int = 0
    places: int = 0
    granted: int | None = None
    most_in_use: int = 0
    told_in_use: int = 0

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
            wait_s = max(line.wait_of(outlook), login.rest_s(line, now))
            return (wait_s, not outlook.probe, login.in_use, login.last_turn)

        return min(self.logins, key=merit, default=None)

    def adopt(self, provider: Provider, now: float) -> None:
        """Take over limits and credentials. An account is its secret: its label may change when a list is reordered."""
        self.base_url = provider.base_url
        self.limit(provider.max_concurrency, self.granted)
        if provider.rate is None:
            self.bucket = None
        elif self.bucket is None:
            self.bucket = Bucket(provider.rate, now) if self.granted is None else Allowance(provider.rate)
        else:
            self.bucket.adopt(provider.rate, now)
        known = {login.credential.secret: login for login in self.logins}
        self.logins = [_relabelled(known.pop(one.secret, None), one) for one in provider.credentials]

    def limit(self, places: int, granted: int | None) -> None:
        """Let as many start as there are places, and no more than were granted."""
        self.places, self.granted = places, granted
        self.slots.limit = places if granted is None else min(places, granted)

    def want(self, waiting: int) -> Want:
        """Say what this daemon could use, with so many tasks waiting for it: it counts what was out since it asked."""
        out, need = self.slots.in_use, max(self.slots.in_use, self.most_in_use) + waiting
        self.most_in_use = out
        # What was granted may be taken while the question is on its way.
        self.told_in_use = max(out, self.slots.limit)
        want = Want(self.name, self.places, self.told_in_use, min(self.places, need))
        if not isinstance(self.bucket, Allowance):
            return want
        rate, startable = self.bucket.rate, min(waiting, self.places)
        return replace(
            want,
            tokens=rate.count,
            per_ms=round(rate.per_s * 1000),
            tokens_wanted=self.bucket.missing(startable) if self.places else 0,
        )

    def receive(self, grant: Grant) -> None:
        """Go on with what was granted: other places, more starts."""
        self.limit(self.places, grant.places)
        if isinstance(self.bucket, Allowance):
            self.bucket.fill(grant.tokens)

    def lapse(self) -> None:
        """Lose what was granted."""
        self.limit(self.places, 0)
        if isinstance(self.bucket, Allowance):
            self.bucket.empty()


def stand(live: LiveProvider, line: LiveTarget, now: float) -> Standing:
    """Put together how a target stands. Who must act first names the reason: operator, account, circuit, rest."""
    circuit = line.outlook(now)
    if circuit.bar is Bar.FORCED_OPEN:
        return Standing(math.inf, probe=False, reason=Bar.FORCED_OPEN.value)
    login = live.choose(line, now)
    if login is None:
        return Standing(math.inf, probe=False, reason=ACCOUNT, detail="there is no credential")
    account = login.account.outlook(now)
    rest_s = max(line.rest_until_s - now, login.rest_s(line, now))
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
