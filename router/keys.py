"""What an API key is and what the store is asked about keys. Floor 0: standard library only.

A key is a secret that belongs to one tenant; the store has its keyed hash and nothing that could be used in its place.
What a key may do is fixed when it is made: its scopes, its models and its limits never change afterwards, so that what
was learnt of a key once stays true. It can be rotated (a new secret, the old one valid for a while) and revoked (for
ever). Who computes hashes and recognises callers stands in `api.auth`; who holds callers to their limits in
`flow.limits`. Instants are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class KeyScope(StrEnum):
    """What a key may be used for; the set is closed. `admin:write` includes `admin:read`, no other includes another."""

    GENERATE = "generate"  # whatever makes a task or costs money
    READ = "read"  # tasks, files, events, models, usage of its tenant
    CANCEL = "cancel"  # cancel a task of its tenant, delete what it made
    ADMIN_READ = "admin:read"  # the operators' routes, without changing anything
    ADMIN_WRITE = "admin:write"  # all of the operators' routes


USUAL_SCOPES = frozenset({KeyScope.GENERATE, KeyScope.READ, KeyScope.CANCEL})
ALL_SCOPES = frozenset(KeyScope)


@dataclass(frozen=True, slots=True)
class KeyRate:
    """So many submits in a time, in milliseconds."""

    count: int
    per_ms: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key is held to besides its tenant's limits; None: no limit of its own. `models` are public names."""

    models: frozenset[str] | None = None
    rate: KeyRate | None = None
    max_concurrency: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. `hash` is the keyed hash of the secret in hex, `prefix` what is shown of it (`pm_xxxxxxxx`).

    After a rotation `former_hash` is valid until `former_until`. A key ends at `expires_at` or when it was revoked.
    """

    id: str
    tenant: str
    name: str
    prefix: str
    hash: str = field(repr=False)
    created_at: int
    scopes: frozenset[KeyScope] = USUAL_SCOPES
    limits: KeyLimits = NO_LIMITS
    expires_at: int | None = None
    revoked_at: int | None = None
    former_hash: str | None = field(default=None, repr=False)
    former_until: int | None = None


@dataclass(frozen=True, slots=True)
class NewSecret:
    """What a rotation at `at` gives a key; its former secret stays valid until `former_until`."""

    hash: str = field(repr=False)
    prefix: str
    at: int
    former_until: int


class KeyState(StrEnum):
    """Whether a key, or the secret that was shown of it, may be used."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    ROTATED = "rotated"  # the key lives, the secret is an old one


def state_of(key: ApiKey, now: int, digest: str | None = None) -> KeyState:
    """Judge a key at an instant; with `digest`, the secret of that hash too."""
    if key.revoked_at is not None:
        return KeyState.REVOKED
    if key.expires_at is not None and key.expires_at <= now:
        return KeyState.EXPIRED
    if digest is None or digest == key.hash:
        return KeyState.ACTIVE
    is_former = digest == key.former_hash and key.former_until is not None and now < key.former_until
    return KeyState.ACTIVE if is_former else KeyState.ROTATED


def holds(scopes: frozenset[KeyScope], wanted: KeyScope) -> bool:
    """Whether a set of scopes allows one."""
    return wanted in scopes or (wanted is KeyScope.ADMIN_READ and KeyScope.ADMIN_WRITE in scopes)


class KeyStore(Protocol):
    """What the store is asked about keys. `find_key`, `key` and `keys` look across tenants and answer whose it is."""

    async def add_key(self, key: ApiKey) -> bool:
        """Write a new key; False when its id or its hash is taken, and nothing is written."""

    async def find_key(self, digest: str) -> ApiKey | None:
        """The key whose secret, or former secret, has this hash, whatever its state."""

    async def key(self, key_id: str) -> ApiKey | None:
        """The key of this id, whatever its state."""

    async def keys(self, tenant: str | None, before: str | None, limit: int) -> Sequence[ApiKey]:
        """A page of a tenant's keys, or of all, by descending id, which is newest first; `before` is the last seen."""

    async def revoke_key(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        """End a key for ever; the first revocation stands. None when this tenant has no such key."""

    async def rotate_key(self, tenant: str, key_id: str, secret: NewSecret) -> ApiKey | None:
        """Give a key a new secret; the one before stays valid for the grace, any older one ends now.

        None when this tenant has no such key, or it was revoked or had expired at `secret.at`.
        """
