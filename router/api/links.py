"""Signed, expiring links to result files and to events of a task, and signed cursors of listings. Floor 3.

A file link is `/v1/files/{task}/{n}?exp=SECONDS&sig=ATTEMPT.HMAC`: it names the object itself, so that serving it needs
no key and no row. A link to events is `/v1/tasks/{task}/events?tenant=NAME&exp=SECONDS&sig=HMAC`: it names the tenant,
because every read of a row does, and stands for that one task. Signatures are HMAC-SHA256 over the parts, compared in
constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote

import orjson


def sign(secret: bytes, *parts: object) -> str:
    """Sign a sequence of parts; each is length-prefixed, so that no two sequences read alike."""
    message = b"".join(b"%d:%s" % (len(raw), raw) for raw in (str(part).encode() for part in parts))
    return base64.urlsafe_b64encode(hmac.new(secret, message, hashlib.sha256).digest()[:24]).decode()


def file_link(secret: bytes, base: str, key: str, expires_at_s: int) -> str:
    """Make the link to a vault object `task/attempt/index`."""
    task_id, attempt, index = key.split("/")
    signature = sign(secret, "file", task_id, attempt, index, expires_at_s)
    return f"{base}/v1/files/{task_id}/{index}?exp={expires_at_s}&sig={attempt}.{signature}"


def read_file_link(secret: bytes, task_id: str, index: str, *, exp: str, sig: str, now_s: int) -> str | None:
    """Check a link; returns the vault key, None when the signature is wrong or the time is over."""
    attempt, dot, signature = sig.partition(".")
    if not dot or not exp.isdecimal() or len(exp) > 12 or not attempt.isdecimal() or not index.isdecimal():
        return None
    expected = sign(secret, "file", task_id, attempt, index, int(exp))
    if not hmac.compare_digest(expected.encode(), signature.encode()) or int(exp) <= now_s:
        return None
    return f"{task_id}/{attempt}/{index}"


def events_link(secret: bytes, base: str, tenant: str, task_id: str, expires_at_s: int) -> str:
    """Make the link to the events of a task."""
    signature = sign(secret, "events", tenant, task_id, expires_at_s)
    return f"{base}/v1/tasks/{task_id}/events?tenant={quote(tenant, safe='')}&exp={expires_at_s}&sig={signature}"


def is_events_link(secret: bytes, tenant: str, task_id: str, *, exp: str, sig: str, now_s: int) -> bool:
    """Check a link: whether we made it for this task of this tenant, and its time is not over."""
    if not exp.isdecimal() or len(exp) > 12:
        return False
    expected = sign(secret, "events", tenant, task_id, int(exp))
    return hmac.compare_digest(expected.encode(), sig.encode()) and int(exp) > now_s


def write_cursor(secret: bytes, tenant: str, created_at: int, task_id: str) -> str:
    """Make the cursor of the page after this row."""
    packed = orjson.dumps([created_at, task_id, sign(secret, "cursor", tenant, created_at, task_id)])
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(secret: bytes, tenant: str, text: str) -> tuple[int, str] | None:
    """Read a cursor; None when this tenant was never given it."""
    try:
        packed = base64.urlsafe_b64decode(text[:400] + "=" * (-len(text) % 4))
        created_at, task_id, signature = orjson.loads(packed)
    except (ValueError, TypeError):
        return None
    if not isinstance(created_at, int) or not isinstance(task_id, str) or not isinstance(signature, str):
        return None
    expected = sign(secret, "cursor", tenant, created_at, task_id)
    return (created_at, task_id) if hmac.compare_digest(expected.encode(), signature.encode()) else None
