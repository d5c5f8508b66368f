"""What has changed, in a database: two statements and their verbs. Both name the tenant. Floor 3."""

from __future__ import annotations

from collections.abc import Sequence

from router.changes import VERSIONS_MAX, Change
from router.store.steps import Steps

# Read how far those of 32 tasks are that a tenant has.
VERSIONS = """
with asked (id) as (
    values ($2), ($3), ($4), ($5), ($6), ($7), ($8), ($9), ($10), ($11), ($12), ($13), ($14), ($15), ($16), ($17),
    ($18), ($19), ($20), ($21), ($22), ($23), ($24), ($25), ($26), ($27), ($28), ($29), ($30), ($31), ($32), ($33)
)
select task.id, task.version, task.updated_at
from asked join task on task.id = asked.id and task.tenant = $1
order by task.id
"""

# List what of a tenant was moved after a place in time.
CHANGED = """
select id, version, updated_at from task
where tenant = $1 and (updated_at, id) > ($2, $3)
order by updated_at, id
limit $4
"""


class ChangeVerbs:
    """The verbs without state."""

    def versions(self, tenant: str, task_ids: Sequence[str]) -> Steps[tuple[Change, ...]]:
        """Read how far these tasks are."""
        ids = distinct(task_ids)
        rows = yield VERSIONS, (tenant, *ids, *[""] * (VERSIONS_MAX - len(ids)))
        return tuple(Change(*row) for row in rows)

    def changed(self, tenant: str, after: tuple[int, str], limit: int) -> Steps[tuple[Change, ...]]:
        """List what was moved."""
        return tuple(Change(*row) for row in (yield CHANGED, (tenant, *after, limit)))


def distinct(task_ids: Sequence[str]) -> list[str]:
    """The ids that are asked for, each once, in order; `ValueError` when they are too many."""
    if len(task_ids) > VERSIONS_MAX:
        raise ValueError(f"{len(task_ids)} tasks are asked for at once; {VERSIONS_MAX} may be")
    return sorted(set(task_ids))
