"""The arithmetic of limits and waits: tables for the rules, a state machine for the bucket, properties for the rest."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.policy.pace import (
    Allowance,
    Bucket,
    DrainRate,
    Latency,
    RetryBudget,
    Slots,
    Successes,
    Tally,
    Turnover,
    clamp_rest,
)
from router.policy.rules import Rate


def test_slots_let_in_as_many_as_the_limit():
    slots = Slots(2)

    assert [slots.take() for _ in range(3)] == [True, True, False]
    slots.give_back()
    assert (slots.take(), slots.free) == (True, 0)


def test_a_lowered_limit_lets_nobody_in_until_enough_have_left():
    slots = Slots(3)
    for _ in range(3):
        slots.take()
    slots.limit = 1
    slots.give_back()
    slots.give_back()

    assert (slots.free, slots.take()) == (0, False)
    slots.give_back()
    assert slots.take()


def test_a_job_of_an_earlier_life_is_counted_above_the_limit():
    slots = Slots(1)
    slots.take_anyway()
    slots.take_anyway()
    slots.give_back()

    assert (slots.in_use, slots.take()) == (1, False)


def test_a_place_cannot_be_given_back_twice():
    with pytest.raises(AssertionError, match="twice"):
        Slots(1).give_back()


def test_a_bucket_starts_full_and_then_answers_with_the_wait():
    bucket = Bucket(Rate(2, 10.0), 100.0)

    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 5.0]
    assert bucket.take(102.0) == pytest.approx(3.0)
    assert bucket.take(105.0) == 0.0
    assert bucket.left(1_000.0) == 2


def test_a_bucket_under_a_new_rate_forgets_nothing_that_was_taken():
    bucket = Bucket(Rate(10, 10.0), 0.0)
    for _ in range(8):
        bucket.take(0.0)

    bucket.adopt(Rate(20, 10.0), 0.0)
    assert bucket.left(0.0) == 12
    bucket.adopt(Rate(3, 60.0), 0.0)
    assert bucket.left(0.0) == 3


def test_an_allowance_is_empty_until_it_is_filled_and_holds_no_more_than_the_rate():
    allowance = Allowance(Rate(3, 10.0))
    assert (allowance.take(0.0), allowance.left(0.0)) == (1.0, 0)

    allowance.fill(2)
    assert (allowance.take(0.0), allowance.left(1e9), allowance.wait_s(1e9)) == (0.0, 1, 0.0)
    allowance.fill(99)
    assert [allowance.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    allowance.fill(-1)
    assert allowance.left(0.0) == 0


def test_an_allowance_under_a_new_rate_keeps_what_the_new_rate_holds():
    allowance = Allowance(Rate(9, 10.0))
    allowance.fill(5)
    allowance.adopt(Rate(20, 10.0), 0.0)
    assert allowance.left(0.0) == 5
    allowance.adopt(Rate(2, 10.0), 0.0)
    assert allowance.left(0.0) == 2

    allowance.empty()
    assert (allowance.left(0.0), allowance.missing(1)) == (0, 1)


class BucketMachine(RuleBasedStateMachine):
    """Against the definition: in any span, no more starts than the size and what the span refills."""

    rates = st.builds(Rate, st.integers(1, 50), st.sampled_from([0.1, 1.0, 7.0, 60.0, 3600.0]))

    def __init__(self):
        super().__init__()
        self.now = 1e6  # far from zero, where floats are coarse
        self.rate = Rate(3, 7.0)
        self.bucket = Bucket(self.rate, self.now)
        self.taken = []

    @rule(passed_s=st.floats(0, 100))
    def wait(self, passed_s):
        self.now += passed_s

    @rule(times=st.integers(1, 20))
    def take(self, times):
        for _ in range(times):
            left, wait_s = self.bucket.left(self.now), self.bucket.take(self.now)
            assert (left > 0) == (wait_s == 0.0)
            if wait_s == 0.0:
                self.taken.append(self.now)

    @rule()
    def wait_as_told_and_take(self):
        self.now += self.bucket.wait_s(self.now)
        assert self.bucket.take(self.now) == 0.0
        self.taken.append(self.now)

    @rule(rate=rates)
    def change_the_rate(self, rate):
        self.bucket.adopt(rate, self.now)
        self.rate, self.taken = rate, []
        assert self.bucket.left(self.now) <= rate.count

    @invariant()
    def no_span_has_more_starts_than_the_rate_allows(self):
        for first in range(len(self.taken)):
            span_s = self.taken[-1] - self.taken[first]
            allowed = self.rate.count + span_s * self.rate.count / self.rate.per_s
            assert len(self.taken) - first <= allowed + 1e-3


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(max_examples=60, stateful_step_count=40)


def test_ten_repeats_are_free_and_each_five_first_tries_pay_for_one_more():
    budget = RetryBudget()
    for _ in range(15):
        budget.deposit(50.0)

    assert [budget.withdraw(50.0) for _ in range(14)] == [True] * 13 + [False]
    assert not budget.affords(59.9)
    assert budget.affords(60.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200))
def test_repeats_in_any_ten_seconds_stay_within_the_floor_and_a_fifth_of_the_first_tries(steps):
    budget, now, events = RetryBudget(), 0.0, []
    for passed_s, is_repeat in steps:
        now += passed_s
        if not is_repeat:
            budget.deposit(now)
            events.append((now, False))
        elif budget.withdraw(now):
            events.append((now, True))
            recent = [repeat for at, repeat in events if at > now - 9]
            firsts = sum(not repeat for at, repeat in events if at > now - 10)
            assert sum(recent) <= 10 + firsts / 5 + 1e-9


@pytest.mark.parametrize(
    ("rest_s", "has_other", "expected"),
    [
        (7.0, True, 7.0),
        (7.0, False, 7.0),
        (0.2, True, 1.0),
        (-1.0, True, 1.0),
        (301.0, True, 300.0),
        (1e9, False, 300.0),
        (math.inf, False, 300.0),
        (math.nan, True, 30.0),
        (math.nan, False, None),
        (None, True, 30.0),
        (None, False, None),
    ],
)
def test_what_a_throttling_upstream_asks_for_is_obeyed_within_bounds(rest_s, has_other, expected):
    assert clamp_rest(rest_s, has_other=has_other) == expected


@pytest.mark.parametrize(
    ("gone_at", "count", "now", "expected"),
    [
        ([], 1, 10.0, 120.0),
        ([0.5 * n for n in range(120)], 10, 59.9, 5.0),  # two a second
        ([0.5 * n for n in range(120)], 1, 59.9, 1.0),
        ([0.0, 30.0], 3, 59.0, 89.0),
        ([0.0, 30.0], 1_000, 59.0, 120.0),
        ([0.0, 1.0], 3, 100.0, 120.0),  # what left a minute ago says nothing of now
        ([5.0, 5.0, 5.0, 5.0], 8, 5.0, 2.0),  # a second is the least that counts as measured
    ],
)
def test_a_full_queue_says_when_to_come_back_from_its_measured_pace(gone_at, count, now, expected):
    pace = DrainRate()
    for at in gone_at:
        pace.note(at)

    assert pace.seconds_for(count, now) == expected


def test_the_time_between_two_who_leave_is_told_from_twenty_gaps_on():
    line = Turnover()
    for at in range(20):
        line.note(3.0 * at, others_wait=True)
    assert line.mean_s is None
    line.note(60.0, others_wait=True)
    assert line.mean_s == 3.0


def test_time_in_which_nobody_waits_is_no_gap():
    line = Turnover()
    for at in range(0, 4_000, 100):
        line.note(at, others_wait=True)
        line.note(at + 2, others_wait=False)
    assert line.mean_s == 2.0

    for at in range(5_000, 5_000 + 5 * Turnover.KEPT + 1, 5):
        line.note(at, others_wait=True)
    assert line.mean_s == 5.0, "what was long ago is forgotten"


def test_a_median_is_told_from_twenty_samples_on():
    latency = Latency()
    for seconds in range(19):
        latency.note(float(seconds))
    assert (latency.p50_s, latency.ewma_s is None) == (None, False)

    latency.note(100.0)
    assert latency.p50_s == 10.0


def test_a_median_forgets_what_was_long_ago_and_keeps_a_bound():
    latency = Latency()
    for _ in range(1_000):
        latency.note(60.0)
    for _ in range(Latency.KEPT):
        latency.note(2.0)

    assert latency.p50_s == 2.0
    assert latency.ewma_s == pytest.approx(2.0, abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(-3, 3)), max_size=80))
def test_a_tally_is_the_sum_over_its_last_steps(steps):
    tally, now, added = Tally(1.0, 10), 0, []
    for passed, amount in steps:
        now += passed
        tally.add(now + 0.5, amount)
        added.append((now, amount))

        assert tally.total(now + 0.5) == sum(amount for at, amount in added if at > now - 10)
    tally.clear()
    assert tally.total(now + 0.5) == 0


# -- the share of successes ------------------------------------------------------------------------------------------


def test_a_share_of_successes_is_told_from_twenty_attempts_on_and_forgets_after_an_hour():
    seen = Successes()
    for number in range(20):
        assert seen.rate(0.0) is None
        seen.note(0.0, succeeded=number % 4 != 0)
    assert seen.rate(10.0) == 0.75
    assert seen.rate(3_599.0) == 0.75
    assert seen.rate(3_600.0) is None

    for _ in range(20):
        seen.note(3_600.0, succeeded=True)
    assert seen.rate(3_600.0) == 1.0
