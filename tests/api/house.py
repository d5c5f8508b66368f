"""A daemon's inside for the API tests: real flow, memory store and vault, and a provider played by the test.

`Desk` is the provider: each paid call takes the next answer from `answers` (or `fine`), and can be held open until the
test lets it go. Nothing is patched: these are the parts that `World` asks for.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from router.api.application import build, route_of
from router.api.auth import hash_key
from router.api.key_cache import KeyCache
from router.api.services import ReloadResult, Services
from router.events import Bus
from router.fetch import FetchAllow, refusal_of
from router.flow import life
from router.geometry import Sizes
from router.outbox import Try, TryResult
from router.outcome import Billed, Fail, FailureKind, fail
from router.policy.rules import (
    Breaker,
    Credential,
    Defaults,
    Model,
    OnFailure,
    Price,
    Provider,
    Retry,
    Rule,
    Ruleset,
    Strategy,
    Target,
    When,
)
from router.provider import (
    Abilities,
    AdapterFacts,
    Call,
    Done,
    Handle,
    Job,
    Kind,
    Media,
    Polled,
    Submitted,
    Usage,
)
from router.store.memory import MemoryStore
from router.world import LISTED, WallClock, World, seeded_dice
from tests.documented import find_breach

ADMIN_KEY = "pm_" + "a" * 8 + "_" + "b" * 52
PEPPER = b"pepper-of-the-tests"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FACTS = AdapterFacts(
    slug="desk",
    base_url="https://desk.invalid",
    abilities={
        "*": Abilities(
            kinds=frozenset({Kind.IMAGE_GENERATION}),
            max_n=4,
            sizes=Sizes(named=frozenset({"auto", "1024x1024", "512x512"})),
            fields=frozenset({"prompt", "n", "size", "quality", "response_format", "user"}),
        )
    },
)


@dataclass(slots=True)
class Desk:
    """The provider that a test plays."""

    answers: list[Fail] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    is_open: bool = True
    open: asyncio.Event = field(default_factory=asyncio.Event)
    facts: AdapterFacts = FACTS

    def __post_init__(self) -> None:
        """Answer at once, until the test closes the desk, unless it begins closed."""
        if self.is_open:
            self.open.set()

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Take a job; answer when the desk is open."""
        self.jobs.append(job)
        await self.open.wait()
        if self.answers:
            return self.answers.pop(0)
        picture = base64.b64encode(PNG).decode()
        usage = Usage(input_tokens=10, output_tokens=100)
        return Done(tuple(Media(b64=picture, revised_prompt="a better cat") for _ in range(job.n)), usage)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """This provider is synchronous."""
        raise AssertionError(handle)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """And has no cancel."""
        raise AssertionError(handle)


class DictVault:
    """Objects in a dict."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @asynccontextmanager
    async def create(self, key: str) -> AsyncIterator[Any]:
        pieces: list[bytes] = []

        class Sink:
            async def write(self, chunk: bytes | memoryview) -> None:
                pieces.append(bytes(chunk))

        yield Sink()
        self.objects[key] = b"".join(pieces)

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        whole = self.objects[key]
        return whole[start:] if length is None else whole[start : start + length]

    async def size(self, key: str) -> int:
        return len(self.objects[key])

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def listed(self) -> tuple[str, ...]:
        return tuple(sorted(key for key in self.objects if key.startswith(LISTED)))


@dataclass(slots=True)
class House:
    """Everything a test may touch."""

    client: TestClient[web.Request, web.Application]
    desk: Desk
    life: life.Life
    store: MemoryStore
    vault: DictVault
    services: Services
    exchanges: list[tuple[str, str, int, float]]  # route, method, status, seconds, as they are counted

    @property
    def url(self) -> str:
        """Where the server listens."""
        return str(self.client.make_url("")).rstrip("/")


def ruleset(**changes: Any) -> Ruleset:
    """One model `cat` on two targets of the desk, and a model of another kind."""
    every = FACTS.abilities["*"]
    providers = {
        name: Provider(name, FACTS, "https://desk.invalid", (Credential("key", "secret"),), breaker=Breaker())
        for name in ("one", "two")
    }
    targets = tuple(
        Target(name, name, "upstream-cat", Price(image={"default": price}), every)
        for name, price in (("one", 30_000_000), ("two", 50_000_000))
    )
    rule = Rule(0, When(), targets, Strategy.ORDERED, OnFailure.NEXT, None, Retry(backoff_first_s=0.01))
    rules = Ruleset(
        hash="test",
        zone=UTC,
        defaults=Defaults(),
        providers=providers,
        models={"cat": Model("cat", "image", (), rule), "film": Model("film", "video", (), rule)},
        aliases={"dall-e-3": "cat"},
        default_model={"image": "cat"},
    )
    return replace(rules, **changes)


@asynccontextmanager
async def open_house(
    rules: Ruleset | None = None,
    *,
    auth: bool = False,
    store: MemoryStore | None = None,
    desk: Desk | None = None,
    secret: bytes = b"signing-secret-of-the-tests",
    vault: DictVault | None = None,
    replica: str = "test",
    **more: Any,
) -> AsyncIterator[House]:
    """Run the flow and its HTTP edge on a free port."""
    desk, vault, kept = desk or Desk(), vault or DictVault(), store or MemoryStore()
    world = World(
        clock=WallClock(),
        dice=seeded_dice(sum(replica.encode())),
        call=_no_wire,
        listen=_no_wire,
        fetch=_NoFetch(),
        store=kept,
        vault=vault,
        offload=_inline,
        adapter=lambda _slug: desk,
    )
    exchanges: list[tuple[str, str, int, float]] = []
    running = await life.begin(world, Bus(), rules or ruleset(), replica=replica)
    services = Services(
        life=running,
        world=world,
        public_url=None,
        auth_required=auth,
        admin_key_hash=hash_key(ADMIN_KEY, PEPPER),
        signing_secret=secret,
        pepper=PEPPER,
        keys=KeyCache(kept, running.runtime.fleet.monotonic, running.runtime.limits.learn),
        metrics=_metrics,
        reload=_reload,
        check_config=lambda _text: ReloadResult("test", changed=False),
        config_info=lambda: {"hash": running.runtime.rules.hash},
        ready_checks=_ready,
        on_http=lambda *counted: exchanges.append(counted),
        judge_callback=partial(refusal_of, allow=FetchAllow()),
        wake_deliverer=lambda: None,
        test_webhook=_test_webhook,
    )
    app, breaches = build(services, **more), list[str]()

    async def judge(request: web.Request, response: web.StreamResponse) -> None:
        body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else None
        breach = find_breach(request.method, route_of(request), response.status, response.headers, body)
        breaches.extend([breach] if breach is not None else [])

    app.on_response_prepare.append(judge)
    async with TestClient(TestServer(app)) as client:
        yield House(client, desk, running, kept, vault, services, exchanges)
        desk.open.set()
        await running.end(5.0)
    if breaches:
        raise AssertionError("not as the OpenAPI document says:\n" + "\n".join(breaches))


def failing(kind: FailureKind, **more: Any) -> Fail:
    """An answer of the desk."""
    return fail(kind, "the desk said so", **more)


async def _no_wire(request: object, timeout_s: float) -> Any:
    raise AssertionError(request, timeout_s)


class _NoFetch:
    def open(self, url: str, allowed_origin: str | None, timeout_s: float, headers: Any) -> Any:
        raise AssertionError(url, allowed_origin, timeout_s)


async def _inline(work: Any) -> Any:
    return work()


async def _test_webhook(_tenant: str, url: str) -> Try:
    """An endpoint that answers 204, unless its path says 500."""
    status = 500 if url.endswith("/500") else 204
    return Try(0, TryResult.DELIVERED if status < 300 else TryResult.REJECTED, status)


async def _metrics() -> tuple[bytes, str]:
    return b"# nothing\n", "text/plain; version=0.0.4"


async def _reload() -> ReloadResult:
    return ReloadResult("test", changed=False)


async def _ready() -> dict[str, str]:
    return {"store": "ok"}


__all__ = ["ADMIN_KEY", "PNG", "Billed", "FailureKind", "House", "failing", "open_house", "ruleset"]
