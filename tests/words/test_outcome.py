"""The facts of each failing outcome against contract section 6, row by row, and the line that foreign text becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.outcome import (
    FACTS,
    OUTCOME_WORDS,
    Billed,
    Ejects,
    Facts,
    FailureKind,
    Fault,
    Health,
    Other,
    Same,
    fail,
    one_line,
)

# The list of section 1, in its order.
CONTRACT_WORDS = (
    "succeeded, unsent, throttled, overloaded, server_error, unknown, job_failed, lost, result_lost, unusable, "
    "refused, bad_request, unsupported, account, cancelled, bug"
)

# word | billed | same target again | another target | breaker | whose fault | put aside. Section 6, "Retry facts"; the
# last two words have no row there: a cancel and a mistake of ours try nothing again, and nobody knows what they cost.
RETRY_FACTS = """
unsent       | no      | backoff          | yes                  | failure | provider | nothing
throttled    | no      | after_rest       | yes                  | neutral | provider | nothing
overloaded   | no      | backoff          | yes                  | failure | provider | nothing
server_error | no      | backoff          | yes                  | failure | provider | nothing
unknown      | unknown | as_retry_unknown | retry_unknown:always | failure | provider | nothing
refused      | yes     | never            | on_refusal:failover  | neutral | caller   | nothing
bad_request  | no      | never            | no                   | neutral | caller   | nothing
unsupported  | no      | never            | yes                  | neutral | caller   | nothing
account      | no      | other_credential | yes                  | neutral | provider | credential
unusable     | yes     | never            | retry_unusable       | failure | provider | nothing
job_failed   | unknown | once             | yes                  | failure | provider | nothing
lost         | unknown | as_retry_unknown | retry_unknown:always | failure | provider | nothing
result_lost  | yes     | never            | no                   | neutral | provider | nothing
cancelled    | unknown | never            | no                   | neutral | nobody   | nothing
bug          | unknown | never            | no                   | neutral | ours     | nothing
"""
BILLED = {"no": Billed.NO, "yes": Billed.YES, "unknown": Billed.UNKNOWN}
OTHER = {
    "yes": Other.YES,
    "no": Other.NO,
    "retry_unknown:always": Other.IF_RETRY_UNKNOWN_ALWAYS,
    "on_refusal:failover": Other.IF_REFUSAL_FREE,
    "retry_unusable": Other.IF_RETRY_UNUSABLE,
}


def read_rows():
    """Return word -> the rest of its row."""
    rows = [[cell.strip() for cell in line.split("|")] for line in RETRY_FACTS.strip().splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_the_outcome_words_are_those_of_the_contract_in_its_order():
    assert ", ".join(OUTCOME_WORDS) == CONTRACT_WORDS


def test_every_kind_of_failure_has_its_facts_and_its_row():
    assert set(FACTS) == set(FailureKind)
    assert set(read_rows()) == {kind.value for kind in FailureKind}


@pytest.mark.parametrize(("word", "row"), read_rows().items(), ids=read_rows())
def test_the_facts_are_those_of_the_contract(word, row):
    billed, same, other, health, fault, ejects = row

    assert FACTS[FailureKind(word)] == Facts(
        BILLED[billed], Same(same), OTHER[other], Health(health), Fault(fault), Ejects(ejects)
    )


def test_only_outcomes_that_may_be_paid_for_bar_another_target_for_the_sake_of_money():
    barred = {kind for kind, facts in FACTS.items() if facts.other is Other.IF_RETRY_UNKNOWN_ALWAYS}

    assert barred == {FailureKind.UNKNOWN, FailureKind.LOST}
    assert all(FACTS[kind].billed is Billed.UNKNOWN for kind in barred)


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_about_which_the_adapter_says_no_more_has_the_facts_of_its_kind(kind):
    made = fail(kind, "it broke")

    assert (made.kind, made.detail, made.billed, made.ejects) == (
        kind,
        "it broke",
        FACTS[kind].billed,
        FACTS[kind].ejects,
    )
    assert (made.http_status, made.rest_s, made.param, made.cost_nanos) == (None, None, None, None)


def test_what_the_adapter_says_wins_over_the_facts_of_the_kind():
    made = fail(
        FailureKind.REFUSED,
        "no\ncats",
        billed=Billed.NO,
        ejects=Ejects.TARGET,
        http_status=400,
        rest_s=3.5,
        param="prompt",
        cost_nanos=0,
    )

    assert (made.billed, made.ejects, made.detail) == (Billed.NO, Ejects.TARGET, "no cats")
    assert (made.http_status, made.rest_s, made.param, made.cost_nanos) == (400, 3.5, "prompt", 0)


def test_an_ejection_can_be_taken_back_by_the_adapter():
    assert fail(FailureKind.ACCOUNT, "quota of one end user", ejects=Ejects.NOTHING).ejects is Ejects.NOTHING


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("as it is", "as it is"),
        ("  two\n\nlines\r\n", "two lines"),
        ("tab\tand\x00nul\x1b[31mred", "tab and nul [31mred"),
        ("right\u202eto left\u2028next\u200bzero", "right to left next zero"),
        ("Größe 図 🐈", "Größe 図 🐈"),
        ("x" * 501, "x" * 500),
        ("\n" * 1999 + "end", "e"),
        ("\n" * 2000 + "end", ""),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_foreign_text_becomes_one_printable_bounded_line(text, line):
    assert one_line(text) == line


@given(st.text(max_size=3000))
def test_whatever_comes_the_line_is_safe_for_a_log(text):
    line = one_line(text)

    assert line.isprintable()
    assert len(line) <= 500
    assert "  " not in line
    assert not line.startswith(" ")
