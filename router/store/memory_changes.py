"""What has changed, over plain dicts: what the statements of `changes` mean. Floor 3."""

from __future__ import annotations

from collections.abc import Sequence

from router.changes import Change
from router.store.changes import distinct
from router.task import Task


class MemoryChanges:
    """The reads of `changes.ChangeReads`, for `MemoryStore`, whose rows they look at."""

    async def versions(self, tenant: str, task_ids: Sequence[str]) -> tuple[Change, ...]:
        """Look them up."""
        self._read()
        found = [self._row(tenant, task_id) for task_id in distinct(task_ids)]
        return tuple(_change_of(task) for task in found if task is not None)

    async def changed(self, tenant: str, after: tuple[int, str], limit: int) -> tuple[Change, ...]:
        """List them in the order of their moves."""
        self._read()
        moved = sorted((task.updated_at, task.id) for task in self._of_tenant(tenant))
        later = [task_id for updated_at, task_id in moved if (updated_at, task_id) > after]
        return tuple(_change_of(task) for task_id in later[:limit] if (task := self._row(tenant, task_id)) is not None)

    def _read(self) -> None:
        raise NotImplementedError

    def _row(self, tenant: str, task_id: str) -> Task | None:
        raise NotImplementedError

    def _of_tenant(self, tenant: str) -> list[Task]:
        raise NotImplementedError


def _change_of(task: Task) -> Change:
    return Change(task.id, task.version, task.updated_at)
