"""An order to Black Forest Labs: which models there are, what a body may say, what the picture costs.

Pure: a parsed body in, a `FluxOrder` or the list of a 422's details out. Unknown fields are passed over.
Source: the provider file of BFL, sections 2, 4 and 5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from providers.simulated.picture import Format

MEGAPIXEL = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxModel:
    """One path below /v1. first_usd, further_usd: per started megapixel; with_input_usd: the least with an input
    picture; latency_s: typical, unscaled; shape: how the size is asked for; active_max: jobs of this model at once,
    None for the account's.
    """

    first_usd: Decimal
    further_usd: Decimal = Decimal(0)
    with_input_usd: Decimal = Decimal(0)
    latency_s: float = 5.0
    shape: Literal["free", "flux1", "ratio"] = "free"
    tolerance_max: int = 6
    needs_picture: str | None = None
    active_max: int | None = None
    ratio_megapixels: int = 1


def _usd(amount: str) -> Decimal:
    return Decimal(amount)


# Latencies: pro and max 3 to 15 s, klein under 2, flex and ultra 8 to 30. The file has no price of flux-dev and of
# expand: the public one of flux-dev and that of fill are taken.
MODELS: Mapping[str, FluxModel] = {
    "flux-2-klein-4b": FluxModel(first_usd=_usd("0.014"), latency_s=1.5, tolerance_max=5),
    "flux-2-klein-9b": FluxModel(first_usd=_usd("0.015"), latency_s=1.5, tolerance_max=5),
    "flux-2-pro": FluxModel(
        first_usd=_usd("0.03"), further_usd=_usd("0.015"), with_input_usd=_usd("0.045"), tolerance_max=5
    ),
    "flux-2-max": FluxModel(first_usd=_usd("0.07"), further_usd=_usd("0.03"), tolerance_max=5),
    "flux-2-flex": FluxModel(first_usd=_usd("0.05"), further_usd=_usd("0.05"), latency_s=12.0, tolerance_max=5),
    "flux-kontext-pro": FluxModel(first_usd=_usd("0.04"), shape="ratio"),
    "flux-kontext-max": FluxModel(first_usd=_usd("0.08"), shape="ratio", active_max=6),
    "flux-pro-1.1": FluxModel(first_usd=_usd("0.04"), shape="flux1"),
    "flux-pro-1.1-ultra": FluxModel(first_usd=_usd("0.06"), shape="ratio", latency_s=12.0, ratio_megapixels=4),
    "flux-dev": FluxModel(first_usd=_usd("0.025"), shape="flux1"),
    "flux-pro-1.0-fill": FluxModel(first_usd=_usd("0.05"), shape="flux1", needs_picture="image"),
    "flux-pro-1.0-expand": FluxModel(first_usd=_usd("0.05"), shape="flux1", needs_picture="image"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxOrder:
    """A valid order. width, height in pixels; inputs: pictures sent along; seed: the caller's or one made of the
    prompt.
    """

    model: str
    prompt: str
    width: int
    height: int
    format: Format
    seed: int
    inputs: int
    webhook_url: str | None

    def price_usd(self) -> Decimal:
        """The list price in US dollars."""
        model = MODELS[self.model]
        further = -(-self.width * self.height // MEGAPIXEL) - 1
        price = model.first_usd + further * model.further_usd
        return max(price, model.with_input_usd) if self.inputs else price


@dataclass(frozen=True, slots=True)
class Detail:
    """One row of a 422: the field below `body`, a sentence, and the checker's word for the mistake."""

    field: str
    message: str
    kind: str

    def as_json(self) -> dict[str, Any]:
        """The row as FastAPI writes it."""
        return {"loc": ["body", self.field], "msg": self.message, "type": self.kind}


def read_flux_order(model: str, body: Mapping[str, Any]) -> FluxOrder | list[Detail]:
    """Check a body for a model of `MODELS`. Every mistake has its row."""
    rules, details = MODELS[model], _Details(body)
    prompt = details.text("prompt", required=True)
    seed = details.number("seed", -(2**63), 2**63, None)
    details.number("safety_tolerance", 0, rules.tolerance_max, 2)
    file_format = details.text("output_format", words=("jpeg", "png")) or "jpeg"
    details.number("steps", 1, 50, None)
    webhook_url = details.text("webhook_url")
    inputs = [name for name in body if re.fullmatch(r"input_image(_[2-8])?|image|image_prompt", name)]
    for name in inputs:
        details.text(name)
    if rules.needs_picture is not None:
        details.text(rules.needs_picture, required=True)
    width, height = _read_ratio(details, rules) if rules.shape == "ratio" else _read_sides(details, rules)
    if details.found:
        return details.found
    return FluxOrder(
        model=model,
        prompt=prompt,
        width=width,
        height=height,
        format="png" if file_format == "png" else "jpeg",
        seed=sum(prompt.encode()) if seed is None else seed,
        inputs=len(inputs),
        webhook_url=webhook_url or None,
    )


class _Details:
    # Reads fields and collects what is wrong with them, so that one answer names all mistakes.
    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.found: list[Detail] = []

    def text(self, name: str, *, required: bool = False, words: tuple[str, ...] = ()) -> str:
        value = self._body.get(name)
        if value is None and name in self._body:
            value = None if required else ""
        elif value is None:
            value = "" if not required else None
        if value is None:
            self.found.append(Detail(name, "Field required", "missing"))
        elif not isinstance(value, str):
            self.found.append(Detail(name, "Input should be a valid string", "string_type"))
        elif value and words and value not in words:
            self.found.append(Detail(name, f"Input should be {' or '.join(map(repr, words))}", "enum"))
        return value if isinstance(value, str) else ""

    def number(self, name: str, least: int, most: int, default: int | None) -> int | None:
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.found.append(Detail(name, "Input should be a valid integer", "int_type"))
            return default
        if value < least:
            self.found.append(Detail(name, f"Input should be greater than or equal to {least}", "greater_than_equal"))
        if value > most:
            self.found.append(Detail(name, f"Input should be less than or equal to {most}", "less_than_equal"))
        return value


def _read_sides(details: _Details, rules: FluxModel) -> tuple[int, int]:
    # FLUX.2: multiples of 16 from 64, together at most 4 megapixels. FLUX.1: 256 to 1440, multiples of 32.
    least, most, step = (256, 1440, 32) if rules.shape == "flux1" else (64, 4 * MEGAPIXEL // 64, 16)
    sides = [details.number(name, least, most, 1024) or 1024 for name in ("width", "height")]
    for name, side in zip(("width", "height"), sides, strict=True):
        if side % step:
            details.found.append(Detail(name, f"Input should be a multiple of {step}", "multiple_of"))
    if rules.shape == "free" and sides[0] * sides[1] > 4 * MEGAPIXEL:
        details.found.append(Detail("width", "width times height should be at most 4 megapixels", "value_error"))
    return sides[0], sides[1]


def _read_ratio(details: _Details, rules: FluxModel) -> tuple[int, int]:
    ratio = details.text("aspect_ratio") or "1:1"
    found = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", ratio)
    if found is None or not 9 / 21 <= int(found[1]) / int(found[2]) <= 21 / 9:
        details.found.append(Detail("aspect_ratio", "Input should be a ratio from 21:9 to 9:21", "value_error"))
        return 1024, 1024
    # The pixels stay about the same; only their shape follows the ratio.
    scale = (rules.ratio_megapixels * MEGAPIXEL * int(found[2]) / int(found[1])) ** 0.5
    return round(scale * int(found[1]) / int(found[2])) // 16 * 16, round(scale) // 16 * 16
