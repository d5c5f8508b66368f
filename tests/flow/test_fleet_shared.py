"""Places and starts of a fleet that shares its providers: nothing starts but what was granted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.flow.fleet import NoRoom, Started
from router.leases import Grant, Want
from router.policy.rules import Rate
from tests.flow.company import Company
from tests.flow.yard import Yard, make_provider, make_rules, make_target


def shared(*providers, places=0, tokens=0, rules=None):
    """A yard whose first provider was granted so much."""
    yard = Yard(*(providers or (make_provider(),)), rules=rules, shared=True)
    grant(yard, places, tokens)
    return yard


def grant(yard, places, tokens=0):
    yard.fleet.grant([Grant("alpha", places, tokens)])


def begun(yard, times):
    return [isinstance(yard.begin(), Started) for _ in range(times)].count(True)


def want_of(yard, waiting=0):
    (want,) = yard.fleet.wants(lambda _provider: waiting)
    return want


# -- places -----------------------------------------------------------------------------------------------------------


def test_nothing_starts_before_the_first_grant():
    yard = shared()

    assert yard.begin() == NoRoom("slots", None)
    assert (yard.fleet.room(yard.provider), yard.rooms) == (False, [])
    grant(yard, 2)
    assert yard.rooms == ["alpha"]
    assert begun(yard, 3) == 2


def test_no_more_start_than_the_provider_allows_whatever_is_granted():
    yard = shared(make_provider(max_concurrency=3), places=9)

    assert begun(yard, 9) == 3
    assert yard.fleet.snapshot().providers[0].limit == 3


def test_a_grant_smaller_than_what_is_in_use_lets_nothing_start_until_enough_have_ended():
    yard = shared(places=4)
    places = [yard.begin() for _ in range(4)]
    grant(yard, 2)
    for place in places[:2]:
        yard.end(place)

        assert yard.begin() == NoRoom("slots", None)
    yard.end(places[2])
    assert isinstance(yard.begin(), Started)
    assert yard.begin() == NoRoom("slots", None)


def test_only_a_grant_that_makes_room_calls():
    yard = shared(places=2)
    yard.rooms.clear()
    for places in (2, 1, 0):
        grant(yard, places)
    assert yard.rooms == []

    grant(yard, 1)
    yard.fleet.grant([Grant("nobody", 5, 0)])
    assert yard.rooms == ["alpha"]


def test_nothing_starts_after_a_lapse_and_what_is_out_stays_counted():
    yard = shared(make_provider(rate=Rate(9, 10.0)), places=3, tokens=9)
    place = yard.begin()
    yard.fleet.lapse()

    assert yard.begin() == NoRoom("slots", None)
    assert yard.fleet.snapshot().providers[0].in_use == 1
    grant(yard, 3)
    assert yard.begin() == NoRoom("rate", None)  # its starts are gone too
    grant(yard, 1, tokens=1)
    assert yard.begin() == NoRoom("slots", None)
    yard.end(place)
    assert isinstance(yard.begin(), Started)


def test_a_job_of_an_earlier_life_counts_above_what_was_granted():
    yard = shared(places=1)
    for _ in range(3):
        yard.fleet.resume(yard.provider, yard.target, "#1")

    assert yard.begin() == NoRoom("slots", None)
    assert want_of(yard) == Want("alpha", 16, in_use=3, need=3)


def test_a_reload_keeps_what_was_granted_and_a_new_provider_begins_with_nothing():
    beta = make_provider("beta")
    yard = shared(places=5)
    yard.fleet.adopt(make_rules(make_provider(max_concurrency=2), beta))

    assert begun(yard, 5) == 2
    yard.fleet.adopt(make_rules(make_provider(max_concurrency=20), beta))
    assert begun(yard, 5) == 3
    assert yard.fleet.free(beta) == 0
    assert [one.provider for one in yard.fleet.wants(lambda _provider: 0)] == ["alpha", "beta"]


def test_of_a_provider_that_went_nothing_is_asked_until_its_places_were_given_back():
    yard = shared(make_provider(), make_provider("beta"), places=4)
    place = yard.begin()
    yard.fleet.adopt(make_rules(make_provider("beta")))

    def ask():
        wants = {one.provider: one for one in yard.fleet.wants(lambda _provider: 7)}
        yard.fleet.grant([Grant(name, 0, 0) for name in wants])
        return wants.get("alpha")

    assert ask() == Want("alpha", 0, in_use=1, need=0)
    yard.fleet.record(place, None, 1.0)
    assert ask() == Want("alpha", 0)
    assert ask() is None
    assert [one.name for one in yard.fleet.snapshot().providers] == ["beta"]


def test_a_provider_that_comes_back_is_granted_anew():
    yard = shared(places=4)
    yard.fleet.adopt(make_rules(make_provider("beta")))
    yard.fleet.adopt(make_rules(make_provider(), make_provider("beta")))

    assert yard.begin() == NoRoom("slots", None)
    grant(yard, 1)
    assert begun(yard, 2) == 1


# -- what is asked for ------------------------------------------------------------------------------------------------


def test_a_want_names_what_could_be_begun_before_the_answer_as_in_use():
    yard = shared(places=4)

    assert want_of(yard) == Want("alpha", 16, in_use=4, need=0)
    yard.begin()
    assert want_of(yard, waiting=3) == Want("alpha", 16, in_use=4, need=4)
    assert want_of(yard, waiting=10_000).need == 16


def test_what_was_out_since_the_last_question_is_needed_still():
    yard = shared(places=8)
    places = [yard.begin() for _ in range(5)]
    for place in places:
        yard.end(place)

    assert [want_of(yard).need for _ in range(2)] == [5, 0]


@pytest.mark.parametrize(
    ("rate", "in_hand", "waiting", "wanted"),
    [
        (Rate(100, 10.0), 0, 0, 10),  # a second's worth
        (Rate(100, 10.0), 4, 0, 6),
        (Rate(100, 10.0), 0, 7, 17),
        (Rate(100, 10.0), 0, 50_000, 26),  # no more of those that wait than could be out at once
        (Rate(12, 10.0), 0, 50_000, 12),  # no more than the bucket has
        (Rate(12, 60.0), 0, 0, 1),  # slower than one in a second: one in hand
        (Rate(2, 3600.0), 0, 0, 0),  # of so few the idle keep none
        (Rate(2, 3600.0), 0, 1, 1),
        (Rate(2, 3600.0), 1, 1, 0),
    ],
)
def test_starts_are_asked_for_those_that_wait_and_those_that_may_come(rate, in_hand, waiting, wanted):
    yard = shared(make_provider(rate=rate), places=1, tokens=in_hand)
    want = want_of(yard, waiting)

    assert (want.tokens, want.per_ms) == (rate.count, rate.per_s * 1000)
    assert want.tokens_wanted == wanted


def test_starts_are_what_was_granted_and_never_more_than_the_rate_has():
    yard = shared(make_provider(rate=Rate(3, 10.0)), places=16, tokens=2)
    assert begun(yard, 5) == 2
    assert yard.begin() == NoRoom("rate", None)
    assert yard.fleet.wait_s(yard.provider) == 1.0
    yard.wait(1_000.0)
    assert (yard.begin(), yard.timers) == (NoRoom("rate", None), [])

    yard.rooms.clear()
    grant(yard, 16, tokens=2)
    grant(yard, 16, tokens=2)
    assert yard.rooms == ["alpha"] * 2
    assert yard.fleet.free(yard.provider) == 3
    assert begun(yard, 5) == 3


def test_a_reload_with_a_smaller_rate_takes_starts_away_and_one_without_a_rate_asks_for_none():
    yard = shared(make_provider(rate=Rate(9, 10.0)), places=16, tokens=9)
    yard.fleet.adopt(make_rules(make_provider(rate=Rate(4, 10.0))))
    assert yard.fleet.free(yard.provider) == 4

    yard.fleet.adopt(make_rules(make_provider()))
    assert yard.fleet.free(yard.provider) == 16
    assert want_of(yard, waiting=3).tokens == 0


# -- several fleets ---------------------------------------------------------------------------------------------------


def test_two_busy_fleets_come_to_half_of_the_places_each():
    company = Company(make_provider(max_concurrency=10), lives=2)
    first, second = company.yards
    company.waiting[0] = 50
    company.turn(0)
    out = [first.begin() for _ in range(10)]
    company.waiting[1] = 50
    company.turns()
    assert (company.in_use(), second.begin()) == ([10, 0], NoRoom("slots", None))

    for place in out:
        first.end(place)
        first.begin()
        company.turns()
        second.begin()
    company.turns()
    assert company.in_use() == [5, 5]


def test_what_a_silent_fleet_held_is_granted_to_the_others():
    company = Company(make_provider(max_concurrency=9))
    company.turns(3)
    assert [yard.fleet.free(yard.provider) for yard in company.yards] == [3, 3, 3]

    company.awake.discard(3)
    company.yards[2].fleet.lapse()
    company.turn(0)
    company.turn(1)
    company.turn(0)
    assert sorted(yard.fleet.free(yard.provider) for yard in company.yards) == [0, 4, 5]


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abbbetw")), max_size=80)


@settings(max_examples=200)
@given(steps=STEPS, places=st.integers(1, 7))
def test_three_fleets_together_never_have_more_out_than_there_are_places(steps, places):
    """In any order a fleet asks (a), begins (b) and ends (e) an attempt; it takes a turn (t), and time passes (w)."""
    company = Company(make_provider(max_concurrency=places))
    out, asked = [[], [], []], [None] * 3
    for number, step in steps:
        yard = company.yards[number]
        company.waiting[number] = len(steps) % 4
        if step == "a" and asked[number] is None:
            wants = yard.fleet.wants(lambda _provider, number=number: company.waiting[number])
            asked[number] = company.shares.share(number + 1, wants, company.awake, company.now)
        elif step == "t" and asked[number] is None:
            company.turn(number)
        elif step == "t":
            yard.fleet.grant(asked[number])  # the answer to an earlier question
            asked[number] = None
        elif step == "b" and isinstance(place := yard.begin(), Started):
            out[number].append(place)
        elif step == "e" and out[number]:
            yard.end(out[number].pop())
        elif step == "w":
            company.wait(7.0)

        assert sum(company.in_use()) == sum(map(len, out)) <= places


def test_a_fleet_that_shares_nothing_asks_for_nothing_and_tells_nothing():
    yard = Yard(make_provider(max_concurrency=2, rate=Rate(5, 10.0)))
    yard.open()
    yard.fleet.force_open("alpha", "alpha")
    yard.fleet.reset("alpha", "alpha")

    assert yard.fleet.wants(lambda _provider: 3) == ()
    yard.fleet.lapse()
    grant(yard, 1)
    assert (yard.fleet.take_news(), yard.fleet.probes_wanted()) == ((), ())
    assert yard.fleet.free(yard.provider) == 2
    assert yard.fleet.standing(replace(yard.provider), make_target()).reason is None
