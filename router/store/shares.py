"""What daemons share in the memory store: places, buckets of starts, circuits and who may probe. Floor 3."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from router.leases import CircuitKey, CircuitNews, CircuitSeen, CircuitWord, Grant, Want
from router.policy.share import Fill, Leased, lease_places, take_tokens


@dataclass(slots=True)
class CircuitRow:
    """The last move of a circuit. `until_at` None: until somebody acts. The right to probe ends at `held_until`."""

    news: CircuitNews
    until_at: int | None
    version: int
    epoch: int
    holder: int | None = None
    held_until: int = 0


class Shares:
    """Four dicts. Who is asked answers at once; what is divided is decided by `policy.share`."""

    def __init__(self) -> None:
        """Nothing is leased and no circuit has moved."""
        self._places: dict[str, dict[int, Leased]] = {}
        self._buckets: dict[str, Fill] = {}
        self._circuits: dict[CircuitKey, CircuitRow] = {}

    def share(self, epoch: int, wants: Sequence[Want], awake: Collection[int], now: int) -> tuple[Grant, ...]:
        """Lease places and tokens to the life of that epoch; the places of those that are not awake are free."""
        grants: dict[str, Grant] = {}
        for want in sorted(wants, key=lambda one: one.provider):
            rows = self._places.setdefault(want.provider, {})
            others = {other: leased for other, leased in rows.items() if other in awake and other != epoch}
            places, rows[epoch] = lease_places(want, epoch, others, now)
            taken = 0
            if want.tokens:
                taken, self._buckets[want.provider] = take_tokens(want, self._buckets.get(want.provider), now)
            grants[want.provider] = Grant(want.provider, places, taken)
        return tuple(grants[want.provider] for want in wants)

    def leave(self, epoch: int) -> None:
        """Let go of the places of a life."""
        for rows in self._places.values():
            rows.pop(epoch, None)

    def exchange(self, epoch: int, news: Sequence[CircuitNews], now: int) -> tuple[CircuitSeen, ...]:
        """Note how circuits were moved, then show all."""
        for one in sorted(news, key=lambda one: one.key):
            before = self._circuits.get(one.key)
            if one.word is CircuitWord.RETURNED:
                if before is not None and before.holder == epoch:
                    before.holder = None
                continue
            if before is not None and before.news.pinned and not one.by_hand:
                continue
            until_at = None if one.open_for_ms is None else now + one.open_for_ms
            version = 1 if before is None else before.version + 1
            self._circuits[one.key] = CircuitRow(one, until_at, version, epoch)
        return tuple(_seen(key, self._circuits[key], now) for key in sorted(self._circuits))

    def lease_probe(self, epoch: int, key: CircuitKey, lease_ms: int, awake: Collection[int], now: int) -> bool:
        """Give the right to who asks first when the time is over and nobody who lives has it."""
        row = self._circuits.get(key)
        if row is None or row.news.word is not CircuitWord.OPEN or row.news.pinned:
            return False
        if row.until_at is None or row.until_at > now:
            return False
        if row.holder not in {None, epoch} and row.held_until > now and row.holder in awake:
            return False
        row.holder, row.held_until = epoch, now + lease_ms
        return True


def _seen(key: CircuitKey, row: CircuitRow, now: int) -> CircuitSeen:
    left_ms = None if row.until_at is None else max(0, row.until_at - now)
    return CircuitSeen(key, row.news.word, left_ms, row.news.openings, row.news.pinned, row.version, row.epoch)
