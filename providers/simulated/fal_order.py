"""An order to a model of fal: what the input of an image or a video endpoint may say, and what it costs.

Pure: an endpoint id and a parsed body in, a `FalOrder` or the `Failure` of the model's schema out. Endpoint ids are
free, so the family is told by the words in them; fields that no family knows are passed over.
Source: the provider file of fal, sections 3, 5 and 6.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from providers.simulated.fal_errors import ErrorRow, Failure, break_schema
from providers.simulated.picture import PIXELS_MAX, Format

MEGAPIXEL = 1_000_000
SECONDS_MAX = 60
IMAGES_MAX = 4

# "square_hd" and "landscape_16_9" are the file's own; their pixels and the other names are those of the FLUX family.
IMAGE_SIZES: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
_VIDEO_WORDS = ("video", "seedance", "minimax", "hailuo", "kling", "veo", "wan", "luma", "ltx")
_INPUT_WORDS = ("image-to-image", "image-to-video", "edit", "kontext")
_IMAGE_RESOLUTIONS = {"0.5K": 512, "1K": 1024, "2K": 2048, "4K": 4096}
_VIDEO_RESOLUTIONS = {"360p": 360, "480p": 480, "540p": 540, "580p": 580, "720p": 720, "768p": 768, "1080p": 1080}
_FORMATS: Mapping[str, Format] = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp"}


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit of an endpoint costs, in US dollars, where `word` occurs in its id. latency_s: typical seconds."""

    word: str
    usd: Decimal
    unit: Literal["image", "megapixel", "second"]
    latency_s: float


# The file's prices; where it prints a range, the upper end. The first row whose word occurs in the id holds.
RATES: Sequence[Rate] = (
    Rate("flux/schnell", Decimal("0.003"), "megapixel", 1.5),
    Rate("flux-pro", Decimal("0.04"), "image", 5.0),
    Rate("nano-banana-2", Decimal("0.08"), "image", 10.0),
    Rate("nano-banana", Decimal("0.039"), "image", 10.0),
    Rate("seedream", Decimal("0.03"), "image", 10.0),
    Rate("seedance", Decimal("0.3034"), "second", 120.0),
    Rate("minimax", Decimal("0.16"), "second", 120.0),
)
_QUALITY_USD = {"low": Decimal("0.006"), "medium": Decimal("0.053"), "high": Decimal("0.211")}
_UNLISTED_IMAGE = Rate("", Decimal("0.025"), "image", 5.0)
_UNLISTED_VIDEO = Rate("", Decimal("0.10"), "second", 120.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FalOrder:
    """A valid input. width, height in pixels; count: images; seconds: the film's length, 0 for images; unit_usd: the
    price of one billable unit, of which there are `units`; inputs: addresses of pictures sent along.
    """

    endpoint: str
    prompt: str
    video: bool
    width: int
    height: int
    format: Format
    count: int
    seconds: float
    seed: int
    inline: bool
    inputs: tuple[str, ...]
    units: Decimal
    unit_usd: Decimal
    latency_s: float

    @property
    def price_usd(self) -> Decimal:
        """The list price."""
        return self.units * self.unit_usd


def read_fal_order(endpoint: str, body: Mapping[str, Any]) -> FalOrder | Failure:
    """Check the input of an endpoint. Every mistake has its row."""
    fields, video = _Fields(body), any(word in endpoint for word in _VIDEO_WORDS)
    prompt = fields.text("prompt", required=True)
    fields.text("negative_prompt")
    count = 1 if video else fields.number("num_images", 1, IMAGES_MAX, 1)
    seed = fields.number("seed", 0, 2**63, sum(prompt.encode()))
    fields.number("num_inference_steps", 1, 100, 28)
    for name in ("sync_mode", "enable_safety_checker"):
        fields.flag(name)
    file_format = fields.word("output_format", _FORMATS, "png")
    inputs = fields.addresses(required=any(word in endpoint for word in _INPUT_WORDS))
    width, height = _read_video_size(fields) if video else _read_image_size(fields)
    seconds = _read_seconds(fields) if video else 0.0
    if fields.broken:
        return break_schema(*fields.broken)
    rate = _find_rate(endpoint, video=video, quality=body.get("quality"))
    match rate.unit:
        case "image":
            units = Decimal(count)
        case "megapixel":
            units = Decimal(count) * -(-width * height // MEGAPIXEL)
        case "second":
            units = Decimal(f"{seconds:g}") if video else Decimal(count)
    return FalOrder(
        endpoint=endpoint,
        prompt=prompt,
        video=video,
        width=width,
        height=height,
        format=_FORMATS[file_format],
        count=count,
        seconds=seconds,
        seed=seed,
        inline=body.get("sync_mode") is True,
        inputs=inputs,
        units=units,
        unit_usd=rate.usd,
        latency_s=rate.latency_s,
    )


class _Fields:
    # Reads fields and collects what is wrong with them, so that one answer names all mistakes. A null is an absent
    # field.
    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.broken: list[ErrorRow] = []

    def complain(self, name: str, kind: str, message: str, context: Mapping[str, Any] | None = None) -> None:
        self.broken.append(ErrorRow(kind, message, ("body", name), self._body.get(name), context))

    def get(self, name: str) -> Any:
        return self._body.get(name)

    def text(self, name: str, *, required: bool = False) -> str:
        value = self._body.get(name)
        if value is None:
            if required:
                # The checker shows the whole input where the field is missing.
                self.broken.append(ErrorRow("missing", "Field required", ("body", name), dict(self._body)))
            return ""
        if not isinstance(value, str):
            self.complain(name, "string_type", "Input should be a valid string")
            return ""
        return value

    def flag(self, name: str) -> None:
        if not isinstance(self._body.get(name) or False, bool):
            self.complain(name, "bool_type", "Input should be a valid boolean")

    def word(self, name: str, words: Mapping[str, Any], default: str) -> str:
        value = self._body.get(name, default)
        if value is None:
            return default
        if not isinstance(value, str) or value not in words:
            expected = " or ".join(repr(word) for word in words)
            self.complain(name, "literal_error", f"Input should be {expected}", {"expected": expected})
            return default
        return value

    def number(self, name: str, least: int, most: int, default: int) -> int:
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.complain(name, "int_type", "Input should be a valid integer")
        elif value < least:
            message = f"Input should be greater than or equal to {least}"
            self.complain(name, "greater_than_equal", message, {"ge": least})
        elif value > most:
            self.complain(name, "less_than_equal", f"Input should be less than or equal to {most}", {"le": most})
        else:
            return value
        return default

    def addresses(self, *, required: bool) -> tuple[str, ...]:
        found = []
        several = self._body.get("image_urls")
        if several is not None and not isinstance(several, list):
            self.complain("image_urls", "list_type", "Input should be a valid list")
            several = None
        given = [("image_url", self._body.get("image_url")), *(("image_urls", address) for address in several or [])]
        for name, address in given:
            if isinstance(address, str):
                found.append(address)
            elif address is not None:
                self.complain(name, "string_type", "Input should be a valid string")
        if required and not found and not self.broken:
            self.broken.append(ErrorRow("missing", "Field required", ("body", "image_url"), dict(self._body)))
        return tuple(found)


def _read_image_size(fields: _Fields) -> tuple[int, int]:
    asked = fields.get("image_size")
    if isinstance(asked, Mapping):
        sides = {name: asked.get(name) for name in ("width", "height")}
        for name, side in sides.items():
            if isinstance(side, bool) or not isinstance(side, int):
                kind = "missing" if side is None else "int_type"
                fields.broken.append(ErrorRow(kind, "Input should be a valid integer", ("body", "image_size", name)))
            elif side <= 0:
                message = "Input should be greater than 0"
                fields.broken.append(ErrorRow("greater_than", message, ("body", "image_size", name), side, {"gt": 0}))
        if any(row.loc[1] == "image_size" for row in fields.broken):
            return 1, 1
        width, height = asked["width"], asked["height"]
        if width * height > PIXELS_MAX:
            fields.complain("image_size", "value_error", "The image has too many pixels")
        return width, height
    if asked is not None:
        return IMAGE_SIZES[fields.word("image_size", IMAGE_SIZES, "square_hd")]
    side = _IMAGE_RESOLUTIONS[fields.word("resolution", _IMAGE_RESOLUTIONS, "1K")]
    across, down = _read_ratio(fields, (1, 1))
    # The pixels stay about the same; only their shape follows the ratio.
    scale = side * (across * down) ** -0.5
    return round(scale * across) // 16 * 16, round(scale * down) // 16 * 16


def _read_video_size(fields: _Fields) -> tuple[int, int]:
    short = _VIDEO_RESOLUTIONS[fields.word("resolution", _VIDEO_RESOLUTIONS, "720p")]
    across, down = _read_ratio(fields, (16, 9))
    scale = short / min(across, down)
    return round(scale * across) // 2 * 2, round(scale * down) // 2 * 2


def _read_ratio(fields: _Fields, default: tuple[int, int]) -> tuple[int, int]:
    asked = fields.text("aspect_ratio")
    if not asked or asked == "auto":
        return default
    found = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", asked)
    if found is None or not 1 / 4 <= int(found[1]) / int(found[2]) <= 4:
        fields.complain("aspect_ratio", "value_error", "Input should be a ratio from 4:1 to 1:4")
        return default
    return int(found[1]), int(found[2])


def _read_seconds(fields: _Fields) -> float:
    asked = fields.get("duration")
    if asked is None:
        return 5.0
    text = str(asked).removesuffix("s") if isinstance(asked, str | int) and not isinstance(asked, bool) else ""
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= SECONDS_MAX:
        fields.complain("duration", "value_error", f"Input should be whole seconds from 1 to {SECONDS_MAX}")
        return 5.0
    return float(text)


def _find_rate(endpoint: str, *, video: bool, quality: object) -> Rate:
    if "gpt-image-2" in endpoint:
        usd = _QUALITY_USD.get(quality if isinstance(quality, str) else "high", _QUALITY_USD["high"])
        return Rate("gpt-image-2", usd, "image", 20.0)
    listed = next((rate for rate in RATES if rate.word in endpoint and (rate.unit == "second") is video), None)
    return listed or (_UNLISTED_VIDEO if video else _UNLISTED_IMAGE)
