"""Partial pictures on their way from an attempt to whoever streams its task (contract 5.1, `stream: true`).

Kept in memory and for those alone who listen just now: a preview is not a result. Of each picture a listener finds the
newest preview only, so that one who reads slowly is never waited for and holds no more than one of each. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREVIEW_MAX_CHARS = 24 << 20  # what is larger is no preview


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview number `n` (from 0, by attempt) of picture `image`, in base64."""

    image: int
    n: int
    b64: str


class Channel:
    """What one listener has not read yet. `news` is set when there is something."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.news = asyncio.Event()
        self._newest: dict[int, Preview] = {}

    def put(self, preview: Preview) -> None:
        """Take a preview in; it replaces an older one of the same picture."""
        self._newest.pop(preview.image, None)
        self._newest[preview.image] = preview
        self.news.set()

    def take(self) -> tuple[Preview, ...]:
        """Give out what there is, the oldest first."""
        self.news.clear()
        taken, self._newest = tuple(self._newest.values()), {}
        return taken


class Previews:
    """The channels of all who listen, by task."""

    def __init__(self) -> None:
        """Nobody listens."""
        self._open: dict[str, list[Channel]] = {}

    @contextmanager
    def listening(self, task_id: str) -> Iterator[Channel]:
        """Hear the previews of a task from now on."""
        channel = Channel()
        self._open.setdefault(task_id, []).append(channel)
        try:
            yield channel
        finally:
            self._open[task_id].remove(channel)
            if not self._open[task_id]:
                del self._open[task_id]

    def tell(self, task_id: str, preview: Preview) -> None:
        """Pass a preview on to those who listen, if any."""
        if len(preview.b64) <= PREVIEW_MAX_CHARS:
            for channel in self._open.get(task_id, ()):
                channel.put(preview)
