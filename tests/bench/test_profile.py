"""Stacks added up by function."""

from tests.bench.profile import add_up, describe

STACKS = [
    "run (asyncio/runners.py:190);serve (a.py:10);read (b.py:3) 6",
    "run (asyncio/runners.py:190);serve (a.py:12) 3",
    "run (asyncio/runners.py:190);serve (a.py:12);serve (a.py:10) 1",
    "no number",
    "",
]


def test_a_function_is_one_whatever_line_it_is_at_and_however_often_it_stands_in_a_stack():
    whole, own, total = add_up(STACKS)

    assert total == 10
    assert whole == {"run (asyncio/runners.py)": 10, "serve (a.py)": 10, "read (b.py)": 6}
    assert own == {"read (b.py)": 6, "serve (a.py)": 4}


def test_the_table_shows_shares_of_all_samples():
    lines = describe(STACKS)

    assert lines[0].startswith("10 samples")
    assert "  60.0   60.0  read (b.py)" in lines
