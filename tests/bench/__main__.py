"""`python -m tests.bench [--short] [--store NAME]... [--figure NAME]... [--out FILE] [--profile FOLDER]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tests.bench.course import LONG, SHORT, YARDSTICKS, Course, Pace
from tests.bench.floors import STORES, Cell, Figure, Row, Verdict, judge, summarise
from tests.bench.profile import sampled
from tests.bench.programs import CannotMeasure, compile_programs, find_places
from tests.bench.servers import open_database, serving_upstream
from tests.bench.table import print_rows, print_verdicts, write_lines


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and judge: 1 when a floor is missed without a reason, 2 when nothing can be measured."""
    said = _read(words)
    pace = SHORT if said.short else LONG
    try:
        cells = measure(said.store or STORES, pace, said.figure or Figure, profiles=said.profile)
    except CannotMeasure as reason:
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 2
    rows, verdicts = conclude(cells)
    print()
    print_rows(rows)
    print()
    print_verdicts(verdicts)
    if said.out is not None:
        write_lines(said.out, cells, rows, verdicts)
    failed = sum(cell.failed for cell in cells)
    if failed:
        print(f"{failed} requests failed", file=sys.stderr)
    return 0 if not failed and all(verdict.accepted for verdict in verdicts) else 1


def measure(
    stores: Collection[str], pace: Pace, figures: Collection[Figure] = tuple(Figure), *, profiles: Path | None = None
) -> list[Cell]:
    """Measure on each store in turn, telling of each cell on stdout. `CannotMeasure` says what is in the way."""
    places = find_places()
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as name:
        folder = Path(name)
        compile_programs(folder)
        with serving_upstream(folder, places) as upstream:
            for store in stores:
                watch = partial(sampled, profiles, store) if profiles else lambda _figure, _pid: nullcontext()
                with open_database(store, places) as database:
                    course = Course(folder, upstream, store, database, places, pace, frozenset(figures), _tell, watch)
                    cells += course.run()
    return cells


def conclude(cells: Sequence[Cell]) -> tuple[list[Row], list[Verdict]]:
    """Make the table and hold the floors against it."""
    stores = dict.fromkeys(cell.store for cell in cells)
    found = [summarise(cells, figure, store, YARDSTICKS[figure]) for store in stores for figure in Figure]
    rows = [row for row in found if row is not None]
    return rows, judge(rows)


def _read(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What the daemon costs.")
    parser.add_argument("--short", action="store_true", help="once and briefly: to see that it works")
    parser.add_argument("--store", action="append", choices=STORES, help="this store only; may be given again")
    parser.add_argument("--figure", action="append", type=Figure, choices=list(Figure), help="this figure only")
    parser.add_argument("--out", type=Path, help="write every figure as JSON lines into this file")
    parser.add_argument("--profile", type=Path, help="sample the daemon with py-spy under each load, into this folder")
    return parser.parse_args(words)


def _tell(cell: Cell) -> None:
    cost = "" if cell.cpu_us is None else f"{cell.cpu_us:8,.0f} us CPU"
    cost += "" if cell.kernel_us is None else f", {cell.kernel_us:6,.0f} us kernel"
    print(
        f"{cell.store:8} {cell.figure.value:20} {cell.server:8} {cell.per_s:10,.0f}/s {cost:35}"
        f" p50 {cell.p50_ms:8.2f} ms {'' if not cell.failed else f'{cell.failed} FAILED'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
