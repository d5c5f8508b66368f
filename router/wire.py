"""Provider HTTP for real: one exchange over aiohttp, told as a whole `Reply` or as a `Broken` that says what left.

Owns sessions, sockets, timeouts, size limits, JSON, multipart and server-sent events; knows no provider, no status code
and no retry. The line between
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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pybase64

from router.outcome import one_line
from router.provider import Broken, Event, Inline, Part, Reply, Request, Source, Stream
from router.world import Offload

CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 30.0
KEEPALIVE_S = 30
REUSE_WITHIN_S = 15.0
DECODED_AT_ONCE_BYTES = 2 << 20  # a third of a millisecond; a thread would take longer to begin
LARGE_BYTES = 256 << 10
PAGED_BYTES = 4 << 20  # below it fresh pages cost more than the holes that the heap keeps
TEXT_MAX_CHARS = 2000
STREAM_MAX_BYTES = 256 << 20

ReadFile = Callable[[str], Awaitable[bytes]]
"""Gives the bytes of a kept input file by its key; `KeyError` when it is gone."""


class Wire:
    """The `Caller` of a running daemon. Build it inside the event loop and `close` it at the end.

    `offload` takes the JSON of large bodies off the loop, `read_file` gives the input files that a request names.
    `max_connections` bounds the connections of paid requests and
    those of GETs, each; below the number of attempts that run at once they would wait for one another and end unsent.
    `connect_timeout_s` covers name, TCP and TLS, `idle_timeout_s` the pause between two pieces of a body once begun.
    """

    def __init__(
        self,
        offload: Offload,
        read_file: ReadFile,
        *,
        max_connections: int = 4096,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._offload = offload
        self._read_file = read_file
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

    @asynccontextmanager
    async def listen(self, request: Request, timeout_s: float, idle_s: float) -> AsyncIterator[Stream | Reply | Broken]:
        """Make one exchange whose answer may be a stream of events; any other answer is given whole.

        Head and end must come within `timeout_s`; between two pieces of a stream at most `idle_s` pass.
        """
        trail = _Trail()
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with AsyncExitStack() as stack:
            limit = asyncio.timeout_at(deadline)
            try:
                async with limit:
                    response = await stack.enter_async_context(self._send(request, trail))
                    streamed = response.status // 100 == 2 and response.content_type == "text/event-stream"
                    if not streamed:
                        body = _Body(_announced_bytes(response), request.max_reply_bytes)
                        await self._receive(response.content, body)
            except (aiohttp.ClientError, TimeoutError, _Unfinished) as cause:
                yield _report(cause, sent=trail.sent, overdue=limit.expired())
                return
            headers = _flatten(response.headers)
            if streamed:
                yield _Events(response.status, headers, response.content, deadline, idle_s)
            else:
                yield await self._read(_Answer(response.status, headers, body))

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
        async with self._send(request, trail) as response:
            body = _Body(_announced_bytes(response), request.max_reply_bytes)
            await self._receive(response.content, body)
            return _Answer(response.status, _flatten(response.headers), body)

    @asynccontextmanager
    async def _send(self, request: Request, trail: _Trail) -> AsyncIterator[aiohttp.ClientResponse]:
        """Write the body, send it, and wait for the head of the answer."""
        session = self._free if request.method == "GET" else self._paid
        headers = dict(request.headers)
        data: bytes | io.BytesIO | aiohttp.MultipartWriter | None = None
        try:
            if request.form:
                data = await self._write_form(request.form)
            elif request.json is not None:
                headers.setdefault("Content-Type", "application/json")
                data = await self._write_json(request.json)
        except KeyError as gone:
            raise _Unwritten("an input file is gone") from gone
        async with session.request(
            request.method, request.url, headers=headers, data=data, allow_redirects=False, trace_request_ctx=trail
        ) as response:
            yield response

    async def _write_json(self, document: Mapping[str, Any]) -> bytes | io.BytesIO:
        """Encode the body; where it names input files, their base64 is put in without being copied through JSON."""
        wanted: list[Source] = []
        text = orjson.dumps(document, lambda value: _note_inline(value, wanted), orjson.OPT_PASSTHROUGH_DATACLASS)
        if wanted:
            contents = {source.key: await self._read_file(source.key or "") for source in wanted}
            text = await self._offload(
                lambda: orjson.dumps(document, lambda value: _inline(value, contents), orjson.OPT_PASSTHROUGH_DATACLASS)
            )
        # A large one is written piece by piece, with the loop free in between.
        return io.BytesIO(text) if len(text) > LARGE_BYTES else text

    async def _write_form(self, parts: tuple[Part, ...]) -> aiohttp.MultipartWriter:
        writer = aiohttp.MultipartWriter("form-data")
        for part in parts:
            if isinstance(part.value, str):
                payload = writer.append(part.value)
                payload.set_content_disposition("form-data", name=part.name)
                continue
            content = await self._read_file(part.value.key or "")
            payload = writer.append(io.BytesIO(content), {"Content-Type": part.value.content_type})
            payload.set_content_disposition("form-data", name=part.name, filename=part.value.filename)
        return writer

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


class _Unwritten(aiohttp.ClientError):
    """The request could not be written; nothing of it was sent."""


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
        case _Unwritten():
            return Broken(sent=False, timed_out=False, detail=str(cause))
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


# -- what a request holds ---------------------------------------------------------------------------------------------


def _note_inline(value: object, wanted: list[Source]) -> str:
    """Note which files a document names; whatever else JSON cannot say is the adapter's mistake."""
    if not isinstance(value, Inline):
        raise TypeError(type(value).__name__)
    wanted.append(value.source)
    return ""


def _inline(value: Inline, contents: Mapping[str | None, bytes]) -> orjson.Fragment:
    """Write a file as JSON text; base64 and media types need no escapes."""
    encoded = pybase64.b64encode(contents[value.source.key])
    prefix = f"data:{value.source.content_type};base64,".encode() if value.data_uri else b""
    return orjson.Fragment(b'"' + prefix + encoded + b'"')


# -- events -----------------------------------------------------------------------------------------------------------


class _Events:
    """A stream on its way (HTML standard 9.2.6): fields on lines, an empty line ends an event, `:` begins a comment."""

    def __init__(
        self, status: int, headers: Mapping[str, str], content: aiohttp.StreamReader, deadline: float, idle_s: float
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        self._deadline = deadline
        self._idle_s = idle_s

    async def events(self) -> AsyncGenerator[Event | Broken, None]:
        """The events; the last one is a `Broken` if the stream did not end by itself, within its bounds."""
        held, size = bytearray(), 0
        name, data = "message", bytearray()
        while True:
            piece = await self._piece()
            if isinstance(piece, Broken):
                yield piece
                return
            size += len(piece)
            if size > STREAM_MAX_BYTES:
                yield Broken(sent=True, timed_out=False, detail=f"the stream is larger than {STREAM_MAX_BYTES} bytes")
                return
            searched = max(0, len(held) - 1)
            held += piece
            while (end := held.find(b"\n", searched)) >= 0:
                line = bytes(held[:end]).removesuffix(b"\r")
                del held[: end + 1]
                searched = 0
                if not line:
                    if data:
                        yield _event(name, bytes(data))
                    name, data = "message", bytearray()
                    continue
                field, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if field == b"data":
                    data += b"\n" + value if data else value
                elif field == b"event":
                    name = value.decode("utf-8", "replace")[:TEXT_MAX_CHARS]
            if not piece:
                if data:  # some servers leave the last empty line out
                    yield _event(name, bytes(data))
                return

    async def _piece(self) -> bytes | Broken:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(self._deadline, loop.time() + self._idle_s)):
                return await self._content.readany()
        except TimeoutError:
            return Broken(sent=True, timed_out=True, detail="the stream stopped")
        except aiohttp.ClientError:
            return Broken(sent=True, timed_out=False, detail="the stream was cut")


def _event(name: str, data: bytes) -> Event:
    try:
        return Event(name, orjson.loads(data), "")
    except orjson.JSONDecodeError:
        return Event(name, None, data[: 4 * TEXT_MAX_CHARS].decode("utf-8", "replace")[:TEXT_MAX_CHARS])


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
