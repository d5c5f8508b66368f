"""How single values are written: durations, amounts, rates, ranges, hours, patterns, names. One reader per notation.

A reader takes what stands in the document (a text, or a list or mapping where none belongs) and returns the value the
policies use, or raises a ValueError whose message says what is expected and never what was there. Each notation brings
the JSON Schema of its written form. Numbers are read from their text, so that no float touches money, and plain words
that YAML 1.1 takes for something else (`no`, `012`, `12:30`) stay what they are. Floor 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from router.config.document import NULL_WORDS, Plain
from router.money import nanos_of
from router.policy.rules import Rate

NO_VALUE = "has no value: give it one, or comment the key out"
LATER = "not available in this version"

TEXT_MAX_CHARS = 200
USD_MAX = Decimal(1_000_000_000)

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Notation:
    """One way to write a value, as metadata of a field's type: what reads it, and its JSON Schema.

    Each is its own, without equality, because metadata of types must be hashable.
    """

    read: Callable[[Any], Any]
    schema: Schema

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let `read` do all of the validation."""
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the written form, not the value."""
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class OneOrMore:
    """A list, or one of its items alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Wrap a lone scalar into a list."""
        return core_schema.no_info_before_validator_function(
            lambda value: [value] if isinstance(value, str) else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Allow both forms."""
        listed = handler(schema)
        return {"anyOf": [listed["items"], listed]}


@dataclass(frozen=True, slots=True)
class ScalarOr:
    """The mapping of a model, or one scalar in its place."""

    scalar: Notation
    model: type[BaseModel]

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Send scalars to the notation and everything else to the model."""

        def read(value: Any, into_model: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return self.scalar.read(value) if isinstance(value, str) else into_model(value)

        return core_schema.no_info_wrap_validator_function(read, handler.generate_schema(self.model))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Allow both forms."""
        return {"anyOf": [dict(self.scalar.schema), handler(schema)]}


# -- texts ------------------------------------------------------------------------------------------------------------


def text(expected: str = "a text", max_chars: int = TEXT_MAX_CHARS) -> Notation:
    """Any text."""

    def read(value: Any) -> str:
        return _take_text(value, expected, max_chars)

    return Notation(read, {"type": "string"})


def pattern() -> Notation:
    """A text or a shell-style pattern. `1.5`, `012`, `no` and `true` without quotes are the texts they look like."""
    return Notation(text("a text, or a pattern such as studio-*").read, {"type": ["string", "number", "boolean"]})


def matching(form: str, expected: str) -> Notation:
    """A text of one form, a regular expression for the whole of it, such as a name."""
    compiled = re.compile(form)

    def read(value: Any) -> str:
        written = _take_text(value, expected)
        if not compiled.fullmatch(written):
            raise ValueError(f"must be {expected}")
        return written

    return Notation(read, {"type": "string", "pattern": f"^(?:{form})$"})


def words(values: Mapping[str, Any], *, later: tuple[str, ...] = (), or_else: str = "") -> Notation:
    """One word of a closed set; `later` are words of the contract that nothing honours yet.

    `or_else`: what else may stand in the place, for the message.
    """
    expected = _enumerate((*values, *filter(None, (or_else,))))

    def read(value: Any) -> Any:
        written = _take_text(value, expected)
        if written in later:
            raise ValueError(f"{written} is {LATER}: use {expected}")
        if written not in values:
            raise ValueError(f"must be {expected}")
        return values[written]

    return Notation(read, {"enum": list(values)})


def zone() -> Notation:
    """A time zone by its IANA name."""
    form = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")

    def read(value: Any) -> tzinfo:
        written = _take_text(value, "a time zone")
        if written == "UTC":
            return UTC  # known without the machine's database
        try:
            if form.fullmatch(written):
                return ZoneInfo(written)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
        raise ValueError("must be a time zone that this machine knows, such as UTC or Europe/Berlin")

    return Notation(read, {"type": "string"})


# -- numbers ----------------------------------------------------------------------------------------------------------

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_LEADING_ZERO = re.compile(r"-?0[0-9]+")
_DECIMAL = re.compile(r"([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?")


def whole(least: int, most: int) -> Notation:
    """A whole number within a range."""
    expected = str(least) if least == most else f"a whole number from {least} to {most}"

    def read(value: Any) -> int:
        written = _take_text(value, expected)
        if not isinstance(value, Plain):
            raise ValueError(f"must be {expected}, without quotes")  # noqa: TRY004 - pydantic collects ValueErrors
        number = _read_whole(written, expected)
        if not least <= number <= most:
            raise ValueError(f"must be {expected}")
        return number

    return Notation(read, {"type": "integer", "minimum": least, "maximum": most})


def share() -> Notation:
    """A part of a whole: above 0, at most 1."""

    def read(value: Any) -> float:
        number = _read_decimal(value, "a number above 0 and up to 1")
        if not 0 < number <= 1:
            raise ValueError("must be a number above 0 and up to 1")
        return float(number)

    return Notation(read, {"type": "number", "exclusiveMinimum": 0, "maximum": 1})


def usd(most: Decimal = USD_MAX) -> Notation:
    """An amount in USD, into nano-USD, exactly."""
    expected = f"an amount in USD such as 0.03, from 0 to {most} and no finer than 0.000000001"

    def read(value: Any) -> int:
        number = _read_decimal(value, expected)
        if number > most:
            raise ValueError(f"must be {expected}")
        try:
            return nanos_of(number)
        except ValueError:
            raise ValueError(f"must be {expected}") from None

    written = {"type": "string", "pattern": f"^(?:{_DECIMAL.pattern})$"}
    return Notation(read, {"anyOf": [{"type": "number", "minimum": 0, "maximum": int(most)}, written]})


# -- time -------------------------------------------------------------------------------------------------------------

_UNITS_S = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86_400)}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_RATE = re.compile(r"([1-9][0-9]{0,6})/([0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d))")
_RATE_PER_S = (Decimal("0.1"), Decimal(86_400))
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_DAY_MINUTES = 24 * 60


def duration(least: str, most: str) -> Notation:
    """A number with its unit (`500ms`, `8s`, `1m`, `24h`, `30d`), into seconds."""
    expected = f"a duration from {least} to {most}, with its unit, such as 500ms, 8s, 1m, 24h or 30d"
    bounds = seconds_of(least), seconds_of(most)

    def read(value: Any) -> float:
        seconds = seconds_of(_take_text(value, expected))
        low, high = bounds
        if seconds is None or low is None or high is None or not low <= seconds <= high:
            raise ValueError(f"must be {expected}")
        return float(seconds)

    return Notation(read, {"type": "string", "pattern": f"^(?:{_DURATION.pattern})$"})


def seconds_of(written: str) -> Decimal | None:
    """Read a duration, None when it is none."""
    match = _DURATION.fullmatch(written)
    return None if match is None else Decimal(match[1]) * _UNITS_S[match[2]]


def rate() -> Notation:
    """So many starts in a time: `50/1m`."""
    expected = "a rate such as 50/1m: a number of starts, and a time from 100ms to 1d"

    def read(value: Any) -> Rate:
        match = _RATE.fullmatch(_take_text(value, expected))
        per_s = None if match is None else seconds_of(match[2])
        if match is None or per_s is None or not _RATE_PER_S[0] <= per_s <= _RATE_PER_S[1]:
            raise ValueError(f"must be {expected}")
        return Rate(int(match[1]), float(per_s))

    return Notation(read, {"type": "string", "pattern": f"^(?:{_RATE.pattern})$"})


def hours() -> Notation:
    """A span of the day, `22:00-06:00`, into minutes after midnight; the end does not belong to it."""
    expected = "a span of the day such as 22:00-06:00"

    def read(value: Any) -> tuple[int, int]:
        match = _HOURS.fullmatch(_take_text(value, expected))
        if match is None:
            raise ValueError(f"must be {expected}")
        start, end = 60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4])
        in_day = int(match[2]) < 60 and int(match[4]) < 60 and start < _DAY_MINUTES and end <= _DAY_MINUTES
        if not in_day or start == end:
            raise ValueError(f"must be {expected}")
        return start, end

    return Notation(read, {"type": "string", "pattern": f"^(?:{_HOURS.pattern})$"})


# -- conditions -------------------------------------------------------------------------------------------------------

_SPAN = re.compile(r"([0-9]{1,6})\s*-\s*([0-9]{1,6})|(>=|<=|>|<)\s*([0-9]{1,6})")


def span() -> Notation:
    """A count or a range of counts: `2`, `2-4`, `>=2`, `<=4`, `>1`, `<5`; into inclusive bounds, None for open."""
    expected = "a count from 1, or a range such as 2-4 or >=2"

    def read(value: Any) -> tuple[int, int | None]:
        bounds = _read_span(_take_text(value, expected), expected)
        low, high = bounds
        if low < 1 or (high is not None and high < low):
            raise ValueError(f"must be {expected}")
        return bounds

    ranged = {"type": "string", "pattern": f"^(?:[0-9]{{1,6}}|{_SPAN.pattern})$"}
    return Notation(read, {"anyOf": [{"type": "integer", "minimum": 1}, ranged]})


def _read_span(written: str, expected: str) -> tuple[int, int | None]:
    match = _SPAN.fullmatch(written)
    if match is None:
        number = _read_whole(written, expected)
        return number, number
    low, high, sign, bound = match.groups()
    if low is not None:
        return int(low), int(high)
    number = int(bound)
    return {">=": (number, None), ">": (number + 1, None), "<=": (1, number), "<": (1, number - 1)}[sign]


# -- parts ------------------------------------------------------------------------------------------------------------


def _take_text(value: Any, expected: str, max_chars: int = TEXT_MAX_CHARS) -> str:
    """Refuse lists, mappings, nothing and what is too long; return the text as it was written."""
    if not isinstance(value, str):
        raise ValueError(f"must be {expected}")  # noqa: TRY004 - pydantic collects ValueErrors
    if (isinstance(value, Plain) and value in NULL_WORDS) or value == "":
        raise ValueError(NO_VALUE)
    if len(value) > max_chars:
        raise ValueError(f"must be {expected}, of at most {max_chars} characters")
    return str(value)


def _read_whole(written: str, expected: str) -> int:
    if _LEADING_ZERO.fullmatch(written):
        raise ValueError(f"must be {expected}: write it without the leading 0")
    if not _WHOLE.fullmatch(written):
        raise ValueError(f"must be {expected}")
    return int(written)


def _read_decimal(value: Any, expected: str) -> Decimal:
    written = _take_text(value, expected)
    if not _DECIMAL.fullmatch(written):
        raise ValueError(f"must be {expected}")
    if _LEADING_ZERO.match(written):
        raise ValueError(f"must be {expected}: write it without the leading 0")
    return Decimal(written)


def _enumerate(choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
