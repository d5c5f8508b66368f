"""A server on a free loopback port whose every byte a test writes itself: cut off, stalled, flooded, reset."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Peer:
    """The far side: where it listens and what it has seen. `requests` are whole, head and body."""

    port: int = 0
    connections: int = 0
    closed: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(script: Script, *, reads: bool = True, bodies: bool = True) -> AsyncIterator[Peer]:
    """Run `script(request, writer)` for each request, on as many connections as come; a script may close the writer.

    Without `reads` the script runs as soon as a connection is there, with an empty request; without `bodies` as soon as
    the head is there, and the body is never read.
    """
    peer = Peer()
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        this = asyncio.current_task()
        assert this is not None
        tasks.add(this)
        try:
            # Cancelled by the end of the test; asyncio 3.11 complains of connections that end so.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not writer.is_closing():
                    request = await read_request(reader, body=bodies) if reads else b""
                    if reads:
                        peer.requests.append(request)
                    await script(request, writer)
        finally:
            tasks.discard(this)
            peer.closed += 1
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader, *, body: bool = True) -> bytes:
    """Read one request, with its body if that has an announced length."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if body and name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
    return head


def http(body: bytes = b"{}", *, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    """Write an answer; `length` None announces the true one."""
    announced = len(body) if length is None else length
    lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n{headers}\r\n"
    return lines.encode("latin-1") + body


def answering(answer: bytes, *, close: bool = False) -> Script:
    """Make a script that gives always the same answer."""

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()

    return script


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side gets a reset instead of an end."""
    made = writer.get_extra_info("socket")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def find_closed_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]
