"""How fast an upstream may be driven, and how long to stay away when it asks for that: arithmetic only.

Places (`Slots`) and starts per time (`Bucket`) are the limits of a provider's account; where several daemons share it,
each has an `Allowance` of starts from the one bucket instead (`policy.share`). `RetryBudget` keeps repeats at
one provider to a fifth of its first tries, above a floor for quiet times; `clamp_rest` reads an upstream's wish to be
left alone; `DrainRate`, `Turnover` and `Latency` measure, so that a refused caller and a waiting one can be told a
number. Nothing here sleeps or looks at a clock: an answer is a number of seconds, `now` is monotonic seconds and never
falls. What the numbers lead to is decided in `flow.fleet` and `policy.verdict`. Sources: contract section 6 (Retry,
Queue). Floor 1.
"""

from __future__ import annotations

import math
from collections import deque

from router.policy.rules import Rate

REST_LEAST_S, REST_MOST_S = 1.0, 300.0
REST_UNSAID_S = 30.0
RETRY_AFTER_LEAST_S, RETRY_AFTER_MOST_S = 1.0, 120.0
SAMPLES_NEEDED = 20  # fewer say nothing (contract 5.3, `eta_seconds`)


class Slots:
    """The places of one account. `limit` may fall below `in_use`; then nothing starts until enough have ended."""

    __slots__ = ("in_use", "limit")

    def __init__(self, limit: int) -> None:
        """All places are free."""
        self.limit = limit
        self.in_use = 0

    @property
    def free(self) -> int:
        """How many more may start."""
        return max(0, self.limit - self.in_use)

    def take(self) -> bool:
        """Take a place; False when there is none."""
        if self.free == 0:
            return False
        self.in_use += 1
        return True

    def take_anyway(self) -> None:
        """Count a job that is out already (it was accepted in an earlier life), also above the limit."""
        self.in_use += 1

    def give_back(self) -> None:
        """A place is free again."""
        assert self.in_use > 0, "a place was given back twice"
        self.in_use -= 1


class Bucket:
    """A token bucket of the size `rate.count`, full at first, refilled evenly: `count` tokens in `per_s` seconds."""

    __slots__ = ("_at_s", "_tokens", "rate")

    # A caller that waits exactly as long as it was told must find its token, whatever floats do to the last digit.
    # What is taken too early is owed, so nothing is won by it.
    _GRACE = 1e-6

    def __init__(self, rate: Rate, now: float) -> None:
        """Start full."""
        self.rate = rate
        self._tokens = float(rate.count)
        self._at_s = now

    def take(self, now: float) -> float:
        """Take a token and return 0.0; or take nothing and return the seconds until there will be one."""
        wait_s = self.wait_s(now)
        if wait_s == 0.0:
            self._tokens -= 1.0
        return wait_s

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token; 0.0 when there is one now."""
        self._refill(now)
        missing = 1.0 - self._tokens
        return 0.0 if missing <= self._GRACE else missing * self.rate.per_s / self.rate.count

    def left(self, now: float) -> int:
        """How many tokens can be taken now."""
        self._refill(now)
        return max(0, math.floor(self._tokens + self._GRACE))

    def adopt(self, rate: Rate, now: float) -> None:
        """Go on under another rate. What was taken stays taken, and nothing above the new size is kept."""
        self._refill(now)
        self._tokens = min(float(rate.count), self._tokens + max(0, rate.count - self.rate.count))
        self.rate = rate

    def _refill(self, now: float) -> None:
        passed_s = max(0.0, now - self._at_s)
        self._tokens = min(float(self.rate.count), self._tokens + passed_s * self.rate.count / self.rate.per_s)
        self._at_s = now


class Allowance:
    """Starts that were leased from a bucket shared with other daemons: empty at first, never more than the bucket has.

    When more will come is not known here, so that the wait while it is empty is when to look again.
    """

    __slots__ = ("_tokens", "rate")

    ASKED_AGAIN_S = 1.0
    SPARE_FROM = 10

    def __init__(self, rate: Rate) -> None:
        """Start empty."""
        self.rate = rate
        self._tokens = 0

    def take(self, now: float) -> float:
        """Take a token and return 0.0; or take nothing and return the seconds until it is worth asking again."""
        wait_s = self.wait_s(now)
        if wait_s == 0.0:
            self._tokens -= 1
        return wait_s

    def wait_s(self, _now: float) -> float:
        """0.0 when there is a token; else the seconds until it is worth asking again."""
        return 0.0 if self._tokens else self.ASKED_AGAIN_S

    def left(self, _now: float) -> int:
        """How many tokens can be taken now."""
        return self._tokens

    def missing(self, waiting: int) -> int:
        """How many tokens to ask for, so that those who wait can start and those who come within a second.

        One is kept in hand where the rate is slower, but none of a bucket so small that the idle could empty it.
        """
        spare = max(math.floor(self.rate.count / self.rate.per_s), int(self.rate.count >= self.SPARE_FROM))
        return max(0, min(self.rate.count, waiting + spare) - self._tokens)

    def fill(self, tokens: int) -> None:
        """Put leased tokens in; what is above the size is lost."""
        self._tokens = min(self.rate.count, self._tokens + max(0, tokens))

    def empty(self) -> None:
        """Lose what is left: the lease is over."""
        self._tokens = 0

    def adopt(self, rate: Rate, _now: float) -> None:
        """Go on under another rate; nothing above the new size is kept."""
        self.rate = rate
        self._tokens = min(self._tokens, rate.count)


class RetryBudget:
    """Repeats on the same target: each first try pays in 0.2, each repeat costs 1, with a floor of 10 in any 10 s.

    Deposits and withdrawals count for `SPAN_S` seconds, so that good times do not pay for a storm hours later.
    """

    __slots__ = ("_balance",)

    SPAN_S = 10
    # In fifths, so that the sum is exact.
    DEPOSIT, WITHDRAWAL, FLOOR = 1, 5, 50

    def __init__(self) -> None:
        """Start with the floor alone."""
        self._balance = Tally(1.0, self.SPAN_S)

    def deposit(self, now: float) -> None:
        """A first try was made."""
        self._balance.add(now, self.DEPOSIT)

    def affords(self, now: float) -> bool:
        """Whether a repeat may be made."""
        return self.FLOOR + self._balance.total(now) >= self.WITHDRAWAL

    def withdraw(self, now: float) -> bool:
        """Pay for a repeat; False, and nothing is paid, when it is not afforded."""
        if not self.affords(now):
            return False
        self._balance.add(now, -self.WITHDRAWAL)
        return True


class DrainRate:
    """How fast waiting tasks leave the queue, measured over the last minute: the `Retry-After` of `queue_full`."""

    __slots__ = ("_first_s", "_gone")

    SPAN_S = 60

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._gone = Tally(1.0, self.SPAN_S)
        self._first_s: float | None = None

    def note(self, now: float) -> None:
        """A task left the queue."""
        if self._first_s is None:
            self._first_s = now
        self._gone.add(now, 1)

    def seconds_for(self, count: int, now: float) -> float:
        """Whole seconds until `count` tasks will have left at the measured pace, 1 to 120 (120 at a standstill)."""
        gone = self._gone.total(now)
        if gone == 0 or self._first_s is None:
            return RETRY_AFTER_MOST_S
        seen_s = min(float(self.SPAN_S), max(1.0, now - self._first_s))
        return min(RETRY_AFTER_MOST_S, max(RETRY_AFTER_LEAST_S, float(math.ceil(count * seen_s / gone))))


class Turnover:
    """How often somebody leaves a line in which others wait: the last `KEPT` gaps between two who left.

    Time in which nobody waited is no gap: what comes after it begins anew.
    """

    __slots__ = ("_gaps", "_last_s")

    KEPT = 100

    def __init__(self) -> None:
        """Nobody has left yet."""
        self._gaps: deque[float] = deque(maxlen=self.KEPT)
        self._last_s: float | None = None

    def note(self, now: float, *, others_wait: bool) -> None:
        """Somebody left the line."""
        if self._last_s is not None:
            self._gaps.append(max(0.0, now - self._last_s))
        self._last_s = now if others_wait else None

    @property
    def mean_s(self) -> float | None:
        """Seconds between two who leave; None below 20 samples."""
        return None if len(self._gaps) < SAMPLES_NEEDED else sum(self._gaps) / len(self._gaps)


class Latency:
    """How long successful attempts at a target take: the last `KEPT` for the median, all of them for the average."""

    __slots__ = ("_next", "_samples", "ewma_s")

    KEPT = 101
    NEWEST_SHARE = 0.1

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.ewma_s: float | None = None
        self._samples: list[float] = []
        self._next = 0

    def note(self, elapsed_s: float) -> None:
        """An attempt succeeded after so many seconds."""
        if self.ewma_s is None:
            self.ewma_s = elapsed_s
        else:
            self.ewma_s += self.NEWEST_SHARE * (elapsed_s - self.ewma_s)
        if len(self._samples) < self.KEPT:
            self._samples.append(elapsed_s)
        else:
            self._samples[self._next] = elapsed_s
        self._next = (self._next + 1) % self.KEPT

    @property
    def p50_s(self) -> float | None:
        """The median of what is kept; None below 20 samples."""
        if len(self._samples) < SAMPLES_NEEDED:
            return None
        return sorted(self._samples)[len(self._samples) // 2]


class Successes:
    """How many attempts at a target succeeded in the last hour, of those that it had a part in; to five minutes."""

    __slots__ = ("_slots",)

    SLOT_S = 300.0
    SLOTS = 12

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._slots: dict[int, tuple[int, int]] = {}  # number of the five minutes -> (succeeded, all)

    def note(self, now_s: float, *, succeeded: bool) -> None:
        """An attempt ended (monotonic seconds)."""
        slot = int(now_s // self.SLOT_S)
        if slot not in self._slots:
            self._slots = {number: counts for number, counts in self._slots.items() if number > slot - self.SLOTS}
        good, total = self._slots.get(slot, (0, 0))
        self._slots[slot] = good + succeeded, total + 1

    def rate(self, now_s: float) -> float | None:
        """The share of successes; None below 20 attempts."""
        oldest = int(now_s // self.SLOT_S) - self.SLOTS
        counts = [pair for number, pair in self._slots.items() if number > oldest]
        total = sum(pair[1] for pair in counts)
        return None if total < SAMPLES_NEEDED else sum(pair[0] for pair in counts) / total


def clamp_rest(rest_s: float | None, *, has_other: bool) -> float | None:
    """Seconds for which a throttled target rests; None: no rest, the task backs off by itself.

    What the upstream asked for counts within 1 to 300 s, however absurd. If it asked for nothing (or for something that
    is no number), the target rests 30 s where another target can take its tasks (contract 6, Retry).
    """
    if rest_s is None or math.isnan(rest_s):
        return REST_UNSAID_S if has_other else None
    return min(REST_MOST_S, max(REST_LEAST_S, rest_s))


class Tally:
    """A sum over a sliding window of time, in `slots` steps of `width_s` seconds: bounded, however much is added."""

    __slots__ = ("_amounts", "_stamps", "_width_s")

    def __init__(self, width_s: float, slots: int) -> None:
        """The sum is 0."""
        self._width_s = width_s
        self._amounts = [0] * slots
        self._stamps = [-1] * slots

    def add(self, now: float, amount: int) -> None:
        """Add to the step that `now` is in."""
        stamp = self._stamp(now)
        place = stamp % len(self._stamps)
        if self._stamps[place] != stamp:
            self._stamps[place] = stamp
            self._amounts[place] = 0
        self._amounts[place] += amount

    def total(self, now: float) -> int:
        """The sum over the step that `now` is in and the ones before it that the window still covers."""
        oldest = self._stamp(now) - len(self._stamps) + 1
        return sum(amount for amount, stamp in zip(self._amounts, self._stamps, strict=True) if stamp >= oldest)

    def clear(self) -> None:
        """Forget everything."""
        self._stamps = [-1] * len(self._stamps)
        self._amounts = [0] * len(self._amounts)

    def _stamp(self, now: float) -> int:
        return math.floor(now / self._width_s)
