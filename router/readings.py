"""What the daemon answers about its present state: levels for a scrape, checks for `/readyz`, the lag of its loop.

Everything is read from snapshots at the moment of asking; nothing here is kept or counted. Floor 4.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from router.flow.life import Life
from router.persistence import Demand, Unavailable
from router.policy import budget
from router.policy.health import CircuitState
from router.policy.rules import Ruleset, Shape
from router.provider import Kind
from router.settings import Settings
from router.watch.metrics import Levels

DISK_MIN_BYTES = 100 << 20
LAG_EVERY_S = 0.5
STORE_ANSWERS_IN_S = 4.0  # so that `/readyz` says no within 5 s of the last sign of the store
STATES: Mapping[CircuitState, int] = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}


class LoopLag:
    """How late the loop was at its last turn: `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def measure(self) -> None:
        """Ask for a wake-up again and again, and note how much later it came."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.seconds = max(0.0, loop.time() - due)


async def read_levels(life: Life, lag: LoopLag) -> Levels:
    """Read every gauge. What the store cannot tell now is left out."""
    runtime = life.runtime
    fleet = runtime.fleet.snapshot()
    circuits: dict[tuple[str, str], int] = {}
    for target in fleet.targets:
        key = (target.provider, target.model)
        circuits[key] = max(circuits.get(key, 0), STATES[target.state])
    oldest_s = 0.0
    budgets: dict[str, int] = {}
    try:
        async with asyncio.timeout(STORE_ANSWERS_IN_S):
            backlog = await runtime.world.store.backlog(runtime.owner)
            budgets = await _read_budgets(life)
        if backlog.oldest is not None:
            oldest_s = max(0.0, (runtime.now() - backlog.oldest) / 1000)
    except (Unavailable, TimeoutError):
        pass  # the other levels are worth a scrape all the same
    return Levels(
        queue_depth=dict(life.intake.depth.by_priority),
        queue_oldest_s=oldest_s,
        circuits=circuits,
        inflight={provider.name: provider.in_use for provider in fleet.providers},
        budgets_left_nanos=budgets,
        loop_lag_s=lag.seconds,
    )


async def _read_budgets(life: Life) -> dict[str, int]:
    """What budgets of configured names have left, by scope and value (`tenant:studio`); the tightest window counts."""
    runtime = life.runtime
    demands = {(one.budget, one.window): one for one in _list_demands(runtime.rules, runtime.now())}
    balances = await runtime.world.store.balances(tuple(demands)) if demands else ()
    used = {(one.budget, one.window): one.held + one.spent for one in balances}
    left: dict[str, int] = {}
    for pair, demand in demands.items():
        room = demand.limit - used.get(pair, 0)
        left[demand.budget] = min(room, left.get(demand.budget, room))
    return left


def _list_demands(rules: Ruleset, now: int) -> Iterator[Demand]:
    """Ask for every name that the configuration has; a name that only callers know must not become a label."""
    tenants = {"default", *rules.tenants} - {"*"}
    shapes = [Shape(Kind.IMAGE_GENERATION, model, tenant) for tenant in tenants for model in rules.models]
    for shape in shapes:
        yield from budget.demands(rules.budgets, shape, None, unit=0, units=1, now=now, zone=rules.zone)
    for provider in rules.providers:
        yield from budget.provider_demands(rules.budgets, provider, unit=0, now=now, zone=rules.zone)


async def check_readiness(settings: Settings, life: Life) -> dict[str, str]:
    """Each check by name: `ok`, or what is wrong (contract 5.6)."""
    runtime = life.runtime
    checks = {"store": "ok", "drain": "draining" if runtime.draining else "ok"}
    try:
        async with asyncio.timeout(STORE_ANSWERS_IN_S):
            await runtime.world.store.ping()
    except (Unavailable, TimeoutError) as away:
        checks["store"] = f"no answer: {str(away) or type(away).__name__}"
    storage = settings.find_storage()
    loop = asyncio.get_running_loop()
    return checks | await loop.run_in_executor(None, _check_disk, storage)


def _check_disk(storage: Path) -> dict[str, str]:
    """Whether results can be written, and whether there is room for them."""
    try:
        free = shutil.disk_usage(storage).free
    except OSError as broken:
        return {"storage": f"cannot be read: {broken.strerror}", "disk": "unknown"}
    writable = os.access(storage, os.W_OK | os.X_OK)
    return {
        "storage": "ok" if writable else "cannot be written",
        "disk": "ok" if free >= DISK_MIN_BYTES else f"{free} bytes left, fewer than {DISK_MIN_BYTES}",
    }
