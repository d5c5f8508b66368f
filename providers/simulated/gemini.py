"""Gemini's image models, server side: generateContent, streamGenerateContent and the models, with errors as
google.rpc.Status and refusals under HTTP 200.

One request holds its connection until the picture is made and carries it inline. Charged are the tokens that
`usageMetadata` counts, for a refusal too (of its prompt); `gemini_reply.py` says in which forms an order ends, and
`google_status.py` in which it is turned away. The Interactions API is not here. It shares no code with the adapter.
Source: the provider file of Gemini images.
"""

import asyncio
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import NOTHING, What
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Offer, Step
from providers.simulated.gemini_order import MODELS, GeminiOrder, read_gemini_order
from providers.simulated.gemini_reply import Reply, draw_up, judge, write_reply
from providers.simulated.google_status import (
    BODY_BYTES,
    VERSIONS,
    Invalid,
    Registry,
    admit,
    error,
    give_up,
    read_object,
    status_body,
    turn_away,
    unknown_model,
)
from providers.simulated.workshop import Options, Workshop

METHODS = ("generateContent", "streamGenerateContent")
EVENTS = {"Content-Type": "text/event-stream"}
_SIZE = "generationConfig.imageConfig.imageSize"


@dataclass(frozen=True, slots=True)
class _Work:
    """An accepted order. `reply` is its answer once the work is done."""

    job: str
    order: GeminiOrder
    fault: Fault | None
    reply: "asyncio.Task[Reply]"

    @property
    def kind(self) -> FaultKind | None:
        return self.fault.kind if self.fault else None


class Simulator:
    """Gemini, as one key sees it. Its base URL has no path: the adapter adds `/v1beta/models/{model}:...`."""

    offer: ClassVar[Offer] = {
        Step.SUBMIT: (TURNED_AWAY - {FaultKind.ACTIVE_LIMIT, FaultKind.MODERATION_BLOCKED})
        | {
            FaultKind.SLOW,
            FaultKind.LATE,
            FaultKind.HANG,
            FaultKind.DROP,
            FaultKind.GATEWAY_TIMEOUT,
            FaultKind.REFUSAL,
            FaultKind.CONTENT_MODERATED,
            FaultKind.TEXT_ONLY,
            FaultKind.JOB_ERROR,
            FaultKind.HTML,
            FaultKind.GARBAGE_BASE64,
            FaultKind.WRONG_MAGIC,
            FaultKind.EMPTY_DATA,
            FaultKind.STREAM_ERROR,
            FaultKind.TRUNCATED,
            FaultKind.ENDLESS,
            FaultKind.FLOOD,
        }
    }
    options_type: ClassVar[type[Options]] = Options
    base_path: ClassVar[str] = ""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._registry = Registry(workshop, tuple(MODELS), METHODS)

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        call = web.post(f"/{VERSIONS}/models/{{model}}:{{method}}", self.generate)
        application.add_routes([call, *self._registry.routes()])
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Nothing that it answers holds an address."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that is not there."""
        return error("NOT_FOUND", f"{request.method} {request.path} is not found.")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST models/{model}:generateContent or :streamGenerateContent: check, meet the dial, charge, work, answer."""
        workshop, model, method = self._workshop, request.match_info["model"], request.match_info["method"]
        denied = admit(request, workshop)
        if denied is not None:
            return denied
        if method not in METHODS or not self._registry.holds(model):
            return unknown_model(model, method)
        body = await read_object(request)
        if isinstance(body, Invalid):
            return error("INVALID_ARGUMENT", body.message)
        workshop.describe(request, body=body)
        order = read_gemini_order(model, body)
        if isinstance(order, Invalid):
            return error("INVALID_ARGUMENT", order.message)
        fault = workshop.dial.draw(Step.SUBMIT, model=model, prompt=order.prompt)
        workshop.describe(request, fault=fault)
        if fault is not None and fault.kind in TURNED_AWAY:
            return turn_away(fault, model, _SIZE)
        if workshop.bill.full:
            return turn_away(Fault(kind=FaultKind.OVERLOADED), model, _SIZE)
        work = self._accept(order, fault)
        if method == "generateContent":
            return await self._answer(request, work)
        if request.query.get("alt") != "sse":
            return await self._answer(request, work, as_list=True)
        return await self._stream(request, work)

    # --- the work

    def _accept(self, order: GeminiOrder, fault: Fault | None) -> _Work:
        workshop, override_usd = self._workshop, self._workshop.options.price_usd
        price_usd = order.price(order.count()) if override_usd is None else override_usd
        job = workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=price_usd)
        return _Work(job, order, fault, workshop.begin(self._make(job, order, fault)))

    async def _make(self, job: str, order: GeminiOrder, fault: Fault | None) -> Reply:
        """The work of an accepted order, to its end whoever still listens."""
        workshop, kind = self._workshop, fault.kind if fault else None
        latency_s = order.latency_s if workshop.options.latency_s is None else workshop.options.latency_s
        await workshop.pause(latency_s + (fault.delay_s() if fault and kind in (FaultKind.SLOW, FaultKind.LATE) else 0))
        verdict = judge(order, fault)
        painted: list[bytes] = []
        if verdict.picture and not workshop.bill.abandoned(job):
            painted = [await workshop.painter.paint(picture) for picture in draw_up(order)]
        what, amount_usd = verdict.what, self._charge(order, fault)
        silent = kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT)
        if silent or (kind is FaultKind.LATE and workshop.bill.abandoned(job)):
            what = What.TIMEOUT
        elif kind is FaultKind.STREAM_ERROR:
            what = What.FAILURE
        workshop.bill.end(job, what, amount_usd)
        return write_reply(order, job, fault, painted)

    def _charge(self, order: GeminiOrder, fault: Fault | None) -> Decimal | None:
        # None: as at acceptance. An INTERNAL error is free; every other answer without a picture costs its tokens.
        if fault is not None and fault.kind is FaultKind.STREAM_ERROR:
            return NOTHING
        verdict = judge(order, fault)
        return None if verdict.picture else order.price(verdict.usage)

    # --- the answers

    async def _answer(self, request: web.Request, work: _Work, *, as_list: bool = False) -> web.StreamResponse:
        """The whole answer in one body; as_list: the array that a stream is without `alt=sse`."""
        workshop, fault = self._workshop, work.fault
        if work.kind is FaultKind.DROP:
            workshop.bill.abandon(work.job)
            return mischief.cut(request)
        reply = await workshop.attend(work.job, work.reply)
        if fault is not None and fault.kind is FaultKind.GATEWAY_TIMEOUT:
            return give_up(fault)
        if work.kind is FaultKind.STREAM_ERROR:
            return turn_away(Fault(kind=FaultKind.SERVER_ERROR), work.order.model, _SIZE)
        body = json.dumps(reply.chunks() if as_list else reply.whole()).encode()
        return await self._deliver(request, work, body, "application/json; charset=UTF-8")

    async def _stream(self, request: web.Request, work: _Work) -> web.StreamResponse:
        """An event for each part. Nothing is sent before the work is done, so that errors still have their status."""
        workshop, fault = self._workshop, work.fault
        if work.kind is FaultKind.DROP:
            workshop.bill.abandon(work.job)
            return mischief.cut(request)
        reply = await workshop.attend(work.job, work.reply)
        if fault is not None and fault.kind is FaultKind.GATEWAY_TIMEOUT:
            return give_up(fault)
        events = [frame(chunk) for chunk in reply.chunks()]
        if work.kind not in (None, FaultKind.HANG, FaultKind.STREAM_ERROR):
            return await self._deliver(request, work, b"".join(events), EVENTS["Content-Type"])
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        if work.kind is None:
            for event in events:
                await response.write(event)
            return response
        await response.write(events[0])
        if work.kind is FaultKind.HANG:
            return await mischief.hold(request, workshop.closing)
        await response.write(frame(status_body("INTERNAL", "An internal error has occurred.")))
        return response

    async def _deliver(self, request: web.Request, work: _Work, body: bytes, content_type: str) -> web.StreamResponse:
        scale, closing = self._workshop.options.time_scale, self._workshop.closing
        return await mischief.deliver(
            request, work.fault, body, content_type=content_type, closing=closing, scale=scale
        )


def frame(chunk: dict[str, Any]) -> bytes:
    """One event of a stream: a line of data, no name, and no `[DONE]` at the end."""
    return f"data: {json.dumps(chunk)}\r\n\r\n".encode()
