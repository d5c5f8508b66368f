"""The arithmetic behind the table: percentiles, spreads, ratios, and floors held against them."""

from dataclasses import replace

import pytest

from tests.bench.floors import (
    EXPLAINED,
    FLOORS,
    STORES,
    Cell,
    Figure,
    Floor,
    Measure,
    judge,
    percentile,
    ratio,
    spread,
    summarise,
)

CELL = Cell(Figure.SUBMIT, "product", "sqlite", 0, 1000, 0, 500.0, 300.0, 10.0, 40.0)
BARE = replace(CELL, server="bare", per_s=1000.0, cpu_us=100.0, p50_ms=5.0)


@pytest.mark.parametrize(
    ("ordered", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([7], 0.5, 7.0),
        ([7], 0.99, 7.0),
        ([1, 2], 0.5, 1.0),
        ([1, 2, 3], 0.5, 2.0),
        ([1, 2, 3, 4], 0.75, 3.0),
        (range(1, 101), 0.99, 99.0),
        (range(1, 101), 1.0, 100.0),
        (range(1, 1001), 0.0, 1.0),
    ],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(ordered, share, expected):
    assert percentile(ordered, share) == expected


@pytest.mark.parametrize(("values", "expected"), [([], 0.0), ([5.0], 0.0), ([8.0, 10.0, 13.0], 0.5), ([0.0, 0.0], 0.0)])
def test_a_spread_is_the_range_over_the_median(values, expected):
    assert spread(values) == expected


def test_a_ratio_to_nothing_is_nothing():
    assert ratio(5.0, 0.0) == 0.0
    assert ratio(5.0, 10.0) == 0.5


def test_a_line_holds_medians_and_compares_cpu_with_the_bare_proxy_of_its_yardstick():
    cells = [
        *(replace(CELL, repetition=n, cpu_us=cost) for n, cost in enumerate((200.0, 250.0, 900.0))),
        BARE,
        replace(BARE, figure=Figure.LARGE, cpu_us=1.0),
        replace(BARE, store="postgres", cpu_us=1.0),
    ]

    row = summarise(cells, Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    assert row is not None
    assert (row.cells, row.cpu_us, row.bare_cpu_us, row.cpu_ratio) == (3, 250.0, 100.0, 0.4)
    assert row.rate_ratio == 0.5
    assert row.added_ms is None


def test_a_ratio_is_taken_within_its_repetition():
    costs = ((100.0, 200.0), (300.0, 600.0), (100.0, 800.0))  # bare and product: the machine was slow in the second
    cells = [
        replace(cell, repetition=n, cpu_us=cost)
        for n, pair in enumerate(costs)
        for cell, cost in zip((BARE, CELL), pair, strict=True)
    ]

    row = summarise(cells, Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    assert row is not None
    assert (row.bare_cpu_us, row.cpu_us, row.cpu_ratio) == (100.0, 600.0, 0.5)


def test_added_latency_is_what_lies_above_the_upstream_asked_directly():
    direct = replace(CELL, server="direct", cpu_us=None, p50_ms=0.5)

    row = summarise([CELL, BARE, direct], Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    assert row is not None
    assert row.added_ms == 9.5


def test_failures_of_every_server_are_counted():
    row = summarise([replace(CELL, failed=2), replace(BARE, failed=1)], Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    assert row is not None
    assert row.failed == 3


@pytest.mark.parametrize("missing", ["product", "bare"])
def test_without_one_of_the_two_there_is_no_line(missing):
    cells = [cell for cell in (CELL, BARE) if cell.server != missing]

    assert summarise(cells, Figure.SUBMIT, "sqlite", Figure.SUBMIT) is None


@pytest.mark.parametrize(
    ("measure", "bound", "met"),
    [
        (Measure.RATIO, 0.33, True),
        (Measure.RATIO, 0.34, False),
        (Measure.FIRST_S, 0.01, True),
        (Measure.FIRST_S, 0.009, False),
        (Measure.RSS_MB, 70.0, True),
        (Measure.RSS_MB, 69.0, False),
    ],
)
def test_a_ratio_must_be_reached_and_anything_else_must_not_be_passed(measure, bound, met):
    row = summarise([replace(CELL, rss_mb=70.0), BARE], Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    (verdict,) = judge([row], [Floor(Figure.SUBMIT, measure, bound, "a test")], {})

    assert verdict.met is met
    assert verdict.accepted is met


def test_a_floor_that_is_missed_is_accepted_with_its_reason_for_this_store_only():
    row = summarise([CELL, BARE], Figure.SUBMIT, "sqlite", Figure.SUBMIT)
    rows = [row, replace(row, store="postgres")]
    floor = Floor(Figure.SUBMIT, Measure.RATIO, 1.0, "a test")

    verdicts = judge(rows, [floor], {(Figure.SUBMIT, Measure.RATIO, "sqlite"): "it writes to a disk"})

    assert [(one.store, one.met, one.accepted) for one in verdicts] == [
        ("sqlite", False, True),
        ("postgres", False, False),
    ]


def test_a_floor_is_not_judged_where_there_is_no_figure():
    row = summarise([CELL, BARE], Figure.SUBMIT, "sqlite", Figure.SUBMIT)

    assert judge([row], [Floor(Figure.POLL, Measure.RATIO, 1.0, "a test")], {}) == []
    assert judge([row], [Floor(Figure.SUBMIT, Measure.ADDED_MS, 1.0, "a test")], {}) == []


def test_every_explanation_belongs_to_a_floor():
    judged = {(floor.figure, floor.measure, store) for floor in FLOORS for store in STORES}

    assert set(EXPLAINED) <= judged
    assert all(why.strip() for why in EXPLAINED.values())
