"""Who is asking: one function for every route and both header forms (reliability-security section 6). Floor 3.

With `AUTH=disabled` any key or none is tenant `default`, and admin routes answer on loopback only. The admin key also
serves /v1 as `default`. It is compared by hash in constant time; a key in the query string is not looked at.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web

from router.api.errors import Refusal
from router.api.services import Services
from router.task import Error

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a tenant, the id of its API key (None for the admin key), and whether it may operate the daemon."""

    tenant: str
    key_id: str | None
    is_admin: bool


def hash_key(key: str, pepper: bytes) -> str:
    """How a key is stored: HMAC-SHA256 with the store's pepper, in hex. Keys are random, so no slow hash is needed."""
    # A header may hold any bytes; what is no text is no key that was ever given out, and is compared like any other.
    return hmac.digest(pepper, key.encode(errors="surrogateescape"), "sha256").hex()


def presented_key(request: web.Request) -> str | None:
    """Read the key from `Authorization: Bearer` or `x-api-key`."""
    scheme, _space, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.headers.get("x-api-key") or None


def caller_of(request: web.Request) -> Principal:
    """Identify the caller of a /v1 route; 401 when the key is missing or wrong."""
    services = request.app[SERVICES]
    key = presented_key(request)
    is_admin = key is not None and hmac.compare_digest(hash_key(key, services.pepper), services.admin_key_hash)
    if is_admin or not services.auth_required:
        return Principal("default", None, is_admin)
    what = "No API key was sent" if key is None else "The API key is not valid"
    raise Refusal(
        Error("unauthorized", f"{what}: use Authorization: Bearer KEY.", "invalid_api_key"),
        headers={"WWW-Authenticate": "Bearer"},
    )


def require_admin(request: web.Request) -> Principal:
    """Identify an operator: the admin key, or loopback where keys are disabled; 401 or 403 else."""
    principal = caller_of(request)
    services = request.app[SERVICES]
    if principal.is_admin or (not services.auth_required and comes_from_loopback(request)):
        return principal
    raise Refusal(Error("forbidden", "This route is for operators.", "forbidden"))


def is_operator(request: web.Request) -> bool:
    """Whether the caller would pass `require_admin`, without refusing."""
    try:
        require_admin(request)
    except Refusal:
        return False
    return True


def comes_from_loopback(request: web.Request) -> bool:
    """Whether the connection itself (never a forwarded header) comes from this machine."""
    try:
        return ip_address((request.remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False
