"""What runs inside schemathesis: it keeps every address on this machine, counts what was answered, and adds one check.

Loaded by SCHEMATHESIS_HOOKS, in an environment that has neither `router` nor `providers`.
"""

from __future__ import annotations

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

FILES = os.environ["FUZZ_FILES"]  # where pictures may be fetched and webhooks sent: a server of ours on loopback
ANSWERS = Path(os.environ["FUZZ_ANSWERS"])  # the file that gets the counts
ANSWERED = (503, 504)

answers: Counter[str] = Counter()


@schemathesis.hook
def before_call(_context: HookContext, case: Case, _kwargs: dict[str, Any]) -> None:
    """Send no address of anybody else: the daemon would ask it."""
    case.body = on_loopback(case.body)


@schemathesis.hook
def after_call(_context: HookContext, case: Case, response: Response) -> None:
    """Count an answer by its route and status."""
    answers[f"{case.method.upper()} {case.path} {response.status_code}"] += 1


@schemathesis.check
def no_server_error(_context: CheckContext, response: Response, _case: Case) -> None:
    """500 is our fault and 502 a provider's, and no provider fails here; 503 and 504 are held against the document."""
    assert response.status_code < 500 or response.status_code in ANSWERED, response.text[:500]


def on_loopback(value: Any) -> Any:
    """Replace the addresses in a body."""
    if isinstance(value, str) and value[:8].lower().startswith(("http://", "https://")):
        return FILES
    if isinstance(value, list):
        return [on_loopback(one) for one in value]
    if isinstance(value, dict):
        return {name: on_loopback(one) for name, one in value.items()}
    return value


@atexit.register
def write_answers() -> None:
    """Write the counts, adding to those of earlier runs."""
    before = json.loads(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.exists() else {}
    ANSWERS.write_text(json.dumps(Counter(before) + answers), encoding="utf-8")
