"""Several daemons on one PostgreSQL for the sights: they share the database and the storage, and nothing else."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.postgres import Server
from tests.seen.stage import Stage, staged


class Daemons:
    """Two daemons on one database and one storage; who is lost for good is replaced by a new one."""

    def __init__(self, stack: AsyncExitStack, config: str, environ: dict[str, str]) -> None:
        self._stack, self._config, self._environ = stack, config, environ
        self._made = 0
        self.stages: list[Stage] = []

    async def add(self) -> Stage:
        """Start one under a name that nobody had."""
        self._made += 1
        environ = {**self._environ, "POINTSMAN_REPLICA_ID": f"daemon-{self._made}"}
        stage = await self._stack.enter_async_context(staged(self._config, **environ))
        self.stages.append(stage)
        return stage

    async def replace(self, lost: Stage) -> None:
        """Start another in place of one that does not come back."""
        self.stages.remove(lost)
        await self.add()

    def pair(self, dice: random.Random) -> tuple[Stage, Stage]:
        """Who is killed this time, and who is not."""
        victim, other = dice.sample(self.stages, 2)
        return victim, other


@asynccontextmanager
async def daemons(database: Server, config: str) -> AsyncIterator[Daemons]:
    """Two daemons that share everything but their own folder."""
    async with AsyncExitStack() as stack:
        storage = Path(stack.enter_context(TemporaryDirectory(prefix="pointsman-seen-results-")))
        environ = {
            "POINTSMAN_DATABASE_URL": database.create(),
            "POINTSMAN_STORAGE_URL": f"file://{storage}",
            "POINTSMAN_ADMIN_KEY": "an-admin-key-for-all-of-them",
        }
        fleet = Daemons(stack, config, environ)
        await fleet.add()
        await fleet.add()
        yield fleet


def fleet_database(stage: Stage) -> str:
    """The name of the database that a daemon uses."""
    return stage.environ["POINTSMAN_DATABASE_URL"].rpartition("/")[2]
