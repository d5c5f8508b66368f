"""What is known of a task while it is driven, and the attempts that it has out side by side (contract 6, n > 1).

`Story` keeps the row, every attempt as it was last written, and what was decided about single images; it is rebuilt
from the store at each drive. `Crew` holds the coroutines that drive attempts beside one another, and tells what came of
each, one at a time, so that all that is written about a task is written by one. Neither decides anything: `run` does.
Floor 2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from router.flow.attempt import Ended
from router.flow.runtime import Live, shape_of
from router.outcome import SUCCEEDED
from router.persistence import TaskView
from router.policy import parts
from router.policy.parts import Piece
from router.policy.route import Try
from router.provider import Usage
from router.task import Attempt, AttemptState, Error, Output, Task


@dataclass(frozen=True, slots=True)
class Unsent:
    """A shutdown came before an attempt's first byte: its intent can be withdrawn."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Left:
    """The attempt's row says all that the next life needs."""


Heard = Ended | Unsent | Left


class Crew:
    """The attempts of one task that are out side by side."""

    def __init__(self) -> None:
        """Nobody is out."""
        self._out: dict[int, asyncio.Task[Heard]] = {}
        self._back: deque[asyncio.Task[Heard]] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """How many have not been heard yet."""
        return len(self._out) + len(self._back)

    def send(self, n: int, driving: Coroutine[Any, Any, Heard]) -> None:
        """Let attempt `n` be driven beside the others."""
        self._out[n] = asyncio.create_task(driving)
        self._out[n].add_done_callback(partial(self._came_back, n))

    async def hear(self, within_s: float | None) -> Heard | None:
        """Wait for what comes of the next one; None when nobody came back within so many seconds."""
        if not self._back:
            self._news.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._news.wait()
            except TimeoutError:
                return None
        return self._back.popleft().result()

    async def stop(self) -> None:
        """Cut whatever is still out."""
        out = tuple(self._out.values())
        for one in out:
            one.cancel()
        if out:
            await asyncio.gather(*out, return_exceptions=True)

    def _came_back(self, n: int, one: asyncio.Task[Heard]) -> None:
        del self._out[n]
        self._back.append(one)
        self._news.set()


@dataclass(slots=True)
class Story:
    """What is known of a task while it is driven. `attempts` by number; an ended one has its output here.

    `lost` are the images for which nothing more is tried, with the reason, `due` the instants before which an image is
    not tried again. `sealed`: no attempt begins any more in this drive. `over`: the row is not this drive's to move.
    """

    task: Task
    asked: int
    attempts: dict[int, Attempt]
    barred: frozenset[str] = frozenset()
    live: Live = field(default_factory=lambda: Live(""))
    crew: Crew = field(default_factory=Crew)
    lost: dict[int, Error] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    sealed: bool = False
    over: bool = False

    @classmethod
    def of(cls, view: TaskView) -> Story:
        """Begin with what the store says."""
        return cls(view.task, max(1, shape_of(view.task).n), {one.n: one for one in view.attempts})

    @property
    def is_closed(self) -> bool:
        """Whether no attempt may begin any more."""
        return self.sealed or self.over or self.task.is_terminal

    @property
    def out(self) -> tuple[Attempt, ...]:
        """The attempts that have not ended, as far as the rows say."""
        return tuple(one for one in self.attempts.values() if one.state is not AttemptState.ENDED)

    @property
    def missing(self) -> tuple[int, ...]:
        """The images that are still to be tried."""
        return tuple(one for one in parts.missing_of(self.asked, self.attempts.values()) if one not in self.lost)

    @property
    def is_whole(self) -> bool:
        """Whether one attempt is out and nothing is left for another: as nearly always, no need of a crew."""
        return len(self.out) == 1 and not len(self.crew) and not self.missing

    @property
    def next_n(self) -> int:
        """The number of the next attempt."""
        return max(self.attempts, default=0) + 1

    def pieces(self, now: int) -> tuple[Piece, ...]:
        """What an attempt could begin with now."""
        waiting = {image for image, due in self.due.items() if due > now}
        return parts.pieces_of(self.asked, self.attempts.values(), aside={*self.lost, *waiting})

    def wait_s(self, now: int) -> float | None:
        """Seconds until the next image may be tried again; None when none waits for its time."""
        dues = [self.due[image] for image in self.missing if self.due.get(image, 0) > now]
        return (min(dues) - now) / 1000 if dues else None

    def history_of(self, image: int) -> tuple[Try, ...]:
        """The failures of one image, oldest first."""
        return parts.history_of(self.attempts.values(), self.asked, image)

    def beside(self, image: int) -> tuple[Try, ...]:
        """The failures of the others."""
        return parts.beside(self.attempts.values(), self.asked, image)

    def note(self, ended: Ended) -> None:
        """Keep what came of an attempt."""
        self.attempts[ended.attempt.n] = replace(ended.attempt, output=ended.output, usage=ended.usage)

    def give_up(self, images: Iterable[int], error: Error) -> None:
        """Try nothing more for these images."""
        for image in images:
            self.lost.pop(image, None)  # so that the error given last stands last
            self.lost[image] = error

    @property
    def made(self) -> tuple[Attempt, ...]:
        """The attempts that succeeded, in the order of their images."""
        done = (one for one in self.attempts.values() if one.outcome == SUCCEEDED)
        return tuple(sorted(done, key=lambda one: (one.part, one.n)))

    @property
    def output(self) -> tuple[Output, ...]:
        """The images that exist, in their order."""
        return tuple(output for one in self.made for output in one.output)

    @property
    def usage(self) -> Usage:
        """What the upstreams said they used; a count that nobody named stays unsaid."""
        said = [one.usage for one in self.made if one.usage is not None]
        return said[0] if len(said) == 1 else _sum_of(said)


def _sum_of(said: Iterable[Usage]) -> Usage:
    sums: dict[str, int] = {}
    for usage in said:
        for name in Usage.__dataclass_fields__:
            count = getattr(usage, name)
            if count is not None:
                sums[name] = sums.get(name, 0) + count
    return Usage(**sums)
