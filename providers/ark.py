"""Volcengine and BytePlus Ark: Seedream pictures, answered at once, and Seedance films, made by a task that is polled.

The kind of a job decides the surface, as a model may be an endpoint id (`ep-...`) that tells nothing. A picture of a
series may be refused while the others are delivered: `data` then holds an error in its place. Refused and failed work
is not billed. There is no idempotency key; a task can be cancelled while it is queued, and only then, because the same
call deletes the record of a finished one. Result URLs live 24 hours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs, openai_images
from providers.formats.failures import TARGET_OUT, Dialect, Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.geometry import TIERS, Sizes, ratio_of, resolution_of
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    REST_MAX_S,
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
TASKS = "contents/generations/tasks"

_GENERATES = frozenset({Kind.IMAGE_GENERATION})
_PICTURES = _GENERATES | {Kind.IMAGE_EDIT}
_FILMS = frozenset({Kind.VIDEO_GENERATION})
_FRAMES = frozenset({Role.FIRST_FRAME, Role.LAST_FRAME})
_RATIOS = frozenset({"16:9", "4:3", "1:1", "3:4", "9:16", "21:9"})
_RESOLUTIONS = frozenset({"480p", "720p", "1080p"})

_IMAGE_FIELDS = frozenset(
    {"prompt", "n", "size", "watermark", "output_format", "optimize_prompt_options", "tools", "layer_decomposition"}
)
_OLD_IMAGE_FIELDS = frozenset({"prompt", "n", "size", "watermark", "seed", "guidance_scale"})
_FILM_FIELDS = frozenset(
    {"prompt", "n", "size", "seconds", "aspect_ratio", "resolution", "seed", "watermark", "generate_audio"}
    | {"camera_fixed", "service_tier", "execution_expires_after", "frames"}
)
_AUTO = frozenset({"auto"})
# "WxH" goes out as it is. Its limits are not printed; "4K" is the largest word.
_IMAGE_SIZES = Sizes(named=_AUTO, max_side=16 << 10, max_pixels=TIERS["4K"])
# What "model dependent" means is known for the priced models only; an endpoint id may be any.
_FILM_SIZES = Sizes(named=_AUTO, ratios=_RATIOS, resolutions=_RESOLUTIONS | {"4k"})


def _film(resolutions: frozenset[str], max_images: int) -> Abilities:
    sizes = Sizes(named=_AUTO, ratios=_RATIOS, resolutions=resolutions)
    return Abilities(_FILMS, 1, sizes, _FILM_FIELDS, max_images, _FRAMES, takes_urls=True)


_MODELS = {
    "seedream-*": Abilities(_PICTURES, 15, _IMAGE_SIZES, _IMAGE_FIELDS, max_images=10, takes_urls=True),
    # "Older models only": seed and guidance_scale. Series and reference images came with the fourth.
    "seedream-3-*": Abilities(_GENERATES, 1, _IMAGE_SIZES, _OLD_IMAGE_FIELDS),
    "seedance-*": _film(_RESOLUTIONS, 4),
    "seedance-2*": _film(_RESOLUTIONS | {"4k"}, 9),
}

FACTS = AdapterFacts(
    slug="ark",
    base_url="https://ark.cn-beijing.volces.com/api/v3",
    # The same models have other names in China and abroad.
    abilities={
        **_MODELS,
        **{f"doubao-{name}": abilities for name, abilities in _MODELS.items()},
        # An endpoint id: what stands behind it is the operator's choice, and takes every field as it came.
        "*": Abilities(_PICTURES | _FILMS, max_images=10, roles=_FRAMES, takes_urls=True),
    },
    refusals_free=True,
    cancels=True,
    polls_every_s=3.0,
    probes=True,
    lacks={
        "chat": "an adapter of media",
        "webhook": "callbacks are not signed",
        "streaming": "what is streamed is the finished pictures of a series, no previews",
    },
)

_ACCOUNT = Ruling(FailureKind.ACCOUNT)
_THROTTLED = Ruling(FailureKind.THROTTLED)
_REFUSED = Ruling(FailureKind.REFUSED, billed=Billed.NO)
_UNSUPPORTED = Ruling(FailureKind.UNSUPPORTED)

_REFUSALS = re.compile(
    r"(Input|Output)?(Text|Image|Video|Audio)?SensitiveContentDetected(\..*)?|(Input|Output)(Text|Image)RiskDetection"
)
# Codes have variants behind a dot; the first pattern that takes the whole code decides.
_RULES: tuple[tuple[re.Pattern[str], Ruling], ...] = (
    (_REFUSALS, _REFUSED),
    # The checker itself failed: neither refused nor billed.
    (re.compile(r"ContentSecurityDetectionError"), Ruling(FailureKind.SERVER_ERROR)),
    (re.compile(r"InvalidEndpoint\.ClosedEndpoint|InvalidSubscription"), _ACCOUNT),
    (re.compile(r"AuthenticationError|InvalidAccountStatus"), _ACCOUNT),
    (re.compile(r"AccountOverdueError|AccessDenied|OperationDenied\..*"), _ACCOUNT),
    (re.compile(r"InvalidEndpointOrModel\..*|ModelNotOpen|UnsupportedModel"), TARGET_OUT),
    # A file that the caller names; a task that is not known is heard by polls only, and a path is ours.
    (re.compile(r"NotFound\.File"), Ruling(FailureKind.BAD_REQUEST)),
    (re.compile(r"SetLimitExceeded"), _ACCOUNT),
    (re.compile(r"ServerOverloaded|ModelLoadingError"), Ruling(FailureKind.OVERLOADED)),
    (re.compile(r".*RateLimitExceeded(\..*)?|RequestBurstTooFast|InflightBatchsizeExceeded"), _THROTTLED),
    (re.compile(r"InternalServiceError"), Ruling(FailureKind.SERVER_ERROR)),
    (re.compile(r"InvalidParameter\.UnsupportedParameter"), _UNSUPPORTED),
)
# QuotaExceeded means three things, told apart by its message only; else too many tasks wait.
_QUOTA_OUT = re.compile(r"free trial quota|usage quota", re.IGNORECASE)
_RESET = re.compile(r"reset at (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d) ?(Z|[+-]\d\d:?\d\d)", re.IGNORECASE)
_PARAM = re.compile(r"(?:Missing|Invalid)Parameter\.([a-z][a-z_]*)")
_JOB_REFUSALS = re.compile("sensitive|risk", re.IGNORECASE)

DIALECT = Dialect(portable=frozenset({"size", "seconds", "aspect_ratio", "resolution", "output_format"}))
# What the caller called otherwise.
_OUR_NAMES = {"ratio": "size", "duration": "seconds"}


class Adapter:
    """Pictures and films at `base_url`, which ends in /api/v3."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Ask for the pictures, or hand in the task of a film."""
        if job.kind not in _PICTURES | _FILMS:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        is_film = job.kind in _FILMS
        url = f"{_root(job.base_url)}/{TASKS if is_film else 'images/generations'}"
        body = build_task(job) if is_film else build_pictures(job)
        if isinstance(body, Fail):
            return body
        reply = await call(Request("POST", url, _headers(job.credential), body, max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        taken = _read_task(reply) if is_film else _read_pictures(reply, job)
        if taken is not None:
            return taken
        said = read_error(reply.status, reply.data)
        if not is_film and said.code == "InternalServiceError":
            # "RETRY_FREE before any id; for images RETRY_RISK": the pictures may have been made.
            return failures.tell(said, Ruling(FailureKind.UNKNOWN), secret=job.credential)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the task of a film; a status that is not known counts as still at work."""
        reply = await call(_ask(handle, job, "GET"))
        body = jobs.hear(reply, job)
        return body if isinstance(body, Trouble | Missing) else _judge(handle, job, body)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Delete the task while it is queued: a finished one would lose its record, which leads to what was paid for.

        Whatever ends it shows when it is read again; if it is gone, polling finds that out.
        """
        seen = jobs.hear(await call(_ask(handle, job, "GET")), job)
        if isinstance(seen, Trouble | Missing) or seen["status"] != "queued":
            return None
        reply = await call(_ask(handle, job, "DELETE"))
        if isinstance(reply, Broken) or reply.status // 100 != 2:
            return None
        ended = await self.poll(handle, job, call)
        return ended if isinstance(ended, Fail) else None

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """List one task of the last days, which costs nothing."""
        url = f"{_root(account.base_url)}/{TASKS}?page_num=1&page_size=1"
        reply = await call(Request("GET", url, _headers(account.credential), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=account.credential)
        if reply.status // 100 == 2 and isinstance(reply.data, dict):
            return None
        body = failures.body_of(reply)
        return fail(reply.status, reply.headers, body, now=account.now, secret=account.credential)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that delivers and accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    rest_s = rest_asked(headers, now)
    ruling = _rule(said)
    if rest_s is None and ruling.kind is FailureKind.ACCOUNT:
        rest_s = _read_reset(said.message, now)
    if ruling.kind is FailureKind.UNUSABLE and as_object(as_object(body).get("usage")).get("generated_images") == 0:
        # What is billed is `usage.generated_images`.
        ruling = Ruling(FailureKind.JOB_FAILED, billed=Billed.NO)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_s)


def usage(body: Any) -> Usage:
    """Read the tokens of pictures (`output_tokens`) or of a film (`completion_tokens`)."""
    told = as_object(as_object(body).get("usage"))
    return Usage(output_tokens=_count(told.get("output_tokens", told.get("completion_tokens"))))


def read_error(status: int, body: Any) -> Said:
    """Read `{"error": {code, message, param, type}}`, of the whole answer or of its first picture that has one."""
    whole = as_object(body)
    data = whole.get("data")
    entries = [whole, *(as_object(entry) for entry in data[:20])] if isinstance(data, list) else [whole]
    error = next((entry["error"] for entry in entries if isinstance(entry.get("error"), dict) and entry["error"]), None)
    if error is None:
        return failures.read_foreign(status, body)
    code = as_word(error.get("code"))
    in_code = _PARAM.fullmatch(code)
    param = as_word(error.get("param")) or (in_code[1] if in_code is not None else "")
    named = _OUR_NAMES.get(param, param) or None
    return Said(
        status,
        own=True,
        code=code,
        type=as_word(error.get("type")),
        param=named,
        message=as_text(error.get("message")),
    )


# -- what is asked ----------------------------------------------------------------------------------------------------


def build_pictures(job: Job) -> dict[str, Any]:
    """Build the body of a picture: "there is no `n`: use sequential_image_generation"."""
    skipped = {
        *("n", "stream", "response_format", "quality", "model", "image"),
        *("sequential_image_generation", "sequential_image_generation_options"),
    }
    # Unsaid, a mark is put into the picture; no other provider does so.
    body: dict[str, Any] = {"model": job.model, "watermark": False, "response_format": "url"}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in skipped}
    if body.get("size") == "auto":
        del body["size"]
    if job.n > 1:
        body["sequential_image_generation"] = "auto"
        body["sequential_image_generation_options"] = {"max_images": job.n}
    images: list[str | Inline] = [place(source) for source in job.files_of(Role.IMAGE)]
    if images:
        body["image"] = images if len(images) > 1 else images[0]
    return body


def build_task(job: Job) -> dict[str, Any] | Fail:
    """Build the body of a film: the prompt and the pictures as parts of `content`, the rest beside it.

    A `Fail` when the size is none that can be said, before anything is paid.
    """
    skipped = {
        *("prompt", "n", "size", "seconds", "aspect_ratio", "stream", "response_format", "quality"),
        *("model", "content", "callback_url"),
    }
    body: dict[str, Any] = {"model": job.model, "content": _contents(job), "watermark": False}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in skipped}
    ratio, size, seconds = job.input.get("aspect_ratio"), job.input.get("size"), job.input.get("seconds")
    if ratio is not None:
        body["ratio"] = ratio
    if isinstance(size, str) and size != "auto":
        sizes = FACTS.of_model(job.model).sizes or _FILM_SIZES
        shape, resolution = ratio_of(size, sizes.ratios), resolution_of(size, sizes.resolutions)
        if shape is None or resolution is None:
            return outcome.fail(
                FailureKind.UNSUPPORTED, "no shape and resolution of Seedance has this size", param="size"
            )
        body |= {"ratio": shape, "resolution": resolution}
    if isinstance(seconds, int) or (isinstance(seconds, str) and seconds.isascii() and seconds[:5].isdecimal()):
        body["duration"] = int(str(seconds)[:5])
    return body


def _contents(job: Job) -> list[dict[str, Any]]:
    prompt = job.input.get("prompt")
    parts: list[dict[str, Any]] = [] if prompt is None else [{"type": "text", "text": prompt}]
    words = ((Role.FIRST_FRAME, "first_frame"), (Role.LAST_FRAME, "last_frame"), (Role.IMAGE, "reference_image"))
    parts += [
        {"type": "image_url", "image_url": {"url": place(source)}, "role": word}
        for role, word in words
        for source in job.files_of(role)
    ]
    return parts


# -- what is answered -------------------------------------------------------------------------------------------------


def _read_pictures(reply: Reply, job: Job) -> Done | None:
    """Take the pictures that are there: one of a series may be an error."""
    if reply.status // 100 != 2:
        return None
    media = openai_images.read_media(reply.data, job.n)
    return Done(media, usage(reply.data), http_status=reply.status) if media else None


def _read_task(reply: Reply) -> Pending | None:
    task_id = jobs.read_id(as_object(reply.data).get("id"))
    if reply.status // 100 != 2 or not task_id:
        return None
    return Pending(Handle(task_id))


def _judge(handle: Handle, job: Job, body: Mapping[str, Any]) -> Done | Pending | Fail:
    """Translate the status of a task, of which "only success is billed"."""
    code, _, message = jobs.read_reason(body)
    match body["status"]:
        case "succeeded":
            url = as_object(body.get("content")).get("video_url")
            if isinstance(url, str) and url.startswith(("https://", "http://")):
                return Done((Media(url=url),), usage(body), http_status=200)
            return jobs.end(FailureKind.UNUSABLE, job, status=200, code="succeeded", message="no film")
        case "failed":
            ending = FailureKind.REFUSED if _JOB_REFUSALS.search(code) else FailureKind.JOB_FAILED
            return jobs.end(ending, job, status=200, code=code or "failed", message=message, billed=Billed.NO)
        case "expired":
            # Not done within `execution_expires_after`.
            return jobs.end(FailureKind.JOB_FAILED, job, status=200, code="expired", billed=Billed.NO)
        case "cancelled":
            return jobs.end(FailureKind.CANCELLED, job, status=200, code="cancelled", billed=Billed.NO)
        case _:
            return Pending(handle)


def _rule(said: Said) -> Ruling:
    """Decide by the code, by the message where a code has several meanings, else as for every provider."""
    if said.code == "QuotaExceeded":
        return _ACCOUNT if _QUOTA_OUT.search(said.message) else _THROTTLED
    for pattern, ruling in _RULES:
        if pattern.fullmatch(said.code):
            return ruling
    return failures.judge(said, DIALECT)


def _read_reset(message: str, now: int) -> float | None:
    """Read when a quota comes back, in seconds from now, at most an hour; a time without a zone tells nothing."""
    found = _RESET.search(message)
    if found is None:
        return None
    try:
        when = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3].upper()}")
    except ValueError:
        return None
    seconds = when.timestamp() - now / 1000
    return min(seconds, REST_MAX_S) if seconds > 0 else None


# -- parts ------------------------------------------------------------------------------------------------------------


def _ask(handle: Handle, job: Job, method: str) -> Request:
    url = f"{_root(job.base_url)}/{TASKS}/{quote(handle.remote_id, safe='')}"
    return Request(method, url, _headers(job.credential), max_reply_bytes=REPLY_BYTES)


def _root(base_url: str) -> str:
    return f"{base_url.rstrip('/').removesuffix('/api/v3')}/api/v3"


def _headers(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}", "Accept": "application/json"}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_MAX else None
