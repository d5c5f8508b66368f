"""The counter at which Ark sells pictures: one held request, answered with all of them or with a stream of them.

It checks, meets the dial, accepts on the bill, and answers; the work itself is the workshop's and ends whoever still
listens. What sets it apart: a picture of a batch may be an error of its own, and only those that were made are paid
for; a stream sends its headers with its first picture, so that whatever is refused before is a plain error.
Source: the provider file of Ark, sections 2 and 4.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.ark_errors import Refusal, write_error
from providers.simulated.ark_picture_order import PictureOrder
from providers.simulated.bill import NOTHING, What
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.gallery import NOT_A_PICTURE, Gallery
from providers.simulated.workshop import Workshop

PICTURE_S: Final = 8.0
"""One picture takes 5 to 30 seconds, a batch or 4K longer; each further one takes as long again."""
LARGE_PIXELS: Final = 3000 * 3000
PICTURE_USD: Final = Decimal("0.03")
"""The official price is unknown; what fal lists for its third and fourth line is taken."""
REFUSED: Final = "OutputImageSensitiveContentDetected"
GARBAGE: Final = "!!! this is not base64 !!!"
DONE: Final = b"data: [DONE]\n\n"
PING: Final = b": ping\n\n"

PICTURE_FAULTS = (TURNED_AWAY - {FaultKind.ACTIVE_LIMIT}) | {
    FaultKind.SLOW,
    FaultKind.LATE,
    FaultKind.HANG,
    FaultKind.DROP,
    FaultKind.GATEWAY_TIMEOUT,
    FaultKind.ERROR_AFTER,
    FaultKind.REFUSAL,
    FaultKind.CONTENT_MODERATED,
    FaultKind.HTML,
    FaultKind.GARBAGE_BASE64,
    FaultKind.WRONG_MAGIC,
    FaultKind.EMPTY_DATA,
    FaultKind.STREAM_ERROR,
    FaultKind.UNFINISHED,
    FaultKind.TRUNCATED,
    FaultKind.ENDLESS,
    FaultKind.FLOOD,
}
"""What a paid request for pictures can show. content_moderated: the last picture of the batch is an error, whose code
is the row's word; refusal: the whole request is one.
"""
_STREAMS_ONLY = frozenset({FaultKind.STREAM_ERROR, FaultKind.UNFINISHED})
_PLAIN = frozenset({FaultKind.REFUSAL, FaultKind.ERROR_AFTER, FaultKind.HTML, FaultKind.GATEWAY_TIMEOUT})


@dataclass(frozen=True, slots=True)
class Sale:
    """One accepted order: its entry on the bill, what it met, and how many of its pictures are made."""

    entry: str
    order: PictureOrder
    origin: str
    fault: Fault | None
    made: int

    @property
    def kind(self) -> FaultKind | None:
        """What the order met."""
        return self.fault.kind if self.fault else None


class PictureCounter:
    """The paid route for pictures. turn_away, complain: the seller's error bodies."""

    def __init__(
        self,
        workshop: Workshop,
        gallery: Gallery,
        *,
        turn_away: Callable[[Fault], web.Response],
        complain: Callable[[Refusal], web.Response],
    ) -> None:
        self._workshop = workshop
        self._gallery = gallery
        self._turn_away = turn_away
        self._complain = complain

    async def sell(self, request: web.Request, order: PictureOrder) -> web.StreamResponse:
        """Meet the dial, charge, make, answer."""
        workshop = self._workshop
        shown = PICTURE_FAULTS if order.stream else PICTURE_FAULTS - _STREAMS_ONLY
        fault = workshop.dial.draw(Step.SUBMIT, model=order.model, prompt=order.prompt, shown=shown)
        workshop.describe(request, fault=fault)
        if fault is not None and fault.kind in TURNED_AWAY:
            return self._turn_away(fault)
        if workshop.bill.full:
            return self._turn_away(Fault(kind=FaultKind.OVERLOADED))
        kind = fault.kind if fault else None
        made = order.count - 1 if kind is FaultKind.CONTENT_MODERATED else order.count
        entry = workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=self._price(made))
        sale = Sale(entry, order, f"{request.scheme}://{request.host}", fault, made)
        work = workshop.begin(self._make(sale))
        if kind is FaultKind.DROP and not order.stream:
            workshop.bill.abandon(entry)
            return mischief.cut(request)
        if order.stream and kind not in _PLAIN:
            return await self._send(request, sale, work)
        await workshop.attend(entry, work)
        if kind is FaultKind.REFUSAL:
            return self._complain(Refusal(REFUSED if fault is None or fault.word is None else fault.word))
        if kind is FaultKind.ERROR_AFTER:
            return self._turn_away(Fault(kind=FaultKind.SERVER_ERROR))
        body = json.dumps(await self._write_body(sale)).encode()
        scale = workshop.options.time_scale
        return await mischief.deliver(
            request, fault, body, content_type="application/json", closing=workshop.closing, scale=scale
        )

    async def _make(self, sale: Sale) -> None:
        # The work of an accepted order, to its end whoever still listens. What is drawn inline is drawn at the answer.
        workshop, kind, fault = self._workshop, sale.kind, sale.fault
        late_s = fault.delay_s() if fault and kind in (FaultKind.SLOW, FaultKind.LATE) else 0.0
        await workshop.pause(self._takes_s(sale.order) * sale.order.count + late_s)
        if kind is FaultKind.REFUSAL:
            workshop.bill.end(sale.entry, What.REFUSAL, NOTHING)
        elif kind is FaultKind.CONTENT_MODERATED and sale.made == 0:
            workshop.bill.end(sale.entry, What.REFUSAL)
        elif kind is FaultKind.STREAM_ERROR:
            workshop.bill.end(sale.entry, What.FAILURE, self._price(1))
        elif kind is FaultKind.UNFINISHED:
            workshop.bill.end(sale.entry, What.FAILURE)
        else:
            silent = kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT, FaultKind.ERROR_AFTER)
            late = kind is FaultKind.LATE and workshop.bill.abandoned(sale.entry)
            workshop.bill.end(sale.entry, What.TIMEOUT if silent or late else What.SUCCESS)

    async def _write_body(self, sale: Sale) -> dict[str, Any]:
        empty = sale.kind is FaultKind.EMPTY_DATA
        indices = range(0 if empty else sale.order.count)
        return {
            "model": sale.order.model,
            "created": self._now_s(),
            "data": [await self._hand_over(sale, index) for index in indices],
            "usage": _count_usage(sale),
        }

    async def _hand_over(self, sale: Sale, index: int) -> dict[str, Any]:
        """One picture of a reply: a link or base64 with its size, or the error that stands in its place."""
        order, kind = sale.order, sale.kind
        if index >= sale.made:
            word = sale.fault.word if sale.fault else None
            return {"error": write_error(REFUSED if word is None else word)}
        size, picture = f"{order.width}x{order.height}", order.draw_up(index)
        if not order.inline:
            link = self._gallery.hang(picture, order.model, spoilt=kind is FaultKind.WRONG_MAGIC)
            return {"url": sale.origin + link, "size": size}
        if kind is FaultKind.GARBAGE_BASE64:
            return {"b64_json": GARBAGE, "size": size}
        drawn = NOT_A_PICTURE if kind is FaultKind.WRONG_MAGIC else await self._workshop.painter.paint(picture)
        return {"b64_json": base64.b64encode(drawn).decode(), "size": size}

    # --- streams

    async def _send(self, request: web.Request, sale: Sale, work: "asyncio.Task[None]") -> web.StreamResponse:
        """Answer with a stream, broken as the fault says. A client that leaves is noted on the bill."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        workshop = self._workshop
        try:
            await workshop.pause(self._takes_s(sale.order))
            await response.prepare(request)
            if not await self._send_pictures(response, sale):
                if request.transport is not None:
                    request.transport.close()
                return mischief.NoAnswer()
            match sale.kind:
                case FaultKind.DROP:
                    workshop.bill.abandon(sale.entry)
                    return mischief.cut(request)
                case FaultKind.HANG:
                    return await mischief.hold(request, workshop.closing)
                case FaultKind.STREAM_ERROR:
                    await response.write(
                        _frame("error", {"type": "error", "error": write_error("InternalServiceError")})
                    )
                    return response
                case FaultKind.UNFINISHED:
                    return response
                case FaultKind.ENDLESS | FaultKind.FLOOD:
                    return await self._ping_on(response, sale)
                case _:
                    await workshop.attend(sale.entry, work)
                    await response.write(self._event(sale, "completed", {"usage": _count_usage(sale)}) + DONE)
                    return response
        except (asyncio.CancelledError, ConnectionResetError):
            workshop.bill.abandon(sale.entry)
            raise

    async def _send_pictures(self, response: web.StreamResponse, sale: Sale) -> bool:
        """The events of the pictures, the first at once; False when the stream is to end in the middle of one."""
        breaks = sale.kind in (FaultKind.DROP, FaultKind.HANG, FaultKind.STREAM_ERROR)
        count = 0 if sale.kind is FaultKind.EMPTY_DATA else 1 if breaks else sale.order.count
        for index in range(count):
            if index > 0:
                await self._workshop.pause(self._takes_s(sale.order))
            handed = await self._hand_over(sale, index)
            word = "partial_failed" if "error" in handed else "partial_succeeded"
            event = self._event(sale, word, {"image_index": index} | handed)
            if sale.kind is FaultKind.TRUNCATED:
                await response.write(event[: len(event) // 2])
                return False
            await response.write(event)
        return True

    async def _ping_on(self, response: web.StreamResponse, sale: Sale) -> web.StreamResponse:
        # Comment lines without end: a keep-alive that keeps nothing alive.
        every_s = sale.fault.delay_s() if sale.fault else 0.0
        for _ in range(mischief.TRICKLE_BYTES):
            if self._workshop.closing.is_set():
                break
            await response.write(PING)
            await self._workshop.pause(every_s)
        return response

    def _event(self, sale: Sale, word: str, fields: dict[str, Any]) -> bytes:
        name = f"image_generation.{word}"
        return _frame(name, {"type": name, "model": sale.order.model, "created": self._now_s()} | fields)

    # --- terms

    def _takes_s(self, order: PictureOrder) -> float:
        if self._workshop.options.latency_s is not None:
            return self._workshop.options.latency_s / order.count
        return PICTURE_S * (2 if order.width * order.height > LARGE_PIXELS else 1)

    def _price(self, pictures: int) -> Decimal:
        each = self._workshop.options.price_usd
        return (PICTURE_USD if each is None else each) * pictures

    def _now_s(self) -> int:
        return self._workshop.options.now_ms() // 1000


def _count_usage(sale: Sale) -> dict[str, int]:
    tokens = sale.order.tokens_each * sale.made
    return {"generated_images": sale.made, "output_tokens": tokens, "total_tokens": tokens}


def _frame(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
