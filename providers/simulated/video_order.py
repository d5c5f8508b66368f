"""An order for a video in the OpenAI videos dialect, and the rules by which a server takes or refuses it.

Pure: parsed fields in, a `VideoOrder` or an `Invalid` out. Which rules apply depends on the model's family; each seller
brings its own families. Lengths come as text or as a number; aggregators name them `duration`, and a resolution and a
ratio in place of a size.
Sources: the provider files of the OpenAI videos API, section 2; of APIYI, section 5.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.simulated.body_fields import FieldError, Fields, Invalid, list_words, read_text, read_word

PROMPT_MAX = 32_000
"""The dialect names no bound; this is that of its pictures."""
SIDES_MAX = 2160
"""Pixels of a free size's shorter side, and half of its longer one."""

_RESOLUTIONS: Mapping[str, tuple[int, int]] = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
_RATIOS = ("16:9", "9:16")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFamily:
    """The rules of some models. seconds, sizes: what is taken, the default first; no sizes: any WIDTHxHEIGHT of even
    numbers. extended: the fields of aggregators are read too. gone: the models are no longer served.
    """

    seconds: Sequence[int]
    sizes: Sequence[str] = ()
    extended: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """A valid order. width, height in pixels; reference: a first frame came along; remix_of: the id of the video that
    is made anew.
    """

    model: str
    prompt: str
    seconds: int
    width: int
    height: int
    reference: bool = False
    remix_of: str | None = None

    @property
    def size(self) -> str:
        """WIDTHxHEIGHT."""
        return f"{self.width}x{self.height}"


_SMALL, _LARGE = ("720x1280", "1280x720"), ("1024x1792", "1792x1024")
SORA_FAMILIES: Sequence[tuple[str, VideoFamily]] = (
    ("sora-2-pro", VideoFamily(seconds=(4, 8, 12), sizes=(*_SMALL, *_LARGE))),
    ("sora-2", VideoFamily(seconds=(4, 8, 12), sizes=_SMALL)),
)
"""By the beginning of the model's name, the first that fits."""
ANY_VIDEO = VideoFamily(seconds=(4, *range(1, 4), *range(5, 61)), extended=True)
"""The rules for models that resellers serve and OpenAI never had: 720x1280 where nothing else is said."""


def read_video(
    fields: Fields,
    *,
    families: Sequence[tuple[str, VideoFamily]],
    default_model: str,
    models: Collection[str] | None,
    reference: bool = False,
    reference_size: tuple[int, int] | None = None,
) -> VideoOrder | Invalid:
    """Check the fields of a body. models: the only ones known, or None. reference_size: of the file that came along as
    a first frame, None if unknown.
    """
    try:
        order = _read(fields, families, default_model, models, reference)
    except FieldError as found:
        return found.invalid
    if reference_size is not None and reference_size != (order.width, order.height):
        return Invalid("Invalid 'input_reference': it must match the requested size.", "input_reference")
    return order


def find_family(model: str, families: Sequence[tuple[str, VideoFamily]]) -> VideoFamily:
    """The rules of a model; `ANY_VIDEO` for a name that no family claims."""
    return next((family for prefix, family in families if model.startswith(prefix)), ANY_VIDEO)


def _read(
    fields: Fields,
    families: Sequence[tuple[str, VideoFamily]],
    default_model: str,
    models: Collection[str] | None,
    reference: bool,  # noqa: FBT001 - only passed through
) -> VideoOrder:
    model = default_model if fields.get("model") is None else read_text(fields, "model")
    if models is not None and model not in models:
        raise FieldError(f"The model '{model}' does not exist.", "model", "model_not_found", 404)
    family = find_family(model, families)
    if family.gone:
        raise FieldError(f"The model '{model}' does not exist.", "model", "model_not_found", 404)
    prompt = read_text(fields, "prompt")
    if len(prompt) > PROMPT_MAX:
        raise FieldError(f"Invalid 'prompt': string too long, the maximum is {PROMPT_MAX}.", "prompt")
    _check_reference(fields)
    seconds = _read_seconds(fields, family)
    width, height = _read_size(fields, family)
    return VideoOrder(model=model, prompt=prompt, seconds=seconds, width=width, height=height, reference=reference)


def _read_seconds(fields: Fields, family: VideoFamily) -> int:
    name = "duration" if family.extended and fields.get("duration") is not None else "seconds"
    value = fields.get(name)
    if value is None:
        return family.seconds[0]
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4}", str(value)):
        raise FieldError(f"Invalid type for '{name}': expected a whole number of seconds.", name)
    if int(value) not in family.seconds:
        known = list_words([str(seconds) for seconds in sorted(family.seconds)])
        raise FieldError(f"Invalid value: '{value}'. Supported values are: {known}.", name)
    return int(value)


def _read_size(fields: Fields, family: VideoFamily) -> tuple[int, int]:
    size = fields.get("size")
    if size is None and family.extended:
        return _read_resolution(fields)
    if size is None:
        size = family.sizes[0]
    if not isinstance(size, str):
        raise FieldError("Invalid type for 'size': expected a string.", "size")
    found = re.fullmatch(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", size)
    if found is None or (family.sizes and size not in family.sizes):
        known = f" Supported values are: {list_words(family.sizes)}." if family.sizes else " Expected WIDTHxHEIGHT."
        raise FieldError(f"Invalid value: {size[:40]!r}.{known}", "size")
    width, height = int(found[1]), int(found[2])
    if width % 2 or height % 2 or min(width, height) > SIDES_MAX or max(width, height) > 2 * SIDES_MAX:
        raise FieldError(f"Invalid size {size!r}: even numbers up to {2 * SIDES_MAX}x{SIDES_MAX} are taken.", "size")
    return width, height


def _read_resolution(fields: Fields) -> tuple[int, int]:
    """What aggregators take in place of a size: `metadata.resolution`, and a ratio there or beside it."""
    metadata = fields.get("metadata")
    extra: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    asked = {name: extra.get(name) or fields.get(name) for name in ("resolution", "aspect_ratio")}
    upright = asked["aspect_ratio"] is None and asked["resolution"] is None
    long, short = _RESOLUTIONS[read_word(asked, "resolution", tuple(_RESOLUTIONS), "720p")]
    ratio = read_word(asked, "aspect_ratio", _RATIOS, "9:16" if upright else "16:9")
    return (short, long) if ratio == "9:16" else (long, short)


def _check_reference(fields: Fields) -> None:
    # A file is no field; here is what a JSON body points at.
    pointed = fields.get("input_reference")
    if pointed is None:
        return
    if not isinstance(pointed, dict) or not isinstance(pointed.get("image_url") or pointed.get("file_id"), str):
        raise FieldError("Invalid 'input_reference': expected image_url or file_id.", "input_reference")
