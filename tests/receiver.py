"""A receiver of webhooks on the loopback: keeps each delivery with its headers, and answers as it is told."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass
class Delivery:
    """One request as it came: its path, the three headers, the raw body."""

    path: str
    headers: dict
    raw: bytes

    @property
    def id(self):
        return self.headers["webhook-id"]

    @property
    def body(self):
        return json.loads(self.raw)

    def verified(self, secret):
        """The body, if the public library believes the signature; raises `WebhookVerificationError` else."""
        return Verifier(secret).verify(self.raw, self.headers)

    def is_believed(self, secret):
        """Whether the public library believes the signature."""
        try:
            self.verified(secret)
        except WebhookVerificationError:
            return False
        return True


Answer = Callable[[Delivery, int], Awaitable[web.Response]]


@dataclass
class Receiver:
    """What came, in the order of arrival; `answer` is given each delivery and how often its id came before."""

    answer: Answer
    url: str = ""
    port: int = 0
    deliveries: list = field(default_factory=list)
    seen: dict = field(default_factory=lambda: defaultdict(int))

    async def take(self, request):
        raw = await request.read()
        delivery = Delivery(request.path_qs, {name: request.headers[name] for name in HEADERS}, raw)
        assert request.method == "POST"
        assert request.content_type == "application/json"
        before = self.seen[delivery.id]
        self.seen[delivery.id] += 1
        self.deliveries.append(delivery)
        return await self.answer(delivery, before)

    def of(self, path):
        """The deliveries at a path."""
        return [one for one in self.deliveries if one.path == path]


def always(status, **headers):
    """Answer with one status."""

    async def answer(_delivery, _before):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, headers=named)

    return answer


def then(*statuses):
    """Answer the first try of an id with the first status, and so on; the last stays."""

    async def answer(_delivery, before):
        return web.Response(status=statuses[min(before, len(statuses) - 1)])

    return answer


async def hang(_delivery, _before):
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError


@asynccontextmanager
async def receiving(answer: Answer, port: int = 0) -> AsyncIterator[Receiver]:
    """Listen on a loopback port, 0 for a free one; what hangs is cut at the end."""
    receiver = Receiver(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    receiver.port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{receiver.port}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
