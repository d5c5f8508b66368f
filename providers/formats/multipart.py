"""Fields of a JSON body as the text parts of a multipart one, in the way that the openai SDK writes them.

Everything is text there: `true`, `7`; an object becomes `name[key]`, a list `name[]` again and again; null is left out
(openai SDK 3.52, recorded: `nested[a]=1`, `nested[l][]=2`, `flag=true`, `svg[model]`). Text goes before files; that is
for the caller to see to. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.provider import Part

DEPTH_MAX = 8
"""What is nested deeper is left out: nobody reads a field of such a name."""


def write_fields(fields: Mapping[str, Any]) -> tuple[Part, ...]:
    """Write the fields in their order."""
    return tuple(part for name, value in fields.items() for part in _write(name, value, DEPTH_MAX))


def _write(name: str, value: Any, depth: int) -> Iterator[Part]:
    match value:
        case None:
            return
        case bool():
            yield Part(name, "true" if value else "false")
        case str():
            yield Part(name, value)
        case Mapping() if depth:
            for key, inner in value.items():
                yield from _write(f"{name}[{key}]", inner, depth - 1)
        case list() | tuple() if depth:
            for inner in value:
                yield from _write(f"{name}[]", inner, depth - 1)
        case int() | float():
            yield Part(name, str(value))
        case _:
            return
