"""The order inside one lane of the queue: whose turn it is among classes, tenants and entries.

The policy is told in `flow.queue`, which owns the window, the timers and the lanes; this module owns the heaps. A class
has a share for each tenant, which takes turns, and a share a pile for each API key, which may be blocked alone. Every
heap is lazy: what has left stays in it as a dead item until it surfaces or the dead outnumber the living. `now` is
monotonic seconds. Floor 2.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from router.task import Priority

T = TypeVar("T")

AGE_STEP_S = 150.0
PASSES_REMEMBERED = 1_000
DEAD_TOLERATED = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting task. `created_at` in milliseconds; `lane` is where it waits (set by `push`), `key_id` who sent it."""

    task_id: str
    tenant: str
    priority: Priority
    created_at: int
    lane: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Who has enough running: tenants, and API keys by their ids."""

    tenants: Collection[str] = ()
    keys: Collection[str] = ()

    def covers(self, pile: Pile) -> bool:
        """Whether nothing of a pile may be taken."""
        return pile.share.tenant in self.tenants or pile.key_id in self.keys

    def covers_all(self, share: Share) -> bool:
        """Whether nothing of a share may be taken."""
        return share.tenant in self.tenants or (bool(self.keys) and all(map(self.covers, share.piles.values())))


NOBODY = Blocked()


@dataclass(slots=True, eq=False)
class Seat:
    """An entry inside: runnable since when, and what holds it now (None: nothing any more)."""

    entry: Entry
    since_s: float
    place: Pile | Heap | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The best that a lane has; the smaller rank goes first."""

    rank: tuple[int, int, str]
    lane: Lane
    line: Line
    pile: Pile


class Lane:
    """The runnable entries that wait for the same thing."""

    __slots__ = ("_turns", "lines", "live")

    def __init__(self) -> None:
        self.lines = tuple(Line(priority) for priority in Priority)
        self.live = 0
        self._turns = 0

    def add(self, seat: Seat, weight: int) -> None:
        """Take an entry in, with the weight of its tenant."""
        self.lines[seat.entry.priority].add(seat, weight)
        self.live += 1

    def offer(self, now: float, blocked: Blocked) -> Offer | None:
        """Choose the class that stands highest; among equals the one longest not served, then the one that has risen.

        There, whose turn it is.
        """
        levels = [(line.level(now, blocked), line) for line in self.lines if line.live]
        standing = [(level, line.served, -line.priority, line) for level, line in levels if level is not None]
        if not standing:
            return None
        level, _served, _priority, line = min(standing, key=lambda one: one[:3])
        pile = line.next_share(blocked).first_pile(blocked)
        head = pile.head.entry
        return Offer((level, head.created_at, head.task_id), self, line, pile)

    def take(self, offer: Offer) -> Seat:
        """Take what was offered."""
        self.live -= 1
        self._turns += 1
        offer.line.served = self._turns
        return offer.line.take(offer.pile)

    def lose(self, pile: Pile, priority: Priority) -> None:
        """One of the entries of a pile has left."""
        self.live -= 1
        self.lines[priority].lose(pile)

    def shares(self) -> Iterable[Share]:
        """Every share of every class."""
        return (share for line in self.lines for share in line.shares.values())

    def heads(self) -> Iterable[Seat]:
        """The oldest entry of every pile."""
        return (pile.head for share in self.shares() for pile in share.piles.values())

    def ahead_of(self, seat: Seat, share: Share, now: float) -> int:
        """Those in classes that stand higher, those before it in its share, and the turns of others in between."""
        own = self.lines[seat.entry.priority]
        level = own.level(now, NOBODY)
        higher = sum(
            line.live
            for line in self.lines
            if line.live and (line.level(now, NOBODY), line.priority) < (level, own.priority)
        )
        before = max(0, seat.number - share.gone - 1)
        return higher + before + min(own.live - share.live, (before + 1) * (len(own.shares) - 1))


class Line:
    """One class in one lane. `clock` is its virtual time: the pass of the share that was served last."""

    __slots__ = ("_clock", "_elders", "_passes", "_turns", "live", "priority", "served", "shares")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.live = 0
        self.served = 0
        self.shares: dict[str, Share] = {}
        self._turns = Ranking[Share]()
        self._elders = Ranking[Pile]()
        self._clock = 0.0
        self._passes: dict[str, float] = {}  # of tenants that have nothing waiting and are ahead of the clock

    def level(self, now: float, blocked: Blocked) -> int | None:
        """How high the class stands: its own place, less one for each step of its oldest entry's age; 0 is highest."""
        elder = self._elders.first(blocked.covers)
        if elder is None:
            return None
        return max(0, self.priority - max(0, int((now - elder[0]) // AGE_STEP_S)))

    def next_share(self, blocked: Blocked) -> Share:
        """Tell whose turn it is."""
        turn = self._turns.first(blocked.covers_all)
        assert turn is not None, "a class with a level has a share whose turn it is"
        return turn[2]

    def add(self, seat: Seat, weight: int) -> None:
        """Take an entry in. A tenant that comes anew stands where the clock is, not where it once was."""
        tenant = seat.entry.tenant
        share = self.shares.get(tenant)
        if share is None:
            share = self.shares[tenant] = Share(tenant)
            share.turn = max(self._clock, self._passes.pop(tenant, 0.0))
            self._turns.put(share, share.turn)
        share.weight = weight
        self.live += 1
        self._note_elder(share.add(seat))

    def take(self, pile: Pile) -> Seat:
        """Serve a share: its next turn comes the later, the less weight it has."""
        share = pile.share
        self.live -= 1
        # A share that was blocked while its turns passed does not get them back.
        self._clock = max(self._clock, share.turn)
        share.turn = self._clock + 1 / share.weight
        seat = pile.take()
        if share.live:
            self._turns.put(share, share.turn)
        self._after_loss(pile)
        return seat

    def lose(self, pile: Pile) -> None:
        """One of the entries of a pile has left."""
        self.live -= 1
        pile.lose()
        self._after_loss(pile)

    def _after_loss(self, pile: Pile) -> None:
        share = pile.share
        if pile.live:
            self._note_elder(pile)
        else:
            del share.piles[pile.key_id]
            self._elders.drop(pile)
        if share.live:
            return
        del self.shares[share.tenant]
        self._turns.drop(share)
        if not self.shares:
            self._clock = 0.0
            self._passes.clear()
            return
        if share.turn > self._clock:
            self._passes[share.tenant] = share.turn
        if len(self._passes) > 2 * PASSES_REMEMBERED:
            ahead = {tenant: turn for tenant, turn in self._passes.items() if turn > self._clock}
            self._passes = ahead if len(ahead) <= PASSES_REMEMBERED else {}

    def _note_elder(self, pile: Pile) -> None:
        since_s = pile.since_s
        if since_s != pile.elder_s:
            pile.elder_s = since_s
            self._elders.put(pile, since_s)


class Share:
    """What one tenant has waiting in one class of one lane. `turn` is its pass, `piles` its entries by API key."""

    __slots__ = ("added", "gone", "piles", "tenant", "turn", "weight")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.weight = 1
        self.turn = 0.0
        self.added = self.gone = 0
        self.piles: dict[str | None, Pile] = {}

    @property
    def live(self) -> int:
        """How many entries it has."""
        return self.added - self.gone

    def add(self, seat: Seat) -> Pile:
        """Take an entry in; returns the pile that it lies on."""
        key_id = seat.entry.key_id
        pile = self.piles.get(key_id)
        if pile is None:
            pile = self.piles[key_id] = Pile(self, key_id)
        self.added += 1
        seat.number = self.added
        pile.add(seat)
        return pile

    def first_pile(self, blocked: Blocked) -> Pile:
        """The pile whose head is next when it is the turn of this share: the oldest of those that are not blocked."""
        piles = [pile for pile in self.piles.values() if pile.key_id not in blocked.keys]
        return piles[0] if len(piles) == 1 else min(piles, key=lambda pile: pile.rank)


class Pile:
    """What one API key of a tenant has waiting in a share. `elder_s` is its age as last ranked."""

    __slots__ = ("_by_age", "_by_since", "elder_s", "key_id", "share")

    def __init__(self, share: Share, key_id: str | None) -> None:
        self.share = share
        self.key_id = key_id
        self.elder_s: float | None = None
        self._by_age = Heap(self)
        self._by_since = Heap(self)

    @property
    def live(self) -> int:
        """How many entries it has."""
        return self._by_age.live

    @property
    def head(self) -> Seat:
        """The oldest entry."""
        return self._by_age.seat()

    @property
    def rank(self) -> tuple[int, str]:
        """How old its head is; equals by id."""
        head = self.head.entry
        return head.created_at, head.task_id

    @property
    def since_s(self) -> float:
        """Since when the one that has been runnable longest is."""
        return self._by_since.seat().since_s

    def add(self, seat: Seat) -> None:
        """Take an entry in."""
        seat.place = self
        self._by_age.push(seat.entry.created_at, seat.entry.task_id, seat)
        self._by_since.push(seat.since_s, seat)

    def take(self) -> Seat:
        """Take the oldest entry out."""
        self.share.gone += 1
        seat = self._by_age.pop()
        seat.place = None
        self._by_since.lose()
        return seat

    def lose(self) -> None:
        """One of its seats has been left."""
        self.share.gone += 1
        self._by_age.lose()
        self._by_since.lose()


# -- heaps ------------------------------------------------------------------------------------------------------------


class Heap:
    """Seats in order. Those whose place is elsewhere by now are dead: passed over at the top, swept out when many."""

    __slots__ = ("_items", "_owner", "_serial", "live")

    def __init__(self, owner: Pile | None = None) -> None:
        """`owner` is the place of a seat that is alive in here, None for the heap itself."""
        self.live = 0
        self._owner = self if owner is None else owner
        self._items: list[tuple[Any, ...]] = []
        self._serial = count()

    def push(self, *key_and_seat: Any) -> None:
        """Add a seat behind its key. Equal keys stand in the order of their pushing."""
        *key, seat = key_and_seat
        heapq.heappush(self._items, (*key, next(self._serial), seat))
        self.live += 1

    def first(self) -> tuple[Any, ...] | None:
        """The first living item: key, serial, seat."""
        while self._items and self._items[0][-1].place is not self._owner:
            heapq.heappop(self._items)
        return self._items[0] if self._items else None

    def seat(self) -> Seat:
        """The first living seat of a heap that has one."""
        first = self.first()
        assert first is not None, "the heap has a living seat"
        seat: Seat = first[-1]
        return seat

    def pop(self) -> Seat:
        """Take the first living seat out of a heap that has one."""
        seat = self.seat()
        heapq.heappop(self._items)
        self.live -= 1
        return seat

    def lose(self) -> None:
        """A seat that was alive in here has got another place."""
        self.live -= 1
        if len(self._items) > 2 * self.live + DEAD_TOLERATED:
            self._items = [item for item in self._items if item[-1].place is self._owner]
            heapq.heapify(self._items)

    def seats(self) -> Iterable[Seat]:
        """The living seats, in no order."""
        return (item[-1] for item in self._items if item[-1].place is self._owner)


class Ranking(Generic[T]):
    """Things in order of a number that changes: the last one put counts. Equals stand in the order of their putting."""

    __slots__ = ("_items", "_last", "_serial")

    def __init__(self) -> None:
        self._items: list[tuple[float, int, T]] = []
        self._last: dict[T, tuple[float, int, T]] = {}
        self._serial = count()

    def put(self, thing: T, number: float) -> None:
        """Rank a thing by a number, whatever it had before."""
        item = self._last[thing] = (number, next(self._serial), thing)
        heapq.heappush(self._items, item)
        if len(self._items) > 2 * len(self._last) + DEAD_TOLERATED:
            self._items = list(self._last.values())
            heapq.heapify(self._items)

    def drop(self, thing: T) -> None:
        """Leave a thing out."""
        self._last.pop(thing, None)

    def first(self, is_blocked: Callable[[T], bool]) -> tuple[float, int, T] | None:
        """The first item that is not blocked."""
        aside = []
        while self._items:
            item = self._items[0]
            current = self._last.get(item[2]) is item
            if current and not is_blocked(item[2]):
                break
            heapq.heappop(self._items)
            if current:
                aside.append(item)
        found = self._items[0] if self._items else None
        for item in aside:
            heapq.heappush(self._items, item)
        return found
