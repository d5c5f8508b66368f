"""The stores that the simulator can run over, by name: each call makes a fresh one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from router.store.memory import MemoryStore
from tests.sim.simulation import Engine


def memory(store: type[MemoryStore] = MemoryStore) -> Engine:
    """The reference model; it survives a crash as it is."""
    made = store()
    return Engine(store=made, audit=made)


ENGINES: Mapping[str, Callable[[], Engine]] = {"memory": memory}
