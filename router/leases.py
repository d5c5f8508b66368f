"""The words in which daemons on one store share a provider: what one asks for and is granted, and how circuits stand.

Durations are milliseconds; the instants behind them are the store's, so that clocks need not agree. Floor 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Want:
    """What one daemon asks of the limits of a provider, and how many of its places it uses now.

    `places` is the provider's `max_concurrency`; `need` what this daemon could use now. `in_use` counts the places that
    are taken and those that it may still take before it hears the answer. `tokens` is the size of the bucket of its
    `rate_limit`, full again after `per_ms` milliseconds (0: there is none), and `tokens_wanted` how many starts are
    asked for.
    """

    provider: str
    places: int
    in_use: int = 0
    need: int = 0
    tokens: int = 0
    per_ms: int = 0
    tokens_wanted: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a daemon may use of a provider: `places` until it asks again, and `tokens` more starts."""

    provider: str
    places: int
    tokens: int


class CircuitWord(StrEnum):
    """What a daemon has to tell of a circuit. RETURNED: the right to probe is handed back unused."""

    OPEN = "open"
    CLOSED = "closed"
    RETURNED = "returned"


CircuitKey = tuple[str, str, str]  # provider, target, upstream model


@dataclass(frozen=True, slots=True)
class CircuitNews:
    """A circuit was moved here. `open_for_ms` None: until somebody acts. `pinned`: it stays so until an operator acts.

    `by_hand`: an operator did it. What happens by itself does not undo a pin that was set elsewhere meanwhile.
    """

    key: CircuitKey
    word: CircuitWord
    open_for_ms: int | None = 0
    openings: int = 0
    pinned: bool = False
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class CircuitSeen:
    """A circuit as the fleet knows it: OPEN for `left_ms` more (None: until somebody acts), or CLOSED.

    `version` grows with each move, so that a reader knows what it has seen; `epoch` is the life that moved it.
    """

    key: CircuitKey
    word: CircuitWord
    left_ms: int | None
    openings: int
    pinned: bool
    version: int
    epoch: int
