"""What callers keep on the shelf: their films, page by page, and the removal of what one ended task has left.

The records and the verbs of the store for it (contract 5.1, `GET /v1/videos` and `DELETE`). Floor 0: standard library
and the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from router.task import Task

if TYPE_CHECKING:
    from router.persistence import TaskView


@dataclass(frozen=True, slots=True)
class FilmPage:
    """Which films to list: at most `limit`, by age, the newest first unless `oldest_first`.

    `after`: (created_at, id) of the last one of the page before, None for the first page.
    """

    limit: int = 20
    oldest_first: bool = False
    after: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """The task has neither input nor output any more. `task`: as it was, with the late results of its attempts."""

    task: Task


@dataclass(frozen=True, slots=True)
class StillOut:
    """Nothing was removed: the task lives, or an attempt of it may still bring a result."""

    task: Task


class Shelf(Protocol):
    """The verbs. Both name the tenant; what belongs to another one is not there."""

    async def films(self, tenant: str, page: FilmPage) -> tuple[TaskView, ...]:
        """List a tenant's video tasks in any state."""

    async def erase(self, tenant: str, task_id: str, now: int) -> Erased | StillOut | None:
        """Do to one ended task at once what retention would do to it later (`sweep`); None when there is none.

        Again for one that has nothing left: it stays as it is.
        """
