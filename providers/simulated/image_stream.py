"""An order for pictures answered as a stream of events: partial pictures while the work goes on, then the finished
ones.

It takes over from `image_desk.py` once a streamed order is accepted; the work itself runs in the workshop and ends
whether or not the stream does. The event's name equals `type` in its data, and no `[DONE]` follows.
Source: the provider file of the OpenAI images API, section 5.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.faults import Fault, FaultKind
from providers.simulated.image_order import Order
from providers.simulated.image_reply import Terms, describe_output, draw_up, encode
from providers.simulated.workshop import Workshop

PING = b": ping\n\n"

_BREAKS = (FaultKind.DROP, FaultKind.STREAM_ERROR, FaultKind.UNFINISHED)


@dataclass(frozen=True, slots=True)
class ImageStream:
    """The stream of one accepted order. fault: what the order met, which may break the stream."""

    workshop: Workshop
    job: str
    order: Order
    terms: Terms
    fault: Fault | None

    async def send(self, request: web.Request, work: asyncio.Task[list[bytes]]) -> web.StreamResponse:
        """Answer with the stream, broken as the fault says. A client that leaves is noted on the bill."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        try:
            await response.prepare(request)
            await self._send_partials(response)
            match self.fault.kind if self.fault else None:
                case FaultKind.DROP:
                    self.workshop.bill.abandon(self.job)
                    return mischief.cut(request)
                case FaultKind.HANG:
                    return await mischief.hold(request, self.workshop.closing)
                case FaultKind.STREAM_ERROR:
                    error = {"message": "The server had an error.", "type": "server_error", "param": None}
                    await response.write(_frame("error", {"type": "error", "error": error | {"code": "server_error"}}))
                    return response
                case FaultKind.UNFINISHED:
                    return response
                case FaultKind.ENDLESS | FaultKind.FLOOD:
                    return await self._ping_on(response)
                case _:
                    pictures = await self.workshop.attend(self.job, work)
                    return await self._send_completed(request, response, pictures)
        except (asyncio.CancelledError, ConnectionResetError):
            self.workshop.bill.abandon(self.job)
            raise

    async def _send_partials(self, response: web.StreamResponse) -> None:
        # A stream that is to break off does so after its first partial picture, if it has any.
        breaks = self.fault is not None and self.fault.kind in _BREAKS
        partials = self.order.partial_images
        for index in range(min(partials, 1) if breaks else partials):
            await self.workshop.pause(self.terms.latency_s / (partials + 1))
            picture = await self.workshop.painter.paint(draw_up(self.order, 0))
            event = {"partial_image_index": index, "b64_json": encode(picture, None)}
            await response.write(self._event("partial_image", event))

    async def _send_completed(
        self, request: web.Request, response: web.StreamResponse, pictures: list[bytes]
    ) -> web.StreamResponse:
        kind = self.fault.kind if self.fault else None
        usage = {} if self.terms.usage is None else {"usage": self.terms.usage.as_json()}
        for picture in [] if kind is FaultKind.EMPTY_DATA else pictures:
            event = self._event("completed", {"b64_json": encode(picture, kind)} | usage)
            if kind is FaultKind.TRUNCATED:
                await response.write(event[: len(event) // 2])
                if request.transport is not None:
                    request.transport.close()
                return mischief.NoAnswer()
            await response.write(event)
        return response

    async def _ping_on(self, response: web.StreamResponse) -> web.StreamResponse:
        # Comment lines without end: a keep-alive that keeps nothing alive.
        every_s = self.fault.delay_s() if self.fault else 0.0
        for _ in range(mischief.TRICKLE_BYTES):
            if self.workshop.closing.is_set():
                break
            await response.write(PING)
            await self.workshop.pause(every_s)
        return response

    def _event(self, word: str, fields: Mapping[str, Any]) -> bytes:
        name = f"image_{self.order.endpoint}.{word}"
        created_s = self.workshop.options.now_ms() // 1000
        return _frame(name, {"type": name, "created_at": created_s} | describe_output(self.order) | dict(fields))


def _frame(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
