"""fal, a platform of many models: a POST that queues a job, polls of its status, and a result that is read apart.

`COMPLETED` does not mean success: the result has an HTTP status of its own (vendor docs, Queue), so that the last poll
is two requests. Errors come in two families, those of a model (a list under `detail`) and those of the platform
(`error_type`); what an error cost is said in `x-fal-billable-units`, if at all. The submit names the URLs of the job,
which leave out the end of a model's name. Every model has its own schema: see `formats/fal_inputs`. There is no
idempotency key, and what the billed units cost is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from providers.formats import addresses, failures, fal_inputs, jobs, key_sets, openai_images
from providers.formats.failures import Dialect, Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    AdapterFacts,
    Broken,
    Call,
    Delivery,
    Done,
    Handle,
    Job,
    Media,
    Missing,
    Pending,
    Polled,
    Reply,
    Request,
    Submitted,
    Trouble,
    Usage,
    rest_asked,
)

REPLY_BYTES = 1 << 20
RESULT_BYTES_PER_OUTPUT = 32 << 20  # `sync_mode` puts the outputs into it as data URIs; 32 MiB x n + 32 MiB in all
WEBHOOK_TOLERANCE_S = 300
URLS = ("status_url", "response_url", "cancel_url")

FACTS = AdapterFacts(
    slug="fal",
    base_url="https://queue.fal.run",
    abilities={name: model.abilities for name, model in fal_inputs.MODELS.items()},
    cancels=True,
    polls_every_s=1.0,
    webhooks=True,
    webhook_keys_url="https://rest.fal.ai/.well-known/jwks.json",
    lacks={
        "chat": "models of media",
        "streaming": "jobs are polled; the status stream tells no part of a result",
        "probe": "no free call is documented",
    },
)

_RISKY = Ruling(FailureKind.UNKNOWN)  # a runner may have done the work
_NOT_STARTED = Ruling(FailureKind.OVERLOADED, billed=Billed.NO)
_BROKE = Ruling(FailureKind.JOB_FAILED, billed=Billed.NO)  # "5xx is not billed"

DIALECT = Dialect(
    codes={
        # Family A, of models.
        "content_policy_violation": Ruling(FailureKind.REFUSED),
        "no_media_generated": Ruling(FailureKind.REFUSED),
        **dict.fromkeys(("image_too_large", "image_too_small", "file_too_large"), Ruling(FailureKind.UNSUPPORTED)),
        "feature_not_supported": Ruling(FailureKind.UNSUPPORTED),
        **dict.fromkeys(
            ("face_detection_error", "image_load_error", "file_download_error"), Ruling(FailureKind.BAD_REQUEST)
        ),
        **dict.fromkeys(("generation_timeout", "downstream_service_error", "downstream_service_unavailable"), _BROKE),
        "internal_server_error": _BROKE,
        # Family B, of the platform.
        **dict.fromkeys(("request_timeout", "startup_timeout"), _NOT_STARTED),
        "internal_error": _RISKY,
        **dict.fromkeys(("client_disconnected", "client_cancelled"), Ruling(FailureKind.CANCELLED)),
        "bad_request": Ruling(FailureKind.BAD_REQUEST),
    },
    # Every model has its own schema: another may take these.
    portable=frozenset(
        {"size", "n", "seconds", "aspect_ratio", "resolution", "output_format", "negative_prompt", "quality"}
    ),
    quota_words=re.compile(r"exhausted balance|user is locked|insufficient[ _](balance|credits?|funds)", re.IGNORECASE),
)
# Families of types of which no list is printed.
_PATTERNS = (
    (re.compile(r"unsupported_\w+_format"), Ruling(FailureKind.UNSUPPORTED)),
    (re.compile(r"runner_\w+"), _RISKY),
)
# While nothing was queued there is no job that could have failed, or been cancelled by us.
_AT_SUBMIT = {
    FailureKind.JOB_FAILED: Ruling(FailureKind.SERVER_ERROR),
    FailureKind.CANCELLED: Ruling(FailureKind.UNKNOWN),
}


class Adapter:
    """The queue at `base_url`."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Put the job into the queue; the answer is its id and the URLs of its status, result and cancel."""
        body = fal_inputs.build_body(job)
        if isinstance(body, Fail):
            return body
        wake = "" if job.callback_url is None else f"?fal_webhook={quote(job.callback_url, safe='')}"
        url = f"{_root(job)}/{quote(job.model.strip('/'), safe='/')}{wake}"
        reply = await call(Request("POST", url, _headers(job), body, max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        handle = read_handle(reply)
        if handle is not None:
            return Pending(handle)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the status and, once that is `COMPLETED`, the result, whose own status says whether it is one."""
        url = _url_of(handle, job, "status_url", "/status")
        said = jobs.hear(await call(Request("GET", url, _headers(job), max_reply_bytes=REPLY_BYTES)), job)
        if isinstance(said, Trouble | Missing):
            return said
        if said["status"] != "COMPLETED":
            return Pending(handle)  # "IN_QUEUE", "IN_PROGRESS", and any word to come
        url = _url_of(handle, job, "response_url", "")
        most = RESULT_BYTES_PER_OUTPUT * (1 + max(1, min(job.n, fal_inputs.N_MAX)))
        return read_result(await call(Request("GET", url, _headers(job), max_reply_bytes=most)), said, job)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Ask to cancel. 202 says that it was asked for: a running job may still finish, so the job tells its end."""
        url = _url_of(handle, job, "cancel_url", "/cancel")
        reply = await call(Request("PUT", url, _headers(job), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken) or reply.status // 100 != 2:
            return None  # 400 ALREADY_COMPLETED: the result is kept
        ended = await self.poll(handle, job, call)
        return ended if isinstance(ended, Fail) else None

    def verify(self, delivery: Delivery) -> bool:
        """Tell whether fal signed this within the last 300 s (vendor docs, Webhooks, Verifying)."""
        names = ("request-id", "user-id", "timestamp", "signature")
        values = [delivery.headers.get(f"x-fal-webhook-{name}", "") for name in names]
        *signed, signature = values
        timestamp = signed[-1]
        if not all(values) or not timestamp.isascii() or not timestamp.isdecimal() or len(timestamp) > 12:
            return False
        if abs(delivery.now / 1000 - int(timestamp)) > WEBHOOK_TOLERANCE_S:
            return False
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            return False
        message = "\n".join([*signed, sha256(delivery.body).hexdigest()])
        return key_sets.is_signed(message.encode(errors="surrogateescape"), raw, delivery.keys)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer to a submit that accepts nothing means; the parameters are those of every adapter.

    Nothing was queued, so that nothing ran: the bill is that of the contract, unless `x-fal-billable-units` says more.
    """
    said = read_error(status, headers, body)
    ruling = judge_type(said, headers) or failures.judge(said, DIALECT)
    ruling = _AT_SUBMIT.get(ruling.kind, ruling)
    billed = bill(headers)
    if billed is None and ruling.kind is FailureKind.REFUSED:
        billed = Billed.UNKNOWN  # "absent on 4xx: maybe billed"
    if billed is not None:
        ruling = replace(ruling, billed=billed)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(_body: Any) -> Usage:
    """Report nothing: fal counts units whose price it does not tell."""
    return Usage()


def bill(headers: Mapping[str, str]) -> Billed | None:
    """Read `x-fal-billable-units`: 0 is free, more is billed; None where the answer does not say."""
    try:
        units = float(headers.get("x-fal-billable-units", ""))
    except ValueError:
        return None
    if units > 0:
        return Billed.YES
    return Billed.NO if units == 0 else None


def judge_type(said: Said, headers: Mapping[str, str]) -> Ruling | None:
    """Decide by the error's type, and where that is a soft refusal, by `X-Fal-Retryable`; None for an unknown one."""
    if said.code == "no_media_generated" and headers.get("x-fal-retryable", "").strip().lower() == "true":
        return Ruling(FailureKind.JOB_FAILED)
    matching = (ruling for pattern, ruling in _PATTERNS if pattern.fullmatch(said.code))
    return DIALECT.codes.get(said.code) or next(matching, None)


def read_error(status: int, headers: Mapping[str, str], body: Any) -> Said:
    """Read an error of either family: the entries of a model's `detail`, or the platform's text and `error_type`."""
    whole = as_object(body)
    detail = whole.get("detail")
    if isinstance(detail, list) and detail:
        message, names = failures.read_detail(detail)
        params = [fal_inputs.OUR_NAMES.get(name, name) for name in names]
        # Of several fields at fault, one that no other model would take either decides.
        fixed = [param for param in params if param not in DIALECT.portable]
        kind = as_word(as_object(detail[0]).get("type"))
        return Said(status, own=True, code=kind, param=next(iter([*fixed, *params]), None), message=message)
    code = as_word(whole.get("error_type")) or as_word(headers.get("x-fal-error-type"))
    message = as_text(detail) or as_text(whole.get("error")) or as_text(whole.get("message"))
    if code or message:
        return Said(status, own=True, code=code, message=message)
    return failures.read_foreign(status, body)


def read_handle(reply: Reply) -> Handle | None:
    """Read the id and the URLs of what was queued; None when nothing was.

    An id counts under 5xx, too: a server error is free only where no job id came with it (contract 6).
    """
    body = as_object(reply.data)
    remote_id = jobs.read_id(body.get("request_id"))
    if reply.status // 100 not in {2, 5} or not remote_id:
        return None
    urls = {name: body[name] for name in URLS if isinstance(body.get(name), str)}
    return Handle(remote_id, {name: url for name, url in urls.items() if len(url) <= addresses.URL_CHARS})


# -- the result -------------------------------------------------------------------------------------------------------

# Such an answer to the read of a result may be about this read rather than about the job, and is asked for again.
_OF_THE_READ = frozenset({401, 402, 403, 408, 429})


def read_result(reply: Reply | Broken, completed: Mapping[str, Any], job: Job) -> Polled:
    """Read what the result of a completed job is: outputs, an error of the job, or no word about it.

    `completed` is the status, which may say an `error` and an `error_type`, too.
    """
    if isinstance(reply, Broken):
        return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
    body = failures.body_of(reply)
    said = read_error(reply.status, reply.headers, body)
    known_to_fail = bool(completed.get("error") or completed.get("error_type"))
    if reply.status // 100 == 2:
        if not isinstance(reply.data, dict):
            return _trouble(reply, job)
        kept, flagged = read_media(reply.data, job.n)
        if kept:
            return Done(kept, usage(reply.data), http_status=reply.status)
        if flagged:
            message = "the safety checker flagged what was made (has_nsfw_concepts)"
            return jobs.end(FailureKind.REFUSED, job, status=reply.status, message=message, billed=Billed.YES)
        known_to_fail = known_to_fail or said.own
        if not known_to_fail:
            return jobs.end(FailureKind.UNUSABLE, job, status=reply.status, code="COMPLETED")
    if known_to_fail and not said.code:
        message = as_text(completed.get("error")) or said.message
        said = Said(reply.status, own=True, code=as_word(completed.get("error_type")), message=message)
    elif not _is_about_job(said, reply):
        if reply.status in jobs.UNKNOWN_IDS:
            return Missing("the queue does not know the job's result")
        return _trouble(reply, job)
    return failures.tell(said, _judge_end(said, reply.headers), secret=job.credential)


def read_media(body: Mapping[str, Any], at_most: int) -> tuple[tuple[Media, ...], bool]:
    """Read the outputs, `images` or `video`, and whether any was left out because the safety checker flagged it."""
    items = body.get("images")
    if not isinstance(items, list):
        items = [body.get(name) for name in ("image", "video") if body.get(name)]
    flags = body.get("has_nsfw_concepts")
    flags = flags if isinstance(flags, list) else [flags] * len(items)
    flags = [flag is True for flag in flags] + [False] * len(items)
    read = [openai_images.read_item(item) for item, flag in zip(items, flags, strict=False) if not flag]
    return tuple(media for media in read if media is not None)[: max(1, at_most)], any(flags)


def _is_about_job(said: Said, reply: Reply) -> bool:
    """Tell an error of the job from one of this read: it has a type, or says what it cost, or is a plain 4xx."""
    if said.code or bill(reply.headers) is not None or "x-fal-retryable" in reply.headers:
        return True
    return said.own and reply.status // 100 == 4 and reply.status not in jobs.UNKNOWN_IDS | _OF_THE_READ


def _judge_end(said: Said, headers: Mapping[str, str]) -> Ruling:
    """Decide how an accepted job ended: as its type says; an unknown one of the provider's making is a failed job.

    What it cost is what the answer says; unsaid, 5xx is free and anything else may have been billed.
    """
    ruling = judge_type(said, headers)
    if ruling is None:
        ruling = failures.judge(said, DIALECT)
        if outcome.FACTS[ruling.kind].fault is outcome.Fault.PROVIDER:
            ruling = Ruling(FailureKind.JOB_FAILED, billed=Billed.NO if said.status // 100 == 5 else Billed.UNKNOWN)
    billed = bill(headers)
    if ruling.kind is FailureKind.UNKNOWN and billed is not None:
        ruling = Ruling(FailureKind.JOB_FAILED)  # the doubt was about the money
    return replace(ruling, billed=billed or ruling.billed or Billed.UNKNOWN)


def _trouble(reply: Reply, job: Job) -> Trouble:
    detail = f"HTTP {reply.status} and no result of the job: {as_text(failures.body_of(reply))}"
    told = outcome.one_line(failures.mask(detail, job.credential))
    return Trouble(told, rest_asked(reply.headers, job.now), refused=reply.status in {401, 403})


# -- parts ------------------------------------------------------------------------------------------------------------


def _url_of(handle: Handle, job: Job, name: str, end: str) -> str:
    """Choose a URL of the job: the one given, if it is fal's own; else it is built from the model's first two words."""
    given = handle.fields.get(name, "")
    if addresses.belongs_to(given, job.base_url):
        return given
    app = "/".join(quote(word, safe="") for word in job.model.strip("/").split("/")[:2])
    return f"{_root(job)}/{app}/requests/{quote(handle.remote_id, safe='')}{end}"


def _root(job: Job) -> str:
    return job.base_url.rstrip("/")


def _headers(job: Job) -> dict[str, str]:
    return {"Authorization": f"Key {job.credential}", "Accept": "application/json"}
