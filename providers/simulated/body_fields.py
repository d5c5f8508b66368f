"""The fields of a request's body, read one at a time by servers of the OpenAI dialects: JSON in, checked values out.

It knows types and bounds and no field's meaning. A field that breaks its rule raises `FieldError`, which the reader of
a whole order turns into an `Invalid`; a simulator answers that in its own words.
Sources: the provider files of the OpenAI images, chat and videos APIs, their sections on errors.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why an order is refused: a sentence, the field and the code of the error body, and the HTTP status."""

    message: str
    param: str | None
    code: str | None = "invalid_value"
    status: int = 400


class FieldError(Exception):
    """A field that breaks its rule: carries the refusal from there to the function that reads the whole order."""

    def __init__(self, message: str, param: str, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.invalid = Invalid(message, param, code, status)


async def read_object(request: web.Request) -> dict[str, Any] | Invalid:
    """A body that must be one JSON object, whatever its content type says. 413 above the application's bound."""
    try:
        fields = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        return Invalid("Request body too large.", None, "request_too_large", 413)
    except (ValueError, RecursionError):
        return Invalid("We could not parse the JSON body of your request.", None, None)
    return fields if isinstance(fields, dict) else Invalid("The body must be a JSON object.", None, None)


def read_text(fields: Fields, name: str) -> str:
    """A text that must be there and not be empty."""
    value = fields.get(name)
    if value is None or value == "":
        raise FieldError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if not isinstance(value, str):
        raise FieldError(f"Invalid type for '{name}': expected a string.", name)
    return value


def read_word(fields: Fields, name: str, words: Collection[str], default: str) -> str:
    """One of `words`, or the default."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in words:
        raise FieldError(f"Invalid value for '{name}'. Supported values are: {list_words(words)}.", name)
    return value


def read_number(fields: Fields, name: str, least: int, most: int, default: int) -> int:
    """A whole number from `least` to `most`, or the default."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"Invalid type for '{name}': expected an integer.", name)
    if not least <= value <= most:
        raise FieldError(f"Invalid '{name}': must be between {least} and {most}.", name)
    return value


def check_amount(fields: Fields, name: str, least: float, most: float) -> None:
    """A number with or without a point, from `least` to `most`, if it is there."""
    value = fields.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"Invalid type for '{name}': expected a number.", name)
    if not least <= value <= most:
        raise FieldError(f"Invalid '{name}': must be between {least:g} and {most:g}.", name)


def read_flag(fields: Fields, name: str) -> bool:
    """True or false; absent is false."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise FieldError(f"Invalid type for '{name}': expected a boolean.", name)


def list_words(words: Collection[str]) -> str:
    """The words as an error message lists them."""
    return ", ".join(f"'{word}'" for word in words)
