"""The life of a synchronous order for pictures at a seller that speaks the OpenAI Images dialect.

One request holds its connection until the pictures are made: it is checked, met by the dial, accepted on the bill,
worked on for its time, answered. What differs between sellers (keys, error bodies, prices, the form of a picture) is
the `Seller`'s; what breaks on the wire is `mischief.py`'s. From acceptance on the work belongs to the workshop, not
to the connection.
"""

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar, Protocol

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import What
from providers.simulated.body_fields import Invalid
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.gallery import RESULT_FAULTS, Gallery
from providers.simulated.image_order import Endpoint, Family, Order, read_order
from providers.simulated.image_reply import Delivery, Terms, draw_up, write_body
from providers.simulated.image_stream import ImageStream
from providers.simulated.image_upload import read_upload
from providers.simulated.workshop import Workshop

IMAGE_OFFER = {
    Step.SUBMIT: (TURNED_AWAY - {FaultKind.ACTIVE_LIMIT, FaultKind.MODERATION_BLOCKED})
    | {
        FaultKind.SLOW,
        FaultKind.LATE,
        FaultKind.HANG,
        FaultKind.DROP,
        FaultKind.GATEWAY_TIMEOUT,
        FaultKind.REFUSAL,
        FaultKind.HTML,
        FaultKind.GARBAGE_BASE64,
        FaultKind.WRONG_MAGIC,
        FaultKind.EMPTY_DATA,
        FaultKind.STREAM_ERROR,
        FaultKind.UNFINISHED,
        FaultKind.TRUNCATED,
        FaultKind.ENDLESS,
        FaultKind.FLOOD,
    },
    Step.RESULT: RESULT_FAULTS,
}
"""What a dial can show at a seller of this dialect; a seller may add its own kinds."""


class Seller(Protocol):
    """What differs between the sellers of this dialect."""

    families: ClassVar[Sequence[tuple[str, Family]]]

    def admit(self, request: web.Request) -> web.Response | None:
        """The refusal of a request whose key is missing or wrong, else None."""

    def complain(self, invalid: Invalid) -> web.Response:
        """The error body for an order that breaks a rule."""

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The answer to an order that is not accepted; called with the kinds of `TURNED_AWAY`."""

    def refuse(self, order: Order) -> web.Response:
        """The answer to an order that content policy forbids."""

    def quote(self, order: Order) -> Terms:
        """Price, time and form of an order."""


class ImageDesk:
    """The handlers of one seller's two paid routes."""

    def __init__(self, workshop: Workshop, gallery: Gallery, seller: Seller) -> None:
        self._workshop = workshop
        self._gallery = gallery
        self._seller = seller

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST .../images/generations."""
        return await self._serve(request, "generation")

    async def edit(self, request: web.Request) -> web.StreamResponse:
        """POST .../images/edits."""
        return await self._serve(request, "edit")

    async def _serve(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        workshop, seller = self._workshop, self._seller
        denied = seller.admit(request)
        if denied is not None:
            return denied
        upload = await read_upload(request)
        if isinstance(upload, Invalid):
            return seller.complain(upload)
        workshop.describe(request, body=upload.fields)
        order = read_order(
            upload.fields,
            endpoint,
            families=seller.families,
            models=workshop.options.models,
            inputs=upload.inputs,
            mask=upload.mask,
            mask_fits=upload.mask_fits,
            markup=upload.markup,
        )
        if isinstance(order, Invalid):
            return seller.complain(order)
        shown = (IMAGE_OFFER[Step.SUBMIT] | TURNED_AWAY) - (frozenset() if order.stream else {FaultKind.UNFINISHED})
        fault = workshop.dial.draw(Step.SUBMIT, model=order.model, prompt=order.prompt, shown=shown)
        workshop.describe(request, fault=fault)
        if fault and fault.kind in TURNED_AWAY:
            return seller.turn_away(fault, order)
        if workshop.bill.full:
            return seller.turn_away(Fault(kind=FaultKind.OVERLOADED), order)
        return await self._accept(request, order, fault)

    async def _accept(self, request: web.Request, order: Order, fault: Fault | None) -> web.StreamResponse:
        workshop, kind = self._workshop, fault.kind if fault else None
        terms = self._seller.quote(order)
        job = workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=terms.price_usd)
        work = workshop.begin(self._make(job, order, terms, fault))
        if order.stream and kind not in (FaultKind.REFUSAL, FaultKind.HTML, FaultKind.GATEWAY_TIMEOUT):
            return await ImageStream(workshop, job, order, terms, fault).send(request, work)
        if kind is FaultKind.DROP:
            workshop.bill.abandon(job)
            return mischief.cut(request)
        pictures = await workshop.attend(job, work)
        if kind is FaultKind.REFUSAL:
            return self._seller.refuse(order)
        if kind is FaultKind.STREAM_ERROR:
            return self._seller.turn_away(Fault(kind=FaultKind.SERVER_ERROR), order)
        links = self._hang(request, order, terms, kind)
        created_s = workshop.options.now_ms() // 1000
        body = json.dumps(write_body(order, terms, created_s, made=pictures, links=links, kind=kind)).encode()
        scale = workshop.options.time_scale
        return await mischief.deliver(
            request, fault, body, content_type="application/json", closing=workshop.closing, scale=scale
        )

    async def _make(self, job: str, order: Order, terms: Terms, fault: Fault | None) -> list[bytes]:
        """The work of an accepted order, to its end whoever still listens. Returns the pictures that go inline."""
        workshop, kind = self._workshop, fault.kind if fault else None
        delay_s = fault.delay_s() if fault and kind in (FaultKind.SLOW, FaultKind.LATE) else 0.0
        await workshop.pause(terms.latency_s + delay_s)
        if kind is FaultKind.REFUSAL:
            workshop.bill.end(job, What.REFUSAL, terms.refusal_usd)
            return []
        pictures: list[bytes] = []
        inline = order.stream or terms.delivery is not Delivery.LINK
        if inline and not workshop.bill.abandoned(job):
            wanted = [workshop.painter.paint(draw_up(order, index)) for index in range(order.n)]
            pictures = list(await asyncio.gather(*wanted))
        silent = kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT)
        late = kind is FaultKind.LATE and workshop.bill.abandoned(job)
        if kind in (FaultKind.STREAM_ERROR, FaultKind.UNFINISHED):
            # Asked for whole it is a 500 of the seller's own, which is free; streamed, previews were made.
            workshop.bill.end(job, What.FAILURE, None if order.stream else Decimal(0))
        else:
            workshop.bill.end(job, What.TIMEOUT if silent or late else What.SUCCESS)
        return pictures

    def _hang(self, request: web.Request, order: Order, terms: Terms, kind: FaultKind | None) -> list[str]:
        """The links of the pictures of an order that is delivered by link, else none."""
        if terms.delivery is not Delivery.LINK:
            return []
        origin, spoilt = f"{request.scheme}://{request.host}", kind is FaultKind.WRONG_MAGIC
        pictures = [draw_up(order, index) for index in range(order.n)]
        return [origin + self._gallery.hang(picture, order.model, spoilt=spoilt) for picture in pictures]
