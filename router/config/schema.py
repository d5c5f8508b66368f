"""The JSON Schema of the routing file, from the models that read it, and which keys it allows at a place.

`pointsman schema` prints it and `config/schema.json` holds it, for editors. It says what can be said of single values;
what keys demand of each other only `check` knows. Floor 1.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from router.config.models import METADATA_KEY, RoutingFile, WhenEntry
from router.config.problems import Path

DIALECT = GenerateJsonSchema.schema_dialect
OWN_KEY = re.compile(r"[a-z][a-z_]{0,39}[0-9]?")  # of the file, or misspelt
HIDDEN = "?"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the routing file, as a dictionary of its own."""
    return {"$schema": DIALECT, "title": "Pointsman routing", **deepcopy(_schema_of(RoutingFile))}


def keys_at(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Name the keys that a model allows in the mapping at a path; none when it is not a mapping with fixed keys."""
    whole = _schema_of(model)
    places = [whole]
    for part in path:
        places = [below for place in places for below in _step(whole, place, part)]
    return tuple(key for place in places for key in place.get("properties", ()))


def show_path(model: type[BaseModel], path: Path) -> str:
    """Write a place as `models.gpt-image-2.rules[0].when`, without giving a secret away.

    Keys that the model allows there are shown, and others if they look like one of ours misspelt. The rest is `?`:
    `{sk-...}` and `{api_key:sk-...}` are keys to YAML.
    """
    whole = _schema_of(model)
    places, shown = [whole], ""
    for part in path:
        places = [below for place in places for below in _step(whole, place, part)]
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if places or OWN_KEY.fullmatch(part) else HIDDEN)
    return shown


# -- parts ------------------------------------------------------------------------------------------------------------


@cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    made: dict[str, Any] = _tidy(model.model_json_schema())
    if WhenEntry.__name__ in made["$defs"]:
        _write_free_keys_down(made["$defs"][WhenEntry.__name__])
    return made


def _write_free_keys_down(conditions: dict[str, Any]) -> None:
    """Pydantic knows the form of a condition's free keys and does not put it into the schema."""
    conditions["patternProperties"] = {f"^{METADATA_KEY}$": conditions["additionalProperties"]}
    conditions["additionalProperties"] = False
    conditions["minProperties"] = 1


def _tidy(node: Any) -> Any:
    """Drop what pydantic adds and this format does not have: titles, null, and defaults that are stand-ins."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: {name: _tidy(value) for name, value in below.items()} if key in {"properties", "$defs"} else _tidy(below)
        for key, below in node.items()
        if not (key == "default" or (key == "title" and isinstance(below, str)))
    }
    if "patternProperties" in kept:
        kept.setdefault("additionalProperties", False)
    choices = [choice for choice in kept.get("anyOf", ()) if choice != {"type": "null"}]
    if "anyOf" in kept and len(choices) == 1:
        del kept["anyOf"]
        return {**choices[0], **kept}
    if "anyOf" in kept:
        kept["anyOf"] = choices
    return kept


def _step(whole: dict[str, Any], place: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    """Go one key or position down; several places where the schema offers a choice."""
    if isinstance(part, int):
        below = place.get("items")
    else:
        named, free = place.get("properties", {}), place.get("patternProperties", {})
        below = named.get(part) or next((each for form, each in free.items() if re.search(form, part)), None)
    return _unfold(whole, below) if isinstance(below, dict) else []


def _unfold(whole: dict[str, Any], place: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow references and choices."""
    if "$ref" in place:
        return _unfold(whole, whole["$defs"][place["$ref"].rpartition("/")[2]])
    if "anyOf" in place:
        return [below for choice in place["anyOf"] for below in _unfold(whole, choice)]
    return [place]
