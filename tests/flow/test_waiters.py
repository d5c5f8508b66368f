"""Callers that go away: whose task is cancelled unpaid, and whose is left alone because somebody can collect it."""

from dataclasses import replace

import pytest

from router.events import TaskEnded
from router.flow.waiters import ABANDONED_AFTER_S, Waiters
from router.provider import Kind
from router.task import Priority, State, Task, cancelled
from router.task import apply as move_on
from tests.sim.loop import VirtualLoop, live_through

TASK = Task(
    id="task_1",
    tenant="default",
    kind=Kind.IMAGE_GENERATION,
    model="cat",
    input={"prompt": "a cat"},
    surface="openai",
    route="/v1/images/generations",
    priority=Priority.HIGH,
    created_at=0,
)
ENDED = move_on(TASK, cancelled(1, 2))


class Door:
    """Waiters, and which of their tasks were given up."""

    def __init__(self, loop):
        self.loop = loop
        self.given_up = []
        self.waiters = Waiters(self.give_up)

    async def give_up(self, task):
        self.given_up.append(task.id)

    async def pass_time(self, seconds):
        over = self.loop.create_future()
        self.loop.call_later(seconds, over.set_result, None)
        await over


def live(story):
    """Play a story under a clock that costs no time; returns what was given up."""
    loop = VirtualLoop(0.0)
    door = Door(loop)
    assert live_through(loop, story(door))
    return door.given_up


def test_a_task_that_nobody_can_find_is_given_up_when_nobody_has_come_back_for_a_minute():
    async def story(door):
        door.waiters.hung_up(TASK)
        await door.pass_time(ABANDONED_AFTER_S - 1)
        assert door.given_up == []
        await door.pass_time(2)

    assert live(story) == [TASK.id]


def test_a_waiter_that_returns_keeps_it():
    async def story(door):
        door.waiters.hung_up(TASK)
        await door.pass_time(ABANDONED_AFTER_S - 1)
        with door.waiters.waiting(TASK):
            await door.pass_time(ABANDONED_AFTER_S)

    assert live(story) == []


@pytest.mark.parametrize("earlier", [True, False])
def test_a_task_whose_id_an_answer_has_carried_is_never_given_up(earlier):
    async def story(door):
        steps = [door.waiters.told, door.waiters.hung_up]
        for step in steps if earlier else reversed(steps):
            step(TASK)
        await door.pass_time(2 * ABANDONED_AFTER_S)

    assert live(story) == []


def test_a_task_with_a_key_is_found_by_it_and_never_given_up():
    async def story(door):
        door.waiters.hung_up(replace(TASK, idempotency_key="mine"))
        await door.pass_time(2 * ABANDONED_AFTER_S)

    assert live(story) == []


def test_a_task_that_has_ended_is_not_given_up():
    async def story(door):
        door.waiters.hung_up(TASK)
        door.waiters.read(TaskEnded(1, ENDED, State.PENDING))
        await door.pass_time(2 * ABANDONED_AFTER_S)

    assert live(story) == []
