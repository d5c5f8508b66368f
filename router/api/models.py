"""`GET /v1/models` and `/v1/models/{id}`: what the key may use, as the OpenAI SDKs expect it. Floor 3."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from router.api.auth import SERVICES, Principal, caller_of
from router.api.errors import Refusal
from router.api.replies import json_reply
from router.api.services import Services
from router.task import Error

CREATED = 1_735_689_600  # the SDKs want a number; models of a configuration have no date of their own


async def listing(request: web.Request) -> web.StreamResponse:
    """List models and aliases in the order of the file."""
    principal, services = await caller_of(request), request.app[SERVICES]
    return json_reply(200, {"object": "list", "data": [_model(name) for name in _names(services, principal)]})


async def read(request: web.Request) -> web.StreamResponse:
    """One model; an id may hold slashes."""
    principal, services = await caller_of(request), request.app[SERVICES]
    name = request.match_info["id"]
    if name not in _names(services, principal):
        message = f"The model {name[:200]!r} does not exist or is not available to you."
        raise Refusal(Error("model_not_found", message, "model_not_found", param="model"))
    return json_reply(200, _model(name))


def _names(services: Services, principal: Principal) -> list[str]:
    rules = services.life.runtime.rules
    allowed = (rules.tenant(principal.tenant).models, principal.limits.models)
    names = [name for name in rules.models if all(only is None or name in only for only in allowed)]
    return names + [alias for alias, name in rules.aliases.items() if name in names]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "pointsman"}
