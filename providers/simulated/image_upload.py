"""The body of a request in the OpenAI images or videos dialect, read within bounds: JSON, or a multipart form.

It turns bytes into fields and knows no rules about their values. Part names as the SDK sends them: `image` once,
`image[]` repeated, `image[0]`; `mask`, `markup`; `input_reference` of a video; all other parts are text. A picture's
declared type is not believed, its first bytes are.
Sources: the provider files of the OpenAI images API, section 3, and videos API, section 2; of SDK compatibility,
section 4.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from providers.simulated.body_fields import Invalid, read_object
from providers.simulated.picture import load_pillow

BODY_BYTES = 100 * 1024 * 1024
"""The largest JSON body; a server of the dialect answers 413 above it."""
IMAGE_BYTES = 50 * 1024 * 1024
MASK_BYTES = 4 * 1024 * 1024
TEXT_BYTES = 256 * 1024
PARTS = 64

_PICTURES = ("mask", "markup", "input_reference")
_NUMBERS = ("n", "output_compression", "partial_images")
_FLAGS = {"true": True, "false": False}


Size = tuple[int, int]


@dataclass(slots=True)
class Upload:
    """What a body held: fields by name, how many pictures to work on, and whether other pictures came along.

    sizes: width and height in pixels of the files, by part (`image` is the first of that name). A picture that only
    looks like one has no size here, nor has one that a JSON body only points at.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    inputs: int = 0
    mask: bool = False
    markup: bool = False
    reference: bool = False
    sizes: dict[str, Size] = field(default_factory=dict)

    @property
    def mask_fits(self) -> bool:
        """Whether mask and first picture have the same size, as far as both sizes are known."""
        mask, image = self.sizes.get("mask"), self.sizes.get("image")
        return mask is None or image is None or mask == image


async def read_upload(request: web.Request) -> Upload | Invalid:
    """Read a body of either form. Malformed or too large bodies are an `Invalid`, never an exception."""
    if request.content_type == "multipart/form-data":
        try:
            return await _read_form(request)
        except (
            ValueError,
            AssertionError,
            RuntimeError,
            HttpProcessingError,
        ):  # what aiohttp raises for a malformed form
            return Invalid("The multipart form could not be parsed.", None, None)
    fields = await read_object(request)
    if isinstance(fields, Invalid):
        return fields
    pictures = fields.get("images", fields.get("image"))
    return Upload(
        fields,
        inputs=len(pictures) if isinstance(pictures, list) else int(pictures is not None),
        mask=fields.get("mask") is not None,
        markup=fields.get("markup") is not None,
        reference=fields.get("input_reference") is not None,
    )


async def _read_form(request: web.Request) -> Upload | Invalid:
    upload = Upload()
    parts = 0
    async for part in await request.multipart():
        parts += 1
        if not isinstance(part, BodyPartReader) or parts > PARTS:
            return Invalid(f"Invalid form: at most {PARTS} parts, none of them nested.", None, None)
        name = part.name or ""
        if name in _PICTURES or re.fullmatch(r"image(\[[0-9]*\])?", name):
            refused = await _take_picture(part, name if name in _PICTURES else "image", upload)
            if refused is not None:
                return refused
        else:
            text = await _read_part(part, TEXT_BYTES)
            if text is None:
                return Invalid(f"Invalid '{name[:40]}': too long.", name[:40], "invalid_value", 413)
            upload.fields[name] = _coerce(name, text.decode(errors="replace"))
    return upload


async def _take_picture(part: BodyPartReader, param: str, upload: Upload) -> Invalid | None:
    content = await _read_part(part, MASK_BYTES if param == "mask" else IMAGE_BYTES)
    if content is None:
        return Invalid(f"Invalid '{param}': the file is too large.", param, "image_too_large")
    png = content.startswith(b"\x89PNG\r\n\x1a\n")
    webp = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    overlay = param in ("mask", "markup")
    if not png and (overlay or not (webp or content.startswith(b"\xff\xd8\xff"))):
        return Invalid(f"Invalid '{param}': unsupported file.", param, "invalid_image_file")
    size = _measure(content)
    if size is not None:
        upload.sizes.setdefault(param, size)
    match param:
        case "mask":
            upload.mask = True
        case "markup":
            upload.markup = True
        case "input_reference":
            upload.reference = True
        case _:
            upload.inputs += 1
    return None


def _measure(content: bytes) -> Size | None:
    # Only the head of the file is read here; Pillow decodes pixels later, if at all.
    pillow = load_pillow()
    try:
        with pillow.Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, pillow.Image.DecompressionBombError):
        return None
    return int(width), int(height)


async def _read_part(part: BodyPartReader, limit: int) -> bytes | None:
    # Read on past the limit without keeping it, so that the client sees the refusal and not a broken pipe.
    content, size = bytearray(), 0
    while chunk := await part.read_chunk():
        size += len(chunk)
        if size <= limit:
            content += chunk
    return bytes(content) if size <= limit else None


def _coerce(name: str, text: str) -> Any:
    # All values of a form are text; a text that is no number or flag stays, and the rules refuse it by its type.
    if name in _NUMBERS and re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    flags: Mapping[str, bool] = _FLAGS
    return flags.get(text.lower(), text) if name == "stream" else text
