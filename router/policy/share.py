"""How daemons divide what a provider's account allows: places fairly by need, starts from one bucket.

Each daemon says what it could use; the division is the same whoever computes it. Nobody gets more than its need while
another goes short (max-min), and what nobody needs is spread evenly, so that a burst finds places without asking first.
A place in use is never taken away: who has too many gives them up as their attempts end. The bucket counts in
thousandths of a token, because a slow rate earns less than one between two questions. Pure; the stores call it under a
lock. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.leases import Want

WHOLE = 1_000  # thousandths of a token
TURN_MS = 10_000  # how long a place that cannot be divided stays with one life


@dataclass(frozen=True, slots=True)
class Leased:
    """What another life holds of a provider's places, and what it said that it could use."""

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
    shares = dict.fromkeys(epochs[first:] + epochs[:first], 0)
    hungry, left = sorted(shares, key=needs.__getitem__), places  # stable: equal needs in the order of the turn
    while hungry and left:
        # The smallest need first: it is met, or all that are left over get the same.
        part = min(needs[hungry[0]], -(-left // len(hungry)))
        shares[hungry[0]] = part
        left -= part
        del hungry[0]
    for number, epoch in enumerate(shares):
        shares[epoch] += left // len(shares) + (number < left % len(shares))
    return shares


def lease_places(want: Want, epoch: int, others: Mapping[int, Leased], now: int) -> int:
    """Say how many places the life of that epoch may use now: its share, as far as the others have left it free."""
    needs = {other: leased.need for other, leased in others.items()} | {epoch: want.need}
    fair = divide(want.places, needs, now // TURN_MS)[epoch]
    free = want.places - sum(leased.places for leased in others.values())
    return max(want.in_use, min(fair, free), 0)


def take_tokens(want: Want, bucket: Fill | None, now: int) -> tuple[int, Fill]:
    """Take whole tokens, at most as many as are wanted, from a bucket that is full at first; returns what is left."""
    size = want.tokens * WHOLE
    if bucket is None:
        level = size
    else:
        earned = max(0, now - bucket.at) * size // want.per_ms if want.per_ms else size
        level = min(size, bucket.tokens + earned)
    taken = min(max(0, want.tokens_wanted), level // WHOLE)
    # The clock of the row never goes back, so that what was earned is not earned again.
    return taken, Fill(level - taken * WHOLE, now if bucket is None else max(now, bucket.at))
