"""API keys in a database: statements, verbs and lanes of `router.keys.KeyStore`.

Three statements look across tenants, because whose a key is is what they are asked: `FIND_KEY`, `KEY` and `KEYS`. What
writes names the tenant. Reads are short and take the reader's lane; writes are rare and take the keeper's. Floor 3.
"""

from __future__ import annotations

from collections import Counter

import orjson

from router.keys import ApiKey, KeyLimits, KeyRate, KeyScope, NewSecret
from router.store.lane import Lane
from router.store.rows import Row
from router.store.steps import Steps

KEY_COLUMNS = (
    *("id", "tenant", "name", "prefix", "hash", "created_at", "scopes", "models", "rate_count", "rate_per_ms"),
    *("max_concurrency", "expires_at", "revoked_at", "former_hash", "former_until"),
)


def _expand(text: str) -> str:
    values = ", ".join(f"${place}" for place in range(1, len(KEY_COLUMNS) + 1))
    return text.replace("{key}", ", ".join(KEY_COLUMNS)).replace("{values}", values)


# Write a key; nothing happens when its id or its hash is taken.
INSERT_KEY = _expand("""
insert into api_key ({key}) values ({values}) on conflict do nothing returning id
""")

# Find the key that a secret belongs to, whoever has it.
FIND_KEY = _expand("""
select {key} from api_key where hash = $1
union all
select {key} from api_key where former_hash = $1 and hash <> $1
limit 1
""")

# Read a key, whoever has it.
KEY = _expand("""
select {key} from api_key where id = $1
""")

# List keys of all tenants, newest first.
KEYS = _expand("""
select {key} from api_key where cast($1 as text) is null or id < $1 order by id desc limit $2
""")

# List a tenant's keys, newest first.
KEYS_OF_TENANT = _expand("""
select {key} from api_key
where tenant = $1 and (cast($2 as text) is null or id < $2)
order by id desc
limit $3
""")

# End a key; the first time counts.
REVOKE_KEY = _expand("""
update api_key set revoked_at = coalesce(revoked_at, $3) where tenant = $1 and id = $2 returning {key}
""")

# Give a live key another secret.
ROTATE_KEY = _expand("""
update api_key
set former_hash = hash, former_until = $6, hash = $3, prefix = $4
where tenant = $1 and id = $2 and revoked_at is null and (expires_at is null or expires_at > $5)
returning {key}
""")


class KeyVerbs:
    """The verbs without state."""

    def add_key(self, key: ApiKey) -> Steps[bool]:
        """Write a key."""
        return bool((yield INSERT_KEY, row_of_key(key)))

    def find_key(self, digest: str) -> Steps[ApiKey | None]:
        """Find the key of a secret."""
        return _first((yield FIND_KEY, (digest,)))

    def key(self, key_id: str) -> Steps[ApiKey | None]:
        """Read a key."""
        return _first((yield KEY, (key_id,)))

    def keys(self, tenant: str | None, before: str | None, limit: int) -> Steps[tuple[ApiKey, ...]]:
        """Read a page of keys."""
        if tenant is None:
            rows = yield KEYS, (before, limit)
        else:
            rows = yield KEYS_OF_TENANT, (tenant, before, limit)
        return tuple(map(key_of_row, rows))

    def revoke_key(self, tenant: str, key_id: str, at: int) -> Steps[ApiKey | None]:
        """End a key."""
        return _first((yield REVOKE_KEY, (tenant, key_id, at)))

    def rotate_key(self, tenant: str, key_id: str, secret: NewSecret) -> Steps[ApiKey | None]:
        """Give a key another secret."""
        values = (tenant, key_id, secret.hash, secret.prefix, secret.at, secret.former_until)
        return _first((yield ROTATE_KEY, values))


class KeyLanes:
    """Which lane each verb takes; `RelationalStore` has the lanes."""

    writes: Counter[str]
    _verbs: KeyVerbs
    _keeper: Lane
    _reader: Lane

    async def add_key(self, key: ApiKey) -> bool:
        """Write a key."""
        self.writes["add_key"] += 1
        return await self._keeper.ask(self._verbs.add_key, key)

    async def find_key(self, digest: str) -> ApiKey | None:
        """Find the key of a secret."""
        return await self._reader.ask(self._verbs.find_key, digest)

    async def key(self, key_id: str) -> ApiKey | None:
        """Read a key."""
        return await self._reader.ask(self._verbs.key, key_id)

    async def keys(self, tenant: str | None, before: str | None, limit: int) -> tuple[ApiKey, ...]:
        """Read a page of keys."""
        return await self._reader.ask(self._verbs.keys, tenant, before, limit)

    async def revoke_key(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        """End a key."""
        self.writes["revoke_key"] += 1
        return await self._keeper.ask(self._verbs.revoke_key, tenant, key_id, at)

    async def rotate_key(self, tenant: str, key_id: str, secret: NewSecret) -> ApiKey | None:
        """Give a key another secret."""
        self.writes["rotate_key"] += 1
        return await self._keeper.ask(self._verbs.rotate_key, tenant, key_id, secret)


# -- rows -------------------------------------------------------------------------------------------------------------


def row_of_key(key: ApiKey) -> Row:
    """Every column of a key, in the order of `KEY_COLUMNS`."""
    limits = key.limits
    return (
        key.id,
        key.tenant,
        key.name,
        key.prefix,
        key.hash,
        key.created_at,
        _dump(key.scopes),
        None if limits.models is None else _dump(limits.models),
        None if limits.rate is None else limits.rate.count,
        None if limits.rate is None else limits.rate.per_ms,
        limits.max_concurrency,
        key.expires_at,
        key.revoked_at,
        key.former_hash,
        key.former_until,
    )


def key_of_row(row: Row) -> ApiKey:
    """Read a key from its columns."""
    limits = KeyLimits(
        models=None if row[7] is None else frozenset(orjson.loads(row[7])),
        rate=None if row[8] is None else KeyRate(row[8], row[9]),
        max_concurrency=row[10],
    )
    return ApiKey(
        id=row[0],
        tenant=row[1],
        name=row[2],
        prefix=row[3],
        hash=row[4],
        created_at=row[5],
        scopes=frozenset(map(KeyScope, orjson.loads(row[6]))),
        limits=limits,
        expires_at=row[11],
        revoked_at=row[12],
        former_hash=row[13],
        former_until=row[14],
    )


def _first(rows: list[Row]) -> ApiKey | None:
    return key_of_row(rows[0]) if rows else None


def _dump(words: frozenset[str] | frozenset[KeyScope]) -> str:
    return orjson.dumps(sorted(words)).decode()
