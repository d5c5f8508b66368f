"""Where the daemon's time goes under a load: py-spy's stacks, added up by function."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.floors import Figure
from tests.bench.programs import find_places, pinned

SAMPLES_PER_S = 250
LINES = 60
END_WITHIN_S = 30.0


@contextmanager
def sampled(folder: Path, store: str, figure: Figure, pid: int) -> Iterator[None]:
    """Sample a process while the block runs; adds up what it found in `folder`, in a file of the store and figure."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{store}-{figure.value.replace(' ', '-').replace(',', '').replace(':', '')}"
    raw, table = folder / f"{name}.raw", folder / f"{name}.txt"
    words = ["--pid", str(pid), "--rate", str(SAMPLES_PER_S), "--format", "raw", "--threads", "--output", str(raw)]
    with pinned(find_places().others), (folder / "py-spy.log").open("ab") as log:
        program = str(Path(sys.executable).with_name("py-spy"))
        process = subprocess.Popen([program, "record", "--duration", "600", *words], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # it writes what it has
        process.wait(timeout=END_WITHIN_S)
    if raw.exists():
        table.write_text("\n".join(describe(raw.read_text().splitlines())) + "\n")


def describe(stacks: Iterable[str]) -> list[str]:
    """Shares of the samples by function: with what it calls, and by itself. A stack is `a;b;c COUNT`, outermost first.

    Whoever waits is not sampled, so that the shares are of the time at work.
    """
    whole, own, total = add_up(stacks)
    head = f"{total} samples; whole %, own %, function"
    return [
        head,
        *(
            f"{100 * count / total:6.1f} {100 * own[name] / total:6.1f}  {name}"
            for name, count in whole.most_common(LINES)
        ),
        "",
        "by own time",
        *(f"{100 * count / total:6.1f}  {name}" for name, count in own.most_common(LINES)),
    ]


def add_up(stacks: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """Count the samples in which a function stands anywhere, and those in which it stands innermost."""
    whole: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, number = line.rpartition(" ")
        frames = [_strip_line(frame) for frame in stack.split(";") if frame]
        if not frames or not number.isdecimal():
            continue
        count = int(number)
        total += count
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    return whole, own, total


def _strip_line(frame: str) -> str:
    """`name (path/file.py:12)` without the number of the line: a function is one thing."""
    name, _, line = frame.rpartition(":")
    return f"{name})" if name and line.rstrip(")").isdecimal() else frame
