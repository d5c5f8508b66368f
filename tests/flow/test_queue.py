"""The order of the queue under a fake clock: each rule by example, the promises of fairness as small simulations."""

from collections import Counter

import pytest

from router.flow.queue import Entry, Queue
from router.provider import Kind
from router.task import Priority, Task
from tests.flow.ticking import ALL_LANES, Clock

URGENT, HIGH, NORMAL, LOW = Priority


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    return Queue(window=10_000, monotonic=clock)


def entry(task_id, tenant="t", priority=NORMAL, created_at=0):
    return Entry(str(task_id), tenant, priority, created_at)


def drain(queue, clock, lanes=ALL_LANES, blocked=()):
    taken = []
    while (one := queue.pop(clock.now, lanes, blocked)) is not None:
        taken.append(one.task_id)
    return taken


# -- the order ------------------------------------------------------------------------------------------------------


def test_the_better_class_goes_first_then_the_older_then_the_smaller_id(queue, clock):
    queue.push(entry("d", priority=LOW, created_at=1))
    queue.push(entry("c", priority=NORMAL, created_at=3))
    queue.push(entry("b", priority=NORMAL, created_at=2))
    queue.push(entry("a", priority=NORMAL, created_at=3))
    queue.push(entry("f", priority=URGENT, created_at=9))
    queue.push(entry("e", priority=HIGH, created_at=8))

    assert drain(queue, clock) == ["f", "e", "b", "a", "c", "d"]
    assert len(queue) == 0


def test_tenants_take_turns_inside_a_class_however_many_tasks_they_have(queue, clock):
    for n in range(5):
        queue.push(entry(f"a{n}", "a", created_at=n))
    for n in range(2):
        queue.push(entry(f"b{n}", "b", created_at=100 + n))

    assert drain(queue, clock) == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


def test_turns_are_shared_by_weight(queue, clock):
    queue.set_weights({"heavy": 3, "*": 1})
    for n in range(400):
        queue.push(entry(f"h{n}", "heavy"))
        queue.push(entry(f"l{n}", "light"))

    first = Counter(queue.pop(clock.now, ALL_LANES).tenant for _ in range(200))
    assert first == {"heavy": 150, "light": 50}


def test_a_changed_weight_counts_for_what_waits_already(queue, clock):
    for n in range(400):
        queue.push(entry(f"h{n}", "heavy"))
        queue.push(entry(f"l{n}", "light"))
    queue.set_weights({"heavy": 3})

    first = Counter(queue.pop(clock.now, ALL_LANES).tenant for _ in range(200))
    assert first["heavy"] in {149, 150, 151}


def test_a_tenant_that_comes_back_has_saved_up_no_turns(queue, clock):
    for n in range(100):
        queue.push(entry(f"a{n}", "a"))
    for _ in range(50):
        queue.pop(clock.now, ALL_LANES)
    for n in range(20):
        queue.push(entry(f"b{n}", "b"))

    assert Counter(queue.pop(clock.now, ALL_LANES).tenant for _ in range(20)) == {"a": 10, "b": 10}


def test_a_tenant_with_one_task_at_a_time_gets_no_more_than_its_share(queue, clock):
    for n in range(100):
        queue.push(entry(f"a{n}", "a"))
    served = Counter()
    for n in range(40):
        if not queue.contains(f"b{n - 1}"):
            queue.push(entry(f"b{n}", "b"))
        served[queue.pop(clock.now, ALL_LANES).tenant] += 1

    assert served == {"a": 20, "b": 20}


def test_a_blocked_tenant_is_passed_over_and_gets_its_turns_not_back(queue, clock):
    for n in range(100):
        queue.push(entry(f"a{n}", "a"))
        queue.push(entry(f"b{n}", "b"))

    assert {queue.pop(clock.now, ALL_LANES, {"a"}).tenant for _ in range(50)} == {"b"}
    assert Counter(queue.pop(clock.now, ALL_LANES).tenant for _ in range(20))["a"] in {10, 11}
    assert queue.pop(clock.now, ALL_LANES, {"a", "b"}) is None


def test_a_blocked_key_is_passed_over_and_its_tenant_keeps_its_turns(queue, clock):
    for n in range(50):
        queue.push(Entry(f"limited{n}", "a", NORMAL, n, key_id="limited"))
        queue.push(Entry(f"free{n}", "a", NORMAL, 100 + n, key_id="free"))
        queue.push(Entry(f"other{n}", "b", NORMAL, 200 + n))

    taken = [queue.pop(clock.now, ALL_LANES, (), {"limited"}) for _ in range(20)]
    assert Counter(one.tenant for one in taken) == {"a": 10, "b": 10}
    assert {one.key_id for one in taken if one.tenant == "a"} == {"free"}
    assert queue.pop(clock.now, ALL_LANES, {"b"}, {"limited", "free"}) is None
    assert queue.pop(clock.now, ALL_LANES).task_id == "limited0"


def test_a_class_of_blocked_keys_does_not_rise(queue, clock):
    queue.push(Entry("old", "t", LOW, 0, key_id="limited"))
    clock.now += 1_000
    queue.push(Entry("new", "t", LOW, 1, key_id="free"))
    queue.push(Entry("urgent", "t", URGENT, 2))

    taken = []
    while (one := queue.pop(clock.now, ALL_LANES, (), {"limited"})) is not None:
        taken.append(one.task_id)
    assert taken == ["urgent", "new"]


def test_a_class_of_blocked_tenants_does_not_rise(queue, clock):
    queue.push(entry("old", "blocked", LOW))
    clock.now += 500
    queue.push(entry("new", "free", LOW))
    queue.push(entry("urgent", "free", URGENT))

    assert drain(queue, clock, blocked={"blocked"}) == ["urgent", "new"]


# -- ageing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited_s", "order"),
    [
        (0, ["u", "h", "n", "low"]),
        (149, ["u", "h", "n", "low"]),
        (150, ["u", "h", "low", "n"]),  # level with normal, and longer not served
        (300, ["u", "low", "h", "n"]),
        (450, ["low", "u", "h", "n"]),
        (10_000, ["low", "u", "h", "n"]),
    ],
)
def test_a_class_rises_by_one_level_for_each_150_s_of_its_oldest_entry(queue, clock, waited_s, order):
    queue.push(entry("low", priority=LOW))
    for priority in (URGENT, HIGH, NORMAL):
        queue.push(entry("served before", priority=priority))
        queue.pop(clock.now, ALL_LANES)
    clock.now += waited_s
    for priority in (URGENT, HIGH, NORMAL):
        queue.push(entry(priority.word[0], priority=priority))

    assert drain(queue, clock) == order


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("urgent_per_s", [1, 4])
def test_low_starts_within_600_s_against_an_endless_stream_of_urgent_ones(queue, clock, urgent_per_s, own):
    queue.push(entry("low", "quiet", LOW, created_at=0))
    began = clock.now
    for second in range(600):
        for n in range(urgent_per_s):
            queue.push(entry(f"u{second}.{n}", "quiet" if own else f"loud{n}", URGENT, created_at=second + 1))
        if queue.pop(clock.now, ALL_LANES).task_id == "low":
            break
        clock.now += 1

    assert not queue.contains("low")
    assert clock.now - began >= 450  # and no sooner than its age allows


def test_every_one_of_many_low_tasks_starts_within_600_s_of_an_urgent_stream_that_alone_would_fill_everything(clock):
    queue = Queue(window=10_000, monotonic=clock)
    pushed, waited = {}, []
    for second in range(3_000):
        queue.push(entry(f"u{second}", "loud", URGENT, created_at=second))
        if second % 10 == 0:
            queue.push(entry(f"l{second}", "quiet", LOW, created_at=second))
            pushed[f"l{second}"] = clock.now
        taken = queue.pop(clock.now, ALL_LANES)
        if taken.task_id in pushed:
            waited.append(clock.now - pushed.pop(taken.task_id))
        clock.now += 1

    assert max(waited) <= 600
    assert all(clock.now - at <= 600 for at in pushed.values())


@pytest.mark.parametrize("late_s", [0, 60, 160, 400, 460])
def test_ten_tasks_beside_five_thousand_of_another_tenant_wait_at_most_twice_as_long_as_alone(clock, late_s):
    queue = Queue(window=10_000, monotonic=clock)
    for n in range(5_000):
        queue.push(entry(f"a{n:04}", "a", created_at=n))
    for _ in range(10 * late_s):  # ten a second are served meanwhile, so that the thousands have aged
        clock.now += 0.1
        queue.pop(clock.now, ALL_LANES)
    for n in range(10):
        queue.push(entry(f"b{n}", "b", created_at=5_000 + n))

    places = [place for place, task_id in enumerate(drain(queue, clock), start=1) if task_id.startswith("b")]
    alone = range(1, 11)
    assert all(place <= 2 * own for place, own in zip(places, alone, strict=True))


def test_who_was_taken_and_found_no_place_keeps_its_age(queue, clock):
    queue.push(entry("low", priority=LOW))
    clock.now += 300
    back = queue.pop(clock.now, ALL_LANES)
    queue.push(back, lane="alpha")
    clock.now += 150
    queue.push(entry("urgent", priority=URGENT), lane="alpha")

    assert drain(queue, clock) == ["low", "urgent"]


def test_waiting_for_its_time_makes_nobody_older(queue, clock):
    queue.push(entry("low", priority=LOW), not_before_s=400.0)
    clock.now += 450
    queue.push(entry("high", priority=HIGH))

    assert drain(queue, clock) == ["high", "low"]


# -- lanes and timers -----------------------------------------------------------------------------------------------


def test_only_open_lanes_are_looked_at_and_an_entry_says_where_it_waited(queue, clock):
    queue.push(entry("a", priority=URGENT), lane="alpha")
    queue.push(entry("b", priority=LOW), lane="beta")
    queue.push(entry("n", priority=NORMAL))

    assert queue.pop(clock.now, ()) is None
    assert queue.pop(clock.now, ("beta", "unheard of")) == Entry("b", "t", LOW, 0, "beta")
    assert queue.pop(clock.now, {None}) == entry("n")
    assert queue.pop(clock.now, {None, "beta"}) is None
    assert (queue.waiting_in("alpha"), queue.waiting_in("beta")) == (1, 0)
    assert queue.pop(clock.now, {"alpha"}).lane == "alpha"


def test_the_best_head_of_the_open_lanes_goes_first(queue, clock):
    queue.push(entry("a2", priority=NORMAL, created_at=5), lane="alpha")
    queue.push(entry("b1", priority=NORMAL, created_at=4), lane="beta")
    queue.push(entry("n1", priority=HIGH, created_at=9))
    queue.push(entry("a1", priority=HIGH, created_at=8), lane="alpha")

    assert drain(queue, clock) == ["a1", "n1", "b1", "a2"]


def test_shares_of_one_lane_are_not_spent_in_another(queue, clock):
    for n in range(50):
        queue.push(entry(f"a{n}", "a"), lane="alpha")
    for _ in range(40):
        queue.pop(clock.now, {"alpha"})
    for tenant in "ab":
        for n in range(10):
            queue.push(entry(f"{tenant}{n}-beta", tenant), lane="beta")

    assert Counter(queue.pop(clock.now, {"beta"}).tenant for _ in range(10)) == {"a": 5, "b": 5}


def test_an_entry_waits_for_its_time_and_then_in_its_lane(queue, clock):
    queue.push(entry("later"), lane="alpha", not_before_s=30.0)
    queue.push(entry("soon"), not_before_s=10.0)
    assert queue.next_due(clock.now) == clock.now + 10
    assert queue.pop(clock.now, ALL_LANES) is None

    clock.now += 9.999
    assert queue.pop(clock.now, ALL_LANES) is None
    clock.now += 0.001
    assert drain(queue, clock) == ["soon"]
    assert queue.next_due(clock.now) == clock.now + 20
    clock.now += 50
    assert queue.next_due(clock.now) == clock.now
    assert queue.pop(clock.now, {None}) is None
    assert queue.next_due(clock.now) is None
    assert drain(queue, clock) == ["later"]


@pytest.mark.parametrize("not_before_s", [None, 0.0, -5.0])
def test_a_time_that_has_come_makes_an_entry_runnable_at_once(queue, clock, not_before_s):
    queue.push(entry("x"), not_before_s=not_before_s)

    assert queue.next_due(clock.now) is None
    assert drain(queue, clock) == ["x"]


def test_a_crowd_whose_time_comes_at_once_is_let_in_whole(queue, clock):
    for n in range(5_000):
        queue.push(entry(n), not_before_s=60.0)
    clock.now += 60

    assert len(drain(queue, clock)) == 5_000


def test_pushing_again_moves_an_entry(queue, clock):
    queue.push(entry("x"), not_before_s=60.0)
    queue.push(entry("x"), lane="alpha")
    queue.push(entry("x"), lane="beta")

    assert (len(queue), queue.next_due(clock.now), queue.waiting_in("alpha")) == (1, None, 0)
    assert drain(queue, clock) == ["x"]


# -- the window -----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_not_kept_and_the_queue_says_so(clock):
    queue = Queue(window=100, monotonic=clock)
    kept = [n for n in range(1_000) if queue.push(entry(n, f"t{n % 50}"))]

    assert len(kept) == len(queue) == queue.depth(NORMAL) == 100
    assert queue.overflowed
    assert queue.push(entry("other class", priority=LOW))
    assert not queue.contains("999")


def test_one_tenant_leaves_places_for_others(clock):
    queue = Queue(window=100, monotonic=clock)
    kept = sum(queue.push(entry(f"a{n}", "a")) for n in range(1_000))

    assert kept == 80
    assert all(queue.push(entry(f"b{n}", "b")) for n in range(10))


def test_taken_and_removed_entries_make_room(clock):
    queue = Queue(window=1, monotonic=clock)

    assert queue.push(entry("x"))
    assert not queue.push(entry("y"))
    assert queue.remove("x")
    assert queue.push(entry("y"))
    assert queue.pop(clock.now, ALL_LANES).task_id == "y"
    assert queue.push(entry("z"))


def test_rows_of_the_store_that_are_not_inside_are_named(queue):
    queue.push(entry("task_1"))
    queue.push(entry("task_2"), not_before_s=5.0)
    rows = [Task(f"task_{n}", "t", Kind.IMAGE_GENERATION, "m", {}, "native", "/v1/tasks", NORMAL, 0) for n in range(4)]

    assert [row.id for row in queue.missing(rows)] == ["task_0", "task_3"]


# -- questions and removal ------------------------------------------------------------------------------------------


def test_a_removed_entry_is_gone_wherever_it_waited(queue, clock):
    queue.push(entry("head", created_at=1))
    queue.push(entry("tail", created_at=2))
    queue.push(entry("other", "o"), lane="alpha")
    queue.push(entry("later"), not_before_s=5.0)

    assert [queue.remove(name) for name in ("head", "other", "later", "head", "stranger")] == [True] * 3 + [False] * 2
    clock.now += 10
    assert drain(queue, clock) == ["tail"]
    assert not queue.remove("tail")


def test_the_oldest_and_the_depths_count_those_before_their_time_too(queue):
    assert queue.oldest() is None
    queue.push(entry("a", created_at=7))
    queue.push(entry("b", "b", LOW, created_at=5), lane="alpha")
    queue.push(entry("c", priority=LOW, created_at=3), not_before_s=9.0)

    assert queue.oldest() == 3
    assert [queue.depth(priority) for priority in Priority] == [0, 0, 1, 2]
    queue.remove("c")
    queue.remove("b")
    assert queue.oldest() == 7


def test_a_wait_is_told_from_the_pace_of_the_own_lane(queue, clock):
    for n in range(30):
        queue.push(entry(f"a{n:02}", created_at=n), lane="alpha")
        queue.push(entry(f"b{n:02}", created_at=n), lane="beta")
    for _ in range(20):
        clock.now += 2.0
        queue.pop(clock.now, ["alpha"])
    assert queue.wait_s("a29") is None  # twenty have left, with nineteen gaps between them
    clock.now += 2.0
    queue.pop(clock.now, ["alpha"])

    assert [queue.wait_s(task_id) for task_id in ("a21", "a29")] == [2.0, 18.0]
    assert [queue.wait_s(task_id) for task_id in ("a00", "b29")] == [None, None]


def test_a_position_counts_those_ahead_in_better_classes_in_the_share_and_in_between(queue, clock):
    for n in range(10):
        queue.push(entry(f"a{n}", "a", created_at=n))
    for n in range(3):
        queue.push(entry(f"u{n}", "u", URGENT))
    queue.push(entry("b", "b", created_at=99))
    queue.push(entry("later"), not_before_s=3.0)
    queue.push(entry("elsewhere"), lane="alpha")

    assert [queue.position(f"u{n}") for n in range(3)] == [0, 1, 2]
    assert queue.position("a0") == 4  # the urgent ones, and perhaps b
    assert queue.position("a9") == 13
    assert queue.position("b") == 4
    assert (queue.position("elsewhere"), queue.position("later"), queue.position("stranger")) == (0, None, None)
    queue.pop(clock.now, ALL_LANES)
    assert queue.position("a9") == 12
