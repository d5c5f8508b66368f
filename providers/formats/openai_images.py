"""The wire form of OpenAI's images endpoints, which many others speak: request bodies, results, usage and error bodies.

Generations are JSON. Edits are multipart, and JSON where a picture is named by its URL, which no part of a form can do.
Both answer alike; how they are streamed stands in `openai_image_stream`. Source: OpenAI API reference, Images, and the
types of the openai Python SDK 3.52. What a provider does differently (prefixes, billing, refusals under HTTP 200)
stands in its adapter. Pure: no call is made here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from providers.formats.failures import (
    TARGET_OUT,
    Ruling,
    Said,
    as_object,
    as_text,
    as_word,
    read_detail,
    read_foreign,
)
from providers.formats.multipart import write_fields
from router.geometry import Sizes, quality_of
from router.outcome import FailureKind
from router.provider import Abilities, Job, Kind, Media, Part, Request, Role, Usage, place

GENERATES = frozenset({Kind.IMAGE_GENERATION})
DRAWS = frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT})
IMAGES_MAX = 16  # "up to 16"
MASKED = frozenset({Role.MASK})
REPLY_BYTES_PER_OUTPUT = 32 << 20  # a picture of 64 MiB is not base64 that anybody sends; 32 MiB x n + 32 MiB in all
COUNT_MAX = 10**12
REVISED_PROMPT_CHARS = 32_000

# Not what the caller says: results are stored and handed out by us, and whether to stream is the router's choice.
_OURS = frozenset({"model", "response_format", "stream", "partial_images"})
# Columns "gen" and "edit" of the table of fields.
_NOT_OF_EDITS = frozenset({"moderation", "style"})
_OF_EDITS_ONLY = frozenset({"input_fidelity"})

_GPT_IMAGE_FIELDS = frozenset(
    {"prompt", "n", "size", "quality", "background", "output_format", "output_compression", "moderation"}
    | {"complexity", "frame_count", "frame_duration_ms", "svg", "safety_identifier", "user", "partial_images"}
)
# "low, high on 1.5; low only on 1-mini; must be absent for gpt-image-2".
_GPT_IMAGE_1_FIELDS = _GPT_IMAGE_FIELDS | {"input_fidelity"}
_GPT_QUALITIES = frozenset({"auto", "low", "medium", "high"})
# By prefix of the model, the longer first; what is not here takes every word as it came.
_QUALITIES: Mapping[str, frozenset[str] | None] = {
    "gpt-image-2.6": None,  # "feature limits unknown"
    "gpt-image-2.5": _GPT_QUALITIES | {"xhigh", "max"},
    "gpt-image-": _GPT_QUALITIES,
    "chatgpt-image-": _GPT_QUALITIES,
    "dall-e-3": frozenset({"standard", "hd"}),
}
_FIXED_SIZES = Sizes(named=frozenset({"auto", "1024x1024", "1536x1024", "1024x1536"}))

_GPT_IMAGE_1 = Abilities(
    DRAWS,
    max_n=10,
    sizes=_FIXED_SIZES,
    fields=_GPT_IMAGE_1_FIELDS,
    max_images=IMAGES_MAX,
    roles=MASKED,
    takes_urls=True,
)

MODELS: Mapping[str, Abilities] = MappingProxyType(
    {
        # From gpt-image-2 on: both sides divisible by 16, 1:3 to 3:1, up to 3840x2160 pixels in either orientation.
        "gpt-image-2*": Abilities(
            DRAWS,
            max_n=10,
            sizes=Sizes(
                named=_FIXED_SIZES.named, multiple=16, min_side=16, max_side=3840, max_pixels=3840 * 2160, max_ratio=3.0
            ),
            fields=_GPT_IMAGE_FIELDS,
            max_images=IMAGES_MAX,
            roles=MASKED,
            takes_urls=True,
        ),
        "gpt-image-1*": _GPT_IMAGE_1,
        "chatgpt-image-*": _GPT_IMAGE_1,
        # Retired by OpenAI in May 2026; others keep serving it under its old rules.
        "dall-e-3": Abilities(
            GENERATES,
            max_n=1,
            sizes=Sizes(named=frozenset({"auto", "1024x1024", "1792x1024", "1024x1792"})),
            fields=frozenset({"prompt", "n", "size", "quality", "style", "user"}),
        ),
    }
)

# OpenAI's error codes (API reference, Error codes), read before the status: 400 and 429 carry account troubles, too.
CODES: Mapping[str, Ruling] = MappingProxyType(
    {
        # The balance is used up. It comes as 429, and waiting does not help.
        "insufficient_quota": Ruling(FailureKind.ACCOUNT),
        # The spending limit of the organisation, as 400.
        "billing_hard_limit_reached": Ruling(FailureKind.ACCOUNT),
        "invalid_api_key": Ruling(FailureKind.ACCOUNT),
        # Where we call from; no request of ours would pass.
        "unsupported_country_region_territory": Ruling(FailureKind.ACCOUNT),
        # The prompt or the picture. Whether that bills is not documented, so it counts as billed (contract 6).
        "moderation_blocked": Ruling(FailureKind.REFUSED),
        "content_policy_violation": Ruling(FailureKind.REFUSED),
        "model_not_found": TARGET_OUT,
        "rate_limit_exceeded": Ruling(FailureKind.THROTTLED),
        "overloaded": Ruling(FailureKind.OVERLOADED),
    }
)

# Fields in which providers differ: another may take the value that this one does not.
PORTABLE = frozenset({"size", "quality", "background", "output_format", "n", "input_fidelity"})

# What the message of a refusal says where a code was lost on the way (aggregators wrap it).
REFUSAL_WORDS = re.compile(r"safety_violations=|rejected by the safety system")


def ask(job: Job, url: str, *, streamed: bool = False) -> Request:
    """Write the request for a generation or an edit, to be answered whole or event by event."""
    body = build_body(job)
    if streamed and not job.model.startswith("dall-e-"):
        body["stream"] = True
        if job.input.get("partial_images") is not None:
            body["partial_images"] = job.input["partial_images"]
    form: tuple[Part, ...] = ()
    if job.kind is Kind.IMAGE_EDIT:
        if any(source.url is not None for source in job.files):
            body |= name_files(job)
        else:
            form = write_fields(body) + attach_files(job)
    return Request(
        method="POST",
        url=url,
        headers={"Authorization": f"Bearer {job.credential}", "Accept": "application/json"},
        json=None if form else body,
        form=form,
        max_reply_bytes=REPLY_BYTES_PER_OUTPUT * (max(1, job.n) + 1),
    )


def build_body(job: Job) -> dict[str, Any]:
    """Build the body's fields: the caller's without those that are ours, null, the default or the other endpoint's.

    A size of `auto` is left out, because that is the default and not every server of this form knows the word. A
    quality is said in the model's words, or not at all.
    """
    left_out = _OURS | (_NOT_OF_EDITS if job.kind is Kind.IMAGE_EDIT else _OF_EDITS_ONLY)
    body: dict[str, Any] = {"model": job.model}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in left_out}
    if body.get("size") == "auto":
        del body["size"]
    _translate_quality(body)
    if job.model.startswith("dall-e-"):
        # Inline, so that a paid picture does not hang on a second download within an hour. Others reject the field.
        body["response_format"] = "b64_json"
    return body


def attach_files(job: Job) -> tuple[Part, ...]:
    """Write the files of an edit as parts: `image` for one, `image[]` for several, `mask`."""
    images = job.files_of(Role.IMAGE)
    name = "image" if len(images) == 1 else "image[]"
    masks = tuple(Part("mask", source) for source in job.files_of(Role.MASK)[:1])
    return tuple(Part(name, source) for source in images) + masks


def name_files(job: Job) -> dict[str, Any]:
    """Write the files of an edit for a JSON body: a URL as it is, kept bytes beside it as a data URI."""
    named: dict[str, Any] = {"images": [{"image_url": place(source)} for source in job.files_of(Role.IMAGE)]}
    for source in job.files_of(Role.MASK)[:1]:
        named["mask"] = {"image_url": place(source)}
    return named


def read_media(body: Any, at_most: int) -> tuple[Media, ...]:
    """Read the outputs that are there, at most as many as were asked for; entries without a picture are left out."""
    items = as_object(body).get("data")
    read = map(read_item, items) if isinstance(items, list) else ()
    return tuple(media for media in read if media is not None)[: max(1, at_most)]


def read_item(item: Any) -> Media | None:
    """Read one output: base64 with or without a prefix, a data URI, or a URL; None when there is no picture in it."""
    entry = as_object(item)
    revised = entry.get("revised_prompt")
    revised = revised[:REVISED_PROMPT_CHARS] if isinstance(revised, str) and revised else None
    inline, url = entry.get("b64_json"), entry.get("url")
    if isinstance(inline, str) and (text := _strip_prefix(inline)):
        return Media(b64=text, revised_prompt=revised)
    if not isinstance(url, str):
        return None
    if url.startswith("data:"):
        text = _strip_prefix(url)
        return Media(b64=text, revised_prompt=revised) if text else None
    return Media(url=url, revised_prompt=revised) if url.startswith(("https://", "http://")) else None


def read_usage(body: Any) -> Usage:
    """Read the usage block: totals, and the image and cached tokens that are parts of them."""
    usage = as_object(as_object(body).get("usage"))
    inputs = as_object(usage.get("input_tokens_details"))
    outputs = as_object(usage.get("output_tokens_details"))
    return Usage(
        input_tokens=_count(usage.get("input_tokens")),
        input_image_tokens=_count(inputs.get("image_tokens")),
        cached_tokens=_count(inputs.get("cached_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
        output_image_tokens=_count(outputs.get("image_tokens")),
    )


def read_error(status: int, body: Any) -> Said:
    """Read an error body: OpenAI's `{"error": {...}}`, or `{"error": text}` or `{"detail": ...}` of compatible ones."""
    whole = as_object(body)
    error, detail = whole.get("error"), whole.get("detail")
    if isinstance(error, dict):
        param = error.get("param")
        return Said(
            status,
            own=True,
            code=as_word(error.get("code")),
            type=as_word(error.get("type")),
            param=param if isinstance(param, str) and param else None,
            message=as_text(error.get("message")),
        )
    if isinstance(error, str) and error:
        return Said(status, own=True, message=as_text(error))
    if detail:
        message, names = read_detail(detail)
        return Said(status, own=True, param=names[0] if len(names) == 1 else None, message=message)
    return read_foreign(status, body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _translate_quality(body: dict[str, Any]) -> None:
    prefix = next((prefix for prefix in _QUALITIES if body["model"].startswith(prefix)), None)
    words = None if prefix is None else _QUALITIES[prefix]
    if words is None or not isinstance(body.get("quality"), str):
        return
    quality = quality_of(body["quality"], words)
    if quality is None:
        del body["quality"]
    else:
        body["quality"] = quality


def _strip_prefix(text: str) -> str:
    """Cut `data:image/png;base64,` off, which some put before the base64 (apiyi, models "-all" and "-vip")."""
    return text.partition(",")[2] if text.startswith("data:") else text


def _count(value: Any) -> int | None:
    """Accept a count of tokens; anything else is a thing not said."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None
