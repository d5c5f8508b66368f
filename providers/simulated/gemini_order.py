"""An order for a picture in Gemini's dialect: the models, the rules of a body, the tokens and what they cost.

Pure: a parsed body in, a `GeminiOrder` or an `Invalid` out. Every field is taken in camelCase and in snake_case, as the
server takes it, and base64 in both alphabets. Fields that the file does not name are passed over.
Source: the provider file of Gemini images, sections 2, 3, 4 and 8.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from providers.simulated.google_inline import find_flaw, pick
from providers.simulated.google_status import Invalid

PICTURES_MAX = 14
PICTURE_TOKENS = 258
"""Tokens of a picture sent along. The file has no number for it."""
MILLION = Decimal(1_000_000)

_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
_SIDES = {"512": 512, "1K": 1024, "2K": 2048, "4K": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiModel:
    """The rules of one model. tokens: of one picture, by image size; sized: whether `imageSize` is taken; input_usd,
    output_usd: per million tokens; thinks: its answers hold a draft; latency_s: typical for 1K, unscaled.
    """

    tokens: Mapping[str, int]
    input_usd: Decimal = Decimal("0.30")
    output_usd: Decimal = Decimal(30)
    sized: bool = True
    ratios: Sequence[str] = _RATIOS
    thinks: bool = False
    latency_s: float = 10.0


# Tokens times the price give the list prices of a picture: .134 and .24 at 120, .045 and .067 at 60, .0336 at 30. No
# price is listed for 3.1-flash at 2K and 4K, nor for inputs of the models without `input_usd`; what stands here for
# those only keeps the order.
_LITE = GeminiModel(tokens={"1K": 1120, "2K": 1680, "4K": 2520}, thinks=True)
MODELS: Mapping[str, GeminiModel] = {
    "gemini-2.5-flash-image": GeminiModel(tokens={"1K": 1290}, sized=False),
    "gemini-3-pro-image": GeminiModel(
        tokens={"1K": 1120, "2K": 1120, "4K": 2000},
        input_usd=Decimal(2),
        output_usd=Decimal(120),
        thinks=True,
        latency_s=20.0,
    ),
    "gemini-3.1-flash-image": GeminiModel(
        tokens={"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
        output_usd=Decimal(60),
        ratios=(*_RATIOS, "1:4", "4:1", "1:8", "8:1"),
        thinks=True,
    ),
    "gemini-3.1-flash-lite-image": _LITE,
    "nano-banana-2.1": _LITE,
}
_SLOWER = {"512": 1.0, "1K": 1.0, "2K": 1.5, "4K": 6.0}  # up to 170 s are seen for 4K


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOrder:
    """A valid order. width, height in pixels; size: the word of `imageSize`, settled; inputs: pictures sent along;
    talks: whether text may stand beside the picture.
    """

    model: str
    rules: GeminiModel
    prompt: str
    width: int
    height: int
    size: str
    inputs: int
    talks: bool

    @property
    def latency_s(self) -> float:
        """Typical unscaled seconds of the work."""
        return self.rules.latency_s * _SLOWER[self.size]

    def count(self, *, picture: bool = True, text: str = "") -> "GeminiUsage":
        """The tokens of an answer with or without a picture; text: what it says in a picture's place."""
        return GeminiUsage(
            text_in=(len(self.prompt) + 3) // 4,
            image_in=self.inputs * PICTURE_TOKENS,
            text_out=(len(text) + 3) // 4,
            image_out=self.rules.tokens[self.size] if picture else 0,
        )

    def price(self, usage: "GeminiUsage") -> Decimal:
        """What these tokens cost with this model, in US dollars."""
        tokens_in, tokens_out = usage.text_in + usage.image_in, usage.text_out + usage.image_out
        return (tokens_in * self.rules.input_usd + tokens_out * self.rules.output_usd) / MILLION


@dataclass(frozen=True, slots=True)
class GeminiUsage:
    """Tokens of one answer."""

    text_in: int
    image_in: int
    text_out: int
    image_out: int

    def as_json(self) -> dict[str, Any]:
        """The member `usageMetadata`; an answer without output has no count of candidates."""
        tokens_in, tokens_out = self.text_in + self.image_in, self.text_out + self.image_out
        body: dict[str, Any] = {
            "promptTokenCount": tokens_in,
            "totalTokenCount": tokens_in + tokens_out,
            "promptTokensDetails": _detail(self.text_in, self.image_in),
        }
        if tokens_out:
            body["candidatesTokenCount"] = tokens_out
            body["candidatesTokensDetails"] = _detail(self.text_out, self.image_out)
        return body


def read_gemini_order(model: str, body: Mapping[str, Any]) -> GeminiOrder | Invalid:
    """Check a body for a model. A model of the options that the file does not have follows its family's rules."""
    rules = MODELS.get(model) or next((MODELS[name] for name in MODELS if model.startswith(name)), _LITE)
    try:
        prompt, inputs = _read_contents(body)
        size, ratio, talks = _read_settings(_object(body, "generationConfig"), rules, model)
    except _InvalidError as invalid:
        return Invalid(str(invalid))
    width, height = _measure(size, ratio)
    return GeminiOrder(
        model=model,
        rules=rules,
        prompt=prompt,
        width=width,
        height=height,
        size=size,
        inputs=inputs,
        talks=talks,
    )


class _InvalidError(Exception):
    # Ends the reading of a body; its text is the sentence of the answer.
    pass


def _read_contents(body: Mapping[str, Any]) -> tuple[str, int]:
    texts: list[str] = []
    pictures = 0
    for where, part in _parts(body):
        text, inline, file = (pick(part, name) for name in ("text", "inlineData", "fileData"))
        if sum(value is not None for value in (text, inline, file)) != 1:
            raise _InvalidError(f"{where}: required oneof field 'data' must have one initialized field")
        if text is not None:
            if not isinstance(text, str):
                raise _InvalidError(f"{where}.text: must be a string")
            texts.append(text)
        elif inline is not None:
            if not isinstance(inline, dict):
                raise _InvalidError(f"{where}.inlineData: must be a message")
            flaw = find_flaw(pick(inline, "mimeType"), inline.get("data"))
            if flaw is not None:
                raise _InvalidError(f"{where}.inlineData.{flaw[0]}: {flaw[1]}")
            pictures += 1
        else:
            if not isinstance(file, dict) or not isinstance(pick(file, "fileUri"), str):
                raise _InvalidError(f"{where}.fileData.fileUri: must be a string")
            pictures += 1
    if pictures > PICTURES_MAX:
        raise _InvalidError(f"contents: at most {PICTURES_MAX} images per prompt")
    if not "".join(texts).strip() and not pictures:
        raise _InvalidError("contents: the prompt is empty")
    return "\n".join(texts), pictures


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    contents = body.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents:
        raise _InvalidError("contents is not specified")
    for number, content in enumerate(contents):
        where = f"contents[{number}]"
        if not isinstance(content, dict) or content.get("role") not in (None, "user", "model"):
            raise _InvalidError(f"{where}.role: please use a valid role: user, model.")
        parts = content.get("parts")
        if not isinstance(parts, list) or not parts:
            raise _InvalidError(f"{where}.parts: contents must not be empty")
        for index, part in enumerate(parts):
            if not isinstance(part, dict):
                raise _InvalidError(f"{where}.parts[{index}]: must be a message")
            yield f"{where}.parts[{index}]", part


def _read_settings(settings: Mapping[str, Any], rules: GeminiModel, model: str) -> tuple[str, str, bool]:
    # The image size, the aspect ratio, and whether text may stand beside the picture.
    if pick(settings, "candidateCount") not in (None, 1):
        raise _InvalidError("generationConfig.candidateCount: multiple candidates is not enabled for this model")
    seed, modalities = pick(settings, "seed"), pick(settings, "responseModalities")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise _InvalidError("generationConfig.seed: must be an integer")
    if modalities not in (None, ["TEXT", "IMAGE"], ["IMAGE", "TEXT"], ["IMAGE"]):
        raise _InvalidError("generationConfig.responseModalities: not supported by this model")
    config, where = _object(settings, "imageConfig", "generationConfig."), "generationConfig.imageConfig"
    if pick(config, "imageSize") is not None and not rules.sized:
        raise _InvalidError(f"{where}.imageSize: not supported by {model}")
    size = _word(config, "imageSize", tuple(rules.tokens), where)
    ratio = _word(config, "aspectRatio", rules.ratios, where)
    _word(config, "personGeneration", ("ALLOW_ALL", "ALLOW_ADULT", "ALLOW_NONE"), where)
    return size or "1K", ratio or "1:1", modalities != ["IMAGE"]


def _word(config: Mapping[str, Any], name: str, words: Sequence[str], where: str) -> str:
    value = pick(config, name)
    if value is not None and value not in words:
        raise _InvalidError(f"{where}.{name}: must be one of {', '.join(words)}")
    return value or ""


def _measure(size: str, ratio: str) -> tuple[int, int]:
    # The pixels stay about those of the square; the sides are multiples of 16.
    across, down = map(int, ratio.split(":"))
    scale = _SIDES[size] * float(across / down) ** 0.5
    return int(scale) // 16 * 16, int(scale * down / across) // 16 * 16


def _detail(text: int, image: int) -> list[dict[str, Any]]:
    counts = (("TEXT", text), ("IMAGE", image))
    return [{"modality": modality, "tokenCount": count} for modality, count in counts if count]


def _object(body: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    value = pick(body, name)
    if value is not None and not isinstance(value, dict):
        raise _InvalidError(f"{where}{name}: must be a message")
    return value or {}
