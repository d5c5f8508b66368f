"""What a verb is to an engine: a generator of statements, sent the rows of each, that returns the answer. Floor 3."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from router.store.rows import Row

A = TypeVar("A")
Query = tuple[str, tuple[Any, ...]]
Steps = Generator[Query, list[Row], A]


class Undone(Exception):  # noqa: N818 - it names what happened
    """The verb's answer is that it did not happen; what it has written must be rolled back."""

    def __init__(self, answer: object) -> None:
        """Carry the answer to the driver."""
        super().__init__()
        self.answer = answer
