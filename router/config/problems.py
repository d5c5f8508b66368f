"""What is wrong with a configuration, and where: the only form in which this package talks back.

A problem names a file, a line and a path, and says what was expected. It never repeats a value, as any value may be a
secret in the wrong place. Knows nothing of YAML or of rules. Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""A place in a document: keys, and positions in lists from 0."""

PROBLEMS_MAX = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint. `line` counts from 1; `path` is as in `models.gpt-image-2.rules[0].when`, empty for the file."""

    source: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        """Print as `file:line:path: message`."""
        return ":".join(part for part in (self.source, str(self.line), self.path) if part) + f": {self.message}"


class Findings:
    """Collects the problems and warnings of one document, each place and message once."""

    def __init__(self, source: str, line_of: Callable[[Path], int], show: Callable[[Path], str]) -> None:
        """`line_of` finds the line of a path, or of the nearest place above it that exists; `show` writes a path."""
        self._source = source
        self._line_of = line_of
        self._show = show
        self._problems: dict[Problem, Path] = {}
        self._warnings: dict[Problem, Path] = {}

    def complain(self, path: Path, message: str, *, line: int | None = None) -> None:
        """Note a problem, at the line of the path unless another is given."""
        if not self.is_full:
            self._problems.setdefault(self._make(path, message, line), path)

    def warn(self, path: Path, message: str) -> None:
        """Note what is allowed and may surprise."""
        if len(self._warnings) < PROBLEMS_MAX:
            self._warnings.setdefault(self._make(path, message, None), path)

    @property
    def is_full(self) -> bool:
        """Whether nobody would read further problems."""
        return len(self._problems) >= PROBLEMS_MAX

    @property
    def complained(self) -> frozenset[Path]:
        """The places with a problem."""
        return frozenset(self._problems.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order of the lines; of more than `PROBLEMS_MAX` the first that were found."""
        found = tuple(sorted(self._problems, key=_by_line))
        told = f"the first {PROBLEMS_MAX} problems are listed; there may be more"
        return (*found, Problem(self._source, found[-1].line, "", told)) if self.is_full else found

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings in the order of the lines, at most `PROBLEMS_MAX`."""
        return tuple(sorted(self._warnings, key=_by_line))

    def _make(self, path: Path, message: str, line: int | None) -> Problem:
        return Problem(self._source, line or self._line_of(path), self._show(path), message)


def _by_line(problem: Problem) -> tuple[int, str, str]:
    return problem.line, problem.path, problem.message
