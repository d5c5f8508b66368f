"""`GET /v1/tasks/{id}/events` and `GET /v1/events`: tasks as they change, over SSE, or WebSocket on the same paths.

Events are state, not a log (contract 5.3): each carries the whole native task, and whoever comes back is sent what is
newer than what he had. On the stream of a task the id of an event is the version of the task; the stream ends with the
task, and who comes back with the id of its end is told by a 204 (an `EventSource` then stays away). On the stream of
all tasks it is `<instant>-<version>`, the instant of the task's last move in milliseconds: a resumed stream begins with
everything that was moved at or after it (a little before, because an instant is older than its commit), and what is not
resumed begins with now. `task.<status>` says that the row has changed, `task.progress` that only progress or place in
the queue have.

What is new comes from `followers`. Here it is put into words and sent, one at a time, to clients of which each may take
`stall_s` to make room; after that its connection is cut. A link of `events_url` needs no key and is answered to any
origin; without one a browser's WebSocket from elsewhere is refused, since browsers let any page try. Floor 3.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import orjson
from aiohttp import WSCloseCode, web

from router.api import links, submits, views
from router.api.auth import SERVICES, caller_of
from router.api.dialects import native
from router.api.errors import Refusal, invalid
from router.api.followers import OVERLAP_MS, Follower, Followers, Over
from router.api.replies import ANSWERED_AT_S, request_id_of
from router.api.tasks import no_such_task
from router.persistence import TaskView, Unavailable
from router.task import Error

FOLLOWERS: web.AppKey[Followers] = web.AppKey("followers", Followers)

RETRY_MS = 1_000
SEND_BUFFER_BYTES = 1 << 17  # of the kernel, for one client
CATCH_UP_PAGE = 50
TOLD_MAX = 5_000
SOCKET_CLOSE_S = 2.0
SOCKET_MESSAGE_MAX = 1 << 12  # clients have nothing to say
ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}


async def follow_task(request: web.Request) -> web.StreamResponse:
    """`GET /v1/tasks/{id}/events`, with a key or by the signature of `events_url`."""
    if "sig" not in request.query:
        principal = await caller_of(request)
        _refuse_strange_origin(request)
        return await _follow_task(request, principal.tenant, {})
    try:
        return await _follow_task(request, _tenant_of_link(request), ANY_ORIGIN)
    except Refusal as refusal:
        refusal.headers = {**refusal.headers, **ANY_ORIGIN}
        raise


async def follow_all(request: web.Request) -> web.StreamResponse:
    """`GET /v1/events`: all of the caller's tasks."""
    principal = await caller_of(request)
    _refuse_strange_origin(request)
    since = _read_instant(_last_id_of(request))
    with request.app[FOLLOWERS].following(principal.tenant) as follower:
        begin = request.app[SERVICES].now() if since is None else since
        stream = Stream(request, follower)
        return await stream.serve({}, first_id=f"{begin}-0", since=since)


async def close(app: web.Application) -> None:
    """Let every stream go (the application's own signal of its end)."""
    app[FOLLOWERS].close()


async def _follow_task(request: web.Request, tenant: str, headers: Mapping[str, str]) -> web.StreamResponse:
    services, task_id, last = request.app[SERVICES], views.task_id_of(request), _read_version(_last_id_of(request))
    with request.app[FOLLOWERS].following(tenant, task_id) as follower:
        try:
            view = await services.world.store.view(tenant, task_id)
            if view is None:
                raise no_such_task()
        except Unavailable:
            if not headers:
                raise
            view = None  # a link is of a task that was there, and a browser takes no 503 for a reason to come back
        stream, headers = Stream(request, follower), {"X-Task-Id": task_id, **headers}
        if view is not None:
            services.life.waiters.told(view.task)
            if last == view.task.version and view.task.is_terminal and not stream.is_socket:
                return web.Response(status=204, headers=headers)
            if last == view.task.version:
                stream.told.skip(view)
            follower.put(view)
        return await stream.serve(headers)


class Stream:
    """One client: what it was told, and the way to it."""

    def __init__(self, request: web.Request, follower: Follower) -> None:
        """Nothing is sent yet."""
        self._by_link = follower.task_id is not None and "sig" in request.query
        self._checked_at_s = self._spoke_at_s = asyncio.get_running_loop().time()
        self.is_socket = web.WebSocketResponse().can_prepare(request).ok
        self.told = Told(request, is_wide=follower.task_id is None)
        self._request = request
        self._follower = follower
        self._limits = request.app[FOLLOWERS].limits
        self._store = request.app[SERVICES].world.store
        ping_s = self._limits.ping_s
        self._wire: Wire = SocketWire(request, follower, ping_s) if self.is_socket else EventWire(request)

    async def serve(
        self, headers: Mapping[str, str], *, first_id: str = "", since: int | None = None
    ) -> web.StreamResponse:
        """Tell what is new until there is nothing more to tell or nobody to tell it to.

        `first_id`: what a client comes back with that was told nothing; `since`: where to begin.
        """
        wire, transport = self._wire, self._request.transport
        if transport is not None:
            made: socket.socket = transport.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            await self._patiently(wire.open({**headers, "X-Request-Id": request_id_of(self._request)}, first_id))
            self._request[ANSWERED_AT_S] = self._spoke_at_s
            try:
                if since is not None:
                    await self._catch_up(since)
                await self._tell()
            except Unavailable:
                pass  # the client comes back with the id that it had last
            if self._follower.over is Over.SLOW:
                self._cut()
            else:
                await self._patiently(wire.close(self._follower.over))
        except _Lost:
            self._cut()
        finally:
            wire.let_go()
        return wire.response

    async def _catch_up(self, since: int) -> None:
        """Tell everything that was moved since then, as it is now, the longest ago first."""
        place, tenant = (max(0, since - OVERLAP_MS), ""), self._follower.tenant
        while self._follower.over is None and await self._may_go_on():
            found = await self._store.changed(tenant, place, CATCH_UP_PAGE)
            for view in await asyncio.gather(*(self._store.view(tenant, one.task_id) for one in found)):
                if view is not None:
                    await self._say(view)
            if len(found) < CATCH_UP_PAGE:
                return
            place = (found[-1].updated_at, found[-1].task_id)

    async def _tell(self) -> None:
        """Tell what comes, and give a sign of life when nothing does."""
        follower, limits, loop = self._follower, self._limits, asyncio.get_running_loop()
        while follower.over is None and not self._wire.is_over and await self._may_go_on():
            view = follower.take()
            if view is not None:
                await self._say(view)
                if follower.task_id is not None and view.task.is_terminal:
                    return
                continue
            try:
                async with asyncio.timeout(min(limits.look_s, limits.ping_s)):
                    await follower.wake.wait()
            except TimeoutError:
                if loop.time() - self._spoke_at_s >= limits.ping_s:
                    await self._patiently(self._wire.ping())

    async def _may_go_on(self) -> bool:
        """Whether the key of the request is still good; a link is good for the task that it was opened for.

        A key may be revoked while a stream is open, and must be useless within 5 s (contract section 4).
        """
        now_s = asyncio.get_running_loop().time()
        if self._by_link or now_s - self._checked_at_s < self._limits.look_s:
            return True
        self._checked_at_s = now_s
        try:
            await caller_of(self._request)
        except Refusal:
            return False
        except Unavailable:
            return True  # as long as keys cannot be asked for, tasks cannot either
        return True

    async def _say(self, view: TaskView) -> None:
        frame = self.told.frame_of(view)
        if frame is not None:
            await self._patiently(self._wire.send(frame))

    async def _patiently(self, sending: Awaitable[None]) -> None:
        """Send something, while the client takes anything at all."""
        try:
            async with asyncio.timeout(self._limits.stall_s):
                await sending
        except (TimeoutError, ConnectionError):
            raise _Lost from None
        self._spoke_at_s = asyncio.get_running_loop().time()

    def _cut(self) -> None:
        """Close the connection without waiting for anybody to read."""
        if self._request.transport is not None:
            self._request.transport.abort()


# -- what is told -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """An event: its id, its name, and the native task as JSON."""

    id: str
    event: str
    data: bytes


class Told:
    """What one client knows, so that it is told nothing twice: for each task version, progress and place."""

    def __init__(self, request: web.Request, *, is_wide: bool) -> None:
        """Nothing yet. `is_wide`: it follows everything, so that ids name instants."""
        self._request = request
        self._is_wide = is_wide
        self._known: dict[str, tuple[int, int, int | None]] = {}

    def skip(self, view: TaskView) -> None:
        """The client has this already."""
        self._know(view, views.sight_of(self._request, view))

    def frame_of(self, view: TaskView) -> Frame | None:
        """Put a view into words; None when it is nothing new."""
        task, sight = view.task, views.sight_of(self._request, view)
        before = self._known.get(task.id)
        now = self._know(view, sight)
        if before is not None and (before[0] > task.version or before == now):
            return None
        moved = before is None or before[0] < task.version
        event = f"task.{task.state.value}" if moved else "task.progress"
        return Frame(self._id_of(view), event, orjson.dumps(native.render(view, sight)))

    def _know(self, view: TaskView, sight: native.Sight) -> tuple[int, int, int | None]:
        task = view.task
        now = (task.version, native.progress_of(view, sight), sight.queue_position)
        before = self._known.get(task.id)
        if before is None or before[0] <= now[0]:
            self._known.pop(task.id, None)
            self._known[task.id] = now
        if len(self._known) > TOLD_MAX:
            del self._known[next(iter(self._known))]
        return now

    def _id_of(self, view: TaskView) -> str:
        """The version; where ids name instants, none that this daemon's clock has not reached, whoever's it is."""
        task = view.task
        if not self._is_wide:
            return str(task.version)
        return f"{min(task.updated_at, self._request.app[SERVICES].now())}-{task.version}"


# -- ways to a client -------------------------------------------------------------------------------------------------


class _Lost(Exception):  # noqa: N818 - it names what happened to the client
    """The client is gone, or takes nothing."""


class Wire(Protocol):
    """How events reach a client."""

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns."""

    @property
    def is_over(self) -> bool:
        """Whether the client has gone."""

    async def open(self, headers: Mapping[str, str], first_id: str) -> None:
        """Begin the answer."""

    async def send(self, frame: Frame) -> None:
        """Send an event."""

    async def ping(self) -> None:
        """Say that we are there."""

    async def close(self, over: Over | None) -> None:
        """End in good order."""

    def let_go(self) -> None:
        """Stop whatever runs besides."""


class EventWire:
    """Server-sent events (the HTML standard, section 9.2)."""

    def __init__(self, request: web.Request) -> None:
        """Nothing is sent yet."""
        self._request = request
        self._response = web.StreamResponse()

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns."""
        return self._response

    @property
    def is_over(self) -> bool:
        """Whether the client has gone."""
        return submits.is_gone(self._request)

    async def open(self, headers: Mapping[str, str], first_id: str) -> None:
        """Send the head; an id without data is kept by a client for its next request, and told to nobody."""
        told = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers}
        self._response.headers.update({"Content-Type": "text/event-stream; charset=utf-8", **told})
        await self._response.prepare(self._request)
        first = f"id: {first_id}\n" if first_id else ""
        await self._response.write(f"retry: {RETRY_MS}\n{first}\n".encode())

    async def send(self, frame: Frame) -> None:
        """Send an event; JSON has no line breaks."""
        await self._response.write(
            b"id: %b\nevent: %b\ndata: %b\n\n" % (frame.id.encode(), frame.event.encode(), frame.data)
        )

    async def ping(self) -> None:
        """Send a comment."""
        await self._response.write(b": ping\n\n")

    async def close(self, over: Over | None) -> None:
        """End the body; a client comes back unless it knows that its task has ended."""
        if over is Over.CLOSING:
            await self._response.write(b": closing\n\n")
        await self._response.write_eof()

    def let_go(self) -> None:
        """Nothing runs besides."""


class SocketWire:
    """WebSocket (RFC 6455): one JSON object per text frame. What a client says is not listened to."""

    def __init__(self, request: web.Request, follower: Follower, ping_s: float) -> None:
        """Nothing is sent yet. Pings are sent by the library, which also notices when no answer comes."""
        self._request = request
        self._follower = follower
        self._response = web.WebSocketResponse(
            timeout=SOCKET_CLOSE_S, heartbeat=ping_s, max_msg_size=SOCKET_MESSAGE_MAX, compress=False
        )
        self._reading: asyncio.Task[None] | None = None

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns."""
        return self._response

    @property
    def is_over(self) -> bool:
        """Whether the client has gone."""
        return self._response.closed or submits.is_gone(self._request)

    async def open(self, headers: Mapping[str, str], first_id: str) -> None:
        """Shake hands, and begin to read, which is how the library hears of pongs and of the end."""
        self._response.headers.update(headers)
        await self._response.prepare(self._request)
        self._reading = asyncio.create_task(self._read_away())

    async def send(self, frame: Frame) -> None:
        """Send an event."""
        told = {"id": frame.id, "event": frame.event, "data": orjson.Fragment(frame.data)}
        await self._response.send_str(orjson.dumps(told).decode())

    async def ping(self) -> None:
        """The library does it."""

    async def close(self, over: Over | None) -> None:
        """Say goodbye, and whether it is us who go."""
        code = WSCloseCode.GOING_AWAY if over is Over.CLOSING else WSCloseCode.OK
        await self._response.close(code=code)

    def let_go(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read_away(self) -> None:
        try:
            async for _message in self._response:
                continue
        finally:
            self._follower.wake.set()


# -- what a request says ----------------------------------------------------------------------------------------------


def _tenant_of_link(request: web.Request) -> str:
    """The tenant that a link was signed for; 403 when it is not one of ours, or too old."""
    services, query = request.app[SERVICES], request.query
    tenant, exp, sig = (query.get(name, "") for name in ("tenant", "exp", "sig"))
    now_s = services.now() // 1000
    if links.is_events_link(services.signing_secret, tenant, views.task_id_of(request), exp=exp, sig=sig, now_s=now_s):
        return tenant
    message = "The link is not valid or has expired; read the task for a new one."
    raise Refusal(Error("forbidden", message, "forbidden"))


def _refuse_strange_origin(request: web.Request) -> None:
    """Browsers let any page open a WebSocket anywhere: where no key is asked for, it would see everything."""
    origin = request.headers.get("Origin")
    if origin is not None and "Upgrade" in request.headers and urlsplit(origin).netloc != request.host:
        message = "A page of another origin follows a task by its events_url."
        raise Refusal(Error("forbidden", message, "forbidden"))


def _last_id_of(request: web.Request) -> str | None:
    """What the client was told last: the header of an `EventSource`, else the query, for who cannot set headers."""
    return request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or None


def _read_version(last: str | None) -> int | None:
    if last is None:
        return None
    if not last.isdecimal() or len(last) > 15:
        invalid("last_event_id", "last_event_id must be the id of an event of this stream: a version.")
    return int(last)


def _read_instant(last: str | None) -> int | None:
    if last is None:
        return None
    instant, _dash, version = last.partition("-")
    if not all(part.isdecimal() and len(part) <= 15 for part in (instant, version)):
        invalid("last_event_id", "last_event_id must be the id of an event of this stream: <milliseconds>-<version>.")
    return int(instant)
