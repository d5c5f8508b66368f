"""Two daemons on one store: some seeds break no invariant and meet every cell, and planted faults are caught."""

import pytest

from router.leases import Grant
from router.store.memory import MemoryStore
from tests.sim.__main__ import total
from tests.sim.pair import PAIR_CELLS, simulate_pair

SEEDS = range(6)


class LivingRobbed(MemoryStore):
    """Takes over what belongs to daemons that live."""

    async def claim(self, owner, silent_ms, limit, now):
        return await super().claim(owner, 0, limit, now)


class ProbeForEverybody(MemoryStore):
    """Gives the right to probe to whoever asks."""

    async def lease_probe(self, owner, key, lease_ms, silent_ms, now):
        return True


class PlacesForEverybody(MemoryStore):
    """Grants each daemon all places of a provider."""

    async def share(self, owner, wants, silent_ms, now):
        return tuple(Grant(want.provider, want.places, want.tokens_wanted) for want in wants)


class EndingsUntold(MemoryStore):
    """Does not tell which tasks have ended elsewhere."""

    async def ended(self, tasks):
        return ()


def test_some_seeds_meet_every_cell_and_break_no_invariant():
    reports = [simulate_pair(seed) for seed in SEEDS]
    met = total(reports)

    assert [line for report in reports for line in report.violations] == []
    assert [cell for cell in PAIR_CELLS if not met[cell]] == []


@pytest.mark.parametrize(
    ("store", "check"),
    [
        (LivingRobbed, "robbed"),
        (ProbeForEverybody, "I20 fleet"),
        (PlacesForEverybody, "places"),
        (EndingsUntold, "waiter"),
    ],
)
def test_a_faulty_store_is_caught_by_its_check(store, check):
    assert any(line.startswith(check) for seed in SEEDS for line in simulate_pair(seed, store(shared=True)).violations)


def test_one_seed_gives_one_trace():
    assert simulate_pair(3).trace == simulate_pair(3).trace
