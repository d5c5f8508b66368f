"""Many tasks of one adapter while everything goes wrong: none lost, none paid for twice, none called free that was not,
and what the provider reported to have cost something is in the ledger with just that.

`python -m tests.providers.soak [--tasks 200] [slug...]` prints a row for each adapter; the simulator's own bill is the
judge. What is dialled is everything that the simulator offers, a few per cent each, but for what would end the run: a
key that is refused puts the only account aside. This file knows no provider.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from providers import known
from providers.simulated import Fault, FaultKind, Step, What
from router.provider import Kind
from tests.providers.proofs import ENDED, Trial, offer_of, on_trial, setup_of

SHARE = 0.03
TIMEOUT_S = 3
END_S = 300.0
AT_ONCE = 25
# These put the only account or target aside, so that nothing more would happen; each has its proof elsewhere.
ENDS_THE_RUN = frozenset({FaultKind.QUOTA, FaultKind.INVALID_KEY, FaultKind.MODEL_NOT_FOUND})
# These keep the fetch of a paid result busy for the minute that it has at least: nothing for few tasks.
LASTS_A_MINUTE = frozenset({(FaultKind.ENDLESS, Step.RESULT), (FaultKind.HANG, Step.RESULT)})
PATIENT_FROM = 100
MADE = frozenset({What.SUCCESS, What.TIMEOUT, What.DISCONNECT, What.ACCEPTED})
BREAKER = {"consecutive_failures": 1000, "failure_rate": 1.0, "minimum": 1000}


@dataclass(slots=True)
class Report:
    """What came of a run."""

    slug: str
    tasks: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    struck: int = 0
    billed: int = 0
    reported: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in sorted(self.ends.items()))
        verdict = "; ".join(self.wrong) or "nothing lost, nothing paid twice"
        return (
            f"{self.slug:12} {self.tasks:4} tasks  {self.struck:4} faults struck  {self.billed:4} billed"
            f"  {self.reported:4} costs known  {self.seconds:5.1f} s  {verdict}\n{'':12} {ends}"
        )


def dialled(slug: str, tasks: int) -> tuple[Fault, ...]:
    """A few per cent of everything that the simulator can show; for few tasks, of what is soon over."""
    kinds = {(kind, step) for step, offered in offer_of(slug).items() for kind in offered}
    kinds -= frozenset() if tasks >= PATIENT_FROM else LASTS_A_MINUTE
    return tuple(
        Fault(kind=kind, at=step, share=SHARE, seconds=20.0 if kind is FaultKind.SLOW else None)
        for kind, step in sorted(kinds)
        if kind not in ENDS_THE_RUN
    )


async def soak(slug: str, tasks: int, folder: Path) -> Report:
    """Submit so many tasks, wait for their ends, and hold them against the bill."""
    report, began_s = Report(slug, tasks), time.monotonic()
    kinds = [kind for kind in Kind if kind.value in setup_of(slug)]
    account: dict[str, Any] = {"breaker": BREAKER, "max_concurrency": AT_ONCE}
    async with on_trial(slug, folder, faults=dialled(slug, tasks), timeout_s=TIMEOUT_S, account=account) as trial:
        prompts = {f"soak {number}": kinds[number % len(kinds)] for number in range(tasks)}
        ended = await asyncio.gather(*(_follow(trial, kind, prompt) for prompt, kind in prompts.items()))
        entries = trial.running.bill.jobs_by_prompt()
        report.struck = sum(trial.running.dial.hits.values())
    for prompt, task in zip(prompts, ended, strict=True):
        error = f" ({task['error']['error_type']})" if task["error"] else ""
        report.ends[f"{task['status']}{error}"] += 1
        own = entries.get(prompt, ())
        paid = [entry for entry in own if entry.amount_usd > 0]
        report.billed += len(paid)
        if task["status"] not in ENDED:
            report.wrong.append(f"{prompt} is lost ({task['status']})")
        if sum(entry.what in MADE for entry in paid) > 1:
            report.wrong.append(f"{prompt} is paid twice: {[entry.what.value for entry in paid]} ({_story(task)})")
        if task["cost"]["billing"] == "not_billed" and paid:
            report.wrong.append(f"{prompt} is called free and cost {paid[0].amount_usd} ({_story(task)})")
        booked, owed = _booked(task), sum((entry.amount_usd for entry in own), Decimal(0))
        report.reported += booked is not None
        if booked is not None and booked != owed:
            report.wrong.append(f"{prompt} is booked with {booked} and cost {owed} ({_story(task)})")
    report.seconds = time.monotonic() - began_s
    return report


async def _follow(trial: Trial, kind: Kind, prompt: str) -> dict[str, Any]:
    said: dict[str, Any] = {"prompt": prompt}
    if kind is Kind.CHAT_COMPLETION:
        said = {"messages": [{"role": "user", "content": prompt}]}
    task = await trial.submit(kind, **said)
    deadline_s = time.monotonic() + END_S
    while task["status"] not in ENDED and time.monotonic() < deadline_s:
        task = await trial.read(task["id"], 30)
    # An attempt whose task has ended may still be heard to its end.
    return task


def _booked(task: dict[str, Any]) -> Decimal | None:
    """What the ledger has for a task, in US dollars; None where part of it is unknown or a price list's estimate."""
    sums = [Decimal(one["cost_usd"] or 0) for one in task["attempts"] if is_reported(one)]
    return sum(sums, Decimal(0)) if len(sums) == len(task["attempts"]) else None


def is_reported(attempt: dict[str, Any]) -> bool:
    """Whether the provider itself said what an attempt cost."""
    free = attempt["billing"] == "not_billed"
    return free or (attempt["billing"] == "billed" and attempt["cost_usd"] is not None and not attempt["estimated"])


def _story(task: dict[str, Any]) -> str:
    return ", ".join(f"{one['outcome']} {one['http_status']} {one['detail'][:80]}" for one in task["attempts"])


async def run(slugs: list[str], tasks: int) -> int:
    """Run one adapter after the other; 1 if anything was wrong."""
    wrong = 0
    for slug in slugs:
        with TemporaryDirectory(prefix="pointsman-soak-") as folder:
            report = await soak(slug, tasks, Path(folder))
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        wrong += len(report.wrong)
    return 1 if wrong else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.providers.soak")
    parser.add_argument("slugs", nargs="*", help="all adapters that have a simulator, if none")
    parser.add_argument("--tasks", type=int, default=200)
    given = parser.parse_args()
    return asyncio.run(run(given.slugs or [slug for slug in known() if setup_of(slug)], given.tasks))


if __name__ == "__main__":
    sys.exit(main())
