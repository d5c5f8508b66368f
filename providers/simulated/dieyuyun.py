"""Dieyuyun, server side: an aggregator that answers a paid request with a task, or at once, as flag and model will.

What sets it apart: `"async": true` in the body where others have a path of their own, six statuses of which `expired`
is no failure, failed tasks told in flat strings, and a key that comes in either of two headers. Where the provider file
does not know the vendor (the path of films, the form of errors, what a task costs that made nothing), an option says
what is taken. It shares no code with the adapter.
Source: the provider file of Dieyuyun.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal, assert_never

from aiohttp import web

from providers.simulated.bill import NOTHING
from providers.simulated.body_fields import Invalid, read_object
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.film import Film
from providers.simulated.gallery import Gallery
from providers.simulated.image_desk import ImageDesk
from providers.simulated.image_order import OPENAI_FAMILIES, Family, Order, read_order
from providers.simulated.image_reply import Delivery, Terms, draw_up
from providers.simulated.image_upload import BODY_BYTES
from providers.simulated.job_desk import JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.mischief import show_page
from providers.simulated.picture import Picture
from providers.simulated.video_order import VideoOrder, read_video
from providers.simulated.workshop import Options, Workshop

QUEUE_S = 2.0
IMAGE_S = 10.0
"""Pictures take 10 to 30 seconds, films one to five minutes; a demo takes the short ends."""
FILM_S = 60.0
RESULT_LIFETIME_S = 86_400.0
"""Results "have an expiration time", which is not told; a day is taken."""
PROGRESS_STEP = 20
IMAGE_USD = Decimal("0.04")
"""No price is known; one for every picture and one for every second of film are taken."""
FILM_SECOND_USD = Decimal("0.10")
CATALOGUE = ("gpt-image-2",)
FILM_MODELS = ("sora", "veo", "kling", "seedance", "wan", "hailuo", "vidu")
"""How names of models begin that make films, also where they are asked for at the path of pictures."""

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DieyuyunOptions(Options):
    """result_lifetime_s: unscaled seconds from a task's end until its result is cleaned up and its links die.
    default_mode: what a picture without `async` gets. sync_models: models whose syncMode has no tasks; they answer at
    once whatever is asked. error_form: the body of a refused request. charges_unmade: whether tasks that were refused,
    failed or cancelled are charged all the same. film_path: where films are asked for.
    """

    result_lifetime_s: float = RESULT_LIFETIME_S
    default_mode: Literal["async", "sync"] = "async"
    sync_models: tuple[str, ...] = ()
    error_form: Literal["openai", "flat"] = "openai"
    charges_unmade: bool = True
    film_path: str = "/v1/videos/generations"


class Simulator:
    """Dieyuyun, as one account sees it. Its base URL has no path: the adapter adds `/v1/...`."""

    # A 500 means that nothing was accepted, so that kinds which break this promise are not offered.
    offer: ClassVar[Offer] = {**JOB_OFFER, Step.SUBMIT: JOB_OFFER[Step.SUBMIT] | {FaultKind.GARBAGE_BASE64}}
    options_type: ClassVar[type[Options]] = DieyuyunOptions
    base_path: ClassVar[str] = ""
    families: ClassVar[Sequence[tuple[str, Family]]] = tuple(
        (prefix, replace(family, streams=False, reports_usage=False)) for prefix, family in OPENAI_FAMILIES
    )

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, DieyuyunOptions)
        self._options: DieyuyunOptions = workshop.options
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/images", self._options.result_lifetime_s)
        self._counter = ImageDesk(workshop, self._gallery, self)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=self._turn_away,
            unknown=lambda _id: self._error(404, "task not found", "invalid_request_error", "task_not_found"),
            named=lambda entry: f"task_{entry.replace('-', '')[:20]}",
            shown=JOB_OFFER[Step.SUBMIT],
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post("/v1/images/generations", self.submit_generation),
                web.post(self._options.film_path, self.submit_film),
                web.get("/v1/tasks/{id}", self.show_task),
                web.post("/v1/tasks/{id}/cancel", self.cancel_task),
                web.get("/v1/models", self.list_models),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have, a listing of tasks among them."""
        message = f"Invalid URL ({request.method} {request.path})"
        return self._error(404, message, "invalid_request_error", "not_found")

    # --- paid requests

    async def submit_generation(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/images/generations: a task, or pictures at once. Models of films are taken here as well."""
        fields = await self._read(request)
        if isinstance(fields, web.Response):
            return fields
        model = fields.get("model")
        if isinstance(model, str) and model.startswith(FILM_MODELS):
            return await self._submit_film(request, fields)
        wanted = fields.get("async")
        in_turn = self._options.default_mode == "async" if wanted is None else wanted
        if not in_turn or model in self._options.sync_models:
            return await self._counter.generate(request)
        order = read_order(fields, "generation", families=self.families, models=self._options.models)
        if isinstance(order, Invalid):
            return self.complain(order)
        return await self._desk.submit(request, self._write_order(order), describe_submitted)

    async def submit_film(self, request: web.Request) -> web.StreamResponse:
        """POST to the path of films, which the file does not know."""
        fields = await self._read(request)
        return fields if isinstance(fields, web.Response) else await self._submit_film(request, fields)

    async def _submit_film(self, request: web.Request, fields: Body) -> web.StreamResponse:
        if fields.get("async") is False:
            return self.complain(Invalid("Invalid 'async': video generation requires async mode.", "async"))
        order = read_video(fields, families=(), default_model="", models=self._options.models)
        if isinstance(order, Invalid):
            return self.complain(order)
        return await self._desk.submit(request, self._write_film(order), describe_submitted)

    async def _read(self, request: web.Request) -> Body | web.Response:
        """The fields of an admitted request, or its refusal."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return self.complain(fields)
        self._workshop.describe(request, body=fields)
        if not isinstance(fields.get("async"), bool | None):
            return self.complain(Invalid("Invalid type for 'async': expected a boolean.", "async"))
        return fields

    def _write_order(self, order: Order) -> JobOrder:
        pictures = tuple(draw_up(order, index) for index in range(order.n))
        return self._write(order.model, order.prompt, pictures, self._price(order), IMAGE_S)

    def _write_film(self, order: VideoOrder) -> JobOrder:
        caption = f"{order.model}  {order.size}  {order.seconds} s"
        film = Film(order.prompt, order.width, order.height, float(order.seconds), caption=caption)
        price = FILM_SECOND_USD * order.seconds if self._options.price_usd is None else self._options.price_usd
        return self._write(order.model, order.prompt, (film,), price, FILM_S)

    def _write(
        self, model: str, prompt: str, outputs: tuple[Picture | Film, ...], price: Decimal, takes_s: float
    ) -> JobOrder:
        unmade = price if self._options.charges_unmade else NOTHING
        return JobOrder(
            model=model,
            prompt=prompt,
            outputs=outputs,
            price_usd=price,
            takes_s=takes_s if self._options.latency_s is None else self._options.latency_s,
            waits_s=QUEUE_S,
            refusal_usd=unmade,
            failure_usd=unmade,
            cancel_usd=unmade,
        )

    def _price(self, order: Order) -> Decimal:
        return order.n * (IMAGE_USD if self._options.price_usd is None else self._options.price_usd)

    # --- tasks

    async def show_task(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/tasks/{taskId}."""
        denied = self.admit(request)
        return denied or await self._desk.poll(request, request.match_info["id"], self._describe_task)

    async def cancel_task(self, request: web.Request) -> web.Response:
        """POST /v1/tasks/{taskId}/cancel: in queued and processing only. The reply's shape and the status of a refusal
        are not told.
        """
        denied = self.admit(request)
        if denied is not None:
            return denied
        job = self._desk.find(request.match_info["id"])
        if job is None or job.lost:
            return self._error(404, "task not found", "invalid_request_error", "task_not_found")
        if not self._desk.cancel(job):
            message = f"task is {self._name_status(job)} and cannot be cancelled"
            return self._error(409, message, "invalid_request_error", "task_not_cancellable")
        return web.json_response({"id": job.id, "status": "cancelled"})

    def _name_status(self, job: Job) -> str:
        match job.stage:
            case Stage.WAITING:
                return "queued"
            case Stage.RUNNING:
                return "processing"
            case Stage.SUCCEEDED:
                return "expired" if self._options.now_ms() > self._expires_ms(job) else "completed"
            case Stage.REFUSED | Stage.FAILED:
                return "failed"
            case Stage.CANCELLED:
                return "cancelled"
            case _:
                assert_never(job.stage)

    def _expires_ms(self, job: Job) -> int:
        lives_ms = int(self._options.result_lifetime_s * self._options.time_scale * 1000)
        return (job.created_ms if job.ended_ms is None else job.ended_ms) + lives_ms

    def _describe_task(self, job: Job) -> Body:
        # The fields in the order of the printed bodies. Those of a cancelled and of an expired task are not printed and
        # are formed as that of a failed one is.
        status, created, ended = self._name_status(job), iso(job.created_ms), iso(job.ended_ms or job.created_ms)
        told: Body = {"id": job.id, "status": status}
        match status:
            case "queued" | "processing":
                steps = job.progress // PROGRESS_STEP * PROGRESS_STEP if status == "processing" else 0
                now = iso(self._options.now_ms())
                return told | {
                    "progress": steps,
                    "model_code": job.order.model,
                    "created_at": created,
                    "updated_at": now,
                }
            case "completed":
                return told | {
                    "progress": 100,
                    "model_code": job.order.model,
                    "result": describe_result(job),
                    "usage": {"input_tokens": 0, "output_tokens": len(job.links)},
                    "created_at": created,
                    "completed_at": ended,
                }
            case "failed":
                code, message = _FAILURES[job.stage]
                return told | {
                    "error_code": code,
                    "error_message": message,
                    "created_at": created,
                    "failed_at": ended,
                }
            case "expired":
                return told | {"created_at": created, "expired_at": iso(self._expires_ms(job))}
            case _:
                return told | {"created_at": created, f"{status}_at": ended}

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /v1/models, taken to be OpenAI's list."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        models = self._options.models or CATALOGUE
        rows = [{"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "dieyuyun"} for model in models]
        return web.json_response({"object": "list", "data": rows})

    # --- what differs from the other sellers of the dialect: see `image_desk.Seller`

    def admit(self, request: web.Request) -> web.Response | None:
        """Bearer or x-api-key with any key, or with the one key of the options."""
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key.strip() if word.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
        if not key or self._options.api_key not in (None, key):
            return self._error(401, "Invalid API key", "authentication_error", "invalid_api_key")
        return None

    def complain(self, invalid: Invalid) -> web.Response:
        """The vendor's body for a broken rule. It has no member for the field, so the message names it."""
        named = invalid.param is None or f"'{invalid.param}'" in invalid.message
        message = invalid.message if named else f"'{invalid.param}': {invalid.message}"
        return self._error(invalid.status, message, "invalid_request_error", invalid.code)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The vendor's words for an order that is not accepted."""
        return self._turn_away(fault)

    def refuse(self, order: Order) -> web.Response:
        """A prompt that content policy forbids, at a model that answers at once."""
        code, message = _FAILURES[Stage.REFUSED]
        return self._error(400, message, "invalid_request_error", code)

    def quote(self, order: Order) -> Terms:
        """Links, unless base64 is asked for."""
        price = self._price(order)
        return Terms(
            price_usd=price,
            refusal_usd=price if self._options.charges_unmade else NOTHING,
            latency_s=IMAGE_S if self._options.latency_s is None else self._options.latency_s,
            delivery=Delivery.B64 if order.wants_url is False else Delivery.LINK,
            usage=None,
        )

    def _turn_away(self, fault: Fault) -> web.Response:
        match fault.kind:
            case FaultKind.THROTTLED:
                refused = self._error(429, "Too many requests", "rate_limit_error", "rate_limit_exceeded")
            case FaultKind.QUOTA:
                refused = self._error(402, "Insufficient account balance", "billing_error", "insufficient_balance")
            case FaultKind.INVALID_KEY:
                refused = self._error(401, "Invalid API key", "authentication_error", "invalid_api_key")
            case FaultKind.UNSUPPORTED_PARAMETER:
                message = f"Unsupported parameter: '{fault.param}'"
                refused = self._error(400, message, "invalid_request_error", "unsupported_parameter")
            case FaultKind.MODEL_NOT_FOUND:
                refused = self._error(404, "The model does not exist", "invalid_request_error", "model_not_found")
            case FaultKind.BAD_GATEWAY:
                return show_page(502, "502 Bad Gateway")
            case FaultKind.SERVER_ERROR:
                refused = self._error(500, "Internal server error", "server_error", "internal_error")
            case _:
                refused = self._error(503, "Service temporarily unavailable", "server_error", "service_unavailable")
        if fault.retry_after_s is not None:
            # The file knows of no such header; it is sent only when the dial asks for it.
            refused.headers["Retry-After"] = f"{fault.retry_after_s:g}"
        return refused

    def _error(self, status: int, message: str, kind: str, code: str | None) -> web.Response:
        if self._options.error_form == "flat":
            return web.json_response({"error_code": code or kind, "error_message": message}, status=status)
        return web.json_response({"error": {"message": message, "type": kind, "code": code}}, status=status)


_FAILURES: Mapping[Stage, tuple[str, str]] = {
    Stage.FAILED: ("upstream_error", "The upstream provider returned an error"),
    # Only upstream_error is printed; these are words by which the file knows a refusal.
    Stage.REFUSED: ("content_policy_violation", "The request was rejected by content moderation"),
}


def describe_submitted(job: Job) -> Body:
    """The reply to a submit that makes a task."""
    return {
        "id": job.id,
        "status": "queued",
        "progress": 0,
        "created_at": iso(job.created_ms),
        "request_id": f"req_{hashlib.sha256(job.entry.encode()).hexdigest()[:12]}",
    }


def describe_result(job: Job) -> Body:
    """The `result` of a completed task: links, with the revised prompt where they show pictures."""
    items: list[Body] = []
    for link, output in zip(job.links, job.order.outputs, strict=True):
        revised = {} if isinstance(output, Film) else {"revised_prompt": job.order.prompt}
        items.append({"url": job.origin + link, **revised})
    return {"created": (job.ended_ms or job.created_ms) // 1000, "data": items}


def iso(instant_ms: int) -> str:
    """An instant as the vendor writes it: UTC, whole seconds, with a Z."""
    return datetime.fromtimestamp(instant_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
