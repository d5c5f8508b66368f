"""What the daemon must reach, as data, and what is said where it does not.

A rate is judged as a ratio: what the design asks of one core, over what a bare aiohttp proxy did on one core when the
design was made (9,800 small answers a second at 64 connections, 883 of 1.4 MB at 16). The ratio that is held against
it is that of CPU per request, because CPU is what a shared machine leaves comparable. Pure: figures in, verdicts out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from statistics import median

STORES = ("sqlite", "postgres")


class Figure(StrEnum):
    """What is measured."""

    SUBMIT = "submit"
    SUBMIT_ASYNC = "submit, async: true"
    SUBMIT_BUSY = "submit while working"
    END_TO_END = "end to end"
    POLL = "poll"
    LONE = "lone sync call"
    LARGE = "1.4 MB image"
    START = "start"


class Measure(StrEnum):
    """Which number of a figure a floor is about."""

    RATIO = "CPU ratio to bare"
    ADDED_MS = "added p50, ms"
    RSS_MB = "idle RSS, MB"
    FIRST_S = "first 200, s"


@dataclass(frozen=True, slots=True)
class Floor:
    """The least (of a ratio) or the most (of anything else) that is accepted, and where the number comes from."""

    figure: Figure
    measure: Measure
    bound: float
    source: str


FLOORS: tuple[Floor, ...] = (
    Floor(Figure.SUBMIT, Measure.RATIO, 0.51, "5,000 durable submits/s at 64 connections, bare 9,800"),
    Floor(Figure.END_TO_END, Measure.RATIO, 0.26, "2,500 tasks/s from accept to stored result, bare 9,800"),
    Floor(Figure.POLL, Measure.RATIO, 0.61, "6,000 polls/s at 64 connections, bare 9,800"),
    Floor(Figure.LARGE, Measure.RATIO, 0.34, "300 pictures of 1.4 MB/s at 16 connections, bare 883"),
    Floor(Figure.LONE, Measure.ADDED_MS, 3.0, "a lone sync call is not held up for longer"),
    Floor(Figure.START, Measure.RSS_MB, 80.0, "memory of a daemon that has nothing to do"),
    Floor(Figure.START, Measure.FIRST_S, 1.0, "from the start of the process to its first picture"),
)

SUBMIT_WHY = (
    "it stood at the floor before the surfaces came; keys and their limits, JSON that is read strictly, the signed "
    "link to a task's events and the index of what has changed cost a sixth more. What is left is Python in small "
    "parts, of which the plan of a request that is only queued is the largest (14 us)"
)
END_TO_END_WHY = (
    "a task is three commits, a file that is synced and renamed, and a call over a connection of its own, with ten "
    "changes of threads between them: of 1,250 us the kernel takes 300 (most of it for the file), the store's threads "
    "250, the log's 50, the loop the rest. To come: no reading back of a row that was just written, and small results "
    "in the row"
)
LARGE_WHY = (
    "the picture is decoded, hashed, synced to a file, read back and encoded, where the bare proxy hands on what it "
    "got: half of the time is the kernel's, for the file and for fresh pages. To come: encoding from what is still in "
    "memory"
)
LONE_WHY = (
    "three commits and a file follow one another, each waits for the disk, and a CPU that sleeps in between is slow to "
    "wake: 3.2 to 3.9 ms here"
)
LONE_POSTGRES_WHY = (
    "some twenty-five round trips follow one another, three of them commits of a millisecond. To come: begin, mark and "
    "statement of a verb in one message"
)

# (figure, measure, store) -> why it is missed and what would mend it. An entry here keeps `make bench` from failing.
EXPLAINED: Mapping[tuple[Figure, Measure, str], str] = {
    (Figure.SUBMIT, Measure.RATIO, "sqlite"): SUBMIT_WHY,
    (Figure.SUBMIT, Measure.RATIO, "postgres"): SUBMIT_WHY,
    (Figure.END_TO_END, Measure.RATIO, "sqlite"): END_TO_END_WHY,
    (Figure.END_TO_END, Measure.RATIO, "postgres"): END_TO_END_WHY,
    (Figure.LARGE, Measure.RATIO, "sqlite"): LARGE_WHY,
    (Figure.LARGE, Measure.RATIO, "postgres"): LARGE_WHY,
    (Figure.LONE, Measure.ADDED_MS, "sqlite"): LONE_WHY,
    (Figure.LONE, Measure.ADDED_MS, "postgres"): LONE_POSTGRES_WHY,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement of one server. `server`: product, bare or direct. None where a number does not exist.

    `cpu_us` is CPU per request of the server and its children, `kernel_us` the part of it that the kernel took, and
    `database_us` the CPU of the database's processes.
    """

    figure: Figure
    server: str
    store: str
    repetition: int
    requests: int
    failed: int
    per_s: float
    cpu_us: float | None
    p50_ms: float
    p99_ms: float
    kernel_us: float | None = None
    database_us: float | None = None
    rss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: medians over the repetitions. Ratios are bare over product: 1.0 is as cheap as bare.

    A ratio is taken within each repetition, because what slows the machine down comes and goes.
    """

    figure: Figure
    store: str
    cells: int
    failed: int
    per_s: float
    cpu_us: float
    kernel_us: float
    spread: float
    bare_cpu_us: float
    cpu_ratio: float
    rate_ratio: float
    p50_ms: float
    p99_ms: float
    added_ms: float | None
    database_us: float | None
    rss_mb: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A floor held against what was measured. `why` is the entry in `EXPLAINED`, None without one."""

    floor: Floor
    store: str
    value: float
    met: bool
    why: str | None

    @property
    def accepted(self) -> bool:
        """Whether it is met, or missed with a reason."""
        return self.met or self.why is not None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value of rank ceil(share * n) of an ordered sequence (nearest rank); 0.0 of an empty one."""
    if not ordered:
        return 0.0
    return float(ordered[min(len(ordered), max(1, ceil(share * len(ordered)))) - 1])


def spread(values: Sequence[float]) -> float:
    """How far repetitions lie apart: (largest - least) / median, 0.0 of less than two."""
    middle = median(values) if values else 0.0
    return (max(values) - min(values)) / middle if len(values) > 1 and middle else 0.0


def ratio(of: float, to: float) -> float:
    """`of` over `to`; 0.0 where there is nothing to divide by."""
    return of / to if to else 0.0


def summarise(cells: Sequence[Cell], figure: Figure, store: str, yardstick: Figure) -> Row | None:
    """Make the line of a figure; `yardstick` is the figure under which the bare proxy was measured beside it."""
    own = [cell for cell in cells if (cell.figure, cell.store, cell.server) == (figure, store, "product")]
    bare = [cell for cell in cells if (cell.figure, cell.store, cell.server) == (yardstick, store, "bare")]
    direct = [cell for cell in cells if (cell.figure, cell.store, cell.server) == (figure, store, "direct")]
    if not own or not bare:
        return None
    costs = [cell.cpu_us for cell in own if cell.cpu_us is not None]
    bare_us = median(cell.cpu_us for cell in bare if cell.cpu_us is not None)
    p50_ms = median(cell.p50_ms for cell in own)
    return Row(
        figure=figure,
        store=store,
        cells=len(own),
        failed=sum(cell.failed for cell in (*own, *bare, *direct)),
        per_s=median(cell.per_s for cell in own),
        cpu_us=median(costs),
        kernel_us=_median_of(cell.kernel_us for cell in own) or 0.0,
        spread=spread(costs),
        bare_cpu_us=bare_us,
        cpu_ratio=median(ratio(_beside(cell, bare, "cpu_us"), cell.cpu_us or 0.0) for cell in own),
        rate_ratio=median(ratio(cell.per_s, _beside(cell, bare, "per_s")) for cell in own),
        p50_ms=p50_ms,
        p99_ms=median(cell.p99_ms for cell in own),
        added_ms=p50_ms - median(cell.p50_ms for cell in direct) if direct else None,
        database_us=_median_of(cell.database_us for cell in own),
        rss_mb=_median_of(cell.rss_mb for cell in own),
    )


def judge(
    rows: Sequence[Row],
    floors: Sequence[Floor] = FLOORS,
    explained: Mapping[tuple[Figure, Measure, str], str] = EXPLAINED,
) -> list[Verdict]:
    """Hold every floor against every line that it is about."""
    verdicts = []
    for floor in floors:
        for row in rows:
            value = value_of(row, floor.measure) if row.figure is floor.figure else None
            if value is None:
                continue
            met = value >= floor.bound if floor.measure is Measure.RATIO else value <= floor.bound
            why = explained.get((floor.figure, floor.measure, row.store))
            verdicts.append(Verdict(floor, row.store, value, met, why))
    return verdicts


def value_of(row: Row, measure: Measure) -> float | None:
    """The number of a line that a floor is about."""
    match measure:
        case Measure.RATIO:
            return row.cpu_ratio
        case Measure.ADDED_MS:
            return row.added_ms
        case Measure.RSS_MB:
            return row.rss_mb
        case Measure.FIRST_S:
            return row.p50_ms / 1000


def _beside(cell: Cell, others: Sequence[Cell], name: str) -> float:
    """The median of a number of those who were measured in the same repetition, else of all."""
    same = [one for one in others if one.repetition == cell.repetition] or others
    return median(getattr(one, name) for one in same)


def _median_of(values: object) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
