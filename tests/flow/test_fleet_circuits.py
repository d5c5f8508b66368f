"""Circuits of fleets that share them: what one moves moves everywhere, and one of all may probe."""

import math

import pytest

from router.flow.fleet import NoRoom, Started
from router.leases import CircuitNews, CircuitSeen, CircuitWord, Grant
from router.policy.route import Standing
from tests.flow.company import Company
from tests.flow.yard import READY, Yard, make_provider, make_rules

KEY = ("alpha", "alpha", "picture-1")
OPEN, CLOSED, RETURNED = CircuitWord.OPEN, CircuitWord.CLOSED, CircuitWord.RETURNED
NO_RIGHT = Standing(0.5, probe=False, reason="probing")
PROBE = Standing(0.0, probe=True, reason=None)


@pytest.fixture
def company():
    """Three fleets with places to spare, which know of each other."""
    company = Company(make_provider(max_concurrency=90))
    company.turns(4)
    return company


@pytest.fixture
def yard():
    """A fleet of its own that shares: `turn` is made by hand."""
    return make_yard()


def make_yard():
    yard = Yard(make_provider(), shared=True)
    yard.fleet.grant([Grant("alpha", 16, 0)])
    return yard


def seen(word, left_ms=0, *, openings=1, pinned=False, version=1, epoch=2):
    return CircuitSeen(KEY, word, left_ms, openings, pinned, version, epoch)


def opened(company):
    """The first fleet has opened its circuit, the others have heard of it, and its time is over."""
    company.yards[0].open()
    company.turns()
    company.wait(30.0)


# -- moves ------------------------------------------------------------------------------------------------------------


def test_a_circuit_that_one_opens_is_adopted_by_all(company):
    first, *others = company.yards
    first.open()
    company.wait(4.0)
    company.turns()

    for yard in others:
        assert yard.standing() == Standing(26.0, probe=False, reason="open")
        assert yard.moves() == [("closed", "open")]
        assert yard.begin() == NoRoom("open", 26.0)
        assert yard.fleet.take_news() == ()
    assert first.moves() == [("closed", "open")]


def test_a_probe_that_closes_a_circuit_closes_it_everywhere(company):
    opened(company)
    second = company.yards[1]
    second.standing()
    company.turns()
    second.attempt()
    company.turns(2)

    assert company.states() == ["closed"] * 3
    assert [yard.standing() for yard in company.yards] == [READY] * 3
    assert company.yards[2].rooms[-1] == "alpha"


def test_the_time_doubles_whoever_probes(company):
    opened(company)
    lengths = []
    for number in (1, 2, 0):
        yard = company.yards[number]
        yard.standing()
        company.turn(number)
        yard.attempt("server_error")
        company.turns(2)
        lengths.append([one.standing().ready_in_s for one in company.yards])
        company.wait(lengths[-1][0])

    assert lengths == [[60.0] * 3, [120.0] * 3, [120.0] * 3]


def test_who_started_before_a_move_of_others_does_not_undo_it(company):
    _first, second, _third = company.yards
    early = [second.begin() for _ in range(4)]
    opened(company)
    second.end(early[0])
    second.end(early[1], "server_error")
    assert second.moves() == [("closed", "open")]

    company.yards[0].fleet.reset("alpha", "alpha")
    company.turns()
    for place in early[2:]:
        second.end(place, "server_error")
    second.attempt("server_error")
    assert second.standing() == READY  # two of the three that would open it speak of the past


def test_news_are_the_latest_move_as_it_stands_and_are_told_once(yard):
    yard.fleet.force_close("alpha", "alpha")
    yard.fleet.reset("alpha", "alpha")
    yard.open()
    yard.wait(2.0)

    assert yard.fleet.take_news() == (CircuitNews(KEY, OPEN, 28_000, openings=1, by_hand=True),)
    assert yard.fleet.take_news() == ()


def test_news_that_were_put_back_are_told_as_they_stand_by_then(yard):
    yard.open()
    news = yard.fleet.take_news()
    yard.fleet.put_back(news)
    yard.wait(10.0)
    assert yard.fleet.take_news() == (CircuitNews(KEY, OPEN, 20_000, openings=1),)

    yard.fleet.reset("alpha", "alpha")
    yard.fleet.put_back(news)
    yard.fleet.put_back([CircuitNews(("gone", "gone", "gone"), OPEN)])
    assert yard.fleet.take_news() == (CircuitNews(KEY, CLOSED, 0, by_hand=True),)


def test_a_move_that_is_still_to_be_told_stands_against_the_row_that_it_will_replace(yard):
    yard.open()
    yard.fleet.adopt_circuits([seen(CLOSED, version=7)], epoch=1)

    assert yard.standing().reason == "open"
    assert [one.word for one in yard.fleet.take_news()] == [OPEN]


def test_a_row_is_adopted_once(yard):
    for left_ms in (30_000, 20_000, 10_000):
        yard.fleet.adopt_circuits([seen(OPEN, left_ms)], epoch=1)
    assert yard.standing().ready_in_s == 30.0

    yard.fleet.adopt_circuits([seen(OPEN, 50_000, version=2)], epoch=1)
    yard.fleet.adopt_circuits([seen(OPEN, 70_000, version=3, epoch=1)], epoch=1)  # told by this life itself
    assert yard.standing().ready_in_s == 50.0
    assert yard.moves() == [("closed", "open")]


def test_a_row_that_says_otherwise_is_the_truth_even_if_it_was_seen(yard):
    yard.fleet.adopt_circuits([seen(OPEN, 30_000)], epoch=1)
    yard.fleet.adopt_circuits([seen(CLOSED, epoch=1)], epoch=1)

    assert yard.standing() == READY


def test_a_circuit_that_the_store_has_forgotten_is_told_again(yard):
    yard.open()
    yard.fleet.take_news()
    yard.wait(10.0)
    yard.fleet.adopt_circuits([], epoch=1)

    assert yard.fleet.take_news() == (CircuitNews(KEY, OPEN, 20_000, openings=1),)


def test_circuits_of_targets_that_are_not_known_are_passed_over_until_they_are(yard):
    yard.fleet.adopt(make_rules(make_provider("beta")))
    row = seen(OPEN, 30_000)
    yard.fleet.adopt_circuits([row], epoch=1)
    assert yard.events == []

    yard.fleet.adopt(make_rules(make_provider()))
    yard.fleet.adopt_circuits([row], epoch=1)
    assert yard.standing().reason == "open"


# -- operators --------------------------------------------------------------------------------------------------------


def test_an_operators_pins_and_resets_hold_everywhere(company):
    first, second, third = company.yards
    first.fleet.force_open("alpha", "alpha")
    company.turns()
    assert {yard.standing() for yard in company.yards} == {Standing(math.inf, probe=False, reason="forced_open")}
    assert third.view().is_pinned

    second.fleet.force_close("alpha", "alpha")
    company.turns(2)
    for _ in range(20):
        third.attempt("server_error")
    assert company.states() == ["closed"] * 3

    third.fleet.reset("alpha", "alpha")
    company.turns(2)
    assert [yard.view().is_pinned for yard in company.yards] == [False] * 3
    first.open()
    company.turns()
    assert company.states() == ["open"] * 3


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ("force_open", CircuitNews(KEY, OPEN, None, pinned=True, by_hand=True)),
        ("force_close", CircuitNews(KEY, CLOSED, 0, pinned=True, by_hand=True)),
        ("reset", CircuitNews(KEY, CLOSED, 0, by_hand=True)),
    ],
)
def test_what_an_operator_does_is_told_even_if_it_changes_nothing_here(yard, operation, told):
    for _ in range(2):
        getattr(yard.fleet, operation)("alpha", "alpha")

        assert yard.fleet.take_news() == (told,)


def test_a_pin_is_not_undone_by_what_happens_elsewhere_in_the_same_turn(company):
    first, second, _third = company.yards
    company.turns()
    first.fleet.force_close("alpha", "alpha")
    second.open()
    company.turns(2)

    assert company.states() == ["closed"] * 3
    assert [yard.view().is_pinned for yard in company.yards] == [True] * 3


# -- the right to probe -----------------------------------------------------------------------------------------------


def test_exactly_one_of_three_fleets_gets_to_probe(company):
    opened(company)
    assert [yard.standing() for yard in company.yards] == [NO_RIGHT] * 3
    company.turns()
    answers = [yard.begin() for yard in company.yards for _ in range(50)]

    assert [one.probe for one in answers if isinstance(one, Started)] == [True]
    assert {one.reason for one in answers if isinstance(one, NoRoom)} == {"probing"}
    company.turns(3)
    assert not any(isinstance(yard.begin(), Started) for yard in company.yards)


def test_without_the_right_nobody_probes_and_the_wait_is_short(yard):
    yard.open()
    yard.fleet.take_news()
    yard.wait(30.0)

    assert yard.begin() == NoRoom("probing", 0.5)
    assert yard.standing() == NO_RIGHT
    assert (yard.view().reason, yard.moves()) == ("probing", [("closed", "open")])


def test_the_right_is_asked_for_when_a_task_has_met_the_circuit_and_its_time_is_over(yard):
    yard.open()
    yard.standing()
    assert yard.fleet.probes_wanted() == ()  # its time is not over
    yard.wait(30.0)
    yard.view()
    assert yard.fleet.probes_wanted() == ()  # nobody needs it
    yard.begin(timeout_s=60.0)
    assert yard.fleet.probes_wanted() == ()  # the store does not know yet that it is open
    yard.fleet.take_news()

    assert yard.fleet.probes_wanted() == ((KEY, 2_820_000),)
    yard.begin(timeout_s=4_000.0)
    assert yard.fleet.probes_wanted() == ((KEY, 5_020_000),)
    yard.wait(600.0)
    assert len(yard.fleet.probes_wanted()) == 1
    yard.wait(1.0)
    assert yard.fleet.probes_wanted() == ()


def test_who_waits_long_looks_seldom_and_finds_the_right_that_came_meanwhile(yard):
    """Another daemon's probe takes its time: a long queue must not spend that time on looking."""
    yard.open()
    yard.fleet.take_news()
    yard.wait(30.0)
    waits = []
    for _ in range(30):
        waits.append(yard.standing().ready_in_s)
        yard.wait(waits[-1])
    assert waits[:4] == [0.5] * 4
    assert waits == sorted(waits)
    assert (waits[-1], len(yard.fleet.probes_wanted())) == (15.0, 1)

    yard.fleet.allow_probe(KEY, 2_820.0)
    yard.wait(15.0)
    assert yard.standing() == PROBE


def wishing(yard):
    """A task waits for the right to probe, which the others know to be due."""
    yard.open()
    yard.fleet.take_news()
    yard.wait(30.0)
    yard.standing()
    return yard


def test_a_right_allows_one_probe(yard):
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    assert yard.standing() == PROBE
    assert yard.fleet.probes_wanted() == ()

    assert yard.begin().probe
    assert yard.begin().reason == "probing"
    yard.wait(20.0)
    assert yard.fleet.take_news() == ()  # what was used does not go back


def test_a_start_that_is_refused_for_want_of_a_place_uses_up_no_right(yard):
    held = [yard.begin() for _ in range(13)]
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    more = [yard.fleet.resume(yard.provider, yard.target, "#1") for _ in range(3)]
    assert yard.begin() == NoRoom("slots", None)

    yard.fleet.release(held[0])
    assert yard.begin().probe
    assert len(more) == 3


@pytest.mark.parametrize("end", ["refused", "bad_request", "release"])
def test_a_probe_that_says_nothing_hands_its_right_to_any_other(company, end):
    opened(company)
    for yard in company.yards:
        yard.standing()
    company.turns()
    place = company.yards[0].begin()
    if end == "release":
        company.yards[0].fleet.release(place)
    else:
        company.yards[0].end(place, end)
    assert company.yards[0].standing() == NO_RIGHT
    company.turns()

    assert [yard.standing() == PROBE for yard in company.yards].count(True) == 1
    assert company.states()[1:] == ["open", "open"]


def test_only_the_probe_hands_a_right_back(yard):
    early = yard.begin()
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    probe = yard.begin()
    yard.fleet.release(early)
    assert yard.fleet.take_news() == ()

    yard.fleet.release(probe)
    assert yard.fleet.take_news() == (CircuitNews(KEY, RETURNED),)


def test_a_right_that_nobody_uses_goes_back_and_round():
    company = Company(make_provider(max_concurrency=90), lives=2)
    company.turns(3)
    opened(company)
    first, second = company.yards
    first.standing()
    company.turn(0)
    assert first.standing() == PROBE
    company.wait(4.0)
    assert second.standing() == NO_RIGHT
    company.turn(1)
    assert second.standing() == NO_RIGHT

    company.wait(1.5)
    assert first.view().reason == "probing"  # kept until the task should have looked again and longer: nobody came
    company.turn(0)
    company.turn(1)
    assert second.standing() == PROBE
    company.wait(5.5)
    company.turn(1)
    company.turn(0)
    assert first.standing() == PROBE  # nobody came here since, and the next may be late


def test_who_needs_the_right_again_need_not_pause(yard):
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    yard.wait(5.5)
    assert yard.fleet.take_news() == (CircuitNews(KEY, RETURNED),)
    yard.wait(1.0)
    assert yard.fleet.probes_wanted() == ()

    yard.standing()
    assert len(yard.fleet.probes_wanted()) == 1


def test_a_right_ends_with_its_lease(yard):
    wishing(yard).fleet.allow_probe(KEY, 2.0)
    yard.wait(2.0)

    assert yard.begin().reason == "probing"
    assert yard.fleet.take_news() == (CircuitNews(KEY, RETURNED),)


def test_a_probe_is_awaited_no_longer_than_the_right_was_leased(yard):
    wishing(yard).fleet.allow_probe(KEY, 90.0)
    yard.begin(timeout_s=60.0)
    yard.wait(89.0)
    yard.standing()
    assert yard.fleet.probes_wanted() == ()

    yard.wait(1.0)
    assert yard.begin() == NoRoom("probing", 0.5)
    assert len(yard.fleet.probes_wanted()) == 1


def test_a_lapse_takes_the_right_away(yard):
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.lapse()

    assert yard.standing() == NO_RIGHT
    assert yard.fleet.take_news() == (CircuitNews(KEY, RETURNED),)


def test_a_right_that_comes_too_late_goes_back(yard):
    wishing(yard)
    yard.fleet.adopt_circuits([seen(CLOSED)], epoch=1)
    yard.fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.allow_probe(("alpha", "gone", "gone"), 2_820.0)

    assert yard.standing() == READY
    told = yard.fleet.take_news()
    assert {(one.key[1], one.word) for one in told} == {("alpha", RETURNED), ("gone", RETURNED)}


def test_a_right_that_was_leased_again_is_not_handed_back_late(yard):
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.release(yard.begin())
    news = yard.fleet.take_news()
    yard.standing()
    yard.fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.put_back(news)
    assert yard.fleet.take_news() == ()

    yard.fleet.release(yard.begin())
    yard.standing()
    yard.fleet.allow_probe(KEY, 2_820.0)
    assert yard.fleet.take_news() == ()
    assert yard.standing() == PROBE


def test_a_move_ends_a_right_and_stands_for_its_return(yard):
    wishing(yard).fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.adopt_circuits([seen(OPEN, 30_000)], epoch=1)
    yard.wait(30.0)
    assert yard.standing() == NO_RIGHT
    assert yard.fleet.take_news() == ()

    yard.fleet.allow_probe(KEY, 2_820.0)
    yard.fleet.release(yard.begin())
    yard.fleet.reset("alpha", "alpha")
    assert yard.fleet.take_news() == (CircuitNews(KEY, CLOSED, 0, by_hand=True),)


def test_a_target_that_a_reload_drops_hands_its_right_back_and_tells_how_its_probe_ended():
    unused, used = wishing(make_yard()), wishing(make_yard())
    for yard in (unused, used):
        yard.fleet.allow_probe(KEY, 2_820.0)
    probe = used.begin()
    for yard in (unused, used):
        yard.fleet.adopt(make_rules(make_provider("beta")))
    used.end(probe)

    assert unused.fleet.take_news() == (CircuitNews(KEY, RETURNED),)
    assert used.fleet.take_news() == (CircuitNews(KEY, CLOSED, 0, openings=1),)
