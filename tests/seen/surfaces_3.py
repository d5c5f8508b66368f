"""surfaces.3: 20,000 generated requests at a real daemon: no server error, no answer that is not documented."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tests.fuzz import run
from tests.seen.stage import Findings

SEED = 20_261_121


async def show(*, short: bool = False) -> int:
    """Ask everything that the OpenAPI document allows and much that it does not, and hold each answer against it."""
    findings = Findings()
    command = Path(os.environ.get(run.COMMAND, run.ROOT / run.USUAL_COMMAND))
    if not command.exists():
        findings.expect(holds=False, sentence=f"{command} is missing: make fuzz-smoke and make fuzz install it")
        return findings.verdict()
    wanted = 1_000 if short else 20_000
    fuzzed = await run.fuzz(requests=wanted, seed=SEED, at_most_s=100 if short else 1_800, round_s=40 if short else 120)
    by_status = Counter[str]()
    for answer, count in fuzzed.answers.items():
        by_status[answer.rpartition(" ")[2]] += count
    routes = {answer.rpartition(" ")[0] for answer in fuzzed.answers if not answer.endswith((" 404", " 405"))}
    findings.show("requests answered", fuzzed.requests)
    findings.show("rounds, each with a seed of its own", fuzzed.rounds)
    findings.show("operations that answered otherwise than 404 and 405", len(routes))
    for status, count in sorted(by_status.items()):
        findings.show(f"  answered {status}", count)
    if fuzzed.finding:
        print(fuzzed.finding, flush=True)
    findings.expect(not fuzzed.finding, "every answer is documented and none is a server error")
    findings.expect(fuzzed.requests >= wanted, f"{wanted} requests were answered")
    return findings.verdict()
