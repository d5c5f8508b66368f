"""`python -m tests.sim --seeds N`: run seeds, print what they met; a violation or a cell of zero fails."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim.engines import ENGINES
from tests.sim.pair import PAIR_CELLS, simulate_pair
from tests.sim.simulation import Report, cells, simulate

UNKNOWN_SHARE_MIN = 0.05


def main() -> int:
    """Run and judge; 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--engine", choices=sorted(ENGINES), default=max(ENGINES))
    parser.add_argument("--daemons", type=int, choices=(1, 2), default=1, help="two share the memory store")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--trace", action="store_true", help="print seed and trace hash only")
    asked = parser.parse_args()
    began = time.perf_counter()
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.trace:
        for seed in seeds:
            print(seed, simulate(seed, ENGINES[asked.engine]()).trace)
        return 0
    if asked.daemons == 2:
        return run_pairs(seeds, asked.jobs)
    with ProcessPoolExecutor(asked.jobs) as pool:
        reports = list(pool.map(partial(run_seed, asked.engine), seeds, chunksize=1))
    problems = judge(reports)
    first = asked.first
    if traces_of(first, asked.engine, "1") != traces_of(first, asked.engine, "2"):
        problems.append(f"two processes gave two traces of seed {first}")
    print_table(reports)
    print(f"{len(reports)} seeds on {asked.engine} in {time.perf_counter() - began:.1f} s")
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def run_pairs(seeds: range, jobs: int) -> int:
    """Run seeds with two daemons on one store; 0 when nothing is violated and every cell was met."""
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        reports = list(pool.map(simulate_pair, seeds, chunksize=1))
    met = total(reports)
    for cell in PAIR_CELLS:
        print(f"{cell:28} {met[cell]:>8}")
    print(f"{'attempts':28} {sum(one.attempts for one in reports):>8}")
    print(f"{len(reports)} seeds with two daemons in {time.perf_counter() - began:.1f} s")
    problems = [f"seed {report.seed}: {line}" for report in reports for line in report.violations]
    problems += [f"never met: {cell}" for cell in PAIR_CELLS if not met[cell]]
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def run_seed(engine: str, seed: int) -> Report:
    """Run one seed on a fresh engine (in a process of the pool)."""
    return simulate(seed, ENGINES[engine]())


def judge(reports: list[Report], *, all_cells: bool = True) -> list[str]:
    """What is wrong with these runs: violations with their seed, cells of zero, too few unknown outcomes."""
    problems = [f"seed {report.seed}: {line}" for report in reports for line in report.violations]
    met = total(reports)
    if all_cells:
        problems += [f"never met: {cell}" for cell in cells() if not met[cell]]
    unknown, attempts = sum(one.unknown for one in reports), sum(one.attempts for one in reports)
    if unknown < UNKNOWN_SHARE_MIN * attempts:
        problems.append(f"only {unknown} of {attempts} attempts ended unknown")
    return problems


def total(reports: list[Report]) -> Counter[str]:
    """Add up what all runs met."""
    met: Counter[str] = Counter()
    for report in reports:
        met.update(report.met)
    return met


def traces_of(seed: int, engine: str, hash_seed: str) -> str:
    """Run a seed in a process of its own, with its own string hashing."""
    command = [sys.executable, "-m", "tests.sim", "--trace", "--seeds", "1", "--first", str(seed), "--engine", engine]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=100, env={"PYTHONHASHSEED": hash_seed}
    )
    return done.stdout


def print_table(reports: list[Report]) -> None:
    """Print how often each cell was met."""
    met = total(reports)
    for cell in cells():
        print(f"{cell:28} {met[cell]:>8}")
    attempts, unknown = sum(one.attempts for one in reports), sum(one.unknown for one in reports)
    print(f"{'lives':28} {sum(one.lives for one in reports):>8}")
    print(f"{'attempts':28} {attempts:>8}")
    print(f"{'  of unknown outcome':28} {unknown:>8}  {100 * unknown / max(1, attempts):.1f} %")


if __name__ == "__main__":
    sys.exit(main())
