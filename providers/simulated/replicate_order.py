"""The models of the simulated Replicate, and the rules by which an input becomes an order or a list of mistakes.

Pure: a model and a parsed body in, a `PredictionOrder` or the rows of a 422 out. Unknown fields of an input are passed
over: each model has its own. The catalogue is open: a name that is not in it is taken for a model of pictures, or of
films if it sounds so.
Source: the provider file of Replicate, sections 2, 4 and 5.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from providers.simulated.film import Film
from providers.simulated.picture import Format, Picture

EVENTS = ("start", "output", "logs", "completed")
WAIT_MAX_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model. unit_usd: per output, or per second of run time where `hardware`, or per second of film. runs_s:
    typical run time, unscaled. listed: whether the output is a list of links. official: it is called by its name alone
    and its replies hide the version.
    """

    unit_usd: Decimal
    runs_s: float
    listed: bool = False
    official: bool = True
    hardware: bool = False
    film: bool = False


# The file has the prices of flux-schnell and flux-1.1-pro only and says that others are unknown: these others are
# figures of the simulator, near what the public pages ask.
MODELS: Mapping[str, Model] = {
    "black-forest-labs/flux-schnell": Model(unit_usd=Decimal("0.003"), runs_s=1.2, listed=True),
    "black-forest-labs/flux-1.1-pro": Model(unit_usd=Decimal("0.04"), runs_s=3.0),
    "black-forest-labs/flux-kontext-pro": Model(unit_usd=Decimal("0.04"), runs_s=5.0),
    "stability-ai/sdxl": Model(unit_usd=Decimal("0.001"), runs_s=6.0, listed=True, official=False, hardware=True),
    "bytedance/seedance-1-lite": Model(unit_usd=Decimal("0.036"), runs_s=60.0, film=True),
    "lightricks/ltx-video": Model(unit_usd=Decimal("0.001"), runs_s=40.0, official=False, hardware=True, film=True),
}
ANY_PICTURE = Model(unit_usd=Decimal("0.04"), runs_s=4.0, listed=True)
ANY_FILM = Model(unit_usd=Decimal("0.05"), runs_s=60.0, film=True)
_FILM_WORDS = ("video", "veo", "wan", "kling", "seedance", "hailuo", "sora", "ray", "pixverse", "t2v", "i2v", "gen4")

_FORMATS: Mapping[str, Format] = {"webp": "webp", "jpg": "jpeg", "jpeg": "jpeg", "png": "png"}
_HEIGHTS = {"480p": 480, "720p": 720, "1080p": 1080}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOrder:
    """A valid body. outputs: what is made; amount_usd: the whole price; runs_s: run time that is billed and reported;
    webhook: None without one; events: those that are sent.
    """

    name: str
    model: Model
    prompt: str
    given: Mapping[str, Any]
    outputs: tuple[Picture | Film, ...]
    amount_usd: Decimal
    runs_s: float
    webhook: str | None
    events: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One row of `invalid_fields`."""

    field: str
    description: str


def find_model(name: str) -> Model:
    """The model of an `owner/name`; a guess for one that the catalogue does not have."""
    if name in MODELS:
        return MODELS[name]
    sounds = any(word in re.split(r"[^a-z0-9]+", name.lower()) for word in _FILM_WORDS)
    return ANY_FILM if sounds else ANY_PICTURE


def name_version(name: str) -> str:
    """The id of a model's only version: 64 hexadecimal digits."""
    return hashlib.sha256(f"version of {name}".encode()).hexdigest()


def read_prediction(name: str, body: Mapping[str, Any], runs_s: float | None) -> PredictionOrder | list[Mistake]:
    """Check a body for a model. runs_s: the run time instead of the model's typical one, None for that. Every mistake
    has its row.
    """
    model, mistakes = find_model(name), list[Mistake]()
    given = body.get("input")
    if not isinstance(given, dict):
        return [Mistake("input", "input is required")]
    webhook, events = _read_webhook(body, mistakes)
    fields = _Input(given, mistakes)
    prompt = fields.text("prompt", required=True)
    width, height = _read_size(fields, model)
    takes_s = model.runs_s if runs_s is None else runs_s
    outputs: tuple[Picture | Film, ...]
    if model.film:
        seconds = fields.number("duration", 1, 60, 5)
        caption = f"{name}  {width}x{height}  {seconds} s"
        outputs = (Film(prompt, width, height, float(seconds), caption=caption),)
        amount = model.unit_usd * seconds
    else:
        count = fields.number("num_outputs", 1, 4, 1)
        form = _FORMATS[fields.word("output_format", tuple(_FORMATS), "webp")]
        caption = f"{name}  {width}x{height}"
        outputs = tuple(Picture(prompt, width, height, form, index, caption) for index in range(count))
        amount = model.unit_usd * count
    if mistakes:
        return mistakes
    if model.hardware:
        amount = model.unit_usd * Decimal(str(takes_s))
    return PredictionOrder(
        name=name,
        model=model,
        prompt=prompt,
        given=given,
        outputs=outputs,
        amount_usd=amount,
        runs_s=takes_s,
        webhook=webhook,
        events=events,
    )


def read_wait_s(preference: str) -> float | None:
    """Seconds of a `Prefer` header: 60 for `wait`, N for `wait=N`, 0 without; None when N is not 1 to 60."""
    found = re.search(r"(?:^|[,;\s])wait(?:=([0-9]{1,4}))?(?:$|[,;\s])", preference.strip())
    if found is None:
        return 0.0
    seconds = WAIT_MAX_S if found[1] is None else int(found[1])
    return float(seconds) if 1 <= seconds <= WAIT_MAX_S else None


def read_deadline_s(text: str) -> float | None:
    """Seconds of a `Cancel-After` header such as `30s`, `1m`, `1h30m`; None for anything else."""
    found = re.fullmatch(r"(?:([0-9]{1,3})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s?)?", text.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def write_schema(model: Model) -> dict[str, Any]:
    """The OpenAPI description that a version carries, as far as this simulator has rules."""
    link = {"type": "string", "format": "uri"}
    output = {"type": "array", "items": link} if model.listed else link
    fields: dict[str, Any] = {"prompt": {"type": "string"}, "aspect_ratio": {"type": "string"}}
    if model.film:
        fields |= {"duration": {"type": "integer", "minimum": 1, "maximum": 60, "default": 5}}
        fields |= {"resolution": {"type": "string", "enum": list(_HEIGHTS), "default": "480p"}}
    else:
        fields |= {"num_outputs": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1}}
        fields |= {"output_format": {"type": "string", "enum": list(_FORMATS), "default": "webp"}}
    schemas = {
        "Input": {"type": "object", "title": "Input", "required": ["prompt"], "properties": fields},
        "Output": {"title": "Output", **output},
    }
    return {"openapi": "3.0.2", "info": {"title": "Cog", "version": "0.1.0"}, "components": {"schemas": schemas}}


class _Input:
    # Reads fields and collects what is wrong with them, so that one answer names all mistakes.
    def __init__(self, given: Mapping[str, Any], mistakes: list[Mistake]) -> None:
        self._given = given
        self._mistakes = mistakes

    def text(self, name: str, *, required: bool = False) -> str:
        value = self._given.get(name)
        if isinstance(value, str):
            return value
        if value is not None:
            self._mistakes.append(Mistake(f"input.{name}", "Invalid type. Expected: string"))
        elif required:
            self._mistakes.append(Mistake(f"input.{name}", f"{name} is required"))
        return ""

    def word(self, name: str, words: tuple[str, ...], default: str) -> str:
        value = self.text(name) or default
        if value in words:
            return value
        listed = ", ".join(f'"{word}"' for word in words)
        self._mistakes.append(Mistake(f"input.{name}", f"{name} must be one of the following: {listed}"))
        return default

    def number(self, name: str, least: int, most: int, default: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self._mistakes.append(Mistake(f"input.{name}", "Invalid type. Expected: integer"))
            return default
        if not least <= value <= most:
            limit = f"greater than or equal to {least}" if value < least else f"less than or equal to {most}"
            self._mistakes.append(Mistake(f"input.{name}", f"Must be {limit}"))
            return default
        return value

    def refuse(self, name: str, description: str) -> None:
        self._mistakes.append(Mistake(f"input.{name}", description))


def _read_webhook(body: Mapping[str, Any], mistakes: list[Mistake]) -> tuple[str | None, frozenset[str]]:
    # Without a filter the vendor sends new outputs and the end.
    webhook, events = body.get("webhook"), body.get("webhook_events_filter")
    if webhook is not None and not (isinstance(webhook, str) and re.match(r"https?://[^/\s]", webhook)):
        mistakes.append(Mistake("webhook", "Must be a URL"))
        webhook = None
    if events is None:
        events = ["output", "completed"]
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        mistakes.append(Mistake("webhook_events_filter", f"Must be a list of {', '.join(EVENTS)}"))
        events = []
    return webhook, frozenset(events)


def _read_size(fields: _Input, model: Model) -> tuple[int, int]:
    # `width` and `height` as some models take them, else a ratio: a picture of about a megapixel, a film of its
    # resolution's height (of its shorter side when it stands).
    width, height = fields.number("width", 64, 2048, 0), fields.number("height", 64, 2048, 0)
    if width and height:
        return width // 2 * 2, height // 2 * 2
    ratio = fields.text("aspect_ratio") or ("16:9" if model.film else "1:1")
    found = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", ratio)
    if found is None or not 9 / 21 <= int(found[1]) / int(found[2]) <= 21 / 9:
        if ratio not in ("custom", "match_input_image"):
            fields.refuse("aspect_ratio", "aspect_ratio must be one of the ratios from 21:9 to 9:21")
        return 1024, 1024
    across, down = int(found[1]), int(found[2])
    if model.film:
        short = _HEIGHTS[fields.word("resolution", tuple(_HEIGHTS), "480p")]
        long = round(short * max(across, down) / min(across, down)) // 16 * 16
        return (long, short) if across >= down else (short, long)
    scale: float = (1024 * 1024 * down / across) ** 0.5
    return round(scale * across / down) // 16 * 16, round(scale) // 16 * 16
