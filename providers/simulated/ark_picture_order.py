"""An order for pictures by Seedream, and the rules by which Ark takes or refuses it.

Pure: parsed fields in, a `PictureOrder` or a `Refusal` out. There is no `n`: several pictures are a sequence, and the
model decides how many it has, up to what was allowed. Fields that the file does not know are passed over, `n` among
them.
Source: the provider file of Ark, section 2.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from providers.simulated.ark_errors import Refusal, RefusalError
from providers.simulated.ark_fields import (
    SEED_MAX,
    Fields,
    check_kind,
    check_link,
    read_flag,
    read_number,
    read_text,
    read_word,
    wrong,
)
from providers.simulated.picture import PIXELS_MAX, Format, Picture

INPUTS_MAX: Final = 14
"""The file says "10 to 14 depending on model"; which models take fewer it does not say."""
SEQUENCE_MAX: Final = 15
UNASKED: Final = 4
"""Pictures of a sequence without `max_images`: the model decides, and this one for four."""
SIZES: Final = {"1K": 1024, "2K": 2048, "4K": 4096}
"""The sides of the named sizes, taken as squares; 2K is printed as 2048x2048."""
PIXELS_PER_TOKEN: Final = 256
"""The printed reply: 16384 tokens for 2048x2048."""
JPEG_ONLY: Final = ("seedream-3", "seedream-4", "seededit")
"""`png on newer models`, says the file, and its printed models are of the fourth line."""


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """A valid order. width, height in pixels; count: pictures made; inline: base64 instead of links; inputs: pictures
    sent along.
    """

    model: str
    prompt: str
    width: int
    height: int
    count: int
    format: Format
    inline: bool
    stream: bool
    inputs: int

    @property
    def tokens_each(self) -> int:
        """Output tokens of one picture."""
        return self.width * self.height // PIXELS_PER_TOKEN

    def draw_up(self, index: int) -> Picture:
        """The picture that the order gets as its `index`-th."""
        caption = f"{self.model}  {self.width}x{self.height}  {index + 1} of {self.count}"
        return Picture(self.prompt, self.width, self.height, format=self.format, index=index, caption=caption)


def read_picture_order(fields: Fields, models: Collection[str] | None, shortfall: int) -> PictureOrder | Refusal:
    """Check the fields of a body. models: the only ones known, or None. shortfall: by how many a sequence stays below
    what was allowed, one picture at least.
    """
    try:
        return _read(fields, models, shortfall)
    except RefusalError as found:
        return found.refusal


def check_model(model: str, models: Collection[str] | None) -> None:
    """Endpoint ids are models too, so that the catalogue is open unless the options close it."""
    if models is not None and model not in models:
        told = f"The model or endpoint {model} does not exist or you do not have access to it."
        raise RefusalError("InvalidEndpointOrModel.NotFound", told)


def _read(fields: Fields, models: Collection[str] | None, shortfall: int) -> PictureOrder:
    model = read_text(fields, "model")
    check_model(model, models)
    if "seedance" in model:
        raise wrong("model", "the model does not support image generation")
    prompt = read_text(fields, "prompt")
    width, height = _read_size(fields, model)
    formats = ("jpeg",) if any(line in model for line in JPEG_ONLY) else ("jpeg", "png")
    _check_rest(fields)
    return PictureOrder(
        model=model,
        prompt=prompt,
        width=width,
        height=height,
        count=_read_count(fields, shortfall),
        format="png" if read_word(fields, "output_format", formats, "jpeg") == "png" else "jpeg",
        inline=read_word(fields, "response_format", ("url", "b64_json"), "url") == "b64_json",
        stream=read_flag(fields, "stream"),
        inputs=_read_inputs(fields),
    )


def _read_size(fields: Fields, model: str) -> tuple[int, int]:
    size = fields.get("size")
    if size is None:
        return SIZES["2K"], SIZES["2K"]
    if size == "adaptive" and "seededit" in model:
        return 1024, 1024  # the size of its input, which is not looked at
    if isinstance(size, str) and size in SIZES:
        return SIZES[size], SIZES[size]
    found = re.fullmatch(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", size) if isinstance(size, str) else None
    if found is None or int(found[1]) * int(found[2]) > PIXELS_MAX:
        raise wrong("size", f"it must be 1K, 2K, 4K or WIDTHxHEIGHT of at most {PIXELS_MAX} pixels")
    return int(found[1]), int(found[2])


def _read_inputs(fields: Fields) -> int:
    given = fields.get("image")
    links = [] if given is None else given if isinstance(given, list) else [given]
    if len(links) > INPUTS_MAX:
        raise wrong("image", f"at most {INPUTS_MAX} images are allowed")
    for link in links:
        check_link(link, "image")
    return len(links)


def _read_count(fields: Fields, shortfall: int) -> int:
    several = read_word(fields, "sequential_image_generation", ("auto", "disabled"), "disabled") == "auto"
    name = "sequential_image_generation_options"
    check_kind(fields, name, dict, "an object")
    options = fields.get(name)
    most = None if options is None else read_number(options, "max_images", 1, SEQUENCE_MAX)
    return max(1, (UNASKED if most is None else most) - shortfall) if several else 1


def _check_rest(fields: Fields) -> None:
    read_number(fields, "seed", -1, SEED_MAX)
    check_kind(fields, "guidance_scale", (int, float), "a number")
    read_flag(fields, "watermark")
    check_kind(fields, "optimize_prompt", bool, "a boolean")
    check_kind(fields, "optimize_prompt_options", dict, "an object")
    options = fields.get("optimize_prompt_options")
    if options is not None:
        read_word(options, "mode", ("standard", "fast"), "standard")
    check_kind(fields, "tools", list, "a list")
    # An object in the file, a boolean in the SDK.
    check_kind(fields, "layer_decomposition", (dict, bool), "an object")
