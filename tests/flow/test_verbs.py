"""How often a task writes, counted over the real flow: each writing verb is a commit that somebody waits for."""

import asyncio
from random import Random

import pytest

from router.events import Bus, TaskEnded
from router.flow import life
from router.flow.draft import Accepted, Draft
from router.persistence import Search
from router.provider import Kind
from router.store.memory import MemoryStore
from router.task import State
from tests.sim.fleet import FakeProvider, Habits
from tests.sim.loop import VirtualLoop, live_through
from tests.sim.traffic import ruleset
from tests.sim.world import Outside, make_world

NEEDED = {
    True: {"admit": 1, "open_attempt": 1, "accept": 1, "close_attempt": 1},
    False: {"admit": 1, "open_attempt": 1, "close_attempt": 1},
}


@pytest.mark.parametrize("polled", [True, False], ids=["polled", "synchronous"])
def test_a_task_that_succeeds_writes_once_per_step_and_reading_it_writes_nothing(polled):
    store = MemoryStore()
    habits = Habits(name="alpha", polled=polled, price=30_000_000)
    provider = FakeProvider(habits, Random(1), lambda: 0.0)
    provider.faulty = False
    outside = Outside(seed=1, providers={"alpha": provider}, store=store, faulty=False)

    async def one_task():
        bus, done = Bus(), asyncio.Event()
        bus.subscribe(lambda event: done.set() if isinstance(event, TaskEnded) else None)
        running = await life.begin(make_world(outside, 1), bus, ruleset((habits,), 0), replica="test")
        before = store.writes.copy()
        accepted = await running.intake.submit(
            Draft(
                tenant="free",
                kind=Kind.IMAGE_GENERATION,
                input={"prompt": "a cat"},
                surface="native",
                route="/v1/tasks",
                digest="d",
                request_id="req_1",
                model="never",
            )
        )
        assert isinstance(accepted, Accepted)
        await done.wait()
        written = written_since(before, store)
        view = await store.view("free", accepted.task.id)
        await store.search("free", Search())

        assert view.task.state is State.SUCCEEDED
        assert written == NEEDED[polled]
        assert written_since(before, store) == written
        await running.end(1.0)

    assert live_through(VirtualLoop(0.0), one_task())


def written_since(before, store):
    """The writing verbs of the task: signs of life go by the clock, not by the task."""
    return {verb: count for verb, count in (store.writes - before).items() if verb != "heartbeat"}
