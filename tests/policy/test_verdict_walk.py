"""Every verdict: the walk over kind x bill x setting x what is left goes against a table that is written down here from
contract 6, in words of its own, and through real plans: facts, permissions, plan and verdict are judged together.
"""

from dataclasses import dataclass
from itertools import product

import pytest

from router.outcome import Billed, FailureKind, fail
from router.policy.errors import STATUS, should_retry_header
from router.policy.route import Try, plan
from router.policy.rules import Retry, RetryUnknown
from router.policy.verdict import Again, Elsewhere, GiveUp, after, error_of
from tests.policy.rulebook import BILLS, KINDS, NO_WISHES, NOON, PICTURE, Yard, provider, rule, ruleset, target

HALF = 0.5

# kind -> (the same target again?, another target?, error_type when nothing is left, a repeat may help?)
CONTRACT = {
    "unsent": ("yes", "yes", "provider_error", True),
    "throttled": ("yes", "yes", "provider_error", True),
    "overloaded": ("yes", "yes", "provider_error", True),
    "server_error": ("yes", "yes", "provider_error", True),
    "unknown": ("as set", "if always", "outcome_unknown | provider_timeout", True),
    "refused": ("no", "if failover and free", "content_refused", False),
    "bad_request": ("no", "no", "invalid_request", False),
    "unsupported": ("no", "yes", "provider_error", False),
    "account": ("yes", "yes", "provider_error", False),
    "unusable": ("no", "if failover", "provider_error", False),
    "job_failed": ("once", "yes", "provider_error", True),
    "lost": ("as set", "if always", "outcome_unknown | provider_timeout", True),
    "result_lost": ("no", "no", "outcome_unknown | provider_error", False),
    "cancelled": ("no", "no", "cancelled", False),
    "bug": ("no", "no", "internal_error", False),
}


@dataclass(frozen=True)
class Case:
    """One cell of the walk. `before_it`: how many earlier failures of this kind the target has had."""

    kind: FailureKind
    billed: Billed
    unknown: RetryUnknown
    failover: bool
    idempotent: bool
    refusals_free: bool
    left: int
    another: bool
    before_it: int
    at_provider: RetryUnknown | None

    def expected(self):
        """Read the table: the word for what must follow."""
        same, other, _error_type, _passing = CONTRACT[self.kind.value]
        setting = self.at_provider or self.unknown
        free = self.billed is Billed.NO or (self.billed is Billed.UNKNOWN and self.refusals_free)
        may_move = {
            "yes": True,
            "no": False,
            "if always": setting is RetryUnknown.ALWAYS,
            "if failover": self.failover,
            "if failover and free": self.failover and free,
        }[other]
        may_repeat = {
            "yes": True,
            "no": False,
            "once": self.before_it == 0,
            "as set": setting is RetryUnknown.ALWAYS or (setting is RetryUnknown.IF_IDEMPOTENT and self.idempotent),
        }[same]
        if self.left == 0:
            return "give up"
        if self.another and may_move:
            return "elsewhere"
        return "again" if may_repeat else "give up"

    def run(self):
        """Fail a task as the case says, plan and ask for the verdict."""
        retry = Retry(
            per_target=5,
            total=self.before_it + 1 + self.left,
            retry_unknown=self.unknown,
            retry_unusable_failover=self.failover,
            on_refusal_failover=self.failover,
        )
        account = provider(
            "a", idempotent=self.idempotent, refusals_free=self.refusals_free, retry_unknown=self.at_provider
        )
        targets = [target("a"), target("b")] if self.another else [target("a")]
        rules = ruleset(rule(*targets, retry=retry), providers=[account])
        failure = fail(self.kind, "words", billed=self.billed)
        history = (Try("a", self.kind, self.billed),) * (self.before_it + 1)
        made = plan(PICTURE, NO_WISHES, rules, Yard(), now=NOON, task_id="t", history=history)
        return after(failure, history, made, HALF)


def every_case(kind):
    for billed, unknown, failover, idempotent, free, left, another, before_it, at_provider in product(
        BILLS,
        RetryUnknown,
        (False, True),
        (False, True),
        (False, True),
        (0, 1, 2),
        (False, True),
        (0, 1),
        (None, RetryUnknown.NEVER, RetryUnknown.ALWAYS),
    ):
        yield Case(kind, billed, unknown, failover, idempotent, free, left, another, before_it, at_provider)


def test_the_table_has_a_row_for_every_kind():
    assert set(CONTRACT) == {kind.value for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_failure_is_what_the_contract_says_in_every_case(kind):
    words = {Again: "again", Elsewhere: "elsewhere", GiveUp: "give up"}
    _same, _other, error_types, passing = CONTRACT[kind.value]
    for case in every_case(kind):
        verdict = case.run()

        assert (case, words[type(verdict)]) == (case, case.expected())
        if isinstance(verdict, GiveUp):
            error = verdict.error
            known_bill = case.billed is not Billed.UNKNOWN
            expected_type = error_types.split(" | ")[-1 if known_bill else 0]
            assert (case, error.error_type) == (case, expected_type)
            assert error.billing is case.billed
            assert error.retryable is (passing and case.billed is Billed.NO)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_could_pay_twice_is_never_called_retryable_and_stops_the_sdk(kind):
    for billed in BILLS:
        history = (Try("a", kind, billed),)
        made = plan(PICTURE, NO_WISHES, ruleset(rule(target("a"))), Yard(), now=NOON, task_id="t", history=history)
        error = error_of(fail(kind, "words", billed=billed), history, made)

        assert error.error_type in STATUS
        if billed is not Billed.NO:
            assert not error.retryable
            assert should_retry_header(error.error_type, error.billing) is False
