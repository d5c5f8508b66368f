"""The fleet under a fake clock: who gets a place, and what each outcome teaches."""

import math

import pytest

from router.events import AccountRested, BreakerMoved
from router.flow.fleet import NoRoom, Started
from router.flow.roster import AccountView
from router.outcome import Ejects, FailureKind, fail
from router.policy.health import CircuitState
from router.policy.route import Standing
from router.policy.rules import Rate
from tests.flow.yard import AT, READY, Yard, make_provider, make_rules, make_target

NEUTRAL = ["refused", "bad_request", "unsupported", "result_lost", "cancelled", "bug"]
COUNTED = ["unsent", "overloaded", "server_error", "unknown", "job_failed", "lost", "unusable"]


@pytest.fixture
def yard():
    return Yard(make_provider(max_concurrency=500))


# -- places and rate ------------------------------------------------------------------------------------------------


def test_places_run_out_and_come_back_with_a_call():
    yard = Yard(make_provider(max_concurrency=2))
    first, _second = yard.begin(), yard.begin()

    assert yard.begin() == NoRoom("slots", None)
    assert (yard.fleet.free(yard.provider), yard.fleet.room(yard.provider)) == (0, False)
    yard.end(first)
    assert yard.rooms == ["alpha"]
    assert isinstance(yard.begin(), Started)


def test_a_place_that_was_not_used_comes_back_and_teaches_nothing(yard):
    places = [yard.begin() for _ in range(10)]
    for place in places:
        yard.fleet.release(place)

    assert (yard.fleet.free(yard.provider), yard.standing(), yard.events) == (500, READY, [])
    assert len(yard.rooms) == 10


@pytest.mark.parametrize("end", ["record", "release"])
def test_a_place_is_given_back_once(yard, end):
    place = yard.begin()
    yard.end(place)

    with pytest.raises(AssertionError, match="twice"):
        yard.end(place) if end == "record" else yard.fleet.release(place)


def test_a_rate_limit_lets_wait_in_the_lane_and_calls_when_its_next_token_comes():
    yard = Yard(make_provider(rate=Rate(2, 10.0)))
    places = [yard.begin(), yard.begin()]
    assert yard.begin() == NoRoom("rate", None)
    assert (yard.fleet.free(yard.provider), yard.fleet.wait_s(yard.provider)) == (0, 5.0)
    for place in places:
        yard.end(place)
    yard.rooms.clear()

    yard.wait(4.9)
    assert yard.rooms == []
    yard.wait(0.2)
    assert yard.rooms == ["alpha"]
    assert (yard.fleet.free(yard.provider), len(yard.timers)) == (1, 0)
    assert isinstance(yard.begin(), Started)
    assert len(yard.timers) == 1  # whoever comes next will be called too


def test_a_new_rate_is_waited_for_instead_of_the_old_one():
    yard = Yard(make_provider(rate=Rate(1, 3600.0)))
    yard.begin()
    yard.fleet.adopt(make_rules(make_provider(rate=Rate(1, 10.0))))
    yard.rooms.clear()
    yard.wait(10.0)

    assert yard.rooms == ["alpha"]


def test_repeats_are_paid_from_the_retry_budget_and_first_tries_pay_in(yard):
    repeats = [isinstance(yard.begin(repeat=True), Started) for _ in range(11)]
    assert repeats == [True] * 10 + [False]
    assert yard.begin(repeat=True).reason == "repeats"
    assert not yard.fleet.may_repeat(yard.provider, yard.target)

    for _ in range(5):
        yard.begin()
    assert yard.fleet.may_repeat(yard.provider, yard.target)


def test_a_refused_start_takes_nothing():
    yard = Yard(make_provider(max_concurrency=1, rate=Rate(5, 10.0)))
    place = yard.begin()
    for _ in range(20):
        assert yard.begin().reason == "slots"
    yard.end(place, "throttled", rest_s=60.0)
    for _ in range(20):
        assert yard.begin() == NoRoom("resting", 60.0)
    yard.fleet.reset("alpha", "alpha")

    assert yard.fleet.free(yard.provider) == 1
    assert [isinstance(yard.begin(), Started), yard.view().in_use] == [True, 1]


# -- circuits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COUNTED)
def test_what_counts_as_a_failure_opens_the_circuit(yard, kind):
    for _ in range(3):
        yard.attempt(kind)

    assert yard.standing() == Standing(30.0, probe=False, reason="open")
    assert yard.events == [BreakerMoved(AT, "alpha", "alpha", "picture-1", "closed", "open", 30.0)]


@pytest.mark.parametrize("kind", [*NEUTRAL, "throttled", "account"])
def test_what_is_neutral_opens_nothing(kind):
    yard = Yard(make_provider(secrets=[f"s{n}" for n in range(40)]))
    for _ in range(30):
        yard.attempt(kind)
        yard.fleet.reset("alpha", "alpha")

    assert yard.moves() == []


def test_of_two_hundred_waiters_exactly_one_becomes_the_probe(yard):
    yard.open()
    yard.wait(30.0)
    assert yard.standing() == Standing(0.0, probe=True, reason=None)
    answers = [yard.begin() for _ in range(200)]
    started = [one for one in answers if isinstance(one, Started)]

    assert [one.probe for one in started] == [True]
    assert {one.reason for one in answers[1:]} == {"probing"}
    assert all(one.wait_s >= 1.0 for one in answers[1:])
    yard.end(started[0])
    assert yard.moves() == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert all(isinstance(yard.begin(), Started) for _ in range(200))


@pytest.mark.parametrize("kind", NEUTRAL)
def test_a_probe_that_says_nothing_leaves_its_right_to_one_other(yard, kind):
    yard.open()
    yard.wait(30.0)
    yard.attempt(kind)

    assert [isinstance(yard.begin(), Started) for _ in range(3)] == [True, False, False]
    assert yard.view().state is CircuitState.HALF_OPEN


def test_a_probe_that_was_never_made_leaves_its_right_to_one_other(yard):
    yard.open()
    yard.wait(30.0)
    yard.fleet.release(yard.begin())

    assert [isinstance(yard.begin(), Started) for _ in range(3)] == [True, False, False]


def test_a_throttled_probe_goes_back_for_the_same_time(yard):
    yard.open()
    yard.wait(30.0)
    yard.attempt("throttled", rest_s=5.0)

    assert yard.standing() == Standing(30.0, probe=False, reason="open")


def test_who_started_before_the_opening_does_not_close_it(yard):
    early = [yard.begin() for _ in range(4)]
    yard.open()
    yard.end(early[0])
    yard.end(early[1], "server_error")
    yard.wait(30.0)
    yard.begin()
    yard.end(early[2])
    yard.end(early[3], "server_error")

    assert yard.moves() == [("closed", "open"), ("open", "half_open")]


def test_a_model_unknown_upstream_opens_its_target_long_and_no_other(yard):
    other = make_target(model="picture-2")
    yard.attempt("unsupported", ejects=Ejects.TARGET)

    assert yard.standing() == Standing(600.0, probe=False, reason="open")
    assert yard.fleet.standing(yard.provider, other) == READY


def test_the_wait_for_a_probe_follows_what_is_known_of_the_target(yard):
    for _ in range(20):
        yard.attempt(elapsed_s=40.0)
    yard.open()
    yard.wait(30.0)
    yard.begin()

    waits = []
    for passed_s in (0, 10, 25, 4.5, 60.5):
        yard.wait(passed_s)
        waits.append(yard.standing().ready_in_s)
    assert waits == [40.0, 30.0, 8.75, 9.875, 25.0]  # what is left of the median, then a quarter of the wait


def test_operators_pin_and_reset_circuits_by_name(yard):
    assert not yard.fleet.force_open("alpha", "nobody")
    assert yard.fleet.force_open("alpha", "alpha")
    assert yard.standing() == Standing(math.inf, probe=False, reason="forced_open")
    assert yard.begin() == NoRoom("forced_open", 60.0)
    assert (yard.view().is_pinned, yard.view().ready_in_s) == (True, None)
    assert yard.fleet.force_close("alpha", "alpha")
    for _ in range(20):
        yard.attempt("server_error")
    assert yard.fleet.reset("alpha", "alpha")
    yard.open()

    assert yard.moves() == [("closed", "open"), ("open", "closed"), ("closed", "open")]
    assert yard.rooms.count("alpha") >= 3


# -- rests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rest_s", "expected"),
    [
        ("throttled", 7.0, 7.0),
        ("throttled", 1e9, 300.0),
        ("throttled", math.nan, 30.0),
        ("throttled", None, 30.0),
        ("overloaded", 7.0, 7.0),
        ("overloaded", None, 0.0),
        ("server_error", 7.0, 0.0),
    ],
)
def test_a_busy_target_rests_as_it_asks(kind, rest_s, expected):
    yard = Yard(make_provider(), make_provider("beta"))
    yard.attempt(kind, rest_s=rest_s)
    reason = "resting" if expected else None

    assert yard.standing() == Standing(expected, probe=False, reason=reason)
    assert yard.fleet.standing(make_provider("beta"), make_target("beta")) == READY
    yard.wait(expected)
    assert yard.standing() == READY


def test_a_throttle_that_says_nothing_gives_no_rest_where_some_rule_has_no_other_target():
    providers = (make_provider(), make_provider("beta"))
    both = (make_target(), make_target("beta"))
    yard = Yard(*providers, rules=[both, (make_target(),)])
    yard.attempt("throttled")
    beta = yard.fleet.begin(providers[1], both[1], timeout_s=60.0, repeat=False)
    yard.fleet.record(beta, fail(FailureKind.THROTTLED, "429"), 1.0)

    assert yard.standing() == READY
    assert yard.fleet.standing(providers[1], both[1]).reason == "resting"


def test_a_shorter_rest_does_not_shorten_a_longer_one(yard):
    first, second = yard.begin(), yard.begin()
    yard.end(first, "throttled", rest_s=100.0)
    yard.end(second, "throttled", rest_s=2.0)

    assert yard.standing().ready_in_s == 100.0


# -- accounts -------------------------------------------------------------------------------------------------------


def test_a_throttled_account_stays_away_while_another_of_the_provider_goes_on():
    yard = Yard(make_provider(secrets=("s1", "s2")), make_provider("beta"))
    throttled = yard.attempt("throttled", rest_s=60.0)

    assert yard.standing() == READY
    others = [yard.attempt().credential for _ in range(3)]
    assert throttled.credential not in others
    yard.attempt("throttled", rest_s=20.0)
    assert yard.standing() == Standing(20.0, probe=False, reason="resting")
    yard.wait(60.0)
    assert throttled.credential in [yard.attempt().credential for _ in range(2)]


def test_an_overloaded_provider_is_left_alone_whatever_the_account():
    yard = Yard(make_provider(secrets=("s1", "s2")))
    yard.attempt("overloaded", rest_s=9.0)

    assert yard.standing() == Standing(9.0, probe=False, reason="resting")


def test_one_account_out_of_credit_rests_and_the_provider_stays():
    yard = Yard(make_provider(secrets=("s1", "s2")))
    refused = yard.attempt("account")

    assert yard.events == [AccountRested(AT, "alpha", refused.credential.label, 600.0, "their words")]
    assert yard.standing() == READY
    assert {yard.attempt().credential.secret for _ in range(5)} == {"s1", "s2"} - {refused.credential.secret}


def test_when_every_account_rests_the_targets_are_out_with_the_words_of_the_provider():
    yard = Yard(make_provider(secrets=("s1", "s2")))
    yard.attempt("account")
    yard.wait(60.0)
    yard.attempt("account")

    assert yard.standing() == Standing(540.0, probe=False, reason="account", detail="their words")
    assert yard.begin() == NoRoom("account", 540.0)


def test_an_account_comes_back_by_one_probe_and_rests_twice_as_long_if_it_fails(yard):
    yard.attempt("account")
    yard.wait(600.0)
    places = [yard.begin() for _ in range(5)]

    assert [isinstance(one, Started) for one in places] == [True] + [False] * 4
    assert places[1].reason == "probing"
    yard.end(places[0], "account")
    assert yard.standing().ready_in_s == 1200.0
    yard.wait(1200.0)
    yard.attempt("refused")  # says nothing of the account
    yard.attempt()
    assert all(isinstance(yard.begin(), Started) for _ in range(5))


def test_many_at_once_that_find_an_account_out_of_credit_count_as_one(yard):
    places = [yard.begin() for _ in range(16)]
    for place in places:
        yard.end(place, "account")

    assert [one.rest_s for one in yard.events] == [600.0]
    assert yard.standing().ready_in_s == 600.0


def test_an_operator_ends_the_rest_of_an_account(yard):
    yard.attempt("account")

    assert yard.fleet.snapshot().providers[0].accounts == (AccountView("#1", "open", 600.0, "their words", 0),)
    assert not yard.fleet.restore_account("alpha", "#2")
    assert not yard.fleet.restore_account("nobody", "#1")
    assert yard.fleet.restore_account("alpha", "#1")
    assert yard.standing() == READY


def test_credentials_take_turns():
    yard = Yard(make_provider(secrets=("s1", "s2", "s3"), max_concurrency=50))
    together = [yard.begin() for _ in range(6)]
    one_by_one = [yard.attempt().credential.secret for _ in range(6)]

    assert sorted(one.credential.secret for one in together) == ["s1", "s1", "s2", "s2", "s3", "s3"]
    assert sorted(one_by_one) == ["s1", "s1", "s2", "s2", "s3", "s3"]


def test_a_provider_without_a_credential_is_out():
    yard = Yard(make_provider(secrets=()))

    assert yard.standing().reason == "account"
    assert yard.begin() == NoRoom("account", 60.0)
