"""Veo films by predictLongRunning: a POST that accepts an operation, polls of it, and a file that wants the key.

An operation that is not `done` is at work; a `done` one holds samples, a count of filtered media (a refusal), or an
error with a google.rpc code. Only successful films are charged (Veo, pricing notes). Files are kept two days and are
fetched with the key on Google's host. There is no list by prompt, no cancel and no idempotency key: a lost name is lost
money.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from providers.formats import addresses, failures, google, jobs
from providers.formats.failures import as_object, as_text
from router import outcome
from router.geometry import Sizes, ratio_of, resolution_of
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
    Source,
    Submitted,
    Trouble,
    Usage,
    rest_asked,
)

REPLY_BYTES = 1 << 20
SAMPLES_MAX = 4
REFERENCES_MAX = 3

_KINDS = frozenset({Kind.VIDEO_GENERATION})
_FIELDS = frozenset(
    {"prompt", "n", "seconds", "size", "aspect_ratio", "resolution", "negative_prompt", "seed", "person_generation"}
)
_RATIOS = frozenset({"16:9", "9:16"})
_SECONDS = frozenset({4, 6, 8})
_FRAMES = frozenset({Role.FIRST_FRAME, Role.LAST_FRAME})


def _able(resolutions: frozenset[str], references: int = 0) -> Abilities:
    sizes = Sizes(named=frozenset({"auto"}), ratios=_RATIOS, resolutions=resolutions)
    return Abilities(_KINDS, sizes=sizes, fields=_FIELDS, max_images=references, roles=_FRAMES, seconds=_SECONDS)


FACTS = AdapterFacts(
    slug="veo",
    base_url=google.BASE_URL,
    abilities={
        "veo-3.1-lite-*": _able(frozenset({"720p", "1080p"})),
        "veo-3.1-*": _able(frozenset({"720p", "1080p", "4k"}), REFERENCES_MAX),
        "*": _able(frozenset({"720p", "1080p"})),
    },
    refusals_free=True,
    polls_every_s=10.0,
    probes=True,
    lacks={
        "generate": "films only; pictures are Gemini's",
        "edit": "films only",
        "chat": "films only",
        "cancel": "no cancel on the Developer API",
        "webhook": "the payload of its webhook is not documented",
        "streaming": "operations are polled",
    },
)

PORTABLE = {
    "durationSeconds": "seconds",
    "aspectRatio": "size",
    "resolution": "size",
    "duration_seconds": "seconds",
    "aspect_ratio": "size",
}
SAID = {"negative_prompt": "negativePrompt", "seed": "seed", "person_generation": "personGeneration"}
REFUSAL_WORDS = re.compile(r"safety|policy|person|people|celebrit|minor|sensitive|responsible ai", re.IGNORECASE)
# google.rpc codes of a failed operation that another try may not meet: cut, exhausted, internal, unavailable.
_INVALID = 3


class Adapter:
    """predictLongRunning and operations at `base_url`, with or without its version."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Hand in the film; the answer is the operation's name."""
        if job.kind not in _KINDS:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        url, headers = google.model_url(job, "predictLongRunning"), google.headers_of(job.credential)
        reply = await call(Request("POST", url, headers, build_body(job), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        name = jobs.read_id(as_object(reply.data).get("name"))
        if reply.status // 100 == 2 and name:
            return Pending(Handle(name))
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the operation."""
        url = f"{google.root(job.base_url)}/{quote(handle.remote_id, safe='/')}"
        request = Request("GET", url, google.headers_of(job.credential), max_reply_bytes=REPLY_BYTES)
        reply = await call(request)
        if isinstance(reply, Broken):
            return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
        if reply.status in jobs.UNKNOWN_IDS:
            return Missing("the provider does not know the operation")
        body = as_object(reply.data)
        if reply.status // 100 != 2 or not isinstance(body.get("name"), str):
            detail = f"HTTP {reply.status} and no operation: {as_text(failures.body_of(reply))}"
            told = outcome.one_line(failures.mask(detail, job.credential))
            return Trouble(told, rest_asked(reply.headers, job.now), refused=reply.status in {401, 403})
        return _judge(job, reply, body) if body.get("done") is True else Pending(handle)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel, and the operation is heard to its end."""

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """List a model, which is free."""
        return await google.probe(account, call)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    told = google.fail(status, headers, body, PORTABLE, now=now, secret=secret)
    if status == 400 and told.kind is FailureKind.BAD_REQUEST and REFUSAL_WORDS.search(told.detail):
        # "Submit 400 about prompt policy or person images": refused before any work.
        return outcome.fail(FailureKind.REFUSED, told.detail, billed=Billed.NO, http_status=status)
    return told


def usage(_body: Any) -> Usage:
    """Report nothing: films are priced by the second."""
    return Usage()


def build_body(job: Job) -> dict[str, Any]:
    """Build the body: one instance with prompt and frames, and the parameters that are said."""
    instance: dict[str, Any] = {"prompt": job.input.get("prompt", "")}
    for role, name in ((Role.FIRST_FRAME, "image"), (Role.LAST_FRAME, "lastFrame")):
        for source in job.files_of(role):
            instance[name] = _bytes_of(source)
    references = [{"image": _bytes_of(source), "referenceType": "asset"} for source in job.files_of(Role.IMAGE)]
    if references:
        instance["referenceImages"] = references
    said = job.input
    parameters: dict[str, Any] = {"sampleCount": 1}
    if said.get("seconds") is not None:
        parameters["durationSeconds"] = int(said["seconds"])
    shape = _shape_of(job)
    parameters |= {name: value for name, value in shape.items() if value is not None}
    for ours, theirs in (
        ("negative_prompt", "negativePrompt"),
        ("seed", "seed"),
        ("person_generation", "personGeneration"),
    ):
        if said.get(ours) is not None:
            parameters[theirs] = said[ours]
    return {"instances": [instance], "parameters": parameters}


# -- parts ------------------------------------------------------------------------------------------------------------


def _shape_of(job: Job) -> dict[str, Any]:
    sizes = FACTS.of_model(job.model).sizes or Sizes()
    size = job.input.get("size")
    ratio, resolution = job.input.get("aspect_ratio"), job.input.get("resolution")
    if isinstance(size, str) and size != "auto":
        ratio, resolution = ratio_of(size, sizes.ratios) or ratio, resolution_of(size, sizes.resolutions) or resolution
    return {"aspectRatio": ratio, "resolution": resolution}


def _bytes_of(source: Source) -> dict[str, Any]:
    return {"bytesBase64Encoded": Inline(source, data_uri=False), "mimeType": source.content_type}


def _judge(job: Job, reply: Reply, body: Mapping[str, Any]) -> Done | Fail:
    error = as_object(body.get("error"))
    if error:
        message, code = as_text(error.get("message")), error.get("code")
        refused = code == _INVALID and REFUSAL_WORDS.search(message) is not None
        kind = FailureKind.REFUSED if refused else FailureKind.JOB_FAILED
        if code == _INVALID and not refused:
            kind = FailureKind.BAD_REQUEST
        return jobs.end(kind, job, status=reply.status, code=failures.as_word(code), message=message, billed=Billed.NO)
    made = as_object(as_object(body.get("response")).get("generateVideoResponse"))
    media = _media(job, made.get("generatedSamples"))
    if media:
        return Done(media, usage(body), http_status=reply.status)
    if made.get("raiMediaFilteredCount"):
        reasons = as_text(made.get("raiMediaFilteredReasons"))
        return jobs.end(FailureKind.REFUSED, job, status=reply.status, message=reasons, billed=Billed.NO)
    return jobs.end(FailureKind.UNUSABLE, job, status=reply.status, message="done, without a film")


def _media(job: Job, samples: Any) -> tuple[Media, ...]:
    """Read the films. The key goes along, and only to Google's own host (`Media.headers`)."""
    media = []
    for sample in map(as_object, samples[:SAMPLES_MAX] if isinstance(samples, list) else ()):
        uri = as_object(sample.get("video")).get("uri")
        if not isinstance(uri, str):
            continue
        if uri.startswith("files/"):
            uri = f"{google.root(job.base_url)}/{uri}:download?alt=media"
        if uri.startswith(("https://", "http://")):
            own = addresses.belongs_to(uri, job.base_url)
            media.append(Media(url=uri, headers={"x-goog-api-key": job.credential} if own else {}))
    return tuple(media)
