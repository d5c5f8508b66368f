"""Replicate: a POST that starts a prediction, then polls of the URL that came with it.

Two addresses make predictions: official models are called by `owner/name`, all others by a version (64 hex digits, or
`owner/name:hash`). What a model takes is its own schema; known here are the families whose pages were read, and
whatever else a caller says goes into `input` as it came. A reply that hides its `version` is that of an official
model, which is paid for on success only; others are paid by running time, failures too, and no amount is reported.
There is a cancel, a signed webhook and a list, but no idempotency key. Results live one hour.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from providers.formats import addresses, failures, jobs
from providers.formats.failures import Dialect, Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.geometry import Sizes, ratio_of, resolution_of
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    REST_MAX_S,
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Delivery,
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

REPLY_BYTES = 64 << 20  # a prediction repeats its input, and outputs may be data URIs
OUTPUTS_MAX = 64
SIGNED_WITHIN_S = 300

_PICTURES = frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT})
_FILMS = frozenset({Kind.VIDEO_GENERATION})
_FRAMES = frozenset({Role.FIRST_FRAME, Role.LAST_FRAME})
_FLUX_RATIOS = frozenset({"1:1", "16:9", "9:16", "3:2", "2:3", "4:3", "3:4", "4:5", "5:4", "21:9", "9:21"})
_FILM_RATIOS = frozenset({"16:9", "4:3", "1:1", "3:4", "9:16", "21:9"})
_AUTO = frozenset({"auto"})
# FLUX on Replicate takes an `aspect_ratio` and makes about one megapixel.
_FLUX_SIZES = Sizes(named=_AUTO, ratios=_FLUX_RATIOS, tiers=frozenset({"1K"}))
_FILM_SIZES = Sizes(named=_AUTO, ratios=_FILM_RATIOS, resolutions=frozenset({"480p", "720p", "1080p"}))

FACTS = AdapterFacts(
    slug="replicate",
    base_url="https://api.replicate.com",
    # "Input schema is per model": what is not named here takes every field as it came, and no `size`, which would have
    # to be translated into fields that nobody knows.
    abilities={
        "black-forest-labs/flux-kontext-*": Abilities(_PICTURES, sizes=_FLUX_SIZES, max_images=1, takes_urls=True),
        "black-forest-labs/*": Abilities(frozenset({Kind.IMAGE_GENERATION}), sizes=_FLUX_SIZES),
        "bytedance/seedance-*": Abilities(_FILMS, sizes=_FILM_SIZES, roles=_FRAMES, takes_urls=True),
        "bytedance/seedance-2*": Abilities(_FILMS, sizes=_FILM_SIZES, max_images=9, roles=_FRAMES, takes_urls=True),
        "*": Abilities(
            _PICTURES | _FILMS,
            sizes=Sizes(named=_AUTO),
            max_images=1,
            roles=frozenset({Role.MASK, *_FRAMES}),
            takes_urls=True,
        ),
    },
    cancels=True,
    polls_every_s=1.0,  # "0.5 s default in the SDK"
    webhooks=True,
    lacks={
        "chat": "an adapter of media; language models have no one form there",
        "streaming": "what is streamed is the text of language models",
        "probe": "the only read that costs nothing and needs no id is the list of predictions, of any size",
    },
)

# What an error names by a model's own field is what the caller called so.
_OUR_NAMES = {
    "width": "size",
    "height": "size",
    "duration": "seconds",
    "num_outputs": "n",
    "input_image": "image",
    "reference_images": "image",
    "last_frame_image": "last_frame",
    "version": "model",
}
DIALECT = Dialect(
    # The schema is the model's own: another provider may take any of these.
    portable=frozenset(
        {"size", "seconds", "n", "image", "mask", "last_frame", "seed", "quality", "output_format", "style"}
        | {"aspect_ratio", "resolution", "negative_prompt", "background"}
    ),
    quota_words=re.compile(r"insufficient[ _](quota|balance|credits?|funds)", re.IGNORECASE),
)
REFUSAL_WORDS = re.compile(r"nsfw|flagged|sensitive|\bE005\b", re.IGNORECASE)
_RESETS = re.compile(r"resets in ~?(\d{1,6}) ?s", re.IGNORECASE)
_OFFICIAL = re.compile(r"[^/:]+/[^/:]+")


@dataclass(frozen=True, slots=True)
class Names:
    """What a family of models calls its reference images; `as_list`: they stand in a list."""

    image: str = "image"
    as_list: bool = False


_NAMES: tuple[tuple[str, Names], ...] = (
    ("black-forest-labs/flux-kontext-", Names("input_image")),
    ("bytedance/seedance-2", Names("reference_images", as_list=True)),
)
_FRAME_NAMES = {Role.MASK: "mask", Role.FIRST_FRAME: "image", Role.LAST_FRAME: "last_frame_image"}


class Adapter:
    """The predictions API at `base_url`, with or without /v1."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Start a prediction. No `Prefer: wait` is sent: an id in hand is worth more than a held connection."""
        if job.kind not in _PICTURES | _FILMS:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        reply = await call(build_request(job))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        handle = read_handle(reply)
        if handle is None:
            return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)
        return _judge(handle, job, as_object(reply.data), reply.status)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the prediction; a status that is not known counts as still at work."""
        reply = await call(Request("GET", _address(handle, job, "get"), _headers(job), max_reply_bytes=REPLY_BYTES))
        body = jobs.hear(reply, job)
        if isinstance(body, Trouble | Missing):
            return body
        return _judge(handle, job, body, 200)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Cancel the prediction; the answer is the prediction, which may end a moment later: then polling hears it."""
        url = _address(handle, job, "cancel")
        reply = await call(Request("POST", url, _headers(job), max_reply_bytes=REPLY_BYTES))
        body = jobs.hear(reply, job)
        if isinstance(body, Trouble | Missing):
            return None
        ended = _judge(handle, job, body, 200)
        return ended if isinstance(ended, Fail) else None

    def verify(self, delivery: Delivery) -> bool:
        """Check `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, with the base64 behind `whsec_` as the key.

        The header may hold several signatures, of which one must be right. A stamp more than five minutes off is an old
        delivery played again.
        """
        stamp = delivery.headers.get("webhook-timestamp", "")
        name = delivery.headers.get("webhook-id", "")
        key = read_secret(delivery.secret)
        if not key or not name or not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= 12):
            return False
        if abs(delivery.now / 1000 - int(stamp)) > SIGNED_WITHIN_S:
            return False
        signed = b".".join((name.encode("utf-8", "surrogateescape"), stamp.encode(), delivery.body))
        wanted = base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
        told = delivery.headers.get("webhook-signature", "").split()
        given = (one.removeprefix("v1,") for one in told if one.startswith("v1,"))
        return any(hmac.compare_digest(wanted, one.encode("utf-8", "surrogateescape")) for one in given)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    rest_s = rest_asked(headers, now)
    if rest_s is None and status == 429:
        resets = _RESETS.search(said.message)
        rest_s = min(float(resets[1]), REST_MAX_S) if resets is not None and int(resets[1]) else None
    ruling = failures.judge(said, DIALECT)
    if ruling.kind is FailureKind.SERVER_ERROR and status in {500, 502}:
        # "500, 502, 503, 504 on create: RETRY_RISK": the prediction may have been made. (503 is free by contract 6.)
        ruling = Ruling(FailureKind.UNKNOWN)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_s)


def usage(_body: Any) -> Usage:
    """Report nothing: `metrics.predict_time` is seconds of a hardware whose rate is not told."""
    return Usage()


# -- the submit -------------------------------------------------------------------------------------------------------


def build_request(job: Job) -> Request:
    """Build the POST: official models by their name in the path, versions in the body."""
    body: dict[str, Any] = {"input": build_input(job)}
    if _OFFICIAL.fullmatch(job.model):
        owner, _, name = job.model.partition("/")
        url = f"{_root(job)}/models/{quote(owner, safe='')}/{quote(name, safe='')}/predictions"
    else:
        url = f"{_root(job)}/predictions"
        body["version"] = job.model
    if job.callback_url is not None:
        body |= {"webhook": job.callback_url, "webhook_events_filter": ["completed"]}
    return Request("POST", url, _headers(job), body, max_reply_bytes=REPLY_BYTES)


def build_input(job: Job) -> dict[str, Any]:
    """Build the model's `input`: the caller's fields as they came, ours in the words of the family."""
    skipped = {"n", "response_format", "stream", "size", "seconds"}
    built: dict[str, Any] = {name: value for name, value in job.input.items() if value is not None} | _place_files(job)
    size, seconds = built.get("size"), built.get("seconds")
    built = {name: value for name, value in built.items() if name not in skipped}
    if isinstance(size, str) and size != "auto":
        sizes = FACTS.of_model(job.model).sizes or Sizes()
        shape, resolution = ratio_of(size, sizes.ratios), resolution_of(size, sizes.resolutions)
        built |= {} if shape is None else {"aspect_ratio": shape}
        built |= {} if resolution is None else {"resolution": resolution}
    if isinstance(seconds, int) or (isinstance(seconds, str) and seconds.isascii() and seconds[:5].isdecimal()):
        built["duration"] = int(str(seconds)[:5])
    if built.get("output_format") == "jpeg" and job.model.startswith("black-forest-labs/"):
        built["output_format"] = "jpg"
    return built


def read_handle(reply: Reply) -> Handle | None:
    """Read the id and the addresses of a prediction; None when none was made."""
    body = as_object(reply.data)
    remote_id = jobs.read_id(body.get("id"))
    if reply.status // 100 != 2 or not remote_id:
        return None
    urls = as_object(body.get("urls"))
    named = {name: urls.get(name) for name in ("get", "cancel")}
    return Handle(remote_id, {k: v for k, v in named.items() if isinstance(v, str) and len(v) <= addresses.URL_CHARS})


def read_error(status: int, body: Any) -> Said:
    """Read RFC 7807 (`title`, `detail`), the older `{"detail"}`, and which fields were at fault."""
    whole = as_object(body)
    if not (whole.get("detail") or whole.get("title")):
        return failures.read_foreign(status, body)
    detail, names = failures.read_detail(whole.get("detail"))
    told = whole.get("invalid_fields")
    entries = [as_object(entry) for entry in told[:20]] if isinstance(told, list) else []
    fields = [as_word(entry.get("field")).removeprefix("input.") for entry in entries]
    params = [_OUR_NAMES.get(name, name) for name in (*fields, *names) if name]
    # Of several fields at fault, one that no other provider would take either decides.
    fixed = [param for param in params if param not in DIALECT.portable]
    message = "; ".join(
        part
        for part in (as_text(whole.get("title")), detail, *(as_text(e.get("description")) for e in entries))
        if part
    )
    return Said(status, own=True, param=next(iter([*fixed, *params]), None), message=message)


# -- the prediction ---------------------------------------------------------------------------------------------------


def _judge(handle: Handle, job: Job, body: Mapping[str, Any], status: int) -> Done | Pending | Fail:
    """Translate a prediction by its status; who pays for an end without a result goes by what kind of model it is."""
    is_official = body.get("version") == "hidden"
    error = as_text(body.get("error"))
    match body.get("status"):
        case "succeeded":
            media = read_output(body.get("output"))
            if media:
                return Done(media, usage(body), http_status=status)
            gone = body.get("data_removed") is True
            ending = FailureKind.RESULT_LOST if gone else FailureKind.UNUSABLE
            return jobs.end(ending, job, status=status, code="succeeded", message="no output")
        case "failed" if REFUSAL_WORDS.search(error):
            # "Hardware-priced models bill run time, including failures"; official ones "bill on success only".
            billed = Billed.NO if is_official else Billed.YES
            return jobs.end(FailureKind.REFUSED, job, status=status, code="failed", message=error, billed=billed)
        case "failed":
            billed = Billed.NO if is_official else Billed.UNKNOWN
            return jobs.end(FailureKind.JOB_FAILED, job, status=status, code="failed", message=error, billed=billed)
        case "canceled":
            # A cancel "before start" is "free"; later it is "billed for the time used on hardware-priced models".
            billed = Billed.NO if is_official or body.get("started_at", "unsaid") is None else Billed.YES
            return jobs.end(FailureKind.CANCELLED, job, status=status, code="canceled", billed=billed)
        case "aborted":
            # "Cancel-After hit before start; not billed."
            return jobs.end(FailureKind.CANCELLED, job, status=status, code="aborted", billed=Billed.NO)
        case _:
            return Pending(handle)


def read_output(output: Any) -> tuple[Media, ...]:
    """Read `output`, "whatever the model returns": the links and data URIs in a text, a list or an object."""
    return tuple(islice(_links(output, 3), OUTPUTS_MAX))


def read_secret(secret: str) -> bytes:
    """Decode `whsec_<base64>`; empty when it is no such secret, so that nothing is verified."""
    if not secret.startswith("whsec_"):
        return b""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return b""


# -- parts ------------------------------------------------------------------------------------------------------------


def _links(output: Any, depth: int) -> Iterator[Media]:
    match output:
        case str() if output.startswith(("https://", "http://")):
            yield Media(url=output)
        case str() if output.startswith("data:") and ";base64," in output[:200]:
            yield Media(b64=output)
        case list() | dict() if depth:
            for part in output.values() if isinstance(output, dict) else output:
                yield from _links(part, depth - 1)
        case _:
            return


def _place_files(job: Job) -> dict[str, Any]:
    """Say the input files under the names of the model's family."""
    names = next((names for prefix, names in _NAMES if job.model.startswith(prefix)), Names())
    placed: dict[str, str | Inline | list[str | Inline]] = {}
    images = [place(source) for source in job.files_of(Role.IMAGE)]
    if images:
        placed[names.image] = images if names.as_list else images[0]
    for role, name in _FRAME_NAMES.items():
        for source in job.files_of(role):
            placed[name] = place(source)
    return placed


def _address(handle: Handle, job: Job, what: str) -> str:
    """Choose the address to call: the one given, if it is the provider's own, else the documented one at base_url."""
    given = handle.fields.get(what, "")
    if addresses.belongs_to(given, job.base_url):
        return given
    return f"{_root(job)}/predictions/{quote(handle.remote_id, safe='')}{'/cancel' if what == 'cancel' else ''}"


def _root(job: Job) -> str:
    return f"{job.base_url.rstrip('/').removesuffix('/v1')}/v1"


def _headers(job: Job) -> dict[str, str]:
    return {"Authorization": f"Bearer {job.credential}", "Accept": "application/json"}
