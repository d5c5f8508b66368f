"""Pixapi, an aggregator of pictures and films: a POST that accepts a task, then polls of it.

The path says that a task is wanted (`/v1/async/...`); an `async` field must not be sent (seed document, "Async Media
Tasks"). One credit is a US cent; credits are taken after success, so that failures and refusals are free, and
`credits_cost` is the price. There is no cancel, no list and no idempotency key: a submit whose answer is lost may be
paid for later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs, openai_images
from providers.formats.failures import TARGET_OUT, Dialect, Ruling, Said, as_object
from router import outcome
from router.money import NANOS_MAX
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Kind,
    Missing,
    Pending,
    Polled,
    Request,
    Role,
    Submitted,
    Trouble,
    Usage,
    place,
    rest_asked,
)

NANOS_PER_CREDIT = Decimal(10_000_000)  # "1 credit = $0.01"
REPLY_BYTES = 1 << 20
PATHS: Mapping[Kind, str] = {
    Kind.IMAGE_GENERATION: "images/generations",
    Kind.IMAGE_EDIT: "images/edits",
    Kind.VIDEO_GENERATION: "videos/generations",
}

FACTS = AdapterFacts(
    slug="pixapi",
    base_url="https://api.pixapi.ai",
    # Which model takes what is not documented: every field goes on as it came.
    abilities={
        "*": Abilities(
            frozenset(PATHS), max_n=10, max_images=16, roles=frozenset({Role.MASK, Role.FIRST_FRAME}), takes_urls=True
        )
    },
    refusals_free=True,
    polls_every_s=2.0,
    lacks={
        "chat": "an aggregator of media",
        "cancel": "not documented",
        "webhook": "not documented",
        "streaming": "tasks are polled",
        "probe": "no free call is documented",
    },
)

DIALECT = Dialect(
    codes={
        "insufficient_credits": Ruling(FailureKind.ACCOUNT),
        "unauthorized": Ruling(FailureKind.ACCOUNT),
        "model_not_found": TARGET_OUT,
        "prompt_rejected": Ruling(FailureKind.REFUSED, billed=Billed.NO),
        "rate_limited": Ruling(FailureKind.THROTTLED),
        "model_unavailable": Ruling(FailureKind.OVERLOADED),
        "internal_error": Ruling(FailureKind.SERVER_ERROR),
    },
    portable=openai_images.PORTABLE | {"seconds", "duration"},
    quota_words=re.compile(r"insufficient[ _](quota|balance|credits?|funds)", re.IGNORECASE),
)
REFUSAL_WORDS = re.compile(r"prompt.rejected|moderation|safety|policy|sensitive", re.IGNORECASE)


class Adapter:
    """The asynchronous surface at `base_url`/v1/async."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Hand in the task; the answer is its id."""
        path = PATHS.get(job.kind)
        if path is None:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        url = f"{_root(job)}/async/{path}"
        reply = await call(Request("POST", url, _headers(job), build_body(job), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        task_id = jobs.read_id(as_object(reply.data).get("id"))
        if reply.status // 100 == 2 and task_id:
            return Pending(Handle(task_id))
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the task; a status that is not known counts as still at work."""
        url = f"{_root(job)}/tasks/{quote(handle.remote_id, safe='')}"
        reply = await call(Request("GET", url, _headers(job), max_reply_bytes=REPLY_BYTES))
        body = jobs.hear(reply, job)
        if isinstance(body, Trouble | Missing):
            return body
        status = 0 if isinstance(reply, Broken) else reply.status
        match body["status"]:
            case "completed":
                media = openai_images.read_media(body.get("result"), job.n)
                if not media:
                    return jobs.end(FailureKind.UNUSABLE, job, status=status, code="completed", cost_nanos=cost(body))
                return Done(media, usage(body), cost(body), status)
            case "failed":
                code, kind, message = jobs.read_reason(body)
                refused = REFUSAL_WORDS.search(f"{code} {kind} {message}") is not None
                # "Credits are taken after success; failed tasks are free."
                ending = FailureKind.REFUSED if refused else FailureKind.JOB_FAILED
                return jobs.end(ending, job, status=status, code=kind or code, message=message, billed=Billed.NO)
            case _:
                return Pending(handle, jobs.percent(body.get("progress")))

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: no cancel is documented, and the task is heard to its end."""


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    return failures.tell(said, failures.judge(said, DIALECT), secret=secret, rest_s=rest_asked(headers, now))


def usage(_body: Any) -> Usage:
    """Report nothing: what a task cost is in `credits_cost`."""
    return Usage()


def cost(body: Any) -> int | None:
    """Read the price in nano-USD, None when it is absent or no amount; credits may be fractional."""
    value = as_object(body).get("credits_cost")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        nanos = Decimal(str(value)) * NANOS_PER_CREDIT
        return int(nanos.to_integral_value()) if 0 <= nanos <= NANOS_MAX else None
    except (ArithmeticError, ValueError):
        return None


def read_error(status: int, body: Any) -> Said:
    """Read its two forms: `code` is the HTTP status as a number and `type` the word, or `code` is the word."""
    said = openai_images.read_error(status, body)
    if said.code.isdecimal():
        return Said(status, own=said.own, code=said.type, param=said.param, message=said.message)
    return said


def build_body(job: Job) -> dict[str, Any]:
    """Build the JSON body: the caller's fields under their OpenAI names, the length of a film as `duration`."""
    skipped = {"response_format", "seconds", "stream", "async"}
    body: dict[str, Any] = {"model": job.model}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in skipped}
    if body.get("size") == "auto":
        del body["size"]
    seconds = job.input.get("seconds")
    if seconds is not None:
        body["duration"] = int(seconds)
    images = [place(source) for source in job.files_of(Role.IMAGE)]
    if images:
        body["image"] = images if len(images) > 1 else images[0]
    for role, name in ((Role.MASK, "mask"), (Role.FIRST_FRAME, "input_image")):
        for source in job.files_of(role):
            body[name] = place(source)
    return body


# -- parts ------------------------------------------------------------------------------------------------------------


def _root(job: Job) -> str:
    return f"{job.base_url.rstrip('/').removesuffix('/v1')}/v1"


def _headers(job: Job) -> dict[str, str]:
    return {"Authorization": f"Bearer {job.credential}", "Accept": "application/json"}
