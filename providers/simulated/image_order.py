"""An order for pictures in the OpenAI Images dialect, and the rules by which a server takes or refuses it.

Pure: parsed fields in, an `Order` or an `Invalid` out. Which rules apply depends on the model's family; each seller
brings its own families. Fields that the dialect does not know are passed over, as the vendor's servers do.
Sources: the provider file of the OpenAI images API, sections 3 and 6; of APIYI, section 4.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from providers.simulated.body_fields import (
    FieldError,
    Invalid,
    list_words,
    read_flag,
    read_number,
    read_text,
    read_word,
)
from providers.simulated.picture import Format

__all__ = ("ANY_MODEL", "OPENAI_FAMILIES", "Endpoint", "Family", "Invalid", "Order", "find_family", "read_order")

Endpoint = Literal["generation", "edit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The rules of some models. sizes: the words taken for `size`; free_sizes: WIDTHxHEIGHT besides, under the rules
    of `_read_free_size` unless size_ignored. n_max: pictures per order. reports_usage: replies count tokens.
    input_fidelities: the words of that field, none where it is refused.
    """

    sizes: Collection[str]
    qualities: Collection[str]
    free_sizes: bool = False
    size_ignored: bool = False
    n_max: int = 10
    prompt_max: int = 32_000
    reports_usage: bool = False
    streams: bool = False
    input_fidelities: Collection[str] = ()
    takes_mask: bool = True
    takes_markup: bool = False
    takes_style: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A valid order. width, height in pixels, `auto` settled to 1024x1024; quality: the word, `auto` settled to
    medium where the family has it; wants_url: what `response_format` says, None if absent; inputs: pictures sent
    along.
    """

    endpoint: Endpoint
    family: Family
    model: str
    prompt: str
    n: int
    width: int
    height: int
    quality: str
    format: Format
    transparent: bool
    wants_url: bool | None
    stream: bool
    partial_images: int
    inputs: int


_GPT_SIZES = ("auto", "1024x1024", "1536x1024", "1024x1536")
_GPT_QUALITIES = ("auto", "low", "medium", "high")
_GPT_1 = Family(
    sizes=_GPT_SIZES, qualities=_GPT_QUALITIES, reports_usage=True, streams=True, input_fidelities=("low", "high")
)
_GPT_1_MINI = replace(_GPT_1, input_fidelities=("low",))
_GPT_2 = Family(sizes=_GPT_SIZES, qualities=_GPT_QUALITIES, free_sizes=True, reports_usage=True, streams=True)
_GPT_2_5 = replace(_GPT_2, qualities=(*_GPT_QUALITIES, "xhigh", "max"), takes_markup=True)
_DALLE_3 = Family(
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    qualities=("auto", "standard", "hd"),
    n_max=1,
    prompt_max=4000,
    takes_style=True,
)
# The size list of dall-e-2 is not in the provider file; these are the three that its public reference had.
_DALLE_2 = Family(sizes=("256x256", "512x512", "1024x1024"), qualities=("auto", "standard"), prompt_max=1000)

ANY_MODEL = Family(
    sizes=("auto",), qualities=(*_GPT_QUALITIES, "xhigh", "max", "standard", "hd"), free_sizes=True, streams=True
)
"""The rules for models that an aggregator serves and OpenAI never had."""

OPENAI_FAMILIES: Sequence[tuple[str, Family]] = (
    ("gpt-image-2.", _GPT_2_5),
    ("gpt-image-2", _GPT_2),
    ("gpt-image-1-mini", _GPT_1_MINI),
    ("gpt-image-1", _GPT_1),
    ("chatgpt-image", _GPT_1),
    ("dall-e-3", _DALLE_3),
    ("dall-e-2", _DALLE_2),
)
"""By the beginning of the model's name, the first that fits."""


def find_family(model: str, families: Sequence[tuple[str, Family]]) -> Family:
    """The rules of a model; `ANY_MODEL` for a name that no family claims."""
    return next((family for prefix, family in families if model.startswith(prefix)), ANY_MODEL)


def read_order(
    fields: Mapping[str, Any],
    endpoint: Endpoint,
    *,
    families: Sequence[tuple[str, Family]],
    models: Collection[str] | None,
    inputs: int = 0,
    mask: bool = False,
    mask_fits: bool = True,
    markup: bool = False,
) -> Order | Invalid:
    """Check the fields of a body. models: the only ones known, or None. inputs: how many pictures came with an edit;
    mask_fits: the mask is as large as the first of them.
    """
    try:
        order = _read(fields, endpoint, families, models, inputs)
        if endpoint == "edit":
            _check_edit(fields, order.family, inputs=inputs, mask=mask, mask_fits=mask_fits, markup=markup)
        return order
    except FieldError as found:
        return found.invalid


def _read(
    fields: Mapping[str, Any],
    endpoint: Endpoint,
    families: Sequence[tuple[str, Family]],
    models: Collection[str] | None,
    inputs: int,
) -> Order:
    model = read_text(fields, "model")
    if models is not None and model not in models:
        raise FieldError(f"The model '{model}' does not exist.", "model", "model_not_found", 404)
    family = find_family(model, families)
    prompt = read_text(fields, "prompt")
    if len(prompt) > family.prompt_max:
        raise FieldError(f"Invalid 'prompt': string too long, the maximum is {family.prompt_max}.", "prompt")
    width, height = _read_size(fields, family)
    quality = read_word(fields, "quality", family.qualities, "auto")
    file_format = read_word(fields, "output_format", ("png", "jpeg", "webp"), "png")
    background = read_word(fields, "background", ("auto", "opaque", "transparent"), "auto")
    if background == "transparent" and file_format == "jpeg":
        raise FieldError("Transparent background is not supported for jpeg output.", "background")
    if read_number(fields, "output_compression", 0, 100, 100) != 100 and file_format == "png":
        raise FieldError("Compression less than 100 is not supported for png output.", "output_compression")
    read_word(fields, "moderation", ("auto", "low"), "auto")
    read_word(fields, "complexity", ("low", "medium", "high"), "medium")
    if not family.takes_style and fields.get("style") is not None:
        raise FieldError("Unknown parameter: 'style'.", "style", "unknown_parameter")
    read_word(fields, "style", ("vivid", "natural"), "vivid")
    response_format = read_word(fields, "response_format", ("url", "b64_json"), "")
    stream = read_flag(fields, "stream")
    if stream and not family.streams:
        raise FieldError("Unknown parameter: 'stream'.", "stream", "unknown_parameter")
    return Order(
        endpoint=endpoint,
        family=family,
        model=model,
        prompt=prompt,
        n=read_number(fields, "n", 1, family.n_max, 1),
        width=width,
        height=height,
        quality=("medium" if "medium" in family.qualities else "standard") if quality == "auto" else quality,
        format=_FORMATS[file_format],
        transparent=background == "transparent",
        wants_url=response_format == "url" if response_format else None,
        stream=stream,
        partial_images=read_number(fields, "partial_images", 0, 3, 0),
        inputs=inputs,
    )


_FORMATS: Mapping[str, Format] = {"png": "png", "jpeg": "jpeg", "webp": "webp"}


def _check_edit(
    fields: Mapping[str, Any], family: Family, *, inputs: int, mask: bool, mask_fits: bool, markup: bool
) -> None:
    if inputs == 0:
        raise FieldError("Missing required parameter: 'image'.", "image", "missing_required_parameter")
    if inputs > 16:
        raise FieldError("Invalid 'image': at most 16 images.", "image")
    if mask and not family.takes_mask:
        raise FieldError("Unknown parameter: 'mask'.", "mask", "unknown_parameter")
    if mask and not mask_fits:
        raise FieldError("Invalid 'mask': it must have the size of the first image.", "mask", "invalid_image_file")
    if markup and not family.takes_markup:
        raise FieldError("Unknown parameter: 'markup'.", "markup", "unknown_parameter")
    if markup and mask:
        raise FieldError("Invalid 'markup': not together with 'mask'.", "markup")
    if fields.get("input_fidelity") is not None and not family.input_fidelities:
        raise FieldError("Unknown parameter: 'input_fidelity'.", "input_fidelity", "unknown_parameter")
    read_word(fields, "input_fidelity", family.input_fidelities, "low")


def _read_size(fields: Mapping[str, Any], family: Family) -> tuple[int, int]:
    size = fields.get("size")
    if size is not None and not isinstance(size, str):
        raise FieldError("Invalid type for 'size': expected a string.", "size")
    if family.size_ignored or size in (None, "auto"):
        if size == "auto" and "auto" not in family.sizes:
            raise FieldError(f"Invalid value: 'auto'. Supported values are: {list_words(family.sizes)}.", "size")
        return 1024, 1024
    if size not in family.sizes and not family.free_sizes:
        raise FieldError(f"Invalid value: {size[:40]!r}. Supported values are: {list_words(family.sizes)}.", "size")
    return _read_free_size(size)


def _read_free_size(size: str) -> tuple[int, int]:
    # From gpt-image-2 on: both sides divisible by 16, ratio within 1:3 to 3:1, at most 3840x2160 in either
    # orientation.
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if found is None:
        raise FieldError(f"Invalid value: {size[:40]!r}. Expected WIDTHxHEIGHT or 'auto'.", "size")
    width, height = int(found[1]), int(found[2])
    short, long = sorted((width, height))
    if width % 16 or height % 16:
        raise FieldError(f"Invalid size {size!r}: width and height must be divisible by 16.", "size")
    if long > 3 * short:
        raise FieldError(f"Invalid size {size!r}: the ratio must be between 1:3 and 3:1.", "size")
    if long > 3840 or width * height > 3840 * 2160:
        raise FieldError(f"Invalid size {size!r}: the maximum is 3840x2160.", "size")
    return width, height
