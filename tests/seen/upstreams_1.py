"""upstreams.1: the matrix of providers, written by the tests that passed."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

from providers import known
from tests.providers import matrix
from tests.seen.stage import Findings

PROOFS = "tests/providers/test_proofs.py"


async def show(*, short: bool = False) -> int:
    """Run the proofs, write the page from what passed, and compare it with the one in the repository."""
    findings = Findings()
    cells = matrix.cells()
    wanted = {name for shown in cells.values() for column, name in shown.items() if column != matrix.SDK}
    passed = wanted if short else await run_proofs()
    text = matrix.render(passed)
    findings.show("providers", len(known()))
    for column in (*matrix.COLUMNS, matrix.SDK):
        findings.show(f"  {column}", sum(column in shown for shown in cells.values()))
    findings.show("cells shown by a test that passed", f"{len(wanted & passed)} of {len(wanted)}")
    findings.expect(wanted <= passed, f"these did not pass: {sorted(wanted - passed)}")
    findings.expect(matrix.PAGE.read_text(encoding="utf-8") == text, "docs/providers.md is what the tests show")
    return findings.verdict()


async def run_proofs() -> set[str]:
    """Run the proofs in a process of their own; returns the names of those that passed."""
    with TemporaryDirectory(prefix="pointsman-seen-") as folder:
        report = Path(folder) / "report.xml"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-q", PROOFS, f"--junitxml={report}", stdout=asyncio.subprocess.DEVNULL
        )
        await process.wait()
        cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - we have just written it ourselves
        return {short_name(case.get("name", "")) for case in cases if len(case) == 0}


def short_name(name: str) -> str:
    """Leave out whatever pytest may put around."""
    return re.sub(r"^.*::", "", name)
