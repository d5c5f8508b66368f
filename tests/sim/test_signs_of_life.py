"""A life gives signs of life, also while it drains; one that another has replaced takes nothing more and says so."""

import asyncio
from itertools import pairwise

from router.events import Bus, LifeReplaced
from router.flow import life
from router.flow.draft import Accepted, Draft
from router.flow.replicas import BEAT_ALONE_EVERY_S as BEAT_EVERY_S
from router.persistence import Unavailable
from router.provider import Kind
from router.store.memory import MemoryStore
from router.task import State
from router.world import seeded_dice
from tests.sim.fleet import FakeProvider
from tests.sim.loop import VirtualLoop, live_through
from tests.sim.traffic import draw
from tests.sim.world import Outside, make_world

SEED = 1


class Beats(MemoryStore):
    """Notes when each life gave a sign; the second of all finds the store away."""

    def __init__(self):
        super().__init__()
        self.at_s = {}

    async def heartbeat(self, owner, now):
        beats = self.at_s.setdefault(owner.epoch, [])
        beats.append(asyncio.get_running_loop().time())
        if len(beats) == 2:
            raise Unavailable
        return await super().heartbeat(owner, now)


class Place:
    """One store and one outside, on which lives begin. `events` are those of each life by its number."""

    def __init__(self):
        self.scenario, self.store, self.events = draw(SEED), Beats(), []
        providers = {
            one.name: FakeProvider(one, seeded_dice(SEED)(one.name), lambda: 0.0) for one in self.scenario.habits
        }
        for provider in providers.values():
            provider.faulty = False
        self.outside = Outside(seed=SEED, providers=providers, store=self.store, faulty=False)

    async def begin(self):
        bus, events = Bus(), []
        bus.subscribe(events.append)
        self.events.append(events)
        world = make_world(self.outside, len(self.events))
        return await life.begin(world, bus, self.scenario.rules[0], replica="sim")

    def replacements(self):
        return [[one for one in events if isinstance(one, LifeReplaced)] for events in self.events]


def lived(story):
    """Run a story on a virtual loop to its end."""
    assert live_through(VirtualLoop(0.0), story)


def order(model):
    return Draft(
        tenant="default",
        kind=Kind.IMAGE_GENERATION,
        input={"prompt": "a cat"},
        surface="native",
        route="/v1/tasks",
        digest="digest",
        request_id="req_1",
        model=model,
    )


def test_a_sign_of_life_is_given_every_few_seconds_also_when_the_store_was_away():
    place = Place()

    async def story():
        running = await place.begin()
        await asyncio.sleep(10.5 * BEAT_EVERY_S)
        assert not running.runtime.draining
        await running.end(0.0)

    lived(story())
    [beats] = place.store.at_s.values()
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert len(beats) >= 10
    assert all(BEAT_EVERY_S <= gap < BEAT_EVERY_S + 1 for gap in gaps)
    assert place.replacements() == [[]]


def test_signs_of_life_go_on_while_a_drain_waits_and_end_with_it():
    place = Place()

    async def story():
        running = await place.begin()
        out = asyncio.get_running_loop().create_future()
        running.dispatcher._spawn("task_out", "default", _wait_for(out))  # noqa: SLF001 - it is out, and no drain can end it
        ending = asyncio.create_task(running.end(1000.0))
        await asyncio.sleep(5.5 * BEAT_EVERY_S)
        assert not ending.done()
        out.set_result(None)
        await ending
        await asyncio.sleep(10 * BEAT_EVERY_S)

    lived(story())
    [beats] = place.store.at_s.values()
    assert len(beats) == 5


async def _wait_for(out):
    await out


def test_a_life_that_was_replaced_says_so_once_and_leaves_what_waits_to_the_other():
    place, told, ids = Place(), [], []

    async def story():
        first = await place.begin()
        first.runtime.on_replaced = lambda: told.append(place.outside.store is place.store)
        second = await place.begin()
        await asyncio.sleep(2.5 * BEAT_EVERY_S)
        assert first.runtime.replaced
        assert first.runtime.draining
        assert not second.runtime.replaced

        model = next(iter(place.scenario.rules[0].models))
        answer = await second.intake.submit(order(model))
        assert isinstance(answer, Accepted)
        ids.append(answer.task.id)
        while True:
            view = await place.store.view("default", answer.task.id)
            if view.task.is_terminal:
                break
            await asyncio.sleep(1.0)
        assert view.task.state in {State.SUCCEEDED, State.FAILED}
        await second.end(0.0)
        await first.end(0.0)

    lived(story())
    replaced, other = place.replacements()
    assert [(one.replica, one.epoch) for one in replaced] == [("sim", 1)]
    assert other == []
    assert told == [True]
    assert all(getattr(one, "task", None) is None for one in place.events[0])
