"""When a target is left alone, for how long, and how it comes back; the same for a credential.

**What opens a circuit.** Two signals, because each is blind where the other sees: hard failures in a row catch a target
that is down within seconds, and the share of failures over a window catches one that fails half of the time and is
saved from the first signal by its successes. The share counts from a minimum of outcomes on, so that the first failure
of a quiet hour opens nothing. Caller faults, refusals, account errors and throttles say nothing about a target's health
and are counted nowhere (`outcome.FACTS`). A target whose model is unknown upstream opens at once and long, 10 minutes
doubling to an hour, since nothing but an operator on either side will mend it.

**While it is open** nothing goes there. The time doubles with each opening up to `open_max_s`, and up to a fifth of it
is taken off by jitter, so that the circuits of several daemons do not knock together. It begins small again once the
target has stayed closed for a whole window: a target that opens again right after its probe has not recovered.

**How it comes back.** When the time is over, one attempt is let through, the probe, and everybody else goes on waiting
until its outcome is known. Success closes; failure opens for longer; a throttle opens for the same time again, as it
proves neither. A probe that came to nothing (neutral, or never sent) hands its right back. The right is a lease: if its
holder vanishes it runs out. An attempt that started before the last move of the circuit speaks of the past: whatever
becomes of it neither closes the circuit nor keeps it open.

**Accounts.** A credential that the upstream refuses (401, 402, quota) rests 10 minutes, doubling to an hour, and comes
back by the same kind of probe. A new secret or an operator ends the rest early.

**Operators** may pin a circuit open or closed; a pinned circuit learns nothing until it is reset.

**Other daemons** move it too, where several share a store: `follow` makes their move here, doublings included, and what
was let through before is of the past. Who of them may probe is not decided here.

Pure: `now` is monotonic seconds, jitter a float in [0, 1). Knows no loop, fleet or provider. Sources: contract section
6 (Circuits), invariant I20. Floor 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from router.policy.pace import Tally
from router.policy.rules import Breaker

WINDOW_STEPS = 10
JITTER_SHARE = 0.2
LONG_FIRST_S, LONG_MOST_S = 600.0, 3600.0
DOUBLINGS_MAX = 30


class CircuitState(StrEnum):
    """A closed circuit lets attempts through, an open one none, a half-open one its probe."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Bar(StrEnum):
    """Why a circuit lets nothing through now."""

    OPEN = "open"
    PROBING = "probing"
    FORCED_OPEN = "forced_open"


@dataclass(frozen=True, slots=True)
class Transition:
    """A move of a circuit. `open_for_s` is how long it will be open, infinite when an operator opened it."""

    before: CircuitState
    after: CircuitState
    open_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to make one attempt, shown again with its outcome. `moved` if giving it moved the circuit."""

    generation: int
    probe: bool
    moved: Transition | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a circuit stands. `bar` None: an attempt may start, as its probe if `probe`.

    Else it may start in `ready_in_s`: when the time is over, when the probe's lease runs out at the latest (the probe
    has been out for `probing_for_s`), or never while an operator keeps it open.
    """

    state: CircuitState
    bar: Bar | None = None
    ready_in_s: float = 0.0
    probe: bool = False
    probing_for_s: float = 0.0


class Circuit:
    """The breaker of one target."""

    def __init__(self, policy: Breaker) -> None:
        """Closed, with nothing known."""
        self.policy = policy
        self.state = CircuitState.CLOSED
        self.is_forced = False
        self._generation = 0  # grows with every move and every lease; a ticket of an older one is of the past
        self._failures_in_a_row = 0
        self._outcomes, self._failures = _make_window(policy)
        self._open_for_s = 0.0
        self._open_until_s = 0.0
        self._openings = 0
        self._long_openings = 0
        self._closed_at_s = -math.inf
        self._leased_at_s = 0.0
        self._leased_until_s: float | None = None

    @property
    def openings(self) -> int:
        """How often it has opened without recovering: what the next time doubles from."""
        return self._openings

    # -- may an attempt start? ----------------------------------------------------------------------------------------

    def outlook(self, now: float) -> Outlook:
        """Tell how it stands, without changing anything."""
        if self.state is CircuitState.CLOSED:
            return Outlook(self.state)
        if self.is_forced:
            return Outlook(self.state, Bar.FORCED_OPEN, math.inf)
        if self.state is CircuitState.OPEN and now < self._open_until_s:
            return Outlook(self.state, Bar.OPEN, self._open_until_s - now)
        if self._is_leased(now):
            assert self._leased_until_s is not None
            left_s = self._leased_until_s - now
            return Outlook(self.state, Bar.PROBING, left_s, probing_for_s=now - self._leased_at_s)
        return Outlook(self.state, probe=True)

    def admit(self, now: float, lease_s: float) -> Ticket | None:
        """Let an attempt through, None when it must not start. A probe holds the only lease, for `lease_s` seconds."""
        outlook = self.outlook(now)
        if outlook.bar is not None:
            return None
        if not outlook.probe:
            return self.join()
        moved = self._move(CircuitState.HALF_OPEN)
        self._generation += 1
        self._leased_at_s, self._leased_until_s = now, now + lease_s
        return Ticket(self._generation, probe=True, moved=moved)

    def join(self) -> Ticket:
        """Take in an attempt that is out already (of an earlier life); its outcome counts if the circuit is closed."""
        return Ticket(self._generation, probe=False)

    # -- what became of it ---------------------------------------------------------------------------------------------

    def succeeded(self, ticket: Ticket, now: float) -> Transition | None:
        """The attempt succeeded: closes a half-open circuit."""
        if not self._is_current(ticket):
            return None
        if ticket.probe:
            self._long_openings = 0
            return self._close(now)
        self._failures_in_a_row = 0
        self._outcomes.add(now, 1)
        return None

    def failed(self, ticket: Ticket, now: float, jitter: float) -> Transition | None:
        """The attempt failed in a way that counts: opens a half-open circuit again, a closed one if it was too many."""
        if not self._is_current(ticket):
            return None
        if ticket.probe:
            return self._open_growing(now, jitter)
        self._failures_in_a_row += 1
        self._outcomes.add(now, 1)
        self._failures.add(now, 1)
        if not self._is_too_much(now):
            return None
        if now - self._closed_at_s >= self.policy.window_s:
            self._openings = 0
        return self._open_growing(now, jitter)

    def throttled(self, ticket: Ticket, now: float) -> Transition | None:
        """The attempt met a limit: a probe has failed without being held against the target."""
        if self._is_current(ticket) and ticket.probe:
            return self._open(now, self._open_for_s)
        return None

    def returned(self, ticket: Ticket) -> None:
        """The attempt was never made, or its outcome says nothing: a probe hands its right back."""
        if self.awaits(ticket):
            self._leased_until_s = None

    def awaits(self, ticket: Ticket) -> bool:
        """Whether this is the probe whose outcome decides what becomes of the circuit."""
        return self._is_current(ticket) and ticket.probe

    def open_long(self, ticket: Ticket, now: float) -> Transition | None:
        """The upstream does not know the target's model: 10 min, doubling to 1 h until an attempt succeeds."""
        if not self._is_current(ticket):
            return None
        open_for_s = min(LONG_MOST_S, LONG_FIRST_S * _doubled(self._long_openings))
        self._long_openings += 1
        return self._open(now, open_for_s)

    # -- operators -----------------------------------------------------------------------------------------------------

    def force_open(self) -> Transition | None:
        """Let nothing through until it is reset or forced closed."""
        self._forget()
        self.is_forced = True
        return self._move(CircuitState.OPEN, math.inf)

    def force_close(self) -> Transition | None:
        """Let everything through, whatever becomes of it, until it is reset or forced open."""
        self._forget()
        self.is_forced = True
        return self._move(CircuitState.CLOSED)

    def reset(self) -> Transition | None:
        """Close it and forget everything, as if the daemon had just started."""
        self._forget()
        self.is_forced = False
        return self._move(CircuitState.CLOSED)

    # -- other daemons and configuration -------------------------------------------------------------------------------

    def follow(
        self, state: CircuitState, now: float, *, open_for_s: float = 0.0, openings: int = 0, pinned: bool = False
    ) -> Transition | None:
        """Move to open (for that long, after so many openings) or closed as another daemon did; pinned if it was."""
        if pinned:
            return self.force_open() if state is CircuitState.OPEN else self.force_close()
        self.is_forced = False
        self._openings = openings
        if state is CircuitState.OPEN:
            return self._open(now, open_for_s)
        self._long_openings = 0
        return self._close(now)

    def adopt(self, policy: Breaker) -> None:
        """Go on under another policy; an opening that has begun keeps its length."""
        if policy.window_s != self.policy.window_s:
            self._outcomes, self._failures = _make_window(policy)
        self.policy = policy

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _is_current(self, ticket: Ticket) -> bool:
        """Whether an outcome speaks of the present: no move since, and let through in the state that still holds."""
        expected = CircuitState.HALF_OPEN if ticket.probe else CircuitState.CLOSED
        return not self.is_forced and self.state is expected and ticket.generation == self._generation

    def _is_leased(self, now: float) -> bool:
        return self.state is CircuitState.HALF_OPEN and self._leased_until_s is not None and now < self._leased_until_s

    def _is_too_much(self, now: float) -> bool:
        if self._failures_in_a_row >= self.policy.consecutive_failures:
            return True
        outcomes = self._outcomes.total(now)
        return outcomes >= self.policy.minimum and self._failures.total(now) >= self.policy.failure_rate * outcomes

    def _open_growing(self, now: float, jitter: float) -> Transition | None:
        open_for_s = min(self.policy.open_max_s, self.policy.open_for_s * _doubled(self._openings))
        self._openings += 1
        return self._open(now, open_for_s * (1 - JITTER_SHARE * jitter))

    def _open(self, now: float, open_for_s: float) -> Transition | None:
        self._open_for_s = open_for_s
        self._open_until_s = now + open_for_s
        self._start_anew()
        return self._move(CircuitState.OPEN, open_for_s)

    def _close(self, now: float) -> Transition | None:
        self._closed_at_s = now
        self._start_anew()
        return self._move(CircuitState.CLOSED)

    def _forget(self) -> None:
        self._openings = self._long_openings = 0
        self._closed_at_s = -math.inf
        self._start_anew()

    def _start_anew(self) -> None:
        self._generation += 1
        self._leased_until_s = None
        self._failures_in_a_row = 0
        self._outcomes.clear()
        self._failures.clear()

    def _move(self, after: CircuitState, open_for_s: float = 0.0) -> Transition | None:
        before, self.state = self.state, after
        return None if before is after else Transition(before, after, open_for_s)


class Account:
    """One credential: a circuit that nothing but account errors opens. `detail`: the upstream's words for the last."""

    def __init__(self) -> None:
        """Good until the upstream says otherwise."""
        self.detail = ""
        self._circuit = Circuit(Breaker())

    def outlook(self, now: float) -> Outlook:
        """Tell whether it can be used: not at rest, and not out on its own probe."""
        return self._circuit.outlook(now)

    def admit(self, now: float, lease_s: float) -> Ticket | None:
        """Use it for an attempt; None while it rests. The first attempt after a rest is its probe."""
        return self._circuit.admit(now, lease_s)

    def join(self) -> Ticket:
        """Use it for a job of an earlier life."""
        return self._circuit.join()

    def refused(self, ticket: Ticket, now: float, detail: str) -> Transition | None:
        """The upstream refused it: rest 10 min, doubling to 1 h. None if that was known when this answer came."""
        moved = self._circuit.open_long(ticket, now)
        if moved is not None:
            self.detail = detail
        return moved

    def accepted(self, ticket: Ticket, now: float) -> Transition | None:
        """An attempt with it succeeded."""
        moved = self._circuit.succeeded(ticket, now)
        if moved is not None:
            self.detail = ""
        return moved

    def returned(self, ticket: Ticket) -> None:
        """An attempt with it came to nothing that would speak for or against it."""
        self._circuit.returned(ticket)

    def restore(self) -> Transition | None:
        """An operator says that it is good again, or it has a new secret."""
        self.detail = ""
        return self._circuit.reset()


def _make_window(policy: Breaker) -> tuple[Tally, Tally]:
    """Two sums over the policy's window: of all outcomes that count, and of the failures among them."""
    width_s = policy.window_s / WINDOW_STEPS
    return Tally(width_s, WINDOW_STEPS), Tally(width_s, WINDOW_STEPS)


def _doubled(times: int) -> int:
    return 1 << min(times, DOUBLINGS_MAX)
