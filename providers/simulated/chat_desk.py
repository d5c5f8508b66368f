"""The life of an order for an answer at a seller that speaks the OpenAI chat dialect: plain, or streamed by
`chat_stream.py`.

A request is checked, met by the dial, accepted on the bill and answered piece by piece; a plain reply is the same work,
handed over at its end. What differs between sellers (keys, error bodies, prices, what happens when a client leaves) is
the `ChatSeller`'s. It shares no code with any adapter.
Source: the provider file of the OpenAI chat API.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import What
from providers.simulated.body_fields import Invalid, read_object
from providers.simulated.chat_order import ChatOrder, read_chat
from providers.simulated.chat_reply import Answer, ChatTerms, compose, count_pieces, write_body
from providers.simulated.chat_stream import BROKEN, ChatStream, Made
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.workshop import Workshop

STREAM_ONLY = BROKEN | {FaultKind.RAGGED}
"""What only a stream can show."""

CHAT_OFFER = {
    Step.SUBMIT: (TURNED_AWAY - {FaultKind.ACTIVE_LIMIT})
    | STREAM_ONLY
    | {
        FaultKind.SLOW,
        FaultKind.LATE,
        FaultKind.HANG,
        FaultKind.DROP,
        FaultKind.GATEWAY_TIMEOUT,
        FaultKind.REFUSAL,
        FaultKind.CONTENT_MODERATED,
        FaultKind.HTML,
        FaultKind.EMPTY_DATA,
        FaultKind.TRUNCATED,
        FaultKind.ENDLESS,
        FaultKind.FLOOD,
    },
}
"""What a dial can show at a seller of answers. A refusal is `message.refusal`; content_moderated is an answer that
finish_reason content_filter cuts.
"""


class ChatSeller(Protocol):
    """What differs between the sellers of this dialect."""

    def admit(self, request: web.Request) -> web.Response | None:
        """The refusal of a request whose key is missing or wrong, else None."""

    def complain(self, invalid: Invalid) -> web.Response:
        """The error body for an order that breaks a rule."""

    def decline(self, fault: Fault, model: str) -> web.Response:
        """The answer to an order that is not accepted; called with the kinds of `TURNED_AWAY`."""

    def quote_chat(self, order: ChatOrder) -> ChatTerms:
        """Price, time and conduct."""


class ChatDesk:
    """The handler of one seller's paid route."""

    def __init__(self, workshop: Workshop, seller: ChatSeller) -> None:
        self._workshop = workshop
        self._seller = seller

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST .../chat/completions."""
        workshop, seller = self._workshop, self._seller
        denied = seller.admit(request)
        if denied is not None:
            return denied
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return seller.complain(fields)
        workshop.describe(request, body=fields)
        order = read_chat(fields, models=workshop.options.models)
        if isinstance(order, Invalid):
            return seller.complain(order)
        shown = CHAT_OFFER[Step.SUBMIT] - (frozenset() if order.stream else STREAM_ONLY)
        fault = workshop.dial.draw(Step.SUBMIT, model=order.model, prompt=order.prompt, shown=shown)
        workshop.describe(request, fault=fault)
        if fault and fault.kind in TURNED_AWAY:
            return seller.decline(fault, order.model)
        if workshop.bill.full:
            return seller.decline(Fault(kind=FaultKind.OVERLOADED), order.model)
        return await self._accept(request, order, fault)

    async def _accept(self, request: web.Request, order: ChatOrder, fault: Fault | None) -> web.StreamResponse:
        workshop, kind = self._workshop, fault.kind if fault else None
        terms, answers = self._seller.quote_chat(order), compose(order, kind)
        whole_usd = terms.price(order.tokens_in, count_pieces(answers))
        job = workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=whole_usd)
        # A stream that breaks off does so in the middle; nothing is made behind that.
        limit = count_pieces(answers) // 2 if kind in BROKEN else count_pieces(answers)
        made = Made(limit)
        work = workshop.begin(self._make(job, order, terms, fault, made))
        name, created_s = f"chatcmpl-{job.replace('-', '')}", workshop.options.now_ms() // 1000
        if kind is FaultKind.DROP:
            workshop.bill.abandon(job)
            return mischief.cut(request)
        if order.stream and kind not in (FaultKind.HTML, FaultKind.GATEWAY_TIMEOUT):
            return await ChatStream(workshop, job, order, answers, fault, name, created_s).send(request, made, work)
        await workshop.attend(job, work)
        body = self._write(order, answers, kind, name, created_s)
        scale = workshop.options.time_scale
        return await mischief.deliver(
            request, fault, body, content_type="application/json", closing=workshop.closing, scale=scale
        )

    async def _make(self, job: str, order: ChatOrder, terms: ChatTerms, fault: Fault | None, made: Made) -> None:
        """The work on an accepted order: a piece after the other, and at the end its line on the bill."""
        workshop, kind = self._workshop, fault.kind if fault else None
        late_s = fault.delay_s() if fault and kind in (FaultKind.SLOW, FaultKind.LATE) else 0.0
        await workshop.pause(terms.first_token_s + late_s)
        while made.pieces < made.limit and not (workshop.bill.abandoned(job) and not terms.finishes_alone):
            if made.pieces:
                await workshop.pause(terms.token_s)
            made.add()
        left = workshop.bill.abandoned(job)
        cost_usd = terms.price(order.tokens_in, made.pieces)
        if kind in (FaultKind.REFUSAL, FaultKind.CONTENT_MODERATED):
            what = What.REFUSAL
        elif kind in BROKEN:
            what = What.FAILURE
        elif kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT) or (left and kind is FaultKind.LATE):
            what = What.TIMEOUT
        else:
            what = What.SUCCESS
        workshop.bill.end(job, what, cost_usd)

    def _write(
        self, order: ChatOrder, answers: Sequence[Answer], kind: FaultKind | None, name: str, created_s: int
    ) -> bytes:
        body = write_body(order, answers, name, created_s)
        if kind is FaultKind.EMPTY_DATA:
            body["choices"] = []
        return json.dumps(body).encode()
