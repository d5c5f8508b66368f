"""`stream: true` of images: the events of the stock SDKs over a task like any other (openai-images.md section 5).

The first byte goes out with the first preview, with the end, or when the wait gets long: whatever fails before is an
ordinary HTTP error, afterwards an event with `error`. A target without previews gives comments, which keep proxies and
clients awake, and then the pictures. Bytes flow, so that a stream is held longer than a silent call. A caller that
leaves aborts nothing, and one that does not read is hung up on. Floor 3.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from router.api import submits
from router.api.auth import SERVICES
from router.api.dialects import openai
from router.api.errors import Refusal, body_of, bug
from router.api.replies import request_id_of
from router.api.services import Services
from router.flow.draft import Accepted
from router.flow.previews import Channel
from router.outcome import Billed
from router.persistence import TaskView, Unavailable
from router.task import Error, Task, bill

PIECE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of streams: how long one is silent, how long it is held, and how long a caller may take to read a piece
    of `PIECE_BYTES`.
    """

    silent_s: float = 10.0
    held_s: float = 1_800.0
    read_within_s: float = 30.0


PACE: web.AppKey[Pace] = web.AppKey("image_stream_pace", Pace)
USUAL_PACE = Pace()


async def answer(request: web.Request, accepted: Accepted) -> web.StreamResponse:
    """Stream a task's pictures as they come."""
    sender = _Sender(request, accepted, request.app[SERVICES])
    try:
        await _tell(request, accepted, sender)
        await sender.end()
    except _Gone:
        sender.services.life.waiters.hung_up(accepted.task)
        return sender.response or web.Response(status=499)
    if sender.response is None:
        raise AssertionError(accepted.task.state)
    return sender.response


# -- parts ----------------------------------------------------------------------------------------------------------


class _Gone(Exception):  # noqa: N818 - it names what happened
    """Nobody reads any more."""


@dataclass(slots=True)
class _Sender:
    """The answer of one stream; it begins with the first thing that is sent."""

    request: web.Request
    accepted: Accepted
    services: Services
    response: web.StreamResponse | None = None

    async def send(self, name: str, body: dict[str, Any]) -> None:
        await self._write(b"event: " + name.encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n")

    async def comment(self) -> None:
        await self._write(b": still waiting\n\n")

    async def end(self) -> None:
        if self.response is not None:
            with suppress(ConnectionError):
                await self.response.write_eof()

    async def _write(self, piece: bytes) -> None:
        try:
            if self.response is None:
                self.response = await self._begin()
            whole = memoryview(piece)
            for at in range(0, len(whole), PIECE_BYTES):
                async with asyncio.timeout(self.request.app[PACE].read_within_s):
                    await self.response.write(whole[at : at + PIECE_BYTES])
        except (TimeoutError, ConnectionError):
            if self.request.transport is not None:
                self.request.transport.abort()
            raise _Gone from None

    async def _begin(self) -> web.StreamResponse:
        response = web.StreamResponse(headers={**submits.replay_headers(self.accepted), "Cache-Control": "no-store"})
        response.headers["X-Request-Id"] = request_id_of(self.request)
        response.headers["X-Accel-Buffering"] = "no"  # or nginx keeps events back
        response.content_type = "text/event-stream"
        self.services.life.waiters.told(self.accepted.task)
        await response.prepare(self.request)
        return response


async def _tell(request: web.Request, accepted: Accepted, sender: _Sender) -> None:
    """Send what there is to send; what goes wrong once the answer has begun is said in an event."""
    try:
        await _tell_pictures(request, accepted, sender)
    except _Gone:
        raise
    except Refusal as refusal:
        if sender.response is None:
            raise
        await sender.send("error", body_of(refusal, request_id_of(request)))
    except Exception as broken:  # the boundary of `application` can answer no more
        if sender.response is None:
            raise
        context = {"message": f"the stream of {accepted.task.id} failed", "exception": broken}
        asyncio.get_running_loop().call_exception_handler(context)
        await sender.send("error", body_of(bug(), request_id_of(request)))


async def _tell_pictures(request: web.Request, accepted: Accepted, sender: _Sender) -> None:
    """Send previews until the task ends, then its pictures."""
    services, task, pace = sender.services, accepted.task, request.app[PACE]
    was_over = task.is_terminal
    with services.life.runtime.previews.listening(task.id) as channel:
        ending = asyncio.create_task(submits.wait_for_end(request, task, pace.held_s))
        ending.add_done_callback(lambda _: channel.news.set())
        try:
            while not ending.done():
                told = await _hear(channel, pace.silent_s)
                for preview in channel.take():
                    await sender.send(*openai.partial_event(task, preview, services.now()))
                if not told:
                    await sender.comment()
        finally:
            ending.cancel()
    view = await _ended(services, request, task, ending)
    await services.life.intake.uncollected.collect(task.tenant, task.digest)
    submits.require_result(request, view, replayed=accepted.replayed and was_over)
    for index, output in enumerate(view.task.output):
        await sender.send(*openai.completed_event(view.task, index, await submits.base64_of(services, output)))


async def _hear(channel: Channel, within_s: float) -> bool:
    """Wait for a preview or the end; False when neither came in time."""
    try:
        async with asyncio.timeout(within_s):
            await channel.news.wait()
    except TimeoutError:
        return False
    return True


async def _ended(
    services: Services, request: web.Request, task: Task, ending: asyncio.Task[TaskView | None]
) -> TaskView:
    """The task as it ended; refuses where it goes on without this caller."""
    try:
        view = ending.result()
    except Unavailable:
        services.life.intake.uncollected.remember(task, services.now())
        message = "The store cannot be reached; the task was accepted and goes on. Repeat to collect it."
        raise submits.postponed(task, "unavailable", message, Billed.UNKNOWN) from None
    if view is None:
        raise Refusal(Error("not_found", "The task is gone.", "not_found"))
    if view.task.is_terminal:
        return view
    if submits.is_gone(request):
        raise _Gone
    services.life.waiters.told(task)
    await services.life.intake.uncollected.add(task, services.now())
    billing = bill(view.task, view.attempts).billing
    if services.life.runtime.closing:
        raise submits.postponed(task, "unavailable", "The service is shutting down; the task goes on.", billing)
    message = "The task is not finished within the time this service holds a stream; it goes on. Repeat to collect it."
    raise submits.postponed(task, "deadline_exceeded", message, billing)
