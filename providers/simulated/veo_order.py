"""An order for films in Veo's dialect: the models, the rules of `instances` and `parameters`, the price per second.

Pure: a parsed body in, a `VeoOrder` or an `Invalid` out. Both styles of every name are taken, and fields that the file
does not name are passed over.
Source: the provider file of Veo, sections 1 and 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from providers.simulated.film import Film
from providers.simulated.google_inline import find_flaw, pick
from providers.simulated.google_status import Invalid

REFERENCES_MAX = 3
_ASSET = ("asset", "ASSET")  # the file prints the one, the official SDK sends the other
_SHORT_SIDES = {"720p": 720, "1080p": 1080, "4k": 2160}


@dataclass(frozen=True, slots=True, kw_only=True)
class VeoModel:
    """The rules of one model. usd_per_s: by resolution, which are those it takes; samples_max: films of one order;
    latency_s: typical, unscaled.
    """

    usd_per_s: Mapping[str, Decimal]
    samples_max: int = 1
    latency_s: float = 60.0


def _prices(*amounts: str) -> dict[str, Decimal]:
    return dict(zip(_SHORT_SIDES, map(Decimal, amounts), strict=False))


# The file lists prices of the 3.1 models and says that some models make up to four films. Which ones it leaves open, as
# it does the prices and resolutions of the older models: these take four, at the prices of their successors.
_FULL = VeoModel(usd_per_s=_prices("0.40", "0.40", "0.60"))
_FAST = VeoModel(usd_per_s=_prices("0.10", "0.12", "0.30"), latency_s=30.0)
_OLDER = VeoModel(usd_per_s=_prices("0.40"), samples_max=4)
MODELS: Mapping[str, VeoModel] = {
    "veo-3.1-generate-001": _FULL,
    "veo-3.1-fast-generate-001": _FAST,
    "veo-3.1-lite-generate-001": VeoModel(usd_per_s=_prices("0.05", "0.08"), latency_s=15.0),
    "veo-3.1-generate-preview": _FULL,
    "veo-3.1-fast-generate-preview": _FAST,
    "veo-3.0-generate-001": _OLDER,
    "veo-3.0-fast-generate-001": VeoModel(usd_per_s=_prices("0.10"), samples_max=4, latency_s=30.0),
    "veo-2.0-generate-001": _OLDER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VeoOrder:
    """A valid order, with the film that each sample is."""

    model: str
    rules: VeoModel
    prompt: str
    seconds: int
    resolution: str
    samples: int
    films: tuple[Film, ...]

    def price_usd(self) -> Decimal:
        """The list price of all samples in US dollars."""
        return self.rules.usd_per_s[self.resolution] * self.seconds * self.samples


def read_veo_order(model: str, body: Mapping[str, Any]) -> VeoOrder | Invalid:
    """Check a body for a model. A model of the options that the file does not have is taken for a full 3.1."""
    rules = MODELS.get(model, _FULL)
    instances, parameters = body.get("instances"), body.get("parameters")
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        return Invalid("instances: must be a list of one instance")
    if parameters is not None and not isinstance(parameters, dict):
        return Invalid("parameters: must be a struct")
    try:
        prompt, references = _read_instance(instances[0])
        asked = _Parameters(parameters or {})
        ratio = asked.word("aspectRatio", ("16:9", "9:16"))
        resolution = asked.word("resolution", tuple(rules.usd_per_s))
        seconds = asked.number("durationSeconds", (4, 6, 8), 8)
        samples = asked.number("sampleCount", range(1, rules.samples_max + 1), 1)
        asked.word("personGeneration", ("allow_all", "allow_adult", "dont_allow"))
        asked.number("seed", range(2**32), 0)
        asked.text("negativePrompt")
    except _InvalidError as invalid:
        return Invalid(str(invalid))
    if seconds != 8 and (references or resolution != "720p"):
        return Invalid("parameters.durationSeconds: must be 8 with references, 1080p or 4k")
    short = _SHORT_SIDES[resolution]
    width, height = (short * 16 // 9, short) if ratio == "16:9" else (short, short * 16 // 9)
    caption = f"{model}  {width}x{height}  {seconds} s"
    films = tuple(Film(prompt, width, height, float(seconds), index=index, caption=caption) for index in range(samples))
    return VeoOrder(
        model=model,
        rules=rules,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        samples=samples,
        films=films,
    )


class _InvalidError(Exception):
    # Ends the reading of a body; its text is the sentence of the answer.
    pass


def _read_instance(instance: Mapping[str, Any]) -> tuple[str, bool]:
    # The prompt, and whether reference images came along.
    prompt, image, video = (pick(instance, name) for name in ("prompt", "image", "video"))
    if prompt is not None and not isinstance(prompt, str):
        raise _InvalidError("instances[0].prompt: must be a string")
    if not prompt and image is None and video is None:
        raise _InvalidError("instances[0].prompt: is required without an image or a video")
    if image is not None:
        _check_picture(image, "instances[0].image")
    last = pick(instance, "lastFrame")
    if last is not None:
        if image is None:
            raise _InvalidError("instances[0].lastFrame: needs an image as the first frame")
        _check_picture(last, "instances[0].lastFrame")
    if video is not None and not (isinstance(video, dict) and isinstance(video.get("uri"), str)):
        raise _InvalidError("instances[0].video.uri: must be a string")
    references = pick(instance, "referenceImages")
    if references is not None:
        if not isinstance(references, list) or len(references) > REFERENCES_MAX:
            raise _InvalidError(f"instances[0].referenceImages: at most {REFERENCES_MAX}")
        for index, reference in enumerate(references):
            where = f"instances[0].referenceImages[{index}]"
            if not isinstance(reference, dict) or pick(reference, "referenceType") not in _ASSET:
                raise _InvalidError(f"{where}.referenceType: must be asset")
            _check_picture(reference.get("image"), f"{where}.image")
    return prompt or "", bool(references)


def _check_picture(image: object, where: str) -> None:
    # `bytesBase64Encoded` as the SDK sends it, or `inlineData`; a gcsUri belongs to another surface.
    if not isinstance(image, dict):
        raise _InvalidError(f"{where}: must be a struct")
    inline = pick(image, "inlineData")
    if isinstance(inline, dict):
        flaw = find_flaw(pick(inline, "mimeType"), inline.get("data"))
    else:
        flaw = find_flaw(pick(image, "mimeType"), pick(image, "bytesBase64Encoded"))
    if flaw is not None:
        named = "bytesBase64Encoded" if flaw[0] == "data" and inline is None else flaw[0]
        raise _InvalidError(f"{where}.{named}: {flaw[1]}")


class _Parameters:
    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def text(self, name: str) -> None:
        """The value is a text, or absent."""
        value = pick(self._fields, name)
        if value is not None and not isinstance(value, str):
            raise _InvalidError(f"parameters.{name}: must be a string")

    def word(self, name: str, words: Sequence[str]) -> str:
        """The value, or the first of the words if it is absent."""
        value = pick(self._fields, name)
        if value is None:
            return words[0]
        if value not in words:
            raise _InvalidError(f"parameters.{name}: must be one of {', '.join(words)}")
        return str(value)

    def number(self, name: str, numbers: Sequence[int], default: int) -> int:
        value = pick(self._fields, name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value not in numbers:
            allowed = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 4 else ", ".join(map(str, numbers))
            raise _InvalidError(f"parameters.{name}: must be one of {allowed}")
        return value
