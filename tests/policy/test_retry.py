"""What one failure permits, against a table written down from contract 6 in words of its own."""

from itertools import product

import pytest

from router.outcome import Billed, FailureKind
from router.policy.retry import permits_other, permits_same
from router.policy.rules import Retry, RetryUnknown

NEVER, IF_IDEMPOTENT, ALWAYS = RetryUnknown
# kind -> (same target again, another target), as the rows of contract 6 say
TABLE = {
    "unsent": ("yes", "yes"),
    "throttled": ("yes", "yes"),
    "overloaded": ("yes", "yes"),
    "server_error": ("yes", "yes"),
    "unknown": ("as retry_unknown", "only always"),
    "refused": ("no", "only failover, where free"),
    "bad_request": ("no", "no"),
    "unsupported": ("no", "yes"),
    "account": ("yes", "yes"),
    "unusable": ("no", "only failover"),
    "job_failed": ("once", "yes"),
    "lost": ("as retry_unknown", "only always"),
    "result_lost": ("no", "no"),
    "cancelled": ("no", "no"),
    "bug": ("no", "no"),
}


def test_the_table_covers_every_kind():
    assert set(TABLE) == {kind.value for kind in FailureKind}


@pytest.mark.parametrize("kind", FailureKind)
def test_the_same_target_may_be_tried_again_as_the_contract_says(kind):
    for idempotent, setting, failures in product((False, True), RetryUnknown, (1, 2, 3)):
        expected = {
            "yes": True,
            "no": False,
            "once": failures == 1,
            "as retry_unknown": setting is ALWAYS or (setting is IF_IDEMPOTENT and idempotent),
        }[TABLE[kind.value][0]]

        assert permits_same(kind, failures, setting, idempotent=idempotent) is expected


@pytest.mark.parametrize("kind", FailureKind)
def test_another_target_may_be_tried_as_the_contract_says(kind):
    failovers = (Retry(), Retry(on_refusal_failover=True), Retry(retry_unusable_failover=True))
    for billed, setting, refusals_free, retry in product(Billed, RetryUnknown, (False, True), failovers):
        free = billed is Billed.NO or (billed is Billed.UNKNOWN and refusals_free)
        expected = {
            "yes": True,
            "no": False,
            "only always": setting is ALWAYS,
            "only failover": retry.retry_unusable_failover,
            "only failover, where free": retry.on_refusal_failover and free,
        }[TABLE[kind.value][1]]

        assert permits_other(kind, billed, retry, setting, refusals_free=refusals_free) is expected


def test_a_timeout_that_is_known_to_be_billed_bars_another_target_all_the_same():
    assert not permits_other(FailureKind.UNKNOWN, Billed.YES, Retry(), NEVER, refusals_free=True)


def test_a_refusal_that_was_charged_is_never_taken_elsewhere():
    generous = Retry(on_refusal_failover=True)

    assert not permits_other(FailureKind.REFUSED, Billed.YES, generous, ALWAYS, refusals_free=True)
