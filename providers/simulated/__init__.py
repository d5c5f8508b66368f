"""The providers' server sides, for the demo, the tests and drills: `start` one, point a routing file at its
`base_url`.

A simulator is a module of this package that holds a class `Simulator` (`workshop.py` says what it must have); it is
found by that, not by a list. It is written from the provider's documentation, shares no code with the adapter and
imports nothing of `router`. Each one draws real pictures, keeps its own bill and has a fault dial, which
`/_simulator/` shows over HTTP as well.
"""

import importlib
import pkgutil
from collections.abc import Generator
from dataclasses import fields
from types import TracebackType
from typing import Any, Self, cast

from aiohttp import web

from providers.simulated.bill import Bill, Entry, What, group_by_prompt, read_bill
from providers.simulated.control import Control
from providers.simulated.faults import Dial, Fault, FaultKind, FaultProblem, Step
from providers.simulated.picture import PillowMissingError, load_pillow
from providers.simulated.request_log import RequestLog, Seen
from providers.simulated.workshop import Options, Upstream, Workshop

__all__ = (
    "Bill",
    "Dial",
    "Entry",
    "Fault",
    "FaultKind",
    "FaultProblem",
    "Options",
    "PillowMissingError",
    "RequestLog",
    "Running",
    "Seen",
    "Starting",
    "Step",
    "What",
    "group_by_prompt",
    "known",
    "read_bill",
    "start",
)

SHUTDOWN_S = 0.5
"""How long a closing simulator lets answers finish that are being written."""


def start(slug: str, *, host: str = "127.0.0.1", port: int = 0, options: Options | None = None) -> "Starting":
    """Begin to simulate one provider. Await it for a `Running`, or enter it with `async with`, which closes that too.

    port 0 takes a free one; a provider with several listeners takes free ones for the others. Plain `Options` suit
    every simulator; a provider's own (`bfl.BflOptions`) suit that one. Awaiting raises LookupError for an unknown
    slug, PillowMissingError without the extra, ValueError for options out of range, OSError for a port in use.
    """
    return Starting(slug, host, port, Options() if options is None else options)


def known() -> tuple[str, ...]:
    """The slugs of the simulators that are here, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in names if hasattr(importlib.import_module(f"{__name__}.{name}"), "Simulator"))


class Running:
    """A simulator that listens. `base_url` goes into the routing file; `origin` is its scheme, host and port."""

    def __init__(self, workshop: Workshop, base_path: str, runners: tuple[web.AppRunner, ...]) -> None:
        """Made by `start` only."""
        self.slug = workshop.slug
        self.origin = _origin(runners[0])
        self.base_url = self.origin + base_path
        self.ports = tuple(_port(runner) for runner in runners)
        self.bill: Bill = workshop.bill
        self.dial: Dial = workshop.dial
        self.requests: RequestLog = workshop.requests
        self._workshop = workshop
        self._runners = runners

    async def close(self) -> None:
        """Stop listening, cut what is under way, close the bill's file. Bill and log stay readable. Twice does no
        harm.
        """
        runners, self._runners = self._runners, ()
        await _close(self._workshop, runners)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Starting:
    """A simulator about to start: await it for a `Running`, or enter it to have that closed at the end."""

    def __init__(self, slug: str, host: str, port: int, options: Options) -> None:
        """Made by `start` only."""
        self._slug = slug
        self._host = host
        self._port = port
        self._options = options
        self._running: Running | None = None

    def __await__(self) -> Generator[Any, None, Running]:
        return _open(self._slug, self._host, self._port, self._options).__await__()

    async def __aenter__(self) -> Running:
        self._running = await self
        return self._running

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            await self._running.close()


async def _open(slug: str, host: str, port: int, options: Options) -> Running:
    if slug not in known():
        raise LookupError(f"there is no simulator of {slug!r}; there are {', '.join(known())}")
    load_pillow()  # better here than at the first picture
    kind = cast("type[Upstream]", importlib.import_module(f"{__name__}.{slug}").Simulator)
    workshop = Workshop(slug, _suit(options, kind.options_type), kind.offer)
    simulator = kind(workshop)
    applications = simulator.applications()
    applications[0].add_routes(Control(workshop).routes())
    runners: list[web.AppRunner] = []
    try:
        for application in applications:
            application.router.add_route("*", "/{path:.*}", simulator.not_found)
            # A handler whose client is gone is cancelled; the work of an accepted job is not the handler's.
            runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, host, 0 if len(runners) > 1 else port).start()
    except OSError:
        await _close(workshop, tuple(runners))
        raise
    simulator.opened(tuple(_port(runner) for runner in runners))
    return Running(workshop, kind.base_path, tuple(runners))


async def _close(workshop: Workshop, runners: tuple[web.AppRunner, ...]) -> None:
    for runner in runners:
        for site in tuple(runner.sites):
            await site.stop()
    await workshop.stop()
    for runner in runners:
        await runner.cleanup()
    # Once more, for what an open connection asked for between the two.
    await workshop.stop()
    workshop.bill.close()


def _suit(options: Options, wanted: type[Options]) -> Options:
    """The options in the provider's own type. ValueError for another provider's."""
    if isinstance(options, wanted):
        return options
    if type(options) is not Options:
        raise ValueError(f"options: {type(options).__name__} are another simulator's, this one takes {wanted.__name__}")
    return wanted(**{field.name: getattr(options, field.name) for field in fields(options)})


def _origin(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what is listened on is not what is called
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _port(runner: web.AppRunner) -> int:
    return int(runner.addresses[0][1])
