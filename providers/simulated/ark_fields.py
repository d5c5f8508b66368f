"""The fields of a request to Ark, read one at a time: JSON in, checked values out, null as good as absent.

Ark's own SDK sends an explicit null for whatever was not set. A field that breaks its rule raises `RefusalError` with
Ark's code for it. It knows types and bounds and no field's meaning.
Source: the provider file of Ark, sections 4, 6 and 7.
"""

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web

from providers.simulated.ark_errors import Refusal, RefusalError

Fields = Mapping[str, Any]

SEED_MAX = 2**32 - 1


async def read_body(request: web.Request) -> dict[str, Any] | Refusal:
    """A body that must be one JSON object."""
    try:
        fields = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        return Refusal("InvalidParameter", "The request body is too large.")
    except (ValueError, RecursionError):
        return Refusal("InvalidParameter", "The request body is not valid JSON.")
    return fields if isinstance(fields, dict) else Refusal("InvalidParameter", "The body must be a JSON object.")


def wrong(name: str, why: str) -> RefusalError:
    """The complaint about a field that is there and not right."""
    return RefusalError(
        "InvalidParameter", f"The parameter `{name}` specified in the request is not valid: {why}.", name
    )


def missing(name: str) -> RefusalError:
    """The complaint about a field that is not there."""
    return RefusalError("MissingParameter", f"The request failed because it is missing `{name}` parameter.", name)


def read_text(fields: Fields, name: str) -> str:
    """A text that must be there and not be empty."""
    value = fields.get(name)
    if value is None or value == "":
        raise missing(name)
    if not isinstance(value, str):
        raise wrong(name, "a string is expected")
    return value


def read_word(fields: Fields, name: str, words: Collection[str], default: str) -> str:
    """One of `words`, or the default."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in words:
        raise wrong(name, f"it must be one of {', '.join(words)}")
    return value


def read_number(fields: Fields, name: str, least: int, most: int) -> int | None:
    """A whole number from `least` to `most`, or None."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise wrong(name, f"an integer from {least} to {most} is expected")
    return value


def read_flag(fields: Fields, name: str) -> bool:
    """True or false; absent is false."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise wrong(name, "a boolean is expected")


def check_kind(fields: Fields, name: str, kind: type | tuple[type, ...], word: str) -> None:
    """A value of some type, if it is there."""
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise wrong(name, f"{word} is expected")


def check_link(url: object, name: str, *, inline: bool = True) -> None:
    """An http(s) address; a data URI as well where `inline`. Nothing is fetched."""
    if not isinstance(url, str) or not url:
        raise RefusalError("InvalidImageURL.EmptyURL", f"The URL specified in `{name}` is empty.", name)
    if re.match(r"https?://[^/]", url):
        return
    head, comma, body = url.partition(",")
    if not inline or not comma or not re.fullmatch(r"data:(image|audio)/[\w.+-]+;base64", head):
        raise RefusalError("InvalidImageURL.InvalidFormat", f"The URL specified in `{name}` is not valid.", name)
    try:
        if not base64.b64decode(body, validate=True):
            raise RefusalError("InvalidImageURL.InvalidFormat", f"The data in `{name}` is empty.", name)
    except binascii.Error:
        raise RefusalError("InvalidImageURL.InvalidFormat", f"The data in `{name}` is not base64.", name) from None
