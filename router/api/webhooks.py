"""Webhooks as callers and operators see them: what a body says, a tenant's secret, the log, sending again, a test.

What is sent when stands in `deliver`, which asks `compose` here for the body, so that a webhook says what
`GET /v1/tasks/{id}` says (contract 5.7, 5.6). Floor 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from router.api import links, views
from router.api.auth import SERVICES, caller_of, require_admin
from router.api.bodies import IMAGE_BODY_MAX, read_json
from router.api.dialects import native
from router.api.errors import Refusal, invalid
from router.api.replies import json_reply
from router.api.services import Services
from router.outbox import Standing, Webhook, WebhookSearch, derive_secret, key_of
from router.persistence import TaskView
from router.task import Error, canonical_id

INPUT_MAX_BYTES = 8 << 10
LIMIT_MAX = 100
CURSOR_OF = "\0webhooks"  # signs cursors of the log; no tenant has this name


def compose(services: Services, webhook: Webhook, view: TaskView | None) -> dict[str, Any]:
    """The body of a webhook: its type, when it happened, and the native task as it is now; no task: a test."""
    body: dict[str, Any] = {"type": webhook.type, "timestamp": native.time_of(webhook.created_at), "data": {}}
    if view is not None:
        base = services.public_url or view.task.link_base or ""
        body["data"] = data = native.render(view, views.sight_from(services, base, view))
        if len(orjson.dumps(data["input"])) > INPUT_MAX_BYTES:
            data["input"] = None
    return body


def keys_of(services: Services, tenant: str) -> Sequence[bytes]:
    """The live keys of a tenant: those of the configuration, else the derived one."""
    secrets = _configured(services, tenant) or (derive_secret(services.signing_secret, tenant),)
    return [key for key in map(key_of, secrets) if key is not None]


async def secret(request: web.Request) -> web.StreamResponse:
    """`GET /v1/webhook_secret`: the derived secret of the caller's tenant; null where the configuration has its own."""
    principal, services = await caller_of(request), request.app[SERVICES]
    configured = bool(_configured(services, principal.tenant))
    body = {
        "object": "webhook_secret",
        "tenant": principal.tenant,
        "source": "configured" if configured else "derived",
        "secret": None if configured else derive_secret(services.signing_secret, principal.tenant),
    }
    return json_reply(200, body, {"Cache-Control": "no-store"})


# -- /admin/v1 ------------------------------------------------------------------------------------------------------


async def listing(request: web.Request) -> web.StreamResponse:
    """`GET /admin/v1/webhooks`: the log, newest first, of all tenants or of one."""
    await require_admin(request)
    services = request.app[SERVICES]
    search = _read_search(request)
    found = await services.world.store.webhooks(search)
    page, more = found[: search.limit - 1], len(found) == search.limit
    cursor = None
    if more and page:
        cursor = links.write_cursor(services.signing_secret, CURSOR_OF, page[-1].created_at, page[-1].id)
    body = {"object": "list", "data": [_row(one) for one in page], "has_more": more, "next_cursor": cursor}
    return json_reply(200, body)


async def redeliver(request: web.Request) -> web.StreamResponse:
    """`POST /admin/v1/webhooks/{id}/redeliver`: a new round of tries, whatever it had come to; 202 with the row."""
    await require_admin(request)
    services = request.app[SERVICES]
    renewed = await services.world.store.renew_webhook(request.match_info["id"][:100])
    if renewed is None:
        raise Refusal(Error("not_found", "There is no such webhook.", "not_found"))
    services.wake_deliverer()
    return json_reply(202, _row(renewed))


async def test(request: web.Request) -> web.StreamResponse:
    """`POST /admin/v1/webhooks/test` `{tenant, url}`: send one that tells of nothing, and say what came of it."""
    await require_admin(request)
    services = request.app[SERVICES]
    body = await read_json(request, IMAGE_BODY_MAX)
    tenant, url = body.get("tenant", "default"), body.get("url")
    if not isinstance(tenant, str) or not 1 <= len(tenant) <= 200:
        invalid("tenant", "tenant must be the name of a tenant.")
    if not isinstance(url, str):
        invalid("url", "url is required: where to send the webhook.", code="missing_required_parameter")
    reason = services.judge_callback(url)
    if reason is not None:
        invalid("url", f"url is refused: {reason}.")
    one = await services.test_webhook(tenant, url)
    reply = {"object": "webhook_test", "tenant": tenant, "result": one.result.value, "http_status": one.status}
    return json_reply(200, {**reply, "detail": one.detail, "took_ms": one.took_ms})


# -- parts ----------------------------------------------------------------------------------------------------------


def _configured(services: Services, tenant: str) -> tuple[str, ...]:
    entry = services.life.runtime.rules.tenants.get(tenant)
    return () if entry is None else entry.webhook_secrets


def _row(webhook: Webhook) -> dict[str, Any]:
    waits = webhook.state is Standing.WAITING
    return {
        "id": webhook.id,
        "object": "webhook",
        "tenant": webhook.tenant,
        "task_id": webhook.task_id,
        "type": webhook.type,
        "url": webhook.url,
        "status": webhook.state.value,
        "tries": webhook.tries,
        "created_at": native.time_of(webhook.created_at),
        "next_try_at": native.time_of(webhook.next_at) if waits and webhook.next_at else None,
        "ended_at": native.time_of(webhook.ended_at),
        "log": [
            {
                "at": native.time_of(one.at),
                "result": one.result.value,
                "http_status": one.status,
                "detail": one.detail,
                "took_ms": one.took_ms,
            }
            for one in webhook.log
        ],
    }


def _read_search(request: web.Request) -> WebhookSearch:
    """Read the filters; the page asks for one row more than it shows, to know whether there is another page."""
    query = request.query
    status, limit, cursor, task = (query.get(name) for name in ("status", "limit", "cursor", "task_id"))
    if status is not None and status not in {one.value for one in Standing}:
        invalid("status", f"status must be one of {', '.join(one.value for one in Standing)}.")
    if limit is not None and not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:4]) <= LIMIT_MAX):
        invalid("limit", f"limit must be a whole number from 1 to {LIMIT_MAX}.")
    before = None
    if cursor is not None:
        before = links.read_cursor(request.app[SERVICES].signing_secret, CURSOR_OF, cursor)
        if before is None:
            invalid("cursor", "cursor is not one that this listing gave.")
    return WebhookSearch(
        tenant=query.get("tenant"),
        state=None if status is None else Standing(status),
        task_id=None if task is None else canonical_id(task) or task[:64],
        before=before,
        limit=1 + (20 if limit is None else int(limit)),
    )
