"""The code samples that the aggregators print, cut out of the excerpts beside this file; nothing in them is rewritten.

The pages were saved as text, so a block begins after its language (`bash`, `py`, `go` ... at the end of a line) and
ends where the next begins, at the empty line behind a shell command, at a sentence, or where a heading was run into its
end. Python that lost its indentation is laid out again: `lay_out` says by which rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LANGUAGES = {
    "bash": "bash",
    "curl": "bash",
    "py": "python",
    "python": "python",
    "js": "javascript",
    "javascript": "javascript",
    "go": "go",
    "java": "java",
    "php": "php",
    "json": "json",
}
_LANGUAGE = re.compile(r"(?:^|(?<=[)'\"}]))(" + "|".join(LANGUAGES) + ")$")
_PROSE = re.compile(r"[A-Z][a-z]+ .*:")
_HEADING = re.compile(r"(?<=[)}a-z])((?:[A-Z][a-z]+)(?: [A-Z][a-z]+)*|WARNING)$")


@dataclass(frozen=True, slots=True)
class Sample:
    """One block of code: the document's name, its line there from 1, its language, its text."""

    document: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """`dieyuyun.md:49 python`."""
        return f"{self.document}:{self.line} {self.language}"


def read_samples() -> list[Sample]:
    """All samples of all documents, but for the bodies, which are not run."""
    found = [sample for path in sorted(FOLDER.glob("*.md")) for sample in samples_of(path)]
    return [sample for sample in found if sample.language != "json"]


def samples_of(path: Path) -> list[Sample]:
    """The samples of one document, in order."""
    samples: list[Sample] = []
    language, begun, kept = "", 0, list[str]()

    def end() -> None:
        if language and kept:
            text = "\n".join(kept).strip("\n") + "\n"
            samples.append(Sample(path.name, begun, language, lay_out(text) if language == "python" else text))

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        following = _LANGUAGE.search(line)
        heading = _HEADING.search(line) if language else None
        if following:
            kept += [line[: following.start()]] if following.start() else []
            end()
            language, begun, kept = LANGUAGES[following[1]], number + 1, []
        elif heading:
            kept.append(line[: heading.start()])
            end()
            language, kept = "", []
        elif (language == "bash" and not line) or (language and _PROSE.fullmatch(line)):
            end()
            language, kept = "", []
        elif language:
            kept.append(line)
    end()
    return samples


def lay_out(text: str) -> str:
    """Give Python back the indentation that its document lost; text that has some is left as it is.

    Inside brackets it does not matter. A line that ends in a colon opens a block. `elif` and `else` stand with the
    outermost open `if`, and so does what follows a `break`, which itself belongs to that `if`: true of a loop that
    leaves by one chain of conditions, which is the only loop printed.
    """
    if re.search(r"^ +\S", text, re.MULTILINE):
        return text
    laid, blocks, depth = list[str](), list[str](), 0
    for line in text.splitlines():
        code = line.partition(" # ")[0].rstrip()
        word = code.partition(" ")[0].rstrip(":")
        if not depth and word in {"elif", "else", "break"} and "if" in blocks:
            del blocks[blocks.index("if") + (word == "break") :]
        laid.append("    " * len(blocks) + line)
        if not depth and word == "break":
            del blocks[blocks.index("if") :]
        depth += sum(code.count(bracket) for bracket in "([{") - sum(code.count(bracket) for bracket in ")]}")
        if not depth and code.endswith(":"):
            blocks.append("if" if word == "elif" else word)
    return "\n".join(laid) + "\n"
