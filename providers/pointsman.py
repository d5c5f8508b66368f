"""Pointsman as an upstream: daemons in a row, so that a branch office routes through a central one.

The native surface is spoken (contract 5.3): a task is accepted, polled, cancelled; only a remix is asked for on the
videos' own. The attempt's key goes along as `Idempotency-Key`, and the other daemon promises that one key is one task
(contract 5.4): a repeat after a broken connection or a crash attaches to what was accepted and is never paid for twice.
What the other daemon says of its bill (`cost`, `billing`) is taken as it is; it has settled with its own providers.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs
from providers.formats.failures import TARGET_OUT, Dialect, Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.money import NANOS_MAX, NANOS_PER_USD
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    Abilities,
    Account,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Inline,
    Job,
    Kind,
    Media,
    Missing,
    Pending,
    Polled,
    Reply,
    Request,
    Role,
    Submitted,
    Trouble,
    Usage,
    place,
    rest_asked,
)

REPLY_BYTES = 1 << 20
COUNT_MAX = 10**12
FIELDS = {Role.IMAGE: "image", Role.MASK: "mask", Role.FIRST_FRAME: "input_reference", Role.LAST_FRAME: "last_frame"}
BILLED = {"not_billed": Billed.NO, "billed": Billed.YES, "unknown": Billed.UNKNOWN}

FACTS = AdapterFacts(
    slug="pointsman",
    base_url=None,
    abilities={
        "*": Abilities(
            frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT, Kind.IMAGE_VARIATION, Kind.VIDEO_GENERATION}),
            max_n=10,
            max_images=16,
            roles=frozenset(Role) - {Role.IMAGE},
            takes_urls=True,
            remixes=True,
        )
    },
    idempotent=True,
    cancels=True,
    polls_every_s=1.0,
    probes=True,
    lacks={
        "chat": "a completion is relayed, not chained as a task",
        "webhook": "its webhooks are signed for its callers' own receivers (contract 5.7)",
        "streaming": "a chained task is polled; streams end at the daemon that the caller asks",
    },
)

# The error classes of contract 5.5, as the daemon behind sees them.
CODES: Mapping[str, Ruling] = {
    "invalid_request": Ruling(FailureKind.BAD_REQUEST),
    "unauthorized": Ruling(FailureKind.ACCOUNT),
    "forbidden": Ruling(FailureKind.ACCOUNT),
    "model_not_found": TARGET_OUT,
    "not_found": TARGET_OUT,
    "conflict": Ruling(FailureKind.BAD_REQUEST),
    "too_large": Ruling(FailureKind.BAD_REQUEST),
    "rate_limited": Ruling(FailureKind.THROTTLED),
    "queue_full": Ruling(FailureKind.THROTTLED),
    "budget_exceeded": Ruling(FailureKind.ACCOUNT),
    "price_ceiling": Ruling(FailureKind.UNSUPPORTED),
    "content_refused": Ruling(FailureKind.REFUSED),
    "no_provider_available": Ruling(FailureKind.OVERLOADED),
    "unavailable": Ruling(FailureKind.OVERLOADED),
}
# How a task that was accepted there ended; whatever is not here failed for the reasons of a provider. An ending whose
# outcome nobody knows is final: the key would only replay it, and another target might make the picture again.
ENDINGS: Mapping[str, FailureKind] = {
    "content_refused": FailureKind.REFUSED,
    "invalid_request": FailureKind.BAD_REQUEST,
    "provider_timeout": FailureKind.RESULT_LOST,
    "outcome_unknown": FailureKind.RESULT_LOST,
    "cancelled": FailureKind.CANCELLED,
}

# Of those, one that cost something is not asked for again here: its key would replay it and its bill be booked twice.
FAILED = {
    Billed.NO: FailureKind.JOB_FAILED,
    Billed.YES: FailureKind.UNUSABLE,
    Billed.UNKNOWN: FailureKind.RESULT_LOST,
}

DIALECT = Dialect(codes=CODES, portable=frozenset({"size", "quality", "n", "seconds", "image", "mask"}))


class Adapter:
    """The native task routes of the Pointsman at `base_url` (its origin, with or without /v1)."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Hand the task on under the attempt's key; a repeat of it gets the same task, ended or not."""
        if job.kind not in FACTS.abilities["*"].kinds:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        reply = await call(build(job))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        if reply.status // 100 == 2 and (task_id := jobs.read_id(as_object(reply.data).get("id"))):
            ended = read_task(Handle(task_id), job, reply)
            return ended if isinstance(ended, Done | Fail) else Pending(Handle(task_id))
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the task."""
        request = Request("GET", _task_url(handle, job), _headers(job.credential), max_reply_bytes=REPLY_BYTES)
        reply = await call(request)
        if isinstance(reply, Broken):
            return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
        if reply.status in {404, 410}:
            return Missing("the daemon does not know the task")
        if reply.status == 200 and isinstance(as_object(reply.data).get("status"), str):
            return read_task(handle, job, reply)
        detail = f"HTTP {reply.status} and no task: {as_text(failures.body_of(reply))}"
        told = outcome.one_line(failures.mask(detail, job.credential))
        return Trouble(told, rest_asked(reply.headers, job.now), refused=reply.status in {401, 403})

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Cancel the task there; a 409 says that it has ended, and the next poll tells how."""
        url = f"{_task_url(handle, job)}/cancel"
        reply = await call(Request("POST", url, _headers(job.credential), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken) or reply.status != 200:
            return None
        ended = read_task(handle, job, reply)
        return ended if isinstance(ended, Fail) else None

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """Ask whether the daemon is up (contract 5.6, /healthz)."""
        url = f"{account.base_url.rstrip('/').removesuffix('/v1')}/healthz"
        reply = await call(Request("GET", url, _headers(account.credential), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=account.credential)
        if reply.status == 200:
            return None
        body = failures.body_of(reply)
        return fail(reply.status, reply.headers, body, now=account.now, secret=account.credential)


def build(job: Job) -> Request:
    """Write the submit: a task, or the remix of a film that the other daemon has made (contract 5.1).

    The remix answers with a video object, whose id its task is read by like any other.
    """
    headers = {**_headers(job.credential), "Idempotency-Key": job.attempt_key}
    url = f"{_root(job)}/tasks"
    body: dict[str, Any] = {"kind": job.kind.value, "model": job.model, "input": build_input(job)}
    if job.remix_of is not None:
        url = f"{_root(job)}/videos/{quote(job.remix_of, safe='')}/remix"
        body = {"prompt": job.input.get("prompt")}
    return Request("POST", url, headers, body, max_reply_bytes=REPLY_BYTES)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    ruling = failures.judge(said, DIALECT)
    if as_object(as_object(body).get("error")).get("billing") == "unknown":
        ruling = Ruling(FailureKind.UNKNOWN)  # promise 9: it says whether money may have been spent
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the usage of a task."""
    said = as_object(as_object(body).get("usage"))
    return Usage(
        input_tokens=_count(said.get("input_tokens")),
        input_image_tokens=_count(said.get("input_image_tokens")),
        cached_tokens=_count(said.get("cached_tokens")),
        output_tokens=_count(said.get("output_tokens")),
        output_image_tokens=_count(said.get("output_image_tokens")),
    )


def build_input(job: Job) -> dict[str, Any]:
    """Build the task's input: the caller's fields as they came, and the files as URLs or data URIs."""
    body: dict[str, Any] = {name: value for name, value in job.input.items() if value is not None}
    for role, name in FIELDS.items():
        files: list[str | Inline] = [place(source) for source in job.files_of(role)]
        if files:
            body[name] = files if role is Role.IMAGE else files[0]
    return body


def read_task(handle: Handle, job: Job, reply: Reply) -> Done | Pending | Trouble | Fail:
    """Translate a native task: still on its way, delivered, or ended with an error and a bill."""
    task = as_object(reply.data)
    cost = as_object(task.get("cost"))
    nanos = _nanos(cost.get("total_usd"))
    progress = task.get("progress")
    match task.get("status"):
        case "pending" | "running" | "retrying":
            known = isinstance(progress, int) and not isinstance(progress, bool) and 0 <= progress <= 100
            return Pending(handle, progress if known else None)
        case "succeeded":
            media = _media(task.get("output"))
            if media:
                return Done(media, usage(task), cost_nanos=nanos, http_status=reply.status)
            return Trouble("the task succeeded and shows no output yet")
        case "failed" | "cancelled" | "expired":
            return _ending(task, cost, nanos, job)
        case _:
            return Trouble("the daemon shows no status that is known")


# -- parts ------------------------------------------------------------------------------------------------------------


def _ending(task: Mapping[str, Any], cost: Mapping[str, Any], nanos: int | None, job: Job) -> Fail:
    error = as_object(task.get("error"))
    word = as_word(error.get("error_type"))
    billed = BILLED.get(as_word(cost.get("billing")), Billed.UNKNOWN)
    kind = FailureKind.CANCELLED if task.get("status") == "cancelled" else ENDINGS.get(word, FAILED[billed])
    detail = f"{word or as_word(task.get('status'))}: {as_text(error.get('message'))}"
    return outcome.fail(
        kind,
        failures.mask(detail, job.credential),
        billed=billed,
        cost_nanos=None if billed is Billed.UNKNOWN else nanos,
    )


def read_error(status: int, body: Any) -> Said:
    """Read the error object of contract 5.5."""
    error = as_object(body).get("error")
    if not isinstance(error, dict):
        return failures.read_foreign(status, body)
    param = error.get("param")
    return Said(
        status,
        own=True,
        code=as_word(error.get("error_type")) or as_word(error.get("code")),
        param=param if isinstance(param, str) and param else None,
        message=as_text(error.get("message")),
    )


def _media(output: Any) -> tuple[Media, ...]:
    media = []
    for item in map(as_object, output if isinstance(output, list) else ()):
        url, revised = item.get("url"), item.get("revised_prompt")
        if isinstance(url, str) and url.startswith(("http://", "https://")):
            media.append(Media(url=url, revised_prompt=revised if isinstance(revised, str) else None))
    return tuple(media)


def _nanos(amount: Any) -> int | None:
    """Read a decimal string in USD."""
    try:
        nanos = Decimal(amount) * NANOS_PER_USD if isinstance(amount, str) else None
        return int(nanos) if nanos is not None and 0 <= nanos <= NANOS_MAX else None
    except (ArithmeticError, ValueError):
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None


def _headers(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}", "Accept": "application/json"}


def _root(job: Job) -> str:
    return f"{job.base_url.rstrip('/').removesuffix('/v1')}/v1"


def _task_url(handle: Handle, job: Job) -> str:
    # The other daemon would show the task in the dialect that it came in by, which is this one; said all the same.
    return f"{_root(job)}/tasks/{quote(handle.remote_id, safe='')}"
