"""Pictures that an order to Google carries as base64, and fields that may be written in camelCase or snake_case.

Pure. The server takes both base64 alphabets and both styles of every name, because the official SDK mixes them.
Sources: the provider files of Gemini images, section 3, and of Veo, section 1.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

PICTURE_BYTES = 7 * 1024 * 1024
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"\x00\x00\x00")


def pick(body: Mapping[str, Any], name: str) -> Any:
    """The field of this camelCase name, or else its snake_case twin; None for neither."""
    value = body.get(name)
    return body.get(re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)) if value is None else value


def find_flaw(mime_type: object, data: object) -> tuple[str, str] | None:
    """What is wrong with a picture: the field at fault, `mimeType` or `data`, and a sentence. None if it is sound."""
    if not isinstance(mime_type, str) or not mime_type.startswith("image/"):
        return "mimeType", "unsupported MIME type"
    picture = decode(data)
    if picture is None:
        return "data", "base64 decoding failed"
    if len(picture) > PICTURE_BYTES:
        return "data", "the image exceeds 7 MB"
    return None if picture.startswith(_MAGIC) else ("data", "unable to process input image")


def decode(data: object) -> bytes | None:
    """Base64 in the standard or the URL-safe alphabet; None for what is neither, or empty."""
    if not isinstance(data, str) or not data:
        return None
    try:
        standard = data.replace("-", "+").replace("_", "/")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None
