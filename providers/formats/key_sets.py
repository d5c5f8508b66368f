"""Signatures in Ed25519 by one of the keys that a provider publishes as a JSON Web Key Set (RFC 7517, RFC 8037).

The set comes from an upstream and the signature from anybody: whatever is wrong with either verifies nothing and raises
nothing. What is signed, and how old it may be, is the adapter's matter. Pure: the set was fetched by others.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error as BadBase64
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from providers.formats.failures import as_object

KEYS_MAX = 20


def is_signed(message: bytes, signature: bytes, key_set: Any) -> bool:
    """Tell whether one of the set's Ed25519 keys made this signature; no set and an empty one verify nothing."""
    return any(_is_signed_by(key, message, signature) for key in _read_keys(key_set))


# -- parts ------------------------------------------------------------------------------------------------------------


def _is_signed_by(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _read_keys(key_set: Any) -> Iterator[Ed25519PublicKey]:
    listed = as_object(key_set).get("keys")
    for entry in map(as_object, listed[:KEYS_MAX] if isinstance(listed, list) else ()):
        text = entry.get("x")
        if (entry.get("kty"), entry.get("crv")) != ("OKP", "Ed25519") or not isinstance(text, str):
            continue
        try:
            key = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (BadBase64, ValueError):
            continue
        yield key
