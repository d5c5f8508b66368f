"""Writing down what a step does to the books: lines of the ledger, balances, holds. Floor 3.

What it does is decided in `policy.budget`; `books` is the same for the memory store.
"""

from __future__ import annotations

from router.policy.budget import Posting
from router.store import sql
from router.store.steps import Steps


def post(tenant: str, task_id: str, posting: Posting) -> Steps[None]:
    """Write a posting under the id of a task, or of a relayed call."""
    key = tenant, task_id
    for line in posting.lines:
        where = (line.part, line.n, line.entry, line.budget, line.window)
        what = (line.held_delta, line.spent_delta, line.provider, line.model, line.at)
        yield sql.APPEND_LINE, (*key, *where, *what)
    for pair, change in sorted(posting.changes().items()):
        yield sql.POST_BALANCE, (*pair, *change)
    for hold in posting.gone:
        yield sql.DELETE_HOLD, (*key, hold.n, *hold.pair)
    for hold in posting.holds:
        yield sql.PUT_HOLD, (*key, hold.n, hold.part, *hold.pair, hold.unit, hold.units, hold.limit)
