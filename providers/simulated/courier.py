"""Webhooks of a simulated provider: one signed POST per event, tried again where the provider tries again.

It carries bytes and knows neither jobs nor how a signature is made: the seller's module gives both. It delivers to the
loopback only, whatever address a request names, so that a drill reaches nobody; an event for another host is dropped,
as a lost delivery is.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from providers.simulated.workshop import Workshop

TIMEOUT_S: Final = 5.0
"""How long one delivery may take by itself, unscaled by design: it is the far side's time and not the provider's."""
AT_ONCE: Final = 8
"""Deliveries under way at one time."""
WAITING_MAX: Final = 10_000
"""Events that wait for their delivery; a further one is dropped."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One event. body: sent as it is, and as it was signed. pauses_s: unscaled seconds before each further try after a
    delivery that was not answered with 2xx; none means a single try. copies: how often it is delivered. stamp: headers
    made anew for each delivery, where a signature holds for a while only. timeout_s: how long the far side may take.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    pauses_s: tuple[float, ...] = ()
    copies: int = 1
    stamp: Callable[[], Mapping[str, str]] = dict
    timeout_s: float = TIMEOUT_S


class Courier:
    """The outgoing post of one simulator. `delivered` and `given_up` count parcels by their end."""

    def __init__(self, workshop: Workshop) -> None:
        self.delivered = 0
        self.given_up = 0
        self._workshop = workshop
        self._hands = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def send(self, parcel: Parcel) -> None:
        """Deliver in the background; the simulator's end cuts it short."""
        if not reaches_loopback(parcel.url) or self._waiting >= WAITING_MAX:
            self.given_up += 1
            return
        self._waiting += 1
        self._workshop.begin(self._carry(parcel))

    async def _carry(self, parcel: Parcel) -> None:
        try:
            async with self._hands:
                taken = await self._try(parcel)
            for pause_s in () if taken else parcel.pauses_s:
                await self._workshop.pause(pause_s)
                async with self._hands:
                    taken = await self._try(parcel)
                if taken:
                    break
        finally:
            self._waiting -= 1
        if taken:
            self.delivered += 1
        else:
            self.given_up += 1

    async def _try(self, parcel: Parcel) -> bool:
        taken = True
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=parcel.timeout_s)) as session:
            for _ in range(parcel.copies):
                try:
                    async with session.post(
                        parcel.url,
                        data=parcel.body,
                        headers={**parcel.headers, **parcel.stamp()},
                        allow_redirects=False,
                    ) as answer:
                        taken = taken and 200 <= answer.status < 300
                except (aiohttp.ClientError, TimeoutError):
                    taken = False
        return taken


def reaches_loopback(url: str) -> bool:
    """Whether an address names this machine: `localhost` or a literal loopback address, over http or https."""
    try:
        parsed = URL(url)
    except ValueError:
        return False
    if parsed.scheme not in ("http", "https") or not parsed.host:
        return False
    if parsed.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(parsed.host).is_loopback
    except ValueError:
        return False
