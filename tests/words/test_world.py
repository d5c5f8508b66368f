"""Randomness by name: a draw in one place must not shift another, and a seed must mean the same on every machine."""

from random import SystemRandom

import pytest

from router.world import WallClock, seeded_dice, system_dice


def draw(dice, name, count=5):
    """Return the next draws of a stream."""
    return [dice(name).getrandbits(64) for _ in range(count)]


def test_a_seed_and_a_name_give_the_same_stream_again():
    assert draw(seeded_dice(7), "jitter") == draw(seeded_dice(7), "jitter")


@pytest.mark.parametrize(("seed", "name"), [(7, "ids"), (8, "jitter")])
def test_another_name_or_another_seed_gives_another_stream(seed, name):
    assert draw(seeded_dice(seed), name) != draw(seeded_dice(7), "jitter")


def test_draws_under_one_name_do_not_shift_another():
    alone, busy = seeded_dice(7), seeded_dice(7)
    heard = []
    for _ in range(5):
        draw(busy, "ids", 3)
        heard += draw(busy, "jitter", 1)

    assert heard == draw(alone, "jitter")


def test_a_name_goes_on_where_it_stopped():
    stream = seeded_dice(7)("jitter")

    assert draw(seeded_dice(7), "jitter", 5) == [stream.getrandbits(64) for _ in range(5)]
    assert len(set(draw(seeded_dice(7), "jitter", 5))) == 5


def test_a_seed_means_the_same_on_every_machine_and_python():
    drawn = [seeded_dice(7)("jitter").getrandbits(32), seeded_dice(8)("ids").getrandbits(32)]

    assert drawn == [3160044204, 2924677867]


def test_seed_and_name_are_told_apart():
    assert draw(seeded_dice(1), "1:x") != draw(seeded_dice(11), "x")


def test_the_dice_of_the_system_cannot_be_foretold():
    assert isinstance(system_dice()("ids"), SystemRandom)
    assert draw(system_dice(), "ids") != draw(system_dice(), "ids")


def test_the_wall_clock_counts_whole_milliseconds_since_the_epoch():
    now = WallClock().now()

    assert isinstance(now, int)
    assert 10**12 < now < 10**13  # in seconds it would have ten digits, in nanoseconds nineteen
