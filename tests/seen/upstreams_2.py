"""upstreams.2: `pointsman simulate` in one process, the provider's own SDK in another; the demo with further ones."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from providers import known
from tests.providers.proofs import setup_of
from tests.seen.stage import Findings

ROOT = Path(__file__).parents[2]
SHOWN = ("fal", "gemini")


async def show(*, short: bool = False) -> int:
    """Run the SDK tests (each starts `pointsman simulate SLUG`), then the demo with two more providers."""
    findings = Findings()
    sdks = {slug: file for slug in known() if (file := setup_of(slug).get("sdk")) is not None}
    for slug, file in sorted(sdks.items()):
        findings.show(f"{slug} is driven by its SDK in", file)
        findings.expect((ROOT / file).exists(), f"{file} is there")
    if not short:
        code, output = await run("make", "test-sdk")
        passed = sum(int(count) for count in re.findall(r"(\d+) passed", output))
        findings.show("SDK tests passed, over all majors", passed)
        findings.expect(code == 0 and passed > 0, f"the SDK tests pass: {output[-2000:]}")
    code, output = await run(sys.executable, "-m", "router", "demo", "--once", "--with", ",".join(SHOWN))
    verdict = next((line for line in output.splitlines() if "tasks succeeded" in line), "no verdict")
    findings.show(f"pointsman demo --with {','.join(SHOWN)}", verdict)
    findings.expect(code == 0, f"the demo shows what it promises: {output[-2000:]}")
    for slug in SHOWN:
        findings.expect(f"{slug} succeeded" in output, f"{slug} is in the demo's table")
    return findings.verdict()


async def run(*words: str) -> tuple[int, str]:
    """Run a command in the repository; returns its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")
