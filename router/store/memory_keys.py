"""API keys as a dict: the reference for `router.keys.KeyStore`, mixed into `MemoryStore`. Knows no SQL. Floor 3."""

from __future__ import annotations

from dataclasses import replace

from router.keys import ApiKey, KeyState, NewSecret, state_of


class MemoryKeys:
    """The verbs over `_keys`, by id."""

    _keys: dict[str, ApiKey]

    async def add_key(self, key: ApiKey) -> bool:
        """Add a key, unless its id or its hash is there."""
        self._write("add_key")
        if any(key.id == other.id or key.hash == other.hash for other in self._keys.values()):
            return False
        self._keys[key.id] = key
        return True

    async def find_key(self, digest: str) -> ApiKey | None:
        """Look through all; a secret in use goes before a former one."""
        self._read()
        found = [key for key in self._keys.values() if key.hash == digest]
        found += [key for key in self._keys.values() if key.former_hash == digest]
        return found[0] if found else None

    async def key(self, key_id: str) -> ApiKey | None:
        """Look one up."""
        self._read()
        return self._keys.get(key_id)

    async def keys(self, tenant: str | None, before: str | None, limit: int) -> tuple[ApiKey, ...]:
        """List them, newest first."""
        self._read()
        fit = [key for key in self._keys.values() if tenant in {None, key.tenant}]
        fit = [key for key in fit if before is None or key.id < before]
        return tuple(sorted(fit, key=lambda key: key.id, reverse=True)[:limit])

    async def revoke_key(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        """End one; the first time counts."""
        self._write("revoke_key")
        key = self._key_of(tenant, key_id)
        if key is None:
            return None
        if key.revoked_at is None:
            self._keys[key_id] = key = replace(key, revoked_at=at)
        return key

    async def rotate_key(self, tenant: str, key_id: str, secret: NewSecret) -> ApiKey | None:
        """Give a live one another secret."""
        self._write("rotate_key")
        key = self._key_of(tenant, key_id)
        if key is None or state_of(key, secret.at) is not KeyState.ACTIVE:
            return None
        after = replace(key, hash=secret.hash, prefix=secret.prefix)
        self._keys[key_id] = after = replace(after, former_hash=key.hash, former_until=secret.former_until)
        return after

    def _key_of(self, tenant: str, key_id: str) -> ApiKey | None:
        key = self._keys.get(key_id)
        return key if key is not None and key.tenant == tenant else None

    def _write(self, verb: str) -> None:
        raise NotImplementedError

    def _read(self) -> None:
        raise NotImplementedError
