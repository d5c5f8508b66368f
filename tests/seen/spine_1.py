"""spine.1: in a fresh clone, `make demo ARGS=--once` ends with 0 and shows a failover with its bill."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.leftovers import MARK
from tests.seen.stage import Findings

ROOT = Path(__file__).resolve().parents[2]


async def show(*, short: bool = False) -> int:
    """Clone, run the one command, read what it printed. The short form runs the command of this checkout instead."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="pointsman-clone-") as folder:
        began = time.perf_counter()
        if short:
            command, place = [sys.executable, "-m", "router", "demo", "--once"], ROOT
        else:
            place = Path(folder) / "clone"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
            command = ["make", "demo", "ARGS=--once", f"PYTHON={sys.executable}"]
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_") or name == MARK
        }
        environ |= {"COLUMNS": "200", "TMPDIR": folder}
        environ.pop("VIRTUAL_ENV", None)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=place, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = (await process.communicate())[0].decode()
        took_s = time.perf_counter() - began
        print(output)
        pictures = [one for one in Path(folder).rglob("*") if one.is_file() and is_png(one)]
        judge(findings, process.returncode, output, len(pictures), took_s)
    return findings.verdict()


def judge(findings: Findings, code: int | None, output: str, pictures: int, took_s: float) -> None:
    """Hold the printed table against the promise."""
    failed_over = re.findall(r"(overloaded|server_error|throttled|unsent)", output)
    findings.show("exit code", code)
    findings.show("from nothing to the end, seconds", f"{took_s:.1f}")
    findings.show("failed first attempts in the table", len(failed_over))
    findings.show("PNG files on disk", pictures)
    findings.expect(code == 0, "make demo ARGS=--once ends with 0")
    findings.expect("succeeded" in output, "the table has tasks that succeeded")
    findings.expect(bool(failed_over), "the table shows a first provider that failed")
    findings.expect("not_billed" in output and re.search(r"\bbilled", output) is not None, "the table shows billing")
    findings.expect(re.search(r"0\.0\d", output) is not None, "the table shows cost")
    findings.expect(pictures > 0, "the pictures are on disk")


def is_png(path: Path) -> bool:
    """Look at the magic bytes."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"
