"""Who is asking: one function for every route and both header forms (reliability-security section 6). Floor 3.

A key is an API key of a tenant, or the admin key, which operates the daemon and serves /v1 as `default`. Keys are known
by their keyed hash alone, compared in constant time; a key in the query string is not looked at. An API key has scopes:
the one that a request needs follows from its method and path, so that no route can forget to ask (`scope_of`). With
`AUTH=disabled` any key or none is tenant `default`, and admin routes answer on loopback only.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NoReturn

from aiohttp import web

from router.api.errors import Refusal
from router.api.services import Services
from router.keys import ALL_SCOPES, NO_LIMITS, ApiKey, KeyLimits, KeyScope, KeyState, holds, state_of
from router.persistence import Unavailable
from router.task import Error

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
FORM = re.compile(r"(pm_[a-z2-7]{8})_[a-z2-7]{52}")
PRESENTED_MAX_CHARS = 4096
ENDINGS = {
    KeyState.REVOKED: "The API key was revoked",
    KeyState.EXPIRED: "The API key has expired",
    KeyState.ROTATED: "The API key was replaced by a newer one",
}


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a tenant, the id of its API key (None for the admin key), whether it may operate the daemon.

    `scopes` and `limits` are the key's own; tenants' limits come on top, from the rules in force.
    """

    tenant: str
    key_id: str | None
    is_admin: bool
    scopes: frozenset[KeyScope] = ALL_SCOPES
    limits: KeyLimits = NO_LIMITS

    def demand(self, scope: KeyScope) -> None:
        """Refuse with 403 what the key has no scope for."""
        if not holds(self.scopes, scope):
            details = {"scope": scope.value, "scopes": sorted(self.scopes)}
            message = f"This API key has no scope {scope.value!r}."
            raise Refusal(Error("forbidden", message, "forbidden", details=details))


async def caller_of(request: web.Request, scope: KeyScope | None = None) -> Principal:
    """Identify the caller of a /v1 route; 401 when the key is missing or not valid, 403 when it lacks the scope.

    `scope` None: as `scope_of` says. Raises `Unavailable` when the store is away and the key is not remembered.
    """
    principal = await _identify(request)
    principal.demand(scope or scope_of(request))
    return principal


async def require_admin(request: web.Request) -> Principal:
    """Identify an operator: the admin key, an API key of the scope, or loopback where keys are disabled; 401 or 403."""
    principal = await _identify(request)
    services = request.app[SERVICES]
    if principal.is_admin or (not services.auth_required and comes_from_loopback(request)):
        return principal
    if services.auth_required:
        principal.demand(KeyScope.ADMIN_READ if _only_reads(request) else KeyScope.ADMIN_WRITE)
        return principal
    raise Refusal(Error("forbidden", "This route is for operators.", "forbidden"))


async def is_operator(request: web.Request) -> bool:
    """Whether the caller would pass `require_admin`, without refusing; nobody does whom the store cannot name."""
    try:
        await require_admin(request)
    except (Refusal, Unavailable):
        return False
    return True


def scope_of(request: web.Request) -> KeyScope:
    """What a request of /v1 needs: reading reads, deleting and cancelling cancels, everything else may cost money."""
    if _only_reads(request):
        return KeyScope.READ
    if request.method == "DELETE" or request.path.rstrip("/").endswith("/cancel"):
        return KeyScope.CANCEL
    return KeyScope.GENERATE


def presented_key(request: web.Request) -> str | None:
    """Read the key from `Authorization: Bearer` or `x-api-key`."""
    scheme, _space, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key") or None


def hash_key(key: str, pepper: bytes) -> str:
    """How a key is stored: HMAC-SHA256 with the store's pepper, in hex. Keys are random, so no slow hash is needed."""
    return hmac.digest(pepper, key.encode(errors="surrogateescape"), "sha256").hex()


def make_key(token: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Make a key in the form of contract section 4: `pm_` + 8 + `_` + 52 base32 characters."""
    return f"pm_{_base32(token(5))}_{_base32(token(32))}"


def prefix_of(key: str) -> str:
    """What may be shown of a key: `pm_` + 8 characters."""
    return key[:11]


def comes_from_loopback(request: web.Request) -> bool:
    """Whether the connection itself (never a forwarded header) comes from this machine."""
    try:
        return ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


# -- parts ------------------------------------------------------------------------------------------------------------


async def _identify(request: web.Request) -> Principal:
    """Find out whose key it is, before anything is asked of it; 401 when that is nobody."""
    services = request.app[SERVICES]
    key = presented_key(request)
    digest = hash_key((key or "")[:PRESENTED_MAX_CHARS], services.pepper)
    is_admin = key is not None and hmac.compare_digest(digest, services.admin_key_hash)
    if is_admin or not services.auth_required:
        return Principal("default", None, is_admin)
    if key is None:
        _refuse("No API key was sent")
    found = await services.keys.find(digest) if FORM.fullmatch(key) else None
    if found is None:
        _refuse("The API key is not valid")
    state = state_of(found, services.now(), digest)
    if state is not KeyState.ACTIVE:
        _refuse(ENDINGS[state])
    return _principal_of(found)


def _principal_of(key: ApiKey) -> Principal:
    return Principal(key.tenant, key.id, is_admin=False, scopes=key.scopes, limits=key.limits)


def _refuse(what: str) -> NoReturn:
    raise Refusal(
        Error("unauthorized", f"{what}: use Authorization: Bearer KEY.", "invalid_api_key"),
        headers={"WWW-Authenticate": "Bearer"},
    )


def _only_reads(request: web.Request) -> bool:
    return request.method in {"GET", "HEAD"}


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
