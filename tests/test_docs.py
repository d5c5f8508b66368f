"""What a document shows of the code is what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import router
from router.task import MOVES, MoveName, State
from tests.design_diagram import diagram

ROOT = Path(router.__file__).parent.parent
DESIGN = (ROOT / "router" / "DESIGN.md").read_text(encoding="utf-8")


def test_the_state_diagram_in_the_design_is_the_one_that_the_table_gives():
    shown = re.findall(r"^```text\n(pending.*?)^```$", DESIGN, flags=re.DOTALL | re.MULTILINE)

    assert shown == [diagram()], "router/DESIGN.md is stale: put in what `python -m tests.design_diagram` prints"


def test_the_command_prints_the_diagram():
    command = [sys.executable, "-m", "tests.design_diagram"]

    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout == diagram()


def test_the_diagram_shows_every_state_and_every_move():
    lines = diagram().splitlines()

    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(State)
    assert sum(line.startswith("  --") for line in lines) == len(MOVES)
    assert all(any(f"--{name}-" in line for line in lines) for name in MoveName)
