"""An order for an answer, answered as a stream of chunks: a piece as soon as it is made, the usage if it was asked for,
and `[DONE]`.

It takes over from `chat_desk.py` once a streamed order is accepted and only writes: the work itself is the workshop's.
The three forms in which such a stream breaks after its 200 are here: an error object, a cut connection, and a clean end
too early.
Source: the provider file of the OpenAI chat API, sections 4, 5 and 9.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.chat_order import ChatOrder
from providers.simulated.chat_reply import Answer, count_pieces, write_chunks
from providers.simulated.faults import Fault, FaultKind
from providers.simulated.workshop import Workshop

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
TORN_BYTES = 7
"""A ragged stream tears its events after so many bytes."""

_ERROR = {"message": "The upstream is overloaded.", "type": "server_error", "param": None, "code": "overloaded"}

BROKEN = frozenset({FaultKind.STREAM_ERROR, FaultKind.UNFINISHED})
"""The seller itself breaks off: nothing is made behind that."""


@dataclass(slots=True)
class Made:
    """How far the work on an order is: pieces made, the most that will be, and a bell that rings at each change."""

    limit: int
    pieces: int = 0
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self) -> None:
        """One piece more."""
        self.pieces += 1
        self.bell.set()

    async def reach(self, pieces: int) -> None:
        """Wait until so many pieces are made."""
        while self.pieces < pieces:
            self.bell.clear()
            await self.bell.wait()


@dataclass(frozen=True, slots=True)
class ChatStream:
    """The stream of one accepted order. fault: what the order met, which may break the stream. name, created_s: what
    every chunk carries.
    """

    workshop: Workshop
    job: str
    order: ChatOrder
    answers: Sequence[Answer]
    fault: Fault | None
    name: str
    created_s: int

    async def send(self, request: web.Request, made: Made, work: asyncio.Task[None]) -> web.StreamResponse:
        """Answer with the stream, broken as the fault says. A client that leaves is noted on the bill."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        kind = self.fault.kind if self.fault else None
        try:
            await response.prepare(request)
            match kind:
                case FaultKind.HANG:
                    return await mischief.hold(request, self.workshop.closing)
                case FaultKind.ENDLESS | FaultKind.FLOOD:
                    return await self._ping_on(response)
                case _:
                    return await self._write_chunks(request, response, made, work)
        except (asyncio.CancelledError, ConnectionResetError):
            self.workshop.bill.abandon(self.job)
            raise

    async def _write_chunks(
        self, request: web.Request, response: web.StreamResponse, made: Made, work: asyncio.Task[None]
    ) -> web.StreamResponse:
        kind = self.fault.kind if self.fault else None
        pen: Pen = RaggedPen(response) if kind is FaultKind.RAGGED else Pen(response)
        written, total = 0, count_pieces(self.answers)
        last = total // 2 if kind in BROKEN or kind is FaultKind.TRUNCATED else None
        for carries_piece, chunk in write_chunks(self.order, self.answers, self.name, self.created_s):
            if carries_piece and written == last:
                return await self._break_off(request, response, frame(chunk), work)
            if carries_piece:
                written += 1
                await made.reach(written)
            elif written == total:
                await self.workshop.attend(self.job, work)  # the bill is settled before the stream says that it ends
            await pen.write(frame(chunk))
        await pen.write(DONE)
        await pen.lift()
        return response

    async def _break_off(
        self, request: web.Request, response: web.StreamResponse, following: bytes, work: asyncio.Task[None]
    ) -> web.StreamResponse:
        kind = self.fault.kind if self.fault else None
        if kind is FaultKind.TRUNCATED:
            await response.write(following[: len(following) // 2])
            if request.transport is not None:
                request.transport.close()
            return mischief.NoAnswer()
        await self.workshop.attend(self.job, work)
        if kind is FaultKind.STREAM_ERROR:
            await response.write(frame({"error": _ERROR}))
        return response  # without the error a clean end, as if that had been all

    async def _ping_on(self, response: web.StreamResponse) -> web.StreamResponse:
        # Comment lines without end: a keep-alive that keeps nothing alive.
        every_s = self.fault.delay_s() if self.fault else 0.0
        for _ in range(mischief.TRICKLE_BYTES):
            if self.workshop.closing.is_set():
                break
            await response.write(PING)
            await self.workshop.pause(every_s)
        return response


class Pen:
    """Writes each event at once."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    async def write(self, event: bytes) -> None:
        """Send one event."""
        await self._response.write(event)

    async def lift(self) -> None:
        """Send what was held back: nothing."""


class RaggedPen(Pen):
    """Writes what a proxy may make of a stream: CRLF, comments in between, `data:` without its blank, and events that
    share a write with the beginning of the next one.
    """

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__(response)
        self._held = b""

    async def write(self, event: bytes) -> None:
        """Send what was held back together with the first bytes of this event, and hold back the rest."""
        ragged = b": PROCESSING\r\n\r\n" + event.replace(b"data: ", b"data:", 1).replace(b"\n", b"\r\n")
        cut = len(ragged) - TORN_BYTES
        await super().write(self._held + ragged[:cut])
        self._held = ragged[cut:]

    async def lift(self) -> None:
        """Send what was held back."""
        await super().write(self._held)


def frame(data: dict[str, Any]) -> bytes:
    """One event as the dialect writes it: no name, one line of data."""
    return f"data: {json.dumps(data)}\n\n".encode()
