"""Budgets as pure arithmetic: who is covered, which window counts, and what each step of a task does to the books."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.outcome import Billed
from router.persistence import Balance, Demand, OverBudget
from router.policy.budget import (
    Hold,
    Posting,
    applies,
    covers_provider,
    demands,
    free,
    provider_demands,
    release,
    reserve,
    settle,
    take,
    window_key,
)
from router.policy.rules import Budget, Scope, Shape, Window
from router.provider import Kind
from router.task import Attempt, Priority, Task, ended

NOON = 1_795_176_000_000  # 2026-11-20T12:00:00Z
SHAPE = Shape(kind=Kind.IMAGE_GENERATION, model="gpt-image-2", tenant="acme")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text, zone=UTC):
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def demanded(*budgets, key_id="key-1", unit=5, units=2, now=NOON, zone=UTC):
    return demands(budgets, SHAPE, key_id, unit=unit, units=units, now=now, zone=zone)


# -- who is covered ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "match", "name"),
    [
        (Scope.TENANT, "*", "tenant:acme"),
        (Scope.TENANT, "acme", "tenant:acme"),
        (Scope.TENANT, "ac*", "tenant:acme"),
        (Scope.TENANT, "a?me", "tenant:acme"),
        (Scope.TENANT, "globex", None),
        (Scope.TENANT, "ACME", None),
        (Scope.KEY, "*", "key:key-1"),
        (Scope.KEY, "key-2", None),
        (Scope.MODEL, "gpt-*", "model:gpt-image-2"),
        (Scope.MODEL, "veo-3", None),
        (Scope.ALL, "*", "all"),
        (Scope.ALL, "", "all"),
        (Scope.PROVIDER, "*", None),
    ],
)
def test_a_budget_covers_what_its_pattern_matches_and_each_value_has_its_own(scope, match, name):
    budget = Budget(scope, match, Window.DAY, 100)
    expected = () if name is None else (Demand(name, "day:2026-11-20", 5, 100, 2),)

    assert demanded(budget) == expected
    assert applies((budget,), SHAPE, "key-1") is bool(expected)


def test_the_admin_key_has_no_key_budget():
    budget = Budget(Scope.KEY, "*", Window.DAY, 100)

    assert demanded(budget, key_id=None) == ()
    assert not applies((budget,), SHAPE, None)


def test_every_covering_budget_demands_in_the_order_of_the_file():
    budgets = [Budget(Scope.ALL, "*", Window.TOTAL, 9), Budget(Scope.TENANT, "*", Window.HOUR, 8)]

    assert [one.budget for one in demanded(*budgets)] == ["all", "tenant:acme"]
    assert demanded() == ()


def test_where_two_budgets_count_the_same_the_tighter_limit_holds():
    wide, tight = Budget(Scope.TENANT, "*", Window.DAY, 100), Budget(Scope.TENANT, "acme", Window.DAY, 60)

    assert [one.limit for one in demanded(wide, tight)] == [60]
    assert [one.limit for one in demanded(tight, wide)] == [60]


def test_one_tenant_may_have_budgets_of_several_windows():
    budgets = [Budget(Scope.TENANT, "*", window, 100) for window in Window]

    assert [one.window for one in demanded(*budgets)] == [
        "hour:2026-11-20T12+00:00",
        "day:2026-11-20",
        "month:2026-11",
        "total",
    ]


def test_a_provider_budget_is_demanded_per_attempt():
    budgets = (Budget(Scope.PROVIDER, "open*", Window.MONTH, 500), Budget(Scope.TENANT, "*", Window.DAY, 20))

    found = provider_demands(budgets, "openai", unit=7, now=NOON, zone=UTC)

    assert found == (Demand("provider:openai", "month:2026-11", 7, 500, 1),)
    assert provider_demands(budgets, "flux", unit=7, now=NOON, zone=UTC) == ()
    assert covers_provider(budgets, "openai")
    assert not covers_provider(budgets, "flux")


@pytest.mark.parametrize(
    ("window", "zone", "text", "key"),
    [
        (Window.DAY, UTC, "2026-11-20T23:59:59.999", "day:2026-11-20"),
        (Window.DAY, UTC, "2026-11-21T00:00:00", "day:2026-11-21"),
        (Window.DAY, BERLIN, "2026-11-20T22:59:59", "day:2026-11-20"),
        (Window.DAY, BERLIN, "2026-11-20T23:00:00", "day:2026-11-21"),
        (Window.DAY, timezone(timedelta(hours=-5)), "2026-11-21T04:00:00", "day:2026-11-20"),
        (Window.MONTH, UTC, "2026-12-31T23:59:59", "month:2026-12"),
        (Window.MONTH, BERLIN, "2026-12-31T23:00:00", "month:2027-01"),
        (Window.HOUR, UTC, "2026-11-20T23:59:59", "hour:2026-11-20T23+00:00"),
        # The clock is put back: the same hour by name, and not the same hour.
        (Window.HOUR, BERLIN, "2026-10-25T00:30:00", "hour:2026-10-25T02+02:00"),
        (Window.HOUR, BERLIN, "2026-10-25T01:30:00", "hour:2026-10-25T02+01:00"),
        (Window.TOTAL, BERLIN, "2026-10-25T01:30:00", "total"),
    ],
)
def test_windows_follow_the_calendar_of_the_zone(window, zone, text, key):
    assert window_key(window, at(text), zone) == key


# -- the ledger -------------------------------------------------------------------------------------------------------

TASK = Task(
    id="task_1",
    tenant="acme",
    kind=Kind.IMAGE_GENERATION,
    model="gpt-image-2",
    input={},
    surface="native",
    route="/v1/tasks",
    priority=Priority.NORMAL,
    created_at=NOON,
)
TENANT, PROVIDER = ("tenant:acme", "day"), ("provider:openai", "month")


def attempt(n=1, billing=None, cost=None):
    made = Attempt("task_1", "acme", n, "openai", "openai", "m", "#1", "http://x", "k", NOON, NOON + 1, "hash")
    return made if billing is None else ended(made, NOON + 1, "x", billing, cost)


def lines_of(posting):
    return [(line.entry, line.n, line.budget, line.held_delta, line.spent_delta) for line in posting.lines]


def reserved(units=1, unit=10, n=0):
    return Hold(n, 0, *TENANT, unit, units, 100)


def test_a_reservation_fits_to_the_last_nano_and_not_beyond():
    balances = {TENANT: Balance(*TENANT, held=50, spent=30)}

    fits = reserve(TASK, [Demand(*TENANT, 10, 100, 2)], balances)
    over = reserve(TASK, [Demand(*TENANT, 7, 100, 3)], balances)

    assert isinstance(fits, Posting)
    assert (lines_of(fits), fits.holds, fits.gone) == ([("reserve", 0, "tenant:acme", 20, 0)], (reserved(2),), ())
    assert over == OverBudget(Demand(*TENANT, 7, 100, 3), 20)


def test_an_overspent_budget_has_nothing_left_rather_than_less():
    balances = {TENANT: Balance(*TENANT, held=0, spent=130)}

    assert reserve(TASK, [Demand(*TENANT, 1, 100)], balances) == OverBudget(Demand(*TENANT, 1, 100), 0)


def test_an_attempt_needs_a_unit_of_every_hold_of_its_task():
    empty = reserved(0)

    refused = take(TASK, attempt(), [], [empty, Hold(0, 0, "all", "total", 1, 5, 9)], balances={}, at=NOON)

    assert refused == OverBudget(Demand(*TENANT, 10, 100), 0)


def test_an_attempt_takes_a_unit_and_adds_what_its_provider_demands():
    taken = take(TASK, attempt(), [Demand(*PROVIDER, 8, 50)], [reserved(2)], balances={}, at=NOON)

    assert lines_of(taken) == [("hold", 1, "tenant:acme", 0, 0), ("hold", 1, "provider:openai", 8, 0)]
    assert taken.holds == (reserved(1), reserved(n=1), Hold(1, 0, *PROVIDER, 8, 1, 50))


@pytest.mark.parametrize(
    ("billing", "cost", "lives", "lines"),
    [
        (
            *(Billed.YES, 12, True),
            [("settle", 1, "provider:openai", -8, 12), ("settle", 1, "tenant:acme", -10, 12), ("spend", 1, "", 0, 12)],
        ),
        (
            *(Billed.YES, None, False),
            [("settle", 1, "provider:openai", -8, 8), ("settle", 1, "tenant:acme", -10, 10), ("spend", 1, "", 0, None)],
        ),
        (Billed.NO, 0, True, [("release", 1, "provider:openai", -8, 0), ("release", 1, "tenant:acme", 0, 0)]),
        (Billed.NO, 0, False, [("release", 1, "provider:openai", -8, 0), ("release", 1, "tenant:acme", -10, 0)]),
        (Billed.UNKNOWN, None, True, [("spend", 1, "", 0, None)]),
        (Billed.UNKNOWN, None, False, [("spend", 1, "", 0, None)]),
    ],
)
def test_the_end_of_an_attempt_by_what_is_known_of_its_bill(billing, cost, lives, lines):
    held = [reserved(3), reserved(n=1), Hold(1, 0, *PROVIDER, 8, 1, 50), reserved(n=2)]

    posting = settle(TASK, attempt(1, billing, cost), held, NOON, lives=lives)

    assert lines_of(posting) == lines
    assert posting.gone == (() if billing is Billed.UNKNOWN else (held[2], held[1]))
    assert posting.holds == ((reserved(4),) if billing is Billed.NO and lives else ())


def test_only_an_ended_attempt_is_settled():
    with pytest.raises(ValueError, match="has not ended"):
        settle(TASK, attempt(), [], NOON, lives=True)


def test_the_end_of_a_task_frees_what_no_attempt_has_taken():
    held = [reserved(2), Hold(0, 0, "all", "total", 5, 0, 9), reserved(n=1)]

    posting = free(TASK, held, NOON)

    assert lines_of(posting) == [("free", 0, "tenant:acme", -20, 0)]
    assert posting.gone == (held[1], held[0])


@given(
    unit=st.integers(0, 10**12),
    units=st.integers(1, 5),
    story=st.lists(st.tuples(st.sampled_from([*Billed, "withdrawn"]), st.none() | st.integers(0, 10**12)), max_size=8),
)
def test_whatever_happens_what_is_held_is_what_the_lines_say(unit, units, story):
    holds, lines = {}, []

    def post(posting):
        lines.extend(posting.lines)
        for hold in posting.gone:
            del holds[(hold.n, hold.pair)]
        holds.update({(hold.n, hold.pair): hold for hold in posting.holds})
        held = sum(line.held_delta for line in lines)
        assert held == sum(hold.unit * hold.units for hold in holds.values())

    post(reserve(TASK, [Demand(*TENANT, unit, 10**15, units)], {}))
    for n, (what, cost) in enumerate(story, start=1):
        taken = take(TASK, attempt(n), [Demand(*PROVIDER, unit // 2, 10**15)], holds.values(), balances={}, at=NOON)
        if isinstance(taken, OverBudget):
            break
        post(taken)
        if what == "withdrawn":
            post(release(TASK, attempt(n), holds.values(), NOON, lives=True))
        else:
            billed = {Billed.YES: cost, Billed.NO: 0, Billed.UNKNOWN: None}
            post(settle(TASK, attempt(n, what, billed[what]), holds.values(), NOON, lives=True))
    post(free(TASK, holds.values(), NOON))

    unknown = [what for what, _cost in story[: max((line.n for line in lines), default=0)] if what is Billed.UNKNOWN]
    assert sum(hold.unit * hold.units for hold in holds.values()) == len(unknown) * (unit + unit // 2)
