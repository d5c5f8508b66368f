"""The short forms of what must be seen of the spine."""

import pytest

from tests.seen import spine_1, spine_2, spine_3, spine_4


@pytest.mark.parametrize(
    "sight", [spine_1, spine_2, spine_3, spine_4], ids=lambda sight: sight.__name__.rpartition(".")[2]
)
async def test_the_short_form_of_the_sight_is_seen(sight):
    assert await sight.show(short=True) == 0
