"""replicas.4: the table of figures on both stores, every floor met or its reason given.

The short form sees that each figure is there and that the load was answered; how fast is for a machine that is quiet.
"""

from __future__ import annotations

import sys

from tests.bench.__main__ import conclude, measure
from tests.bench.course import LONG, SHORT
from tests.bench.floors import FLOORS, STORES, Figure
from tests.bench.programs import CannotMeasure
from tests.bench.table import print_rows, print_verdicts
from tests.seen.stage import Findings


async def show(*, short: bool = False) -> int:
    """Measure everything on both stores and judge it."""
    findings = Findings()
    try:
        cells = measure(STORES, SHORT if short else LONG)
    except CannotMeasure as reason:
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    rows, verdicts = conclude(cells)
    print_rows(rows)
    print_verdicts(verdicts)
    seen = {(row.figure, row.store) for row in rows}
    findings.show("figures", f"{len(seen)} of {len(Figure) * len(STORES)}")
    findings.show(
        "requests, of which failed", f"{sum(one.requests for one in cells)}, {sum(one.failed for one in cells)}"
    )
    findings.show("floors met", f"{sum(one.met for one in verdicts)} of {len(verdicts)}")
    findings.expect(len(seen) == len(Figure) * len(STORES), "every figure is measured on both stores")
    findings.expect(not sum(one.failed for one in cells), "every request is answered with a success")
    findings.expect(all(row.per_s > 0 and row.cpu_us > 0 and row.cpu_ratio > 0 for row in rows), "every figure counts")
    findings.expect(len(verdicts) == len(FLOORS) * len(STORES), "every floor is judged on both stores")
    if not short:
        for verdict in verdicts:
            what = f"{verdict.floor.figure.value}, {verdict.floor.measure.value}, on {verdict.store}"
            findings.expect(verdict.accepted, f"the floor of {what} is met or its reason given")
    return findings.verdict()
