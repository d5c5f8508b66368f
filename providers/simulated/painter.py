"""When the works of a simulated provider are drawn: off the event loop, two at a time, and the latest ones are kept.

It knows neither links nor bills; `picture.py` and `film.py` draw. Every work is a pure function of what was asked for,
so one that was dropped is drawn again, the same.
"""

import asyncio
from collections import OrderedDict
from typing import assert_never

from providers.simulated import film, picture
from providers.simulated.film import Film
from providers.simulated.picture import Picture

CACHED_BYTES = 32 * 1024 * 1024
"""Bytes of finished works that one painter keeps."""


class Painter:
    """Renders pictures and films in a thread, two at a time, and keeps the latest ones, `cached_bytes_max` in all."""

    def __init__(self, cached_bytes_max: int = CACHED_BYTES) -> None:
        self._cached_bytes_max = cached_bytes_max
        self._kept: OrderedDict[Picture | Film, bytes] = OrderedDict()
        self.cached_bytes = 0
        self._hands = asyncio.Semaphore(2)

    async def paint(self, work: Picture | Film) -> bytes:
        """The file's bytes. A work asked for again comes from the cache while it is there. PyAVMissingError: a film,
        and the extra `video` is not installed.
        """
        async with self._hands:
            if work in self._kept:
                self._kept.move_to_end(work)
                return self._kept[work]
            painted = await asyncio.to_thread(_render, work)
            if work not in self._kept:
                self._kept[work] = painted
                self.cached_bytes += len(painted)
            while self.cached_bytes > self._cached_bytes_max:
                _, dropped = self._kept.popitem(last=False)
                self.cached_bytes -= len(dropped)
        return painted


def _render(work: Picture | Film) -> bytes:
    match work:
        case Picture():
            return picture.render(work)
        case Film():
            return film.render(work)
        case _:
            assert_never(work)
