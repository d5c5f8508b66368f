"""`POST /v1/chat/completions`: a completion relayed to its caller, whole or as server-sent events (openai-chat.md).

It is no task: there is nothing to collect later, so that a caller who goes away ends the call, and a repeat is a new
one; an `Idempotency-Key` says nothing here. The head of a stream goes out with its first chunk: what fails before is an
ordinary HTTP error, what fails afterwards an event with `error`. Nothing is read from the upstream that the caller has
not taken; one who does not read is hung up on. Floor 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from router.api import submits
from router.api.auth import SERVICES, caller_of
from router.api.bodies import read_json, read_submission
from router.api.dialects import native
from router.api.errors import Refusal, body_of, invalid
from router.api.image_stream import PACE
from router.api.replies import json_reply, request_id_of
from router.flow.draft import Draft
from router.flow.relay import Failed, Relay, Told, Whole
from router.money import usd_of
from router.outcome import Billed
from router.provider import Delta, Kind
from router.relays import Relayed
from router.task import Error, Priority

ROUTE = "/v1/chat/completions"
CHAT_BODY_MAX = 24 << 20
LOOK_EVERY_S = 1.0  # how soon it is noticed that a silent caller has gone
NO_TASK = ("callback_url", "callback_events", "async")


async def complete(request: web.Request) -> web.StreamResponse:
    """Relay a completion."""
    principal, services = await caller_of(request), request.app[SERVICES]
    body = await read_json(request, CHAT_BODY_MAX)
    for name in NO_TASK:
        if body.get(name) not in (None, False):
            invalid(name, f"{name} is for tasks, and a completion is relayed; POST /v1/tasks takes one as a task.")
    submission = read_submission(body, Kind.CHAT_COMPLETION, ROUTE, body)
    if "stream_options" in submission.input and not submission.streams:
        invalid("stream_options", "stream_options goes with stream: true only.")
    metadata = {"metadata": dict(submission.metadata)} if submission.metadata else {}
    draft = Draft(
        tenant=principal.tenant,
        key_id=principal.key_id,
        kind=Kind.CHAT_COMPLETION,
        model=submission.model,
        input={name: value for name, value in submission.input.items() if name != "stream"} | metadata,
        surface="openai",
        route=ROUTE,
        digest=submission.digest,
        request_id=request_id_of(request),
        priority=submits.priority_of(submission, Priority.HIGH),
        metadata=submission.metadata,
        preferences=submission.preferences,
        start_within_s=submission.start_within_s,
        timeout_s=submission.timeout_s,
    )
    relay = services.life.relay
    sender = _Sender(request) if submission.streams else None
    try:
        ending = await _attend(request, relay, relay.complete(draft, streamed=submission.streams), sender)
        return await _answer(ending, sender)
    except Refusal as refusal:
        if sender is None or sender.response is None:
            raise
        return await sender.end(_event(body_of(refusal, request_id_of(request))))
    except _Gone:
        if sender is not None and sender.response is not None:
            return sender.response
        return web.Response(status=499)


# -- parts ----------------------------------------------------------------------------------------------------------


class _Gone(Exception):  # noqa: N818 - it names what happened
    """Nobody reads any more."""


@dataclass(slots=True)
class _Sender:
    """The answer of one stream; it begins with the first thing that is sent."""

    request: web.Request
    response: web.StreamResponse | None = None
    sent_at_s: float = 0.0

    async def send(self, piece: bytes) -> None:
        """Send a piece. Whoever does not take it in time, or has gone, is hung up on."""
        loop = asyncio.get_running_loop()
        try:
            if self.response is None:
                self.response = await self._begin()
            self.sent_at_s = loop.time()
            async with asyncio.timeout(self.request.app[PACE].read_within_s):
                await self.response.write(piece)
        except (TimeoutError, ConnectionError):
            if self.request.transport is not None:
                self.request.transport.abort()
            raise _Gone from None

    async def end(self, piece: bytes) -> web.StreamResponse:
        """Send the last piece."""
        with suppress(_Gone, ConnectionError):
            await self.send(piece)
            if self.response is not None:
                await self.response.write_eof()
        return self.response or web.Response(status=499)

    def is_silent(self) -> bool:
        """Whether nothing has gone out for so long that a proxy may think that nobody is there."""
        if self.response is None:
            return False
        return asyncio.get_running_loop().time() - self.sent_at_s >= self.request.app[PACE].silent_s

    async def _begin(self) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
        response.headers["X-Request-Id"] = request_id_of(self.request)
        response.headers["X-Accel-Buffering"] = "no"  # or nginx keeps events back
        response.content_type = "text/event-stream"
        await response.prepare(self.request)
        return response


async def _attend(
    request: web.Request, relay: Relay, telling: AsyncGenerator[Told, None], sender: _Sender | None
) -> Whole | Failed | None:
    """Pass on what is told, until it ends, the caller has gone, or the daemon must stop. None: the stream is whole."""
    passing = asyncio.create_task(_pass_on(telling, sender))
    cutting = asyncio.create_task(relay.cutting.wait())
    news = asyncio.Event()
    for one in (passing, cutting):
        one.add_done_callback(lambda _: news.set())
    pause_s = min(LOOK_EVERY_S, request.app[PACE].silent_s)
    try:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await news.wait()
            if passing.done():
                return passing.result()
            if submits.is_gone(request):
                raise _Gone
            if cutting.done():
                message = "The service is shutting down; the completion was cut short."
                raise Refusal(Error("unavailable", message, "unavailable", billing=Billed.UNKNOWN))
            if sender is not None and sender.is_silent():
                await sender.send(b": keep-alive\n\n")
    finally:
        cutting.cancel()
        passing.cancel()
        await asyncio.gather(passing, cutting, return_exceptions=True)


async def _pass_on(telling: AsyncGenerator[Told, None], sender: _Sender | None) -> Whole | Failed | None:
    """Send chunks as they are told. What is told next is asked for when the last is on its way."""
    async with aclosing(telling):
        async for told in telling:
            if not isinstance(told, Delta):
                return told
            if sender is not None:
                await sender.send(_event(told.data))
    return None


async def _answer(ending: Whole | Failed | None, sender: _Sender | None) -> web.StreamResponse:
    match ending:
        case Failed(error=error, retry_after_s=retry_after_s, tries=tries):
            raise Refusal(error, retry_after_s=retry_after_s, attempts=[_attempt_of(one) for one in tries])
        case Whole(document=document, cost_nanos=cost_nanos):
            cost = usd_of(cost_nanos)
            headers = {} if cost is None else {"X-Cost-USD": cost, "x-litellm-response-cost": cost}
            return json_reply(200, document, headers)
        case None:
            assert sender is not None, "a plain answer ends with a document"
            return await sender.end(b"data: [DONE]\n\n")


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _attempt_of(one: Relayed) -> dict[str, Any]:
    """A try in the form of an attempt (contract 5.3)."""
    return {
        "n": one.n,
        "part": 0,
        "provider": one.provider,
        "target": one.target,
        "target_model": one.target_model,
        "outcome": one.outcome,
        "http_status": one.http_status,
        "billing": one.billing.value,
        "cost_usd": usd_of(one.cost_nanos),
        "estimated": one.estimated,
        "remote_id": None,
        "started_at": native.time_of(one.started_at),
        "ended_at": native.time_of(one.ended_at),
        "detail": one.detail,
        "output": [],
    }
