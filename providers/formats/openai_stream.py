"""How a stream in OpenAI's dialects goes wrong after HTTP 200 has been said, whatever it streams.

An upstream can still fail then: with an event that holds an `error`, by being cut, or by ending too early. What arrived
until then is work that was done, so that no such failure is called free once something was told (provider notes: a
partial image costs output tokens; tokens already produced are billed). Pure: it reads events that others receive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from providers.formats import failures, openai_images
from providers.formats.failures import Dialect, Ruling, as_object
from router.outcome import Billed, Fail, FailureKind
from router.provider import Broken, Event


@dataclass(frozen=True, slots=True)
class Terms:
    """How one provider's streams are judged.

    `billed_once_told` is the bill of a stream that fails after something of the result was told; `billed_once_sent`
    that of one that is cut before, None: unknown.
    """

    dialect: Dialect
    billed_once_told: Billed = Billed.UNKNOWN
    billed_once_sent: Billed | None = None


def error_in(event: Event) -> Mapping[str, Any] | None:
    """Return the body of an event that says that the stream failed, None for any other event."""
    body = as_object(event.data)
    if body.get("error"):
        return body
    return {"error": body or event.text or "no reason given"} if event.name == "error" else None


def tell_error(status: int, body: Mapping[str, Any], terms: Terms, *, told: bool, secret: str) -> Fail:
    """Put an error inside a stream into a `Fail`: by its code; an unknown one is a job that began and failed."""
    said = openai_images.read_error(status, body)
    ruling = failures.judge(said, terms.dialect)
    if ruling.kind is FailureKind.UNUSABLE:  # the status alone decided, and that is 200
        ruling = Ruling(FailureKind.JOB_FAILED)
    failed = failures.tell(said, ruling, secret=secret)
    return replace(failed, billed=terms.billed_once_told) if told and failed.billed is not Billed.YES else failed


def tell_cut(broken: Broken, terms: Terms, *, told: bool, secret: str) -> Fail:
    """Put a stream that was cut or stopped into a `Fail`: nobody knows what became of the rest."""
    billed = terms.billed_once_told if told else terms.billed_once_sent
    if terms.billed_once_sent is Billed.YES:
        billed = Billed.YES
    return failures.tell_broken(replace(broken, sent=True), secret=secret, billed_once_sent=billed)
