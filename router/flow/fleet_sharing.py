"""The part of the fleet that it shares with other daemons on one store: grants, the moves of circuits, rights to probe.

What may start here is what was granted last: nothing before the first grant and nothing after the lease has lapsed.
What is out stays counted. A circuit that moves here is news for the others, once and as it is by then; a move that was
made elsewhere is made here and is no news. The store's row is the truth: a circuit that stands otherwise, with nothing
to tell of it, follows the row, since a right to probe is leased by the row alone. Who asks the store, and when, is not
known here; the records are `flow.roster`'s, the division of places and starts is `policy.share`'s. Where the store is
one daemon's, nothing is asked for and nothing told. Floor 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from router.flow.roster import Key, LiveProvider, LiveTarget, ProbeRight
from router.leases import CircuitKey, CircuitNews, CircuitSeen, CircuitWord, Grant, Want
from router.policy.health import Bar, Circuit, CircuitState, Ticket, Transition
from router.policy.route import Standing
from router.policy.rules import Provider


class SharedFleet(ABC):
    """The records of the fleet, and what other daemons grant, move and hear of them. `flow.fleet` is the rest of it."""

    def __init__(self, *, monotonic: Callable[[], float], shared: bool) -> None:
        """Know nobody. `shared`: other daemons use the same providers, so that places and starts must be granted."""
        self.monotonic = monotonic
        self.shared = shared
        self.on_room: Callable[[str], None] = lambda _provider: None
        self._providers: dict[str, LiveProvider] = {}
        self._targets: dict[Key, LiveTarget] = {}
        self._moved: dict[Key, LiveTarget] = {}  # circuits whose move here is still to be told
        self._by_hand: set[Key] = set()  # those of them that an operator moved
        self._returned: set[Key] = set()  # circuits whose right to probe is still to be handed back

    # -- places and starts --------------------------------------------------------------------------------------------

    def wants(self, waiting: Callable[[str], int]) -> tuple[Want, ...]:
        """Say what this daemon could use of each provider; `waiting(name)` tasks wait for a place there.

        A provider that the configuration no longer has is asked nothing of until all places there were given back.
        """
        return tuple(live.want(waiting(live.name)) for live in self._providers.values()) if self.shared else ()

    def grant(self, grants: Sequence[Grant]) -> None:
        """Go on with what was granted: places until the next grant, tokens until they are used."""
        now = self.monotonic()
        for one in grants:
            live = self._providers.get(one.provider)
            if live is None or not self.shared:
                continue
            free = live.free(now)
            live.receive(one)
            if live.places == live.told_in_use == live.slots.in_use == 0:
                del self._providers[one.provider]
            elif live.free(now) > free:
                self.on_room(one.provider)

    def lapse(self) -> None:
        """The lease is over: nothing may start until the next grant. What is out stays counted."""
        for live in self._providers.values() if self.shared else ():
            live.lapse()
        for line in self._targets.values():
            self._let_go(line)

    # -- the moves of circuits ----------------------------------------------------------------------------------------

    def take_news(self) -> tuple[CircuitNews, ...]:
        """Take what is to be told: how circuits stand that moved here, and rights to probe that are handed back."""
        now = self.monotonic()
        for line in self._targets.values():
            if line.right is not None and line.right.lapse(now):
                self._returned.add(line.key)
        moved, returned = self._moved, self._returned - self._moved.keys()
        told = [replace(_describe(line, now), by_hand=line.key in self._by_hand) for line in moved.values()]
        self._moved, self._by_hand, self._returned = {}, set(), set()
        return (*told, *(CircuitNews(key, CircuitWord.RETURNED) for key in sorted(returned)))

    def put_back(self, news: Sequence[CircuitNews]) -> None:
        """The store was away: tell it next time, as it is by then."""
        for one in news:
            line = self._targets.get(one.key)
            if one.word is not CircuitWord.RETURNED:
                if line is not None:
                    self._moved.setdefault(one.key, line)
                    self._by_hand |= {one.key} if one.by_hand else set()
            elif line is None or line.right is None or line.right.until_s is None:
                self._returned.add(one.key)

    def adopt_circuits(self, seen: Sequence[CircuitSeen], epoch: int) -> None:
        """Move circuits as the store has them; `epoch` is this life.

        A circuit that has moved here meanwhile stays as it is, since its news will replace the row. One of which the
        store knows nothing, though it is open here, is told again.
        """
        if not self.shared:
            return
        rows = {one.key: one for one in seen}
        for key, line in self._targets.items():
            row, circuit = rows.get(key), line.circuit
            if key in self._moved:
                continue
            if row is None:
                if circuit.state is not CircuitState.CLOSED or circuit.is_forced:
                    self._moved[key] = line
                continue
            is_news = row.version != line.version and row.epoch != epoch
            line.version = row.version
            if is_news or not _agree(circuit, row):
                self._follow(line, row)

    # -- the right to probe -------------------------------------------------------------------------------------------

    def probes_wanted(self) -> tuple[tuple[CircuitKey, int], ...]:
        """List the circuits that a task could probe if this daemon had the right, and for how many ms it is needed."""
        now = self.monotonic()
        return tuple(
            (line.key, math.ceil(line.right.lease_s * 1000))
            for line in self._targets.values()
            if line.right is not None and line.right.is_wished(now) and self._is_due(line, now)
        )

    def allow_probe(self, key: CircuitKey, lease_s: float) -> None:
        """The right was leased to this daemon: the next attempt there may be the probe.

        If it has lost its purpose meanwhile it goes back: the circuit has moved, or is known no more.
        """
        now, line = self.monotonic(), self._targets.get(key)
        if line is None or line.right is None or not self._is_due(line, now):
            self._returned.add(key)
            return
        self._returned.discard(key)
        line.right.lease(now, lease_s)

    # -- for the rest of the fleet ------------------------------------------------------------------------------------

    @abstractmethod
    def _announce(self, line: LiveTarget, moved: Transition | None) -> None:
        """Emit the event of a move, if it was one."""

    def _make_target(self, key: Key, provider: Provider) -> LiveTarget:
        return LiveTarget(key, Circuit(provider.breaker), right=ProbeRight() if self.shared else None)

    def _notice(self, line: LiveTarget, standing: Standing, timeout_s: float) -> Standing:
        """Note that a task has met a circuit which it could probe if this daemon had the right."""
        if line.right is not None and standing.reason == Bar.PROBING.value:
            now = self.monotonic()
            lacks_right = line.circuit.outlook(now).probe and not line.right.is_held(now)
            if lacks_right and standing.ready_in_s <= line.right.wait_s(now):  # nothing else keeps it
                line.right.wish(now, timeout_s)
        return standing

    def _note_move(self, line: LiveTarget, *, by_hand: bool = False) -> None:
        """The circuit was moved here: the others have to hear of it, and what was leased for it is over."""
        if line.right is not None:
            line.right.forget()
            self._moved[line.key] = line
            self._by_hand |= {line.key} if by_hand else set()

    def _hand_back(self, line: LiveTarget, ticket: Ticket) -> None:
        """An attempt came to nothing: if it was the probe, its right goes back."""
        if line.right is not None and line.circuit.awaits(ticket):
            self._returned.add(line.key)
        line.circuit.returned(ticket)

    def _let_go(self, line: LiveTarget) -> None:
        """Hand back a right that will not be used."""
        if line.right is not None and line.right.until_s is not None:
            line.right.forget()
            self._returned.add(line.key)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _is_due(self, line: LiveTarget, now: float) -> bool:
        """Whether the circuit waits for a probe, as far as the others know it too."""
        return line.circuit.outlook(now).probe and line.key not in self._moved

    def _follow(self, line: LiveTarget, row: CircuitSeen) -> None:
        now, left_s = self.monotonic(), math.inf if row.left_ms is None else row.left_ms / 1000
        state = CircuitState.OPEN if row.word is CircuitWord.OPEN else CircuitState.CLOSED
        if line.right is not None:
            line.right.forget()
        self._returned.discard(line.key)
        moved = line.circuit.follow(state, now, open_for_s=left_s, openings=row.openings, pinned=row.pinned)
        self._announce(line, moved)
        self.on_room(line.key[0])


def _describe(line: LiveTarget, now: float) -> CircuitNews:
    """Say how a circuit stands. One that is half-open is open for the others, with its time over."""
    circuit = line.circuit
    if circuit.state is CircuitState.CLOSED:
        return CircuitNews(line.key, CircuitWord.CLOSED, 0, circuit.openings, circuit.is_forced)
    outlook = circuit.outlook(now)
    left_ms = math.ceil(outlook.ready_in_s * 1000) if outlook.bar is Bar.OPEN else 0
    open_for_ms = None if circuit.is_forced else left_ms
    return CircuitNews(line.key, CircuitWord.OPEN, open_for_ms, circuit.openings, circuit.is_forced)


def _agree(circuit: Circuit, row: CircuitSeen) -> bool:
    return (circuit.state is CircuitState.CLOSED) == (row.word is CircuitWord.CLOSED)
