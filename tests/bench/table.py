"""The figures as people read them, and as programs do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench.floors import Cell, Figure, Row, Verdict

HEAD = (
    "figure",
    "store",
    "per s",
    "CPU us",
    "kernel us",
    "spread",
    "bare us",
    "CPU ratio",
    "rate ratio",
    "p50 ms",
    "p99 ms",
    "database us",
)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table of figures, in the form of the README's."""
    print(f"| {' | '.join(HEAD)} |")
    print(f"|---|---|{'---:|' * (len(HEAD) - 2)}")
    for row in rows:
        if row.figure is not Figure.START:
            print(f"| {' | '.join(_show(row))} |")
    for row in rows:
        if row.figure is Figure.START:
            print(
                f"{row.store}: first picture {row.p50_ms / 1000:.2f} s after the start, idle {row.rss_mb or 0:.0f} MB"
            )


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print each floor with what was measured, met ones first."""
    for verdict in sorted(verdicts, key=lambda one: not one.met):
        word = "met   " if verdict.met else "MISSED"
        what = f"{verdict.floor.figure.value} on {verdict.store}"
        print(f"{word} {what:30} {verdict.floor.measure.value:18} {verdict.value:8.2f}   floor {verdict.floor.bound:g}")
        if not verdict.met:
            print(f"       {verdict.why or 'without an explanation'}")


def write_lines(path: Path, cells: Sequence[Cell], rows: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
    """Write every cell, line and verdict as JSON, one object a line."""
    said = [{"cell": asdict(cell)} for cell in cells]
    said += [{"row": asdict(row)} for row in rows]
    said += [{"verdict": asdict(verdict), "accepted": verdict.accepted} for verdict in verdicts]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in said))


def _show(row: Row) -> tuple[str, ...]:
    return (
        row.figure.value,
        row.store,
        f"{row.per_s:,.0f}",
        f"{row.cpu_us:,.0f}",
        f"{row.kernel_us:,.0f}",
        f"{row.spread:.0%}",
        f"{row.bare_cpu_us:,.0f}",
        f"{row.cpu_ratio:.2f}",
        f"{row.rate_ratio:.2f}",
        f"{row.p50_ms:.2f}" + ("" if row.added_ms is None else f" (+{row.added_ms:.2f})"),
        f"{row.p99_ms:.2f}",
        "" if row.database_us is None else f"{row.database_us:,.0f}",
    )
