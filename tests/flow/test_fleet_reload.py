"""The fleet over time: jobs of earlier lives, a changed configuration, and what operators see."""

import asyncio
from dataclasses import replace

import pytest

from router.events import Bus
from router.flow.fleet import Fleet, NoRoom, Started
from router.policy.health import CircuitState
from router.policy.route import FleetView
from router.policy.rules import Credential, Rate
from tests.flow.yard import BREAKER, READY, NoJitter, Wall, Yard, make_provider, make_rules, make_target
from tests.waiting import poll_until


@pytest.fixture
def yard():
    return Yard(make_provider(max_concurrency=500))


# -- earlier lives --------------------------------------------------------------------------------------------------


def test_a_recovered_job_takes_a_place_but_no_token_and_no_probe():
    yard = Yard(make_provider(secrets=("s1", "s2"), max_concurrency=2, rate=Rate(5, 10.0)))
    places = [yard.fleet.resume(yard.provider, yard.target, "#2") for _ in range(3)]

    assert {(one.credential.secret, one.probe) for one in places} == {("s2", False)}
    assert yard.begin() == NoRoom("slots", None)
    yard.end(places[0])
    assert yard.begin() == NoRoom("slots", None)
    yard.end(places[1])
    yard.fleet.release(places[2])
    assert yard.fleet.free(yard.provider) == 2
    assert yard.fleet.wait_s(yard.provider) == 0.0


def test_a_recovered_job_whose_credential_is_gone_is_asked_after_with_another():
    yard, bare = Yard(make_provider()), Yard(make_provider(secrets=()))

    assert yard.fleet.resume(yard.provider, yard.target, "OLD_NAME").credential == Credential("#1", "s1")
    place = bare.fleet.resume(bare.provider, bare.target, "OLD_NAME")
    assert place.credential == Credential("OLD_NAME", "")
    bare.end(place, "account")
    assert bare.fleet.free(bare.provider) == 16


def test_outcomes_of_recovered_jobs_count_like_others(yard):
    for _ in range(3):
        yard.end(yard.fleet.resume(yard.provider, yard.target, "#1"), "lost")

    assert yard.standing().reason == "open"


# -- reload and views -----------------------------------------------------------------------------------------------


def test_a_reload_keeps_what_was_learnt_of_what_stays():
    yard = Yard(make_provider(), make_provider("beta"))
    yard.open()
    out = yard.fleet.begin(make_provider("beta"), make_target("beta"), timeout_s=9.0, repeat=False)
    yard.fleet.adopt(make_rules(make_provider(max_concurrency=1), make_provider("beta", max_concurrency=1)))

    assert yard.standing().reason == "open"
    assert yard.fleet.free(make_provider("beta")) == 0
    yard.fleet.record(out, None, 1.0)
    assert yard.fleet.free(make_provider("beta")) == 1
    assert set(yard.rooms) == {"alpha", "beta"}


def test_a_reload_applies_a_new_breaker_policy():
    yard = Yard(make_provider())
    yard.fleet.adopt(make_rules(make_provider(breaker=replace(BREAKER, consecutive_failures=1))))
    yard.attempt("server_error")

    assert yard.standing().reason == "open"


def test_a_reload_drops_what_went_and_counts_what_is_still_out():
    yard = Yard(make_provider(), make_provider("beta"))
    beta, target = make_provider("beta"), make_target("beta")
    out = yard.fleet.begin(beta, target, timeout_s=9.0, repeat=False)
    yard.open()
    yard.fleet.adopt(make_rules(make_provider("gamma")))
    assert [one.provider for one in yard.fleet.snapshot().targets] == ["gamma"]
    assert [one.name for one in yard.fleet.snapshot().providers] == ["beta", "gamma"]

    yard.fleet.adopt(make_rules(make_provider(), make_provider("beta")))
    assert yard.standing() == READY
    assert yard.fleet.free(beta) == 15
    yard.fleet.record(out, None, 1.0)
    yard.fleet.adopt(make_rules(make_provider()))
    assert [one.name for one in yard.fleet.snapshot().providers] == ["alpha"]


def test_a_new_secret_ends_the_rest_of_its_account_and_of_no_other():
    yard = Yard(make_provider(secrets=("s1", "s2")))
    labels = {yard.attempt("account").credential.label for _ in range(2)}
    yard.fleet.adopt(make_rules(make_provider(secrets=("s2", "new"))))  # s2 moves up, which changes nothing

    accounts = yard.fleet.snapshot().providers[0].accounts
    assert labels == {"#1", "#2"}
    assert [(one.label, one.reason) for one in accounts] == [("#1", "open"), ("#2", None)]
    assert yard.attempt().credential == Credential("#2", "new")


def test_equal_secrets_are_accounts_of_their_own():
    yard = Yard(make_provider(secrets=("same", "same")))
    yard.fleet.adopt(make_rules(make_provider(secrets=("same", "same"))))

    assert {yard.attempt().credential.label for _ in range(4)} == {"#1", "#2"}


def test_a_provider_at_another_address_starts_anew():
    yard = Yard(make_provider())
    yard.open()
    yard.fleet.adopt(make_rules(make_provider(base_url="https://elsewhere.invalid")))

    assert yard.standing() == READY
    assert yard.moves() == [("closed", "open"), ("open", "closed")]


def test_the_median_is_told_from_twenty_successes_on(yard):
    for seconds in range(19):
        yard.attempt(elapsed_s=float(seconds))
    yard.attempt("server_error", elapsed_s=500.0)
    assert yard.fleet.expected_s(yard.provider, yard.target) is None

    yard.attempt(elapsed_s=50.0)
    assert yard.fleet.expected_s(yard.provider, yard.target) == 10.0


def test_a_snapshot_shows_places_states_and_no_secret():
    yard = Yard(make_provider(secrets=("hush-1", "hush-2"), rate=Rate(4, 10.0)))
    yard.open()
    place = yard.fleet.resume(yard.provider, yard.target, "#1")
    seen = yard.fleet.snapshot()

    provider, target = seen.providers[0], seen.targets[0]
    assert (provider.name, provider.in_use, provider.limit, provider.rate_wait_s) == ("alpha", 1, 16, 0.0)
    assert [(one.label, one.in_use) for one in provider.accounts] == [("#1", 1), ("#2", 0)]
    assert (target.provider, target.target, target.model) == ("alpha", "alpha", "picture-1")
    assert (target.state, target.reason, target.ready_in_s, target.in_use) == (CircuitState.OPEN, "open", 30.0, 1)
    assert "hush" not in repr(seen)
    yard.fleet.release(place)


def test_the_fleet_is_what_decisions_look_at(yard):
    view: FleetView = yard.fleet

    assert view.standing(yard.provider, yard.target) == READY
    assert view.may_repeat(yard.provider, yard.target)


async def test_without_timers_of_its_own_it_uses_the_loop():
    loop, rang = asyncio.get_running_loop(), []
    provider = make_provider(rate=Rate(1, 0.1))
    fleet = Fleet(monotonic=loop.time, clock=Wall(), dice=lambda _name: NoJitter(1), bus=Bus())
    fleet.adopt(make_rules(provider))
    fleet.on_room = rang.append
    fleet.begin(provider, make_target(), timeout_s=1.0, repeat=False)

    await poll_until(lambda: rang, "the call for the next token")
    assert isinstance(fleet.begin(provider, make_target(), timeout_s=1.0, repeat=False), Started)
