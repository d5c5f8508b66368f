"""YAML text to a tree of nodes that know their lines: the syntax of a configuration, and nothing of its meaning.

Built from PyYAML's parser events instead of its loader, which keeps the last of two equal keys, builds objects from
tags and reads `no` as false, `012` as ten and `12:30:45` as 45045. Here every scalar stays the text that was written;
what it stands for is decided where it is used (`notation`). Anchors work; merge keys, tags, further documents, deep
nesting and aliases that unfold beyond a bound are refused with their line. Floor 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from router.config.problems import Path

TEXT_MAX_BYTES = 1 << 20
NODES_MAX = 100_000
DEPTH_MAX = 32

NULL_WORDS = frozenset({"", "~", "null", "Null", "NULL"})
# What YAML allows in a file at all (YAML 1.2, 5.1). Python's own text may hold more: lone surrogates, NUL.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Plain(str):
    """A scalar that was written without quotes: it may be meant as a number, a text or nothing."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A child of a node, with the line where it is used; the node itself may come from an anchor elsewhere."""

    line: int
    node: Node


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text as it was written. `plain`: without quotes."""

    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or a word for nothing."""
        return self.plain and self.text in NULL_WORDS


@dataclass(frozen=True, slots=True)
class Items:
    """A list. `size` counts the nodes below it, unfolded."""

    entries: tuple[Entry, ...]
    size: int
    depth: int


@dataclass(frozen=True, slots=True)
class Keys:
    """A mapping in the order of the file; of two equal keys the first is here and the second is a slip."""

    entries: dict[str, Entry]
    size: int
    depth: int


Node = Scalar | Items | Keys


@dataclass(frozen=True, slots=True)
class Slip:
    """Something wrong with the syntax."""

    line: int
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text. `root` is None when it cannot be read; the only slip then says why."""

    root: Node | None
    slips: tuple[Slip, ...] = ()

    def line_of(self, path: Path) -> int:
        """Find the line of a path, or of the nearest place above it that exists."""
        line, node = 1, self.root
        for part in path:
            entry = child_of(node, part)
            if entry is None:
                break
            line, node = entry.line, entry.node
        return line

    def find(self, path: Path) -> Node | None:
        """Find the node at a path."""
        node = self.root
        for part in path:
            entry = child_of(node, part)
            if entry is None:
                return None
            node = entry.node
        return node

    def keys_of(self, path: Path) -> tuple[str, ...]:
        """Name the keys of the mapping at a path as they are written; none when there is no mapping."""
        node = self.find(path)
        return tuple(node.entries) if isinstance(node, Keys) else ()


def compose(text: str) -> Document:
    """Read a text into a document. Never raises."""
    unfit = _find_unfit(text)
    if unfit is not None:
        return Document(None, (unfit,))
    composer = _Composer()
    try:
        root = composer.read(text)
    except _Unreadable as unreadable:
        return Document(None, (Slip(unreadable.line, unreadable.path, unreadable.message),))
    except yaml.MarkedYAMLError as broken:
        return Document(None, (_tell_syntax(broken, text),))
    except yaml.YAMLError:
        return Document(None, (Slip(1, (), "this is not YAML"),))
    return Document(root, tuple(composer.slips))


def child_of(node: Node | None, part: str | int) -> Entry | None:
    """Step one key or position down."""
    if isinstance(node, Keys) and isinstance(part, str):
        return node.entries.get(part)
    if isinstance(node, Items) and isinstance(part, int) and 0 <= part < len(node.entries):
        return node.entries[part]
    return None


def walk_scalars(node: Node | None, path: Path = ()) -> Iterator[tuple[Path, Scalar]]:
    """Yield every scalar below a node with its path."""
    match node:
        case None:
            return
        case Scalar():
            yield path, node
        case Items(entries=entries):
            for place, entry in enumerate(entries):
                yield from walk_scalars(entry.node, (*path, place))
        case Keys(entries=keyed):
            for key, entry in keyed.items():
                yield from walk_scalars(entry.node, (*path, key))


# -- parts ------------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):  # noqa: N818 - never leaves this file
    """What ends the reading."""

    def __init__(self, line: int, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.path = path


def _find_unfit(text: str) -> Slip | None:
    """Refuse what is too large, or no text, before any parser sees it."""
    if len(text) > TEXT_MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > TEXT_MAX_BYTES:
        line = text.count("\n", 0, TEXT_MAX_BYTES) + 1
        return Slip(line, (), f"the file is larger than {TEXT_MAX_BYTES >> 20} MiB")
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        line = text.count("\n", 0, forbidden.start()) + 1
        return Slip(line, (), "a control character, or another that no YAML file may hold")
    return None


@dataclass(slots=True)
class _Composer:
    """Builds the tree from parser events. One document, read once."""

    slips: list[Slip] = field(default_factory=list)
    _anchors: dict[str, Node | None] = field(default_factory=dict)
    _events: Iterator[Any] = field(default_factory=lambda: iter(()))

    def read(self, text: str) -> Node:
        """Read the one document of a stream."""
        self._events = iter(yaml.parse(text, Loader=yaml.CSafeLoader))
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Unreadable(1, "the file is empty")
        root = self._compose(next(self._events), (), 0)
        next(self._events)  # the document's end
        further = next(self._events)
        if not isinstance(further, yaml.StreamEndEvent):
            raise _Unreadable(_line(further), "a second document begins here; a configuration is one")
        return root

    def _compose(self, event: Any, path: Path, depth: int) -> Node:
        """Build the node that begins with this event; `depth` counts the containers around it."""
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self._recall(event, path, depth)
        if event.tag is not None:
            message = "tags are not read; a value that begins with ! needs quotes"
            raise _Unreadable(line, message, path)
        if depth >= DEPTH_MAX and not isinstance(event, yaml.ScalarEvent):
            raise _Unreadable(line, f"nested deeper than {DEPTH_MAX} levels", path)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # known, and not complete
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(event.value, plain=event.implicit[0])
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._compose_items(path, depth)
        else:
            node = self._compose_keys(path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _compose_items(self, path: Path, depth: int) -> Items:
        entries: list[Entry] = []
        size, deepest = 1, 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node = self._compose(event, (*path, len(entries)), depth + 1)
            entries.append(Entry(_line(event), node))
            size, deepest = _grow(size, deepest, node, _line(event), path)
        return Items(tuple(entries), size, deepest + 1)

    def _compose_keys(self, path: Path, depth: int) -> Keys:
        entries: dict[str, Entry] = {}
        size, deepest = 1, 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line, key = _line(event), self._compose(event, path, depth + 1)
            if not isinstance(key, Scalar):
                raise _Unreadable(line, "a key must be a text; a value that begins with { or [ needs quotes", path)
            node = self._compose(next(self._events), (*path, key.text), depth + 1)
            size, deepest = _grow(size, deepest, node, line, path)
            if key.plain and key.text == "<<":
                self.slips.append(Slip(line, path, "merge keys (<<) are not read: write the keys out"))
            elif key.text in entries:
                first = entries[key.text].line
                self.slips.append(Slip(line, (*path, key.text), f"the same key stands in line {first} already"))
            else:
                entries[key.text] = Entry(line, node)
        return Keys(entries, size, deepest + 1)

    def _recall(self, event: Any, path: Path, depth: int) -> Node:
        """Use an anchored node again; what it unfolds to counts here, too."""
        line = _line(event)
        if event.anchor not in self._anchors:
            raise _Unreadable(line, "no anchor of that name stands above; a text that begins with * needs quotes", path)
        node = self._anchors[event.anchor]
        if node is None:
            raise _Unreadable(line, "this alias stands inside its own anchor", path)
        if depth + _depth(node) > DEPTH_MAX:
            raise _Unreadable(line, f"nested deeper than {DEPTH_MAX} levels", path)
        return node


def _grow(size: int, deepest: int, node: Node, line: int, path: Path) -> tuple[int, int]:
    """Count a child in; refuse a tree that unfolds beyond the bound."""
    total = size + (1 if isinstance(node, Scalar) else node.size)
    if total > NODES_MAX:
        raise _Unreadable(line, f"unfolds to more than {NODES_MAX} values", path)
    return total, max(deepest, _depth(node))


def _depth(node: Node) -> int:
    return 0 if isinstance(node, Scalar) else node.depth


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


# What a line that YAML cannot read often means: a mark in the line, and what to do.
_HINTS = (
    (re.compile(r"\$\{"), 'inside { } a reference needs quotes: "${NAME}"'),
    (re.compile(r"[:\[{,-]\s*[>|][^\s]"), "a value that begins with > or | needs quotes"),
    (re.compile(r"[:\[{,-]\s*\*"), "a value that begins with * needs quotes"),
    (re.compile(r"[:\[{,-]\s*[@`%]"), "a value that begins with @, % or a backtick needs quotes"),
    (re.compile(r"^\s*\t"), "indent with blanks, not with tabs"),
)


def _tell_syntax(broken: yaml.MarkedYAMLError, text: str) -> Slip:
    """Say what the parser says, which are fixed sentences without the text, and what it often means."""
    mark = broken.problem_mark or broken.context_mark
    at_the_end = (broken.problem or "").endswith("end of stream")
    if at_the_end and broken.context_mark is not None:
        mark = broken.context_mark  # where the quote or bracket was opened that nobody closed
    line = 1 if mark is None else int(mark.line) + 1
    message = ", ".join(part for part in (broken.context, broken.problem) if part) or "this is not YAML"
    written = text.splitlines()[line - 1 : line]
    hint = next((told for pattern, told in _HINTS if written and pattern.search(written[0])), None)
    return Slip(line, (), message if hint is None else f"{message} ({hint})")
