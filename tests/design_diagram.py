"""The state diagram of router/DESIGN.md, printed from the table of moves by `python -m tests.design_diagram`.

`tests/test_docs.py` fails while DESIGN.md shows another one.
"""

import sys
from dataclasses import replace

from router.provider import Kind
from router.task import MOVES, TERMINAL, Move, MoveName, Priority, State, Task, apply

FRESH = Task(
    id="task_0",
    tenant="any",
    kind=Kind.IMAGE_GENERATION,
    model="any",
    input={},
    surface="native",
    route="any",
    priority=Priority.NORMAL,
    created_at=0,
)


def diagram() -> str:
    """Return a block of lines for each state: its name, then an arrow for each of its moves as the table has them."""
    width = max(len(name) for name in MoveName)
    lines = []
    for state in State:
        remarks = {" (start)": state is FRESH.state, " (terminal)": state in TERMINAL}
        lines.append(state + "".join(remark for remark, holds in remarks.items() if holds))
        for before, name in MOVES:
            if before is state:
                lines.append(f"  --{name:-<{width}}-> {' | '.join(_landings(before, name))}")
    return "\n".join(lines) + "\n"


def _landings(state: State, name: MoveName) -> list[State]:
    """Return where the move lands, which for an interruption depends on the tries: the first one, then a later one."""
    move = Move(name, at=0, provider="any")
    return list(dict.fromkeys(apply(replace(FRESH, state=state, tries=tries), move).state for tries in (1, 2)))


if __name__ == "__main__":
    sys.stdout.write(diagram())
