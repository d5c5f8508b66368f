"""The matrix of docs/providers.md: which provider does what, each cell the name of the test that shows it.

`python -m tests.providers.matrix` writes the page, `--check` compares it (part of `make check`); `make seen
ID=upstreams.1` holds it against the tests that passed. An empty cell gives the reason of the provider's documentation,
as the adapter's facts have it. This file knows no provider.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from providers import known, load
from tests.providers.exchange import read
from tests.providers.proofs import provers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "providers.md"
COLUMNS = ("generate", "edit", "video", "chat", "poll", "cancel", "webhook", "streaming", "probe")
SDK = "SDK-proved"

HEAD = """\
# Providers

What each adapter does, and what shows it. A cell is the name of the test that drives the adapter through a real daemon
against a simulator of its provider ([tests/providers/test_proofs.py](../tests/providers/test_proofs.py)); under
*SDK-proved* stands the test in which the provider's own, unmodified SDK drives that simulator. Where a cell is empty
the provider's documentation gives the reason. This page is written by the tests: `make seen ID=upstreams.1`.

How to add one: [adding-a-provider.md](adding-a-provider.md). List prices: [config/prices.yaml](../config/prices.yaml).
"""


def cells() -> Mapping[str, Mapping[str, str]]:
    """Name the test of each cell by slug and column; a cell that no test shows is absent."""
    shown: dict[str, dict[str, str]] = {slug: {} for slug in known()}
    for column in COLUMNS:
        for slug in provers(column):
            shown[slug][column] = f"test_{column}[{slug}]"
    for slug in known():
        sdk = read(slug).get("simulated", {}).get("sdk")
        if sdk is not None:
            shown[slug][SDK] = Path(sdk).name
    return shown


def reason(slug: str, column: str) -> str:
    """Say why a cell is empty; raises `LookupError` when nobody wrote it down."""
    setup = read(slug).get("simulated", {})
    said = setup.get("no_sdk") if column == SDK else load(slug).facts.lacks.get(column)
    if said is None:
        raise LookupError(f"{slug}: nothing shows {column!r} and no reason is given (facts.lacks, or simulated.no_sdk)")
    return str(said)


def render(passed: Collection[str] | None = None) -> str:
    """Write the page; `passed` restricts the cells to the tests of these names."""
    lines = [HEAD]
    for slug, shown in cells().items():
        lines += [f"## {slug}", "", "| | shown by |", "|---|---|"]
        for column in (*COLUMNS, SDK):
            test = shown.get(column)
            if test is not None and (passed is None or column == SDK or test in passed):
                lines.append(f"| {column} | `{test}` |")
            else:
                lines.append(f"| {column} | *{reason(slug, column)}* |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.stderr.write("docs/providers.md is not what the tests show: python -m tests.providers.matrix\n")
            return 1
        return 0
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
