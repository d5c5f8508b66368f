"""Gemini image models by generateContent: one synchronous POST, pictures inline, refusals under HTTP 200.

A refusal is found in six steps, in the documented order (Gemini API, safety and finish reasons): feedback on the
prompt, the reasons of safety, the reasons of failure, a cut answer, text in place of a picture, nothing at all. Tokens
of a refused prompt are counted; whether they are charged is not documented, so that a refusal counts as billed. There
is no job id, no cancel and no idempotency key. One picture per request: image models refuse a larger `candidateCount`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.formats import failures, google
from providers.formats.failures import Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.geometry import Sizes, ratio_of, tier_of
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
    Polled,
    Request,
    Role,
    Submitted,
    Usage,
    rest_asked,
)

REPLY_BYTES = 64 << 20
COUNT_MAX = 10**12
INPUTS_MAX = 14  # "at most 14 images per prompt"
PARTS_MAX = 100

_KINDS = frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT})
_FIELDS = frozenset({"prompt", "n", "size", "aspect_ratio", "seed", "personGeneration", "safetySettings"})
_RATIOS = frozenset({"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"})
_WIDE_RATIOS = _RATIOS | {"1:4", "4:1", "1:8", "8:1"}
_TIERS = frozenset({"1K", "2K", "4K"})


def _able(ratios: frozenset[str], tiers: frozenset[str]) -> Abilities:
    sizes = Sizes(named=frozenset({"auto"}), ratios=ratios, tiers=tiers)
    return Abilities(_KINDS, sizes=sizes, fields=_FIELDS, max_images=INPUTS_MAX)


FACTS = AdapterFacts(
    slug="gemini",
    base_url=google.BASE_URL,
    abilities={
        # No imageSize: about one megapixel in every shape.
        "gemini-2.5-flash-image*": _able(_RATIOS, frozenset({"1K"})),
        "gemini-3.1-flash-image*": _able(_WIDE_RATIOS, _TIERS | {"512"}),
        "*": _able(_RATIOS, _TIERS),
    },
    probes=True,
    lacks={
        "video": "generateContent makes none; Veo is an adapter of its own",
        "chat": "image models only",
        "poll": "everything is synchronous: there is no job id",
        "cancel": "everything is synchronous",
        "webhook": "everything is synchronous",
        "streaming": "a stream brings the parts of one answer, not previews of a picture",
    },
)

PORTABLE = {"aspectRatio": "size", "aspect_ratio": "size", "imageSize": "size", "image_size": "size"}

# Steps 2 and 3: the finish reasons of safety and of failure.
REFUSED = frozenset(
    {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"}
    | {"IMAGE_RECITATION", "MODEL_ARMOR"}
)
FAILED = frozenset({"NO_IMAGE", "IMAGE_OTHER", "OTHER", "LANGUAGE", "MALFORMED_RESPONSE"})


class Adapter:
    """generateContent at `base_url`, with or without its version."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Generate or edit, and wait for the picture."""
        if job.kind not in _KINDS:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        url, headers = google.model_url(job, "generateContent"), google.headers_of(job.credential)
        reply = await call(Request("POST", url, headers, build_body(job), max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        media = read_media(reply.data)[:1] if reply.status // 100 == 2 else ()
        if media and not _is_refused(reply.data):
            return Done(media, usage(reply.data), http_status=reply.status)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Say that there is nothing to ask."""
        return Missing("this provider keeps no jobs")

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel."""

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """List a model, which is free."""
        return await google.probe(account, call)


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer without a picture means; the parameters are those of every adapter."""
    said = judge_200(status, body) if status // 100 == 2 else None
    if said is None:
        return google.fail(status, headers, body, PORTABLE, now=now, secret=secret)
    return failures.tell(said[0], said[1], secret=secret, rest_s=rest_asked(headers, now))


def judge_200(status: int, body: Any) -> tuple[Said, Ruling] | None:
    """Find out why there is no picture under HTTP 200, in the six documented steps; None for a foreign answer."""
    whole = as_object(body)
    if not (whole.keys() & {"candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId"}):
        return None
    blocked = as_word(as_object(whole.get("promptFeedback")).get("blockReason"))
    if blocked:
        return Said(status, own=True, code=blocked, message="the prompt was blocked"), Ruling(FailureKind.REFUSED)
    candidates = whole.get("candidates")
    first = as_object(candidates[0]) if isinstance(candidates, list) and candidates else {}
    reason = as_word(first.get("finishReason"))
    words = as_text(first.get("finishMessage")) or _text_of(first)
    if reason in REFUSED:
        return Said(status, own=True, code=reason, message=words), Ruling(FailureKind.REFUSED)
    if reason in FAILED:
        # "One more try may work, tokens billed."
        return Said(status, own=True, code=reason, message=words), Ruling(FailureKind.JOB_FAILED, billed=Billed.YES)
    if reason == "MAX_TOKENS":
        return Said(status, own=True, code=reason, message=words), Ruling(FailureKind.UNSUPPORTED, billed=Billed.YES)
    if first:
        message = f"no picture: {words}" if words else "no picture"
        return Said(status, own=True, code=reason, message=message), Ruling(FailureKind.REFUSED)
    return Said(status, own=True, message="no candidates"), Ruling(FailureKind.JOB_FAILED, billed=Billed.YES)


def usage(body: Any) -> Usage:
    """Read usageMetadata: totals, and the image tokens that are parts of them."""
    said = as_object(as_object(body).get("usageMetadata"))
    return Usage(
        input_tokens=_count(said.get("promptTokenCount")),
        input_image_tokens=_by_modality(said.get("promptTokensDetails")),
        cached_tokens=_count(said.get("cachedContentTokenCount")),
        output_tokens=_count(said.get("candidatesTokenCount")),
        output_image_tokens=_by_modality(said.get("candidatesTokensDetails")),
    )


def build_body(job: Job) -> dict[str, Any]:
    """Build the body: the prompt and the pictures as parts, shape and size as Google's words."""
    parts: list[dict[str, Any]] = [{"text": job.input.get("prompt", "")}]
    parts += [
        {"inlineData": {"mimeType": source.content_type, "data": Inline(source, data_uri=False)}}
        for source in job.files_of(Role.IMAGE)
    ]
    config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
    if job.input.get("seed") is not None:
        config["seed"] = job.input["seed"]
    image = _image_config(job)
    if image:
        config["imageConfig"] = image
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
    if job.input.get("safetySettings") is not None:
        body["safetySettings"] = job.input["safetySettings"]
    return body


def read_media(body: Any) -> tuple[Media, ...]:
    """Read the pictures of the first candidate, without the drafts that a model thought (`thought: true`)."""
    media = []
    for part in _parts_of(body):
        inline = as_object(part.get("inlineData") or part.get("inline_data"))
        data = inline.get("data")
        if isinstance(data, str) and data and part.get("thought") is not True:
            media.append(Media(b64=data))
    return tuple(media)


# -- parts ------------------------------------------------------------------------------------------------------------


def _image_config(job: Job) -> dict[str, Any]:
    sizes = FACTS.of_model(job.model).sizes or Sizes()
    image: dict[str, Any] = {}
    size, ratio = job.input.get("size"), job.input.get("aspect_ratio")
    if isinstance(size, str) and size != "auto":
        ratio = ratio_of(size, sizes.ratios) or ratio
        tier = tier_of(size, sizes.tiers)
        if tier is not None and not job.model.startswith("gemini-2.5"):
            image["imageSize"] = tier
    if ratio is not None:
        image["aspectRatio"] = ratio
    if job.input.get("personGeneration") is not None:
        image["personGeneration"] = job.input["personGeneration"]
    return image


def _is_refused(body: Any) -> bool:
    found = judge_200(200, body)
    return found is not None and found[0].code in REFUSED


def _parts_of(body: Any) -> list[Mapping[str, Any]]:
    candidates = as_object(body).get("candidates")
    first = as_object(candidates[0]) if isinstance(candidates, list) and candidates else {}
    parts = as_object(first.get("content")).get("parts")
    return [as_object(one) for one in parts[:PARTS_MAX]] if isinstance(parts, list) else []


def _text_of(candidate: Mapping[str, Any]) -> str:
    parts = as_object(candidate.get("content")).get("parts")
    texts = [as_object(one).get("text") for one in parts[:PARTS_MAX]] if isinstance(parts, list) else []
    return " ".join(text for text in texts if isinstance(text, str))


def _by_modality(details: Any) -> int | None:
    """Sum the IMAGE entries of a token detail; None where there is no detail."""
    if not isinstance(details, list):
        return None
    entries = [as_object(one) for one in details[:PARTS_MAX]]
    counts = [_count(one.get("tokenCount")) for one in entries if one.get("modality") == "IMAGE"]
    return sum(count for count in counts if count is not None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None
