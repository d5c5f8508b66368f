"""What one life of the daemon shares between its parts: the world, the rules in force, the fleet, the queue.

The ruleset is one reference that a reload swaps; a decision reads it once at its start. `live` holds what is being
driven right now, so that a cancel, a drain or a progress question can find it. Rebuilt from the store at each start;
nothing here is the truth about a task. Floor 2.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from router.events import Bus, TaskSwept
from router.flow.fleet import Fleet
from router.flow.limits import Limits
from router.flow.previews import Previews
from router.flow.queue import Entry, Queue
from router.persistence import Owner, Unavailable
from router.policy.prompt import count_prompt_chars, read_max_tokens
from router.policy.rules import Origin, Ruleset, Shape
from router.provider import Role, Source
from router.task import State, Task
from router.world import World

T = TypeVar("T")

STORE_PATIENCE_S = 900.0  # how long a result is held while the store is away (reliability-security section 9)
STORE_RETRY_FIRST_S = 0.1
STORE_RETRY_MAX_S = 5.0
PROGRESS_KEPT = 20_000
FILES = "files"  # the field of a task's input that lists its input files
REMIX = "remix_of"  # the field that names the film to be made anew: task, provider, target, model, remote_id
STREAM = "stream"  # the field that says that its caller wants to see the pictures come


class Phase(StrEnum):
    """How far an attempt is; decides what a drain may leave to the next life."""

    SUBMITTING = "submitting"
    POLLING = "polling"
    STORING = "storing"


@dataclass(slots=True)
class Live:
    """A task being driven. `wake` ends a wait between polls early; `cancelled` says that the caller gave up.

    `phases` says how far each attempt that is out is, by its number; `shares` what each part has added to the progress,
    in percent times images. `lapses` is how often this life had lost its lease when the drive began.
    """

    tenant: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    phases: dict[int, Phase] = field(default_factory=dict)
    shares: dict[int, int] = field(default_factory=dict)
    lapses: int = 0
    progress: int = 0
    expected_s: float | None = None
    since_s: float = 0.0


class Progress:
    """The highest progress told of each task, so that none falls when an attempt fails or another begins.

    It lives as long as this life of the daemon, and for the `PROGRESS_KEPT` tasks that have shown any last.
    """

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def tell(self, task_id: str, percent: int) -> int:
        """Say how far a task is: as far as it looks now, and no less than was said before."""
        before = self._highest.get(task_id, 0)
        if percent <= before:
            return before
        self._highest.pop(task_id, None)
        self._highest[task_id] = percent
        if len(self._highest) > PROGRESS_KEPT:
            del self._highest[next(iter(self._highest))]
        return percent


@dataclass(slots=True)
class Runtime:
    """The shared parts. `time_scale` multiplies the waits between polls (1 in life, less against simulators).

    `public_url` is where the world reaches us, None when nobody said.
    """

    world: World
    bus: Bus
    rules: Ruleset
    fleet: Fleet
    queue: Queue
    owner: Owner
    time_scale: float = 1.0
    public_url: str | None = None
    draining: bool = False  # no attempt starts any more
    closing: bool = False  # nobody may be kept waiting any more
    replaced: bool = False  # another life has taken over: nothing that this one writes counts any more
    leased_until_s: float = math.inf  # monotonic; until then nobody takes this life's tasks over
    lapses: int = 0
    live: dict[str, Live] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    previews: Previews = field(default_factory=Previews)
    relays_waiting: Counter[str] = field(default_factory=Counter)  # completions that wait for a place, by provider
    wake_pump: Callable[[], None] = lambda: None
    on_replaced: Callable[[], None] = lambda: None
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        """Know nothing of anybody's limits yet."""
        self.limits = Limits(self.world.store, self.fleet.monotonic)

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self.world.clock.now()

    def holds(self, live: Live) -> bool:
        """Whether a task that is driven has been this life's from the start of the drive until now."""
        return live.lapses == self.lapses and self.fleet.monotonic() < self.leased_until_s

    @contextmanager
    def driving(self, task: Task) -> Iterator[Live]:
        """Make a task findable while it is driven."""
        live = self.live[task.id] = Live(task.tenant, lapses=self.lapses)
        try:
            yield live
        finally:
            # A task that was lost to another life and has come back may be driven anew before its first drive ends.
            if self.live.get(task.id) is live:
                del self.live[task.id]

    def wait_in_queue(self, task: Task, delay_s: float | None = None, lane: str | None = None) -> None:
        """Put a task that its row says is waiting into the queue (beyond the window it stays in the store only).

        It is looked at again after `delay_s`, and at its deadline at the latest (contract 5.4, timeout).
        """
        if delay_s is not None and task.deadline is not None:
            delay_s = min(delay_s, max(0, task.deadline - self.now()) / 1000)
        entry = Entry(task.id, task.tenant, task.priority, task.created_at, key_id=task.key_id)
        self.queue.push(entry, lane=lane, not_before_s=delay_s)
        self.wake_pump()

    async def insist(self, verb: Callable[[], Awaitable[T]]) -> T:
        """Repeat a verb that must not be lost while the store is away; `Unavailable` after `STORE_PATIENCE_S`."""
        loop = asyncio.get_running_loop()
        give_up_at, pause = loop.time() + STORE_PATIENCE_S, STORE_RETRY_FIRST_S
        while True:
            try:
                return await verb()
            except Unavailable:
                if loop.time() + pause > give_up_at:
                    raise
            await asyncio.sleep(pause * (0.5 + self.world.dice("store").random() / 2))
            pause = min(2 * pause, STORE_RETRY_MAX_S)


def files_of(task: Task) -> tuple[Source, ...]:
    """Read the input files of a task out of its row (`api/uploads.py` says how they get there)."""
    kept = task.input.get(FILES)
    rows = kept if isinstance(kept, list) else []
    return tuple(
        Source(Role(row["role"]), row.get("key"), row.get("url"), row["content_type"], row.get("size")) for row in rows
    )


async def remove_files(runtime: Runtime, task: Task) -> None:
    """Remove the input files that are kept for a task, and our copies of those that it named by URL."""
    for at, source in enumerate(files_of(task)):
        await runtime.world.vault.delete(source.key or f"{copy_folder(task, at)}/0")


async def clear_away(runtime: Runtime, task: Task, now: int) -> None:
    """Remove the bytes of a task whose row has just lost its input and output; `task`: as it was."""
    for output in task.output:
        await runtime.world.vault.delete(output.key)
    await remove_files(runtime, task)
    if task.state is State.SUCCEEDED:
        runtime.bus.emit(TaskSwept(now, task))


def copy_folder(task: Task, at: int) -> str:
    """Where the copy of an input file is kept that the task names by URL; it is the first output there."""
    return f"{task.id}/in/{at}"


def shape_of(task: Task) -> Shape:
    """See a task as routing and pricing see it; that it is streamed changes neither."""
    body = task.input
    roles, remix = [one.role for one in files_of(task)], body.get(REMIX)
    size, quality, n, seconds, prompt = (body.get(name) for name in ("size", "quality", "n", "seconds", "prompt"))
    return Shape(
        kind=task.kind,
        model=task.model,
        tenant=task.tenant,
        size=size if isinstance(size, str) else None,
        quality=quality if isinstance(quality, str) else None,
        n=n if isinstance(n, int) else 1,
        seconds=int(seconds) if isinstance(seconds, int | str) and str(seconds).isdecimal() else None,
        priority=task.priority,
        surface=task.surface,
        metadata=task.metadata,
        fields=frozenset(body) - {FILES, STREAM, REMIX},
        prompt_chars=len(prompt) if isinstance(prompt, str) else count_prompt_chars(body),
        images=roles.count(Role.IMAGE),
        roles=frozenset(roles) - {Role.IMAGE},
        max_tokens=read_max_tokens(body),
        origin=None if remix is None else Origin(remix["provider"], remix["target"], remix["model"]),
    )
