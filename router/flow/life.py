"""One life of the daemon's flow: composed over a `World`, begun with recovery, ended by drain.

`daemon.py` builds it over the real outside and the simulator over a seeded one; both run exactly this. Floor 2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from router.events import Bus
from router.flow.dispatch import Dispatcher, report
from router.flow.fleet import Fleet
from router.flow.intake import Intake
from router.flow.queue import Queue
from router.flow.relay import Relay
from router.flow.replicas import Replicas
from router.flow.runtime import Runtime
from router.flow.waiters import Waiters
from router.policy.rules import Ruleset
from router.task import Task
from router.world import World

QUEUE_WINDOW = 20_000  # entries per class held in memory; what is beyond waits in the store


@dataclass(slots=True)
class Life:
    """The parts that the edges talk to."""

    runtime: Runtime
    intake: Intake
    waiters: Waiters
    dispatcher: Dispatcher
    replicas: Replicas
    relay: Relay

    def adopt(self, rules: Ruleset) -> None:
        """Swap the configuration: the next decision sees the new one, a running attempt keeps its own."""
        self.runtime.rules = rules
        self.runtime.fleet.adopt(rules)
        self.runtime.queue.set_weights({name: tenant.weight for name, tenant in rules.tenants.items()})
        self.runtime.wake_pump()

    async def end(self, drain_timeout_s: float) -> None:
        """Drain and let go of the timers. The store is closed by whoever opened it.

        Signs of life go on until the last call is in, so that nobody takes over what is still out.
        """
        try:
            await asyncio.gather(self.dispatcher.drain(drain_timeout_s), self.relay.drain(drain_timeout_s))
        finally:
            await self.relay.finish()
            await self.replicas.stop()
            self.waiters.close()


async def begin(
    world: World,
    bus: Bus,
    rules: Ruleset,
    *,
    replica: str,
    fleet: type[Fleet] = Fleet,
    queue_window: int = QUEUE_WINDOW,
    time_scale: float = 1.0,
    public_url: str | None = None,
) -> Life:
    """Register a life in the store, take over what earlier ones left, and begin to take tasks."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    owner = await world.store.register(replica, world.clock.now())
    runtime = Runtime(
        world=world,
        bus=bus,
        rules=rules,
        fleet=fleet(monotonic=loop.time, clock=world.clock, dice=world.dice, bus=bus, shared=world.store.shared),
        queue=Queue(window=queue_window),
        owner=owner,
        time_scale=time_scale,
        public_url=public_url,
    )

    async def abandoned(task: Task) -> None:
        await intake.abandoned(task)

    waiters = Waiters(abandoned)
    intake = Intake(runtime, waiters)
    bus.subscribe(intake.read)
    bus.subscribe(waiters.read)
    dispatcher = Dispatcher(runtime, intake.depth)
    replicas = Replicas(runtime, dispatcher, waiters, intake)
    life = Life(runtime, intake, waiters, dispatcher, replicas, Relay(runtime, intake))
    life.adopt(rules)
    await replicas.begin(began_s)
    await runtime.insist(lambda: intake.uncollected.refresh(world.clock.now()))
    await dispatcher.recover()
    dispatcher.start()
    replicas.start().add_done_callback(partial(report, what="the turns among replicas"))
    return life
