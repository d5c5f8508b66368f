"""The webhooks of the simulated Replicate: which events are sent, how they are signed, forged, repeated, and that none
leaves the machine.
"""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from providers.simulated import start
from providers.simulated.courier import reaches_loopback
from providers.simulated.replicate import ReplicateOptions
from tests.loopback import Peer, http, serve
from tests.waiting import poll_until

SCHNELL = "/v1/models/black-forest-labs/flux-schnell/predictions"
CAT = {"input": {"prompt": "cat", "width": 128, "height": 64}}
SECRET = "whsec_" + base64.b64encode(b"a secret of the test").decode()


@asynccontextmanager
async def simulate(**options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        start("replicate", options=ReplicateOptions(time_scale=0.001, webhook_secret=SECRET, **options)) as running,
        aiohttp.ClientSession(running.base_url, headers={"Authorization": "Bearer r8_test"}) as session,
    ):
        yield session


async def create(session: aiohttp.ClientSession, body: object) -> dict[str, Any]:
    async with session.post(SCHNELL, json=body) as answer:
        assert answer.status == 201
        return await answer.json()


async def read(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(path) as answer:
        return await answer.json()


class Hook:
    """The far side of the webhooks: what came, and what is answered to the first ones; later ones are taken."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.events: list[tuple[dict[str, str], bytes]] = []

    async def take(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
        self.events.append(({name.lower(): value for name, _, value in lines}, body))
        writer.write(http(status=self.statuses.pop(0) if self.statuses else "200 OK"))
        await writer.drain()


def sign(headers: dict[str, str], body: bytes, secret: str = SECRET) -> str:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def hooked(peer: Peer, *events: str) -> dict[str, Any]:
    return CAT | {"webhook": f"{peer.url}/x"} | ({"webhook_events_filter": list(events)} if events else {})


async def test_webhooks_are_the_prediction_signed_with_the_secret_that_the_api_shows():
    hook = Hook()
    async with serve(hook.take) as peer, simulate() as session:
        assert await read(session, "/v1/webhooks/default/secret") == {"key": SECRET}
        begun = await create(session, hooked(peer, "start", "completed"))
        await poll_until(lambda: len(hook.events) == 2, "two events")

    by_status = {body_status(body): headers for headers, body in hook.events}
    assert set(by_status) == {"processing", "succeeded"}
    assert all(headers["webhook-signature"] == sign(headers, body) for headers, body in hook.events)
    assert len({headers["webhook-id"] for headers, _ in hook.events}) == 2
    assert all(begun["id"].encode() in body for _, body in hook.events)


def body_status(body: bytes) -> str:
    return json.loads(body)["status"]


async def test_without_a_filter_outputs_and_the_end_are_sent():
    hook = Hook()
    async with serve(hook.take) as peer, simulate() as session:
        await create(session, hooked(peer))
        await poll_until(lambda: len(hook.events) == 2, "two events")
    assert [body_status(body) for _, body in hook.events] == ["succeeded"] * 2


async def test_a_webhook_can_be_forged_and_sent_twice():
    hook = Hook()
    async with (
        serve(hook.take) as peer,
        simulate(webhook_forged=True, webhook_copies=2) as session,
    ):
        await create(session, hooked(peer, "completed"))
        await poll_until(lambda: len(hook.events) == 2, "two copies")
    first, second = hook.events
    assert (first[1], first[0]["webhook-id"]) == (second[1], second[0]["webhook-id"])
    assert first[0]["webhook-signature"] != sign(*first)


async def test_only_the_end_is_sent_again_after_a_failed_delivery():
    hook = Hook("500 no", "500 no", "500 no")
    async with serve(hook.take) as peer, simulate() as session:
        await create(session, hooked(peer, "start", "completed"))
        await poll_until(lambda: len(hook.events) >= 4, "the repeated end")
    assert [body_status(body) for _, body in hook.events].count("processing") == 1


async def test_a_webhook_to_another_host_is_taken_and_its_prediction_ends_as_any():
    async with simulate() as session:
        begun = await create(session, CAT | {"webhook": "https://caller.example/x"})

        async def ended() -> bool:
            return (await read(session, begun["urls"]["get"]))["status"] == "succeeded"

        await poll_until(ended, "the prediction to end")


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://127.0.0.1:9/x", True),
        ("https://localhost/x", True),
        ("http://[::1]:9/x", True),
        ("http://127.9.9.9/", True),
        ("https://caller.example/x", False),
        ("http://localhost.example/x", False),
        ("http://10.0.0.1/x", False),
        ("http://0.0.0.0/x", False),
        ("ftp://127.0.0.1/x", False),
        ("http://127.0.0.1@caller.example/x", False),
        ("not an address", False),
    ],
)
def test_the_post_reaches_the_loopback_only(url, reached):
    assert reaches_loopback(url) is reached
