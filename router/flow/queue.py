"""Who is next: the waiting tasks in memory, in the order in which they should start. An index; the store is the truth.

An entry waits in a lane: unrouted (None), or for a place at the one provider that it was routed to. Within a lane:

* **Class first.** Of the four classes the better one goes first, but a class that is passed over rises: by one level
  for each 150 s that its oldest entry has been runnable. It rises as a whole, so that the long queue of one tenant
  lifts nobody over the short one of another. Classes that have reached the same level take turns. So the lowest starts
  after at most 4 x 150 s while there is capacity, against any stream of urgent ones (I12).
* **Tenants in shares.** Inside a class tenants take turns in proportion to their weight (virtual time): who has waited
  with five thousand tasks does not delay who comes with ten. A tenant that had nothing to do saves up no turns.
* **Oldest first.** Inside a tenant's share by `created_at`, then id, those of blocked API keys left out.

An entry with a time before which it must not start waits for that first, and its age counts from then. The queue holds
at most `window` entries of a class, and of one tenant never more than four times what is then left free, so that a late
tenant still finds a place; what does not fit stays in the store, and `overflowed` says that there is more to fetch.

It knows no store, provider or rule; it is told which lanes are open and which tenants and keys have enough running.
Push and pop cost O(log n), a removal O(1) amortized: what was removed stays in its heap as a dead item until it
surfaces or the dead outnumber the living. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain

from router.flow.lane import Blocked, Entry, Heap, Lane, Pile, Seat
from router.policy.pace import Turnover
from router.task import Priority, Task

__all__ = ["Entry", "Queue"]

TENANT_PART = 4
MATURED_PER_POP = 1_000
TAKEN_REMEMBERED = 10_000


class Queue:
    """The window on the waiting tasks of this daemon."""

    def __init__(self, *, window: int, monotonic: Callable[[], float] | None = None) -> None:
        """`window` bounds the entries of each class. `monotonic` None: the clock of the running loop."""
        self.window = window
        self.overflowed = False
        self._monotonic = _loop_time if monotonic is None else monotonic
        self._weights: Mapping[str, int] = {}
        self._seats: dict[str, Seat] = {}
        self._lanes: dict[str | None, Lane] = {}
        self._timers = Heap()
        self._counts = dict.fromkeys(Priority, 0)
        self._held: dict[tuple[Priority, str], int] = {}
        # When those taken last had become runnable: who was taken and found no place keeps its age.
        self._taken: OrderedDict[str, float] = OrderedDict()
        self._turnovers: dict[str | None, Turnover] = {}  # as many as there have been lanes: one for each provider

    # -- in and out ---------------------------------------------------------------------------------------------------

    def push(self, entry: Entry, lane: str | None = None, not_before_s: float | None = None) -> bool:
        """Let a task wait in a lane, runnable in `not_before_s` seconds from now (None: at once).

        A task that is inside already moves to its new place. False: the window is full, so it is not kept, and
        `overflowed` is set.
        """
        now = self._monotonic()
        since_s = self._taken.pop(entry.task_id, now)
        inside = self._seats.get(entry.task_id)
        if inside is not None:
            since_s = min(now, inside.since_s)
            self._leave(entry.task_id)
        if not self._has_place(entry):
            self.overflowed = True
            return False
        seat = Seat(entry if entry.lane == lane else replace(entry, lane=lane), since_s)
        self._seats[entry.task_id] = seat
        self._count(entry, +1)
        if not_before_s is not None and not_before_s > 0:
            seat.since_s = now + not_before_s
            seat.place = self._timers
            self._timers.push(seat.since_s, seat)
        else:
            self._lane(lane).add(seat, self._weight_of(entry.tenant))
        return True

    def pop(
        self,
        now: float,
        open_lanes: Collection[str | None],
        blocked_tenants: Collection[str] = (),
        blocked_keys: Collection[str] = (),
    ) -> Entry | None:
        """Take the best entry of the open lanes, leaving out blocked tenants and API keys; None when there is none."""
        self._mature(now)
        blocked = Blocked(blocked_tenants, blocked_keys)
        lanes = (lane for name, lane in self._lanes.items() if name in open_lanes)
        offers = (offer for lane in lanes if (offer := lane.offer(now, blocked)) is not None)
        best = min(offers, key=lambda offer: offer.rank, default=None)
        if best is None:
            return None
        seat = best.lane.take(best)
        del self._seats[seat.entry.task_id]
        self._count(seat.entry, -1)
        self._turnovers.setdefault(seat.entry.lane, Turnover()).note(now, others_wait=best.lane.live > 0)
        self._tidy(seat.entry.lane)
        self._taken[seat.entry.task_id] = seat.since_s
        if len(self._taken) > TAKEN_REMEMBERED:
            self._taken.popitem(last=False)
        return seat.entry

    def remove(self, task_id: str) -> bool:
        """Take a task out of the queue; False when it is not inside."""
        self._taken.pop(task_id, None)
        return self._leave(task_id)

    # -- questions ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many entries are inside, those before their time included."""
        return len(self._seats)

    def contains(self, task_id: str) -> bool:
        """Whether a task is inside."""
        return task_id in self._seats

    def missing(self, rows: Iterable[Task]) -> list[Task]:
        """Those rows of the store that are not inside yet."""
        return [row for row in rows if row.id not in self._seats]

    def next_due(self, now: float) -> float | None:
        """When (monotonic) the next entry that waits for its time becomes runnable: `now` if it is at the next pop."""
        first = self._timers.first()
        return None if first is None else max(now, first[0])

    def waiting_in(self, lane: str | None) -> int:
        """How many runnable entries wait in a lane."""
        return self._lanes[lane].live if lane in self._lanes else 0

    def depth(self, priority: Priority) -> int:
        """How many entries of a class are inside."""
        return self._counts[priority]

    def oldest(self) -> int | None:
        """The earliest `created_at` inside, in milliseconds. Looks at every pile and every timer."""
        heads = chain.from_iterable(lane.heads() for lane in self._lanes.values())
        return min((seat.entry.created_at for seat in chain(heads, self._timers.seats())), default=None)

    def position(self, task_id: str) -> int | None:
        """About how many entries of its lane go before a task; None when it is not inside or before its time."""
        seat = self._seats.get(task_id)
        if seat is None or not isinstance(seat.place, Pile):
            return None
        return self._lanes[seat.entry.lane].ahead_of(seat, seat.place.share, self._monotonic())

    def wait_s(self, task_id: str) -> float | None:
        """About how long until a task leaves its lane; None where `position` is, or below 20 samples of that lane."""
        place = self.position(task_id)
        turnover = None if place is None else self._turnovers.get(self._seats[task_id].entry.lane)
        mean_s = None if turnover is None else turnover.mean_s
        return None if place is None or mean_s is None else (place + 1) * mean_s

    def set_weights(self, weights: Mapping[str, int]) -> None:
        """Set the tenants' weights, `*` for those not named (else 1). Counts from each tenant's next turn on."""
        self._weights = weights
        for lane in self._lanes.values():
            for share in lane.shares():
                share.weight = self._weight_of(share.tenant)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _mature(self, now: float) -> None:
        """Let those whose time has come into their lanes; a crowd in several pops, so as not to hold up the loop."""
        for _turn in range(MATURED_PER_POP):
            first = self._timers.first()
            if first is None or first[0] > now:
                return
            seat = self._timers.pop()
            self._lane(seat.entry.lane).add(seat, self._weight_of(seat.entry.tenant))

    def _leave(self, task_id: str) -> bool:
        seat = self._seats.pop(task_id, None)
        if seat is None:
            return False
        self._count(seat.entry, -1)
        place, seat.place = seat.place, None
        if isinstance(place, Pile):
            self._lanes[seat.entry.lane].lose(place, seat.entry.priority)
            self._tidy(seat.entry.lane)
        else:
            self._timers.lose()
        return True

    def _has_place(self, entry: Entry) -> bool:
        free = self.window - self._counts[entry.priority]
        return self._held.get((entry.priority, entry.tenant), 0) < TENANT_PART * free

    def _count(self, entry: Entry, change: int) -> None:
        self._counts[entry.priority] += change
        key = (entry.priority, entry.tenant)
        held = self._held.get(key, 0) + change
        if held:
            self._held[key] = held
        else:
            del self._held[key]

    def _weight_of(self, tenant: str) -> int:
        return self._weights.get(tenant) or self._weights.get("*") or 1

    def _lane(self, name: str | None) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane()
        return lane

    def _tidy(self, name: str | None) -> None:
        if self._lanes[name].live == 0:
            del self._lanes[name]


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
