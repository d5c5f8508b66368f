"""Plans: the order of candidates under every strategy and wish, every exclusion, and what a history permits.

What a target could do at all is tested in test_fit, one failure in test_retry, the `when` keys in test_match; here they
meet the moment and the history.
"""

import json
from collections import Counter
from dataclasses import replace

import pytest

from router.outcome import Billed, FailureKind
from router.policy.route import (
    Reason,
    Standing,
    TrackRecord,
    UnknownModel,
    dropped_fields,
    explain,
    plan,
    reconstruct,
)
from router.policy.rules import OnFailure, Origin, Retry, RetryUnknown, Strategy, When
from router.provider import Abilities, Kind
from router.task import Preferences, Priority
from tests.policy.rulebook import (
    CENT,
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

A, B, C = target("a", cents=5), target("b", cents=3), target("c", cents=4)
ORDERED = ruleset(rule(A, B, C))
CHEAPEST = ruleset(rule(A, B, C, strategy=Strategy.CHEAPEST))
THEN_CHEAPEST = ruleset(rule(A, C, B, on_failure=OnFailure.CHEAPEST))
OVERLOADED = tried("a", FailureKind.OVERLOADED)
SIZELESS = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), fields=frozenset({"prompt"}))
REMIXING = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), max_n=10, remixes=True)


def make_plan(rules=ORDERED, preferences=NO_WISHES, fleet=None, shape=PICTURE, **given_facts):
    return plan(shape, preferences, rules, fleet or Yard(), **{"now": NOON, "task_id": "task_1", **given_facts})


def names(made):
    return [one.target.name for one in made.candidates]


def reasons(made):
    return {one.target: one.reason.value for one in made.excluded}


# -- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "preferences", "expected"),
    [
        (ORDERED, NO_WISHES, "abc"),
        (CHEAPEST, NO_WISHES, "bca"),
        (ruleset(rule(target("u", cents=None), A, B, strategy=Strategy.CHEAPEST)), NO_WISHES, "bau"),
        (ruleset(rule(target("x"), B, target("y"), strategy=Strategy.CHEAPEST)), NO_WISHES, "bxy"),
        (ORDERED, Preferences(order=("c", "a")), "cab"),
        (ORDERED, Preferences(order=("ghost", "b")), "bac"),
        (CHEAPEST, Preferences(order=("a",)), "abc"),
        (ORDERED, Preferences(sort="price"), "bca"),
        (ORDERED, Preferences(order=("a",), sort="price"), "abc"),
        (ORDERED, Preferences(sort="latency"), "abc"),
        (ORDERED, Preferences(only=("c", "a", "ghost")), "ac"),
        (ORDERED, Preferences(ignore=("a", "ghost")), "bc"),
        (ORDERED, Preferences(allow_fallbacks=False), "a"),
        (CHEAPEST, Preferences(allow_fallbacks=False), "b"),
        (ORDERED, Preferences(order=("c",), allow_fallbacks=False), "c"),
        (ORDERED, Preferences(ignore=("a",), allow_fallbacks=False), "b"),
    ],
)
def test_candidates_come_in_the_order_of_the_strategy_or_of_the_request(rules, preferences, expected):
    assert "".join(names(make_plan(rules, preferences))) == expected


def test_the_order_of_a_request_takes_the_name_of_a_provider_for_all_its_targets():
    rules = ruleset(rule(A, target("p1", at="acme"), B, target("p2", at="acme")))

    assert names(make_plan(rules, Preferences(order=("acme", "b")))) == ["p1", "p2", "b", "a"]


def test_weighted_shares_follow_the_weights_within_two_percent():
    weights = {"a": 6, "b": 3, "c": 1}
    rules = ruleset(
        rule(*(target(name, weight=weight) for name, weight in weights.items()), strategy=Strategy.WEIGHTED)
    )

    made = [names(make_plan(rules, task_id=f"task_{n:032x}")) for n in range(10_000)]

    first = Counter(order[0] for order in made)
    assert all(abs(first[name] / 10_000 - weight / 10) < 0.02 for name, weight in weights.items())
    second = Counter(order[1] for order in made if order[0] == "a")
    assert abs(second["b"] / second.total() - 3 / 4) < 0.02


def test_weighted_keeps_the_order_of_a_task_whatever_else_is_asked():
    rules = ruleset(rule(A, B, C, strategy=Strategy.WEIGHTED))
    for task_id in ("task_1", "task_2", "task_3"):
        whole = names(make_plan(rules, task_id=task_id))

        assert names(make_plan(rules, task_id=task_id, now=NOON + 1, shape=replace(PICTURE, n=2))) == whole
        without = [name for name in whole if name != "b"]
        assert names(make_plan(rules, Preferences(ignore=("b",)), task_id=task_id)) == without


def test_a_weight_of_zero_is_taken_last():
    rules = ruleset(rule(target("zero", weight=0), A, B, strategy=Strategy.WEIGHTED))

    assert {names(make_plan(rules, task_id=str(n)))[-1] for n in range(50)} == {"zero"}


# -- after a failure, while the first is out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standings", "history", "preferences", "expected"),
    [
        ({}, (), NO_WISHES, "acb"),
        ({"a": out_for(30)}, (), NO_WISHES, "bca"),
        ({"a": out_for(2, "resting")}, (), NO_WISHES, "bca"),
        ({"a": out_for(0, "account")}, (), NO_WISHES, "bc"),
        ({"c": out_for(30)}, (), NO_WISHES, "acb"),
        ({}, (OVERLOADED,), NO_WISHES, "bca"),
        ({}, (OVERLOADED, tried("b", FailureKind.UNSENT)), NO_WISHES, "cab"),
        ({}, (OVERLOADED,), Preferences(order=("c",)), "cba"),
        ({}, (OVERLOADED,), Preferences(sort="price"), "bca"),
    ],
)
def test_on_failure_cheapest_takes_the_untried_by_price(standings, history, preferences, expected):
    assert "".join(names(make_plan(THEN_CHEAPEST, preferences, Yard(standings), history=history))) == expected


def test_on_failure_next_keeps_the_order():
    assert names(make_plan(fleet=Yard({"a": out_for(30)}))) == ["a", "b", "c"]
    assert names(make_plan(history=(OVERLOADED,))) == ["b", "c", "a"]


def test_a_budget_that_bars_the_first_counts_as_the_first_being_out():
    assert names(make_plan(THEN_CHEAPEST, barred=frozenset({"a"}))) == ["b", "c"]


def test_a_target_that_is_out_for_a_while_stays_a_candidate_and_says_when_it_is_ready():
    made = make_plan(
        fleet=Yard({"a": out_for(30), "b": Standing(0.0, probe=True, reason=None), "c": out_for(-1, "resting")})
    )

    assert [(one.ready_in_s, one.probe, one.reason) for one in made.candidates] == [
        (30, False, "open"),
        (0.0, True, None),
        (0.0, False, "resting"),
    ]
    assert made.excluded == ()


def test_the_round_begins_with_the_target_that_was_tried_least():
    history = (OVERLOADED, tried("b", FailureKind.UNSENT), OVERLOADED)

    made = make_plan(ruleset(rule(A, B)), history=history)

    assert [(one.target.name, one.tries) for one in made.candidates] == [("b", 1), ("a", 2)]


# -- exclusions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"preferences": Preferences(only=("b",))}, "not_in_only"),
        ({"preferences": Preferences(ignore=("a",))}, "ignored"),
        ({"rules": ruleset(rule(replace(A, abilities=replace(A.abilities, kinds=frozenset())), B))}, "kind"),
        ({"rules": ruleset(rule(replace(A, abilities=SIZELESS), B))}, "size"),
        ({"rules": ruleset(rule(replace(A, abilities=replace(A.abilities, max_n=0)), B))}, "count"),
        (
            {
                "rules": ruleset(rule(replace(A, abilities=replace(A.abilities, seconds=frozenset({4}))), B)),
                "shape": replace(PICTURE, seconds=5),
            },
            "seconds",
        ),
        (
            {
                "rules": ruleset(rule(A, replace(B, abilities=replace(B.abilities, max_images=1)))),
                "shape": replace(PICTURE, images=1),
            },
            "input",
        ),
        (
            {
                "rules": ruleset(rule(replace(A, abilities=SIZELESS), B)),
                "shape": replace(PICTURE, size=None, fields=frozenset({"seconds"})),
            },
            "unsupported",
        ),
        ({"rules": ruleset(rule(replace(A, price=None), B)), "priced_only": True}, "price_unknown"),
        ({"preferences": Preferences(max_price={"task": 4 * CENT})}, "max_price"),
        ({"rules": ruleset(rule(A, B), providers=[provider("a", credentials=0)])}, "no_credential"),
        ({"preferences": Preferences(order=("b",), allow_fallbacks=False)}, "not_first"),
        ({"barred": frozenset({"a"})}, "budget"),
        ({"fleet": Yard({"a": Standing(600, probe=False, reason="account", detail="insufficient_quota")})}, "account"),
        ({"fleet": Yard({"a": out_for(0, "forced_open")})}, "forced_open"),
        ({"history": (tried("a", FailureKind.UNSUPPORTED),)}, "tried"),
        (
            {
                "rules": ruleset(rule(A, replace(B, abilities=REMIXING))),
                "shape": replace(PICTURE, origin=Origin("b", "b", "b-model")),
            },
            "not_origin",
        ),
    ],
)
def test_every_exclusion_has_its_word(facts, reason):
    made = make_plan(**facts)

    assert reasons(made)["a"] == reason
    assert "a" not in names(made)
    assert "b" in names(made)
    assert next(one.detail for one in made.excluded if one.target == "a")


def test_all_words_for_exclusions_are_covered_above():
    table = test_every_exclusion_has_its_word.pytestmark[0].args[1]

    # Who cannot remix what he made has nobody beside him: that word has a test of its own, below.
    assert {word for _facts, word in table} | {"remix"} == {reason.value for reason in Reason}


# -- remixes ----------------------------------------------------------------------------------------------------------


def remix_of(maker):
    return replace(PICTURE, origin=Origin(maker, maker, f"{maker}-model"))


def test_a_remix_has_the_maker_of_the_film_for_its_only_candidate():
    able = [replace(one, abilities=REMIXING) for one in (A, B)]

    made = make_plan(ruleset(rule(*able)), shape=remix_of("b"))
    assert (names(made), reasons(made)) == (["b"], {"a": "not_origin"})
    others = replace(PICTURE, origin=Origin("b", "b", "another-model"))
    assert names(make_plan(ruleset(rule(*able)), shape=others)) == []


def test_a_maker_that_cannot_remix_leaves_nobody():
    made = make_plan(ruleset(rule(A, B)), shape=remix_of("b"))

    assert (names(made), reasons(made)) == ([], {"a": "not_origin", "b": "remix"})


def test_the_maker_of_a_film_is_found_in_another_rule():
    only_a = rule(replace(A, abilities=REMIXING), number=1, when=When(size=("1024x1024",)))

    made = make_plan(ruleset(rule(replace(B, abilities=REMIXING)), only_a), shape=remix_of("b"))
    assert names(made) == ["b"]


def test_an_exclusion_for_the_account_carries_the_providers_words():
    made = make_plan(fleet=Yard({"b": Standing(600, probe=False, reason="account", detail="insufficient_quota")}))

    assert [(one.target, one.detail) for one in made.excluded] == [("b", "insufficient_quota")]


def test_the_first_of_a_request_without_fallbacks_stays_the_first_when_it_cannot_be_taken():
    lonely = Preferences(allow_fallbacks=False)

    for facts in (
        {"history": (tried("a", FailureKind.UNSUPPORTED),)},
        {"barred": frozenset({"a"})},
        {"fleet": Yard({"a": out_for(0, "account")})},
    ):
        made = make_plan(preferences=lonely, **facts)
        assert names(made) == []
        assert reasons(made)["b"] == reasons(made)["c"] == "not_first"
    assert names(make_plan(preferences=lonely, history=(OVERLOADED,))) == ["a"]


# -- history ----------------------------------------------------------------------------------------------------------

ALWAYS = Retry(retry_unknown=RetryUnknown.ALWAYS)
IF_IDEMPOTENT = Retry(retry_unknown=RetryUnknown.IF_IDEMPOTENT)
KEYED = provider("a", idempotent=True)
UNKNOWN = tried("a", FailureKind.UNKNOWN)


@pytest.mark.parametrize(
    ("retry", "providers", "history", "expected"),
    [
        # an unknown outcome bars everything, also when it is known to be billed, and stays in the way for ever
        (Retry(), [], (UNKNOWN,), ""),
        (Retry(), [], (tried("a", FailureKind.UNKNOWN, Billed.YES),), ""),
        (Retry(), [], (tried("a", FailureKind.LOST),), ""),
        (ALWAYS, [], (UNKNOWN,), "ba"),
        (ALWAYS, [], (UNKNOWN, tried("b", FailureKind.LOST)), "ab"),
        (IF_IDEMPOTENT, [], (UNKNOWN,), ""),
        (IF_IDEMPOTENT, [KEYED], (UNKNOWN,), "a"),
        (IF_IDEMPOTENT, [KEYED], (UNKNOWN, OVERLOADED), "a"),
        # the provider's own setting overrides the rule's, for attempts made there
        (Retry(), [provider("a", retry_unknown=RetryUnknown.ALWAYS)], (UNKNOWN,), "ba"),
        (ALWAYS, [provider("a", retry_unknown=RetryUnknown.NEVER)], (UNKNOWN,), ""),
        (ALWAYS, [provider("b", retry_unknown=RetryUnknown.NEVER)], (UNKNOWN,), "ba"),
        # refusals
        (Retry(), [], (tried("a", FailureKind.REFUSED, Billed.NO),), ""),
        (Retry(on_refusal_failover=True), [], (tried("a", FailureKind.REFUSED, Billed.NO),), "b"),
        (Retry(on_refusal_failover=True), [], (tried("a", FailureKind.REFUSED, Billed.YES),), ""),
        (Retry(on_refusal_failover=True), [], (tried("a", FailureKind.REFUSED, Billed.UNKNOWN),), ""),
        (
            Retry(on_refusal_failover=True),
            [provider("a", refusals_free=True)],
            (tried("a", FailureKind.REFUSED, Billed.UNKNOWN),),
            "b",
        ),
        # billed rubbish, caller's faults, jobs that failed
        (Retry(), [], (tried("a", FailureKind.UNUSABLE),), ""),
        (Retry(retry_unusable_failover=True), [], (tried("a", FailureKind.UNUSABLE),), "b"),
        (ALWAYS, [], (tried("a", FailureKind.BAD_REQUEST),), ""),
        (ALWAYS, [], (tried("a", FailureKind.RESULT_LOST),), ""),
        (ALWAYS, [], (tried("a", FailureKind.CANCELLED),), ""),
        (Retry(), [], (tried("a", FailureKind.UNSUPPORTED),), "b"),
        (Retry(), [], (tried("a", FailureKind.ACCOUNT),), "ba"),
        (Retry(), [], (tried("a", FailureKind.JOB_FAILED),), "ba"),
        (Retry(), [], (tried("a", FailureKind.JOB_FAILED),) * 2, "b"),
        # how often
        (Retry(per_target=2), [], (OVERLOADED,) * 2, "ba"),
        (Retry(per_target=2), [], (OVERLOADED,) * 3, "b"),
        (Retry(per_target=0), [], (OVERLOADED,), "b"),
        # one failure that permits nothing outlasts any number that permit all
        (Retry(), [], (UNKNOWN, tried("b", FailureKind.OVERLOADED)), ""),
        (Retry(), [], (OVERLOADED, tried("b", FailureKind.UNSUPPORTED)), "a"),
        # a target that the rules no longer name
        (Retry(), [], (tried("gone", FailureKind.OVERLOADED),), "ab"),
        (Retry(), [], (tried("gone", FailureKind.UNKNOWN),), ""),
    ],
)
def test_a_history_permits_what_each_of_its_failures_permits(retry, providers, history, expected):
    made = make_plan(ruleset(rule(A, B, retry=retry), providers=providers), history=history)

    assert "".join(names(made)) == expected
    assert set(reasons(made).values()) <= {"tried"}


def test_a_used_up_retry_budget_delays_repeats_but_no_first_try():
    made = make_plan(fleet=Yard(worn=frozenset({"a", "b"})), history=(OVERLOADED,))

    assert [(one.target.name, one.ready_in_s, one.reason) for one in made.candidates] == [
        ("b", 0.0, None),
        ("c", 0.0, None),
        ("a", 1.0, "repeats"),
    ]
    assert made.excluded == ()


def test_a_provider_that_only_another_rule_names_still_lends_its_setting_to_its_attempts():
    old = rule(A, number=1, when=When(quality=("high",)))
    rules = ruleset(rule(B), old, providers=[provider("a", retry_unknown=RetryUnknown.ALWAYS)])

    assert names(make_plan(rules, history=(UNKNOWN,))) == ["b"]


# -- the rest of a plan -----------------------------------------------------------------------------------------------


def test_a_rule_that_matches_replaces_targets_strategy_and_timeout():
    special = rule(C, B, number=1, when=When(priority=(Priority.URGENT,)), strategy=Strategy.CHEAPEST, timeout_s=7.0)
    rules = ruleset(rule(A), special)

    ordinary, urgent = make_plan(rules), make_plan(rules, shape=replace(PICTURE, priority=Priority.URGENT))

    assert (names(ordinary), ordinary.timeout_s, ordinary.rule.number) == (["a"], 180.0, 0)
    assert (names(urgent), urgent.timeout_s, urgent.rule.number) == (["b", "c"], 7.0, 1)


def test_an_alias_leads_to_its_model_and_an_unknown_name_to_nobody():
    made = make_plan(shape=replace(PICTURE, model="alias"))
    unknown = make_plan(shape=replace(PICTURE, model="ghost"))

    assert (made.model, names(made)) == ("m", ["a", "b", "c"])
    assert isinstance(unknown, UnknownModel)
    assert (unknown.model, unknown.candidates, unknown.excluded) == ("ghost", (), ())


def test_fields_that_a_candidate_does_not_take_are_named_per_candidate():
    narrow = replace(B, abilities=replace(SIZELESS, fields=frozenset({"prompt", "size"})))
    shape = replace(PICTURE, fields=PICTURE.fields | {"style", "n"})
    made = make_plan(ruleset(rule(narrow, A)), shape=shape)

    assert made.dropped == ("style",)
    assert [made.dropped_for(one) for one in made.candidates] == [("style",), ()]
    assert dropped_fields(made.candidates[0], shape) == ("style",)


def test_an_attempt_of_an_earlier_life_finds_its_target_again():
    elsewhere = rule(replace(C, name="special"), number=1, when=When(quality=("high",)))
    rules = ruleset(rule(A), elsewhere)

    assert reconstruct(rules, "m", "a", "a", "a-model").target is A
    assert reconstruct(rules, "m", "c", "special", "c-model").target.price == C.price
    assert reconstruct(rules, "m", "c", "renamed", "c-model").target.price == C.price
    made_up = reconstruct(rules, "gone", "a", "old", "old-model")
    assert (made_up.target.name, made_up.target.model, made_up.target.price) == ("old", "old-model", None)
    assert made_up.provider is rules.providers["a"]
    assert reconstruct(rules, "m", "ghost", "a", "a-model") is None


def test_an_explanation_is_json_with_prices_scores_and_reasons():
    rules = ruleset(rule(A, replace(B, price=None), C, strategy=Strategy.CHEAPEST))
    made = make_plan(rules, Preferences(ignore=("c",)), Yard({"a": out_for(30)}))

    told = json.loads(json.dumps(explain(made), allow_nan=False))

    assert (told["model"], told["rule"], told["ordered_by"], told["timeout_s"]) == ("m", 0, "cheapest", 180.0)
    assert [(one["target"], one["price_usd"], one["score"]) for one in told["candidates"]] == [
        ("a", "0.05", 5 * CENT),
        ("b", None, None),
    ]
    assert told["candidates"][0]["standing"] == "open"
    assert told["candidates"][0]["ready_in_s"] == 30
    assert [(one["target"], one["reason"], one["param"]) for one in told["excluded"]] == [
        ("c", "ignored", "provider.ignore")
    ]


@pytest.mark.parametrize(
    ("rules", "preferences", "facts", "ordered_by", "scores"),
    [
        (ORDERED, NO_WISHES, {}, "ordered", [0, 1, 2]),
        (CHEAPEST, NO_WISHES, {}, "cheapest", [3 * CENT, 4 * CENT, 5 * CENT]),
        (ORDERED, Preferences(sort="price"), {}, "price", [3 * CENT, 4 * CENT, 5 * CENT]),
        (ORDERED, Preferences(order=("c", "b")), {}, "order", [0, 1, 2]),
        (THEN_CHEAPEST, NO_WISHES, {"history": (OVERLOADED,)}, "cheapest", [3 * CENT, 4 * CENT, 0]),
    ],
)
def test_a_score_is_what_the_candidates_were_put_in_order_by(rules, preferences, facts, ordered_by, scores):
    made = make_plan(rules, preferences, **facts)

    assert made.ordered_by == ordered_by
    assert [one.score for one in made.candidates] == scores


DONE = {"a": TrackRecord(4.0, 0.9), "b": TrackRecord(2.0, None), "c": TrackRecord(None, 0.99)}


@pytest.mark.parametrize(
    ("sort", "order"),
    [("latency", ["b", "a", "c"]), ("success", ["c", "a", "b"]), ("price", [])],
)
def test_a_request_sorts_by_how_targets_did_and_who_has_done_too_little_comes_last(sort, order):
    made = make_plan(ORDERED, Preferences(sort=sort), fleet=Yard(records=DONE))

    assert made.ordered_by == sort
    if sort != "price":
        assert [one.target.name for one in made.candidates] == order
    assert [one.score is None for one in made.candidates] == sorted(one.score is None for one in made.candidates)


def test_what_a_request_sorts_by_stays_after_a_failure():
    made = make_plan(THEN_CHEAPEST, Preferences(sort="latency"), fleet=Yard(records=DONE), history=(OVERLOADED,))

    assert made.ordered_by == "latency"
