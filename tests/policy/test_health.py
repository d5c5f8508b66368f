"""The breaker's policy as tables, and a state machine that plays attempts against it in any order and holds it to what
its prose promises: nothing goes to an open target, one probe at a time, and nobody who started before the last move has
a say.
"""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from router.policy.health import Account, Bar, Circuit, CircuitState, Outlook, Transition
from router.policy.rules import Breaker

CLOSED, HALF_OPEN, OPEN = CircuitState.CLOSED, CircuitState.HALF_OPEN, CircuitState.OPEN
POLICY = Breaker(consecutive_failures=3, failure_rate=0.5, minimum=10, window_s=60.0, open_for_s=30.0, open_max_s=100.0)
LEASE_S = 200.0


def play(circuit, letters, now=0.0, step_s=0.0, jitter=0.0):
    """Make one attempt per letter, each ended before the next: s(uccess), f(ailure), t(hrottle), n(eutral), l(ong).

    Returns the instant after the last and the moves made.
    """
    moves = []
    for letter in letters:
        ticket = circuit.admit(now, LEASE_S)
        assert ticket is not None, f"an attempt was not admitted at {now}"
        moved = end(circuit, letter, ticket, now, jitter)
        moves += [one for one in (ticket.moved, moved) if one is not None]
        now += step_s
    return now, moves


def end(circuit, letter, ticket, now, jitter):
    match letter:
        case "s":
            return circuit.succeeded(ticket, now)
        case "f":
            return circuit.failed(ticket, now, jitter)
        case "t":
            return circuit.throttled(ticket, now)
        case "l":
            return circuit.open_long(ticket, now)
        case "n":
            return circuit.returned(ticket)
    raise AssertionError(letter)


def opened(jitter=0.0):
    circuit = Circuit(POLICY)
    play(circuit, "fff", jitter=jitter)
    assert circuit.state is OPEN
    return circuit


@pytest.mark.parametrize(
    ("letters", "step_s", "state"),
    [
        ("ff", 0, CLOSED),
        ("fff", 0, OPEN),
        ("ffsff", 0, CLOSED),
        ("ffnnnttf", 0, OPEN),  # neither a refusal nor a throttle interrupts a row of failures
        ("nnnnnnnnnnnnnnnn", 0, CLOSED),
        ("tttttttttttttttt", 0, CLOSED),
        ("ffsffsffs", 0, CLOSED),  # six of nine failed, and nine are too few
        ("ffsffsffsf", 0, OPEN),  # seven of ten
        ("ffsffsffsnnnn", 0, CLOSED),  # four neutral ones do not make nine a sample
        ("sfsfsfsfsf", 0, OPEN),  # five of ten is half
        ("ssfsfsfsfsf", 0, CLOSED),  # five of eleven is less
        ("sfsfsfsfsf", 20, CLOSED),  # no more than three of them within a minute
        ("fff", 1000, OPEN),  # a row has no window
    ],
)
def test_a_circuit_opens_on_failures_in_a_row_or_on_their_share_of_a_sample(letters, step_s, state):
    circuit = Circuit(POLICY)
    play(circuit, letters, step_s=step_s)

    assert circuit.state is state


def test_an_open_circuit_admits_nobody_until_its_time_is_over():
    circuit = opened()

    assert circuit.outlook(29.0) == Outlook(OPEN, Bar.OPEN, 1.0)
    assert circuit.admit(29.999, LEASE_S) is None
    assert circuit.outlook(30.0) == Outlook(OPEN, probe=True)


def test_a_half_open_circuit_admits_one_probe_of_two_hundred():
    circuit = opened()
    tickets = [circuit.admit(30.0, LEASE_S) for _ in range(200)]

    assert [ticket is not None for ticket in tickets] == [True] + [False] * 199
    assert tickets[0].probe
    assert tickets[0].moved == Transition(OPEN, HALF_OPEN)
    assert circuit.outlook(40.0) == Outlook(HALF_OPEN, Bar.PROBING, LEASE_S - 10, probing_for_s=10.0)


def test_a_probe_that_succeeds_closes():
    circuit = opened()
    _now, moves = play(circuit, "s", now=30.0)

    assert moves == [Transition(OPEN, HALF_OPEN), Transition(HALF_OPEN, CLOSED)]
    assert circuit.outlook(30.0) == Outlook(CLOSED)


def test_each_failed_probe_doubles_the_time_up_to_the_most():
    circuit, now, lengths = opened(), 30.0, []
    for _ in range(4):
        _now, moves = play(circuit, "f", now=now)
        lengths.append(moves[-1].open_for_s)
        now += lengths[-1]

    assert lengths == [60.0, 100.0, 100.0, 100.0]


def test_jitter_takes_off_at_most_a_fifth():
    assert opened(jitter=0.0).outlook(0.0).ready_in_s == 30.0
    assert opened(jitter=0.5).outlook(0.0).ready_in_s == pytest.approx(27.0)
    assert opened(jitter=0.999999).outlook(0.0).ready_in_s == pytest.approx(24.0, abs=0.001)


def test_the_time_is_short_again_after_a_whole_window_without_an_opening():
    shaky, stable = opened(), opened()
    for circuit in (shaky, stable):
        play(circuit, "f", now=30.0)
        play(circuit, "s", now=90.0)

    assert play(shaky, "fff", now=149.0)[1][-1].open_for_s == 100.0
    assert play(stable, "fff", now=150.0)[1][-1].open_for_s == 30.0


def test_a_throttled_probe_goes_back_for_the_same_time_and_is_not_held_against_the_target():
    circuit = opened()
    _now, moves = play(circuit, "t", now=30.0)
    assert moves[-1] == Transition(HALF_OPEN, OPEN, 30.0)

    assert play(circuit, "f", now=60.0)[1][-1].open_for_s == 60.0


def test_a_probe_that_says_nothing_leaves_its_right_to_the_next():
    circuit = opened()
    first = circuit.admit(30.0, LEASE_S)
    circuit.returned(first)
    second = circuit.admit(31.0, LEASE_S)

    assert second.probe
    assert second.moved is None
    assert circuit.succeeded(first, 32.0) is None
    assert circuit.succeeded(second, 32.0) == Transition(HALF_OPEN, CLOSED)


def test_a_lease_that_ran_out_frees_the_probe_and_its_holder_has_no_say():
    circuit = opened()
    lost = circuit.admit(30.0, LEASE_S)
    assert circuit.admit(30.0 + LEASE_S - 1, LEASE_S) is None
    heir = circuit.admit(30.0 + LEASE_S, LEASE_S)

    assert heir.probe
    assert circuit.succeeded(lost, 300.0) is None
    assert circuit.failed(lost, 300.0, 0.0) is None
    assert circuit.outlook(300.0).bar is Bar.PROBING


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, CLOSED])
def test_whoever_started_before_the_opening_neither_closes_nor_extends_it(state):
    circuit = Circuit(POLICY)
    early = [circuit.admit(0.0, LEASE_S) for _ in range(20)]
    play(circuit, "fff")
    if state is not OPEN:
        probe = circuit.admit(30.0, LEASE_S)
        if state is CLOSED:
            circuit.succeeded(probe, 30.0)
    before = circuit.outlook(30.0)

    for ticket in early:
        assert circuit.failed(ticket, 30.0, 0.0) is None
        assert circuit.succeeded(ticket, 30.0) is None
        assert circuit.throttled(ticket, 30.0) is None
        assert circuit.open_long(ticket, 30.0) is None
        circuit.returned(ticket)
    assert circuit.outlook(30.0) == before
    assert circuit.state is state


def test_a_model_unknown_upstream_opens_long_and_doubles_to_an_hour():
    circuit, now, lengths = Circuit(POLICY), 0.0, []
    for _ in range(5):
        _now, moves = play(circuit, "l", now=now)
        lengths.append(moves[-1].open_for_s)
        now += lengths[-1]
    play(circuit, "s", now=now)
    again = play(circuit, "l", now=now)[1][-1].open_for_s

    assert lengths == [600.0, 1200.0, 2400.0, 3600.0, 3600.0]
    assert again == 600.0


def test_many_at_once_that_find_the_model_unknown_count_as_one():
    circuit = Circuit(POLICY)
    tickets = [circuit.admit(0.0, LEASE_S) for _ in range(16)]
    moves = [circuit.open_long(ticket, 1.0) for ticket in tickets]

    assert [move for move in moves if move] == [Transition(CLOSED, OPEN, 600.0)]


def test_an_operator_pins_a_circuit_open_until_it_is_reset():
    circuit = Circuit(POLICY)
    early = circuit.admit(0.0, LEASE_S)

    assert circuit.force_open() == Transition(CLOSED, OPEN, math.inf)
    assert circuit.succeeded(early, 0.0) is None
    assert circuit.outlook(1e9) == Outlook(OPEN, Bar.FORCED_OPEN, math.inf)
    assert circuit.admit(1e9, LEASE_S) is None
    assert circuit.reset() == Transition(OPEN, CLOSED)
    assert circuit.admit(1e9, LEASE_S) is not None


def test_an_operator_pins_a_circuit_closed_until_it_is_reset():
    circuit = opened()

    assert circuit.force_close() == Transition(OPEN, CLOSED)
    play(circuit, "ffffflf")
    assert circuit.state is CLOSED
    assert circuit.reset() is None
    play(circuit, "fff")
    assert circuit.state is OPEN


def test_a_reset_forgets_how_often_it_had_opened():
    circuit = opened()
    play(circuit, "f", now=30.0)
    circuit.reset()

    assert play(circuit, "fff", now=40.0)[1][-1].open_for_s == 30.0


def test_a_new_policy_holds_from_the_next_outcome_on():
    circuit = opened()
    circuit.adopt(Breaker(consecutive_failures=1, window_s=10.0, open_for_s=5.0, open_max_s=7.0))

    assert circuit.outlook(0.0).ready_in_s == 30.0
    assert play(circuit, "f", now=30.0)[1][-1].open_for_s == 7.0


def test_an_attempt_of_an_earlier_life_counts_only_while_the_circuit_is_closed():
    closed, half_open = Circuit(POLICY), opened()
    for _ in range(3):
        closed.failed(closed.join(), 0.0, 0.0)
    half_open.admit(30.0, LEASE_S)

    assert closed.state is OPEN
    assert half_open.succeeded(half_open.join(), 30.0) is None


@pytest.mark.parametrize("before", [CLOSED, HALF_OPEN, OPEN])
@pytest.mark.parametrize("after", [CLOSED, OPEN])
def test_a_move_of_another_daemon_is_made_here_and_makes_the_past_of_what_is_out(before, after):
    circuit = Circuit(POLICY) if before is CLOSED else opened()
    early = circuit.join() if before is not HALF_OPEN else circuit.admit(30.0, LEASE_S)
    moved = circuit.follow(after, 40.0, open_for_s=12.0, openings=2)

    assert moved == (None if before is after else Transition(before, after, 12.0 if after is OPEN else 0.0))
    assert circuit.succeeded(early, 41.0) is None
    assert [circuit.failed(early, 41.0, 0.0) for _ in range(5)] == [None] * 5
    circuit.returned(early)
    assert circuit.outlook(41.0) == (Outlook(CLOSED) if after is CLOSED else Outlook(OPEN, Bar.OPEN, 11.0))
    assert circuit.openings == 2


def test_the_time_goes_on_doubling_from_the_openings_of_another_daemon():
    circuit = Circuit(POLICY)
    circuit.follow(OPEN, 0.0, open_for_s=30.0, openings=1)
    assert play(circuit, "f", now=30.0)[1][-1].open_for_s == 60.0

    circuit.follow(CLOSED, 50.0, openings=2)
    assert play(circuit, "fff", now=51.0)[1][-1].open_for_s == 100.0
    circuit.follow(CLOSED, 200.0, openings=2)
    assert play(circuit, "fff", now=261.0)[1][-1].open_for_s == 30.0  # closed for a whole window


def test_a_throttled_probe_goes_back_for_the_time_that_another_daemon_gave():
    circuit = Circuit(POLICY)
    circuit.follow(OPEN, 0.0, open_for_s=12.0, openings=1)

    assert play(circuit, "t", now=12.0)[1][-1].open_for_s == 12.0


@pytest.mark.parametrize("state", [CLOSED, OPEN])
def test_a_pin_of_another_daemon_holds_until_somebody_ends_it(state):
    circuit = opened()
    circuit.follow(state, 0.0, open_for_s=math.inf, openings=3, pinned=True)
    assert (circuit.is_forced, circuit.openings) == (True, 0)
    assert circuit.outlook(1e9) == (Outlook(CLOSED) if state is CLOSED else Outlook(OPEN, Bar.FORCED_OPEN, math.inf))

    circuit.follow(CLOSED, 50.0)
    assert not circuit.is_forced
    play(circuit, "fff", now=51.0)
    assert circuit.state is OPEN


def test_only_a_probe_of_the_present_is_awaited():
    circuit = Circuit(POLICY)
    early = circuit.admit(0.0, LEASE_S)
    play(circuit, "fff")
    probe = circuit.admit(30.0, LEASE_S)

    assert [circuit.awaits(ticket) for ticket in (early, probe, circuit.join())] == [False, True, False]
    circuit.succeeded(probe, 31.0)
    assert not circuit.awaits(probe)


def test_an_account_rests_ten_minutes_doubling_to_an_hour_and_comes_back_by_one_probe():
    account, now, lengths = Account(), 0.0, []
    for _ in range(5):
        tickets = [ticket for ticket in (account.admit(now, LEASE_S) for _ in range(8)) if ticket]
        moves = [account.refused(ticket, now, "insufficient balance") for ticket in tickets]
        lengths += [(len(tickets), move.open_for_s) for move in moves if move]
        now += lengths[-1][1]

    assert lengths == [(8, 600.0), (1, 1200.0), (1, 2400.0), (1, 3600.0), (1, 3600.0)]
    assert account.detail == "insufficient balance"
    assert account.accepted(account.admit(now, LEASE_S), now) == Transition(HALF_OPEN, CLOSED)
    assert account.detail == ""


def test_an_account_that_is_restored_is_good_at_once_and_late_refusals_do_not_count():
    account = Account()
    late, first = account.admit(0.0, LEASE_S), account.admit(0.0, LEASE_S)
    account.refused(first, 0.0, "quota")
    assert account.outlook(1.0) == Outlook(OPEN, Bar.OPEN, 599.0)
    account.restore()

    assert account.outlook(1.0) == Outlook(CLOSED)
    assert account.refused(late, 1.0, "quota") is None


class CircuitMachine(RuleBasedStateMachine):
    """Attempts start and end in any order. The model keeps every counted outcome in a plain list."""

    tickets = Bundle("tickets")

    def __init__(self):
        super().__init__()
        self.policy = Breaker(
            consecutive_failures=4, failure_rate=0.5, minimum=6, window_s=10.0, open_for_s=8.0, open_max_s=20.0
        )
        self.circuit = Circuit(self.policy)
        self.now = 0.0
        self.moves = 0  # of the model: a ticket from before the last one is of the past
        self.state = CLOSED
        self.counted = []  # (step, failed) since the circuit closed
        self.open_until = None
        self.lease = None  # (ticket's turn, until)

    @rule(passed=st.integers(0, 12))
    def wait(self, passed):
        self.now += passed

    @rule(target=tickets, lease_s=st.integers(1, 30))
    def start(self, lease_s):
        ticket = self.circuit.admit(self.now, lease_s)
        ready = self.state is OPEN and self.now >= self.open_until
        free = self.state is HALF_OPEN and (self.lease is None or self.now >= self.lease[1])
        if self.state is CLOSED:
            assert not ticket.probe
        elif ready or free:
            assert ticket.probe
            self.moves += 1
            self.state, self.lease = HALF_OPEN, (self.moves, self.now + lease_s)
        else:
            assert ticket is None
        return (ticket, self.moves)

    @rule(attempt=consumes(tickets), jitter=st.sampled_from([0.0, 0.5, 0.99]))
    def fail(self, attempt, jitter):
        ticket, turn = attempt
        if ticket is None:
            return
        moved = self.circuit.failed(ticket, self.now, jitter)
        if turn != self.moves:
            assert moved is None
            return
        if self.state is CLOSED:
            self.counted.append((self.now, True))
        trips = self.state is HALF_OPEN or self.is_too_much()
        assert (moved is not None) == trips
        if trips:
            assert 0.8 * self.policy.open_for_s <= moved.open_for_s <= self.policy.open_max_s
            self.open(moved.open_for_s)

    @rule(attempt=consumes(tickets))
    def succeed(self, attempt):
        ticket, turn = attempt
        if ticket is None:
            return
        moved = self.circuit.succeeded(ticket, self.now)
        if turn != self.moves:
            assert moved is None
        elif self.state is HALF_OPEN:
            assert moved == Transition(HALF_OPEN, CLOSED)
            self.moves += 1
            self.state, self.counted, self.lease = CLOSED, [], None
        else:
            self.counted.append((self.now, False))

    @rule(attempt=consumes(tickets))
    def throttle(self, attempt):
        ticket, turn = attempt
        if ticket is None:
            return
        moved = self.circuit.throttled(ticket, self.now)
        assert (moved is not None) == (turn == self.moves and self.state is HALF_OPEN)
        if moved is not None:
            self.open(moved.open_for_s)

    @rule(attempt=consumes(tickets))
    def come_to_nothing(self, attempt):
        ticket, turn = attempt
        if ticket is None:
            return
        self.circuit.returned(ticket)
        if turn == self.moves and self.state is HALF_OPEN:
            self.lease = None

    @precondition(lambda self: self.state is OPEN)
    @rule()
    def wait_until_it_may_be_probed(self):
        self.now = max(self.now, self.open_until)

    @rule()
    def be_reset(self):
        assert (self.circuit.reset() is not None) == (self.state is not CLOSED)
        self.moves += 1
        self.state, self.counted, self.lease = CLOSED, [], None

    @rule(opens=st.booleans(), left_s=st.integers(0, 20), openings=st.integers(0, 5))
    def be_moved_by_another_daemon(self, opens, left_s, openings):
        state = OPEN if opens else CLOSED
        moved = self.circuit.follow(state, self.now, open_for_s=left_s, openings=openings)
        assert (moved is not None) == (self.state is not state)
        if opens:
            self.open(left_s)
        else:
            self.moves += 1
            self.state, self.counted, self.lease = CLOSED, [], None

    @invariant()
    def it_stands_as_the_model_does(self):
        assert self.circuit.state is self.state
        outlook = self.circuit.outlook(self.now)
        if self.state is OPEN:
            assert (outlook.bar is Bar.OPEN) == (self.now < self.open_until)
        assert (outlook.bar is None) == (self.circuit.outlook(self.now).ready_in_s == 0)

    def open(self, open_for_s):
        self.moves += 1
        self.state, self.open_until, self.counted, self.lease = OPEN, self.now + open_for_s, [], None

    def is_too_much(self):
        """Recount from the list: the last four in a row, or half of at least six in the last ten steps of a second."""
        failures = [failed for _at, failed in self.counted]
        if len(failures) >= 4 and all(failures[-4:]):
            return True
        recent = [failed for at, failed in self.counted if math.floor(at) > math.floor(self.now) - 10]
        return len(recent) >= 6 and sum(recent) >= len(recent) / 2


TestCircuitMachine = CircuitMachine.TestCase
TestCircuitMachine.settings = settings(max_examples=150, stateful_step_count=60)
