"""A document read into a model: every value that does not fit becomes a problem at its own line, and the rest is kept.

Pydantic stops at the first complaint of a value and knows no lines. So what does not fit is reported, left out, and the
remainder read again, until what is left is sound: the checks that come afterwards see as much of the file as there is,
and do not complain of what was left out. Pydantic's own texts and inputs are never shown. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.config.document import Document, Items, Keys, Node, Plain, Scalar, child_of
from router.config.notation import LATER, NO_VALUE
from router.config.problems import Findings, Path
from router.config.schema import OWN_KEY, keys_at

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

# Keys of the contract that nothing honours yet: refused, never accepted and ignored.
LATER_KEYS = frozenset({"canary"})
ROUNDS_MAX = 100


@dataclass(frozen=True, slots=True)
class Sound(Generic[M]):
    """What of a document fits its model; the rest was reported.

    `left_out` are the places that do not fit, `torn` these and all places above them.
    """

    value: M
    document: Document
    left_out: frozenset[Path]
    torn: frozenset[Path]

    def is_whole(self, path: Path) -> bool:
        """Tell whether nothing was left out at this place or below it."""
        return path not in self.torn

    def has_entry(self, section: str, name: str) -> bool:
        """Tell whether a section of the file has an entry of this name, sound or not.

        True for every name if the section itself is wrong or missing: that is reported, and nothing else for it.
        """
        names = self.document.find((section,))
        return not isinstance(names, Keys) or not names.entries or name in names.entries

    def place(self, path: Path, items: Sequence[T]) -> list[tuple[Path, T]]:
        """Pair the items of a list with their places in the document."""
        if any(path[:length] in self.left_out for length in range(len(path) + 1)):
            return []  # the items are what the model has instead
        return list(zip(list_kept(self.document.find(path), path, self.left_out), items, strict=True))


def read_into(
    model: type[M], document: Document, findings: Findings, *, stand_ins: Mapping[str, Any]
) -> Sound[M] | None:
    """Read the document into the model and report what does not fit; None when it is no mapping at all.

    `stand_ins` are values of required keys at the top: one that is missing is reported, and the reading goes on.
    """
    if not isinstance(document.root, Keys):
        findings.complain((), "must be a mapping of keys, such as `version: 1`")
        return None
    for key in stand_ins.keys() - document.root.entries.keys():
        findings.complain((key,), "is missing")
    left_out: set[Path] = set()
    torn: set[Path] = set()
    for _round in range(ROUNDS_MAX):
        values = {**stand_ins, **_values_of(document.root, left_out)}
        try:
            return Sound(model.model_validate(values), document, frozenset(left_out), frozenset(torn))
        except ValidationError as invalid:
            errors = invalid.errors(include_input=False, include_url=False)
        reader = _Round(model, document, frozenset(left_out), torn)
        # The deepest first: a list whose only item does not fit is not blamed for being empty, too.
        for error in sorted(errors, key=lambda error: -len(error["loc"])):
            place = reader.report(error, findings)
            left_out.add(place)
            torn.update(place[:length] for length in range(len(place) + 1))
    raise AssertionError("each round leaves something out, and a document has few levels")


@dataclass(frozen=True, slots=True)
class _Round:
    """One reading: what was left out of it, and what is torn by now.

    `kept` remembers which items of a list were read, as a list may have many errors.
    """

    model: type[BaseModel]
    document: Document
    left_out: frozenset[Path]
    torn: AbstractSet[Path]
    kept: dict[Path, list[Path]] = field(default_factory=dict)

    def report(self, error: ErrorDetails, findings: Findings) -> Path:
        """Turn one complaint of pydantic's into a problem; returns the place to leave out for it."""
        path, exists = self._trace(error["loc"])
        # A place out of which something was taken already is incomplete because of that.
        if path not in self.torn and not findings.is_full:
            if error["type"] == "extra_forbidden" or error["loc"][-1:] == ("[key]",) or self._is_free_key(path, error):
                findings.complain(path, self._tell_key(error, path))
            else:
                findings.complain(path, _tell_value(error, self.document.find(path)))
        return path if exists else path[:-1]

    def _trace(self, location: Sequence[str | int]) -> tuple[Path, bool]:
        """Find the place in the document that a location of pydantic's is, and whether something was read there."""
        path: Path = ()
        node: Node | None = self.document.root
        for part in location:
            if isinstance(node, Scalar) or (part == "[key]" and child_of(node, "[key]") is None):
                break  # a lone scalar where a list may stand has no positions
            if isinstance(node, Items) and isinstance(part, int):
                if path not in self.kept:
                    self.kept[path] = list_kept(node, path, self.left_out)
                path = self.kept[path][part]
            else:
                path = (*path, part)
            entry = child_of(node, path[-1])
            if entry is None or path in self.left_out:
                return path, False
            node = entry.node
        return path, True

    def _is_free_key(self, path: Path, error: ErrorDetails) -> bool:
        """Whether the complaint is about a key that stands beside fixed ones (`when`), not about its value."""
        known = keys_at(self.model, path[:-1])
        written = path[-1:] and isinstance(path[-1], str) and path[-1]
        return bool(known and written and written not in known and not str(written).startswith("metadata."))

    def _tell_key(self, error: ErrorDetails, path: Path) -> str:
        key = str(path[-1])
        known = keys_at(self.model, path[:-1])
        if not known:
            return _reason_of(error)
        if key in LATER_KEYS:
            return LATER
        if ":" in key and key.partition(":")[0] in known:
            return f"unknown key: a blank is missing after `{key.partition(':')[0]}:`"
        near = get_close_matches(key, known, n=1) if OWN_KEY.fullmatch(key) else []
        free = ("metadata.KEY",) if path[-2:-1] == ("when",) and isinstance(path[-3], int) else ()
        return (
            f"unknown key: did you mean {near[0]}?" if near else f"unknown key: known are {', '.join((*known, *free))}"
        )


def list_kept(node: Node | None, path: Path, left_out: AbstractSet[Path]) -> list[Path]:
    """Name the places of a list's items that were read, in the order in which pydantic saw them."""
    count = len(node.entries) if isinstance(node, Items) else 0
    return [(*path, place) for place in range(count) if (*path, place) not in left_out]


def _tell_value(error: ErrorDetails, node: Node | None) -> str:
    """Say what is expected. Only messages of our own are passed on; they hold no input."""
    if isinstance(node, Scalar) and node.is_null:
        return NO_VALUE
    match error["type"]:
        case "missing":
            return "is missing"
        case "model_type" | "dict_type":
            return "must be a mapping of keys"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "too_short":
            return "must not be empty"
        case "too_long":
            return f"has more than {error['ctx']['max_length']} entries"
        case _:
            return _reason_of(error)


def _reason_of(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return "cannot be read"


def _values_of(node: Node, left_out: AbstractSet[Path], path: Path = ()) -> Any:
    """Turn nodes into what pydantic takes, without the places that are left out."""
    match node:
        case Scalar(text=text, plain=plain):
            return Plain(text) if plain else text
        case Items(entries=entries):
            places = enumerate(entries)
            return [
                _values_of(entry.node, left_out, (*path, place))
                for place, entry in places
                if (*path, place) not in left_out
            ]
        case Keys(entries=keyed):
            return {
                key: _values_of(entry.node, left_out, (*path, key))
                for key, entry in keyed.items()
                if (*path, key) not in left_out
            }
