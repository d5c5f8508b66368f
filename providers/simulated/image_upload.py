"""The body of a request in the OpenAI Images dialect, read within bounds: JSON, or the multipart form of an edit.

It turns bytes into fields and knows no rules about their values. Part names as the SDK sends them: `image` once,
`image[]` repeated, `image[0]`; `mask`; all other parts are text. A picture's declared type is not believed, its first
bytes are.
Sources: the provider file of the OpenAI images API, section 3; of SDK compatibility, section 4.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from providers.simulated.image_order import Invalid

BODY_BYTES = 100 * 1024 * 1024
"""The largest JSON body; a server of the dialect answers 413 above it."""
IMAGE_BYTES = 50 * 1024 * 1024
MASK_BYTES = 4 * 1024 * 1024
TEXT_BYTES = 256 * 1024
PARTS = 64

_NUMBERS = ("n", "output_compression", "partial_images")
_FLAGS = {"true": True, "false": False}


@dataclass(slots=True)
class Upload:
    """What a body held: fields by name, how many pictures, and whether a mask came along."""

    fields: dict[str, Any] = field(default_factory=dict)
    inputs: int = 0
    mask: bool = False


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
    try:
        fields = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        return Invalid("Request body too large.", None, "request_too_large", 413)
    except (ValueError, RecursionError):
        return Invalid("We could not parse the JSON body of your request.", None, None)
    if not isinstance(fields, dict):
        return Invalid("The body must be a JSON object.", None, None)
    pictures = fields.get("images", fields.get("image"))
    inputs = len(pictures) if isinstance(pictures, list) else int(pictures is not None)
    return Upload(fields, inputs, fields.get("mask") is not None)


async def _read_form(request: web.Request) -> Upload | Invalid:
    upload = Upload()
    parts = 0
    async for part in await request.multipart():
        parts += 1
        if not isinstance(part, BodyPartReader) or parts > PARTS:
            return Invalid(f"Invalid form: at most {PARTS} parts, none of them nested.", None, None)
        name = part.name or ""
        if name == "mask" or re.fullmatch(r"image(\[[0-9]*\])?", name):
            refused = await _take_picture(part, name, upload)
            if refused is not None:
                return refused
        else:
            text = await _read_part(part, TEXT_BYTES)
            if text is None:
                return Invalid(f"Invalid '{name[:40]}': too long.", name[:40], "invalid_value", 413)
            upload.fields[name] = _coerce(name, text.decode(errors="replace"))
    return upload


async def _take_picture(part: BodyPartReader, name: str, upload: Upload) -> Invalid | None:
    param = "mask" if name == "mask" else "image"
    content = await _read_part(part, MASK_BYTES if param == "mask" else IMAGE_BYTES)
    if content is None:
        return Invalid(f"Invalid '{param}': the file is too large.", param, "image_too_large")
    png = content.startswith(b"\x89PNG\r\n\x1a\n")
    webp = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    if not png and (param == "mask" or not (webp or content.startswith(b"\xff\xd8\xff"))):
        return Invalid(f"Invalid '{param}': unsupported file.", param, "invalid_image_file")
    if param == "mask":
        upload.mask = True
    else:
        upload.inputs += 1
    return None


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
