"""Properties of plans that hold in every situation: drawn rulesets, wishes, fleets and histories over a few names."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as some

from router.outcome import FailureKind
from router.policy.route import Standing, Try, explain, plan
from router.policy.rules import OnFailure, Retry, RetryUnknown, Strategy
from router.provider import Abilities, Kind
from router.task import Preferences
from tests.policy.rulebook import BILLS, CENT, IMAGES, KINDS, NOON, PICTURE, Yard, provider, rule, ruleset, target

SIZELESS = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), fields=frozenset({"prompt"}))

NAMES = "abcde"
PROVIDERS = ("p", "q", "r")
some_try = some.builds(Try, some.sampled_from(NAMES), some.sampled_from(KINDS), some.sampled_from(BILLS))
some_names = some.lists(some.sampled_from((*NAMES, *PROVIDERS, "ghost")), max_size=4).map(tuple)
some_standing = some.builds(
    Standing,
    ready_in_s=some.floats(0, 100),
    probe=some.booleans(),
    reason=some.sampled_from([None, "open", "probing", "resting", "account", "forced_open"]),
)


@some.composite
def situations(draw):
    """Draw a ruleset, preferences, a fleet and a history over the same few names."""
    targets = [
        target(
            name,
            at=draw(some.sampled_from(PROVIDERS)),
            cents=draw(some.none() | some.integers(0, 9)),
            weight=draw(some.integers(0, 3)),
            abilities=draw(some.sampled_from([IMAGES, SIZELESS, replace(IMAGES, max_n=2)])),
        )
        for name in draw(some.lists(some.sampled_from(NAMES), unique=True, min_size=1))
    ]
    retry = Retry(
        per_target=draw(some.integers(0, 3)),
        retry_unknown=draw(some.sampled_from(RetryUnknown)),
        retry_unusable_failover=draw(some.booleans()),
        on_refusal_failover=draw(some.booleans()),
    )
    accounts = [
        provider(name, credentials=draw(some.integers(0, 1)), idempotent=draw(some.booleans())) for name in PROVIDERS
    ]
    rules = ruleset(
        rule(
            *targets,
            strategy=draw(some.sampled_from(Strategy)),
            on_failure=draw(some.sampled_from(OnFailure)),
            retry=retry,
        ),
        providers=accounts,
    )
    preferences = Preferences(
        order=draw(some_names),
        only=draw(some.just(()) | some_names),
        ignore=draw(some.just(()) | some_names),
        allow_fallbacks=draw(some.booleans()),
        sort=draw(some.sampled_from([None, "price"])),
        max_price=draw(some.sampled_from([{}, {"task": 4 * CENT}, {"image": 2 * CENT}])),
        require_parameters=draw(some.booleans()),
    )
    yard = Yard(
        draw(some.dictionaries(some.sampled_from(NAMES), some_standing)),
        frozenset(draw(some.sets(some.sampled_from(NAMES)))),
    )
    facts = {
        "history": tuple(draw(some.lists(some_try, max_size=4))),
        "barred": frozenset(draw(some.sets(some.sampled_from(PROVIDERS), max_size=2))),
        "priced_only": draw(some.booleans()),
        "shape": replace(PICTURE, n=draw(some.integers(1, 4))),
        "task_id": draw(some.text(max_size=8)),
    }
    return rules, preferences, yard, facts


def plan_of(situation):
    rules, preferences, yard, facts = situation
    return plan(facts["shape"], preferences, rules, yard, now=NOON, **{k: v for k, v in facts.items() if k != "shape"})


@given(situations())
def test_every_target_of_the_rule_is_a_candidate_or_excluded_and_only_once(situation):
    made = plan_of(situation)

    told = [one.target.name for one in made.candidates] + [one.target for one in made.excluded]
    assert sorted(told) == sorted(one.name for one in made.rule.targets)


@given(situations())
def test_untried_candidates_come_first_and_no_unknown_price_before_a_known_one(situation):
    made = plan_of(situation)

    tries = [one.tries for one in made.candidates]
    assert tries == sorted(tries)
    if made.ordered_by in {"cheapest", "price"}:
        prices = [one.price_nanos for one in made.candidates if one.tries == 0]
        assert prices == sorted(prices, key=lambda price: (price is None, price or 0))


@given(situations())
def test_the_same_question_gets_the_same_answer_and_an_explanation_that_is_json(situation):
    made = plan_of(situation)

    assert plan_of(situation) == made
    json.dumps(explain(made), allow_nan=False)


some_unknown = some.builds(
    Try, some.sampled_from(NAMES), some.sampled_from([FailureKind.UNKNOWN, FailureKind.LOST]), some.sampled_from(BILLS)
)


@given(
    some.lists(some_try, max_size=2), some_unknown, some.lists(some_try, max_size=2), some.sampled_from(RetryUnknown)
)
def test_after_an_unknown_outcome_nobody_is_left_unless_a_repeat_was_allowed(earlier, unknown, later, setting):
    history = (*earlier, unknown, *later)
    rules = ruleset(rule(*(target(name) for name in NAMES), retry=Retry(retry_unknown=setting)))

    made = plan(PICTURE, Preferences(), rules, Yard(), now=NOON, task_id="t", history=history)

    if setting is not RetryUnknown.ALWAYS:
        assert made.candidates == ()
