"""The books of the memory store: holds, balances and the ledger in dicts, changed only by a `Posting`.

What a step costs is decided in `policy.budget`; this file only writes it down. Floor 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.persistence import Balance, Demand, LedgerEntry
from router.policy.budget import Balances, Hold, Pair, Posting


class Books:
    """Money as three dicts. Balances are always the sums of the ledger's lines, which stay for ever."""

    def __init__(self) -> None:
        """Start with nothing held and nothing spent."""
        self._holds: dict[str, dict[tuple[int, Pair], Hold]] = {}
        self._ledger: dict[str, list[LedgerEntry]] = {}
        self._balances: dict[Pair, Balance] = {}

    def held(self, task_id: str) -> tuple[Hold, ...]:
        """Everything that a task and its attempts hold now."""
        return tuple(self._holds.get(task_id, {}).values())

    def ledger(self, task_id: str) -> tuple[LedgerEntry, ...]:
        """The lines of a task in the order they were written."""
        return tuple(self._ledger.get(task_id, ()))

    def balances(self, pairs: Sequence[Pair]) -> Balances:
        """The balances of these pairs; those never used are left out."""
        return {pair: self._balances[pair] for pair in pairs if pair in self._balances}

    def balances_for(self, demands: Sequence[Demand]) -> Balances:
        """The balances that a decision about these demands needs."""
        return self.balances([(one.budget, one.window) for one in demands])

    def post(self, task_id: str, posting: Posting) -> None:
        """Write down what a step does to the books of a task."""
        for hold in posting.holds:
            self._balances.setdefault(hold.pair, Balance(*hold.pair, 0, 0))  # a hold of nothing uses its window too
        self._ledger.setdefault(task_id, []).extend(posting.lines)
        for pair, (held, spent) in posting.changes().items():
            before = self._balances.get(pair, Balance(*pair, 0, 0))
            self._balances[pair] = replace(before, held=before.held + held, spent=before.spent + spent)
        holds = self._holds.setdefault(task_id, {})
        for hold in posting.gone:
            del holds[(hold.n, hold.pair)]
        for hold in posting.holds:
            holds[(hold.n, hold.pair)] = hold

    def forget(self, task_id: str) -> None:
        """Let go of a deleted task's holds; its ledger and what it spent stay."""
        self._holds.pop(task_id, None)
