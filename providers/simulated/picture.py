"""The pictures that simulated providers make: real PNG, JPEG and WebP files with the prompt written on them.

A picture is a pure function of what was asked for, so nothing of it need be stored. Colours come from a hash of prompt
and index, so that pictures differ by both. `painter.py` decides when one is drawn, `film.py` makes a still move. Pillow
is imported only when a picture is drawn; it belongs to the extra `simulators`, and the daemon runs without it.
"""

import hashlib
import io
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["png", "jpeg", "webp"]

PIXELS_MAX = 4096 * 4096
"""The largest picture, in pixels; a simulator refuses a larger size before it gets here."""
SHOWN_CHARACTERS = 600
"""Characters of a prompt that are drawn at most."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture depends on. width and height in pixels; index: which one of a request's pictures; caption: a
    last line; black: nothing but black, as a safety checker leaves it.
    """

    prompt: str
    width: int
    height: int
    format: Format = "png"
    index: int = 0
    caption: str = ""
    transparent: bool = False
    black: bool = False

    @property
    def content_type(self) -> str:
        """What a download of it is called on the wire."""
        return f"image/{self.format}"


class PillowMissingError(RuntimeError):
    """The simulators were started where Pillow is not installed."""


def render(picture: Picture) -> bytes:
    """The file of one picture. ValueError: its size is outside `PIXELS_MAX`."""
    canvas = draw(picture)
    file = io.BytesIO()
    match picture.format:
        case "png":
            canvas.save(file, "PNG", compress_level=1)
        case "jpeg":
            canvas.save(file, "JPEG", quality=85)
        case "webp":
            canvas.save(file, "WEBP", method=0)
    return file.getvalue()


def draw(picture: Picture) -> "Image.Image":
    """Draw one picture: a gradient in two colours of the prompt, the prompt wrapped over it, the caption below."""
    pillow = load_pillow()
    width, height = picture.width, picture.height
    if not (0 < width * height <= PIXELS_MAX):
        raise ValueError(f"a picture of {width}x{height} is outside 1 to {PIXELS_MAX} pixels")
    digest = hashlib.sha256(f"{picture.index}/{picture.prompt}".encode()).digest()
    top, bottom = f"hsl({digest[0] * 360 // 256}, 60%, 28%)", f"hsl({digest[1] * 360 // 256}, 55%, 46%)"
    gradient = pillow.Image.linear_gradient("L").resize((width, height), pillow.Image.Resampling.NEAREST)
    canvas: Image.Image = pillow.ImageOps.colorize(gradient, top, bottom)
    if picture.black:
        canvas = pillow.Image.new("RGB", (width, height))
    else:
        _write(pillow, canvas, picture)
    if picture.transparent:
        canvas.putalpha(gradient)
    return canvas


def load_pillow() -> ModuleType:
    """The package PIL with what is used of it loaded. PillowMissingError names the extra to install."""
    try:
        import PIL  # noqa: PLC0415 - the daemon must run without it
        import PIL.Image  # noqa: PLC0415
        import PIL.ImageDraw  # noqa: PLC0415
        import PIL.ImageFont  # noqa: PLC0415
        import PIL.ImageOps  # noqa: PLC0415
    except ImportError as missing:
        raise PillowMissingError(
            "the provider simulators draw with Pillow, which is not installed: pip install 'pointsman[simulators]'"
        ) from missing
    return PIL


def _write(pillow: ModuleType, canvas: "Image.Image", picture: Picture) -> None:
    # The prompt is as large as still fits above the caption: a long one is written smaller, and a picture too small for
    # any text stays plain.
    margin = max(2, picture.width // 24)
    draw = pillow.ImageDraw.Draw(canvas)
    small = max(8, picture.width // 40)
    foot = picture.height - margin - small * 5 // 4 if picture.caption else picture.height - margin
    if picture.caption and foot > margin:
        draw.text((margin, foot), picture.caption, font=pillow.ImageFont.load_default(size=small), fill="white")
    for size in (picture.width // 12, picture.width // 18, picture.width // 28, picture.width // 44, 8):
        per_line = int((picture.width - 2 * margin) / max(1.0, size * 0.55))
        lines = textwrap.wrap(picture.prompt[:SHOWN_CHARACTERS], per_line) if per_line > 0 else []
        if size >= 8 and lines and len(lines) * size * 1.25 <= foot - margin:
            font = pillow.ImageFont.load_default(size=size)
            draw.multiline_text((margin, margin), "\n".join(lines), font=font, fill="white", spacing=size // 4)
            return
