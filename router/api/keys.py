"""The operators' routes for API keys under /admin/v1/keys: make, list, rotate, revoke. Floor 3.

A secret is in one answer only, of the request that made it; what is kept and shown afterwards is its keyed hash and its
first characters. A key's scopes and limits never change: another key is made instead.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from aiohttp import web

from router.api.auth import SERVICES, Principal, hash_key, make_key, prefix_of, require_admin
from router.api.bodies import read_json
from router.api.errors import Refusal, invalid
from router.api.replies import json_reply
from router.api.services import Services
from router.config.models import TENANT_EXPECTED, TENANT_NAME
from router.config.notation import rate, seconds_of
from router.events import KeyChanged
from router.keys import ALL_SCOPES, USUAL_SCOPES, ApiKey, KeyLimits, KeyRate, KeyScope, NewSecret, state_of
from router.task import Error, new_id

BODY_MAX = 1 << 16
LIMIT_MAX = 100
NAME_MAX_CHARS = 200
MODELS_MAX = 1000
CONCURRENCY_MAX = 100_000
LIFE_MAX_S = 10 * 366 * 86_400
GRACE_S, GRACE_MAX_S = 86_400, 90 * 86_400
FIELDS = ("tenant", "name", "scopes", "models", "rate_limit", "max_concurrency", "expires_in")
UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


async def create(request: web.Request) -> web.StreamResponse:
    """`POST /admin/v1/keys`: 201 with the key and, this once, its secret in `key`."""
    operator, services = await require_admin(request), request.app[SERVICES]
    body = await _read_body(request, FIELDS)
    now, secret = services.now(), make_key()
    life_s = _read_span("expires_in", body.get("expires_in"), LIFE_MAX_S, least=1)
    key = ApiKey(
        id=new_id(now, services.world.dice("keys"), "key_"),
        tenant=_read_tenant(body.get("tenant", "default")),
        name=_read_name(body.get("name")),
        prefix=prefix_of(secret),
        hash=hash_key(secret, services.pepper),
        created_at=now,
        scopes=_read_scopes(body.get("scopes")),
        limits=KeyLimits(
            models=_read_models(services, body.get("models")),
            rate=_read_rate(body.get("rate_limit")),
            max_concurrency=_read_count("max_concurrency", body.get("max_concurrency"), CONCURRENCY_MAX),
        ),
        expires_at=None if life_s is None else now + life_s * 1000,
    )
    if not await services.world.store.add_key(key):
        raise RuntimeError("a random key was there already")
    _tell(services, key, "made", operator)
    return json_reply(201, {"id": key.id, "key": secret, **_shown(key, now)})


async def listing(request: web.Request) -> web.StreamResponse:
    """`GET /admin/v1/keys?tenant=&limit=&cursor=`: newest first, ended ones too, never a secret."""
    await require_admin(request)
    services, query = request.app[SERVICES], request.query
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit[:6]) <= LIMIT_MAX:
        invalid("limit", f"limit must be a whole number from 1 to {LIMIT_MAX}.")
    tenant, cursor = query.get("tenant"), query.get("cursor")
    if cursor is not None and not cursor.startswith("key_"):
        invalid("cursor", "cursor must be the next_cursor of an earlier page.")
    if tenant is not None:
        _read_tenant(tenant)
    found = await services.world.store.keys(tenant, cursor, int(limit) + 1)
    page, now = found[: int(limit)], services.now()
    more = len(found) > len(page)
    body = {
        "object": "list",
        "data": [_shown(key, now) for key in page],
        "has_more": more,
        "next_cursor": page[-1].id if more else None,
    }
    return json_reply(200, body)


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /admin/v1/keys/{id}`."""
    await require_admin(request)
    services = request.app[SERVICES]
    return json_reply(200, _shown(await _find(request), services.now()))


async def revoke(request: web.Request) -> web.StreamResponse:
    """`POST /admin/v1/keys/{id}/revoke` and `DELETE /admin/v1/keys/{id}`: no request after this one is let in.

    A key that was revoked before stays as it was. Tasks that it has submitted go on.
    """
    operator, services = await require_admin(request), request.app[SERVICES]
    known = await _find(request)
    key = await services.world.store.revoke_key(known.tenant, known.id, services.now())
    if key is None:
        raise _no_such_key()
    services.keys.drop()
    _tell(services, key, "revoked", operator)
    return json_reply(200, _shown(key, services.now()))


async def rotate(request: web.Request) -> web.StreamResponse:
    """`POST /admin/v1/keys/{id}/rotate {"grace_seconds"}`: a new secret; the old one works until the grace is over."""
    operator, services = await require_admin(request), request.app[SERVICES]
    body = await _read_body(request, ("grace_seconds",))
    grace_s = _read_span("grace_seconds", body.get("grace_seconds", GRACE_S), GRACE_MAX_S, least=0)
    known, now, secret = await _find(request), services.now(), make_key()
    until = now + (0 if grace_s is None else grace_s * 1000)
    new = NewSecret(hash_key(secret, services.pepper), prefix_of(secret), now, until)
    key = await services.world.store.rotate_key(known.tenant, known.id, new)
    if key is None:
        raise Refusal(Error("conflict", "A key that was revoked or has expired gets no new secret.", "conflict"))
    services.keys.drop()
    _tell(services, key, "rotated", operator)
    return json_reply(200, {"id": key.id, "key": secret, **_shown(key, now)})


# -- what is shown ----------------------------------------------------------------------------------------------------


def _shown(key: ApiKey, now: int) -> dict[str, Any]:
    """A key without its secret, every field present."""
    limits, overlap = key.limits, key.former_until is not None and key.former_until > now
    return {
        "id": key.id,
        "object": "api_key",
        "tenant": key.tenant,
        "name": key.name,
        "prefix": key.prefix,
        "state": state_of(key, now).value,
        "scopes": sorted(key.scopes),
        "models": None if limits.models is None else sorted(limits.models),
        "rate_limit": None if limits.rate is None else _rate_text(limits.rate),
        "max_concurrency": limits.max_concurrency,
        "created_at": _instant(key.created_at),
        "expires_at": _instant(key.expires_at),
        "revoked_at": _instant(key.revoked_at),
        "former_secret_until": _instant(key.former_until) if overlap else None,
    }


def _instant(at: int | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rate_text(limit: KeyRate) -> str:
    """Write a rate as the configuration does: `100/1m`."""
    unit = next(unit for unit, size_ms in UNITS_MS.items() if limit.per_ms % size_ms == 0)
    return f"{limit.count}/{limit.per_ms // UNITS_MS[unit]}{unit}"


def _tell(services: Services, key: ApiKey, change: str, operator: Principal) -> None:
    services.life.runtime.bus.emit(KeyChanged(services.now(), key.id, key.tenant, change, operator.key_id))


# -- what is asked ----------------------------------------------------------------------------------------------------


async def _find(request: web.Request) -> ApiKey:
    key = await request.app[SERVICES].world.store.key(request.match_info["id"])
    if key is None:
        raise _no_such_key()
    return key


def _no_such_key() -> Refusal:
    return Refusal(Error("not_found", "There is no such API key.", "not_found"))


async def _read_body(request: web.Request, fields: tuple[str, ...]) -> dict[str, Any]:
    """Read an object that may be left out; 400 for a field that it has not."""
    body = await read_json(request, BODY_MAX) if request.body_exists else {}
    for name in body:
        if name not in fields:
            invalid(name, f"There is no field {name[:100]!r} here; there are {', '.join(fields)}.")
    return body


def _read_tenant(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(TENANT_NAME, value):
        invalid("tenant", f"tenant must be {TENANT_EXPECTED}.")
    return value


def _read_name(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > NAME_MAX_CHARS or not value.isprintable():
        invalid("name", f"name must be a printable text of at most {NAME_MAX_CHARS} characters.")
    return value


def _read_scopes(value: object) -> frozenset[KeyScope]:
    if value is None:
        return USUAL_SCOPES
    known = {scope.value: scope for scope in KeyScope}
    if not isinstance(value, list) or not value or any(not isinstance(one, str) or one not in known for one in value):
        invalid("scopes", f"scopes must be a list of some of {', '.join(sorted(ALL_SCOPES))}.")
    return frozenset(known[one] for one in value)


def _read_models(services: Services, value: object) -> frozenset[str] | None:
    """Read the models of the configuration that the key is restricted to; aliases become the models they stand for."""
    if value is None:
        return None
    if not isinstance(value, list) or not value or len(value) > MODELS_MAX:
        invalid("models", "models must be a list of public model names, or null for all.")
    names = set()
    for one in value:
        model = services.life.runtime.rules.model(one) if isinstance(one, str) else None
        if model is None:
            invalid("models", f"models: the configuration has no model {str(one)[:100]!r}.")
        names.add(model.name)
    return frozenset(names)


def _read_rate(value: object) -> KeyRate | None:
    if value is None:
        return None
    try:
        limit = rate().read(value)
    except ValueError as wrong:
        invalid("rate_limit", f"rate_limit {wrong}.")
    return KeyRate(limit.count, round(limit.per_s * 1000))


def _read_count(name: str, value: object, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        invalid(name, f"{name} must be a whole number from 1 to {most}.")
    return value


def _read_span(name: str, value: object, most_s: int, *, least: int) -> int | None:
    """Read whole seconds, or a duration with its unit such as `30d`."""
    if value is None:
        return None
    seconds: Decimal | None = None
    if isinstance(value, str):
        seconds = seconds_of(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = Decimal(value)
    if seconds is None or not least <= seconds <= most_s:
        invalid(name, f"{name} must be seconds from {least} to {most_s}, or a duration such as 24h or 30d.")
    return int(seconds)
