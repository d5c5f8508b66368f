"""What is written of a relayed chat completion, and what the store is asked about it. Floor 0: standard library only.

A completion is relayed, not queued (contract section 2): nothing is written before the call. Afterwards each try at a
target leaves one row, and what it counts for on budgets; a crash may lose what is not written yet. `flow.relay` makes
these records and `flow.purse` has them written. Instants are milliseconds since the epoch, UTC; money is nano-USD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router.outcome import Billed
from router.provider import Usage


@dataclass(frozen=True, slots=True)
class Relayed:
    """One try of a completion at one target, over. A call is its `request_id`; `n` counts its tries from 1.

    `outcome` is a word of contract section 1, and `billing` and `cost_nanos` are as an attempt's: None is an unknown
    amount, `estimated` one that nobody said. `begun`: the caller has been given something of this try.
    """

    request_id: str
    n: int
    tenant: str
    key_id: str | None
    model: str
    provider: str
    target: str
    target_model: str
    account: str
    streamed: bool
    begun: bool
    started_at: int
    ended_at: int
    outcome: str
    billing: Billed
    cost_nanos: int | None
    estimated: bool = False
    http_status: int | None = None
    detail: str = ""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a try counts for on one budget window, as `Demand` names them.

    `spent` is what it cost. `held` is the estimate of a try of which nobody knows the bill: it stays held (promise 3).
    """

    budget: str
    window: str
    held: int = 0
    spent: int = 0


class RelayStore(Protocol):
    """What the store is asked about relayed completions."""

    async def book(self, relayed: Relayed, charges: Sequence[Charge]) -> bool:
        """Write a try with its lines of the ledger and add it to the balances; False when it was written before.

        So a writer that does not know whether it was heard may say it again.
        """

    async def relayed(self, tenant: str, request_id: str) -> tuple[Relayed, ...]:
        """The tries of a call of this tenant in their order."""

    async def forget_relayed(self, ended_before: int, limit: int) -> int:
        """Delete old rows, the oldest first. Their lines of the ledger stay. Returns how many."""
