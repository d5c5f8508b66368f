"""Connections of callers: how many there may be, and how long one may take to say what it wants.

aiohttp's server waits for heads and bodies for ever, so that a few hundred idle sockets would keep everybody else out.
Here each connection has one timer: a head must be whole within a deadline, a body must keep to a least rate, and
whoever is late is cut off, unless it is we who do not read just then (a handler is busy). Knows no task and no tenant;
the numbers are those of `Limits`. Floor 3.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, cast

import orjson
from aiohttp import StreamReader, web

from router.api.application import HEADER_FIELD_MAX, HEADER_LINE_MAX, HEADERS_MAX, KEEPALIVE_S
from router.api.errors import Refusal, body_of
from router.task import Error

BACKLOG = 512
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections of one listener may do. A body must bring `body_bytes_per_s` in each window of `body_window_s`.

    Loopback addresses have no bound of their own unless `is_loopback_bound`: there a proxy speaks for many.
    """

    connections: int = 1_000
    connections_per_address: int = 64
    is_loopback_bound: bool = False
    head_s: float = 10.0
    body_window_s: float = 10.0
    body_bytes_per_s: int = 64 << 10


LIMITS = Limits()


class Listener:
    """Serves an application on a bound socket until `close`. Make it with `Listener.start`."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner = runner
        self._server = server

    @classmethod
    async def start(
        cls, app: web.Application, bound: socket.socket, *, close_s: float, limits: Limits = LIMITS
    ) -> Listener:
        """Accept connections. `close_s` is how long `close` waits for answers that are being written."""
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=close_s)
        await runner.setup()
        gate, loop = Gate(limits), asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: Caller(gate, cast(web.Server, runner.server)), sock=bound, backlog=BACKLOG
            )
        except BaseException:
            await runner.cleanup()
            raise
        return cls(runner, server)

    async def close(self) -> None:
        """Accept nothing more, let answers out, close every connection."""
        self._server.close()
        await self._runner.cleanup()


class Gate:
    """Counts the connections of one listener."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Take a place for a connection from an address; False when there is none."""
        limits = self.limits
        bounded = limits.is_loopback_bound or not ip_address(address).is_loopback
        if self._open.total() >= limits.connections:
            return False
        if bounded and self._open[address] >= limits.connections_per_address:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Give the place back."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class Awaited(StrEnum):
    """What a connection owes us."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


class Caller(web.RequestHandler):
    """One connection: aiohttp's own protocol with a place at the gate and a timer."""

    __slots__ = ("_address", "_awaited", "_body", "_gate", "_received", "_timer")

    def __init__(self, gate: Gate, server: web.Server) -> None:
        settings: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": KEEPALIVE_S,
            "max_line_size": HEADER_LINE_MAX,
            "max_field_size": HEADER_FIELD_MAX,
            "max_headers": HEADERS_MAX,
        }
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._gate = gate
        self._address: str | None = None  # None without a place at the gate
        self._awaited = Awaited.NOTHING
        self._body: StreamReader | None = None
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    # -- what the transport tells -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or say that there is none and hang up."""
        address = _address_of(transport)
        if not self._gate.admit(address):
            plain = cast(asyncio.Transport, transport)
            plain.write(_refusal())
            plain.close()
            return
        self._address = address
        super().connection_made(transport)
        self._await(Awaited.HEAD)

    def data_received(self, data: bytes) -> None:
        """Pass it on, and see what is still owed."""
        if self._address is None:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            _message, self._body = self._messages[-1]
            self._await(Awaited.NOTHING if self._body.is_eof() else Awaited.BODY)
        elif self._awaited is Awaited.BODY:
            self._received += len(data)
            if self._body is None or self._body.is_eof():
                self._await(Awaited.NOTHING)
        elif self._awaited is Awaited.NOTHING and data:
            self._await(Awaited.HEAD)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        if self._address is None:
            return
        self._await(Awaited.NOTHING)
        self._gate.leave(self._address)
        self._address = None
        super().connection_lost(exc)

    # -- the timer --------------------------------------------------------------------------------------------------

    def _await(self, what: Awaited) -> None:
        """Begin to wait for something; the timer starts anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited, self._received = what, 0
        limits = self._gate.limits
        match what:
            case Awaited.NOTHING:
                self._body = None
            case Awaited.HEAD:
                self._timer = self._loop.call_later(limits.head_s, self._judge)
            case Awaited.BODY:
                self._timer = self._loop.call_later(limits.body_window_s, self._judge)

    def _judge(self) -> None:
        """The time is over: hang up on who is too slow, wait on for who is not."""
        limits, transport = self._gate.limits, self.transport
        if transport is None:
            return
        if self._awaited is Awaited.HEAD:
            is_late = self._current_request is None  # the next head may come slowly while we work on an answer
        else:
            is_late = self._received < limits.body_bytes_per_s * limits.body_window_s
        if is_late and transport.is_reading():
            self.force_close()
        else:
            self._await_on()

    def _await_on(self) -> None:
        body = self._body
        self._await(self._awaited)
        self._body = body


def _address_of(transport: asyncio.BaseTransport) -> str:
    """The caller's IP address; a link-local one comes without its zone."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]).partition("%")[0] if peer else "127.0.0.1"


def _refusal() -> bytes:
    """What is said to a connection too many: the body of contract 5.5, with nothing read and nothing billed."""
    message = "Too many connections are open; close some or come back later."
    refusal = Refusal(Error("unavailable", message, "too_many_connections", retryable=True))
    body = orjson.dumps(body_of(refusal, ""))
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"X-Error-Type: unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
