"""What polls of an accepted job have in common, whatever the provider: what is a word about the job, and what is not.

A poll that goes wrong says nothing about a paid job (contract 6, last row): it is `Trouble`, and is made again. An
id that is not known (404, 410) is `Missing`. Only a 2xx that says a status is read. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.formats import failures
from providers.formats.failures import Ruling, Said, as_object, as_text, as_word
from router.outcome import Billed, Fail, FailureKind, one_line
from router.provider import Broken, Job, Missing, Reply, Trouble, rest_asked

UNKNOWN_IDS = frozenset({404, 410})


ID_CHARS = 200


def read_id(value: Any) -> str:
    """Read the name of a job, a text or a number of any length; empty when there is none, or none that can be kept."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**128:
        value = str(value)
    return value if isinstance(value, str) and len(value) <= ID_CHARS and value.isprintable() else ""


def hear(
    reply: Reply | Broken, job: Job, status: str = "status", within: str | None = None
) -> Mapping[str, Any] | Trouble | Missing:
    """Return the body of a poll that says a status under this name (in the object `within`, if it is nested there).

    Anything else is what the poll was instead.
    """
    if isinstance(reply, Broken):
        return Trouble(one_line(failures.mask(reply.detail, job.credential)))
    if reply.status in UNKNOWN_IDS:
        return Missing("the provider does not know the job")
    body = as_object(reply.data)
    holder = body if within is None else as_object(body.get(within))
    if reply.status // 100 == 2 and isinstance(holder.get(status), str):
        return body
    detail = f"HTTP {reply.status} and no status of the job: {as_text(failures.body_of(reply))}"
    told = one_line(failures.mask(detail, job.credential))
    return Trouble(told, rest_asked(reply.headers, job.now), refused=reply.status in {401, 403})


def end(
    kind: FailureKind,
    job: Job,
    *,
    status: int,
    code: str = "",
    message: str = "",
    billed: Billed | None = None,
    cost_nanos: int | None = None,
) -> Fail:
    """Put the end of an accepted job into a `Fail`: its code and message in the provider's own words."""
    said = Said(status, own=True, code=code, message=message)
    return failures.tell(said, Ruling(kind, billed=billed), secret=job.credential, cost_nanos=cost_nanos)


def percent(value: Any) -> int | None:
    """Accept a progress from 0 to 100."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100 else None


def read_reason(body: Mapping[str, Any]) -> tuple[str, str, str]:
    """Read why a job failed: (code, type, message), from `error` as an object or a text, or from flat strings."""
    error = body.get("error")
    if isinstance(error, dict):
        return as_word(error.get("code")), as_word(error.get("type")), as_text(error.get("message"))
    if isinstance(error, str) and error:
        return as_word(body.get("error_code")), "", as_text(error)
    return as_word(body.get("error_code")), "", as_text(body.get("error_message") or body.get("message"))
