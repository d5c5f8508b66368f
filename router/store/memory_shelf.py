"""The shelf over plain dicts: the reference for `router.shelf.Shelf`, mixed into `MemoryStore`. Floor 3."""

from __future__ import annotations

from router.persistence import TaskView
from router.provider import Kind
from router.shelf import Erased, FilmPage, StillOut
from router.task import Attempt, Task


class MemoryShelf:
    """The verbs, for `MemoryStore`, whose rows they look at."""

    async def films(self, tenant: str, page: FilmPage) -> tuple[TaskView, ...]:
        """Sort a tenant's films by age."""
        self._read()
        found = [task for task in self._of_tenant(tenant) if task.kind is Kind.VIDEO_GENERATION]
        found.sort(key=_age, reverse=not page.oldest_first)
        if page.after is not None:
            after, oldest_first = page.after, page.oldest_first
            found = [task for task in found if (_age(task) > after if oldest_first else _age(task) < after)]
        return tuple(self._view(task) for task in found[: page.limit])

    async def erase(self, tenant: str, task_id: str, now: int) -> Erased | StillOut | None:
        """Strip one."""
        self._write("erase")
        row = self._row(tenant, task_id)
        if row is None:
            return None
        return StillOut(row) if not row.is_terminal or self._out(row.id) else Erased(self._strip(row, now))

    def _read(self) -> None:
        raise NotImplementedError

    def _write(self, verb: str) -> None:
        raise NotImplementedError

    def _row(self, tenant: str, task_id: str) -> Task | None:
        raise NotImplementedError

    def _of_tenant(self, tenant: str) -> list[Task]:
        raise NotImplementedError

    def _view(self, task: Task) -> TaskView:
        raise NotImplementedError

    def _out(self, task_id: str) -> list[Attempt]:
        raise NotImplementedError

    def _strip(self, task: Task, now: int) -> Task:
        raise NotImplementedError


def _age(task: Task) -> tuple[int, str]:
    return task.created_at, task.id
