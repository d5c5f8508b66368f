"""Every refusal in the contract's form (section 5.5): one body, the class in a header, and whether repeating helps.

Handlers raise `Refusal`; the middleware turns it, and whatever aiohttp raises by itself, into that body. Floor 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import orjson
from aiohttp import web

from router.api.dialects import pixapi
from router.policy.errors import openai_type, should_retry_header, status_of
from router.task import Error

RETRY_AFTER_MAX_S = 120  # above that the OpenAI SDK does not repeat at all


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a crash
    """An error to be answered. `status` only where the class alone does not say it."""

    def __init__(
        self,
        error: Error,
        *,
        status: int | None = None,
        task_id: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        attempts: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error.error_type)
        self.error = error
        self.status = status if status is not None else status_of(error)
        self.task_id = task_id
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.attempts = attempts
        self.headers = headers or {}


def invalid(
    param: str | None, message: str, *, error_type: str = "invalid_request", code: str | None = None
) -> NoReturn:
    """Refuse a request because of a field of it."""
    raise Refusal(Error(error_type, message, code or error_type, param=param))


def body_of(refusal: Refusal, request_id: str, surface: str = "native") -> dict[str, Any]:
    """The error in the form of a surface: Pixapi's own (contract 5.2), else contract 5.5's with every field present."""
    error = refusal.error
    if surface == "pixapi":
        return {"error": pixapi.error(error, refusal.status)}
    return {
        "error": {
            "message": error.message,
            "type": openai_type(error.error_type),
            "param": error.param,
            "code": error.code,
            "error_type": error.error_type,
            "retryable": error.retryable,
            "billing": error.billing.value,
            "task_id": refusal.task_id,
            "request_id": request_id,
            "details": dict(error.details),
            "attempts": list(refusal.attempts),
        }
    }


def answer_of(refusal: Refusal, request_id: str, surface: str = "native") -> web.Response:
    """The HTTP answer to a refusal; the headers are the same on all surfaces."""
    headers = {"X-Error-Type": refusal.error.error_type, **refusal.headers}
    if refusal.task_id is not None:
        headers["X-Task-Id"] = refusal.task_id
    should_retry = refusal.should_retry
    if should_retry is None:
        should_retry = should_retry_header(refusal.error.error_type, refusal.error.billing)
    if should_retry is not None:
        headers["x-should-retry"] = "true" if should_retry else "false"
    if refusal.retry_after_s is not None and should_retry is not False:
        headers["Retry-After"] = str(max(1, min(RETRY_AFTER_MAX_S, math.ceil(refusal.retry_after_s))))
    return web.Response(
        status=refusal.status,
        body=orjson.dumps(body_of(refusal, request_id, surface)),
        content_type="application/json",
        headers=headers,
    )


def of_http(status: int, allowed: Sequence[str] = ()) -> Refusal:
    """What aiohttp refuses by itself, in the contract's words."""
    match status:
        case 404:
            return Refusal(Error("not_found", "There is nothing at this path.", "not_found"))
        case 405:
            message = f"This path takes {', '.join(sorted(allowed)) or 'another method'}."
            error = Error("invalid_request", message, "method_not_allowed", details={"allowed": sorted(allowed)})
            return Refusal(error, status=405, headers={"Allow": ", ".join(sorted(allowed))})
        case 413:
            return Refusal(Error("too_large", "The body is larger than this path takes.", "too_large"))
        case _ if 400 <= status < 500:
            return Refusal(Error("invalid_request", "The request could not be read.", "invalid_request"), status=status)
        case _:
            return bug()


def bug() -> Refusal:
    """Something of ours broke; what it was stands in the log under the request id."""
    return Refusal(Error("internal_error", "Something broke on our side.", "internal_error"))
