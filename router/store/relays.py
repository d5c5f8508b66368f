"""Relayed completions in a database: statements, verbs and lanes of `router.relays.RelayStore`.

Every statement on a tenant's rows names the tenant but `RELAYED_TO_FORGET`, which is retention's. Rows are written by
the writer's lane: what was booked together shares its commit. Floor 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.outcome import Billed
from router.policy import budget
from router.provider import Usage
from router.relays import Charge, Relayed
from router.store.lane import Lane
from router.store.posting import post
from router.store.rows import Row
from router.store.steps import Steps

RELAYED_COLUMNS = (
    *("request_id", "n", "tenant", "key_id", "model", "provider", "target", "target_model", "account", "streamed"),
    *("begun", "started_at", "ended_at", "outcome", "billing", "cost_nanos", "estimated", "http_status", "detail"),
    *("input_tokens", "cached_tokens", "output_tokens"),
)


def _expand(text: str) -> str:
    values = ", ".join(f"${place}" for place in range(1, len(RELAYED_COLUMNS) + 1))
    return text.replace("{relayed}", ", ".join(RELAYED_COLUMNS)).replace("{values}", values)


# Write a try; nothing happens when it is there.
INSERT_RELAYED = _expand("""
insert into relayed ({relayed}) values ({values}) on conflict do nothing returning n
""")

# Read the tries of a call.
RELAYED = _expand("""
select {relayed} from relayed where tenant = $1 and request_id = $2 order by n
""")

# Find what is old.
RELAYED_TO_FORGET = """
select tenant, request_id, n from relayed where ended_at < $1 order by ended_at, request_id, n limit $2
"""

# Delete a try.
FORGET_RELAYED = """
delete from relayed where tenant = $1 and request_id = $2 and n = $3
"""


class RelayVerbs:
    """The verbs without state."""

    def book(self, relayed: Relayed, charges: Sequence[Charge]) -> Steps[bool]:
        """Write the row, and its money if the row was not there."""
        if not (yield INSERT_RELAYED, row_of_relayed(relayed)):
            return False
        yield from post(relayed.tenant, relayed.request_id, budget.book(relayed, charges))
        return True

    def relayed(self, tenant: str, request_id: str) -> Steps[tuple[Relayed, ...]]:
        """Read the tries of a call."""
        return tuple(map(relayed_of_row, (yield RELAYED, (tenant, request_id))))

    def forget_relayed(self, ended_before: int, limit: int) -> Steps[int]:
        """Delete old rows."""
        rows = yield RELAYED_TO_FORGET, (ended_before, limit)
        for key in rows:
            yield FORGET_RELAYED, key
        return len(rows)


class RelayLanes:
    """Which lane each verb takes; `RelationalStore` has the lanes."""

    writes: Counter[str]
    _verbs: RelayVerbs
    _writer: Lane
    _keeper: Lane
    _reader: Lane

    async def book(self, relayed: Relayed, charges: Sequence[Charge]) -> bool:
        """Write a try."""
        self.writes["book"] += 1
        return await self._writer.ask(self._verbs.book, relayed, charges)

    async def relayed(self, tenant: str, request_id: str) -> tuple[Relayed, ...]:
        """Read the tries of a call."""
        return await self._reader.ask(self._verbs.relayed, tenant, request_id)

    async def forget_relayed(self, ended_before: int, limit: int) -> int:
        """Delete old rows."""
        self.writes["forget_relayed"] += 1
        return await self._keeper.ask(self._verbs.forget_relayed, ended_before, limit)


# -- rows -------------------------------------------------------------------------------------------------------------


def row_of_relayed(one: Relayed) -> Row:
    """Every column of a try, in the order of `RELAYED_COLUMNS`."""
    return (
        one.request_id,
        one.n,
        one.tenant,
        one.key_id,
        one.model,
        one.provider,
        one.target,
        one.target_model,
        one.account,
        int(one.streamed),
        int(one.begun),
        one.started_at,
        one.ended_at,
        one.outcome,
        one.billing.value,
        one.cost_nanos,
        int(one.estimated),
        one.http_status,
        one.detail,
        one.usage.input_tokens,
        one.usage.cached_tokens,
        one.usage.output_tokens,
    )


def relayed_of_row(row: Row) -> Relayed:
    """Read a try from its columns."""
    return Relayed(
        request_id=row[0],
        n=row[1],
        tenant=row[2],
        key_id=row[3],
        model=row[4],
        provider=row[5],
        target=row[6],
        target_model=row[7],
        account=row[8],
        streamed=bool(row[9]),
        begun=bool(row[10]),
        started_at=row[11],
        ended_at=row[12],
        outcome=row[13],
        billing=Billed(row[14]),
        cost_nanos=row[15],
        estimated=bool(row[16]),
        http_status=row[17],
        detail=row[18],
        usage=Usage(input_tokens=row[19], cached_tokens=row[20], output_tokens=row[21]),
    )
