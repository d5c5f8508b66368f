"""upstreams.3: every adapter's mandatory scenarios, and two hundred tasks of each while its provider misbehaves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from providers import known
from tests.providers.exchange import MANDATORY, errors_of, exchanges_of
from tests.providers.proofs import setup_of
from tests.providers.soak import soak
from tests.seen.stage import Findings

TASKS = 200


async def show(*, short: bool = False) -> int:
    """Count the scenarios, run the tasks; the short form leaves the tasks to tests/providers/test_soak.py."""
    findings, ends = Findings(), Counter[str]()
    for slug in known():
        names = [one.name for one in exchanges_of(slug)]
        missing = [name for name in MANDATORY if name not in names]
        rows = sum(1 for _ in errors_of(slug))
        findings.show(f"{slug}: exchanges, rows of errors", f"{len(names)}, {rows}")
        findings.expect(not missing, f"{slug} shows {missing}")
        findings.expect(bool(setup_of(slug)), f"{slug} has something to be driven against")
        for one in exchanges_of(slug):
            one.play()
        if short:
            continue
        with TemporaryDirectory(prefix="pointsman-soak-") as folder:
            report = await soak(slug, TASKS, Path(folder))
        figures = f"{TASKS}, {report.struck}, {report.billed}, {report.seconds:.0f}"
        findings.show(f"{slug}: tasks, faults struck, billed, seconds", figures)
        for wrong in report.wrong[:5]:
            findings.expect(False, f"{slug}: {wrong}")
        ends.update(report.ends)
    for name, count in sorted(ends.items()):
        findings.show(f"  ended {name}", count)
    return findings.verdict()
