"""Sums of what was spent, in every engine: one statement, its verb, and the same over plain dicts. Floor 3."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from router.outcome import SUCCEEDED, Billed
from router.relays import Relayed
from router.store.steps import Steps
from router.task import Attempt, State, Task
from router.usage import DAY_MS, SPENDING_MAX, Spending

# A delivered output is that of an attempt that succeeded, of a task that did not fail and was not cancelled.
SPENDING = """
select attempt.ended_at / 86400000 as day, task.model, attempt.provider, task.key_id, count(*),
    cast(sum(case when attempt.outcome = 'succeeded' and task.state not in ('failed', 'cancelled') then 1 else 0 end)
        as bigint),
    cast(sum(case when attempt.billing = 'unknown' or (attempt.billing = 'billed' and attempt.cost_nanos is null)
        then 1 else 0 end) as bigint),
    cast(sum(coalesce(attempt.cost_nanos, 0)) as bigint),
    cast(sum(case when attempt.billing = 'billed'
        and not (attempt.outcome = 'succeeded' and task.state not in ('failed', 'cancelled'))
        then coalesce(attempt.cost_nanos, 0) else 0 end) as bigint)
from attempt join task on task.id = attempt.task_id and task.tenant = attempt.tenant
where attempt.tenant = $1 and attempt.ended_at >= $2 and attempt.ended_at < $3
group by attempt.ended_at / 86400000, task.model, attempt.provider, task.key_id
order by day, task.model, attempt.provider, coalesce(task.key_id, '')
limit $4
"""

# The same of completions that were relayed.
SPENDING_RELAYED = """
select ended_at / 86400000 as day, model, provider, key_id, count(*),
    cast(sum(case when outcome = 'succeeded' then 1 else 0 end) as bigint),
    cast(sum(case when billing = 'unknown' or (billing = 'billed' and cost_nanos is null) then 1 else 0 end) as bigint),
    cast(sum(coalesce(cost_nanos, 0)) as bigint),
    cast(sum(case when billing = 'billed' and outcome <> 'succeeded' then coalesce(cost_nanos, 0) else 0 end) as bigint)
from relayed
where tenant = $1 and ended_at >= $2 and ended_at < $3
group by ended_at / 86400000, model, provider, key_id
order by day, model, provider, coalesce(key_id, '')
limit $4
"""


class UsageVerbs:
    """The verb without state."""

    def spending(self, tenant: str, since: int, until: int) -> Steps[tuple[Spending, ...]]:
        """Sum in the database."""
        rows = yield SPENDING, (tenant, since, until, SPENDING_MAX)
        relayed = yield SPENDING_RELAYED, (tenant, since, until, SPENDING_MAX)
        return join_spending((Spending(*row) for row in rows), (Spending(*row) for row in relayed))


def join_spending(*lists: Iterable[Spending]) -> tuple[Spending, ...]:
    """Put sums of different origin together, in their order."""
    sums: dict[tuple[int, str, str, str], Spending] = {}
    for line in (line for lines in lists for line in lines):
        group = (line.day, line.model, line.provider, line.key_id or "")
        one = sums.get(group)
        sums[group] = (
            line
            if one is None
            else replace(
                one,
                attempts=one.attempts + line.attempts,
                delivered=one.delivered + line.delivered,
                unknown=one.unknown + line.unknown,
                cost_nanos=one.cost_nanos + line.cost_nanos,
                wasted_nanos=one.wasted_nanos + line.wasted_nanos,
            )
        )
    return tuple(sums[group] for group in sorted(sums))[:SPENDING_MAX]


def sum_relayed(rows: Iterable[Relayed], since: int, until: int) -> tuple[Spending, ...]:
    """Sum relayed completions over plain records."""
    lines = []
    for one in rows:
        if since <= one.ended_at < until:
            delivered, billed, cost = one.outcome == SUCCEEDED, one.billing is Billed.YES, one.cost_nanos or 0
            unknown = one.billing is Billed.UNKNOWN or (billed and one.cost_nanos is None)
            wasted = cost if billed and not delivered else 0
            group = (one.ended_at // DAY_MS, one.model, one.provider, one.key_id)
            lines.append(Spending(*group, 1, int(delivered), int(unknown), cost, wasted))
    return join_spending(lines)


def sum_spending(pairs: Iterable[tuple[Task, Attempt]], since: int, until: int) -> tuple[Spending, ...]:
    """Sum over plain records: what the statement means."""
    sums: dict[tuple[int, str, str, str], list[int]] = {}
    keys: dict[tuple[int, str, str, str], str | None] = {}
    for task, attempt in pairs:
        if attempt.ended_at is None or not since <= attempt.ended_at < until:
            continue
        group = (attempt.ended_at // DAY_MS, task.model, attempt.provider, task.key_id or "")
        delivered = attempt.outcome == "succeeded" and task.state not in {State.FAILED, State.CANCELLED}
        billed, cost = attempt.billing is Billed.YES, attempt.cost_nanos or 0
        unknown = attempt.billing is Billed.UNKNOWN or (billed and attempt.cost_nanos is None)
        keys[group] = task.key_id
        line = sums.setdefault(group, [0, 0, 0, 0, 0])
        for place, more in enumerate((1, delivered, unknown, cost, cost if billed and not delivered else 0)):
            line[place] += more
    found = [Spending(*group[:3], keys[group], *sums[group]) for group in sorted(sums)]
    return tuple(found[:SPENDING_MAX])
