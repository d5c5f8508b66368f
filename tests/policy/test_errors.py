"""The errors of contract 5.5 over HTTP: statuses, OpenAI's words, and when a client must not repeat."""

import pytest

from router.outcome import Billed
from router.policy.errors import STATUS, openai_type, should_retry_header, status_of
from router.task import Error

BY_STATUS = {
    400: "invalid_request content_refused",
    401: "unauthorized",
    402: "budget_exceeded price_ceiling",
    403: "forbidden",
    404: "not_found model_not_found",
    409: "conflict cancelled",
    410: "expired",
    413: "too_large",
    429: "rate_limited queue_full",
    500: "internal_error",
    502: "provider_error",
    503: "no_provider_available unavailable",
    504: "provider_timeout outcome_unknown deadline_exceeded",
}


def test_every_error_type_of_the_contract_has_its_status():
    assert {error_type: status for status, words in BY_STATUS.items() for error_type in words.split()} == STATUS


def test_a_key_used_for_another_request_is_422_which_no_sdk_repeats():
    assert status_of(Error("conflict", "", "idempotency_mismatch")) == 422
    assert status_of(Error("conflict", "", "conflict")) == 409


@pytest.mark.parametrize("error_type", STATUS)
def test_openai_clients_get_a_word_that_they_know(error_type):
    status = STATUS[error_type]
    expected = {429: {"rate_limit_error"}, 402: {"insufficient_quota", "invalid_request_error"}}
    default = {"server_error"} if status >= 500 else {"invalid_request_error"}

    assert openai_type(error_type) in expected.get(status, default)


@pytest.mark.parametrize("error_type", STATUS)
@pytest.mark.parametrize("billing", Billed)
def test_a_client_is_told_not_to_repeat_wherever_that_could_pay_twice_and_on_every_409(error_type, billing):
    forbidden = error_type in {"conflict", "cancelled"} or billing is not Billed.NO

    assert should_retry_header(error_type, billing) is (False if forbidden else None)


@pytest.mark.parametrize("billing", Billed)
def test_a_client_whose_task_goes_on_is_told_to_repeat_because_it_attaches(billing):
    assert should_retry_header("deadline_exceeded", billing, goes_on=True) is True
