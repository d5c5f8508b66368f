"""A daemon that relays completions, with providers played by the test, on a virtual clock: the real flow, nothing else.

`Player` is both providers: each paid call to a provider takes its next turn, a list of what is told (numbers are pauses
in seconds, an event is waited for). `relaying` runs a test's coroutine in a life of its own.
"""

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC

from router.events import Bus
from router.flow import life
from router.flow.draft import Draft
from router.outcome import FailureKind, fail
from router.persistence import Unavailable
from router.policy.rules import (
    Budget,
    Credential,
    Defaults,
    Model,
    OnFailure,
    Price,
    Provider,
    Retry,
    Rule,
    Ruleset,
    Scope,
    Strategy,
    Target,
    Tokens,
    When,
    Window,
)
from router.provider import Abilities, AdapterFacts, Delta, Done, Kind, Media, Request, Usage
from router.store.memory import MemoryStore
from router.world import World, seeded_dice
from tests.api.house import DictVault
from tests.sim.loop import VirtualLoop, live_through

CHAT = frozenset({Kind.CHAT_COMPLETION})
FACTS = AdapterFacts("player", "https://one.invalid", {"*": Abilities(CHAT, max_n=10)}, streams=CHAT)
WHOLE_FACTS = replace(FACTS, streams=frozenset())
EPOCH_MS = 1_795_176_000_000
USD = 1_000_000_000
# 1 USD per million tokens in, 10 out: 1,000 and 10,000 nano-USD each.
PRICE = Price(tokens=Tokens(input=USD, output=10 * USD))
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USED = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}}
USAGE = Usage(input_tokens=100, output_tokens=7)
COST = 100 * 1_000 + 7 * 10_000
DOCUMENT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": USED["usage"],
}
DONE = Done((Media(document=DOCUMENT),), USAGE, http_status=200)


def say(text):
    """A chunk that says something."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def failure(kind="overloaded", **facts):
    return fail(FailureKind(kind), "their words", **facts)


HELLO = [ROLE, say("hel"), say("lo"), END, USED, DONE]


@dataclass
class Player:
    """The adapter. `turns` by provider, the next first; where none is left, `HELLO`. `jobs` is what was asked."""

    facts: AdapterFacts = FACTS
    turns: dict = field(default_factory=dict)
    jobs: list = field(default_factory=list)
    hung_up: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)  # what the API's house sets at its end

    def asked(self):
        """Which providers were asked, in order."""
        return [job.base_url.removeprefix("https://").removesuffix(".invalid") for job in self.jobs]

    def _turn(self, job):
        self.jobs.append(job)
        left = self.turns.get(self.asked()[-1], [])
        return left.pop(0) if left else HELLO

    async def stream(self, job, listen):
        ended = False
        try:
            for one in self._turn(job):
                if isinstance(one, int | float):
                    await asyncio.sleep(one)
                elif isinstance(one, asyncio.Event):
                    await one.wait()
                elif isinstance(one, dict):
                    yield Delta(one)
                elif isinstance(one, Exception):
                    raise one
                elif one == "listen":
                    async with listen(Request("POST", job.base_url)) as answer:
                        yield failure("unknown", http_status=None) if answer.timed_out else DONE
                else:
                    yield one
            ended = True
        finally:
            self.hung_up += not ended

    async def submit(self, job, call):
        for one in self._turn(job):
            if isinstance(one, int | float):
                await asyncio.sleep(one)
            elif isinstance(one, asyncio.Event):
                await one.wait()
            elif isinstance(one, Exception):
                raise one
            elif not isinstance(one, dict):
                return one
        raise AssertionError(job)


class Till(MemoryStore):
    """A store that can be away, and notes when what was booked."""

    def __init__(self):
        super().__init__()
        self.is_away = False
        self.booked = []

    async def book(self, relayed, charges):
        if self.is_away:
            raise Unavailable("the store is away")
        self.booked.append((asyncio.get_running_loop().time(), relayed))
        return await super().book(relayed, charges)


class LoopClock:
    def now(self):
        return EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)


class Board:
    """A running life with the ways of a caller."""

    def __init__(self, running, player, store, events):
        self.life, self.player, self.store, self.events = running, player, store, events
        self.relay = running.relay
        self.calls = 0

    def draft(self, **changes):
        self.calls += 1
        body = {"messages": [{"role": "user", "content": "x" * 296}], "max_tokens": 50}
        plain = Draft(
            tenant="default",
            kind=Kind.CHAT_COMPLETION,
            input={**body, **changes.pop("input", {})},
            surface="openai",
            route="/v1/chat/completions",
            digest="d",
            request_id=f"req_{self.calls:032x}",
            model="chat",
        )
        return replace(plain, **changes)

    def complete(self, *, streamed=True, **changes):
        return self.relay.complete(self.draft(**changes), streamed=streamed)

    async def hear(self, **changes):
        """Everything that a call tells."""
        async with aclosing(self.complete(**changes)) as told:
            return [one async for one in told]

    def text(self, told):
        return "".join(
            choice["delta"].get("content") or ""
            for one in told
            if isinstance(one, Delta)
            for choice in one.data["choices"]
        )

    async def rows(self, number=1):
        """What is written of a call."""
        return await self.store.relayed("default", f"req_{number:032x}")

    async def spent(self, budget="tenant:default", window="total"):
        """(held, spent) of a budget in the store."""
        rows = await self.store.balances([(budget, window)])
        return (rows[0].held, rows[0].spent) if rows else (0, 0)

    def seen(self, kind):
        return [one for one in self.events if isinstance(one, kind)]


def chat_rules(*, price=PRICE, budgets=(), facts=FACTS, retry=None, tenants=None, **limits):
    """One model `chat` on providers `one` and `two`."""
    providers = {
        name: Provider(name, facts, f"https://{name}.invalid", (Credential("key", "secret"),), **limits)
        for name in ("one", "two")
    }
    targets = tuple(Target(name, name, "upstream", price, facts.abilities["*"]) for name in providers)
    rule = Rule(0, When(), targets, Strategy.ORDERED, OnFailure.NEXT, None, retry or Retry(backoff_first_s=0.01))
    return Ruleset(
        hash="test",
        zone=UTC,
        defaults=Defaults(),
        providers=providers,
        models={"chat": Model("chat", "chat", (), rule)},
        aliases={},
        default_model={},
        budgets=tuple(budgets),
        tenants=tenants or {},
    )


def limit(nanos, scope=Scope.TENANT):
    """A budget for all time."""
    return Budget(scope, "*", Window.TOTAL, nanos)


def relaying(scene, *, rules=None, player=None):
    """Play a scene: a coroutine function that is given the board."""
    loop, player, store, events = VirtualLoop(0.0), player or Player(), Till(), []

    async def play():
        bus = Bus()
        bus.subscribe(events.append)
        world = World(
            clock=LoopClock(),
            dice=seeded_dice(7),
            call=None,
            listen=silent_wire,
            fetch=None,
            store=store,
            vault=DictVault(),
            offload=None,
            adapter=lambda _slug: player,
        )
        running = await life.begin(world, bus, rules or chat_rules(), replica="here")
        await scene(Board(running, player, store, events))
        if not running.runtime.draining:
            await running.end(5.0)

    assert live_through(loop, play())
    assert loop.problems == [], loop.problems
    return events


@asynccontextmanager
async def silent_wire(request, timeout_s, idle_s):
    """A wire whose far side never says a word."""
    await asyncio.sleep(timeout_s)
    yield None
