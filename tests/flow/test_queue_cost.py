"""What the queue costs, by counting: calls and comparisons for its verbs, objects for its memory."""

import gc
import sys

from router.flow.lane import Seat
from router.flow.queue import Entry, Queue
from router.task import Priority
from tests.flow.ticking import ALL_LANES, Clock


class Whole(int):
    """An integer whose comparisons are calls, so that they can be counted inside the C code of a heap."""

    __slots__ = ()

    def __eq__(self, other):
        return int(self) == int(other)

    def __lt__(self, other):
        return int(self) < int(other)

    __hash__ = int.__hash__


class Real(float):
    """The same for floats, and what is reckoned with it stays countable."""

    __slots__ = ()

    def __eq__(self, other):
        return float(self) == float(other)

    def __lt__(self, other):
        return float(self) < float(other)

    def __add__(self, other):
        return Real(float(self) + float(other))

    __radd__ = __add__
    __hash__ = float.__hash__


class Weight(int):
    """A weight that gives countable turns."""

    __slots__ = ()

    def __rtruediv__(self, other):
        return Real(other / int(self))


def count_operations(work):
    """Count every call, of Python and of C functions, that `work` makes; comparisons of the classes above are calls."""
    counted = 0

    def note(_frame, event, _argument):
        nonlocal counted
        counted += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def fill(size):
    clock = Clock(Real(0.0))
    queue = Queue(window=2 * size, monotonic=clock)
    queue.set_weights({"*": Weight(1)})
    for n in range(size):
        clock.now = Real(n / 1_000)
        queue.push(Entry(f"{n:07}", f"t{n % 25}", Priority(n % 4), Whole(n)))
    return queue, clock


def cost_of(queue, clock, size):
    def push_pop_and_remove():
        for n in range(size, size + 400):
            clock.now = Real(size / 1_000)
            queue.push(Entry(f"{n:07}", f"t{n % 25}", Priority(n % 4), Whole(n)))
            queue.pop(clock.now, ALL_LANES)

    return count_operations(push_pop_and_remove) / 400


def test_push_and_pop_at_a_million_entries_take_at_most_thrice_the_operations_at_a_thousand():
    few = cost_of(*fill(1_000), 1_000)
    many = cost_of(*fill(1_000_000), 1_000_000)

    assert 20 < few < many <= 3 * few


def test_a_removal_takes_as_many_operations_in_a_long_queue_as_in_a_short_one():
    costs = []
    for size in (1_000, 30_000):
        queue, _clock = fill(size)
        ids = [f"{n:07}" for n in range(size)]
        costs.append(count_operations(lambda queue=queue, ids=ids: [queue.remove(one) for one in ids]) / size)
        assert len(queue) == 0

    assert costs[1] <= 1.5 * costs[0]


def test_removed_entries_are_swept_out_of_memory_behind_a_living_one():
    queue = Queue(window=10_000, monotonic=Clock())

    def seats():
        return sum(isinstance(one, Seat) and one.entry.tenant == "swept" for one in gc.get_objects())

    queue.push(Entry("0", "swept", Priority.NORMAL, 0))
    for n in range(1, 5_000):
        queue.push(Entry(str(n), "swept", Priority.NORMAL, n), not_before_s=5.0 if n % 2 else None)
    for n in range(1, 5_000):
        queue.remove(str(n))

    assert seats() < 100


def test_memory_stays_flat_above_the_window():
    queue = Queue(window=100, monotonic=Clock())
    for n in range(20_000):
        queue.push(Entry(str(n), f"flat{n % 50}", Priority.NORMAL, n), not_before_s=float(n % 3))

    assert len(queue) == 100
    assert sum(isinstance(one, Seat) and one.entry.tenant.startswith("flat") for one in gc.get_objects()) == 100
