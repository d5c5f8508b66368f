"""The short forms of what must be seen of several daemons on one store, and of what they cost."""

import shutil

import pytest

from tests.seen import replicas_1, replicas_2, replicas_4


@pytest.mark.parametrize("sight", [replicas_1, replicas_2], ids=lambda sight: sight.__name__.rpartition(".")[2])
async def test_the_short_form_of_the_sight_is_seen(sight):
    assert await sight.show(short=True) == 0


async def test_the_short_form_of_the_figures_is_seen_wherever_there_is_a_compiler(capfd):
    code = await replicas_4.show(short=True)

    if shutil.which("cc") is None:
        assert code == 1
        assert "there is no C compiler" in capfd.readouterr().err
    else:
        assert code == 0
