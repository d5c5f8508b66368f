"""Task and attempt against the states of contract section 1, ids against RFC 9562, money and the bill against 5.3."""

import re
from dataclasses import replace
from decimal import Decimal
from random import Random
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.money import NANOS_MAX, nanos_of, usd_of
from router.outcome import Billed
from router.provider import Handle, Kind, Usage
from router.task import (
    MOVES,
    TERMINAL,
    Attempt,
    AttemptState,
    Bill,
    Error,
    IllegalMove,
    MoveName,
    Output,
    Priority,
    State,
    Task,
    accepted,
    apply,
    bill,
    cancelled,
    canonical_id,
    delivered,
    ended,
    expired,
    failed,
    interrupted,
    joined,
    new_id,
    retried,
    started,
    swept,
    went_on,
)

NOW = 1_763_700_000_000
HEX = "0199a0b1c2d37e4f8a5b6c7d8e9f0a1b"
PICTURE = Output("task/0", "image/png", 48_213, "ab" * 32, 1024, 1024)
BROKE = Error("provider_error", "It broke.", "provider_error", billing=Billed.UNKNOWN)

# Contract section 1, sentence by sentence. A pair that is not here must not be possible.
LANDS = {
    ("pending", "started"): "running",
    ("running", "delivered"): "succeeded",
    ("running", "failed"): "failed",
    ("running", "retried"): "retrying",
    ("running", "joined"): "running",  # parts of one task, section 6: side by side
    ("running", "went_on"): "running",
    ("retrying", "started"): "running",
    ("pending", "cancelled"): "cancelled",
    ("running", "cancelled"): "cancelled",
    ("retrying", "cancelled"): "cancelled",
    ("pending", "expired"): "expired",
    ("retrying", "failed"): "failed",
    ("succeeded", "swept"): "expired",
    ("running", "interrupted"): "retrying",  # with attempts, which the walk below has; without: a test of its own
}
# By way of running in one step, since no attempt lies between: nobody can do it, or what exists is delivered.
THROUGH_RUNNING = {("pending", "failed"): "failed", ("retrying", "delivered"): "succeeded"}

MAKERS = {
    "started": lambda at: started(at, "flux", "flux-pro-1.1"),
    "delivered": lambda at: delivered(at, (PICTURE,), Usage(output_tokens=7), ("1 of 2 images is missing",), at + 9),
    "failed": lambda at: failed(at, BROKE, at + 9),
    "retried": lambda at: retried(at, at + 500),
    "joined": lambda at: joined(at, "flux", "flux-pro-1.1"),
    "went_on": went_on,
    "cancelled": lambda at: cancelled(at, at + 9),
    "expired": lambda at: expired(at, "Not started in time.", at + 9),
    "interrupted": interrupted,
    "swept": swept,
}


def make_task(state: State = State.PENDING, **changes) -> Task:
    """Build a task in this state with two attempts behind it and every field of consequence filled."""
    filled = {
        "id": f"task_{HEX}",
        "tenant": "acme",
        "kind": Kind.IMAGE_GENERATION,
        "model": "gpt-image-2",
        "input": {"prompt": "a cat"},
        "surface": "native",
        "route": "/v1/tasks",
        "priority": Priority.NORMAL,
        "created_at": NOW - 5000,
        "state": state,
        "version": 4,
        "owner": "one",
        "fence": 3,
        "key_id": "key_1",
        "idempotency_key": "same",
        "not_before": NOW - 10,
        "started_at": NOW - 4000,
        "updated_at": NOW - 1000,
        "tries": 2,
        "provider": "apiyi",
        "target_model": "gpt-image-1",
        "warnings": ("style was dropped",),
    }
    if state in TERMINAL:
        filled |= {"completed_at": NOW - 1000, "expires_at": NOW + 60_000}
    if state is State.SUCCEEDED:
        filled |= {"output": (PICTURE,), "usage": Usage(input_tokens=10, output_tokens=100)}
    return Task(**filled | changes)


def make_attempt(**changes) -> Attempt:
    """Build an attempt whose intent has just been written."""
    filled = {
        "task_id": f"task_{HEX}",
        "tenant": "acme",
        "n": 1,
        "provider": "apiyi",
        "target": "apiyi",
        "target_model": "gpt-image-2",
        "account": "APIYI_KEY_1",
        "base_url": "https://api.example.org",
        "attempt_key": f"task_{HEX}-0",
        "started_at": NOW,
        "timeout_at": NOW + 180_000,
        "rules_hash": "0123456789abcdef",
    }
    return Attempt(**filled | changes)


# -- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", MoveName)
def test_a_move_lands_where_the_contract_says_or_is_refused_and_changes_nothing(state, name):
    task = make_task(state)
    move = MAKERS[name](NOW)
    pair = (state.value, name.value)
    expected = (LANDS | THROUGH_RUNNING).get(pair)

    if expected is None:
        with pytest.raises(IllegalMove, match=f"no move {name} from {state}"):
            apply(task, move)
    else:
        after = apply(task, move)
        steps = 2 if pair in THROUGH_RUNNING else 1
        assert (after.state, after.version, after.updated_at) == (expected, task.version + steps, NOW)
    assert task == make_task(state)


def test_every_move_has_a_maker_that_says_its_name():
    assert {name: maker(NOW).name for name, maker in MAKERS.items()} == {name.value: name for name in MoveName}


def test_the_table_lists_no_move_beyond_the_contract():
    assert {(state.value, name.value) for state, name in MOVES} == set(LANDS)


def test_a_terminal_state_is_left_only_by_retention_and_only_from_succeeded():
    left = {(state, name) for state, name in MOVES if state in TERMINAL}

    assert left == {(State.SUCCEEDED, MoveName.SWEPT)}
    assert {state for state in State if make_task(state).is_terminal} == {"succeeded", "failed", "cancelled", "expired"}


@pytest.mark.parametrize(("state", "name"), LANDS)
def test_a_move_never_touches_who_asked_for_what(state, name):
    before = make_task(State(state))
    after = apply(before, MAKERS[name](NOW))

    for kept in ("id", "tenant", "kind", "model", "key_id", "idempotency_key", "created_at", "owner", "fence"):
        assert getattr(after, kept) == getattr(before, kept)


# -- what the moves write -------------------------------------------------------------------------------------------


def test_the_first_start_counts_a_try_and_sets_the_clock():
    fresh = make_task(tries=0, started_at=None, provider=None, target_model=None)
    after = apply(fresh, started(NOW, "flux", "flux-pro-1.1"))

    assert (after.tries, after.started_at, after.provider, after.target_model) == (1, NOW, "flux", "flux-pro-1.1")
    assert after.not_before is None


def test_a_later_start_counts_too_but_the_task_was_started_when_it_first_was():
    after = apply(make_task(State.RETRYING), started(NOW, "flux", "flux-pro-1.1"))

    assert (after.tries, after.started_at, after.provider) == (3, NOW - 4000, "flux")


def test_a_start_without_a_provider_passes_through_and_counts_no_try():
    fresh = make_task(tries=0, started_at=None, provider=None, target_model=None)
    after = apply(fresh, started(NOW))

    assert (after.state, after.tries, after.started_at, after.provider) == (State.RUNNING, 0, None, None)


def test_a_pending_task_that_nobody_can_do_fails_by_way_of_running_without_a_try():
    fresh = make_task(tries=0, started_at=None, provider=None, target_model=None)

    assert apply(fresh, failed(NOW, BROKE, NOW + 9)) == apply(apply(fresh, started(NOW)), failed(NOW, BROKE, NOW + 9))
    assert (fresh.tries, apply(fresh, failed(NOW, BROKE, NOW + 9)).tries) == (0, 0)


def test_a_retry_says_from_when_on_the_task_may_run_again():
    after = apply(make_task(State.RUNNING, not_before=None), retried(NOW, NOW + 500))

    assert (after.not_before, after.tries, after.completed_at) == (NOW + 500, 2, None)


@pytest.mark.parametrize(
    ("tries", "started_at", "lands", "keeps_start"),
    [(1, NOW - 10, State.PENDING, None), (2, NOW - 4000, State.RETRYING, NOW - 4000)],
)
def test_an_interruption_takes_the_withdrawn_try_back(tries, started_at, lands, keeps_start):
    running = make_task(State.RUNNING, tries=tries, started_at=started_at)
    after = apply(running, interrupted(NOW))

    assert (after.state, after.tries, after.started_at) == (lands, tries - 1, keeps_start)
    assert not after.is_terminal


def test_a_part_that_joins_counts_a_try_and_one_that_ends_beside_others_changes_nothing():
    running = make_task(State.RUNNING, not_before=None)
    beside = apply(running, joined(NOW, "bfl", "flux-2"))
    after = apply(beside, went_on(NOW))

    assert (beside.tries, beside.started_at, beside.provider, beside.target_model) == (3, NOW - 4000, "bfl", "flux-2")
    assert after == replace(beside, version=beside.version + 1)


def test_the_last_of_several_interruptions_says_how_many_tries_are_left():
    running = make_task(State.RUNNING, tries=2)
    after = apply(running, interrupted(NOW, 0))

    assert (after.state, after.tries, after.started_at) == (State.PENDING, 0, None)


@pytest.mark.parametrize(
    ("asked", "part", "count", "images"), [(4, 0, 0, [0, 1, 2, 3]), (4, 1, 2, [1, 2]), (1, 0, 1, [0])]
)
def test_an_attempt_covers_the_images_of_its_part_or_all_of_them(asked, part, count, images):
    assert list(make_attempt(part=part, count=count).covers(asked)) == images


@pytest.mark.parametrize(("tries", "state"), [(0, State.PENDING), (1, State.RETRYING)])
def test_a_start_and_its_interruption_leave_the_task_where_it_was(tries, state):
    before = make_task(state, tries=tries, started_at=NOW - 4000 if tries else None, not_before=None)
    after = apply(apply(before, started(NOW, "flux", "flux-pro-1.1")), interrupted(NOW + 1))

    for same in ("state", "tries", "started_at", "not_before", "completed_at"):
        assert getattr(after, same) == getattr(before, same)
    assert after.version == before.version + 2


@pytest.mark.parametrize(
    ("move", "state", "output", "usage", "error_type"),
    [
        ("delivered", State.RUNNING, (PICTURE,), Usage(output_tokens=7), None),
        ("failed", State.PENDING, (), None, "provider_error"),
        ("failed", State.RUNNING, (), None, "provider_error"),
        ("failed", State.RETRYING, (), None, "provider_error"),
        ("cancelled", State.PENDING, (), None, "cancelled"),
        ("cancelled", State.RUNNING, (), None, "cancelled"),
        ("cancelled", State.RETRYING, (), None, "cancelled"),
        ("expired", State.PENDING, (), None, "expired"),
    ],
)
def test_an_ended_task_says_when_how_and_until_when_it_is_kept(move, state, output, usage, error_type):
    after = apply(make_task(state), MAKERS[move](NOW))

    assert after.is_terminal
    assert (after.completed_at, after.expires_at, after.not_before) == (NOW, NOW + 9, None)
    assert (after.output, after.usage) == (output, usage)
    assert (after.error.error_type if after.error else None) == error_type
    assert after.warnings[0] == "style was dropped"


def test_a_delivery_adds_its_warnings_to_those_of_the_submit():
    after = apply(make_task(State.RUNNING), MAKERS["delivered"](NOW))

    assert after.warnings == ("style was dropped", "1 of 2 images is missing")


def test_a_swept_task_loses_output_and_input_and_keeps_all_that_bears_cost():
    before = make_task(State.SUCCEEDED)
    after = apply(before, swept(NOW))

    assert (after.output, after.input) == ((), {})
    changed = {"state": State.EXPIRED, "version": 5, "updated_at": NOW, "output": (), "input": {}, "not_before": None}
    assert after == replace(before, **changed)
    assert (after.usage, after.completed_at, after.tries) == (Usage(10, None, None, 100), NOW - 1000, 2)


# -- attempts -------------------------------------------------------------------------------------------------------


def test_an_attempt_goes_from_intent_to_accepted_to_ended():
    handle = Handle("job-7", {"poll": "https://api.example.org/job-7"})
    intent = make_attempt()
    known = accepted(intent, handle, NOW + 5)
    over = ended(known, NOW + 9, "succeeded", Billed.YES, 40_000_000, http_status=200, output=(PICTURE,))

    assert (intent.state, intent.billing, intent.handle) == (AttemptState.INTENT, Billed.UNKNOWN, None)
    assert (known.state, known.handle, known.accepted_at) == (AttemptState.ACCEPTED, handle, NOW + 5)
    assert (over.state, over.handle, over.ended_at, over.outcome) == (AttemptState.ENDED, handle, NOW + 9, "succeeded")
    assert (over.billing, over.cost_nanos, over.http_status, over.output) == (Billed.YES, 40_000_000, 200, (PICTURE,))


def test_an_attempt_may_end_before_the_upstream_named_a_job():
    over = ended(make_attempt(), NOW, "unsent", Billed.NO, 0, estimated=True, detail="refused")

    assert (over.state, over.billing, over.cost_nanos) == (AttemptState.ENDED, Billed.NO, 0)
    assert (over.estimated, over.detail, over.handle) == (True, "refused", None)


def test_an_attempt_is_accepted_once_and_ends_once():
    known = accepted(make_attempt(), Handle("job-7"), NOW)
    over = ended(known, NOW, "lost", Billed.UNKNOWN, None)

    for attempt in (known, over):
        with pytest.raises(IllegalMove, match="not intent"):
            accepted(attempt, Handle("job-8"), NOW)
    with pytest.raises(IllegalMove, match="already ended"):
        ended(over, NOW, "succeeded", Billed.YES, 1)


# -- the bill -------------------------------------------------------------------------------------------------------


def end_as(outcome, billing, cost_nanos, n=1):
    """Return an attempt that ended so."""
    return ended(make_attempt(n=n), NOW, outcome, billing, cost_nanos)


WON = end_as("succeeded", Billed.YES, 40)
FREE = end_as("overloaded", Billed.NO, 0)
SPOILT = end_as("unusable", Billed.YES, 30)
BLIND = end_as("unknown", Billed.UNKNOWN, None)
UNPRICED = end_as("succeeded", Billed.YES, None)
KNOWN_JOB = accepted(make_attempt(), Handle("job-7"), NOW)

BILLS = {
    "nothing was tried": (State.PENDING, [], Bill(0, 0, Billed.NO)),
    "expired unstarted": (State.EXPIRED, [], Bill(0, 0, Billed.NO)),
    "one success": (State.SUCCEEDED, [WON], Bill(40, 0, Billed.YES)),
    "a success after a free failure": (State.SUCCEEDED, [FREE, WON], Bill(40, 0, Billed.YES)),
    "a success after a billed failure": (State.SUCCEEDED, [SPOILT, WON], Bill(70, 30, Billed.YES)),
    "two parts delivered": (State.SUCCEEDED, [WON, end_as("succeeded", Billed.YES, 2, n=2)], Bill(42, 0, Billed.YES)),
    "a part is there, another is out": (State.RUNNING, [WON, KNOWN_JOB], Bill(None, 0, Billed.UNKNOWN)),
    "a refusal that was charged": (State.FAILED, [end_as("refused", Billed.YES, 5)], Bill(5, 5, Billed.YES)),
    "only free failures": (State.FAILED, [FREE, FREE], Bill(0, 0, Billed.NO)),
    "an unknown outcome": (State.FAILED, [BLIND], Bill(None, 0, Billed.UNKNOWN)),
    "unknown beats billed": (State.SUCCEEDED, [BLIND, WON], Bill(None, 0, Billed.UNKNOWN)),
    "waste is counted beside an unknown": (State.FAILED, [SPOILT, BLIND], Bill(None, 30, Billed.UNKNOWN)),
    "billed, the amount unknown": (State.SUCCEEDED, [UNPRICED], Bill(None, 0, Billed.YES)),
    "an intent may have been sent": (State.RUNNING, [make_attempt()], Bill(None, 0, Billed.UNKNOWN)),
    "an accepted job is not settled": (State.RUNNING, [FREE, KNOWN_JOB], Bill(None, 0, Billed.UNKNOWN)),
    "cancelled before a try": (State.CANCELLED, [], Bill(0, 0, Billed.NO)),
    "cancelled, the attempt still heard": (State.CANCELLED, [KNOWN_JOB], Bill(None, 0, Billed.UNKNOWN)),
    "cancelled with a late success": (State.CANCELLED, [WON], Bill(40, 40, Billed.YES)),
    "failed with a late success": (State.FAILED, [FREE, WON], Bill(40, 40, Billed.YES)),
    "swept after a success": (State.EXPIRED, [SPOILT, WON], Bill(70, 30, Billed.YES)),
}


@pytest.mark.parametrize(("state", "attempts", "expected"), BILLS.values(), ids=BILLS)
def test_the_bill_says_what_was_paid_what_was_wasted_and_what_nobody_knows(state, attempts, expected):
    assert bill(make_task(state), attempts) == expected


# -- ids ------------------------------------------------------------------------------------------------------------


@given(now=st.integers(0, 2**48 - 1), seed=st.integers())
def test_an_id_is_a_uuid_of_version_7_that_carries_its_millisecond(now, seed):
    text = new_id(now, Random(seed))
    uuid = UUID(text.removeprefix("task_"))

    assert re.fullmatch(r"task_[0-9a-f]{32}", text)
    assert (uuid.version, uuid.variant, uuid.int >> 80) == (7, RFC_4122, now)


@given(now=st.integers(0, 2**48 - 2), later=st.integers(1, 10**12), seed=st.integers())
def test_an_id_of_a_later_millisecond_sorts_later(now, later, seed):
    dice = Random(seed)
    then = min(now + later, 2**48 - 1)

    assert new_id(now, dice) < new_id(then, dice)


def test_ids_of_one_millisecond_differ():
    dice = Random(7)

    assert len({new_id(NOW, dice) for _ in range(1000)}) == 1000


def test_an_id_takes_the_prefix_it_is_given():
    assert canonical_id(new_id(NOW, Random(7), "video_")) == new_id(NOW, Random(7))
    assert new_id(NOW, Random(7), "evt_").startswith("evt_")


@pytest.mark.parametrize("prefix", ["task_", "imgtask_", "video_"])
def test_the_three_spellings_are_one_id(prefix):
    assert canonical_id(prefix + HEX) == f"task_{HEX}"


@pytest.mark.parametrize(
    "text",
    ["", HEX, "task_", f"task_{HEX[1:]}", f"task_{HEX}0", f"task_{HEX.upper()}", f"job_{HEX}", f"task_task_{HEX}",
     f" task_{HEX}", f"task_{HEX}\n", f"TASK_{HEX}", f"task_{UUID(HEX)}", f"task_{'g' * 32}", f"task_{'٣' * 32}"],
)  # fmt: skip
def test_what_is_not_an_id_is_not_read_as_one(text):
    assert canonical_id(text) is None


# -- money ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, NANOS_MAX))
def test_an_amount_survives_being_written_and_read(nanos):
    text = usd_of(nanos)

    assert nanos_of(text) == nanos
    assert nanos_of(Decimal(text)) == nanos
    assert re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text)


@given(st.integers(1, NANOS_MAX))
def test_a_negative_amount_is_written_with_its_sign_and_never_read(nanos):
    assert usd_of(-nanos) == f"-{usd_of(nanos)}"
    with pytest.raises(ValueError, match="not an amount"):
        nanos_of(usd_of(-nanos))


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0"), (1, "0.000000001"), (40_000_000, "0.04"), (1_000_000_000, "1"), (20_500_000_000, "20.5"),
     (10_000_000_000, "10"), (-500_000_000, "-0.5"), (NANOS_MAX, "9223372036.854775807"), (None, None)],
)  # fmt: skip
def test_money_is_written_without_exponent_or_trailing_zeros_and_unknown_stays_unknown(nanos, text):
    assert usd_of(nanos) == text


@pytest.mark.parametrize(
    ("usd", "nanos"),
    [("0", 0), (0, 0), (20, 20_000_000_000), ("0.030", 30_000_000), ("4e-2", 40_000_000), ("1E+2", 100_000_000_000),
     (Decimal("0.000000001"), 1), ("-0", 0), ("9223372036.854775807", NANOS_MAX)],
)  # fmt: skip
def test_money_is_read_exactly(usd, nanos):
    assert nanos_of(usd) == nanos


@pytest.mark.parametrize(
    "usd",
    ["-0.01", -1, "NaN", "sNaN", "Infinity", "-inf", "", "four", "1,5", "$1", "0.0000000001", "1.0000000005",
     "9223372036.854775808", 10**12, Decimal("0.0300000001")],
)  # fmt: skip
def test_an_amount_that_cannot_be_held_exactly_is_refused(usd):
    with pytest.raises(ValueError, match=re.escape(repr(usd))):
        nanos_of(usd)


def test_the_word_of_a_priority_is_its_name_and_urgent_goes_first():
    assert [priority.word for priority in sorted(Priority)] == ["urgent", "high", "normal", "low"]


@pytest.mark.parametrize(
    "text", ["1e999999", "1e-9999999", "1.0000000000000000000000000000000001", "9223372036.8547758071"]
)
def test_an_amount_that_arithmetic_would_round_is_refused(text):
    with pytest.raises(ValueError, match="nano-USD"):
        nanos_of(text)
