"""How daemons divide what a provider's account allows: places fairly by need, starts from one bucket.

Each daemon says what it could use; the division is the same whoever computes it. Nobody gets more than its need while
another goes short (max-min), and what nobody needs is spread evenly, so that a burst finds places without asking first.
A place in use is never taken away: who has too many begins nothing until enough of its attempts have ended. The bucket
counts in thousandths of a token, because a slow rate earns less than one between two questions. Pure; the stores call
it under a lock. Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.leases import Want

WHOLE = 1_000  # thousandths of a token
TURN_MS = 10_000  # how long a place that cannot be divided stays with one life


@dataclass(frozen=True, slots=True)
class Leased:
    """What a life holds of a provider's places, and what it said that it could use."""

    places: int
    need: int


@dataclass(frozen=True, slots=True)
class Fill:
    """A bucket at an instant: thousandths of tokens, milliseconds since the epoch."""

    tokens: int
    at: int


def divide(places: int, needs: Mapping[int, int], turn: int = 0) -> dict[int, int]:
    """Divide places among lives, by epoch; every life of `needs` is in the answer, which sums to `places`.

    What cannot be divided goes to another life with each `turn`, so that nobody starves where there are fewer places
    than lives.
    """
    epochs = sorted(needs)
    first = turn % len(epochs)
    level = _level(places, needs.values())
    shares = {epoch: min(needs[epoch], level) for epoch in epochs[first:] + epochs[:first]}
    left = places - sum(shares.values())
    takers = [epoch for epoch in shares if needs[epoch] > level] or list(shares)
    for number, epoch in enumerate(takers):
        shares[epoch] += left // len(takers) + (number < left % len(takers))
    return shares


def lease_places(want: Want, epoch: int, others: Mapping[int, Leased], now: int) -> tuple[int, Leased]:
    """Say how many places the life of that epoch may use from now on, and what it holds of them until it asks again.

    It may use its share, as far as the others have left it free, and holds what it uses too: it may have more out than
    it could begin. `want.in_use` counts what it could begin before it hears the answer, or two might use one place.
    """
    needs = {other: leased.need for other, leased in others.items()} | {epoch: want.need}
    fair = divide(want.places, needs, now // TURN_MS)[epoch]
    free = want.places - sum(leased.places for leased in others.values())
    places = max(0, min(fair, free))
    return places, Leased(max(places, want.in_use), want.need)


def take_tokens(want: Want, bucket: Fill | None, now: int) -> tuple[int, Fill]:
    """Take whole tokens, at most as many as are wanted, from a bucket that is full at first; returns what is left."""
    level, at = _refill(want, bucket, now)
    taken = min(max(0, want.tokens_wanted), level // WHOLE)
    return taken, Fill(level - taken * WHOLE, at)


def _level(places: int, needs: Iterable[int]) -> int:
    """The most that each may have of what it needs, so that all of it fits."""
    ascending = sorted(needs)
    level, left = 0, places
    for number, need in enumerate(ascending):
        count = len(ascending) - number
        if (need - level) * count > left:
            return level + left // count
        left -= (need - level) * count
        level = need
    return level


def _refill(want: Want, bucket: Fill | None, now: int) -> tuple[int, int]:
    """The level of the bucket now, and the instant up to which that counts what was earned."""
    size = want.tokens * WHOLE
    if bucket is None:
        return size, now
    passed_ms = max(0, now - bucket.at)  # the instant never goes back, so that nothing is earned twice
    earned = passed_ms * size // want.per_ms if want.per_ms else size
    if bucket.tokens + earned >= size:
        return size, bucket.at + passed_ms
    # Up to the last whole thousandth: a bucket that is looked at often would lose the rest each time and never fill.
    return bucket.tokens + earned, bucket.at - (-earned * want.per_ms // size)
