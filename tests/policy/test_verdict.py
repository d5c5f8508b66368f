"""Verdicts: how long a task waits, who goes, in which words it fails; test_verdict_walk has every case of `after`."""

from dataclasses import replace

import pytest

from router.outcome import Billed, Ejects, FailureKind, fail
from router.policy.route import Standing, Try, plan
from router.policy.rules import Retry
from router.policy.verdict import (
    Again,
    Elsewhere,
    GiveUp,
    Go,
    Hold,
    after,
    before,
    billing_of,
    error_of,
    over_budget,
)
from router.provider import Abilities, Kind
from router.task import Preferences
from tests.policy.rulebook import (
    CENT,
    KINDS,
    NO_WISHES,
    NOON,
    PICTURE,
    Yard,
    out_for,
    provider,
    rule,
    ruleset,
    target,
    tried,
)

HALF = 0.5

# -- waiting --------------------------------------------------------------------------------------------------------


def verdict_of(history, standings=None, *, retry=None, names="ab", kind=FailureKind.OVERLOADED, jitter=HALF):
    rules = ruleset(rule(*(target(name) for name in names), retry=retry or Retry(total=99, per_target=50)))
    made = plan(PICTURE, NO_WISHES, rules, Yard(standings or {}), now=NOON, task_id="t", history=history)
    return after(fail(kind, "words"), history, made, jitter)


OVER = {name: tried(name, FailureKind.OVERLOADED) for name in "abc"}


@pytest.mark.parametrize(
    ("history", "names", "standings", "expected"),
    [
        # straight on to an untried target that is ready; never back to one that was tried
        ("a", "ab", {}, Elsewhere()),
        ("a", "abc", {"b": out_for(30)}, Elsewhere()),
        # all tried: full jitter over first x 2^round
        ("a", "a", {}, Again(0.25)),
        ("ab", "ab", {}, Again(0.25)),
        ("aba", "ab", {}, Again(0.25)),
        ("abab", "ab", {}, Again(0.5)),
        ("aaaa", "a", {}, Again(2.0)),
        ("a" * 9, "a", {}, Again(4.0)),
        ("a" * 40, "a", {}, Again(4.0)),
        # an untried target that is out does not hurry or hold up the round
        ("a", "ab", {"b": out_for(30)}, Again(0.25)),
        ("aaa", "ab", {"b": out_for(30)}, Again(1.0)),
        # everybody is out: until the first is back, with the backoff as the least
        ("ab", "ab", {"a": out_for(9), "b": out_for(7)}, Again(7)),
        ("a", "ab", {"a": out_for(9), "b": out_for(7)}, Again(7)),
        ("ab", "ab", {"a": out_for(9), "b": out_for(0.1)}, Again(0.25)),
        ("a", "a", {"a": out_for(0.1, "probing")}, Again(0.25)),
        # but a rest that the upstream asked for is kept to the letter
        ("ab", "ab", {"a": out_for(9, "resting"), "b": out_for(7, "resting")}, Again(7)),
        ("a", "a", {"a": out_for(0.1, "resting")}, Again(0.1)),
        ("ab", "ab", {"a": out_for(0.1, "resting"), "b": out_for(9)}, Again(0.1)),
        ("ab", "ab", {"a": out_for(9, "resting")}, Again(0.25)),
    ],
)
def test_a_task_waits_only_when_all_have_been_tried_and_for_the_first_that_is_back(history, names, standings, expected):
    assert verdict_of(tuple(OVER[name] for name in history), standings, names=names) == expected


def test_the_backoff_is_anywhere_between_nothing_and_its_ceiling():
    assert verdict_of((OVER["a"],), names="a", jitter=0.0) == Again(0.0)
    assert verdict_of((OVER["a"],), names="a", jitter=0.999) == Again(0.999 * 0.5)


@pytest.mark.parametrize(("total", "expected"), [(1, GiveUp), (2, GiveUp), (3, Elsewhere)])
def test_total_bounds_the_attempts_of_a_task_the_first_included(total, expected):
    verdict = verdict_of((OVER["a"], OVER["b"]), retry=Retry(total=total), names="abc")

    assert type(verdict) is expected


def test_per_target_bounds_the_repeats_of_one_target():
    retry = Retry(per_target=2, total=99)

    assert type(verdict_of((OVER["a"],) * 2, retry=retry, names="a")) is Again
    assert type(verdict_of((OVER["a"],) * 3, retry=retry, names="a")) is GiveUp


def test_a_refused_account_with_another_credential_is_tried_again_and_without_one_ends_in_the_providers_words():
    history = (tried("a", FailureKind.ACCOUNT),)
    spent = {"a": Standing(600, probe=False, reason="account", detail="insufficient_quota")}

    assert verdict_of(history, names="a", kind=FailureKind.ACCOUNT) == Again(0.25)
    given_up = verdict_of(history, spent, names="a", kind=FailureKind.ACCOUNT)
    assert given_up.error.error_type == "provider_error"
    assert "words" in given_up.error.message


# -- before an attempt ------------------------------------------------------------------------------------------------


def asked(*targets, preferences=NO_WISHES, standings=None, history=(), shape=PICTURE, retry=None, **facts):
    credentials = facts.pop("credentials", {})
    accounts = [provider(name, credentials=count) for name, count in credentials.items()]
    rules = ruleset(rule(*targets, retry=retry), providers=accounts)
    made = plan(shape, preferences, rules, Yard(standings or {}), now=NOON, task_id="t", history=history, **facts)
    return before(made, history)


A, B = target("a"), target("b")
ACCOUNT = Standing(600, probe=False, reason="account", detail="insufficient_quota")
FORCED = out_for(0, "forced_open")
ONLY_SQUARES = replace(A, abilities=Abilities(frozenset({Kind.IMAGE_GENERATION}), fields=frozenset({"prompt"})))
NONE_AT_A_TIME = replace(A, abilities=replace(A.abilities, max_n=0))
UNPRICED = replace(A, price=None)


def test_the_first_candidate_that_is_ready_goes():
    assert asked(A, B).candidate.target is A
    assert asked(A, B, standings={"a": out_for(30)}).candidate.target is B
    assert asked(A, B, history=(OVER["a"],)).candidate.target is B
    assert asked(A, B, history=(OVER["a"],), standings={"b": out_for(30)}).candidate.target is A
    assert asked(A, standings={"a": Standing(0, probe=True, reason=None)}).candidate.probe


def test_when_all_are_out_the_task_is_held_until_the_first_is_back():
    assert asked(A, B, standings={"a": out_for(30), "b": out_for(4, "resting")}) == Hold(4)


@pytest.mark.parametrize(
    ("facts", "error_type", "code", "param", "word"),
    [
        # for reasons of the request: 400, and the field is named
        ({"of": [ONLY_SQUARES]}, "invalid_request", "invalid_request", "size", "1024x1024"),
        ({"of": [NONE_AT_A_TIME]}, "invalid_request", "invalid_request", "n", "none"),
        (
            {"of": [A], "shape": replace(PICTURE, kind=Kind.IMAGE_EDIT)},
            "invalid_request",
            "invalid_request",
            "model",
            "edit",
        ),
        (
            {"of": [ONLY_SQUARES], "shape": replace(PICTURE, size=None, fields=frozenset({"seconds"}))},
            "invalid_request",
            "invalid_request",
            "seconds",
            "seconds",
        ),
        (
            {"of": [A], "preferences": Preferences(only=("ghost",))},
            "invalid_request",
            "invalid_request",
            "provider.only",
            "",
        ),
        (
            {"of": [A], "preferences": Preferences(ignore=("a",))},
            "invalid_request",
            "invalid_request",
            "provider.ignore",
            "",
        ),
        # the target that came nearest names the field
        (
            {"of": [ONLY_SQUARES, B], "preferences": Preferences(ignore=("b",))},
            "invalid_request",
            "invalid_request",
            "size",
            "",
        ),
        # price
        (
            {"of": [A], "preferences": Preferences(max_price={"task": CENT})},
            "price_ceiling",
            "price_ceiling",
            "provider.max_price",
            "0.01",
        ),
        (
            {"of": [UNPRICED], "preferences": Preferences(max_price={"task": CENT})},
            "price_ceiling",
            "price_unknown",
            "provider.max_price",
            "",
        ),
        ({"of": [UNPRICED], "priced_only": True}, "price_ceiling", "price_unknown", None, ""),
        (
            {"of": [UNPRICED, B], "preferences": Preferences(max_price={"task": CENT})},
            "price_ceiling",
            "price_ceiling",
            "provider.max_price",
            "",
        ),
        (
            {"of": [ONLY_SQUARES, replace(B, price=None)], "priced_only": True},
            "price_ceiling",
            "price_unknown",
            None,
            "",
        ),
        # reasons of the moment
        ({"of": [A, B], "barred": frozenset({"a", "b"})}, "budget_exceeded", "budget_exceeded", None, "budget"),
        ({"of": [A], "standings": {"a": ACCOUNT}}, "provider_error", "provider_error", None, "insufficient_quota"),
        ({"of": [A, ONLY_SQUARES], "standings": {"a": ACCOUNT}}, "provider_error", "provider_error", None, ""),
        ({"of": [A], "standings": {"a": FORCED}}, "no_provider_available", "no_provider_available", None, ""),
        (
            {"of": [A, B], "standings": {"a": ACCOUNT, "b": FORCED}},
            "no_provider_available",
            "no_provider_available",
            None,
            "",
        ),
        (
            {"of": [A, B], "standings": {"a": ACCOUNT}, "barred": frozenset({"b"})},
            "no_provider_available",
            "no_provider_available",
            None,
            "",
        ),
        (
            {"of": [A, B], "standings": {"a": ACCOUNT}, "preferences": Preferences(allow_fallbacks=False)},
            "provider_error",
            "provider_error",
            None,
            "",
        ),
        ({"of": [A], "credentials": {"a": 0}}, "no_provider_available", "no_provider_available", None, "credential"),
        (
            {"of": [A, B], "credentials": {"a": 0}, "standings": {"b": ACCOUNT}},
            "provider_error",
            "provider_error",
            None,
            "",
        ),
        (
            {"of": [ONLY_SQUARES, B], "credentials": {"b": 0}},
            "no_provider_available",
            "no_provider_available",
            None,
            "",
        ),
        ({"of": [], "shape": replace(PICTURE, model="ghost")}, "model_not_found", "model_not_found", "model", "ghost"),
    ],
)
def test_a_task_with_no_candidate_fails_for_the_right_reason(facts, error_type, code, param, word):
    given = dict(facts)
    verdict = asked(*given.pop("of"), **given)

    assert isinstance(verdict, GiveUp)
    error = verdict.error
    assert (error.error_type, error.code, error.param) == (error_type, code, param)
    assert error.billing is Billed.NO
    assert word in error.message
    assert "nothing was billed" in error.message


def test_only_what_may_pass_by_itself_is_called_retryable():
    assert asked(A, standings={"a": FORCED}).error.retryable
    assert not asked(A, standings={"a": ACCOUNT}).error.retryable
    assert not asked(A, credentials={"a": 0}).error.retryable
    assert not asked(ONLY_SQUARES).error.retryable


def test_a_task_whose_last_target_vanished_between_attempts_fails_with_what_it_met_and_its_bill():
    history = (tried("a", FailureKind.JOB_FAILED, Billed.YES),)

    verdict = asked(A, history=history, standings={"a": FORCED})

    assert verdict.error.error_type == "provider_error"
    assert verdict.error.billing is Billed.YES
    assert "money was spent" in verdict.error.message


def test_a_total_that_was_lowered_between_attempts_is_kept():
    verdict = asked(A, B, history=(OVER["a"],), retry=Retry(total=1))

    assert verdict.error.error_type == "provider_error"
    assert isinstance(asked(A, B, history=(OVER["a"],), retry=Retry(total=2)), Go)


# -- words ------------------------------------------------------------------------------------------------------------


def told(kind, history=None, **facts):
    failure = fail(kind, facts.pop("detail", "its own words"), **facts)
    history = history or (Try("a", kind, failure.billed),)
    made = plan(PICTURE, NO_WISHES, ruleset(rule(A)), Yard(), now=NOON, task_id="t", history=history)
    return error_of(failure, history, made)


def test_each_error_says_in_one_sentence_what_happened_where_and_what_it_cost():
    assert (
        told(FailureKind.OVERLOADED, http_status=503).message == "a is overloaded (its own words); nothing was billed."
    )
    assert told(FailureKind.UNSENT, detail="").message == "a could not be reached; nothing was billed."
    assert told(FailureKind.UNUSABLE).message.endswith("; money was spent.")
    assert told(FailureKind.UNKNOWN).message.endswith("; money may have been spent.")
    several = told(FailureKind.OVERLOADED, history=(OVER["a"], OVER["b"]))
    assert several.message == "b is overloaded after 2 attempts (its own words); nothing was billed."
    assert len({told(kind).message for kind in KINDS}) == len(KINDS)


def test_codes_are_finer_than_types_where_the_contract_has_a_word():
    assert (told(FailureKind.REFUSED).error_type, told(FailureKind.REFUSED).code) == (
        "content_refused",
        "moderation_blocked",
    )
    assert (told(FailureKind.RESULT_LOST).error_type, told(FailureKind.RESULT_LOST).code) == (
        "provider_error",
        "result_lost",
    )


def test_a_field_at_fault_is_named_and_only_where_it_is_the_callers():
    assert told(FailureKind.BAD_REQUEST, param="size").param == "size"
    assert told(FailureKind.BAD_REQUEST).param is None
    unsupported = told(FailureKind.UNSUPPORTED, param="quality")
    assert (unsupported.error_type, unsupported.param) == ("invalid_request", "quality")
    assert told(FailureKind.UNSUPPORTED).error_type == "provider_error"
    no_such_model = told(FailureKind.UNSUPPORTED, param="model", ejects=Ejects.TARGET)
    assert (no_such_model.error_type, no_such_model.param) == ("provider_error", None)
    assert told(FailureKind.OVERLOADED, param="size").param is None


def test_a_timeout_whose_bill_is_known_is_a_timeout_and_otherwise_the_outcome_is_unknown():
    assert told(FailureKind.UNKNOWN, billed=Billed.YES).error_type == "provider_timeout"
    assert told(FailureKind.UNKNOWN, billed=Billed.NO).error_type == "provider_timeout"
    assert told(FailureKind.UNKNOWN).error_type == "outcome_unknown"


def test_details_can_be_branched_on():
    assert told(FailureKind.OVERLOADED, http_status=503).details == {
        "outcome": "overloaded",
        "target": "a",
        "http_status": 503,
        "attempts": 1,
    }


@pytest.mark.parametrize(
    ("bills", "expected"),
    [
        ((), Billed.NO),
        ((Billed.NO, Billed.NO), Billed.NO),
        ((Billed.NO, Billed.YES), Billed.YES),
        ((Billed.UNKNOWN, Billed.YES), Billed.UNKNOWN),
        ((Billed.YES, Billed.UNKNOWN, Billed.NO), Billed.UNKNOWN),
    ],
)
def test_the_bill_of_a_task_is_unknown_if_any_is_else_billed_if_any_is(bills, expected):
    history = tuple(Try("a", FailureKind.OVERLOADED, billed) for billed in bills)

    assert billing_of(history) is expected
    if history:
        assert told(FailureKind.OVERLOADED, history=history).billing is expected


def test_a_full_budget_says_which_and_what_is_left():
    error = over_budget("tenant:acme", "day:2026-11-21", 2 * CENT)

    assert (error.error_type, error.code, error.billing, error.retryable) == (
        "budget_exceeded",
        "budget_exceeded",
        Billed.NO,
        False,
    )
    assert error.details == {"budget": "tenant:acme", "window": "day:2026-11-21", "left_usd": "0.02"}
    assert "0.02 USD left" in error.message
