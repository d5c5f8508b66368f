"""The contract for everything the daemon takes from outside, in one object: `World`.

Wall clock, randomness, provider HTTP, guarded fetches, the store and the vault come in here and nowhere else, so that
the simulator in `tests/sim` replaces the outside and runs the real flow under a virtual clock. Timers are not here:
they are the event loop's own (`asyncio.sleep`, `asyncio.timeout`), which the simulator replaces as a whole.
What the store is asked stands in `persistence`. Floor 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from random import Random, SystemRandom
from types import MappingProxyType
from typing import Protocol, TypeVar

from router.persistence import Store
from router.provider import Adapter, Broken, Reply, Request, Stream

T = TypeVar("T")


class Clock(Protocol):
    """The wall clock. Durations are measured on the event loop's clock instead (I24)."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""


class WallClock:
    """The real one."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


# -- result bytes ---------------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where the bytes of one object go before anybody can see it."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Append."""


LISTED = "pending/"
"""The folder whose keys a vault can list; all others are found by name only."""


class Vault(Protocol):
    """Result bytes. An object appears whole and durable, or not at all (I15)."""

    def create(self, key: str) -> AbstractAsyncContextManager[Sink]:
        """Open a new object: visible after the block ends without an exception, gone without a trace otherwise."""

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read a piece of an object; `KeyError` when there is none."""

    async def size(self, key: str) -> int:
        """Tell how many bytes an object has; `KeyError` when there is none."""

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""

    async def listed(self) -> tuple[str, ...]:
        """List the keys that begin with `LISTED`, in order of name, at most 10,000."""


class VaultFull(Exception):  # noqa: N818 - it is what the caller is told
    """No room for the object."""


# -- guarded fetches ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """A fetch from outside did not deliver. `gone`: it never will (403, 404, 410, refused by the guard, too large)."""

    detail: str
    gone: bool


class Fetched(Protocol):
    """An answer whose body is being received."""

    content_type: str
    length: int | None

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces; raises `FetchBroken` when it ends early."""


class FetchBroken(Exception):  # noqa: N818 - it names what happened
    """The body of a fetch did not arrive whole."""


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Fetcher(Protocol):
    """The one way to reach a URL that somebody else chose (reliability-security section 7)."""

    def open(
        self, url: str, allowed_origin: str | None, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AbstractAsyncContextManager[Fetched | FetchFailed]:
        """Connect and read the head. `allowed_origin` (scheme://host:port), the provider's own, may be private.

        `headers` go to that origin alone, also after redirects.
        """


# -- the world ------------------------------------------------------------------------------------------------------


class Caller(Protocol):
    """Provider HTTP."""

    async def __call__(self, request: Request, timeout_s: float) -> Reply | Broken:
        """Make one exchange, whole within the timeout, with no retry of its own."""


class Listener(Protocol):
    """Provider HTTP whose answer is a stream."""

    def __call__(
        self, request: Request, timeout_s: float, idle_s: float
    ) -> AbstractAsyncContextManager[Stream | Reply | Broken]:
        """Make one exchange; the whole within `timeout_s`, never longer than `idle_s` without a word."""


class Offload(Protocol):
    """Where CPU-heavy work on megabytes goes: a thread in life, inline in the simulator."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run it and return its result."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything from outside. `adapter` finds an adapter by slug; `mark` is told each crash point as it is passed.

    `dice(name)` gives the stream of randomness of that name: a new draw in one place does not shift another.
    """

    clock: Clock
    dice: Callable[[str], Random]
    call: Caller
    listen: Listener
    fetch: Fetcher
    store: Store
    vault: Vault
    offload: Offload
    adapter: Callable[[str], Adapter]
    mark: Callable[[str], None] = lambda _point: None


def seeded_dice(seed: int) -> Callable[[str], Random]:
    """Make streams of randomness that depend only on (seed, name)."""
    streams: dict[str, Random] = {}

    def dice(name: str) -> Random:
        if name not in streams:
            streams[name] = Random(sha256(f"{seed}:{name}".encode()).digest())
        return streams[name]

    return dice


def system_dice() -> Callable[[str], Random]:
    """Make streams of randomness from the operating system (ids and secrets must not be guessable)."""
    source = _PooledRandom()
    return lambda _name: source


class _PooledRandom(SystemRandom):
    """The operating system's randomness, asked for by the page: an id a call costs as much as the rest of making it.

    For one thread.
    """

    _POOL_BYTES = 4096

    def __init__(self) -> None:
        super().__init__()
        self._pool = b""

    def getrandbits(self, k: int) -> int:
        """Give k random bits."""
        size = (k + 7) // 8
        if len(self._pool) < size:
            self._pool = os.urandom(max(self._POOL_BYTES, size))
        taken, self._pool = self._pool[:size], self._pool[size:]
        return int.from_bytes(taken, "big") >> (size * 8 - k)

    def random(self) -> float:
        """Give a number in [0, 1) of 53 random bits."""
        return self.getrandbits(53) / (1 << 53)
