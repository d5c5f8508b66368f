"""Black Forest Labs, server side: submit a job, poll the address that the reply names, fetch a signed sample.

Polls and samples live on a second listener, as the vendor's regional hosts do: an adapter that builds its poll
address from the base URL and the id meets "Task not found". Refused and failed jobs are not charged. Webhooks are
answered for (the reply takes its other form) but never sent, as after a lost delivery. It shares no code with the
adapter.
Source: the provider file of BFL.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bfl_order import MODELS, Detail, FluxOrder, read_flux_order
from providers.simulated.bill import NOTHING, What
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Offer, Step
from providers.simulated.gallery import RESULT_FAULTS, Gallery
from providers.simulated.picture import Picture
from providers.simulated.workshop import Options, Workshop

SUBMIT_S = 0.2
"""How long a submit takes to be answered."""
BODY_BYTES = 64 * 1024 * 1024
JOBS_KEPT = 20_000
"""Jobs that can be asked for; older ones that have ended are forgotten, which the file leaves open."""


class Status(StrEnum):
    """The vendor's words, with their spaces."""

    PENDING = "Pending"
    READY = "Ready"
    REQUEST_MODERATED = "Request Moderated"
    CONTENT_MODERATED = "Content Moderated"
    ERROR = "Error"
    NOT_FOUND = "Task not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class BflOptions(Options):
    """active_max: jobs at once for one account. sample_lifetime_s: unscaled seconds that a sample's link lives.
    poll_host: the host name in polling and sample addresses, None for the one that the request came to. credits: the
    balance at the start, None for one without end. not_found_status: the HTTP status under "Task not found", which
    the file does not tell.
    """

    active_max: int = 24
    sample_lifetime_s: float = 600.0
    poll_host: str | None = None
    credits: Decimal | None = None
    not_found_status: int = 200


@dataclass(slots=True)
class _Job:
    id: str
    order: FluxOrder
    origin: str
    begun_ms: int
    begun_s: float
    takes_s: float
    status: Status = Status.PENDING
    ended_ms: int = 0
    sample: str = ""
    hidden_polls: int = 0
    lost: bool = False


class Simulator:
    """BFL, as one account sees it. Its base URL has no path: the adapter adds `/v1/{model}`."""

    offer: ClassVar[Offer] = {
        Step.SUBMIT: (TURNED_AWAY - {FaultKind.MODERATION_BLOCKED})
        | {
            FaultKind.SLOW,
            FaultKind.LATE,
            FaultKind.HANG,
            FaultKind.DROP,
            FaultKind.GATEWAY_TIMEOUT,
            FaultKind.REFUSAL,
            FaultKind.CONTENT_MODERATED,
            FaultKind.JOB_ERROR,
            FaultKind.TASK_NOT_FOUND,
            FaultKind.LOST,
            FaultKind.NO_COST,
            FaultKind.HTML,
            FaultKind.EMPTY_DATA,
            FaultKind.TRUNCATED,
            FaultKind.ENDLESS,
            FaultKind.FLOOD,
        },
        Step.POLL: frozenset(
            {
                FaultKind.OVERLOADED,
                FaultKind.THROTTLED,
                FaultKind.SERVER_ERROR,
                FaultKind.BAD_GATEWAY,
                FaultKind.SLOW,
                FaultKind.HANG,
                FaultKind.DROP,
                FaultKind.TASK_NOT_FOUND,
                FaultKind.HTML,
                FaultKind.EMPTY_DATA,
                FaultKind.TRUNCATED,
                FaultKind.ENDLESS,
                FaultKind.FLOOD,
            }
        ),
        Step.RESULT: RESULT_FAULTS,
    }
    options_type: ClassVar[type[Options]] = BflOptions
    base_path: ClassVar[str] = ""

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, BflOptions)
        self._options: BflOptions = workshop.options
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/results", self._options.sample_lifetime_s)
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._regional_port = 0

    def applications(self) -> tuple[web.Application, ...]:
        """The global host, which takes jobs, and the regional one, which knows them."""
        entrance = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        entrance.add_routes(
            [
                web.post("/v1/{model}", self.submit),
                web.get("/v1/get_result", self.poll_elsewhere),
                web.get("/v1/credits", self.show_credits),
            ]
        )
        regional = web.Application(middlewares=[self._workshop.watch()])
        regional.add_routes([web.get("/v1/get_result", self.poll), self._gallery.route()])
        return entrance, regional

    def opened(self, ports: tuple[int, ...]) -> None:
        """The second port goes into polling and sample addresses."""
        self._regional_port = ports[1]

    async def not_found(self, request: web.Request) -> web.Response:
        """FastAPI's answer for a path that is not there."""
        return detail(404, "Not Found")

    # --- submit

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/{model}: check, meet the dial, charge, begin, answer with the address to poll."""
        denied = self._admit(request)
        if denied is not None:
            return denied
        model = request.match_info["model"]
        known = MODELS if self._options.models is None else self._options.models
        if model not in MODELS or model not in known:
            return detail(404, "Not Found")
        order = await self._read_order(request, model)
        if isinstance(order, web.Response):
            return order
        fault = self._workshop.dial.draw(Step.SUBMIT, model=model, prompt=order.prompt)
        self._workshop.describe(request, fault=fault)
        refused = self._turn_away(order, fault)
        if refused is not None:
            return refused
        job = self._accept(request, order, fault)
        return await self._answer_submit(request, job, fault)

    async def _read_order(self, request: web.Request, model: str) -> FluxOrder | web.Response:
        try:
            body = json.loads(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return detail(413, "Request Entity Too Large")
        except (ValueError, RecursionError):
            return unprocessable([Detail("0", "JSON decode error", "json_invalid")])
        if not isinstance(body, dict):
            return unprocessable([Detail("0", "Input should be a valid dictionary", "model_attributes_type")])
        self._workshop.describe(request, body=body)
        order = read_flux_order(model, body)
        return order if isinstance(order, FluxOrder) else unprocessable(order)

    def _turn_away(self, order: FluxOrder, fault: Fault | None) -> web.Response | None:
        if fault is not None and fault.kind in TURNED_AWAY:
            return turn_away(fault)
        rules = MODELS[order.model]
        active = [job for job in self._jobs.values() if job.status is Status.PENDING]
        own = sum(job.order.model == order.model for job in active)
        if len(active) >= self._options.active_max or (rules.active_max is not None and own >= rules.active_max):
            return turn_away(Fault(kind=FaultKind.ACTIVE_LIMIT))
        left = self._credits_left()
        if left is not None and left < self._price(order) * 100:
            return turn_away(Fault(kind=FaultKind.QUOTA))
        if self._workshop.bill.full:
            return turn_away(Fault(kind=FaultKind.OVERLOADED))
        return None

    def _accept(self, request: web.Request, order: FluxOrder, fault: Fault | None) -> _Job:
        kind = fault.kind if fault else None
        job_id = self._workshop.bill.accept(model=order.model, prompt=order.prompt, amount_usd=self._price(order))
        typical_s = MODELS[order.model].latency_s if self._options.latency_s is None else self._options.latency_s
        job = _Job(
            id=job_id,
            order=order,
            origin=self._regional_origin(request),
            begun_ms=self._options.now_ms(),
            begun_s=asyncio.get_running_loop().time(),
            takes_s=typical_s + (fault.delay_s() if fault and kind is FaultKind.SLOW else 0.0),
            hidden_polls=fault.polls if fault and kind is FaultKind.TASK_NOT_FOUND else 0,
            lost=kind is FaultKind.LOST,
        )
        self._jobs[job_id] = job
        if len(self._jobs) > JOBS_KEPT:
            oldest = next((job for job in self._jobs.values() if job.status is not Status.PENDING), job)
            del self._jobs[oldest.id]
        self._workshop.begin(self._work(job, kind))
        return job

    async def _work(self, job: _Job, kind: FaultKind | None) -> None:
        await self._workshop.pause(job.takes_s)
        bill = self._workshop.bill
        job.ended_ms = self._options.now_ms()
        match kind:
            case FaultKind.REFUSAL:
                job.status = Status.REQUEST_MODERATED
                bill.end(job.id, What.REFUSAL, NOTHING)
            case FaultKind.CONTENT_MODERATED:
                job.status = Status.CONTENT_MODERATED
                bill.end(job.id, What.REFUSAL, NOTHING)
            case FaultKind.JOB_ERROR:
                job.status = Status.ERROR
                bill.end(job.id, What.FAILURE, NOTHING)
            case _:
                job.status = Status.READY
                job.sample = self._gallery.hang(_draw_up(job.order), job.order.model)
                silent = kind in (FaultKind.HANG, FaultKind.GATEWAY_TIMEOUT)
                late = kind is FaultKind.LATE and bill.abandoned(job.id)
                bill.end(job.id, What.TIMEOUT if silent or late else What.SUCCESS)

    async def _answer_submit(self, request: web.Request, job: _Job, fault: Fault | None) -> web.StreamResponse:
        workshop, kind = self._workshop, fault.kind if fault else None
        if kind is FaultKind.DROP:
            workshop.bill.abandon(job.id)
            return mischief.cut(request)
        try:
            await workshop.pause(SUBMIT_S + (fault.delay_s() if fault and kind is FaultKind.LATE else 0.0))
        except asyncio.CancelledError:
            workshop.bill.abandon(job.id)
            raise
        body = {} if kind is FaultKind.EMPTY_DATA else self._describe_submit(job, priced=kind is not FaultKind.NO_COST)
        return await self._deliver(request, body, fault)

    def _describe_submit(self, job: _Job, *, priced: bool) -> dict[str, Any]:
        if job.order.webhook_url is not None:
            return {"id": job.id, "status": str(Status.PENDING), "webhook_url": job.order.webhook_url}
        body: dict[str, Any] = {"id": job.id, "polling_url": f"{job.origin}/v1/get_result?id={job.id}"}
        if priced:
            output_mp = round(job.order.width * job.order.height / 1_000_000, 2)
            body |= {
                "cost": float(self._price(job.order) * 100),
                "input_mp": float(job.order.inputs),
                "output_mp": output_mp,
            }
        return body

    # --- poll

    async def poll_elsewhere(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/get_result on the global host: it knows the jobs with a webhook, for which no other address was
        given.
        """
        job = self._jobs.get(request.query.get("id", ""))
        return await self._poll(request, None if job is None or job.order.webhook_url is None else job)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/get_result on the regional host, the address of the submit's reply."""
        return await self._poll(request, self._jobs.get(request.query.get("id", "")))

    async def _poll(self, request: web.Request, job: _Job | None) -> web.StreamResponse:
        denied = self._admit(request)
        if denied is not None:
            return denied
        if job is None:
            return self._deny_knowledge(request)
        fault = self._workshop.dial.draw(Step.POLL, model=job.order.model, prompt=job.order.prompt)
        self._workshop.describe(request, fault=fault)
        if fault is not None and fault.kind in TURNED_AWAY:
            return turn_away(fault)
        hidden = job.hidden_polls > 0
        job.hidden_polls -= hidden
        if job.lost or hidden or (fault is not None and fault.kind is FaultKind.TASK_NOT_FOUND):
            return self._deny_knowledge(request)
        if fault is not None and fault.kind is FaultKind.SLOW:
            await self._workshop.pause(fault.delay_s())
        empty = fault is not None and fault.kind is FaultKind.EMPTY_DATA
        return await self._deliver(request, {} if empty else self._describe_job(job), fault)

    def _deny_knowledge(self, request: web.Request) -> web.Response:
        body = _status_body(request.query.get("id", ""), Status.NOT_FOUND)
        return web.json_response(body, status=self._options.not_found_status)

    def _describe_job(self, job: _Job) -> dict[str, Any]:
        body = _status_body(job.id, job.status)
        match job.status:
            case Status.PENDING | Status.NOT_FOUND:
                takes_s = job.takes_s * self._options.time_scale
                passed_s = asyncio.get_running_loop().time() - job.begun_s
                body["progress"] = round(min(0.99, passed_s / takes_s), 2) if takes_s else 0.99
            case Status.READY:
                body["progress"] = 1.0
                body["result"] = {
                    "sample": job.origin + job.sample,
                    "prompt": job.order.prompt,
                    "seed": job.order.seed,
                    "start_time": job.begun_ms / 1000,
                    "end_time": job.ended_ms / 1000,
                    "duration": (job.ended_ms - job.begun_ms) / 1000,
                }
            case Status.REQUEST_MODERATED | Status.CONTENT_MODERATED:
                body["details"] = {"Moderation Reasons": ["Violence"]}
            case Status.ERROR:
                body["details"] = {"error": "The generation failed."}
        return body

    # --- the account

    async def show_credits(self, request: web.Request) -> web.Response:
        """GET /v1/credits."""
        denied = self._admit(request)
        left = self._credits_left()
        return web.json_response({"credits": 100_000.0 if left is None else float(left)}) if denied is None else denied

    def _admit(self, request: web.Request) -> web.Response | None:
        key, expected = request.headers.get("x-key", ""), self._options.api_key
        if not key or (expected is not None and key != expected):
            return detail(403, "Not authenticated")
        return None

    def _price(self, order: FluxOrder) -> Decimal:
        return order.price_usd() if self._options.price_usd is None else self._options.price_usd

    def _credits_left(self) -> Decimal | None:
        if self._options.credits is None:
            return None
        return self._options.credits - self._workshop.bill.total * 100

    def _regional_origin(self, request: web.Request) -> str:
        host = self._options.poll_host or request.url.host or "127.0.0.1"
        return f"{request.scheme}://{f'[{host}]' if ':' in host else host}:{self._regional_port}"

    async def _deliver(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        content, scale = json.dumps(body).encode(), self._options.time_scale
        return await mischief.deliver(
            request, fault, content, content_type="application/json", closing=self._workshop.closing, scale=scale
        )


def turn_away(fault: Fault) -> web.Response:
    """The vendor's words for a request that is not served. A body in its two forms: `detail`, and `error` with
    `retry_after`.
    """
    match fault.kind:
        case FaultKind.THROTTLED:
            wait_s = 1.0 if fault.retry_after_s is None else fault.retry_after_s
            body = {"error": "rate_limited", "message": "Too many requests", "retry_after": wait_s}
            return web.json_response(body, status=429, headers={"Retry-After": f"{wait_s:g}"})
        case FaultKind.ACTIVE_LIMIT:
            return detail(429, "Too many active tasks")
        case FaultKind.QUOTA:
            return detail(402, "Insufficient credits")
        case FaultKind.INVALID_KEY:
            return detail(401, "Invalid API key")
        case FaultKind.UNSUPPORTED_PARAMETER:
            field = "width" if fault.param == "size" else fault.param
            return unprocessable([Detail(field, "Input is not supported by this model", "value_error")])
        case FaultKind.MODEL_NOT_FOUND:
            return detail(404, "Not Found")
        case FaultKind.BAD_GATEWAY:
            return mischief.show_page(502, "502 Bad Gateway")
        case FaultKind.SERVER_ERROR:
            return detail(500, "Internal Server Error")
        case _:
            busy = detail(503, "Service Unavailable")
            if fault.retry_after_s is not None:
                busy.headers["Retry-After"] = f"{fault.retry_after_s:g}"
            return busy


def detail(status: int, text: str) -> web.Response:
    """FastAPI's error body."""
    return web.json_response({"detail": text}, status=status)


def unprocessable(details: list[Detail]) -> web.Response:
    """FastAPI's body for a request that breaks rules: a row for each."""
    return web.json_response({"detail": [row.as_json() for row in details]}, status=422)


def _status_body(job_id: str, status: Status) -> dict[str, Any]:
    return {"id": job_id, "status": str(status), "progress": None, "details": None, "preview": None, "result": None}


def _draw_up(order: FluxOrder) -> Picture:
    caption = f"{order.model}  {order.width}x{order.height}  seed {order.seed}"
    return Picture(order.prompt, order.width, order.height, format=order.format, caption=caption)
