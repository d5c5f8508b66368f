"""What was spent, summed: the record and the read behind `GET /v1/usage`. Floor 0: standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

DAY_MS = 86_400_000
SPENDING_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Spending:
    """What one key of a tenant spent on one model at one provider on one day (UTC), over attempts that ended that day.

    `day` counts days since the epoch; `model` is the public name. `cost_nanos` sums what is known, `wasted_nanos` the
    part of it that was billed and gave no delivered output. `attempts` counts them all, tries of relayed completions
    too, `delivered` those whose output was, `unknown` those whose bill nobody knows: their cost is in no sum (contract
    section 6, Prices).
    """

    day: int
    model: str
    provider: str
    key_id: str | None
    attempts: int
    delivered: int
    unknown: int
    cost_nanos: int
    wasted_nanos: int


class UsageReads(Protocol):
    """What the store is asked for sums."""

    async def spending(self, tenant: str, since: int, until: int) -> tuple[Spending, ...]:
        """Sum a tenant's attempts that ended from `since` on and before `until`, while their rows live.

        In order of day, model, provider and key, at most `SPENDING_MAX`.
        """
