"""OpenAI, server side: images and chat, synchronous or streamed, videos as jobs, models, keys, errors, rate headers.

Written from the provider files alone; it shares no code with the adapters that it is used against. With `aggregator` it
is any other server of the same dialects: every model name is known and `response_format` decides between inline and
link. OpenAI itself closed its videos in September 2026; they are served here because resellers still speak their form.
Sources: the provider files of the OpenAI images, chat and videos APIs, and that of SDK compatibility.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from aiohttp import web

from providers.simulated.body_fields import Invalid
from providers.simulated.chat_desk import CHAT_OFFER, ChatDesk
from providers.simulated.chat_order import ChatOrder
from providers.simulated.chat_reply import CHAT_PRICES, ChatTerms, find_prices
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.gallery import Gallery
from providers.simulated.image_desk import IMAGE_OFFER, ImageDesk
from providers.simulated.image_order import OPENAI_FAMILIES, Family, Order
from providers.simulated.image_reply import Delivery, Terms
from providers.simulated.image_upload import BODY_BYTES
from providers.simulated.image_usage import count_usage, price_order
from providers.simulated.job_desk import Body, Job, Stage
from providers.simulated.mischief import show_page
from providers.simulated.video_desk import VIDEO_OFFER, VideoDesk, VideoTerms, describe_failure, ordered
from providers.simulated.video_order import SORA_FAMILIES, VideoFamily, VideoOrder
from providers.simulated.workshop import ARRIVED_S, CONTROL_PATH, NUMBER, Options, Workshop

LATENCY_S = 8.0
"""Of a picture; typical are 8 to 60 seconds; a demo takes the short end."""
FIRST_TOKEN_S = 0.5
TOKEN_S = 0.02
"""To the first piece of an answer 0.3 to 5 seconds; no file says how fast the others follow."""
VIDEO_WAITS_S = 5.0
VIDEO_TAKES_S = 60.0
"""Typical are 1 to 5 minutes."""
LINK_LIFETIME_S = 3600.0
"""Of a link to a picture, and of a finished video."""
UNLISTED_PRICE_USD = Decimal("0.04")
"""One picture of a model that OpenAI's price list does not have."""
REQUESTS_PER_MINUTE = 5000
"""What the rate headers claim. The claim is not enforced; `throttled` on the dial is."""

CURRENT_MODELS = (
    "gpt-image-2.6-sunburst",
    "gpt-image-2.6-flare",
    "gpt-image-2.5-sunburst",
    "gpt-image-2.5-flare",
    "gpt-image-2",
    "gpt-image-1.5",
    "gpt-image-1-mini",
    "chatgpt-image-latest",
    *(model for model, _ in CHAT_PRICES),
    *(model for model, _ in SORA_FAMILIES),
)

VIDEO_PRICES_USD: Sequence[tuple[str, int, Decimal]] = (
    ("sora-2-pro", 1792, Decimal("0.50")),
    ("sora-2-pro", 1280, Decimal("0.30")),
)
"""Of one second, by the beginning of the model's name and by the longer side in pixels from which it holds."""
VIDEO_PRICE_USD = Decimal("0.10")
"""Of one second of sora-2, and of a model that the list does not have."""

VIDEO_WORDS = {
    Stage.WAITING: "queued",
    Stage.RUNNING: "in_progress",
    Stage.SUCCEEDED: "completed",
    Stage.REFUSED: "failed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIOptions(Options):
    """aggregator: serve links on request for every model, as resellers of the dialect do."""

    aggregator: bool = False


class Simulator:
    """OpenAI, as one account sees it. `models` of the options are listed and enforced; without them any name is
    taken.
    """

    offer: ClassVar[Offer] = {
        Step.SUBMIT: IMAGE_OFFER[Step.SUBMIT] | CHAT_OFFER[Step.SUBMIT] | VIDEO_OFFER[Step.SUBMIT],
        Step.POLL: VIDEO_OFFER[Step.POLL],
        Step.RESULT: VIDEO_OFFER[Step.RESULT],
    }
    options_type: ClassVar[type[Options]] = OpenAIOptions
    base_path: ClassVar[str] = "/v1"
    families: ClassVar[Sequence[tuple[str, Family]]] = OPENAI_FAMILIES
    video_families: ClassVar[Sequence[tuple[str, VideoFamily]]] = SORA_FAMILIES
    default_video_model: ClassVar[str] = "sora-2"
    video_prefix: ClassVar[str] = "video_"
    poll_after_s: ClassVar[float | None] = 5.0

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/pictures", LINK_LIFETIME_S)
        self._images = ImageDesk(workshop, self._gallery, self)
        self._chat = ChatDesk(workshop, self)
        self._videos = VideoDesk(workshop, self._gallery, self, lifetime_s=LINK_LIFETIME_S)

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post("/v1/images/generations", self._images.generate),
                web.post("/v1/images/edits", self._images.edit),
                web.post("/v1/images/variations", self.refuse_variation),
                web.post("/v1/chat/completions", self._chat.complete),
                *self._videos.routes("/v1/videos"),
                *self._videos.further_routes("/v1/videos"),
                web.get("/v1/models", self.list_models),
                web.get("/v1/models/{model:.+}", self.show_model),
                self._gallery.route(),
            ]
        )
        application.on_response_prepare.append(self._add_headers)
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have."""
        return error(404, f"Invalid URL ({request.method} {request.path})", "invalid_request_error")

    # --- the routes that cost nothing

    async def refuse_variation(self, request: web.Request) -> web.Response:
        """Variations were dall-e-2's alone and went with it."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        return self.complain(Invalid("The model 'dall-e-2' has been retired.", "model", "model_not_found", 404))

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        models = [_describe_model(model) for model in self._workshop.options.models or CURRENT_MODELS]
        return web.json_response({"object": "list", "data": models})

    async def show_model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{id}; an id may hold slashes."""
        model, known = request.match_info["model"], self._workshop.options.models or CURRENT_MODELS
        denied = self.admit(request)
        if denied is not None:
            return denied
        if model not in known:
            return self.complain(Invalid(f"The model '{model}' does not exist.", "model", "model_not_found", 404))
        return web.json_response(_describe_model(model))

    # --- what differs from the other sellers of the dialect: see `image_desk.Seller`

    def admit(self, request: web.Request) -> web.Response | None:
        """Bearer with any key, or with the one key of the options."""
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        if word.lower() != "bearer" or not key.strip():
            return error(401, "You didn't provide an API key.", "invalid_request_error")
        expected = self._workshop.options.api_key
        if expected is not None and key.strip() != expected:
            return error(401, "Incorrect API key provided.", "invalid_request_error", None, "invalid_api_key")
        return None

    def complain(self, invalid: Invalid) -> web.Response:
        """The dialect's error body for a broken rule."""
        return error(invalid.status, invalid.message, "invalid_request_error", invalid.param, invalid.code)

    def admit_video(self, request: web.Request) -> web.Response | None:
        """As for every other route."""
        return self.admit(request)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The vendor's words for pictures that are not made."""
        return self.decline(fault, order.model)

    def decline(self, fault: Fault, model: str) -> web.Response:
        """The vendor's words for an order that is not accepted. model: "" where it is not at hand."""
        match fault.kind:
            case FaultKind.THROTTLED:
                wait_s = 1.0 if fault.retry_after_s is None else fault.retry_after_s
                refused = error(
                    429, f"Rate limit reached for {model or 'videos'}.", "requests", None, "rate_limit_exceeded"
                )
                return retry_after(refused, wait_s)
            case FaultKind.QUOTA:
                message = "You exceeded your current quota, please check your plan and billing details."
                return error(429, message, "insufficient_quota", None, "insufficient_quota")
            case FaultKind.INVALID_KEY:
                return error(401, "Incorrect API key provided.", "invalid_request_error", None, "invalid_api_key")
            case FaultKind.UNSUPPORTED_PARAMETER:
                message = f"Unsupported value: '{fault.param}' is not supported with this model."
                return error(400, message, "invalid_request_error", fault.param, "invalid_value")
            case FaultKind.MODEL_NOT_FOUND:
                message = f"The model '{model}' does not exist or you do not have access to it."
                return error(404, message, "invalid_request_error", "model", "model_not_found")
            case FaultKind.MODERATION_BLOCKED:
                message = "Your request was rejected by the safety system."
                return error(400, message, "invalid_request_error", None, "moderation_blocked")
            case FaultKind.BAD_GATEWAY:
                return show_page(502, "502 Bad Gateway")
            case FaultKind.SERVER_ERROR:
                message = "The server had an error while processing your request."
                return error(500, message, "server_error", None, "server_error")
            case _:
                refused = error(503, "The engine is currently overloaded.", "server_error", None, "overloaded")
                return refused if fault.retry_after_s is None else retry_after(refused, fault.retry_after_s)

    def refuse(self, order: Order) -> web.Response:
        """A refused prompt is a 400 and, as far as known, costs nothing."""
        message = "Your request was rejected by the safety system. safety_violations=[violence]"
        return error(400, message, "image_generation_user_error", None, "moderation_blocked")

    def quote(self, order: Order) -> Terms:
        """List prices by tokens; links only for dall-e, or from an aggregator."""
        options = self._workshop.options
        aggregator = isinstance(options, OpenAIOptions) and options.aggregator
        if order.model.startswith("dall-e"):
            linked = order.wants_url is not False
        else:
            linked = aggregator and bool(order.wants_url)
        listed = price_order(order)
        price = UNLISTED_PRICE_USD * order.n if listed is None else listed
        return Terms(
            price_usd=price if options.price_usd is None else options.price_usd * order.n,
            refusal_usd=Decimal(0),
            latency_s=LATENCY_S if options.latency_s is None else options.latency_s,
            delivery=Delivery.LINK if linked else Delivery.B64,
            usage=count_usage(order) if order.family.reports_usage else None,
        )

    def quote_chat(self, order: ChatOrder) -> ChatTerms:
        """Token prices; a client that leaves ends the work and pays for what was made until then."""
        options = self._workshop.options
        return ChatTerms(
            prices=find_prices(order.model),
            first_token_s=FIRST_TOKEN_S if options.latency_s is None else options.latency_s,
            token_s=TOKEN_S if options.latency_s is None else 0.0,
            finishes_alone=False,
            flat_usd=None if options.price_usd is None else options.price_usd * order.n,
        )

    def quote_video(self, order: VideoOrder) -> VideoTerms:
        """Prices by the second; as far as known neither a failure nor a refusal is charged."""
        options, long = self._workshop.options, max(order.width, order.height)
        listed = (usd for prefix, side, usd in VIDEO_PRICES_USD if order.model.startswith(prefix) and long >= side)
        price_usd = next(listed, VIDEO_PRICE_USD) * order.seconds
        return VideoTerms(
            price_usd=price_usd if options.price_usd is None else options.price_usd,
            waits_s=VIDEO_WAITS_S if options.latency_s is None else 0.0,
            takes_s=VIDEO_TAKES_S if options.latency_s is None else options.latency_s,
        )

    def describe_video(self, job: Job) -> Body:
        """The video object of the provider file, section 3."""
        order, expires_ms = ordered(job), self._videos.expires_ms(job)
        return {
            "id": job.id,
            "object": "video",
            "model": order.model,
            "status": VIDEO_WORDS[job.stage],
            "progress": 0 if job.stage is Stage.WAITING else job.progress,
            "created_at": job.created_ms // 1000,
            "completed_at": job.ended_ms // 1000 if job.stage is Stage.SUCCEEDED and job.ended_ms else None,
            "expires_at": None if expires_ms is None else expires_ms // 1000,
            "seconds": str(order.seconds),
            "size": order.size,
            "prompt": order.prompt,
            "remixed_from_video_id": order.remix_of,
            "error": describe_failure(job),
        }

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith(CONTROL_PATH) or NUMBER not in request:
            return
        took_s = asyncio.get_running_loop().time() - request[ARRIVED_S]
        response.headers.update(
            {
                "x-request-id": f"req_{self._workshop.options.seed:08x}{request[NUMBER]:024x}",
                "openai-version": "2020-10-01",
                "openai-processing-ms": str(int(took_s * 1000)),
                "x-ratelimit-limit-requests": str(REQUESTS_PER_MINUTE),
                "x-ratelimit-remaining-requests": str(REQUESTS_PER_MINUTE - 1),
                "x-ratelimit-reset-requests": "12ms",
            }
        )


def _describe_model(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"}


def error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> web.Response:
    """The error body of the dialect."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.json_response(body, status=status)


def retry_after(response: web.Response, seconds: float) -> web.Response:
    """Add the header; a whole number is written without its point."""
    response.headers["Retry-After"] = f"{seconds:g}"
    return response
