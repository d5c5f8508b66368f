"""The secrets that a first start makes: the admin key, the signing secret, the pepper (contract section 4, AUTH).

What several lives must agree on stands in the store (`Store.keep`: the first one wins); the admin key itself stands
only in the first starter's data directory, readable by its owner, while the store has its hash. A crash between the
two leaves a file that the next start takes up. It knows no HTTP. Floor 4.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from router.api.auth import hash_key, make_key
from router.persistence import Store
from router.settings import Settings

UNPROVEN = ".new"


@dataclass(frozen=True, slots=True)
class Keyring:
    """What signs and what recognises. `warning` is a line for the operator, None when all is well."""

    admin_key_hash: str = field(repr=False)
    signing: bytes = field(repr=False)
    pepper: bytes = field(repr=False)
    made_admin_key: bool = False
    warning: str | None = None


async def open_keyring(settings: Settings, store: Store) -> Keyring:
    """Find the secrets, or make them at the first start. OSError when the data directory cannot hold the admin key."""
    pepper = bytes.fromhex(await store.keep("pepper", secrets.token_hex(32)))
    if settings.signing_secret is not None:
        signing = settings.signing_secret.get_secret_value().encode()
    else:
        signing = bytes.fromhex(await store.keep("signing_secret", secrets.token_hex(32)))
    if settings.admin_key is not None:
        return Keyring(hash_key(settings.admin_key.get_secret_value(), pepper), signing, pepper)
    place, unproven = settings.admin_key_path, settings.admin_key_path.with_suffix(UNPROVEN)
    key = _read(place) or _read(unproven)
    made = key is None
    if key is None:
        key = make_key()
        _write(unproven, key)
    stands = await store.keep("admin_key_hash", hash_key(key, pepper))
    if stands != hash_key(key, pepper):
        unproven.unlink(missing_ok=True)
        warning = f"the store knows another admin key than {place} has; set POINTSMAN_ADMIN_KEY to choose one"
        return Keyring(stands, signing, pepper, warning=warning)
    if unproven.exists():
        unproven.replace(place)
        _sync(place.parent)
    return Keyring(stands, signing, pepper, made_admin_key=made)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def _write(path: Path, key: str) -> None:
    path.unlink(missing_ok=True)
    # The mode is set at the moment of making, so that nobody else can ever have opened it.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
