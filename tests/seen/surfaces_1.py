"""surfaces.1: the official `openai` SDKs, for Python in three majors and for Node, drive the OpenAI surface."""

from __future__ import annotations

import re
from pathlib import Path

from tests.seen.stage import Findings
from tests.seen.upstreams_2 import run

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "tests" / "sdk" / "surface"
NODE = ROOT / "tests" / "sdk" / "node"
WANTED = ("test_images.py", "test_videos.py", "test_chat.py")
LOCKS = ("current", "openai-2", "openai-1")


async def show(*, short: bool = False) -> int:
    """Run both; the short form only says with what, because `make test` runs them anyway."""
    findings = Findings()
    for lock in LOCKS:
        text = (ROOT / "tests" / "sdk" / f"{lock}.lock").read_text(encoding="utf-8")
        version = re.search(r"^openai==(\S+)", text, re.MULTILINE)
        findings.show(f"openai for Python, {lock}", version and version[1])
        findings.expect(version is not None, f"{lock}.lock pins openai")
    for name in WANTED:
        findings.expect((PYTHON / name).exists(), f"tests/sdk/surface/{name} is there")
    package = (NODE / "package-lock.json").read_text(encoding="utf-8")
    findings.show("openai for Node", re.findall(r'"openai": "([^"]+)"', package)[:1])
    findings.expect("resolved" not in package and "http" not in package.replace("https://github", ""), "no addresses")
    if not short:
        code, output = await run("make", "test-sdk-surface")
        counts = [int(count) for count in re.findall(r"(\d+) passed", output)]
        findings.show("Python tests passed, one count for each major", counts)
        findings.expect(code == 0 and len(counts) == len(LOCKS), f"the Python SDKs pass: {output[-2000:]}")
        code, output = await run("make", "test-sdk-node")
        passed = re.search(r"pass (\d+)", output)
        findings.show("Node tests passed", passed and passed[1])
        findings.expect(code == 0, f"the Node SDK passes: {output[-2000:]}")
    return findings.verdict()
