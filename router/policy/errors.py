"""What an error of contract 5.5 is over HTTP: its status, the OpenAI word for it and whether a client may repeat.

Tables keyed by `error_type`; a test holds them against the contract's list. The API renders with them, every surface in
its own dialect; nothing here knows of bodies or headers beyond these words. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from router.outcome import Billed
from router.task import Error

# error_type -> (HTTP status, the word that goes into OpenAI's `error.type`)
_TABLE: Mapping[str, tuple[int, str]] = {
    "invalid_request": (400, "invalid_request_error"),
    "content_refused": (400, "invalid_request_error"),
    "unauthorized": (401, "invalid_request_error"),
    "budget_exceeded": (402, "insufficient_quota"),
    "price_ceiling": (402, "invalid_request_error"),
    "forbidden": (403, "invalid_request_error"),
    "not_found": (404, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "conflict": (409, "invalid_request_error"),
    "cancelled": (409, "invalid_request_error"),
    "expired": (410, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "rate_limited": (429, "rate_limit_error"),
    "queue_full": (429, "rate_limit_error"),
    "internal_error": (500, "server_error"),
    "provider_error": (502, "server_error"),
    "no_provider_available": (503, "server_error"),
    "unavailable": (503, "server_error"),
    "provider_timeout": (504, "server_error"),
    "outcome_unknown": (504, "server_error"),
    "deadline_exceeded": (504, "server_error"),
}

STATUS: Mapping[str, int] = MappingProxyType({error_type: status for error_type, (status, _word) in _TABLE.items()})

IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
IDEMPOTENCY_MISMATCH_STATUS = 422  # the SDKs repeat a 409 by themselves, a 422 they do not


def status_of(error: Error) -> int:
    """Tell the HTTP status of an error: that of its class, but 422 for a key that was used for another request."""
    return IDEMPOTENCY_MISMATCH_STATUS if error.code == IDEMPOTENCY_MISMATCH else STATUS[error.error_type]


def openai_type(error_type: str) -> str:
    """Tell the word of OpenAI's `error.type`; a client of theirs branches on it."""
    return _TABLE[error_type][1]


def should_retry_header(error_type: str, billing: Billed, *, goes_on: bool = False) -> bool | None:
    """Tell what `x-should-retry` says; None for no such header, when the client's own habit is right.

    `billing` is the task's so far. False on every 409 and wherever a repeat could pay twice. `goes_on`: the answer is
    about a task that lives on, so a repeat attaches and pays nothing (the 504 of contract 5.1, the 503 of a drain).
    """
    if goes_on:
        return True
    if STATUS[error_type] == STATUS["conflict"] or billing is not Billed.NO:
        return False
    return None
