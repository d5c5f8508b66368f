"""The short forms of what must be seen of the surfaces."""

import pytest

from tests.seen import surfaces_1, surfaces_2, surfaces_4, surfaces_5, surfaces_6

SIGHTS = [surfaces_1, surfaces_2, surfaces_4, surfaces_5, surfaces_6]


@pytest.mark.parametrize("sight", SIGHTS, ids=lambda sight: sight.__name__.rpartition(".")[2])
async def test_the_short_form_of_the_sight_is_seen(sight):
    assert await sight.show(short=True) == 0
