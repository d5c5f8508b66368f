"""Delivers webhooks: takes rows of the outbox that are due, signs and sends them, and writes down what came of it.

The rows were written by the moves that they tell of; the bus only wakes, and a poll finds what it misses. A row is held
by a lease while it is tried, so that two daemons do not both send it and a dead one's are taken over; a crash between
sending and writing sends it again under the same id (contract 5.7, reliability-security section 10). A host that did
not answer soon gets one place, and such hosts together leave room for the others, so that no slow receiver delays a
good one. What the body says is composed elsewhere; who may be connected to is the poster's guard. Floor 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from router.events import Bus, Event, TaskEnded, TaskRetrying, TaskStarted, WebhookTried
from router.outbox import (
    Posted,
    Poster,
    PostFailed,
    Repeat,
    Room,
    Standing,
    Try,
    TryResult,
    Webhook,
    host_of,
    sign,
)
from router.persistence import TaskView, Unavailable
from router.task import new_id
from router.world import World

OFFSETS_S = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 86_400)  # of each try, from the first (contract 5.7)
SPREAD = 0.2
TIMEOUT_S = 15.0
LEASE_MARGIN_S = 15.0  # for the store, before and after the try
SCALED_LEAST_S = 1.0  # tests shorten the waits, never to where a busy machine could not answer
PLACES = 256
STRANGERS = 192
PLACES_PER_HOST = 4
SLOW_MS = 5_000
HOSTS_KEPT = 10_000
REST_S, REST_MAX_S = 5.0, 300.0  # of a host that asks for it: without and with its own word
RESTING_STATUSES = frozenset({429, 502, 503, 504})
POLL_S = 1.0
CLOSE_S = 5.0
SWEEP_EVERY_S = 600.0
LOG_KEPT_MS = 7 * 86_400_000
SWEEP_BATCH = 1_000


@dataclass(slots=True)
class Host:
    """What is known of a receiver: tries out, whether the last was answered soon, until when it is left alone."""

    out: int = 0
    is_proven: bool = False
    rests_until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Office:
    """What a deliverer works with: the outside, the life's epoch, and what a webhook says and is signed with.

    `compose` makes the body of a webhook, without a task that of a test; `keys` are the live keys of a tenant.
    `time_scale` multiplies all waits.
    """

    world: World
    bus: Bus
    epoch: int
    post: Poster
    compose: Callable[[Webhook, TaskView | None], Mapping[str, Any]]
    keys: Callable[[str], Sequence[bytes]]
    time_scale: float = 1.0


@dataclass(slots=True)
class Deliverer:
    """Runs until it is closed: `run` takes what is due, `read` listens to the bus, `close` ends it."""

    office: Office
    hosts: dict[str, Host] = field(default_factory=dict)
    _out: set[asyncio.Task[None]] = field(default_factory=set)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self, event: Event) -> None:
        """Look at once when a task has moved that tells of it (a reader of the bus)."""
        if isinstance(event, TaskEnded | TaskStarted | TaskRetrying) and event.task.callback_url is not None:
            self._awake.set()

    def wake(self) -> None:
        """Look at once."""
        self._awake.set()

    async def run(self) -> None:
        """Take what is due, for ever."""
        loop = asyncio.get_running_loop()
        sweep_at_s = loop.time()
        while True:
            self._awake.clear()
            try:
                taken = await self._take()
                if loop.time() >= sweep_at_s:
                    await self._sweep()
                    sweep_at_s = loop.time() + SWEEP_EVERY_S
            except Unavailable:
                taken = 0
            if not taken:
                await self._pause()

    async def close(self) -> None:
        """Let what is out come back for a moment; what is cut is due again when its lease is over."""
        out = tuple(self._out)
        try:
            async with asyncio.timeout(self._scaled(CLOSE_S)):
                await asyncio.gather(*out, return_exceptions=True)
        except TimeoutError:
            await asyncio.gather(*out, return_exceptions=True)  # the timeout has cancelled them

    async def try_out(self, tenant: str, url: str) -> Try:
        """Send an endpoint a webhook that tells of nothing; one that answers well is enabled again."""
        world = self.office.world
        at = world.clock.now()
        webhook = Webhook(new_id(at, world.dice("ids"), "msg_"), tenant, "", "webhook.test", url, host_of(url), at)
        one, _rest_s = await self._send(webhook, self.office.compose(webhook, None))
        if one.result is TryResult.DELIVERED:
            await world.store.enable_endpoint(tenant, url)
        return one

    # -- taking -----------------------------------------------------------------------------------------------------

    async def _take(self) -> int:
        """Take what there is room for, and begin to send it; returns how many."""
        office, store = self.office, self.office.world.store
        room = self._room()
        if room.total <= 0 or not await store.webhooks_due(office.world.clock.now()):
            return 0
        lease_ms = round(1000 * (self._scaled(TIMEOUT_S) + self._scaled(LEASE_MARGIN_S)))
        taken = await store.claim_webhooks(office.epoch, room, lease_ms, office.world.clock.now())
        for webhook in taken:
            host = self.hosts.setdefault(webhook.host, Host())
            host.out += 1
            sending = asyncio.create_task(self._deliver(webhook, host))
            self._out.add(sending)
            sending.add_done_callback(self._came_back)
        return len(taken)

    def _room(self) -> Room:
        """How much may be taken: proven hosts have places of their own, others one each while strangers have room."""
        now_s = asyncio.get_running_loop().time()
        places: dict[str, int] = {}
        for name, host in self.hosts.items():
            if host.rests_until_s > now_s:
                places[name] = 0
            elif host.is_proven:
                places[name] = max(0, PLACES_PER_HOST - host.out)
            elif host.out:
                places[name] = 0
        strangers = STRANGERS - sum(host.out for host in self.hosts.values() if not host.is_proven)
        return Room(PLACES - len(self._out), max(0, strangers), places)

    def _came_back(self, sending: asyncio.Task[None]) -> None:
        self._out.discard(sending)
        self._awake.set()
        if not sending.cancelled() and sending.exception() is not None:
            context = {"message": "a webhook could not be handled", "exception": sending.exception()}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _sweep(self) -> None:
        """Forget webhooks that ended long ago, and hosts that nothing is known of."""
        office = self.office
        before = office.world.clock.now() - LOG_KEPT_MS
        while await office.world.store.sweep_webhooks(before, SWEEP_BATCH) == SWEEP_BATCH:
            await asyncio.sleep(0)
        if len(self.hosts) > HOSTS_KEPT:
            self.hosts = {name: host for name, host in self.hosts.items() if host.out}

    # -- sending ----------------------------------------------------------------------------------------------------

    async def _deliver(self, webhook: Webhook, host: Host) -> None:
        """Try one webhook and write down what came of it; when the store is away its lease runs out instead."""
        world, now_s = self.office.world, asyncio.get_running_loop().time
        try:
            view = await world.store.view(webhook.tenant, webhook.task_id)
            if view is None:
                one, rest_s, repeat = Try(world.clock.now(), TryResult.TASK_GONE), 0.0, None
            else:
                one, rest_s = await self._send(webhook, self.office.compose(webhook, view))
                repeat = self._repeat_of(webhook, rest_s)
                host.is_proven = one.status is not None and one.took_ms < SLOW_MS
                host.rests_until_s = now_s() + rest_s
            after = await world.store.close_try(webhook, one, repeat, world.clock.now())
        except Unavailable:
            return
        finally:
            host.out -= 1
        standing = Standing.WAITING if after is None else after.state
        self.office.bus.emit(WebhookTried(world.clock.now(), webhook, one, standing))

    async def _send(self, webhook: Webhook, body: Mapping[str, Any]) -> tuple[Try, float]:
        """Sign and post; returns what came of it, and for how many seconds the host is to be left alone."""
        office, now_s = self.office, asyncio.get_running_loop().time
        at, began_s = office.world.clock.now(), now_s()
        raw = orjson.dumps(body)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": webhook.id,
            "webhook-timestamp": str(at // 1000),
            "webhook-signature": sign(office.keys(webhook.tenant), webhook.id, at // 1000, raw),
        }
        answer = await office.post(webhook.url, raw, headers, self._scaled(TIMEOUT_S))
        took_ms = round(1000 * (now_s() - began_s))
        if isinstance(answer, PostFailed):
            return Try(at, answer.result, None, answer.detail, took_ms), 0.0
        result = _result_of(answer.status)
        detail = "" if result is TryResult.DELIVERED else f"HTTP {answer.status}"
        return Try(at, result, answer.status, detail, took_ms), self._rest_of(answer, at)

    def _repeat_of(self, webhook: Webhook, rest_s: float) -> Repeat | None:
        """When to try again should this one have failed; None after the last of the schedule."""
        number = webhook.tries + 1
        if number >= len(OFFSETS_S):
            return None
        spread = 1 + SPREAD * (2 * self.office.world.dice("webhooks").random() - 1)
        return Repeat(round(1000 * OFFSETS_S[number] * spread * self.office.time_scale), round(1000 * rest_s))

    def _rest_of(self, answer: Posted, at: int) -> float:
        """How long the host wants to be left alone, in seconds."""
        if answer.status < 300 or (answer.retry_after is None and answer.status not in RESTING_STATUSES):
            return 0.0
        said_s = _seconds_of(answer.retry_after, at)
        return min(REST_MAX_S, REST_S if said_s is None else max(0.0, said_s)) * self.office.time_scale

    def _scaled(self, seconds: float) -> float:
        return max(min(seconds, SCALED_LEAST_S), seconds * self.office.time_scale)


def _result_of(status: int) -> TryResult:
    if 200 <= status < 300:
        return TryResult.DELIVERED
    return TryResult.GONE if status == 410 else TryResult.REJECTED


def _seconds_of(retry_after: str | None, at: int) -> float | None:
    """Read `Retry-After`: seconds or a date; None when it is neither."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return parsedate_to_datetime(retry_after).timestamp() - at / 1000
    except (ValueError, OverflowError):
        return None
