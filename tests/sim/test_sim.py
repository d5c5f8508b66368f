"""Twenty seeds of the simulator on every store it knows, as `make sim` runs them."""

import pytest

from tests.sim.__main__ import judge, traces_of
from tests.sim.engines import ENGINES
from tests.sim.simulation import simulate


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_twenty_seeds_meet_every_cell_and_break_no_invariant(engine):
    assert judge([simulate(seed, ENGINES[engine]()) for seed in range(20)]) == []


def test_one_seed_gives_one_trace_in_two_processes():
    assert traces_of(3, "memory", "1") == traces_of(3, "memory", "2")
