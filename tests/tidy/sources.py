"""What a rule is, what it reads and what it says. Rules are pure: a path and a text in, findings out."""

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("router", "providers", "tests")
# Names of files whose bytes are not ours to judge: licences, locks, pictures.
NOT_OURS = ("LICENSE", "*.lock", "*.png", "*.jpg", "*.webp", "*.mp4")


@dataclass(frozen=True)
class Source:
    """One file: its path from the root with forward slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree, parsed once for all rules."""
        return ast.parse(self.text, self.path)

    @cached_property
    def module(self) -> str:
        """The dotted name: `router/flow/run.py` -> `router.flow.run`, `router/cli/__init__.py` -> `router.cli`."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_python(self) -> bool:
        """Whether the rules about syntax apply."""
        return self.path.endswith(".py")

    def within(self, *places: str) -> bool:
        """Whether the file is one of these modules or lies below one: `within("router.flow", "tests")`."""
        return any(lies_below(self.module, place) for place in places)


@dataclass(frozen=True)
class Finding:
    """A breach: the line, counted from 1, and what stands there."""

    line: int
    what: str


@dataclass(frozen=True)
class Rule:
    """A rule: its name, which says what it forbids; the reason; the check; and whether it reads Python files only."""

    name: str
    reason: str
    check: Callable[[Source], Iterable[Finding]]
    python_only: bool = True

    def complaints(self, sources: Iterable[Source]) -> list[str]:
        """Return one line for each breach, `file:line: what (reason)`, in the order of the files."""
        return [
            f"{source.path}:{finding.line}: {finding.what} ({self.reason})"
            for source in sources
            if source.is_python or not self.python_only
            for finding in sorted(self.check(source), key=lambda finding: (finding.line, finding.what))
        ]


def lies_below(module: str, place: str) -> bool:
    """Whether a dotted name is this place or below it."""
    return module == place or module.startswith(f"{place}.")


def read_sources() -> list[Source]:
    """Return every text file of the project that git tracks or would track, in the order of their paths."""
    command = ["git", "-C", str(ROOT), "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive: read what the packages hold
        listed = [path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return list(_read(sorted(filter(None, listed))))


def _read(paths: Iterable[str]) -> Iterator[Source]:
    for path in paths:
        if any(PurePosixPath(path).match(pattern) for pattern in NOT_OURS) or not (ROOT / path).is_file():
            continue
        try:
            yield Source(path, (ROOT / path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
