"""Webhooks of providers coming in: verified on the raw body, believed in nothing, good for an early poll.

An upstream job says when it is done at `POST /v1/callbacks/{provider}/{task}`, an address that we gave it with the job.
What it says is not read: whoever could forge it would still learn nothing and change nothing but the time of a poll. It
must be signed all the same, because a poll costs us something. Where the provider signs with published keys, those are
fetched (guarded) and kept for a while. Floor 3.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from aiohttp import web

from router.api.auth import SERVICES
from router.api.bodies import read_raw
from router.api.errors import Refusal
from router.api.services import Services
from router.policy.rules import Webhook
from router.provider import Delivery, Hearing
from router.task import Error, canonical_id
from router.world import FetchBroken, FetchFailed

BODY_MAX = 16 << 20  # fal puts results into it, also as data URIs
KEYS_MAX = 256 << 10
KEYS_TIMEOUT_S = 10.0
KEYS_KEPT_MS = 3_600_000
KEYS_MISSED_MS = 60_000  # how soon keys that could not be had are asked for again


@dataclass(slots=True)
class KeySets:
    """The published key sets that were fetched, each with the instant until which it is kept; bounded by config."""

    kept: dict[str, tuple[int, Any]] = field(default_factory=dict)

    async def of(self, services: Services, url: str, allowed_origin: str) -> Any:
        """Return the key set at this address, None when it cannot be had now."""
        now = services.now()
        until, keys = self.kept.get(url, (0, None))
        if now < until:
            return keys
        self.kept[url] = (now + KEYS_MISSED_MS, keys)  # whoever asks meanwhile gets what there was
        keys = await _fetch_json(services, url, allowed_origin)
        if keys is not None:
            self.kept[url] = (services.now() + KEYS_KEPT_MS, keys)
        return keys


KEY_SETS = web.AppKey("key_sets", KeySets)


async def receive(request: web.Request) -> web.StreamResponse:
    """`POST /v1/callbacks/{provider}/{task}`: 200 when it is signed, 401 when not, 404 when nobody asked for it."""
    services = request.app[SERVICES]
    runtime = services.life.runtime
    provider = runtime.rules.providers.get(request.match_info["provider"])
    task_id = canonical_id(request.match_info["task"])
    if provider is None or provider.webhook is None or task_id is None:
        raise Refusal(Error("not_found", "Nobody waits for this.", "not_found"))
    body = await read_raw(request, BODY_MAX)
    adapter = cast("Hearing", services.world.adapter(provider.adapter.slug))
    delivery = Delivery(
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
        secret=provider.webhook.secret,
        keys=await _keys_of(request, provider.webhook, provider.base_url),
        now=services.now(),
    )
    if not adapter.verify(delivery):
        raise Refusal(Error("unauthorized", "The signature is not valid.", "unauthorized"))
    live = runtime.live.get(task_id)
    if live is not None:
        live.wake.set()
    return web.json_response({"received": True})


# -- parts ----------------------------------------------------------------------------------------------------------


async def _keys_of(request: web.Request, webhook: Webhook, base_url: str) -> Any:
    if webhook.keys_url is None:
        return None
    return await request.app[KEY_SETS].of(request.app[SERVICES], webhook.keys_url, base_url)


async def _fetch_json(services: Services, url: str, allowed_origin: str) -> Any:
    pieces, size = [], 0
    async with services.world.fetch.open(url, allowed_origin, KEYS_TIMEOUT_S) as answer:
        if isinstance(answer, FetchFailed):
            return None
        try:
            async with aclosing(answer.chunks()) as chunks:
                async for piece in chunks:
                    size += len(piece)
                    if size > KEYS_MAX:
                        return None
                    pieces.append(piece)
            return orjson.loads(b"".join(pieces))
        except (FetchBroken, orjson.JSONDecodeError):
            return None
