"""OpenAI images, and every server that speaks the same form at another base URL.

One synchronous POST: no job id, no poll, no cancel, no later lookup, no idempotency key (OpenAI API reference, Images).
The wire form lives in `formats/openai_images.py`, the table of statuses in `formats/failures.py`; here stands what is
OpenAI's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.formats import failures, openai_images
from providers.formats.failures import Dialect, Ruling
from router import outcome
from router.outcome import Fail, FailureKind
from router.provider import (
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Missing,
    Polled,
    Submitted,
    Usage,
    rest_asked,
)

FACTS = AdapterFacts(
    slug="openai",
    base_url="https://api.openai.com/v1",
    # A model that we do not know, here or at a compatible server, gets every field as it came.
    abilities={**openai_images.MODELS, "*": Abilities(openai_images.GENERATES, max_n=10)},
)

DIALECT = Dialect(
    codes=openai_images.CODES,
    portable=openai_images.PORTABLE,
    # Only these words: the message of an ordinary rate limit mentions billing, too.
    quota_words=re.compile(
        r"insufficient[ _](quota|balance|credits?|funds)|exceeded your current quota", re.IGNORECASE
    ),
    refusal_words=openai_images.REFUSAL_WORDS,
)

# 403 "Your organization must be verified to use the model ...": it names the model and is about the account.
_VERIFICATION = re.compile(r"\bverif", re.IGNORECASE)


class Adapter:
    """OpenAI's form of the images endpoint, at `base_url`/images/generations."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Generate, and wait for the pictures; the connection is silent until then."""
        if job.kind not in openai_images.GENERATES:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        reply = await call(openai_images.ask(job, f"{job.base_url.rstrip('/')}/images/generations"))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        media = openai_images.read_media(reply.data, job.n) if reply.status // 100 == 2 else ()
        if media:
            return Done(media, usage(reply.data), http_status=reply.status)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Say that there is nothing to ask: a lost answer cannot be looked up."""
        return Missing("this provider keeps no jobs")

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel."""


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer without pictures means.

    `body` is decoded JSON, a text that is not JSON, or None; `now` (ms since the epoch) makes sense of a date in
    Retry-After; no piece of `secret` gets into the detail.
    """
    said = openai_images.read_error(status, body)
    if status == 403 and _VERIFICATION.search(said.message):
        ruling = Ruling(FailureKind.ACCOUNT)
    else:
        ruling = failures.judge(said, DIALECT)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens that GPT image models report; other models report none."""
    return openai_images.read_usage(body)
