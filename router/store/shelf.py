"""Films by age, and the removal of what one task has left, in a database. Every statement names the tenant. Floor 3."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from router.money import NANOS_MAX
from router.persistence import TaskView
from router.shelf import Erased, FilmPage, StillOut
from router.store import sql
from router.store.lane import Lane
from router.store.rows import outputs_of, task_of_row
from router.store.steps import Steps
from router.task import State, Task, apply, swept

# Name a tenant's films, newest first.
FILMS_NEWEST = """
select id from task
where tenant = $1 and kind = 'video.generation' and (created_at, id) < ($2, $3)
order by created_at desc, id desc
limit $4
"""
# The same, oldest first.
FILMS_OLDEST = """
select id from task
where tenant = $1 and kind = 'video.generation' and (created_at, id) > ($2, $3)
order by created_at, id
limit $4
"""
# Find an attempt of a task that may still bring a result.
STILL_OUT = """
select n from attempt where tenant = $1 and task_id = $2 and state in ('intent', 'accepted') limit 1
"""


class ShelfVerbs:
    """The verbs without state."""

    def films(self, tenant: str, page: FilmPage) -> Steps[tuple[TaskView, ...]]:
        """Name the films of a page and read each."""
        first, last = (-1, ""), (NANOS_MAX, "")
        if page.oldest_first:
            rows = yield FILMS_OLDEST, (tenant, *(page.after or first), page.limit)
        else:
            rows = yield FILMS_NEWEST, (tenant, *(page.after or last), page.limit)
        views: list[TaskView] = []
        for (task_id,) in rows:
            view = yield from self.view(tenant, task_id)
            views += [] if view is None else [view]
        return tuple(views)

    def erase(self, tenant: str, task_id: str, now: int) -> Steps[Erased | StillOut | None]:
        """Strip one task, whose row is locked meanwhile, so that no sweep takes it at the same time."""
        rows = yield sql.LOCK_TASK, (tenant, task_id)
        if not rows:
            return None
        task = task_of_row(rows[0])
        if not task.is_terminal or (yield STILL_OUT, (tenant, task_id)):
            return StillOut(task)
        return Erased((yield from self.strip(task, now)))

    def strip(self, task: Task, now: int) -> Steps[Task]:
        """Take input and output from an ended task; what it was is returned, with the late results of its attempts."""
        after = apply(task, swept(now)) if task.state is State.SUCCEEDED else task
        late = yield sql.LATE_OUTPUTS, (task.tenant, task.id)
        yield sql.SWEEP_TASK, (task.tenant, task.id, after.state.value, after.version, after.updated_at)
        yield sql.SWEEP_ATTEMPTS, (task.tenant, task.id)
        outputs = [output for (text,) in late for output in outputs_of(text)]
        return replace(task, output=(*task.output, *outputs)) if outputs else task

    def view(self, tenant: str, task_id: str) -> Steps[TaskView | None]:
        """Read one task with its attempts."""
        raise NotImplementedError


class ShelfLanes:
    """Which lane each verb takes; `RelationalStore` has the lanes."""

    writes: Counter[str]
    _verbs: ShelfVerbs
    _writer: Lane
    _lister: Lane

    async def films(self, tenant: str, page: FilmPage) -> tuple[TaskView, ...]:
        """Read a page of films."""
        return await self._lister.ask(self._verbs.films, tenant, page)

    async def erase(self, tenant: str, task_id: str, now: int) -> Erased | StillOut | None:
        """Strip one task."""
        self.writes["erase"] += 1
        return await self._writer.ask(self._verbs.erase, tenant, task_id, now)
