"""The course of a run: which load is put on which server, in which order, and what is read off.

Repetitions are interleaved, daemon and bare proxy in turn, so that what slows the machine down slows both. CPU is that
of the whole load, its warm-up included, over the requests answered in it; rates and latencies are those of the window.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.bench.floors import Cell, Figure, percentile
from tests.bench.programs import CannotMeasure, Cpu, Load, Places, ask, measure_cpu, measure_rss, press
from tests.bench.servers import (
    HEADERS,
    IMAGES,
    Database,
    Serving,
    serving_bare,
    serving_product,
    write_image,
    write_task,
)

CROWD, FEW = 64, 16
IDLE_S = 1.0
DRAINED_WITHIN_S = 120.0
LOOK_EVERY_S = 0.02
FINISHED = re.compile(rb'^pointsman_tasks_finished_total\{model="small",status="succeeded"\} (\S+)', re.MULTILINE)

# Which figure's measurement of the bare proxy a figure is held against.
YARDSTICKS = {
    Figure.SUBMIT: Figure.SUBMIT,
    Figure.SUBMIT_ASYNC: Figure.SUBMIT,
    Figure.SUBMIT_BUSY: Figure.SUBMIT,
    Figure.END_TO_END: Figure.SUBMIT,
    Figure.POLL: Figure.SUBMIT,
    Figure.LONE: Figure.LONE,
    Figure.LARGE: Figure.LARGE,
    Figure.START: Figure.START,
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is done: seconds of a window and its warm-up, tasks of an end-to-end run, repetitions."""

    seconds: float
    warm_up_s: float
    tasks: int
    repetitions: int


LONG = Pace(seconds=2.0, warm_up_s=0.4, tasks=3000, repetitions=3)
SHORT = Pace(seconds=0.4, warm_up_s=0.1, tasks=300, repetitions=1)

# Opens around a measurement of the daemon, for whoever wants to look at it meanwhile.
Watch = Callable[[Figure, int], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU for each request, in microseconds; None where there is nobody to ask."""

    cpu_us: float | None
    kernel_us: float | None
    database_us: float | None


@dataclass(frozen=True, slots=True)
class Course:
    """One run on one store. `tell` hears of each cell as it is measured."""

    folder: Path
    upstream: str
    store: str
    database: Database
    places: Places
    pace: Pace
    figures: frozenset[Figure]
    tell: Callable[[Cell], None]
    watch: Watch = lambda _figure, _pid: nullcontext()

    def run(self) -> list[Cell]:
        """Start the servers, measure everything, and return the cells."""
        home = self.folder / f"{self.store}-home"
        cells: list[Cell] = []
        with (
            serving_bare(self.folder, self.upstream, self.places) as bare,
            serving_product(home, self.upstream, self.database, self.places) as product,
        ):
            for cell in self._measure(bare, product):
                self.tell(cell)
                cells.append(cell)
        return cells

    def _measure(self, bare: Serving, product: Serving) -> Iterator[Cell]:
        time.sleep(IDLE_S)
        yield self._read_start("bare", bare)
        yield self._read_start("product", product)
        task_url = self._make_task(product)
        if Figure.END_TO_END in self.figures:
            for _ in self._work(product, 0, self._task_load(product)):
                continue  # the vault makes its folders on the way: thousands, once
        for repetition in range(self.pace.repetitions):
            for figure, load in self._loads(product, task_url):
                if figure not in self.figures:
                    continue
                if figure is not Figure.SUBMIT_ASYNC:  # it follows the figure that it is compared with
                    yield self._press(YARDSTICKS[figure], "bare", bare, repetition, self._bare_load(figure, bare))
                if figure is Figure.LONE:
                    yield self._press(figure, "direct", None, repetition, self._bare_load(figure, None))
                if figure is Figure.END_TO_END:
                    yield from self._work(product, repetition, load)
                    continue
                with self.watch(figure, product.pid):
                    cell = self._press(figure, "product", product, repetition, load)
                yield cell

    # -- loads --------------------------------------------------------------------------------------------------------

    def _loads(self, product: Serving, task_url: str) -> Iterator[tuple[Figure, Load]]:
        """What is asked of the daemon for each figure, in order."""
        tasks, images = f"{product.url}/v1/tasks", f"{product.url}{IMAGES}"
        yield Figure.SUBMIT, self._load(tasks, CROWD, write_task("parked", priority="low"))
        at_once = write_image("parked", priority="low", **{"async": True})
        yield Figure.SUBMIT_ASYNC, self._load(images, CROWD, at_once)
        yield Figure.POLL, self._load(task_url, CROWD, None)
        yield Figure.END_TO_END, self._task_load(product)
        yield Figure.LONE, self._load(images, 1, write_image("small"))
        yield Figure.LARGE, self._load(images, FEW, write_image("large"))

    def _task_load(self, product: Serving) -> Load:
        return self._load(f"{product.url}/v1/tasks", CROWD, write_task("small"), requests=self.pace.tasks)

    def _bare_load(self, figure: Figure, bare: Serving | None) -> Load:
        """The same asked of the bare proxy, or of the upstream itself."""
        url = self.upstream if bare is None else bare.url
        path, connections = IMAGES, CROWD
        if figure is Figure.LONE:
            connections = 1
        elif figure is Figure.LARGE:
            path, connections = f"/large{IMAGES}", FEW
        return self._load(f"{url}{path}", connections, write_image("small"))

    def _load(self, url: str, connections: int, body: bytes | None, requests: int = 0) -> Load:
        headers = tuple(f"{name}: {value}" for name, value in HEADERS.items())
        seconds, warm_up_s = (DRAINED_WITHIN_S, 0.0) if requests else (self.pace.seconds, self.pace.warm_up_s)
        return Load(url, connections, seconds, warm_up_s, requests, body, headers)

    # -- measurements -------------------------------------------------------------------------------------------------

    def _press(self, figure: Figure, server: str, serving: Serving | None, repetition: int, load: Load) -> Cell:
        """Put a load on a server. The upstream itself is loaded from the CPU that is the server's otherwise."""
        before, database_before = self._read_cpu(serving), self._read_database_cpu()
        answers = press(self.folder, load, cpus=self.places.others if serving else self.places.server)
        costs = self._share(serving, before, database_before, answers.answered)
        return Cell(
            figure=figure,
            server=server,
            store=self.store,
            repetition=repetition,
            requests=answers.answered,
            failed=answers.failed,
            per_s=answers.in_window / answers.window_s,
            cpu_us=costs.cpu_us,
            p50_ms=percentile(answers.latencies_us, 0.5) / 1000,
            p99_ms=percentile(answers.latencies_us, 0.99) / 1000,
            kernel_us=costs.kernel_us,
            database_us=costs.database_us if server == "product" else None,
            rss_mb=measure_rss(serving.pid) / 1e6 if serving else None,
        )

    def _work(self, product: Serving, repetition: int, load: Load) -> Iterator[Cell]:
        """Submit tasks and let them be done: how fast they are accepted meanwhile, and how fast all is done."""
        done_before, asked_before = self._count_done(product), self._count_pictures()
        before, database_before = self._read_cpu(product), self._read_database_cpu()
        began = time.monotonic()
        with self.watch(Figure.END_TO_END, product.pid):
            busy = self._press(Figure.SUBMIT_BUSY, "product", product, repetition, load)
            tasks = busy.requests - busy.failed
            self._await(lambda: self._count_pictures() - asked_before >= tasks)
            took_s = time.monotonic() - began  # what the last few still need is not worth a question to the daemon
            self._await(lambda: self._count_done(product) - done_before >= tasks)
        costs = self._share(product, before, database_before, tasks)
        yield busy
        yield Cell(
            figure=Figure.END_TO_END,
            server="product",
            store=self.store,
            repetition=repetition,
            requests=tasks,
            failed=busy.failed,
            per_s=tasks / took_s,
            cpu_us=costs.cpu_us,
            p50_ms=busy.p50_ms,
            p99_ms=busy.p99_ms,
            kernel_us=costs.kernel_us,
            database_us=costs.database_us,
            rss_mb=measure_rss(product.pid) / 1e6,
        )

    def _read_start(self, server: str, serving: Serving) -> Cell:
        """What a server took to its first picture and what it holds while it has nothing to do."""
        return Cell(
            figure=Figure.START,
            server=server,
            store=self.store,
            repetition=0,
            requests=1,
            failed=0,
            per_s=1 / serving.first_s,
            cpu_us=self._read_cpu(serving).whole_s * 1e6,
            p50_ms=serving.first_s * 1000,
            p99_ms=serving.first_s * 1000,
            rss_mb=measure_rss(serving.pid) / 1e6,
        )

    def _make_task(self, product: Serving) -> str:
        """Have one task done; returns where it is read."""
        headers = {**HEADERS, "Prefer": "wait=30"}
        status, said = ask("POST", f"{product.url}/v1/tasks", write_task("small"), headers, timeout_s=40.0)
        task = json.loads(said)
        if status != 202 or task["status"] != "succeeded":
            raise CannotMeasure(f"the first task comes to nothing: {status} {said[:300]!r}")
        return f"{product.url}/v1/tasks/{task['id']}"

    def _share(self, serving: Serving | None, before: Cpu, database_before: Cpu, requests: int) -> Costs:
        """What has been used since, for each request."""
        each = 1e6 / max(1, requests)
        used, database = self._read_cpu(serving) - before, self._read_database_cpu() - database_before
        return Costs(
            cpu_us=used.whole_s * each if serving else None,
            kernel_us=used.kernel_s * each if serving else None,
            database_us=database.whole_s * each if self.database.pid else None,
        )

    def _read_cpu(self, serving: Serving | None) -> Cpu:
        return measure_cpu(serving.pid) if serving else Cpu()

    def _read_database_cpu(self) -> Cpu:
        return measure_cpu(self.database.pid) if self.database.pid else Cpu()

    def _count_pictures(self) -> int:
        """How many pictures the upstream has been asked for: a question that costs the daemon nothing."""
        return int(json.loads(ask("GET", f"{self.upstream}/stats")[1])["pictures"])

    def _count_done(self, product: Serving) -> int:
        found = FINISHED.search(ask("GET", f"{product.url}/metrics", None, HEADERS)[1])
        return int(float(found[1])) if found else 0

    def _await(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + DRAINED_WITHIN_S
        while not holds():
            if time.monotonic() > until:
                raise CannotMeasure(f"tasks are not done within {DRAINED_WITHIN_S:g} s")
            time.sleep(LOOK_EVERY_S)
