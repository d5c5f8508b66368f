"""Reading requests: JSON within bounds, known fields checked by name, the extras of contract 5.4 taken apart.

Unknown fields are kept for adapters that know them. What the contract has and this version has not yet is refused,
never accepted and ignored. Nothing here asks the flow. Floor 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import BadHttpMessage

from router.api import strict_json
from router.api.errors import Refusal, invalid
from router.api.uploads import digests_of, take_files
from router.flow.draft import Upload
from router.flow.runtime import FILES, REMIX
from router.geometry import parse_size
from router.money import nanos_of
from router.outbox import CALLBACK_TYPES, TERMINAL_TYPES
from router.provider import Kind, Role
from router.task import Error, Preferences, Priority

IMAGE_BODY_MAX = 1 << 20
TASK_BODY_MAX = 64 << 20
PROMPT_MAX_CHARS = 32_000
N_MAX = 10
MESSAGES_MAX = 10_000
TOKENS_MAX = 10_000_000
SECONDS_MAX = 7 * 86_400
FILM_MAX_S = 600
METADATA_MAX = 16
SORTS = ("price", "latency", "success")
CALLBACK_MAX_CHARS = 2048
EXTRAS = frozenset(
    {
        "priority",
        "metadata",
        "callback_url",
        "callback_events",
        "start_within",
        "timeout",
        "provider",
        "async",
        "stream",
        "model",
    }
)
RESERVED = frozenset({FILES, REMIX})
"""What our own rows say in a task's input (which files are kept, which film is made anew): never a caller's word."""
PRIORITIES = {priority.word: priority for priority in Priority}
NO_PREFERENCES = Preferences()
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
WORDS: Mapping[str, tuple[str, ...]] = {
    "quality": QUALITIES,
    "background": ("auto", "opaque", "transparent"),
    "output_format": ("png", "jpeg", "webp", "gif", "svg"),
    "moderation": ("auto", "low"),
    "response_format": ("url", "b64_json"),
    "style": ("vivid", "natural"),
}


@dataclass(frozen=True, slots=True)
class Prefer:
    """The `Prefer` header (RFC 7240): `respond_async`, and `wait_s` or None."""

    respond_async: bool = False
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A submit as read: the upstream's fields, the model, and the extras."""

    input: Mapping[str, Any]
    model: str | None
    asynchronous: bool
    priority: Priority | None
    metadata: Mapping[str, str]
    preferences: Preferences
    start_within_s: float | None
    timeout_s: float | None
    digest: str
    files: tuple[Upload, ...] = ()
    streams: bool = False
    callback_url: str | None = None
    callback_events: tuple[str, ...] = ()


async def read_json(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object of at most `max_bytes`; 400 or 413 in the contract's form else."""
    strict_json.check_type(request.headers.get("Content-Type"))
    return strict_json.parse(await read_raw(request, max_bytes))


async def read_raw(request: web.Request, max_bytes: int) -> bytes:
    """Read a body of at most `max_bytes`; 413 in the contract's form else."""
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    pieces, size = [], 0
    try:
        async for piece in request.content.iter_chunked(1 << 16):
            size += len(piece)
            if size > max_bytes:
                raise too_large(max_bytes)
            pieces.append(piece)
    except (ClientPayloadError, web.RequestPayloadError, BadHttpMessage):
        # It ends too early, or does not unpack as its Content-Encoding says; what follows it is lost too.
        error = Error("invalid_request", "The body could not be read to its end.", "broken_body")
        raise Refusal(error, headers={"Connection": "close"}) from None
    return b"".join(pieces)


def too_large(max_bytes: int) -> Refusal:
    """The 413 of this route."""
    error = Error(
        "too_large", f"The body is larger than {max_bytes} bytes.", "too_large", details={"max_bytes": max_bytes}
    )
    return Refusal(error)


def read_prefer(request: web.Request) -> Prefer:
    """Read the `Prefer` header; what it does not understand is ignored, as RFC 7240 demands."""
    respond_async, wait_s = False, None
    for header in request.headers.getall("Prefer", ()):
        for word in header.split(","):
            name, _equals, value = word.strip().partition("=")
            if name.lower() == "respond-async":
                respond_async = True
            elif name.lower() == "wait" and value.strip().strip('"').isdecimal():
                wait_s = float(min(int(value.strip().strip('"')[:6]), 3600))
    return Prefer(respond_async, wait_s)


def read_idempotency_key(request: web.Request) -> str | None:
    """Read the `Idempotency-Key` header: 1 to 255 printable characters."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isprintable():
        invalid("Idempotency-Key", "Idempotency-Key must be 1 to 255 printable characters.")
    return key


def read_submission(
    body: Mapping[str, Any],
    kind: Kind,
    route: str,
    fields: Mapping[str, Any],
    prefix: str = "",
    *,
    files: tuple[Upload, ...] = (),
) -> Submission:
    """Read a submit. `body` holds the extras, `fields` the provider's (one mapping on the OpenAI surface).

    `prefix` goes before the name of a file's field in an error; `files` are those that came as parts of a form.
    """
    said = {name: value for name, value in body.items() if value is not None}
    asynchronous, streams = _flag("async", said.get("async", False)), _flag("stream", said.get("stream", False))
    if streams and kind.family == "video":
        invalid("stream", "A film is not streamed; ask for its task, or follow its events.")
    for name in RESERVED & fields.keys():
        invalid(prefix + name, f"{name} is not a field of a request.")
    model = said.get("model")
    if model is not None and (not isinstance(model, str) or not 1 <= len(model) <= 200):
        invalid("model", "model must be a string of 1 to 200 characters.")
    taken = {name: value for name, value in fields.items() if value is not None and name not in EXTRAS}
    callback_url, callback_events = _read_callback(said.get("callback_url"), said.get("callback_events"))
    if kind.family == "chat":
        _check_chat(taken)
    else:
        taken, files = take_files(taken, prefix, files)
        _check_media(taken, kind, files)
    return Submission(
        input=taken,
        files=files,
        model=model,
        asynchronous=asynchronous,
        streams=streams,
        priority=_read_priority(said.get("priority")),
        metadata=_read_metadata(said.get("metadata", {})),
        preferences=_read_preferences(said.get("provider", {})),
        start_within_s=_read_seconds("start_within", said.get("start_within")),
        timeout_s=_read_seconds("timeout", said.get("timeout")),
        digest=digest_of(route, kind, model, taken, files),
        callback_url=callback_url,
        callback_events=callback_events,
    )


def digest_of(
    route: str, kind: Kind, model: str | None, fields: Mapping[str, Any], files: tuple[Upload, ...] = ()
) -> str:
    """Hash the canonical body (contract 5.4): parsed fields in order of name, without `async`, `stream` and extras.

    Files count by their digests, or by their URLs.
    """
    parts = [route, kind.value, model, fields, *([digests_of(files)] if files else [])]
    canonical = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def fits(name: str, value: object) -> bool:
    """Whether a known field of pictures may have this value: for surfaces that drop what they cannot use."""
    try:
        _check_pictures({name: value})
    except Refusal:
        return False
    return True


# -- parts ----------------------------------------------------------------------------------------------------------


def _check_media(fields: Mapping[str, Any], kind: Kind, files: tuple[Upload, ...]) -> None:
    """Check the known fields of pictures and films that are there."""
    if kind in {Kind.IMAGE_EDIT, Kind.IMAGE_VARIATION} and not any(one.role is Role.IMAGE for one in files):
        invalid("image", "image is required: the picture to work on.", code="missing_required_parameter")
    if kind is not Kind.IMAGE_VARIATION:
        _check_prompt(fields)
    _check_pictures(fields)
    seconds = fields.get("seconds")
    if seconds is not None and not (
        (isinstance(seconds, int) and not isinstance(seconds, bool) and 1 <= seconds <= FILM_MAX_S)
        or (isinstance(seconds, str) and seconds.isdecimal() and 1 <= int(seconds[:5]) <= FILM_MAX_S)
    ):
        invalid("seconds", f"seconds must be a whole number from 1 to {FILM_MAX_S}.")


def _check_chat(fields: Mapping[str, Any]) -> None:
    """Check what every chat completion needs; the rest is the upstream's to judge (openai-chat.md section 2)."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        invalid("messages", "messages is required and must be a list of objects.", code="missing_required_parameter")
    if len(messages) > MESSAGES_MAX:
        invalid("messages", f"messages has {len(messages)} entries; at most {MESSAGES_MAX} are taken.")
    _check_number(fields, "n", 1, N_MAX)
    for name in ("max_tokens", "max_completion_tokens"):
        _check_number(fields, name, 1, TOKENS_MAX)
    if not isinstance(fields.get("stream_options", {}), dict):
        invalid("stream_options", "stream_options must be an object.")


def _check_prompt(fields: Mapping[str, Any]) -> None:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        invalid("prompt", "prompt is required and must be a non-empty string.", code="missing_required_parameter")
    if len(prompt) > PROMPT_MAX_CHARS:
        invalid("prompt", f"prompt is longer than {PROMPT_MAX_CHARS} characters.")


def _check_pictures(fields: Mapping[str, Any]) -> None:
    """Check the fields of openai-images.md section 3 that are there."""
    _check_number(fields, "n", 1, N_MAX)
    _check_number(fields, "output_compression", 0, 100)
    _check_number(fields, "partial_images", 0, 3)
    size = fields.get("size")
    if size is not None and (not isinstance(size, str) or (size != "auto" and parse_size(size) is None)):
        invalid("size", "size must be 'auto' or WIDTHxHEIGHT in pixels, such as '1024x1024'.")
    for name, words in WORDS.items():
        if name in fields and fields[name] not in words:
            invalid(name, f"{name} must be one of {', '.join(words)}.")
    for name in ("user", "safety_identifier"):
        if name in fields and (not isinstance(fields[name], str) or len(fields[name]) > 512):
            invalid(name, f"{name} must be a string of at most 512 characters.")


def _check_number(fields: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = fields.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        invalid(name, f"{name} must be a whole number from {low} to {high}.")


def _read_priority(value: object) -> Priority | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in PRIORITIES:
        invalid("priority", f"priority must be one of {', '.join(PRIORITIES)}.")
    return PRIORITIES[value]


def _read_metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or len(value) > METADATA_MAX:
        invalid("metadata", f"metadata must be an object of at most {METADATA_MAX} string pairs.")
    for name, text in value.items():
        if not isinstance(text, str) or len(name) > 64 or len(text) > 512:
            invalid("metadata", "metadata keys have at most 64, values are strings of at most 512 characters.")
    return value


def _read_callback(url: object, events: object) -> tuple[str | None, tuple[str, ...]]:
    """Read where to tell of the task, and of what; the address is judged by `submits.submit`."""
    if url is None:
        if events is not None:
            invalid("callback_events", "callback_events needs callback_url.")
        return None, ()
    if not isinstance(url, str) or len(url) > CALLBACK_MAX_CHARS:
        invalid("callback_url", f"callback_url must be a URL of at most {CALLBACK_MAX_CHARS} characters.")
    if events is None:
        return url, TERMINAL_TYPES
    if not isinstance(events, list) or not events or not all(one in CALLBACK_TYPES for one in events):
        invalid("callback_events", f"callback_events must be a list of some of {', '.join(CALLBACK_TYPES)}.")
    return url, tuple(one for one in CALLBACK_TYPES if one in events)


def _read_seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= SECONDS_MAX:
        invalid(name, f"{name} must be a number of seconds, more than 0 and at most {SECONDS_MAX}.")
    return float(value)


def _read_preferences(value: object) -> Preferences:
    """Read the `provider` object of contract 5.4."""
    if value == {}:
        return NO_PREFERENCES
    if not isinstance(value, dict):
        invalid("provider", "provider must be an object.")
    known: Mapping[str, Callable[[str, object], object]] = {
        "order": _names,
        "only": _names,
        "ignore": _names,
        "allow_fallbacks": _flag,
        "sort": _sort,
        "max_price": _max_price,
        "require_parameters": _flag,
    }
    read: dict[str, Any] = {}
    for name, part in value.items():
        if name not in known:
            invalid(f"provider.{name}", f"provider has no field {name!r}; it takes {', '.join(known)}.")
        if part is not None:
            read[name] = known[name](f"provider.{name}", part)
    return Preferences(**read)


def _names(param: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 64 or not all(isinstance(name, str) for name in value):
        invalid(param, f"{param} must be a list of at most 64 provider or target names.")
    return tuple(value)


def _flag(param: str, value: object) -> bool:
    if not isinstance(value, bool):
        invalid(param, f"{param} must be true or false.")
    return value


def _sort(param: str, value: object) -> str:
    if not isinstance(value, str) or value not in SORTS:
        invalid(param, f"{param} must be one of {', '.join(SORTS)}.")
    return value


def _max_price(param: str, value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        invalid(param, f"{param} must be an object.")
    read: dict[str, int] = {}
    for unit, amount in value.items():
        where = f"{param}.{unit}"
        if unit not in {"task", "image", "video_second"}:
            invalid(where, f"{param} takes task, image and video_second.")
        if isinstance(amount, bool) or not isinstance(amount, int | float | str):
            invalid(where, f"{where} must be an amount in USD.")
        try:
            read[unit] = nanos_of(str(amount))
        except ValueError:
            invalid(where, f"{where} must be an amount in USD, not negative and not finer than a nano-USD.")
    return read
