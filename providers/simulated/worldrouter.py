"""WorldRouter, server side: an aggregator whose tasks for pictures end in stored links, one flat set of fields for all.

What sets it apart: each model honours a part of the fields and passes over the rest without a word, so that a Gemini
model makes its own size whatever was asked for; the count is capped just as silently; tasks cannot be listed. Beside
the tasks there is the synchronous path of pictures, inline. The synchronous path of Gemini is not here: the provider
file does not tell where it lies. It shares no code with the adapter.
Source: the provider file of WorldRouter; for the prices of models that of OpenAI's images and that of Gemini's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, assert_never

from aiohttp import web

from providers.simulated.bill import NOTHING
from providers.simulated.body_fields import FieldError, Invalid, read_object, read_text
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.gallery import Gallery
from providers.simulated.image_desk import ImageDesk
from providers.simulated.image_order import OPENAI_FAMILIES, Family, Order, read_order
from providers.simulated.image_reply import Delivery, Terms, draw_up
from providers.simulated.image_upload import BODY_BYTES
from providers.simulated.image_usage import Usage, count_usage
from providers.simulated.job_desk import ENDED, JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.mischief import show_page
from providers.simulated.picture import Picture
from providers.simulated.workshop import Options, Workshop

TASKS = "/v1/images/generation_tasks"
QUEUE_S = 1.0
IMAGE_S = 10.0
"""Pictures take 10 to 120 seconds; a demo takes the short end."""
KEPT_S = 86_400.0
"""How long tasks and their links are kept is not told; a day is taken."""
N_MAX = 4
"""The cap of `n` is not told either."""
TASK_MODELS = ("gpt-image-2", "gemini-2.5-flash-image", "gemini-3-pro-image-preview", "gemini-3.1-flash-image-preview")
SYNC_MODELS = ("gpt-image-2", "grok-imagine-image", "grok-imagine-image-quality")
APPLIED = ("model", "prompt", "n", "size", "quality", "background", "moderation", "output_compression", "output_format")
"""What models that are not Gemini's honour, but for `user` and `style`, which show in no picture."""
GEMINI_SIZE = (1184, 864)
"""The size that a Gemini model decides for: none that anybody asks for."""

# Output tokens of one picture, and US dollars per million of them.
_GEMINI: Mapping[str, tuple[int, Decimal]] = {
    "gemini-3-pro": (1120, Decimal(120)),
    "gemini-3.1-flash": (1120, Decimal(60)),
    "gemini-": (1290, Decimal(30)),
}
# The printed task has 397 output tokens for a low square picture, where OpenAI's list comes to 200.
_GPT_TOKENS = (397, 200)
_GPT_USD = Decimal(30)
_TEXT_USD = Decimal(5)
_MILLION = Decimal(1_000_000)

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldRouterOptions(Options):
    """kept_s: unscaled seconds from a task's end until it is unknown and its links are dead. charges_unmade: whether
    tasks that were refused or failed are charged all the same, which the file does not know. user_budget_usd: what the
    remembered tasks of one `user` may cost together before that user is refused, None for no bound.
    """

    kept_s: float = KEPT_S
    charges_unmade: bool = True
    user_budget_usd: Decimal | None = None


class Simulator:
    """WorldRouter, as one account sees it. Its base URL has no path: the adapter adds `/v1/...`."""

    # A 500 means that nothing was accepted, so that kinds which break this promise are not offered.
    offer: ClassVar[Offer] = {**JOB_OFFER, Step.SUBMIT: JOB_OFFER[Step.SUBMIT] | {FaultKind.GARBAGE_BASE64}}
    options_type: ClassVar[type[Options]] = WorldRouterOptions
    base_path: ClassVar[str] = ""
    families: ClassVar[Sequence[tuple[str, Family]]] = tuple(
        (prefix, replace(family, streams=False)) for prefix, family in OPENAI_FAMILIES
    )

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, WorldRouterOptions)
        self._options: WorldRouterOptions = workshop.options
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/stored", self._options.kept_s)
        self._counter = ImageDesk(workshop, self._gallery, self)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=turn_away,
            unknown=lambda task_id: error(404, f"Task {task_id} not found.", code="task_not_found"),
            named=lambda entry: f"imgtask_{entry.replace('-', '')[:24]}",
            shown=JOB_OFFER[Step.SUBMIT],
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post(TASKS, self.create_task),
                web.get(TASKS, self.refuse_listing),
                web.get(TASKS + "/{id}", self.show_task),
                web.post("/v1/images/generations", self.generate),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have, a cancel among them."""
        return error(404, f"Invalid URL ({request.method} {request.path})", code="not_found")

    # --- tasks

    async def create_task(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/images/generation_tasks."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return self.complain(fields)
        self._workshop.describe(request, body=fields)
        order = self._read(fields)
        if isinstance(order, Invalid):
            return self.complain(order)
        user, budget = order.asked["user"], self._options.user_budget_usd
        if user is not None and budget is not None and self._spent(user) + order.price_usd > budget:
            return error(402, "Budget has been exceeded for this end user.", "budget_exceeded", "user", "user_budget")
        return await self._desk.submit(request, order, describe_created)

    async def show_task(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/images/generation_tasks/{task_id}."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        job, kept_ms = self._desk.find(request.match_info["id"]), self._options.kept_s * self._options.time_scale * 1000
        if job is not None and job.stage in ENDED and self._options.now_ms() > (job.ended_ms or 0) + kept_ms:
            self._desk.forget(job)
        return await self._desk.poll(request, request.match_info["id"], describe_task)

    async def refuse_listing(self, request: web.Request) -> web.Response:
        """GET /v1/images/generation_tasks: listing is not supported."""
        denied = self.admit(request)
        refused = error(405, "Listing all image tasks is not supported.", code="method_not_allowed")
        refused.headers["Allow"] = "POST"
        return denied or refused

    def _spent(self, user: str) -> Decimal:
        return sum((job.order.price_usd for job in self._desk.jobs if job.order.asked["user"] == user), NOTHING)

    def _read(self, fields: Body) -> JobOrder | Invalid:
        if fields.get("response_format") not in (None, "url"):
            return Invalid("Invalid 'response_format': async image tasks only support 'url'.", "response_format")
        try:
            model, prompt = read_text(fields, "model"), read_text(fields, "prompt")
        except FieldError as found:
            return found.invalid
        if model not in (self._options.models or TASK_MODELS):
            message = f"Model '{model}' is not supported for async image tasks."
            return Invalid(message, "model", "model_not_supported")
        if model.startswith("gemini-"):
            width, height = GEMINI_SIZE
            picture = Picture(prompt, width, height, caption=f"{model}  {width}x{height}")
            return self._write(fields, (picture,), *self._price_gemini(model, prompt))
        applied = {name: fields.get(name) for name in APPLIED}
        if isinstance(applied["n"], int) and applied["n"] > N_MAX:
            applied["n"] = N_MAX
        if applied["output_format"] == "jpg":
            applied["output_format"] = "jpeg"
        order = read_order(applied, "generation", families=self.families, models=None)
        if isinstance(order, Invalid):
            return order
        drawn = tuple(draw_up(order, index) for index in range(order.n))
        return self._write(fields, drawn, *self._price(order))

    def _write(self, fields: Body, outputs: tuple[Picture, ...], price: Decimal, usage: Usage) -> JobOrder:
        unmade = price if self._options.charges_unmade else NOTHING
        return JobOrder(
            model=fields["model"],
            prompt=fields["prompt"],
            outputs=outputs,
            price_usd=price,
            takes_s=IMAGE_S if self._options.latency_s is None else self._options.latency_s,
            waits_s=QUEUE_S,
            refusal_usd=unmade,
            failure_usd=unmade,
            asked={"user": fields.get("user"), "usage": usage},
        )

    def _price(self, order: Order) -> tuple[Decimal, Usage]:
        """OpenAI's price of a token, for as many tokens as the vendor counts. Models of others are priced alike."""
        counted, (here, there) = count_usage(order), _GPT_TOKENS
        usage = Usage(counted.text_in, 0, counted.image_out * here // there)
        price = (usage.text_in * _TEXT_USD + usage.image_out * _GPT_USD) / _MILLION
        return (price if self._options.price_usd is None else self._options.price_usd * order.n), usage

    def _price_gemini(self, model: str, prompt: str) -> tuple[Decimal, Usage]:
        tokens, usd = next(row for prefix, row in _GEMINI.items() if model.startswith(prefix))
        price = tokens * usd / _MILLION if self._options.price_usd is None else self._options.price_usd
        return price, Usage((len(prompt) + 3) // 4, 0, tokens)

    # --- the synchronous path; what differs from the other sellers of its dialect: see `image_desk.Seller`

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/images/generations: inline, and cut by a proxy when it takes too long (the dial's 504)."""
        fields = await read_object(request)
        known = self._options.models or SYNC_MODELS
        if isinstance(fields, dict) and isinstance(fields.get("model"), str) and fields["model"] not in known:
            denied = self.admit(request)
            return denied or error(404, f"The model '{fields['model']}' does not exist.", code="model_not_found")
        return await self._counter.generate(request)

    def admit(self, request: web.Request) -> web.Response | None:
        """Bearer with any key, or with the one key of the options."""
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        expected = self._options.api_key
        if word.lower() != "bearer" or not key.strip() or (expected is not None and key.strip() != expected):
            return error(401, "Invalid API key.", "authentication_error", code="invalid_api_key")
        return None

    def complain(self, invalid: Invalid) -> web.Response:
        """The OpenAI error body for a broken rule."""
        return error(invalid.status, invalid.message, param=invalid.param, code=invalid.code)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The vendor's words for an order that is not accepted."""
        return turn_away(fault)

    def refuse(self, order: Order) -> web.Response:
        """A prompt that content policy forbids, on the synchronous path."""
        return error(400, _FAILURES[Stage.REFUSED]["message"], code=_FAILURES[Stage.REFUSED]["code"])

    def quote(self, order: Order) -> Terms:
        """Always inline."""
        price, usage = self._price(order)
        return Terms(
            price_usd=price,
            refusal_usd=price if self._options.charges_unmade else NOTHING,
            latency_s=IMAGE_S if self._options.latency_s is None else self._options.latency_s,
            delivery=Delivery.B64,
            usage=usage if order.family.reports_usage else None,
        )


# The members of a failed task's error are not told; those of OpenAI's are taken.
_FAILURES: Mapping[Stage, Mapping[str, str]] = {
    Stage.FAILED: {"message": "The upstream provider failed.", "type": "server_error", "code": "upstream_error"},
    Stage.REFUSED: {
        "message": "Your request was rejected by the safety system.",
        "type": "image_generation_user_error",
        "code": "moderation_blocked",
    },
}


def describe_created(job: Job) -> Body:
    """The reply to a create."""
    return _describe(job, "queued")


def describe_task(job: Job) -> Body:
    """A task as a poll shows it: no progress, links and usage once it is completed, an error if it failed."""
    told = _describe(job, name_status(job.stage))
    match job.stage:
        case Stage.SUCCEEDED:
            usage: Usage = job.order.asked["usage"]
            return told | {
                "data": [{"url": job.origin + link} for link in job.links],
                "usage": {
                    "input_tokens": usage.text_in,
                    "output_tokens": usage.image_out,
                    "total_tokens": usage.text_in + usage.image_out,
                },
            }
        case Stage.REFUSED | Stage.FAILED:
            return told | {"error": dict(_FAILURES[job.stage])}
        case _:
            return told


def name_status(stage: Stage) -> str:
    """The vendor's word for where a task is; nobody can cancel one."""
    match stage:
        case Stage.WAITING:
            return "queued"
        case Stage.RUNNING:
            return "in_progress"
        case Stage.SUCCEEDED:
            return "completed"
        case Stage.REFUSED | Stage.FAILED | Stage.CANCELLED:
            return "failed"
        case _:
            assert_never(stage)


def turn_away(fault: Fault) -> web.Response:
    """The vendor's words for a request that is not served. None of these is charged."""
    match fault.kind:
        case FaultKind.THROTTLED:
            refused = error(429, "Rate limit exceeded.", "rate_limit_error", code="rate_limit_exceeded")
        case FaultKind.QUOTA:
            refused = error(402, "Budget has been exceeded.", "budget_exceeded", code="insufficient_quota")
        case FaultKind.INVALID_KEY:
            refused = error(401, "Invalid API key.", "authentication_error", code="invalid_api_key")
        case FaultKind.UNSUPPORTED_PARAMETER:
            refused = error(400, f"Invalid '{fault.param}'.", param=fault.param, code="invalid_value")
        case FaultKind.MODEL_NOT_FOUND:
            refused = error(404, "The model does not exist.", param="model", code="model_not_found")
        case FaultKind.BAD_GATEWAY:
            return show_page(502, "502 Bad Gateway")
        case FaultKind.SERVER_ERROR:
            refused = error(500, "Internal server error.", "server_error", code="internal_error")
        case _:
            refused = error(503, "The model is overloaded.", "server_error", code="service_unavailable")
    if fault.retry_after_s is not None:
        # The file knows of no such header; it is sent only when the dial asks for it.
        refused.headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return refused


def error(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> web.Response:
    """The OpenAI error body."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.json_response(body, status=status)


def _describe(job: Job, status: str) -> Body:
    # The order of the printed bodies. `created` and `created_at` are one instant here; the printed pair is not.
    return {
        "id": job.id,
        "object": "image.generation_task",
        "created": job.created_ms // 1000,
        "task_id": job.id,
        "status": status,
        "model": job.order.model,
        "created_at": datetime.fromtimestamp(job.created_ms // 1000, UTC).isoformat(),
    }
