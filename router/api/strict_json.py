"""JSON as strictly as money demands: what a body says is what is stored, hashed and sent on, or it is refused by name.

Refused are a repeated name (parsers differ in which one counts), a NUL (PostgreSQL keeps none), a number that would not
come out as it went in, and what is nested or split so much that looking at it costs more than making the picture. NaN,
lone surrogates, bytes that are not UTF-8 and anything after the value are refused by the parser itself. Floor 3.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from router.api.errors import invalid

DEPTH_MAX: Final = 64
VALUES_MAX: Final = 100_000
NUMBER_MAX: Final = 2**64  # above it the parser makes a float of an integer
CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
NAMES: Final = re.compile(rb'"[ \t\r\n]*:')


def parse(raw: bytes) -> dict[str, Any]:
    """Read a JSON object; 400 in the contract's form else, with the field or the place in the text."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as broken:
        invalid(
            None, f"The body is not valid JSON: {broken.msg} (line {broken.lineno}, column {broken.colno}).", code=CODE
        )
    if not isinstance(value, dict):
        invalid(None, "The body must be a JSON object.", code=CODE)
    names = _look_through(value)
    # A name is followed by a colon. Colons are counted faster than names, and few bodies hold others.
    if raw.count(b":") != names and len(NAMES.findall(raw)) != names:
        json.loads(raw, object_pairs_hook=_refuse_repeats)
    return value


def check_type(content_type: str | None) -> None:
    """Refuse a body that says it is something else than JSON in UTF-8 (RFC 8259 section 8.1). None: it says nothing."""
    if content_type is None:
        return
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        invalid(
            "Content-Type",
            f"This path takes application/json, not {content_type[:100]!r}.",
            code="unsupported_content_type",
        )
    for parameter in parameters:
        name, _equals, said = parameter.partition("=")
        if name == "charset" and said.strip('"') not in CHARSETS:
            invalid("Content-Type", "JSON comes in UTF-8 and in no other charset.", code="unsupported_charset")


# -- parts ----------------------------------------------------------------------------------------------------------

CODE: Final = "invalid_json"


def _look_through(value: dict[str, Any]) -> int:
    """Look at every value without recursion; returns how many names there are."""
    names, looked_at = 0, 0
    todo: list[tuple[Any, str, int]] = [(value, "", 1)]
    while todo:
        one, where, depth = todo.pop()
        looked_at += 1
        if isinstance(one, str):
            if "\x00" in one:
                invalid(where, f"{where} contains a NUL character.")
        elif isinstance(one, float):
            if abs(one) >= NUMBER_MAX:
                invalid(where, f"{where} is a number too large to be kept as it is.")
        elif isinstance(one, dict | list):
            if depth > DEPTH_MAX:
                invalid(_top(where), f"The body is nested more than {DEPTH_MAX} levels deep.", code=CODE)
            if looked_at + len(todo) + len(one) > VALUES_MAX:
                invalid(_top(where), f"The body holds more than {VALUES_MAX} values.", code=CODE)
            if isinstance(one, list):
                todo.extend((inner, f"{where}[{at}]", depth + 1) for at, inner in enumerate(one))
                continue
            names += len(one)
            for name, inner in one.items():
                if "\x00" in name:
                    invalid(where or None, "The name of a field contains a NUL character.")
                todo.append((inner, f"{where}.{name}"[-200:] if where else name[:200], depth + 1))
    return names


def _top(where: str) -> str | None:
    """The field of the body in which a place lies."""
    return re.split(r"[.\[]", where, maxsplit=1)[0] or None


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        seen: set[str] = set()
        for name, _value in pairs:
            if name in seen:
                invalid(name[:200], f"{name[:200]} stands twice in the body.", code="repeated_field")
            seen.add(name)
    return whole
