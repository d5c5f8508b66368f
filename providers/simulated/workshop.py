"""What every simulated provider works with: options, bill, dial, request log, painter and the jobs under way.

It knows no provider. A job runs in a task of its own, so that a client which hangs up stops nothing: the job ends,
and the bill has it. All delays go through `pause`, which multiplies them by the time scale.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from providers.simulated.bill import Bill
from providers.simulated.faults import Dial, Fault, Offer
from providers.simulated.mischief import NoAnswer
from providers.simulated.painter import Painter
from providers.simulated.request_log import RequestLog

Made = TypeVar("Made")

CONTROL_PATH = "/_simulator/"
"""Paths below it belong to the simulator itself and are neither logged nor charged."""

NUMBER = web.RequestKey("number", int)
"""Under it a request carries its number in the log."""
ARRIVED_S = web.RequestKey("arrived_s", float)
"""Under it a request carries the loop's time at its arrival."""


def wall_ms() -> int:
    """Milliseconds since the epoch, by the machine's clock: a provider has a clock of its own."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every simulator can be told; a provider's own options inherit from it.

    seed: of the dial's dice, the job ids and the signatures. time_scale: multiplies every delay and lifetime, 1 in
    life, 0.01 in tests. latency_s: unscaled seconds that a job takes; None takes the provider's typical ones.
    api_key: the only key taken; None takes any. models: the only models known; None knows those of the provider file
    and lets others pass where the provider's own catalogue is open. price_usd: one price for every picture; None
    takes the provider's list. faults: the rows that the dial starts with. bill_file: JSON lines that survive the
    process. requests_kept: the bound of the request log. now_ms: the provider's wall clock.
    """

    seed: int = 0
    time_scale: float = 1.0
    latency_s: float | None = None
    api_key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] | None = None
    price_usd: Decimal | None = None
    faults: tuple[Fault, ...] = ()
    bill_file: Path | None = None
    requests_kept: int = 1000
    now_ms: Callable[[], int] = wall_ms

    def __post_init__(self) -> None:
        """ValueError names the first option that is out of range."""
        for name in ("time_scale", "latency_s", "price_usd"):
            amount = getattr(self, name)
            if amount is not None and not 0 <= amount <= 1_000_000:
                raise ValueError(f"{name}: must be between 0 and 1000000")
        if not 1 <= self.requests_kept <= 1_000_000:
            raise ValueError("requests_kept: must be between 1 and 1000000")


class Workshop:
    """The state of one running simulator, shared by its handlers. It is made and closed inside the event loop."""

    def __init__(self, slug: str, options: Options, offer: Offer) -> None:
        """ValueError: a row of `options.faults` is not in the offer. OSError: the bill's file cannot be written."""
        self.slug = slug
        self.options = options
        self.dial = Dial(offer, f"{slug}/{options.seed}", options.faults)
        self.bill = Bill(f"{slug}/{options.seed}", options.now_ms, options.bill_file)
        self.requests = RequestLog(options.requests_kept)
        self.painter = Painter()
        self.closing = asyncio.Event()
        self._jobs: set[asyncio.Task[Any]] = set()

    async def pause(self, seconds: float) -> None:
        """Let so many seconds pass, times the time scale."""
        await asyncio.sleep(seconds * self.options.time_scale)

    def begin(self, work: Coroutine[Any, Any, Made]) -> asyncio.Task[Made]:
        """Start the work of a job that was accepted. Jobs under way are bounded by the bill, which counts each of
        them.
        """
        task = asyncio.create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    async def attend(self, job: str, work: asyncio.Task[Made]) -> Made:
        """Wait for a job on behalf of a client. A client that hangs up is noted on the bill, and the job goes on."""
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.bill.abandon(job)
            raise

    def describe(self, request: web.Request, *, body: object = None, fault: Fault | None = None) -> None:
        """Add to the request's row in the log what its handler found out."""
        self.requests.describe(request[NUMBER], body=body, fault=str(fault.kind) if fault else None)

    async def stop(self) -> None:
        """End every job that is under way, charged as it is, and everything that waits without end."""
        self.closing.set()
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def watch(self) -> Middleware:
        """The middleware that logs each request at arrival and its status when it is answered."""

        @web.middleware
        async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.startswith(CONTROL_PATH):
                return await handler(request)
            request[ARRIVED_S] = asyncio.get_running_loop().time()
            number = request[NUMBER] = self.requests.arrive(request, self.options.now_ms())
            try:
                response = await handler(request)
            except ConnectionResetError:
                return NoAnswer()  # the client went away while its answer was being written
            if not isinstance(response, NoAnswer):
                self.requests.answer(number, response.status)
            return response

        return log_request


class Upstream(Protocol):
    """What a module of this package must hold, under the name `Simulator`, to be a provider that can be started.

    offer: what its dial can show. options_type: the options that it takes. base_path: the part of its base URL behind
    the origin.
    """

    offer: ClassVar[Offer]
    options_type: ClassVar[type[Options]]
    base_path: ClassVar[str]

    def __init__(self, workshop: Workshop) -> None:
        """Take the shared state; nothing is served yet."""

    def applications(self) -> tuple[web.Application, ...]:
        """The listeners of this provider: the first answers at the base URL, each further one on a port of its own."""

    async def not_found(self, request: web.Request) -> web.StreamResponse:
        """Answer every path and method that no route of an application covers."""

    def opened(self, ports: tuple[int, ...]) -> None:
        """Learn the ports of the listeners, in the order of `applications`, before the first request."""
