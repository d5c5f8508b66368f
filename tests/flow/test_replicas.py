"""Two daemons on one store: who goes on with whose tasks, when, and what each hears of the other. Time is virtual."""

import asyncio
from dataclasses import dataclass, field

from router.events import Bus, TaskEnded, TasksTaken
from router.flow import life
from router.flow.draft import Draft
from router.flow.replicas import BEAT_EVERY_S, LEASE_S, LEFT_TO_THE_BUSY
from router.persistence import Unavailable
from router.policy.rules import RetryUnknown
from router.provider import Kind
from router.store.memory import MemoryStore
from router.task import Priority, State
from router.world import seeded_dice
from tests.sim.fleet import FakeProvider, Habits
from tests.sim.loop import VirtualLoop, live_through
from tests.sim.pair import Gate, gated
from tests.sim.traffic import draw
from tests.sim.world import Outside, make_world
from tests.waiting import poll_until

TURN_S = 1.5  # a turn with its jitter
SCENARIO = draw(1)


class AwayStore(MemoryStore):
    """Answers nothing while it is away. A sign of life that is in doubt is written down, and answered later."""

    is_away = False
    is_in_doubt = False

    async def heartbeat(self, owner, now):
        answer = await super().heartbeat(owner, now)
        while self.is_in_doubt:
            await asyncio.sleep(0.1)
        return answer

    def _read(self):
        super()._read()
        if self.is_away:
            raise Unavailable


@dataclass
class Town:
    """Daemons by name, one store, one slow provider that is polled and can be asked to stop a job."""

    store: MemoryStore = field(default_factory=lambda: AwayStore(shared=True))
    lives: dict = field(default_factory=dict)
    gates: dict = field(default_factory=dict)
    events: dict = field(default_factory=dict)

    def __post_init__(self):
        names = [one.name for one in SCENARIO.habits]
        dice = seeded_dice(1)
        habits = [Habits(name, polled=True, price=10, cancels=True, latency_s=(50.0, 51.0)) for name in names]
        self.providers = {one.name: FakeProvider(one, dice(one.name), lambda: 0.0) for one in habits}
        self.outside = Outside(seed=1, providers=self.providers, store=self.store, audit=self.store, faulty=False)
        for provider in self.providers.values():
            provider.faulty = False

    async def begin(self, name):
        bus, number = Bus(), len(self.events) + 1
        seen = self.events[name] = []
        bus.subscribe(seen.append)
        gate = self.gates[name] = Gate()
        world = gated(make_world(self.outside, number), gate, seeded_dice(number)("hints"), lambda _point: None)
        self.lives[name] = await life.begin(world, bus, SCENARIO.rules[0], replica=name)
        return self.lives[name]

    async def submit(self, name, number=1):
        draft = Draft(
            tenant="free",
            kind=Kind.IMAGE_GENERATION,
            input={"prompt": f"picture {number}"},
            surface="native",
            route="/v1/tasks",
            digest=f"digest-{number}",
            request_id=f"req_{number}",
            model=RetryUnknown.NEVER.value,
            priority=Priority.NORMAL,
        )
        return (await self.lives[name].intake.submit(draft)).task

    async def row(self, task):
        return await self.store.view(task.tenant, task.id)

    async def until(self, task, state):
        async def reached():
            return (await self.row(task)).task.state is state

        await poll_until(reached, f"the task to be {state}", 200.0)

    async def accepted(self, task):
        """Wait until its job has been accepted upstream."""

        async def is_out():
            return any(one.handle for one in (await self.row(task)).attempts)

        await poll_until(is_out, "the job to be accepted", 30.0)

    def jobs(self):
        return [sale for provider in self.providers.values() for sale in provider.sales.values()]

    def taken(self, name):
        return [event for event in self.events[name] if isinstance(event, TasksTaken)]


def play(story):
    """Run a story in virtual time."""
    loop = VirtualLoop(0.0)

    async def run():
        await story(Town())

    assert live_through(loop, run())
    assert loop.problems == []


def test_what_a_silent_daemon_left_goes_on_elsewhere_after_a_lease_and_not_before():
    async def story(town):
        await town.begin("a")
        second = await town.begin("b")
        await asyncio.sleep(LEASE_S + TURN_S)
        task = await town.submit("a")
        await town.accepted(task)
        town.gates["a"].close()
        await asyncio.sleep(LEASE_S - BEAT_EVERY_S - TURN_S)
        assert town.taken("b") == []

        await asyncio.sleep(BEAT_EVERY_S + 2 * TURN_S)
        assert [(one.count, one.silent) for one in town.taken("b")] == [(1, True)]
        assert (await town.row(task)).task.fence == second.runtime.owner.epoch
        await town.until(task, State.SUCCEEDED)
        assert len(town.jobs()) == 1

    play(story)


def test_a_drained_daemon_leaves_its_jobs_to_the_others_at_once():
    async def story(town):
        first = await town.begin("a")
        await town.begin("b")
        await asyncio.sleep(LEASE_S + TURN_S)
        task = await town.submit("a")
        await town.accepted(task)
        await first.end(5.0)
        await asyncio.sleep(2 * TURN_S)

        assert [one.count for one in town.taken("b")] == [1]
        await town.until(task, State.SUCCEEDED)
        assert len(town.jobs()) == 1

    play(story)


def test_a_daemon_that_slept_through_its_lease_sends_nothing_and_changes_nothing():
    async def story(town):
        await town.begin("a")
        await town.begin("b")
        await asyncio.sleep(LEASE_S + TURN_S)
        tasks = [await town.submit("a", number) for number in range(4)]
        town.gates["a"].close()
        await asyncio.sleep(2 * LEASE_S + 5.0)
        for task in tasks:
            await poll_until(lambda task=task: is_b(town, task), "the other to have it", 30.0)
        for task in tasks:
            await poll_until(lambda task=task: has_ended(town, task), "its end", 300.0)
        before = [await town.row(task) for task in tasks]
        sold = len(town.jobs())
        town.gates["a"].reopen()
        await asyncio.sleep(2 * LEASE_S)

        assert [await town.row(task) for task in tasks] == before
        assert len(town.jobs()) == sold
        assert town.lives["a"].runtime.lapses == 1

    async def is_b(town, task):
        return (await town.row(task)).task.owner == "b"

    async def has_ended(town, task):
        return (await town.row(task)).task.is_terminal

    play(story)


def test_after_an_outage_of_the_store_nobody_robs_the_living():
    async def story(town):
        await town.begin("a")
        await town.begin("b")
        await asyncio.sleep(LEASE_S + TURN_S)
        task = await town.submit("a")
        await town.accepted(task)
        town.store.is_away = True
        town.gates["a"].close()  # it comes back a little later than the other
        await asyncio.sleep(2 * LEASE_S)
        town.store.is_away = False
        await asyncio.sleep(2 * TURN_S)
        town.gates["a"].reopen()
        await town.until(task, State.SUCCEEDED)

        assert town.taken("a") == town.taken("b") == []
        assert (await town.row(task)).task.owner == "a"

    play(story)


def test_after_an_outage_that_met_a_sign_of_life_in_its_commit_nobody_robs_the_living():
    async def story(town):
        await town.begin("a")
        await town.begin("b")
        await asyncio.sleep(LEASE_S + TURN_S)
        task = await town.submit("a")
        await town.accepted(task)
        town.store.is_in_doubt = True
        await asyncio.sleep(BEAT_EVERY_S + TURN_S)
        town.store.is_away = True
        town.gates["a"].close()  # it comes back a little later than the other
        await asyncio.sleep(2 * LEASE_S)
        town.store.is_away = town.store.is_in_doubt = False
        await asyncio.sleep(2 * TURN_S)
        town.gates["a"].reopen()
        await town.until(task, State.SUCCEEDED)

        assert town.taken("a") == town.taken("b") == []
        assert (await town.row(task)).task.owner == "a"

    play(story)


def test_a_cancel_at_one_daemon_stops_the_job_of_another():
    async def story(town):
        await town.begin("a")
        second = await town.begin("b")
        task = await town.submit("a")
        await town.accepted(task)
        await second.intake.cancel(task.tenant, task.id)
        await asyncio.sleep(TURN_S + 2.0)

        (sale,) = town.jobs()
        assert sale.cancelled
        view = await town.row(task)
        assert view.task.state is State.CANCELLED
        assert [one.outcome for one in view.attempts] == ["cancelled"]

    play(story)


def test_a_waiter_at_one_daemon_is_woken_when_another_ends_the_task():
    async def story(town):
        await town.begin("a")
        second = await town.begin("b")
        task = await town.submit("a")
        with second.waiters.waiting(task) as ending:
            async with asyncio.timeout(120.0):
                await ending.wait()

        assert (await town.row(task)).task.state is State.SUCCEEDED
        assert not any(isinstance(event, TaskEnded) for event in town.events["b"])

    play(story)


def test_an_idle_daemon_takes_from_a_busy_one_what_that_will_not_come_to_soon():
    async def story(town):
        await town.begin("a")
        await town.begin("b")
        tasks = [await town.submit("a", number) for number in range(80)]
        waiting = len(town.lives["a"].runtime.queue)
        assert waiting > LEFT_TO_THE_BUSY
        await asyncio.sleep(2 * TURN_S)

        assert sum(one.count for one in town.taken("b")) > 0
        assert not any(one.silent for one in town.taken("b"))
        for task in tasks:
            await town.until(task, State.SUCCEEDED)
        owners = {(await town.row(task)).task.owner for task in tasks}
        assert owners == {"a", "b"}
        assert len(town.jobs()) == len(tasks)

    play(story)


def test_a_life_that_is_replaced_takes_nothing_more():
    async def story(town):
        first = await town.begin("a")
        await town.begin("a")
        await asyncio.sleep(BEAT_EVERY_S + TURN_S)

        assert first.runtime.replaced
        assert first.runtime.draining

    play(story)
