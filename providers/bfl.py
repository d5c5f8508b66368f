"""Black Forest Labs, FLUX: a POST that accepts a job, then polls of the URL that came with it.

One picture per job. The reply to the POST names its `polling_url`, often on a regional host, and only that URL is sure
to know the job (BFL API docs, Get result). Statuses are exact words with spaces. Refusals are not charged; `cost` is in
credits of one US cent. There is no cancel, no list and no idempotency key. The result URL lives ten minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from providers.formats import addresses, failures, jobs
from providers.formats.failures import Dialect, Said, as_object, as_text
from router import outcome
from router.geometry import Sizes, parse_size
from router.money import NANOS_MAX
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    REST_MAX_S,
    Abilities,
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
    rest_asked,
)

NANOS_PER_CREDIT = Decimal(10_000_000)  # "1 credit = $0.01"
REPLY_BYTES = 1 << 20
FORMATS = ("jpeg", "png")

_GENERATES = frozenset({Kind.IMAGE_GENERATION})
_EDITS = frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT})
INPUTS_MAX = 8  # input_image, input_image_2 .. input_image_8: a URL or base64
_PLAIN = frozenset({"prompt", "n", "seed", "safety_tolerance", "output_format"})
_INPUT_IMAGES = frozenset({"input_image", *(f"input_image_{number}" for number in range(2, 9))})
_STEPS = frozenset({"prompt_upsampling", "steps", "guidance"})
_PROMPT_IMAGE = frozenset({"image_prompt", "image_prompt_strength"})

_AUTO = frozenset({"auto"})
# FLUX.2: "multiple of 16, at least 64, product up to 4 MP", and 2048x2048 is what 4 MP means.
_FLUX_2_SIZES = Sizes(named=_AUTO, multiple=16, min_side=64, max_side=(4 << 20) // 64, max_pixels=4 << 20)
# FLUX1.1 pro and FLUX.1 dev: "256-1440, multiple of 32".
_FLUX_1_SIZES = Sizes(named=_AUTO, multiple=32, min_side=256, max_side=1440)
# These take an aspect ratio and choose the pixels themselves.
_NO_SIZES = Sizes(named=_AUTO)

FACTS = AdapterFacts(
    slug="bfl",
    base_url="https://api.bfl.ai",
    abilities={
        "flux-2-*": Abilities(
            _EDITS,
            sizes=_FLUX_2_SIZES,
            fields=_PLAIN | _INPUT_IMAGES | {"size"},
            max_images=INPUTS_MAX,
            takes_urls=True,
        ),
        "flux-2-flex": Abilities(
            _EDITS,
            sizes=_FLUX_2_SIZES,
            fields=_PLAIN | _INPUT_IMAGES | _STEPS | {"size"},
            max_images=INPUTS_MAX,
            takes_urls=True,
        ),
        "flux-kontext-*": Abilities(
            _EDITS,
            sizes=_NO_SIZES,
            fields=_PLAIN | _INPUT_IMAGES | {"aspect_ratio", "prompt_upsampling"},
            max_images=INPUTS_MAX,
            takes_urls=True,
        ),
        "flux-pro-1.1": Abilities(
            _GENERATES, sizes=_FLUX_1_SIZES, fields=_PLAIN | {"size", "prompt_upsampling", "image_prompt"}
        ),
        "flux-pro-1.1-ultra": Abilities(
            _GENERATES, sizes=_NO_SIZES, fields=_PLAIN | _PROMPT_IMAGE | {"aspect_ratio", "raw"}
        ),
        "flux-dev": Abilities(_GENERATES, sizes=_FLUX_1_SIZES, fields=_PLAIN | _STEPS | {"size", "image_prompt"}),
        # Fill and expand need an image to work on; they make nothing from a prompt alone.
        "flux-pro-1.0-*": Abilities(frozenset(), sizes=_NO_SIZES),
        "*": Abilities(
            _GENERATES,
            fields=_PLAIN | _INPUT_IMAGES | _STEPS | _PROMPT_IMAGE | {"size", "aspect_ratio", "raw"},
        ),
    },
    refusals_free=True,
    polls_every_s=2.0,
    lacks={
        "video": "pictures only",
        "chat": "pictures only",
        "cancel": "there is none",
        "webhook": "its HMAC could not be verified from the documentation",
        "streaming": "jobs are polled",
        "probe": "GET /v1/credits is listed and could not be verified",
    },
)

DIALECT = Dialect(
    # Only the values of these depend on the model; see `_OUR_NAMES`.
    portable=frozenset({"size", "safety_tolerance"}),
    # 402 is "out of credits"; 429 is 24 active tasks, unless it says this.
    quota_words=re.compile(r"(insufficient|out of|no) credits", re.IGNORECASE),
)

# What the caller called by one name goes out under two.
_OUR_NAMES = {"width": "size", "height": "size"}


class Adapter:
    """The FLUX API at `base_url`, global or regional."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Hand in the job; the answer is an id and where to poll it."""
        body = build_body(job)
        if isinstance(body, Fail):
            return body
        url = f"{_root(job.base_url)}/v1/{quote(job.model, safe='')}"
        reply = await call(Request("POST", url, _headers(job), body, max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        handle = read_handle(reply)
        if handle is not None:
            return Pending(handle)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after the job where the upstream said to. Whatever is no word about the job is `Trouble`."""
        reply = await call(Request("GET", _polling_url(handle, job), _headers(job), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
        if reply.status in {404, 410}:
            return _miss(handle, job)
        if reply.status // 100 == 2 and isinstance(as_object(reply.data).get("status"), str):
            return _judge_job(handle, job, reply)
        detail = f"HTTP {reply.status} and no status of the job: {as_text(failures.body_of(reply))}"
        after_s = rest_asked(reply.headers, job.now)
        told = outcome.one_line(failures.mask(detail, job.credential))
        return Trouble(told, after_s, refused=reply.status in {401, 403})

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel, and the job is heard to its end."""


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer to a submit that accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    rest_s = rest_asked(headers, now)
    if rest_s is None:
        rest_s = _seconds(as_object(body).get("retry_after"))  # Retry-After is not documented as a header
    return failures.tell(said, failures.judge(said, DIALECT), secret=secret, rest_s=rest_s)


def usage(_body: Any) -> Usage:
    """Report nothing: FLUX has no tokens. What a job cost is in `cost`."""
    return Usage()


def cost(body: Any) -> int | None:
    """Read the cost in nano-USD, None when it is absent, null or no amount (older models leave it out)."""
    value = as_object(body).get("cost")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        nanos = Decimal(str(value)) * NANOS_PER_CREDIT
        return int(nanos.to_integral_value()) if 0 <= nanos <= NANOS_MAX else None
    except (ArithmeticError, ValueError):  # no number, not a number, or one of thousands of digits
        return None


# -- the submit -------------------------------------------------------------------------------------------------------


def build_body(job: Job) -> dict[str, Any] | Fail:
    """Build the JSON body; a `Fail` when what is asked cannot be said in it, before anything is paid."""
    if job.kind not in _EDITS:
        return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
    body = {name: value for name, value in job.input.items() if value is not None and name not in {"n", "size"}}
    for number, source in enumerate(job.files_of(Role.IMAGE), start=1):
        given = source.url if source.url is not None else Inline(source, data_uri=False)
        body["input_image" if number == 1 else f"input_image_{number}"] = given
    size = job.input.get("size")
    if size is not None and size != "auto":
        sides = parse_size(size) if isinstance(size, str) else None
        if sides is None:
            return outcome.fail(FailureKind.UNSUPPORTED, "the size is not of the form WIDTHxHEIGHT", param="size")
        body["width"], body["height"] = sides
    # Unsaid, FLUX makes JPEG and OpenAI's models make PNG. What a caller gets must not depend on which target took it.
    if body.setdefault("output_format", "png") not in FORMATS:
        return outcome.fail(FailureKind.UNSUPPORTED, "FLUX makes png and jpeg", param="output_format")
    return body


def read_handle(reply: Reply) -> Handle | None:
    """Read the id and where to poll it; None when nothing was accepted.

    An id counts under 5xx, too: a server error is free only "when no id was returned".
    """
    body = as_object(reply.data)
    remote_id, url = jobs.read_id(body.get("id")), body.get("polling_url")
    if reply.status // 100 not in {2, 5} or not remote_id:
        return None
    fields: dict[str, str] = {}
    if isinstance(url, str) and len(url) <= addresses.URL_CHARS:
        fields["polling_url"] = url
    nanos = cost(body)
    if nanos is not None:
        fields["cost_nanos"] = str(nanos)
    return Handle(remote_id, fields)


def read_error(status: int, body: Any) -> Said:
    """Read an error body: FastAPI's `{"detail": ...}`, or `{"error", "message", "retry_after"}`."""
    whole = as_object(body)
    if whole.get("detail"):
        message, names = failures.read_detail(whole["detail"])
        params = [_OUR_NAMES.get(name, name) for name in names]
        # Of several fields at fault, one that no other provider would take either decides.
        fixed = [param for param in params if param not in DIALECT.portable]
        return Said(status, own=True, param=next(iter([*fixed, *params]), None), message=message)
    if whole.get("error"):
        message = as_text(whole.get("message")) or as_text(whole["error"])
        return Said(status, own=True, code=failures.as_word(whole["error"]), message=message)
    return failures.read_foreign(status, body)


# -- the poll ---------------------------------------------------------------------------------------------------------


def _judge_job(handle: Handle, job: Job, reply: Reply) -> Polled:
    """Translate the status of the job, by its exact text."""
    body = as_object(reply.data)
    reported = cost(body)
    if reported is None and "cost_nanos" in handle.fields:
        reported = int(handle.fields["cost_nanos"])  # said when the job was accepted
    status = body["status"]
    said = Said(reply.status, own=True, code=failures.as_word(status), message=_explain(body))
    match status:
        case "Ready":
            sample = as_object(body.get("result")).get("sample")
            if isinstance(sample, str) and sample.startswith(("https://", "http://")):
                return Done((Media(url=sample),), usage(body), reported, reply.status)
            return _end(said, FailureKind.UNUSABLE, job, cost_nanos=reported)
        case "Request Moderated" | "Content Moderated":
            # The input, or the output. "Not charged."
            return _end(said, FailureKind.REFUSED, job, billed=Billed.NO)
        case "Error" if body.get("error") == "content_policy_violation":
            return _end(said, FailureKind.REFUSED, job, billed=Billed.NO)
        case "Error":
            # Whether a failed job is charged is not documented.
            return _end(said, FailureKind.JOB_FAILED, job)
        case "Task not found":
            return _miss(handle, job)
        case _:
            # "Pending", and any word to come: the job lives until it says otherwise.
            return Pending(handle, _percent(body.get("progress")))


def _end(
    said: Said, kind: FailureKind, job: Job, *, billed: Billed | None = None, cost_nanos: int | None = None
) -> Fail:
    ruling = failures.Ruling(kind, billed=billed)
    return failures.tell(said, ruling, secret=job.credential, cost_nanos=cost_nanos)


def _miss(handle: Handle, job: Job) -> Pending | Missing:
    """Report a job that is not known. The first time counts as still pending.

    "Right after submit treat as Pending for about 10 s": with that, the three misses that are believed end at about
    10 s instead of 6. An adapter has no clock; the mark goes along in the handle.
    """
    if "missed" not in handle.fields:
        return Pending(replace(handle, fields={**handle.fields, "missed": "1"}))
    if _polling_url(handle, job) != handle.fields.get("polling_url"):
        return Missing("Task not found, at base_url: the submit named no polling_url that may be called with the key")
    return Missing("Task not found")


def _polling_url(handle: Handle, job: Job) -> str:
    """Choose the URL to poll: the one given, if it is the provider's own; else the documented one at base_url."""
    given = handle.fields.get("polling_url", "")
    if addresses.belongs_to(given, job.base_url):
        return given
    return f"{_root(job.base_url)}/v1/get_result?id={quote(handle.remote_id, safe='')}"


def _explain(body: Mapping[str, Any]) -> str:
    """Gather what a status says about itself: `details`, or `error` and `message`."""
    parts = (as_text(body.get(name)) for name in ("details", "error", "message"))
    return "; ".join(part for part in parts if part)


def _percent(progress: Any) -> int | None:
    """Turn 0.0 to 1.0 into 0 to 100."""
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 1:
        return None
    return int(progress * 100)


# -- parts ------------------------------------------------------------------------------------------------------------


def _root(base_url: str) -> str:
    return base_url.rstrip("/").removesuffix("/v1")


def _headers(job: Job) -> dict[str, str]:
    return {"x-key": job.credential, "Accept": "application/json"}


def _seconds(value: Any) -> float | None:
    """Accept a positive number of seconds, at most an hour."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return float(min(value, REST_MAX_S))
