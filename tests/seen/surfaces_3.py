"""surfaces.3: 20,000 generated requests at a real daemon: no server error, no answer that is not documented."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tests.fuzz import run
from tests.postgres import end_shared_server, shared_server
from tests.seen.stage import Findings

SEED = 20_261_121
PARTS = (("SQLite", 10_000, SEED), ("PostgreSQL", 10_000, SEED + 1_000))


async def show(*, short: bool = False) -> int:
    """Ask everything that the OpenAPI document allows and much that it does not, and hold each answer against it."""
    try:
        return await fuzzed_on_both(short=short)
    finally:
        end_shared_server()


async def fuzzed_on_both(*, short: bool) -> int:
    """The short form asks on SQLite only."""
    findings = Findings()
    command = Path(os.environ.get(run.COMMAND, run.ROOT / run.USUAL_COMMAND))
    if not command.exists():
        findings.expect(holds=False, sentence=f"{command} is missing: make fuzz-smoke and make fuzz install it")
        return findings.verdict()
    by_status, routes, finding, asked = Counter[str](), set[str](), "", 0
    for engine, requests, seed in [("SQLite", 1_000, SEED)] if short else PARTS:
        fuzzed = await run.fuzz(
            requests=requests,
            seed=seed,
            at_most_s=100 if short else 900,
            round_s=40 if short else 120,
            database_url=shared_server().create() if engine == "PostgreSQL" else None,
        )
        for answer, count in fuzzed.answers.items():
            by_status[answer.rpartition(" ")[2]] += count
        routes |= {answer.rpartition(" ")[0] for answer in fuzzed.answers if not answer.endswith((" 404", " 405"))}
        asked += fuzzed.requests
        finding += fuzzed.finding
        findings.show(f"requests answered on {engine}, in rounds", f"{fuzzed.requests} in {fuzzed.rounds}")
        findings.expect(fuzzed.requests >= requests or bool(fuzzed.finding), f"{requests} were answered on {engine}")
    findings.show("requests answered", asked)
    findings.show("operations that answered otherwise than 404 and 405", len(routes))
    for status, count in sorted(by_status.items()):
        findings.show(f"  answered {status}", count)
    print(finding, end="", flush=True)
    findings.expect(not finding, "every answer is documented and none is a server error")
    return findings.verdict()
