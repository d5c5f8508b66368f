"""The webhooks of the simulated fal: posted at the end, signed so that a receiver can verify them by the published
keys, again where they were not taken, and never beyond the loopback.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from providers.simulated import Fault, FaultKind, Options, Running, start
from providers.simulated.fal import FalOptions
from tests.simulated.fal_caller import fetch, finish, submit
from tests.waiting import poll_until

QUICK: dict[str, Any] = {"time_scale": 0.001}


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("fal", options=Options(**QUICK)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Key id:secret"}) as session:
        yield session


class Inbox:
    """A receiver of webhooks. refuses: how many deliveries it answers with 500 at first."""

    def __init__(self, refuses: int = 0) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self._refuses = refuses

    async def take(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        return web.Response(status=500 if len(self.received) <= self._refuses else 200)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/hook", self.take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook?x=1"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._runner.cleanup()


async def verify(http, upstream, headers, body) -> bool:
    """Check a delivery as the provider file tells it."""
    _, keys, _ = await fetch(http, f"{upstream.origin}/.well-known/jwks.json")
    parts = [headers[f"X-Fal-Webhook-{name}"] for name in ("Request-Id", "User-Id", "Timestamp")]
    message = "\n".join([*parts, hashlib.sha256(body).hexdigest()]).encode()
    for key in keys["keys"]:
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
        try:
            public.verify(bytes.fromhex(headers["X-Fal-Webhook-Signature"]), message)
        except InvalidSignature:
            continue
        return True
    return False


@pytest.mark.parametrize("kind", [None, FaultKind.REFUSAL])
async def test_the_end_is_posted_once_with_a_signature_that_holds(http, upstream, kind):
    upstream.dial.set(*([] if kind is None else [Fault(kind=kind)]))
    async with Inbox() as inbox:
        _, accepted = await submit(http, upstream, params={"fal_webhook": inbox.url})
        await poll_until(lambda: inbox.received, "the webhook")
        [(headers, body)] = inbox.received
        _, result, _ = await fetch(http, accepted["response_url"])
        assert await verify(http, upstream, headers, body)
        assert not await verify(http, upstream, headers, body + b" ")

    event = json.loads(body)
    assert (event["request_id"], headers["X-Fal-Webhook-Request-Id"]) == (accepted["request_id"],) * 2
    assert (event["payload"], event["status"]) == (result, "OK" if kind is None else "ERROR")
    assert ("error" in event) == (kind is not None)


async def test_a_webhook_can_be_forged_old_bare_and_sent_twice(http):
    options = FalOptions(
        **QUICK,
        webhook_forged=True,
        webhook_copies=2,
        webhook_age_s=301,
        webhook_bare=True,
        now_ms=lambda: 1_000_000_000,
    )
    async with start("fal", options=options) as upstream, Inbox() as inbox:
        await submit(http, upstream, params={"fal_webhook": inbox.url})
        await poll_until(lambda: len(inbox.received) == 2, "two deliveries")
        (headers, body), second = inbox.received
        assert not await verify(http, upstream, headers, body)

    assert second[1] == body
    assert headers["X-Fal-Webhook-Timestamp"] == "999699"
    assert (json.loads(body)["payload"], "payload_error" in json.loads(body)) == (None, True)


async def test_a_webhook_that_is_not_taken_comes_again_signed_anew(http):
    async with start("fal", options=FalOptions(time_scale=0.0001)) as upstream, Inbox(refuses=2) as inbox:
        await submit(http, upstream, params={"fal_webhook": inbox.url})
        await poll_until(lambda: len(inbox.received) == 3, "the third delivery")
        assert [await verify(http, upstream, *received) for received in inbox.received] == [True, True, True]

    assert len({body for _, body in inbox.received}) == 1


@pytest.mark.parametrize("foreign", ["https://my.app/hook", "file:///hook", "http://[", None])
async def test_no_webhook_leaves_the_loopback_and_the_request_ends_all_the_same(http, upstream, foreign):
    async with Inbox() as inbox:
        # This address is the machine's own and answers, but it is none of the loopback.
        url = foreign or inbox.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104
        _, first = await submit(http, upstream, params={"fal_webhook": url})
        await finish(http, first)
        _, second = await submit(http, upstream, params={"fal_webhook": inbox.url})
        await poll_until(lambda: inbox.received, "the other webhook")

        assert (await fetch(http, first["response_url"]))[0] == 200
        assert [json.loads(body)["request_id"] for _, body in inbox.received] == [second["request_id"]]
