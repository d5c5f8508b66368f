"""How places and starts are divided, as properties of the division, and as what comes of it when lives ask in turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.leases import Want
from router.policy.share import TURN_MS, WHOLE, Fill, Leased, divide, lease_places, take_tokens

NOW = 1_795_176_000_000
NEEDS = st.dictionaries(st.integers(1, 50), st.integers(0, 40), min_size=1, max_size=8)
PLACES = st.integers(0, 60)
TURNS = st.integers(0, 100)


# -- the division -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "needs", "turn", "shares"),
    [
        (10, {1: 10, 2: 10}, 0, {1: 5, 2: 5}),
        (10, {1: 2, 2: 30}, 0, {1: 2, 2: 8}),
        (10, {1: 0, 2: 4}, 0, {1: 3, 2: 7}),  # the six that nobody needs go half and half
        (10, {1: 1, 2: 5, 3: 9}, 0, {1: 1, 2: 5, 3: 4}),
        (10, {1: 1, 2: 5, 3: 9}, 2, {1: 1, 2: 4, 3: 5}),  # the odd one goes to another with each turn
        (3, {7: 0, 8: 0}, 0, {7: 2, 8: 1}),
        (1, {1: 9, 2: 30}, 1, {1: 0, 2: 1}),
        (0, {1: 9}, 0, {1: 0}),
    ],
)
def test_places_are_divided_by_need_and_what_is_left_evenly(places, needs, turn, shares):
    assert divide(places, needs, turn) == shares


@given(places=PLACES, needs=NEEDS, turn=TURNS)
def test_every_place_is_given_to_somebody(places, needs, turn):
    shares = divide(places, needs, turn)

    assert shares.keys() == needs.keys()
    assert sum(shares.values()) == places
    assert min(shares.values()) >= 0


@given(places=PLACES, needs=NEEDS, turn=TURNS)
def test_nobody_has_more_than_it_needs_while_another_goes_short(places, needs, turn):
    shares = divide(places, needs, turn)

    if any(shares[epoch] < needs[epoch] for epoch in needs):
        assert all(shares[epoch] <= needs[epoch] for epoch in needs)
    else:
        surplus = [shares[epoch] - needs[epoch] for epoch in needs]
        assert max(surplus) - min(surplus) <= 1


@given(places=PLACES, needs=NEEDS, turn=TURNS)
def test_who_goes_short_has_as_much_as_anybody_but_for_the_one_that_cannot_be_divided(places, needs, turn):
    shares = divide(places, needs, turn)
    short = [shares[epoch] for epoch in needs if shares[epoch] < needs[epoch]]

    assert all(share >= max(shares.values()) - 1 for share in short)


@given(places=st.integers(1, 60), needs=NEEDS, start=TURNS)
def test_within_as_many_turns_as_there_are_lives_everybody_in_need_is_fed(places, needs, start):
    fed = {epoch for turn in range(len(needs)) for epoch, share in divide(places, needs, start + turn).items() if share}

    assert fed >= {epoch for epoch, need in needs.items() if need}


# -- leases -----------------------------------------------------------------------------------------------------------


OTHERS = st.dictionaries(st.integers(2, 9), st.builds(Leased, st.integers(0, 40), st.integers(0, 40)), max_size=6)


@given(places=PLACES, in_use=st.integers(0, 40), need=st.integers(0, 40), others=OTHERS, passed=st.integers(0, 10**6))
def test_a_lease_leaves_the_others_what_they_hold(places, in_use, need, others, passed):
    granted, held = lease_places(Want("alpha", places, in_use, need), 1, others, NOW + passed)

    theirs = sum(leased.places for leased in others.values())
    assert 0 <= granted <= max(0, places - theirs)
    assert held == Leased(max(granted, in_use), need)


class Lives:
    """Lives that ask one after the other and use at once whatever they may, as long as they need it."""

    def __init__(self, places, needs, in_use):
        self.places, self.needs, self.now = places, needs, NOW
        self.in_use = in_use
        self.limits = dict.fromkeys(needs, 0)
        self.held = {}

    def ask(self, epoch):
        others = {other: leased for other, leased in self.held.items() if other != epoch}
        taken = max(self.in_use[epoch], self.limits[epoch])
        want = Want("alpha", self.places, taken, self.needs[epoch])
        self.limits[epoch], self.held[epoch] = lease_places(want, epoch, others, self.now)

    def work(self, epoch, ended):
        """Some attempts end, and others begin at once in all places that are free."""
        self.in_use[epoch] -= min(ended, self.in_use[epoch])
        self.in_use[epoch] = max(self.in_use[epoch], min(self.limits[epoch], self.needs[epoch]))


@given(data=st.data(), places=PLACES, needs=NEEDS)
def test_with_constant_needs_a_few_rounds_lead_to_the_fair_division(data, places, needs):
    lives = Lives(places, needs, {epoch: data.draw(st.integers(0, 20)) for epoch in needs})
    for _ in range(4):
        for epoch in data.draw(st.permutations(sorted(needs))):
            lives.ask(epoch)
            lives.work(epoch, ended=40)

    assert lives.limits == divide(places, needs, NOW // TURN_MS)
    assert {epoch: leased.places for epoch, leased in lives.held.items()} == lives.limits


@given(data=st.data(), places=PLACES, needs=NEEDS)
def test_all_that_is_out_never_exceeds_the_places_but_for_what_was_out_before(data, places, needs):
    """Lives ask, work and change their needs in any order; each hears its answer after it has begun what it could."""
    lives = Lives(places, dict(needs), {epoch: data.draw(st.integers(0, 3)) for epoch in needs})
    before = dict(lives.in_use)
    for _ in range(data.draw(st.integers(0, 40))):
        epoch = data.draw(st.sampled_from(sorted(needs)))
        lives.now += data.draw(st.sampled_from([0, 500, TURN_MS]))
        lives.needs[epoch] = data.draw(st.integers(0, 40))
        former = lives.limits[epoch]
        lives.ask(epoch)
        lives.limits[epoch], answer = former, lives.limits[epoch]
        lives.work(epoch, data.draw(st.integers(0, 5)))
        before[epoch] = min(before[epoch], lives.in_use[epoch])
        lives.limits[epoch] = answer

        assert sum(lives.in_use.values()) <= places + sum(before.values())
        assert all(lives.held[one].places >= max(lives.in_use[one], lives.limits[one]) for one in lives.held)


@pytest.mark.parametrize("places", [1, 2])
def test_where_there_are_fewer_places_than_lives_each_comes_to_its_turn(places):
    lives = Lives(places, {1: 9, 2: 4, 3: 30}, dict.fromkeys((1, 2, 3), 0))
    began = dict.fromkeys(lives.needs, 0)
    for _ in range(300):
        for epoch in lives.needs:
            lives.ask(epoch)
            lives.in_use[epoch] = 0  # its attempt has ended
            lives.work(epoch, ended=0)
            began[epoch] += lives.in_use[epoch]
            assert sum(lives.in_use.values()) <= places
        lives.now += 1_000

    assert min(began.values()) >= 80 * places


def test_a_backlog_of_one_life_does_not_keep_another_out():
    """Whoever has all places begins another attempt the moment that one ends, and still has to give way."""
    lives = Lives(4, {1: 50, 2: 50}, {1: 4, 2: 0})
    lives.ask(1)
    for _ in range(6):
        for epoch in lives.needs:
            lives.ask(epoch)
            lives.work(epoch, ended=1)

    assert lives.in_use == {1: 2, 2: 2}


# -- the bucket -------------------------------------------------------------------------------------------------------


RATES = st.tuples(st.integers(1, 50), st.sampled_from([1_000, 7_000, 60_000, 3_600_000]))
# How long after the last question (also on a clock that goes back), and how many tokens it asks for.
QUESTIONS = st.lists(st.tuples(st.integers(-5_000, 20_000), st.integers(0, 60)), max_size=60)


def pace(size, per_ms, wanted):
    return Want("alpha", 1, tokens=size, per_ms=per_ms, tokens_wanted=wanted)


@given(rate=RATES, questions=QUESTIONS)
def test_no_span_yields_more_than_the_size_and_what_the_span_earns(rate, questions):
    (size, per_ms), now, bucket, latest, taken = rate, NOW, None, 0, []
    for passed_ms, wanted in questions:
        now += passed_ms
        latest = max(latest, now)
        tokens, bucket = take_tokens(pace(size, per_ms, wanted), bucket, now)
        assert 0 <= tokens <= wanted
        taken.append((latest, tokens))

    for first, (since, _) in enumerate(taken):
        yielded = sum(tokens for _at, tokens in taken[first:])
        assert yielded <= size + (latest - since) * size / per_ms + 1e-6


@given(rate=RATES, passed=st.lists(st.integers(1, 3_000), min_size=1, max_size=60))
def test_a_bucket_fills_as_fast_however_often_it_is_looked_at(rate, passed):
    size, per_ms = rate
    _all, bucket = take_tokens(pace(size, per_ms, size), None, NOW)
    now = NOW
    for passed_ms in passed:
        now += passed_ms
        none, bucket = take_tokens(pace(size, per_ms, 0), bucket, now)
        assert none == 0

    once, _bucket = take_tokens(pace(size, per_ms, size), Fill(0, NOW), now)
    often, _bucket = take_tokens(pace(size, per_ms, size), bucket, now)
    assert once - often in {0, 1}  # the last thousandth of the last token


def test_a_rate_of_two_an_hour_comes_although_somebody_looks_each_second():
    bucket, now, taken = Fill(0, NOW), NOW, 0
    for _ in range(3_700):
        now += 1_000
        tokens, bucket = take_tokens(pace(2, 3_600_000, 1), bucket, now)
        taken += tokens

    assert taken == 2


def test_a_clock_that_goes_back_earns_nothing_until_it_has_caught_up():
    _all, bucket = take_tokens(pace(10, 10_000, 10), None, NOW)

    for at in (NOW - 60_000, NOW - 1, NOW, NOW + 999):
        tokens, bucket = take_tokens(pace(10, 10_000, 10), bucket, at)
        assert tokens == 0
    assert take_tokens(pace(10, 10_000, 10), bucket, NOW + 1_000)[0] == 1


def test_a_bucket_is_full_at_first_and_never_more_than_that():
    assert take_tokens(pace(5, 1_000, 99), None, NOW) == (5, Fill(0, NOW))
    assert take_tokens(pace(5, 1_000, 99), Fill(3 * WHOLE, NOW), NOW + 10**9) == (5, Fill(0, NOW + 10**9))
    assert take_tokens(pace(2, 1_000, 99), Fill(5 * WHOLE, NOW), NOW) == (2, Fill(0, NOW))  # it was larger before
