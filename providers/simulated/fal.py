"""fal, server side: requests enter a queue at once and are asked for again; COMPLETED does not mean success.

The model's own complaints (an input that breaks its schema, content policy) come at the end, as the status code of the
result. A request that waits can be cancelled, one that runs goes on and is charged. One origin stands for the vendor's
four: the queue at the root, direct runs below `/run`, the keys of webhooks, storage and results at their paths. Not
simulated: the platform's re-queueing of failed runners and its fallback endpoints. A row of the dial for `job_error`
names its error type in `param` (`no_media_generated/retryable` for one that may be tried again), and one for `quota`
says 402 there for the other form. It shares no code with the adapter.
Source: the provider file of fal.
"""

import asyncio
import json
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar, Final

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import NOTHING
from providers.simulated.fal_errors import UNITS_HEADER, Failure, find_failure, find_platform_failure
from providers.simulated.fal_order import FalOrder, read_fal_order
from providers.simulated.fal_refusal import detail, lose_request, refuse, show_ingress, turn_away
from providers.simulated.fal_reply import (
    Plan,
    Reply,
    describe_result,
    describe_status,
    describe_submit,
    find_end,
    read_plan,
)
from providers.simulated.fal_storage import Storage
from providers.simulated.fal_webhook import JWKS_PATH, Post, Signer, tell_failure, tell_success
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Offer, Step
from providers.simulated.film import Film
from providers.simulated.gallery import Gallery
from providers.simulated.job_desk import ANSWER_S, ENDED, JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.picture import Picture
from providers.simulated.workshop import NUMBER, Options, Workshop

BODY_BYTES = 100 * 1024 * 1024
LINK_LIFETIME_S = 10 * 365 * 86_400.0
"""The content network keeps results "long"; ten years stand for it."""
COMPLAINT_S = 0.2
"""How long a model takes to refuse an input that breaks its schema."""
STREAM_S = 0.5
"""Between two looks of a status stream."""

FAL_ID: Final = web.RequestKey("fal_id", str)
"""Under it a request carries the id that its reply names in x-fal-request-id."""
_NO_FAL_ID = ("/_simulator/", "/files/", "/.well-known/")
_REFUSALS = frozenset({"content_policy_violation", "no_media_generated"})
_DIALLED_FAILURE = "internal_server_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class FalOptions(Options):
    """queue_s: unscaled seconds that a request waits before it runs. units_on_4xx: what a model author put into the
    header of billable units of a 4xx after work; None sends no header and charges the full price. stops_running: a
    cancel ends a running request, too. webhook_forged: webhooks carry a wrong signature; webhook_copies: how often each
    arrives; webhook_age_s: how many seconds old their timestamps are; webhook_bare: they say that the output could not
    be serialised.
    """

    queue_s: float = 0.5
    units_on_4xx: Decimal | None = None
    stops_running: bool = False
    webhook_forged: bool = False
    webhook_copies: int = 1
    webhook_age_s: int = 0
    webhook_bare: bool = False


class Simulator:
    """fal, as one account sees it. Its base URL has no path: the adapter adds `/{owner}/{alias}/...`."""

    offer: ClassVar[Offer] = {
        **JOB_OFFER,
        Step.SUBMIT: JOB_OFFER[Step.SUBMIT] | {FaultKind.ACTIVE_LIMIT, FaultKind.CONTENT_MODERATED},
    }
    options_type: ClassVar[type[Options]] = FalOptions
    base_path: ClassVar[str] = ""

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, FalOptions)
        self._options: FalOptions = workshop.options
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/files/outputs", LINK_LIFETIME_S)
        self._desk = JobDesk(workshop, self._gallery, turn_away=turn_away, unknown=lambda _id: lose_request())
        self._storage = Storage(workshop, self._admit)
        self._signer = Signer(workshop.options.seed)
        self._post = Post(
            workshop,
            self._signer,
            forged=self._options.webhook_forged,
            copies=self._options.webhook_copies,
            age_s=self._options.webhook_age_s,
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener for the vendor's four hosts."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        job = "/{owner}/{alias}/requests/{id}"
        application.add_routes(
            [
                web.get(JWKS_PATH, self.show_keys),
                *self._storage.routes(),
                self._gallery.route(),
                web.post("/run/{owner}/{alias}{sub:(?:/.+)?}", self.run),
                web.get(f"{job}/status", self.show_status),
                web.get(f"{job}/status/stream", self.stream_status),
                web.put(f"{job}/cancel", self.cancel),
                web.get(job, self.show_result),
                web.post("/{owner}/{alias}{sub:(?:/.+)?}", self.submit),
            ]
        )
        application.on_response_prepare.append(self._name_request)
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Addresses are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """A path that is not there is free by its header."""
        return detail(404, "Not Found", {UNITS_HEADER: "0"})

    # --- submit and run

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """POST /{endpoint id}: meet the dial, charge, begin, answer with the addresses to ask."""
        accepted = await self._accept(request, waits_s=self._options.queue_s)
        if not isinstance(accepted, tuple):
            return accepted
        job, fault = accepted
        kind = fault.kind if fault else None
        if kind is FaultKind.DROP:
            self._workshop.bill.abandon(job.entry)
            return mischief.cut(request)
        try:
            await self._workshop.pause(ANSWER_S + (fault.delay_s() if fault and kind is FaultKind.LATE else 0.0))
        except asyncio.CancelledError:
            self._workshop.bill.abandon(job.entry)
            raise
        return await self._deliver(request, fault, describe_submit(job, self._position(job)))

    async def run(self, request: web.Request) -> web.StreamResponse:
        """POST /run/{endpoint id}: the same without the queue; the reply is the result, under its own status."""
        accepted = await self._accept(request, waits_s=0.0)
        if not isinstance(accepted, tuple):
            return accepted
        job, fault = accepted
        kind = fault.kind if fault else None
        if kind is FaultKind.DROP:
            self._workshop.bill.abandon(job.entry)
            return mischief.cut(request)
        try:
            await self._desk.wait(job)
            await self._workshop.pause(fault.delay_s() if fault and kind is FaultKind.LATE else 0.0)
        except asyncio.CancelledError:
            self._workshop.bill.abandon(job.entry)
            raise
        return await self._deliver(request, fault, await describe_result(job, self._workshop.painter))

    async def _accept(self, request: web.Request, *, waits_s: float) -> tuple[Job, Fault | None] | web.StreamResponse:
        # Everything up to the acceptance: a response where there is none.
        denied = self._admit(request)
        if denied is not None:
            return denied
        endpoint, known = _endpoint(request), self._options.models
        if "/requests/" in endpoint or (known is not None and endpoint not in known):
            return detail(404, f"Application {endpoint} not found", {UNITS_HEADER: "0"})
        limit_s = _read_limit(request)
        if limit_s is None:
            return refuse(find_platform_failure("bad_request"))
        body = await self._read_body(request)
        if isinstance(body, web.Response):
            return body
        prompt = body.get("prompt") if isinstance(body.get("prompt"), str) else ""
        fault = self._workshop.dial.draw(Step.SUBMIT, model=endpoint, prompt=prompt or "")
        self._workshop.describe(request, fault=fault)
        if fault is not None and fault.kind in TURNED_AWAY:
            return turn_away(fault)
        if self._workshop.bill.full:
            return turn_away(Fault(kind=FaultKind.OVERLOADED))
        order, failure = self._judge(request, body, fault)
        if limit_s < waits_s:
            failure = replace(find_platform_failure("request_timeout"), own_timeout=True)
        job = self._begin(
            request, prompt or "", self._plan(request, order, failure, fault), fault, min(waits_s, limit_s)
        )
        request[FAL_ID] = job.id
        return job, fault

    async def _read_body(self, request: web.Request) -> dict[str, Any] | web.Response:
        try:
            body = json.loads(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return detail(413, "Request Entity Too Large")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return refuse(find_platform_failure("bad_request"))
        self._workshop.describe(request, body=body)
        return body

    def _judge(
        self, request: web.Request, body: dict[str, Any], fault: Fault | None
    ) -> tuple[FalOrder | None, Failure | None]:
        order = read_fal_order(_endpoint(request), body)
        if isinstance(order, Failure):
            return None, order
        origin = f"{request.scheme}://{request.host}"
        for address in order.inputs:
            if address.startswith("data:"):
                if not address.startswith("data:image/"):
                    return order, find_failure("image_load_error")
            elif not address.startswith(("http://", "https://")) or self._storage.lacks(address, origin):
                return order, find_failure("file_download_error")
        return order, _foresee(fault, order)

    def _plan(self, request: web.Request, order: FalOrder | None, failure: Failure | None, fault: Fault | None) -> Plan:
        # What is made and what an end without it costs: nothing, the full price, or the units of the author's header.
        outputs: tuple[Picture | Film, ...] = () if order is None else _draw_up(order)
        moderated = fault is not None and fault.kind is FaultKind.CONTENT_MODERATED and failure is None
        if moderated:
            outputs = tuple(replace(output, black=True) for output in outputs if isinstance(output, Picture))
        price = loss = self._price(order)
        told = self._options.units_on_4xx
        if failure is not None and failure.free:
            loss = NOTHING
        elif failure is not None and told is not None and order is not None:
            loss = price / order.units * told
            failure = replace(failure, units=f"{told:f}")
        return Plan(
            app=_app(request),
            order=order,
            outputs=outputs,
            price_usd=price,
            loss_usd=loss,
            failure=failure,
            black=tuple(
                self._gallery.hang(output, _endpoint(request), lifetime_s=_read_lifetime(request))
                for output in outputs
                if moderated
            ),
            webhook_url=request.query.get("fal_webhook"),
        )

    def _begin(self, request: web.Request, prompt: str, plan: Plan, fault: Fault | None, waits_s: float) -> Job:
        order, failure = plan.order, plan.failure
        typical_s = order.latency_s if order is not None else COMPLAINT_S
        takes_s = typical_s if self._options.latency_s is None else self._options.latency_s
        job_order = JobOrder(
            model=_endpoint(request),
            prompt=prompt,
            outputs=plan.outputs,
            price_usd=plan.price_usd,
            waits_s=waits_s,
            takes_s=0.0 if failure is not None and failure.own_timeout else takes_s,
            refusal_usd=plan.loss_usd,
            failure_usd=plan.loss_usd,
            lifetime_s=_read_lifetime(request),
            asked={"plan": plan},
        )
        ending = fault
        if failure is not None:
            ending = Fault(kind=FaultKind.REFUSAL if failure.type in _REFUSALS else FaultKind.JOB_ERROR)
        job = self._desk.accept(request, job_order, ending)
        if plan.webhook_url is not None:
            self._workshop.begin(self._notify(job, plan.webhook_url))
        return job

    def _price(self, order: FalOrder | None) -> Decimal:
        if order is None:
            return NOTHING
        return order.price_usd if self._options.price_usd is None else self._options.price_usd * order.count

    async def _notify(self, job: Job, url: str) -> None:
        if job.work is not None:
            await asyncio.gather(job.work, return_exceptions=True)
        if job.stage not in ENDED or job.stage is Stage.CANCELLED:
            return
        reply = await describe_result(job, self._workshop.painter)
        if find_end(job) is not None:
            self._post.send(url, tell_failure(job.id, reply.status, reply.body))
        else:
            self._post.send(url, tell_success(job.id, None if self._options.webhook_bare else reply.body))

    # --- status, result, cancel

    async def show_status(self, request: web.Request) -> web.StreamResponse:
        """GET .../status: the lines of the log only where they are asked for."""
        met = await self._meet_poll(request)
        if not isinstance(met, tuple):
            return met
        job, fault = met
        logs = request.query.get("logs", "").lower() in ("true", "1")
        return await self._deliver(request, fault, describe_status(job, self._position(job), logs=logs))

    async def stream_status(self, request: web.Request) -> web.StreamResponse:
        """GET .../status/stream: an event for each stage, until the last."""
        met = await self._meet_poll(request)
        if not isinstance(met, tuple):
            return met
        job, _ = met
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        shown: Stage | None = None
        while not self._workshop.closing.is_set():
            if job.stage is not shown:
                shown = job.stage
                body = describe_status(job, self._position(job), logs=True).body
                await response.write(f"data: {json.dumps(body)}\n\n".encode())
            if shown in ENDED:
                break
            await self._workshop.pause(STREAM_S)
        return response

    async def show_result(self, request: web.Request) -> web.StreamResponse:
        """GET the result: its status code is the outcome."""
        met = await self._meet_poll(request)
        if not isinstance(met, tuple):
            return met
        job, fault = met
        return await self._deliver(request, fault, await describe_result(job, self._workshop.painter))

    async def cancel(self, request: web.Request) -> web.Response:
        """PUT .../cancel: ends what waits; what runs goes on, unless the options say otherwise."""
        denied = self._admit(request)
        if denied is not None:
            return denied
        job = self._find(request)
        if job is None or job.lost:
            return lose_request()
        request[FAL_ID] = job.id
        if job.stage in ENDED:
            return web.json_response({"status": "ALREADY_COMPLETED"}, status=400)
        if job.stage is Stage.WAITING or self._options.stops_running:
            self._desk.cancel(job)
        return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)

    async def _meet_poll(self, request: web.Request) -> tuple[Job, Fault | None] | web.StreamResponse:
        denied = self._admit(request)
        if denied is not None:
            return denied
        job = self._find(request)
        if job is None:
            return lose_request()
        request[FAL_ID] = job.id
        fault = self._workshop.dial.draw(Step.POLL, model=job.order.model, prompt=job.order.prompt)
        self._workshop.describe(request, fault=fault)
        kind = fault.kind if fault else None
        if fault is not None and kind in TURNED_AWAY:
            return turn_away(fault)
        hidden = job.hidden_polls > 0
        job.hidden_polls -= hidden
        if job.lost or hidden or kind is FaultKind.TASK_NOT_FOUND:
            return lose_request()
        if fault is not None and kind is FaultKind.SLOW:
            await self._workshop.pause(fault.delay_s())
        return job, fault

    def _find(self, request: web.Request) -> Job | None:
        # A job is known below its own application only: owner and alias, without the sub path of its endpoint.
        job = self._desk.find(request.match_info["id"])
        return job if job is not None and read_plan(job).app == _app(request) else None

    def _position(self, job: Job) -> int:
        if job.stage is not Stage.WAITING:
            return 0
        ahead = 0
        for other in self._desk.jobs:
            if other is job:
                break
            ahead += other.stage is Stage.WAITING and read_plan(other).app == read_plan(job).app
        return ahead

    async def _deliver(self, request: web.Request, fault: Fault | None, reply: Reply) -> web.StreamResponse:
        kind = fault.kind if fault else None
        if kind is FaultKind.GATEWAY_TIMEOUT:
            return show_ingress(504, "504 Gateway Time-out")
        answer = await mischief.deliver(
            request,
            fault,
            json.dumps({} if kind is FaultKind.EMPTY_DATA else dict(reply.body)).encode(),
            content_type="application/json",
            closing=self._workshop.closing,
            scale=self._options.time_scale,
        )
        if answer.content_type == "application/json" and not answer.prepared:
            answer.set_status(reply.status)
            answer.headers.update(reply.headers)
        return answer

    async def _name_request(self, request: web.Request, response: web.StreamResponse) -> None:
        # Every reply of the API has an id; pages of the proxy in front have none, nor has what comes from storage.
        if not request.path.startswith(_NO_FAL_ID) and response.content_type != "text/html":
            response.headers["x-fal-request-id"] = request.get(FAL_ID) or str(uuid.UUID(int=request[NUMBER], version=4))

    # --- the account

    async def show_keys(self, request: web.Request) -> web.Response:
        """GET the public keys of webhooks; no key is needed for it."""
        return web.json_response(self._signer.jwks())

    def _admit(self, request: web.Request) -> web.Response | None:
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        key_id, _, secret = key.partition(":")
        expected = self._options.api_key
        if word != "Key" or not key_id or not secret or (expected is not None and key != expected):
            return detail(401, "Invalid or missing credentials")
        return None


def _foresee(fault: Fault | None, order: FalOrder | None) -> Failure | None:
    # What the dial makes of a job that is accepted. A checked output of a picture is no failure: it turns black.
    match fault.kind if fault else None:
        case FaultKind.REFUSAL:
            return find_failure("content_policy_violation")
        case FaultKind.CONTENT_MODERATED if order is not None and order.video:
            return find_failure("content_policy_violation")
        case FaultKind.JOB_ERROR if fault:
            return find_failure(fault.param) or find_failure(_DIALLED_FAILURE)
        case _:
            return None


def _read_limit(request: web.Request) -> float | None:
    # X-Fal-Request-Timeout: seconds until the start, without end where there is no header; None for one that is wrong.
    try:
        limit_s = float(request.headers.get("X-Fal-Request-Timeout", "inf"))
    except ValueError:
        return None
    return limit_s if limit_s > 0 else None


def _read_lifetime(request: web.Request) -> float | None:
    # X-Fal-Object-Lifecycle-Preference: JSON; what it cannot be read for leaves the default.
    try:
        preference = json.loads(request.headers.get("X-Fal-Object-Lifecycle-Preference", "{}"))
    except (ValueError, RecursionError):
        return None
    seconds = preference.get("expiration_duration_seconds") if isinstance(preference, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < LINK_LIFETIME_S:
        return None
    return float(seconds)


def _app(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['alias']}"


def _endpoint(request: web.Request) -> str:
    return f"{_app(request)}{request.match_info['sub']}"


def _draw_up(order: FalOrder) -> tuple[Picture | Film, ...]:
    caption = f"{order.endpoint}  {order.width}x{order.height}  seed {order.seed}"
    if order.video:
        return (Film(order.prompt, order.width, order.height, order.seconds, caption=caption),)
    return tuple(
        Picture(order.prompt, order.width, order.height, format=order.format, index=index, caption=caption)
        for index in range(order.count)
    )
