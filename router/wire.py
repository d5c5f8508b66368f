"""Provider HTTP for real: one exchange over aiohttp, told as a whole `Reply` or as a `Broken` that says what left.

Owns sessions, sockets, timeouts, size limits and JSON; knows no provider, no status code and no retry. The line between
"nothing was sent" and "the outcome is unknown" is the moment the request headers leave, which a trace reports
(reliability-security section 5: exception classes alone lie). Whatever is not certainly unsent counts as sent. A
request that may cost money goes over a connection of its own, so that an idle socket which the far side is just closing
can never make its outcome unknown (case B4); only GET reuses connections. Header values go out, and come back in
`Reply.headers`; they appear nowhere else. Floor 3.
"""

from __future__ import annotations

import asyncio
import io
import mmap
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson

from router.outcome import one_line
from router.provider import Broken, Reply, Request
from router.world import Offload

CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 30.0
KEEPALIVE_S = 30
REUSE_WITHIN_S = 15.0
DECODED_AT_ONCE_BYTES = 2 << 20  # a third of a millisecond; a thread would take longer to begin
LARGE_BYTES = 256 << 10
PAGED_BYTES = 4 << 20  # below it fresh pages cost more than the holes that the heap keeps
TEXT_MAX_CHARS = 2000


class Wire:
    """The `Caller` of a running daemon. Build it inside the event loop and `close` it at the end.

    `offload` takes the JSON of large bodies off the loop. `max_connections` bounds the connections of paid requests and
    those of GETs, each; below the number of attempts that run at once they would wait for one another and end unsent.
    `connect_timeout_s` covers name, TCP and TLS, `idle_timeout_s` the pause between two pieces of a body once begun.
    """

    def __init__(
        self,
        offload: Offload,
        *,
        max_connections: int = 4096,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._offload = offload
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._one_decode = asyncio.Lock()
        self._paid = self._open_session(
            aiohttp.TCPConnector(limit=max_connections, socket_factory=make_socket, force_close=True)
        )
        self._free = self._open_session(
            aiohttp.TCPConnector(limit=max_connections, socket_factory=make_socket, keepalive_timeout=REUSE_WITHIN_S)
        )

    async def __call__(self, request: Request, timeout_s: float) -> Reply | Broken:
        """Make one exchange; its answer must have arrived whole within `timeout_s`.

        Nothing is sent twice, but for a GET whose reused connection turns out to be closed: aiohttp repeats it once.
        """
        trail = _Trail()
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                answer = await self._exchange(request, trail)
        except (aiohttp.ClientError, TimeoutError, _Unfinished) as cause:
            return _report(cause, sent=trail.sent, overdue=deadline.expired())
        return await self._read(answer)

    async def close(self) -> None:
        """Close every connection; exchanges under way end as broken."""
        await self._paid.close()
        await self._free.close()

    def _open_session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=[trace],
            headers={"User-Agent": "pointsman"},
            # No bound on the first byte: a synchronous generation answers when it is done. `__call__` bounds the whole.
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
        )

    async def _exchange(self, request: Request, trail: _Trail) -> _Answer:
        session = self._free if request.method == "GET" else self._paid
        headers = dict(request.headers)
        data: bytes | io.BytesIO | None = None
        if request.json is not None:
            headers.setdefault("Content-Type", "application/json")
            data = orjson.dumps(request.json)
            if len(data) > LARGE_BYTES:
                data = io.BytesIO(data)  # written piece by piece, with the loop free in between
        async with session.request(
            request.method, request.url, headers=headers, data=data, allow_redirects=False, trace_request_ctx=trail
        ) as response:
            body = _Body(_announced_bytes(response), request.max_reply_bytes)
            await self._receive(response.content, body)
            return _Answer(response.status, _flatten(response.headers), body)

    async def _receive(self, content: aiohttp.StreamReader, body: _Body) -> None:
        loop = asyncio.get_running_loop()
        idle = asyncio.timeout(self._idle_timeout_s)
        try:
            async with idle:
                # By chunk: joining what has come in would hold it once more.
                while not content.at_eof():
                    piece, _ = await content.readchunk()
                    body.append(piece)
                    idle.reschedule(loop.time() + self._idle_timeout_s)
        except TimeoutError as late:
            if not idle.expired():
                raise
            detail = f"the answer stopped for {self._idle_timeout_s:g} s"
            raise _Unfinished(detail, timed_out=True) from late

    async def _read(self, answer: _Answer) -> Reply:
        if answer.body.size <= DECODED_AT_ONCE_BYTES:
            return _decode(answer)
        # One at a time: while a body is decoded it exists twice, and twenty may arrive together.
        async with self._one_decode:
            return await self._offload(lambda: _decode(answer))


def make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket that finds out within minutes when the far side is gone, however long an answer takes.

    Keep-alive probes also stop firewalls from forgetting a connection that is silent for a whole generation.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    return made


# -- what became of an exchange --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Trail:
    """What one exchange has left behind. The trace below writes it."""

    sent: bool = False


async def _note_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _headers: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


class _Unfinished(Exception):  # noqa: N818 - it says what became of the answer
    """We gave up on an answer that had begun."""

    def __init__(self, detail: str, *, timed_out: bool) -> None:
        super().__init__(detail)
        self.timed_out = timed_out


def _report(cause: Exception, *, sent: bool, overdue: bool) -> Broken:
    """Put a failure into words. Only what fails while connecting may be unsent, and only if the trace agrees."""
    match cause:
        case _Unfinished():
            return Broken(sent=True, timed_out=cause.timed_out, detail=str(cause))
        case aiohttp.ConnectionTimeoutError():
            return Broken(sent=sent, timed_out=True, detail="no connection in time")
        case aiohttp.ClientConnectorError():
            return Broken(sent=sent, timed_out=False, detail=one_line(str(cause)))
        case aiohttp.InvalidURL():
            return Broken(sent=sent, timed_out=False, detail="not a URL that can be called")
        case TimeoutError():
            # A timeout that is not the exchange's own says nothing about what was sent.
            return Broken(sent=sent or not overdue, timed_out=True, detail="no whole answer in time")
        case aiohttp.ClientPayloadError():
            return Broken(sent=True, timed_out=False, detail="the answer ended early or is garbled")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return Broken(sent=True, timed_out=False, detail="the connection was lost before an answer")
        case _:
            return Broken(sent=True, timed_out=False, detail=f"no proper HTTP answer ({type(cause).__name__})")


# -- the body ---------------------------------------------------------------------------------------------------------


class _Body:
    """The bytes of one answer, each held once.

    A body larger than usual pictures gets pages of its own. They take no memory before they are filled, whatever was
    announced; they grow without being copied; and they go straight back to the system; a heap would keep the hole.
    """

    def __init__(self, announced: int | None, limit: int) -> None:
        self._limit = limit
        self.size = 0
        if announced is not None and announced > limit:
            raise self._overflow()
        self._room: bytearray | mmap.mmap = bytearray()
        # Of a body of unknown length the heap would keep what was there before it turned out to be large.
        self._heap_bytes = LARGE_BYTES if announced is None else PAGED_BYTES
        if announced is not None and announced > PAGED_BYTES:
            self._room = _map_pages(announced)

    def append(self, piece: bytes) -> None:
        """Add a piece; `_Unfinished` when the body gets larger than allowed."""
        end = self.size + len(piece)
        if end > self._limit:
            raise self._overflow()
        if isinstance(self._room, bytearray):
            if end <= self._heap_bytes:
                self._room += piece
                self.size = end
                return
            pages = _map_pages(4 * self._heap_bytes)
            pages[: self.size] = self._room
            self._room = pages
        while end > len(self._room):
            self._room.resize(2 * len(self._room))
        self._room[self.size : end] = piece
        self.size = end

    def decode(self) -> tuple[Any, str, bool]:
        """Return (JSON, "", True), or (None, the beginning as text, False), and let go of the bytes."""
        try:
            with memoryview(self._room) as whole, whole[: self.size] as view:
                try:
                    return orjson.loads(view), "", True
                except orjson.JSONDecodeError:
                    beginning = bytes(view[: 4 * TEXT_MAX_CHARS])
            return None, beginning.decode("utf-8", "replace")[:TEXT_MAX_CHARS], False
        finally:
            if isinstance(self._room, mmap.mmap):
                self._room.close()
            self._room = bytearray()

    def _overflow(self) -> _Unfinished:
        return _Unfinished(f"the answer is larger than {self._limit} bytes", timed_out=False)


def _map_pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: _Body


def _decode(answer: _Answer) -> Reply:
    data, text, is_json = answer.body.decode()
    return Reply(status=answer.status, headers=answer.headers, data=data, text=text, is_json=is_json)


def _announced_bytes(response: aiohttp.ClientResponse) -> int | None:
    """Return the size that the body will have; a compressed one announces only how it travels."""
    return None if "Content-Encoding" in response.headers else response.content_length


def _flatten(headers: Mapping[str, str]) -> dict[str, str]:
    """Lower the names and join repeated fields by commas (RFC 9110 5.3)."""
    flat: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        flat[lower] = f"{flat[lower]}, {value}" if lower in flat else value
    return flat
