"""What has changed: the record and the reads behind event streams, which any daemon can serve. Floor 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

VERSIONS_MAX = 32


@dataclass(frozen=True, slots=True)
class Change:
    """How far a task is: its version, which grows with every move, and the instant of the last one."""

    task_id: str
    version: int
    updated_at: int


class ChangeReads(Protocol):
    """What the store is asked by those who follow tasks. Both are small: no body, no attempt."""

    async def versions(self, tenant: str, task_ids: Sequence[str]) -> tuple[Change, ...]:
        """Read how far these tasks of a tenant are, by id; those it has not are left out. At most `VERSIONS_MAX`."""

    async def changed(self, tenant: str, after: tuple[int, str], limit: int) -> tuple[Change, ...]:
        """List a tenant's tasks that were moved after a place (`updated_at`, id), the longest ago first."""
