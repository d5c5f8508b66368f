"""Pixapi, server side: an aggregator whose path decides between a task that is polled and an answer at once.

What sets it apart: three asynchronous paths with one task body, films without a synchronous one, credits taken after
success and told in the task, and errors whose code is a number in one of its documents and a word in the others. It
shares no code with the adapter.
Source: the provider file of Pixapi.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, assert_never

from aiohttp import web

from providers.simulated.body_fields import read_object
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.film import Film
from providers.simulated.gallery import Gallery
from providers.simulated.image_desk import ImageDesk
from providers.simulated.image_order import OPENAI_FAMILIES, Endpoint, Family, Invalid, Order, read_order
from providers.simulated.image_reply import Delivery, Terms, draw_up
from providers.simulated.image_upload import BODY_BYTES, read_upload
from providers.simulated.job_desk import JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.mischief import show_page
from providers.simulated.workshop import Options, Workshop

QUEUE_S = 1.0
IMAGE_S = 10.0
"""Pictures take 10 to 60 seconds, films one to five minutes; a demo takes the short ends."""
FILM_S = 60.0
LINK_LIFETIME_S = 3600.0
"""The file says "unknown"; an hour is taken."""
CREDIT_USD = Decimal("0.01")
IMAGE_CREDITS: Mapping[str, Decimal] = {"low": Decimal(1), "medium": Decimal(4), "high": Decimal(14)}
"""One picture of gpt-image-2 by its quality, at 1K; for larger ones and for other models nothing is known."""
VEO_FAST_CREDITS = Decimal(2)
"""One second of a fast veo at 720p."""
UNLISTED_CREDITS = Decimal("1.5")
"""One picture or film of any other model, as the printed task of sora-2."""

SIDE_MAX = 4096

_WORDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "unauthorized",
    402: "insufficient_credits",
    404: "model_not_found",
    413: "invalid_request_error",
    422: "prompt_rejected",
    429: "rate_limited",
    500: "internal_error",
    503: "model_unavailable",
}

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixapiOptions(Options):
    """error_code: whether `error.code` is the HTTP status, or a word beside a request id. strict: refuse `async` as a
    query or field where the document says not to send it; the vendor's own behaviour is unknown.
    """

    error_code: Literal["number", "word"] = "number"
    strict: bool = False


class Simulator:
    """Pixapi, as one account sees it. Its base URL has no path: the adapter adds `/v1/...`."""

    offer: ClassVar[Offer] = {
        **JOB_OFFER,
        Step.SUBMIT: JOB_OFFER[Step.SUBMIT]
        # A 500 in its own words is free there, so no order is taken and answered so.
        | {FaultKind.MODERATION_BLOCKED, FaultKind.GARBAGE_BASE64},
    }
    options_type: ClassVar[type[Options]] = PixapiOptions
    base_path: ClassVar[str] = ""
    families: ClassVar[Sequence[tuple[str, Family]]] = OPENAI_FAMILIES

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, PixapiOptions)
        self._options: PixapiOptions = workshop.options
        self._workshop = workshop
        self._errors = 0
        self._gallery = Gallery(workshop, "/cdn", LINK_LIFETIME_S)
        self._counter = ImageDesk(workshop, self._gallery, self)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=self._turn_away,
            unknown=lambda _id: self._error(404, "task not found", "task_not_found"),
            named=name_task,
            shown=self.offer[Step.SUBMIT] - {FaultKind.GARBAGE_BASE64},
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post("/v1/async/images/generations", self.submit_generation),
                web.post("/v1/async/images/edits", self.submit_edit),
                web.post("/v1/async/videos/generations", self.submit_film),
                web.post("/v1/images/generations", self._counter.generate),
                web.post("/v1/images/edits", self._counter.edit),
                web.get("/v1/tasks/{id}", self.show_task),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have, the synchronous one for films among them."""
        return self._error(404, f"no such endpoint: {request.method} {request.path}", "not_found")

    # --- tasks

    async def submit_generation(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/async/images/generations."""
        return await self._submit_images(request, "generation")

    async def submit_edit(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/async/images/edits: a form or JSON, which the file leaves open."""
        return await self._submit_images(request, "edit")

    async def submit_film(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/async/videos/generations, from text or from a picture in `input_image`."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return self.complain(fields)
        self._workshop.describe(request, body=fields)
        order = self._flagged(request, fields) or self._read_film(fields)
        if isinstance(order, web.Response):
            return order
        return await self._desk.submit(request, order, describe_submitted)

    async def show_task(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/tasks/{id}."""
        denied = self.admit(request)
        return denied or await self._desk.poll(request, request.match_info["id"], self._describe_task)

    async def _submit_images(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        denied = self.admit(request)
        if denied is not None:
            return denied
        upload = await read_upload(request)
        if isinstance(upload, Invalid):
            return self.complain(upload)
        self._workshop.describe(request, body=upload.fields)
        flagged = self._flagged(request, upload.fields)
        if flagged is not None:
            return flagged
        order = read_order(
            upload.fields,
            endpoint,
            families=self.families,
            models=self._options.models,
            inputs=upload.inputs,
            mask=upload.mask,
            mask_fits=upload.mask_fits,
            markup=upload.markup,
        )
        if isinstance(order, Invalid):
            return self.complain(order)
        return await self._desk.submit(request, self._write_order(order), describe_submitted)

    def _flagged(self, request: web.Request, fields: Mapping[str, Any]) -> web.Response | None:
        if self._options.strict and ("async" in request.query or "async" in fields):
            return self._error(400, "async is not a parameter; the path chooses the mode")
        return None

    def _write_order(self, order: Order) -> JobOrder:
        pictures = tuple(draw_up(order, index) for index in range(order.n))
        return JobOrder(
            model=order.model,
            prompt=order.prompt,
            outputs=pictures,
            price_usd=self._price_images(order),
            takes_s=IMAGE_S if self._options.latency_s is None else self._options.latency_s,
            waits_s=QUEUE_S,
            pays_on_success=True,
        )

    def _read_film(self, fields: Mapping[str, Any]) -> JobOrder | web.Response:
        for name in ("model", "prompt"):
            if not isinstance(fields.get(name), str) or not fields[name]:
                return self._error(400, f"{name} is required")
        model, prompt = fields["model"], fields["prompt"]
        if self._options.models is not None and model not in self._options.models:
            return self._error(404, f"model {model} not found")
        size = fields.get("size", "1280x720")
        found = re.fullmatch(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", size) if isinstance(size, str) else None
        if found is None or int(found[1]) % 2 or int(found[2]) % 2 or max(int(found[1]), int(found[2])) > SIDE_MAX:
            return self._error(400, f"size must be WIDTHxHEIGHT with even numbers up to {SIDE_MAX}")
        duration = fields.get("duration", 5)
        if isinstance(duration, bool) or not isinstance(duration, int | float) or not 1 <= duration <= 60:
            return self._error(400, "duration must be 1 to 60 seconds")
        if not isinstance(fields.get("input_image", ""), str):
            return self._error(400, "input_image must be a URL or base64")
        width, height, caption = int(found[1]), int(found[2]), f"{model}  {size}  {duration:g} s"
        return JobOrder(
            model=model,
            prompt=prompt,
            outputs=(Film(prompt, width, height, float(duration), caption=caption),),
            price_usd=self._price_film(model, duration),
            takes_s=FILM_S if self._options.latency_s is None else self._options.latency_s,
            waits_s=QUEUE_S,
            pays_on_success=True,
        )

    def _price_film(self, model: str, duration: float) -> Decimal:
        if self._options.price_usd is not None:
            return self._options.price_usd
        fast = "veo" in model and "fast" in model
        return CREDIT_USD * (VEO_FAST_CREDITS * Decimal(str(duration)) if fast else UNLISTED_CREDITS)

    def _price_images(self, order: Order) -> Decimal:
        if self._options.price_usd is not None:
            return self._options.price_usd * order.n
        listed = order.model.startswith("gpt-image-2")
        each = IMAGE_CREDITS.get(order.quality, IMAGE_CREDITS["high"]) if listed else UNLISTED_CREDITS
        return CREDIT_USD * each * order.n

    # --- what differs from the other sellers of the dialect: see `image_desk.Seller`

    def admit(self, request: web.Request) -> web.Response | None:
        """Bearer with any key, or with the one key of the options."""
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        expected = self._options.api_key
        if word.lower() != "bearer" or not key.strip() or (expected is not None and key.strip() != expected):
            return self._error(401, "invalid api key")
        return None

    def complain(self, invalid: Invalid) -> web.Response:
        """The vendor's body for a broken rule."""
        return self._error(invalid.status, invalid.message)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The vendor's words for an order that is not accepted."""
        return self._turn_away(fault)

    def refuse(self, order: Order) -> web.Response:
        """A refused prompt, free of charge."""
        return self._error(422, "prompt rejected")

    def quote(self, order: Order) -> Terms:
        """Links, unless base64 is asked for; a refusal is free."""
        return Terms(
            price_usd=self._price_images(order),
            refusal_usd=Decimal(0),
            latency_s=IMAGE_S if self._options.latency_s is None else self._options.latency_s,
            delivery=Delivery.B64 if order.wants_url is False else Delivery.LINK,
            usage=None,
        )

    def _turn_away(self, fault: Fault) -> web.Response:
        match fault.kind:
            case FaultKind.THROTTLED:
                refused = self._error(429, "rate limit exceeded")
            case FaultKind.QUOTA:
                refused = self._error(402, "insufficient credits")
            case FaultKind.INVALID_KEY:
                refused = self._error(401, "invalid api key")
            case FaultKind.UNSUPPORTED_PARAMETER:
                refused = self._error(400, f"unsupported parameter: {fault.param}")
            case FaultKind.MODEL_NOT_FOUND:
                refused = self._error(404, "model not found")
            case FaultKind.MODERATION_BLOCKED:
                refused = self._error(422, "prompt rejected")
            case FaultKind.BAD_GATEWAY:
                return show_page(502, "502 Bad Gateway")
            case FaultKind.SERVER_ERROR:
                refused = self._error(500, "internal error")
            case _:
                refused = self._error(503, "model temporarily unavailable")
        if fault.retry_after_s is not None:
            # The file knows of no such header; it is sent only when the dial asks for it.
            refused.headers["Retry-After"] = f"{fault.retry_after_s:g}"
        return refused

    def _describe_task(self, job: Job) -> Body:
        # The fields in the order of the printed bodies; a failed task shows no model there.
        told: Body = {"id": job.id, "status": name_status(job.stage)}
        match job.stage:
            case Stage.WAITING:
                return told | {"progress": 0, "model": job.order.model}
            case Stage.RUNNING:
                return told | {"progress": job.progress, "model": job.order.model}
            case Stage.SUCCEEDED:
                return told | {
                    "credits_cost": float(job.order.price_usd / CREDIT_USD),
                    "model": job.order.model,
                    "progress": 100,
                    "result": {
                        "type": "video" if isinstance(job.order.outputs[0], Film) else "image",
                        "data": [{"url": job.origin + link} for link in job.links],
                    },
                    "created": job.created_ms // 1000,
                    "completed": (job.created_ms if job.ended_ms is None else job.ended_ms) // 1000,
                }
            case Stage.REFUSED:
                return told | {"progress": 100, "error": self._write_error(422, "prompt rejected")}
            case Stage.FAILED | Stage.CANCELLED:
                return told | {"progress": 100, "error": self._write_error(500, "generation failed")}
            case _:
                assert_never(job.stage)

    def _error(self, status: int, message: str, word: str | None = None) -> web.Response:
        return web.json_response({"error": self._write_error(status, message, word)}, status=status)

    def _write_error(self, status: int, message: str, word: str | None = None) -> Body:
        word = _WORDS[status] if word is None else word
        if self._options.error_code == "number":
            return {"code": status, "message": message, "type": word}
        self._errors += 1
        return {"code": word, "message": message, "request_id": f"req_{self._errors}"}


def name_task(entry: str) -> str:
    """A task's id: `task_` and 26 characters of Crockford's base 32, made from a UUID of the bill."""
    number, letters = int(entry.replace("-", ""), 16), ""
    for _ in range(26):
        number, digit = divmod(number, 32)
        letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[digit] + letters
    return f"task_{letters}"


def name_status(stage: Stage) -> str:
    """The vendor's word for where a task is; it has no word for a cancelled one."""
    match stage:
        case Stage.WAITING:
            return "submitted"
        case Stage.RUNNING:
            return "processing"
        case Stage.SUCCEEDED:
            return "completed"
        case Stage.REFUSED | Stage.FAILED | Stage.CANCELLED:
            return "failed"
        case _:
            assert_never(stage)


def describe_submitted(job: Job) -> Body:
    """The reply to a submit: `created_at` here, `created` in the task."""
    return {
        "status": "submitted",
        "id": job.id,
        "progress": 0,
        "created_at": job.created_ms // 1000,
        "model": job.order.model,
    }
