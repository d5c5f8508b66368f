"""Which images are missing and in which pieces: tables over the attempts of a task for four images."""

from dataclasses import replace

import pytest

from router.flow.intake import reservation_of
from router.outcome import SUCCEEDED, Billed, FailureKind, fail
from router.policy.parts import Piece, beside, count_repeats, history_of, missing_of, pieces_of
from router.policy.price import quote, quote_in_parts
from router.policy.route import Try, plan
from router.policy.rules import Price, Retry, RetryUnknown
from router.policy.verdict import GiveUp, after, before
from router.task import Attempt, AttemptState
from tests.policy.rulebook import IMAGES, NO_WISHES, NOON, PICTURE, Yard, rule, ruleset, target, tried

OVER = Try("a", FailureKind.OVERLOADED, Billed.NO)
OUT = None


def attempt(n, part, count, outcome, target="a"):
    """An attempt at some images; an outcome of None: it is still out."""
    ended = {} if outcome is OUT else {"state": AttemptState.ENDED, "outcome": outcome, "billing": Billed.NO}
    return Attempt(
        task_id="task_1",
        tenant="acme",
        n=n,
        provider=target,
        target=target,
        target_model="m",
        account="key",
        base_url="https://a.example",
        attempt_key="k",
        started_at=1,
        timeout_at=2,
        rules_hash="",
        part=part,
        count=count,
        **ended,
    )


def tell(*rows):
    """Attempts in order of their number."""
    return [attempt(n, *row) for n, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("attempts", "aside", "pieces"),
    [
        ([], (), [Piece(0, 4, ())]),
        ([(0, 4, OUT)], (), []),
        ([(0, 0, OUT)], (), []),  # a row of before parts were
        ([(0, 4, SUCCEEDED)], (), []),
        ([(0, 1, OUT)], (), [Piece(1, 3, ())]),
        ([(0, 0, "overloaded")], (), [Piece(0, 4, (OVER,))]),
        ([(1, 1, SUCCEEDED)], (), [Piece(0, 1, ()), Piece(2, 2, ())]),
        ([(1, 1, "overloaded")], (), [Piece(0, 1, ()), Piece(1, 1, (OVER,)), Piece(2, 2, ())]),
        ([(0, 2, "overloaded"), (2, 2, "overloaded")], (), [Piece(0, 4, (OVER,))]),
        ([(0, 2, "overloaded"), (2, 2, OUT)], (), [Piece(0, 2, (OVER,))]),
        ([(0, 2, "overloaded"), (0, 1, SUCCEEDED)], (), [Piece(1, 1, (OVER,)), Piece(2, 2, ())]),
        ([], (1,), [Piece(0, 1, ()), Piece(2, 2, ())]),
        ([(0, 4, "overloaded")], (0, 1, 2, 3), []),
    ],
)
def test_what_is_missing_is_cut_where_images_or_histories_part(attempts, aside, pieces):
    assert list(pieces_of(4, tell(*attempts), aside)) == pieces


def test_an_image_is_missing_unless_somebody_made_it_or_is_making_it():
    assert missing_of(4, tell((0, 1, SUCCEEDED), (1, 1, OUT), (2, 1, "overloaded"))) == (2, 3)


def test_an_image_has_the_failures_of_the_attempts_that_were_to_make_it_and_the_rest_lie_beside():
    attempts = tell((0, 4, "overloaded"), (0, 2, "unknown", "b"), (2, 1, SUCCEEDED, "b"), (3, 1, "refused", "b"))

    assert [one.kind.value for one in history_of(attempts, 4, 1)] == ["overloaded", "unknown"]
    assert [one.kind.value for one in beside(attempts, 4, 1)] == ["refused"]
    assert [one.kind.value for one in history_of(attempts, 4, 3)] == ["overloaded", "refused"]


@pytest.mark.parametrize(
    ("attempts", "repeats"),
    [
        ([(0, 1, SUCCEEDED), (1, 1, SUCCEEDED)], 0),
        ([(0, 0, "overloaded"), (0, 0, SUCCEEDED)], 1),
        ([(0, 4, "overloaded"), (0, 2, SUCCEEDED), (2, 2, SUCCEEDED)], 2),
        ([], 0),
    ],
)
def test_a_repeat_is_an_attempt_at_an_image_that_another_was_to_make(attempts, repeats):
    assert count_repeats(tell(*attempts)) == repeats


@pytest.mark.parametrize(("most", "cost"), [(10, 4 * 30 + 5), (4, 4 * 30 + 5), (3, 4 * 30 + 10), (1, 4 * 30 + 20)])
def test_what_is_charged_per_request_is_charged_for_each_part(most, cost):
    price, shape = Price(image={"default": 30}, request=5), replace(PICTURE, n=4)

    assert quote_in_parts(price, shape, most) == cost
    assert quote_in_parts(None, shape, most) is None
    assert quote(price, shape) == 4 * 30 + 5


def plan_of(*targets, history=(), retry=None, n=4):
    """Plan a task for several pictures."""
    rules = ruleset(rule(*targets, retry=retry or Retry()))
    return plan(replace(PICTURE, n=n), NO_WISHES, rules, Yard({}), now=NOON, task_id="t", history=history)


def test_the_last_part_to_fail_tells_the_bill_of_all():
    refused, paid = tried("a", FailureKind.BAD_REQUEST), tried("a", FailureKind.REFUSED)
    made = plan_of(target("a"), history=(refused,))
    alone = after(fail(FailureKind.BAD_REQUEST, "words"), (refused,), made, 0.5)
    last = after(fail(FailureKind.BAD_REQUEST, "words"), (refused,), made, 0.5, (paid,))
    untried = before(plan_of(), (), (paid,))

    assert (alone.error.billing, alone.error.details["attempts"]) == (Billed.NO, 1)
    assert (last.error.billing, last.error.details["attempts"]) == (Billed.YES, 2)
    assert last.error.error_type == "invalid_request"
    assert isinstance(untried, GiveUp)
    assert untried.error.billing is Billed.YES


@pytest.mark.parametrize(
    ("limits", "request_price", "retry_unknown", "reserved"),
    [
        ((10, 10), 0, RetryUnknown.NEVER, (50, 4)),
        ((10, 10), 6, RetryUnknown.NEVER, (52, 4)),  # (4 x 50 + 6) / 4, rounded up
        ((10, 1), 6, RetryUnknown.NEVER, (56, 4)),  # one alone pays the request
        ((10, 1), 0, RetryUnknown.ALWAYS, (50, 16)),
    ],
)
def test_a_reservation_holds_a_unit_for_each_image_and_each_paid_attempt(
    limits, request_price, retry_unknown, reserved
):
    targets = [
        replace(
            target(name, abilities=replace(IMAGES, max_n=most)),
            price=Price(image={"default": nanos}, request=request_price or None),
        )
        for name, most, nanos in zip("ab", limits, (30, 50), strict=True)
    ]
    made = plan_of(*targets, retry=Retry(total=4, retry_unknown=retry_unknown))

    assert reservation_of(made, replace(PICTURE, n=4)) == reserved
