"""A way to a server that can go bad: slow, silent, cut, or cut at the moment when certain bytes pass.

It listens on a free loopback port and passes bytes on as they come. What is swallowed is gone: a connection that lost
something stays silent for ever, as after a firewall forgot it; those who use it have to notice by themselves.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

from tests.loopback import reset

CHUNK_BYTES = 1 << 16
CHUNKS_MAX = 1_000


class Mode(Enum):
    """What becomes of connections, those that are open and those to come."""

    PASS = "pass"
    SWALLOW = "swallow"  # they stay open and nothing arrives; new ones are taken and never answered
    REFUSE = "refuse"  # they are reset, and so are new ones


class Link:
    """One connection of a client, and ours to the server. `lost`: it has been silenced for good."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        """Begin with the client alone."""
        self.writers = [client]
        self.lost = False


class Proxy:
    """The way. `port` is where it begins; `latency_s` is added each way; `connections` counts who has come."""

    def __init__(self, port: int) -> None:
        """Lead to a port of the loopback."""
        self.port = 0
        self.latency_s = 0.0
        self.connections = 0
        self.struck = asyncio.Event()
        self._target = port
        self._mode = Mode.PASS
        self._links: set[Link] = set()
        self._trap: tuple[bytes, Mode] | None = None

    def url(self, url: str) -> str:
        """Say an address so that it leads through here."""
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition(':')[0]}:{self.port}"
        return urlunsplit(parts._replace(netloc=place))

    def turn(self, mode: Mode) -> None:
        """Go bad, or good again for connections that lost nothing."""
        self._mode = mode
        if mode is Mode.REFUSE:
            self.cut()
        if mode is Mode.SWALLOW:
            for link in self._links:
                link.lost = True

    def cut(self) -> None:
        """Reset every connection that is open; new ones are served as before."""
        for link in tuple(self._links):
            for writer in link.writers:
                reset(writer)

    def turn_at(self, pattern: bytes, mode: Mode) -> None:
        """Go bad when these bytes come by, before they are passed on, once; `struck` is set then."""
        self._trap = (pattern, mode)
        self.struck.clear()

    # -- parts ------------------------------------------------------------------------------------------------------

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.connections += 1
        link = Link(writer)
        self._links.add(link)
        try:
            if self._mode is Mode.REFUSE:
                reset(writer)
                return
            link.lost = self._mode is Mode.SWALLOW
            if link.lost:
                await reader.read()  # until the client gives up
                return
            upstream, server = await asyncio.open_connection("127.0.0.1", self._target)
            link.writers.append(server)
            await self._carry_both_ways(link, (reader, server), (upstream, writer))
        except OSError:
            reset(writer)  # nobody listens there
        finally:
            self._links.discard(link)
            for one in link.writers:
                one.close()

    async def _carry_both_ways(self, link: Link, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Carry until either side ends."""
        carrying = [asyncio.create_task(self._carry(link, *way)) for way in ways]
        try:
            await next(asyncio.as_completed(carrying))
        finally:
            for one in carrying:
                one.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one way, in order, each piece as late as is said when it comes."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not link.lost and piece:
                    writer.write(piece)
                    await writer.drain()
                if not piece and not link.lost:
                    return

        delivering = asyncio.create_task(deliver())
        try:
            with suppress(ConnectionError):
                while piece := await reader.read(CHUNK_BYTES):
                    self._watch(piece)
                    await pieces.put((loop.time() + self.latency_s, piece))
                await pieces.put((0.0, b""))
                await delivering
        finally:
            delivering.cancel()

    def _watch(self, piece: bytes) -> None:
        if self._trap is not None and self._trap[0] in piece:
            _pattern, mode = self._trap
            self._trap = None
            self.struck.set()
            self.turn(mode)


@asynccontextmanager
async def toxic_way(port: int) -> AsyncIterator[Proxy]:
    """A way to a port of the loopback."""
    proxy = Proxy(port)
    talking: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        talking.add(this)
        try:
            # Cancelled by the end of the test; asyncio 3.11 complains of connections that end so.
            with suppress(asyncio.CancelledError, ConnectionError):
                await proxy.talk(reader, writer)
        finally:
            talking.discard(this)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for one in tuple(talking):
            one.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
