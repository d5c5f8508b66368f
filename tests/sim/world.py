"""The seeded outside: a `World` whose every part waits a drawn virtual time and fails as the dice say.

What survives a crash (the store's file, the vault, the providers' books) lives in `Outside`; what does not is made anew
for each life. `mark` is where a crash strikes: it stops the loop at a named point, and nothing of that life runs on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, NoReturn, TypeVar

from router.persistence import Store, Unavailable
from router.provider import Adapter, Broken, Reply, Request
from router.world import LISTED, FetchFailed, World, seeded_dice
from tests.sim.fleet import PNG, FakeAdapter, FakeProvider

T = TypeVar("T")

EPOCH_MS = 1_750_000_000_000
# A start that one of these fails is no start, and whoever started it sees that.
NEEDED_TO_START = frozenset({"register", "claim", "uncollected"})


@dataclass(slots=True)
class Outside:
    """What is outside the daemon and outlives it."""

    seed: int
    providers: dict[str, FakeProvider]
    store: Store
    faulty: bool = True
    now_s: float = 0.0
    objects: dict[str, bytes] = field(default_factory=dict)
    marks: Counter[str] = field(default_factory=Counter)
    crash_at: tuple[str, int] | None = None  # (point, how many times it is passed before the crash)
    intent_coming: asyncio.Event | None = None  # set when an intent is about to be written
    crashed_at: Counter[str] = field(default_factory=Counter)
    on_receipt: Callable[[FakeProvider, str, int], None] = lambda _provider, _key, _n: None
    audit: Store | None = None


class SimClock:
    """The wall clock of the simulation: the loop's time after a fixed date."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)


class LatentStore:
    """Any store, each verb taking a drawn time before and after, sometimes unavailable before it has done anything."""

    def __init__(self, inner: Store, dice: Random, outside: Outside) -> None:
        """Wrap the engine that survives crashes."""
        self._inner, self._dice, self._outside = inner, dice, outside

    def __getattr__(self, verb: str) -> Any:
        """Give the verb of that name, delayed."""
        plain = getattr(self._inner, verb)
        if verb in {"shared", "hint", "listen"}:
            return plain

        async def delayed(*args: Any, **named: Any) -> Any:
            await asyncio.sleep(self._dice.random() * 0.02)
            if self._outside.faulty and verb not in NEEDED_TO_START and self._dice.random() < 0.01:
                raise Unavailable
            answer = await plain(*args, **named)
            await asyncio.sleep(self._dice.random() * 0.02)
            return answer

        return delayed


class SimVault:
    """Objects in memory; one that was not finished leaves no trace."""

    def __init__(self, outside: Outside) -> None:
        """Keep the objects outside, where they survive."""
        self._outside = outside

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[Any]:
        """Collect the bytes, then show them all at once."""
        pieces: list[bytes] = []

        class Sink:
            async def write(self, chunk: bytes | memoryview) -> None:
                pieces.append(bytes(chunk))

        yield Sink()
        await asyncio.sleep(0.001)
        self._outside.objects[key] = b"".join(pieces)

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read a piece."""
        whole = self._outside.objects[key]
        return whole[start:] if length is None else whole[start : start + length]

    async def delete(self, key: str) -> None:
        """Remove."""
        self._outside.objects.pop(key, None)

    async def listed(self) -> tuple[str, ...]:
        """List."""
        return tuple(sorted(key for key in self._outside.objects if key.startswith(LISTED)))


@dataclass(slots=True)
class _Body:
    """A result being downloaded."""

    content: bytes
    content_type: str = "image/png"

    @property
    def length(self) -> int:
        return len(self.content)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.content[:20]
        await asyncio.sleep(0.01)
        yield self.content[20:]


class SimFetcher:
    """Result URLs of the fake providers: flaky, and gone for good where the fate says so."""

    def __init__(self, outside: Outside, dice: Random) -> None:
        """Look results up in the providers' books."""
        self._outside, self._dice = outside, dice

    @asynccontextmanager
    async def open(
        self, url: str, allowed_origin: str | None, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[_Body | FetchFailed]:
        """Answer after a drawn time."""
        await asyncio.sleep(0.05 + self._dice.random())
        _scheme, _empty, _host, name, remote_id = url.split("/")
        sale = self._outside.providers[name].sales[remote_id]
        sale.fetches += 1
        if sale.fate == "result_lost":
            yield FetchFailed("gone", gone=True)
        elif self._outside.faulty and self._dice.random() < 0.1:
            yield FetchFailed("flaky", gone=False)
        else:
            yield _Body(PNG)


class SimCaller:
    """Provider HTTP: a request takes time to arrive, the provider decides, the answer takes time to come back."""

    def __init__(self, outside: Outside, dice: Random, mark: Callable[[str], None]) -> None:
        """Reach the providers by host name."""
        self._outside, self._dice, self._mark = outside, dice, mark

    async def __call__(self, request: Request, timeout_s: float) -> Reply | Broken:
        """Make one exchange within the timeout."""
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(0.005 + self._dice.random() * 0.05)
                sent = True
                wait_s, data = self._arrive(request)
                await asyncio.sleep(wait_s)
        except TimeoutError:
            return Broken(sent=sent, timed_out=True, detail="timeout")
        if data.get("broken"):
            return Broken(sent=True, timed_out=False, detail="connection lost")
        if data.get("fail") == "unsent":
            return Broken(sent=False, timed_out=False, detail="refused")
        return Reply(200, {}, data)

    def _arrive(self, request: Request) -> tuple[float, dict[str, Any]]:
        _scheme, _empty, host, *path = request.url.split("/")
        provider = self._outside.providers[host.removesuffix(".invalid")]
        provider.now_s = asyncio.get_running_loop().time
        if path[0] == "submit":
            assert request.json is not None
            self._outside.on_receipt(provider, str(request.json["key"]), int(request.json["n"]))
            answer = provider.submit(request.json)
            self._mark("C4")
            return answer
        if path[0] == "cancel":
            return 0.1, {"stopped": provider.cancel(path[1])}
        return 0.05, provider.poll(path[1])


def _no_stream(request: Request, timeout_s: float, idle_s: float) -> NoReturn:
    """The fake providers stream nothing."""
    raise AssertionError(request.url)


def make_world(outside: Outside, life: int) -> World:
    """Make the outside of one life. Streams of randomness are named by life, so that lives do not repeat each other."""
    streams = seeded_dice(outside.seed)

    def dice(name: str) -> Random:
        return streams(f"{life}:{name}")

    def mark(point: str) -> None:
        outside.marks[point] += 1
        if point == "C2" and outside.intent_coming is not None:
            outside.intent_coming.set()
        if outside.crash_at is None or outside.crash_at[0] != point:
            return
        point, left = outside.crash_at
        outside.crash_at = (point, left - 1)
        if left <= 1:
            outside.crash_at = None
            outside.crashed_at[point] += 1
            asyncio.get_running_loop().stop()

    async def offload(work: Callable[[], T]) -> T:
        return work()

    def adapter(slug: str) -> Adapter:
        return FakeAdapter(outside.providers[slug.removeprefix("fake_")].habits)

    return World(
        clock=SimClock(),
        dice=dice,
        call=SimCaller(outside, dice("wire"), mark),
        listen=_no_stream,
        fetch=SimFetcher(outside, dice("fetch")),
        store=LatentStore(outside.store, dice("store-latency"), outside),
        vault=SimVault(outside),
        offload=offload,
        adapter=adapter,
        mark=mark,
    )
