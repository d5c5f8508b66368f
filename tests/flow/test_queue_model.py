"""The queue against its rules read off one plain list: told the same in any order, both must answer the same."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.flow.queue import Entry, Queue
from router.task import Priority
from tests.flow.ticking import ALL_LANES, Clock

PRIORITIES = tuple(Priority)
BLOCKED = ((), (), (), ("a",), ("b", "c"))
KEYS = ("1", "2", None)
BLOCKED_KEYS = ((), (), ("a1",), ("a1", "a2"), ("a1", "b1", "b2", "c2"))


def key_of(tenant, dice):
    """A key of a tenant, sometimes none."""
    number = dice.choice(KEYS)
    return number and f"{tenant}{number}"


class Model:
    """The rules of the queue read off one plain list, sorted anew for each answer."""

    def __init__(self, window):
        self.window = window
        self.inside = []  # dicts: entry, lane, since, runnable
        self.weights = {}
        self.turns = {}  # (lane, class) -> tenant -> pass
        self.clocks = {}  # (lane, class) -> pass of the last served
        self.put = 0
        self.order = {}  # (lane, class, tenant) -> when its turn was last decided
        self.served = {}  # lane -> class -> when
        self.count = 0

    def find(self, task_id):
        return next((one for one in self.inside if one["entry"].task_id == task_id), None)

    def push(self, new, lane, delay, now, since):
        old = self.find(new.task_id)
        if old is not None:
            since = min(now, old["since"])
            self.leave(old)
        alike = [one for one in self.inside if one["entry"].priority is new.priority]
        own = [one for one in alike if one["entry"].tenant == new.tenant]
        if len(own) >= 4 * (self.window - len(alike)):
            return False
        one = {"entry": new, "lane": lane, "since": now + delay if delay else since, "runnable": False}
        self.inside.append(one)
        if not delay:
            self.enter(one)
        return True

    def enter(self, one):
        place = (one["lane"], one["entry"].priority)
        tenant = one["entry"].tenant
        if not self.runnable(place):
            self.turns[place], self.clocks[place] = {}, 0.0
        if not any(other["entry"].tenant == tenant for other in self.runnable(place)):
            self.turns[place][tenant] = max(self.turns[place].get(tenant, 0.0), self.clocks[place])
            self.decide(place, tenant)
        one["runnable"] = True

    def decide(self, place, tenant):
        self.put += 1
        self.order[(*place, tenant)] = self.put

    def runnable(self, place=None):
        ready = [one for one in self.inside if one["runnable"]]
        return [one for one in ready if place is None or (one["lane"], one["entry"].priority) == place]

    def leave(self, one):
        self.inside.remove(one)
        if one["runnable"] and not any(other["lane"] == one["lane"] for other in self.runnable()):
            self.served.pop(one["lane"], None)

    def mature(self, now):
        due = [one for one in self.inside if not one["runnable"] and one["since"] <= now]
        for one in sorted(due, key=lambda one: (one["since"], self.inside.index(one))):
            self.enter(one)

    def pop(self, now, lanes, blocked, keys):
        self.mature(now)
        free = [one for one in self.runnable() if one["lane"] in lanes and one["entry"].tenant not in blocked]
        free = [one for one in free if one["entry"].key_id not in keys]
        offers = []
        for lane in {one["lane"] for one in free}:
            levels = []
            for priority in Priority:
                here = [one for one in free if (one["lane"], one["entry"].priority) == (lane, priority)]
                if here:
                    steps = max(0, int((now - min(one["since"] for one in here)) // 150))
                    served = self.served.get(lane, {}).get(priority, 0)
                    levels.append((max(0, priority - steps), served, -priority, here))
            level, _served, minus, here = min(levels, key=lambda found: found[:3])
            priority = Priority(-minus)
            place = (lane, priority)
            tenants = {one["entry"].tenant for one in here}
            turn = min(tenants, key=lambda name: (self.turns[place][name], self.order[(*place, name)]))
            own = [one for one in here if one["entry"].tenant == turn]
            head = min(own, key=lambda one: (one["entry"].created_at, one["entry"].task_id))
            offers.append(((level, head["entry"].created_at, head["entry"].task_id), head, place))
        if not offers:
            return None
        _rank, head, place = min(offers, key=lambda offer: offer[0])
        self.take(head, place)
        return head

    def take(self, head, place):
        lane, priority = place
        tenant = head["entry"].tenant
        self.count += 1
        self.served.setdefault(lane, {})[priority] = self.count
        self.clocks[place] = max(self.clocks[place], self.turns[place][tenant])
        self.turns[place][tenant] = self.clocks[place] + 1 / self.weights.get(tenant, 1)
        self.decide(place, tenant)
        self.leave(head)


class Pair:
    """The queue and the model, told the same. With `spread` 0 all meet in one class of one lane, with 1 in one lane."""

    def __init__(self, window, spread):
        self.clock = Clock()
        self.spread = spread
        self.queue = Queue(window=window, monotonic=self.clock)
        self.model = Model(window)
        self.taken = {}

    def push(self, new, lane, delay):
        if self.spread < 2:
            lane = None
        if self.spread < 1:
            new, delay = replace(new, priority=Priority.NORMAL), None
        since = self.taken.pop(new.task_id, self.clock.now)
        kept = self.queue.push(new, lane=lane, not_before_s=delay)
        assert kept == self.model.push(new, lane, delay, self.clock.now, since)

    def pop(self, lanes, blocked, keys=()):
        expected = self.model.pop(self.clock.now, lanes, blocked, keys)
        found = self.queue.pop(self.clock.now, lanes, blocked, keys)
        if expected is None:
            assert found is None
            return
        assert (found.task_id, found.lane) == (expected["entry"].task_id, expected["lane"])
        self.taken[found.task_id] = expected["since"]

    def remove(self, task_id):
        known = self.model.find(task_id)
        self.taken.pop(task_id, None)
        assert self.queue.remove(task_id) == (known is not None)
        if known is not None:
            self.model.leave(known)

    def set_weights(self, weights):
        self.queue.set_weights(weights)
        self.model.weights = weights

    def compare(self):
        inside = self.model.inside
        assert len(self.queue) == len(inside)
        assert all(self.queue.contains(one["entry"].task_id) for one in inside)
        for priority in Priority:
            depth = self.queue.depth(priority)
            assert depth == sum(one["entry"].priority is priority for one in inside) <= self.queue.window
        assert self.queue.oldest() == min((one["entry"].created_at for one in inside), default=None)
        waits = [one["since"] for one in inside if not one["runnable"]]
        due = self.queue.next_due(self.clock.now)
        assert due == (max(self.clock.now, min(waits)) if waits else None)
        for one in inside:
            position = self.queue.position(one["entry"].task_id)
            assert (position is None) == (not one["runnable"])
            if position is not None:
                assert 0 <= position < self.queue.waiting_in(one["lane"])


@pytest.mark.parametrize("spread", [0, 1, 2])
@pytest.mark.parametrize("window", [6, 40])
def test_a_long_random_walk_finds_queue_and_model_at_one(window, spread):
    """Ten walks in which the queue fills and empties by turns, so that every rule of the order decides often."""
    for seed in range(10):
        dice, pair = Random(f"{seed} {window} {spread}"), Pair(window, spread)
        for step in range(400):
            is_filling = step // 40 % 2 == 0
            for _ in range(dice.randint(0, 3 if is_filling else 1)):
                lane, delay = dice.choice(ALL_LANES), dice.choice([None, None, 0.0, 5.0, 80.0])
                name = f"task_{dice.randrange(90):02}"
                tenant, priority, created_at = dice.choice("aabc"), dice.choice(PRIORITIES), dice.randrange(6)
                pair.push(Entry(name, tenant, priority, created_at, key_id=key_of(tenant, dice)), lane, delay)
            for _ in range(dice.randint(0, 1 if is_filling else 3)):
                lanes = ALL_LANES if dice.random() < 0.7 else {dice.choice(ALL_LANES)}
                pair.pop(lanes, dice.choice(BLOCKED), dice.choice(BLOCKED_KEYS))
            if dice.random() < 0.1:
                pair.remove(f"task_{dice.randrange(90):02}")
            if dice.random() < 0.02:
                pair.set_weights({"a": dice.randint(1, 3), "b": 2})
            pair.clock.now += dice.choice([0.0, 0.0, 1.0, 5.0, 40.0])
            if step % 10 == 0:
                pair.compare()


class QueueMachine(RuleBasedStateMachine):
    """The same with steps that Hypothesis chooses, to find what is odd rather than what is frequent."""

    ids = st.integers(0, 30).map(lambda n: f"task_{n:02}")
    lanes = st.sampled_from(ALL_LANES)
    tenants = st.sampled_from(["a", "b", "c"])

    @initialize(window=st.integers(1, 12), spread=st.integers(0, 2))
    def begin(self, window, spread):
        self.pair = Pair(window, spread)

    @rule(passed_s=st.sampled_from([0.0, 1.0, 7.0, 75.0, 150.0, 400.0]))
    def wait(self, passed_s):
        self.pair.clock.now += passed_s

    @rule(
        new=st.builds(Entry, ids, tenants, st.sampled_from(Priority), st.integers(0, 5)),
        key=st.sampled_from(KEYS),
        lane=lanes,
        delay=st.sampled_from([None, None, None, 0.0, 5.0, 80.0]),
    )
    def push(self, new, key, lane, delay):
        self.pair.push(replace(new, key_id=key and new.tenant + key), lane, delay)

    @rule(
        lanes=st.sets(lanes, min_size=1),
        blocked=st.sets(tenants, max_size=2),
        keys=st.sampled_from(BLOCKED_KEYS),
        times=st.integers(1, 6),
    )
    def pop(self, lanes, blocked, keys, times):
        for _ in range(times):
            self.pair.pop(lanes, blocked, keys)

    @rule(task_id=ids)
    def remove(self, task_id):
        self.pair.remove(task_id)

    @rule(weights=st.dictionaries(tenants, st.integers(1, 4)))
    def set_weights(self, weights):
        self.pair.set_weights(weights)

    @invariant()
    def they_hold_the_same(self):
        self.pair.compare()


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=100, stateful_step_count=40)
