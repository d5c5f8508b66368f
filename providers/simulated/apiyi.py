"""APIYI, server side: an aggregator behind one OpenAI-shaped door, images and chat synchronous, videos as jobs, with
bills of its own making.

What sets it apart: a refusal arrives under HTTP 200 and is charged, a client that hangs up is charged in full, 429 and
503 are not; a picture cannot be fetched again by an id, a video that failed costs nothing, and a path that does not
exist shows a web page under 200. The forms of Gemini and MiniMax, which its file only points at, are not simulated. It
shares no code with the adapter.
Source: the provider file of APIYI.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, assert_never

from aiohttp import web

from providers.simulated.apiyi_veo import VeoDesk
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
from providers.simulated.video_order import ANY_VIDEO, VideoFamily, VideoOrder
from providers.simulated.workshop import Options, Workshop

LATENCY_S = 10.0
"""Between the 5 to 15 seconds of FLUX and Seedream and the 90 to 200 of the reverse channels."""
LINK_LIFETIME_S = 3600.0
"""The file says "temporary, length unknown"; OpenAI's hour is taken."""
REVERSE_PRICE_USD = Decimal("0.03")
UNLISTED_PRICE_USD = Decimal("0.04")
REVERSE_MODELS = ("gpt-image-2-all", "gpt-image-2-vip")
LINK_MODELS = ("flux-", "seedream-")
VEO_MODELS = ("veo-3.1-fast", "veo-3.1")
CATALOGUE = (
    "gpt-image-2",
    *REVERSE_MODELS,
    "flux-pro-1.1",
    "seedream-4.0",
    *(model for model, _ in CHAT_PRICES),
    *VEO_MODELS,
)

FIRST_TOKEN_S = 1.0
TOKEN_S = 0.02
VIDEO_WAITS_S = 5.0
VIDEO_TAKES_S = 90.0
"""The file says nothing about the time of a video; Google's takes one to three minutes."""
VIDEO_LIFETIME_S = 3600.0
"""Unknown as well; OpenAI's hour is taken."""
VEO_PRICE_USD = Decimal("0.25")
VEO_FAST_PRICE_USD = Decimal("0.15")
"""Of a clip: the ends of the range that the file gives."""

_ANY_QUALITY = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
_REVERSE_ALL = Family(sizes=(), qualities=_ANY_QUALITY, size_ignored=True, n_max=1, takes_mask=False)
_REVERSE_VIP = Family(sizes=("auto",), qualities=_ANY_QUALITY, free_sizes=True, n_max=1, takes_mask=False)
_LINKED = Family(sizes=("auto",), qualities=_ANY_QUALITY, free_sizes=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiyiOptions(Options):
    """APIYI takes no option of its own."""


class Simulator:
    """APIYI, as one account sees it. Its base URL has no path: the adapter adds `/v1/...`."""

    offer: ClassVar[Offer] = {
        Step.SUBMIT: IMAGE_OFFER[Step.SUBMIT]
        | CHAT_OFFER[Step.SUBMIT]
        | VIDEO_OFFER[Step.SUBMIT]
        | {FaultKind.ACTIVE_LIMIT},
        Step.POLL: VIDEO_OFFER[Step.POLL],
        Step.RESULT: VIDEO_OFFER[Step.RESULT],
    }
    options_type: ClassVar[type[Options]] = ApiyiOptions
    base_path: ClassVar[str] = ""
    families: ClassVar[Sequence[tuple[str, Family]]] = (
        ("gpt-image-2-all", _REVERSE_ALL),
        ("gpt-image-2-vip", _REVERSE_VIP),
        *((prefix, _LINKED) for prefix in LINK_MODELS),
        *OPENAI_FAMILIES,
    )
    video_families: ClassVar[Sequence[tuple[str, VideoFamily]]] = (
        ("sora-", VideoFamily(seconds=(4,), gone=True)),
        ("veo-", VideoFamily(seconds=(8, 4, 6), extended=True)),
        ("", ANY_VIDEO),
    )
    default_video_model: ClassVar[str] = VEO_MODELS[0]
    video_prefix: ClassVar[str] = "task_"
    poll_after_s: ClassVar[float | None] = None

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/r2", LINK_LIFETIME_S)
        self._images = ImageDesk(workshop, self._gallery, self)
        self._chat = ChatDesk(workshop, self)
        self._videos = VideoDesk(workshop, self._gallery, self, lifetime_s=VIDEO_LIFETIME_S)
        self._veo = VeoDesk(workshop, self._gallery, self)

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post("/v1/images/generations", self._images.generate),
                web.post("/v1/images/edits", self._images.edit),
                web.post("/v1/chat/completions", self._chat.complete),
                *self._videos.routes("/v1/videos"),
                *self._veo.routes(),
                web.get("/v1/models", self.list_models),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """No look-up by id: 404 under /v1. Everything else is the web site, under 200."""
        if request.method == "GET" and request.path.startswith("/v1/"):
            return error(
                404, f"Invalid URL ({request.method} {request.path})", "invalid_request_error", None, "not_found"
            )
        return show_page(200, "APIYI")

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        denied = self.admit(request)
        if denied is not None:
            return denied
        models = self._workshop.options.models or CATALOGUE
        rows = [{"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "apiyi"} for model in models]
        return web.json_response({"object": "list", "data": rows})

    # --- what differs from the other sellers of the dialect: see `image_desk.Seller`

    def admit(self, request: web.Request) -> web.Response | None:
        """Bearer with any key, or with the one key of the options."""
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        expected = self._workshop.options.api_key
        if word.lower() != "bearer" or not key.strip() or (expected is not None and key.strip() != expected):
            return error(401, "Invalid token", "shell_api_error", None, "invalid_token")
        return None

    def admit_video(self, request: web.Request) -> web.Response | None:
        """The routes of videos take the key without the word Bearer too."""
        named = request.headers.get("Authorization", "").strip()
        if " " in named or not named:
            return self.admit(request)
        expected = self._workshop.options.api_key
        if expected is not None and named != expected:
            return error(401, "Invalid token", "shell_api_error", None, "invalid_token")
        return None

    def complain(self, invalid: Invalid) -> web.Response:
        """The OpenAI error body, wrapped with its status."""
        return error(invalid.status, invalid.message, "shell_api_error", invalid.param, invalid.code)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The gateway's words for pictures that are not made."""
        return self.decline(fault, order.model)

    def decline(self, fault: Fault, model: str) -> web.Response:
        """The gateway's words for an order that is not accepted. None of these is charged."""
        match fault.kind:
            case FaultKind.THROTTLED | FaultKind.ACTIVE_LIMIT:
                refused = error(429, "Too many requests, please retry later.", "shell_api_error", None, "rate_limit")
            case FaultKind.QUOTA:
                refused = error(403, "user quota is not enough", "shell_api_error", None, "insufficient_user_quota")
            case FaultKind.INVALID_KEY:
                refused = error(401, "Invalid token", "shell_api_error", None, "invalid_token")
            case FaultKind.UNSUPPORTED_PARAMETER:
                message = f"Unknown parameter: '{fault.param}'."
                refused = error(400, message, "shell_api_error", fault.param, "unknown_parameter")
            case FaultKind.MODEL_NOT_FOUND:
                message = f"The model '{model}' does not exist."
                refused = error(404, message, "shell_api_error", "model", "model_not_found")
            case FaultKind.MODERATION_BLOCKED:
                message = "Your request was rejected by the safety system. safety_violations=[violence]"
                refused = error(400, message, "shell_api_error", None, "moderation_blocked")
            case FaultKind.BAD_GATEWAY:
                return show_page(502, "502 Bad Gateway")
            case FaultKind.SERVER_ERROR:
                unknown = {"message": "Unknown error", "localized_message": "Unknown error", "type": "shell_api_error"}
                return web.json_response({"error": unknown | {"param": "", "code": None}}, status=500)
            case _:
                refused = error(503, "Upstream is busy, please retry later.", "shell_api_error", None, "upstream_busy")
        if fault.retry_after_s is not None:
            # The vendor documents no such header; it is sent only when the dial asks for it.
            refused.headers["Retry-After"] = f"{fault.retry_after_s:g}"
        return refused

    def refuse(self, order: Order) -> web.Response:
        """Content policy: success by its status, no picture in it, and charged."""
        return web.json_response({"created": self._workshop.options.now_ms() // 1000, "data": []})

    def quote(self, order: Order) -> Terms:
        """A flat price for the reverse channels, OpenAI's list for what is passed through. A refusal costs the same."""
        options = self._workshop.options
        reverse = order.model in REVERSE_MODELS
        linked = order.model.startswith(LINK_MODELS)
        listed = REVERSE_PRICE_USD * order.n if reverse else price_order(order)
        price = UNLISTED_PRICE_USD * order.n if listed is None else listed
        if options.price_usd is not None:
            price = options.price_usd * order.n
        inline = Delivery.DATA_URL if reverse else Delivery.B64
        by_link = linked or (bool(order.wants_url) and not order.family.reports_usage)
        return Terms(
            price_usd=price,
            refusal_usd=price,
            latency_s=LATENCY_S if options.latency_s is None else options.latency_s,
            delivery=Delivery.LINK if by_link else inline,
            usage=count_usage(order) if order.family.reports_usage else None,
        )

    def quote_chat(self, order: ChatOrder) -> ChatTerms:
        """About the vendor's list price; an answer is finished and charged although its client has left."""
        options = self._workshop.options
        return ChatTerms(
            prices=find_prices(order.model),
            first_token_s=FIRST_TOKEN_S if options.latency_s is None else options.latency_s,
            token_s=TOKEN_S if options.latency_s is None else 0.0,
            finishes_alone=True,
            flat_usd=None if options.price_usd is None else options.price_usd * order.n,
        )

    def quote_video(self, order: VideoOrder) -> VideoTerms:
        """A price for the clip, charged on success only."""
        options = self._workshop.options
        listed = VEO_FAST_PRICE_USD if "fast" in order.model else VEO_PRICE_USD
        return VideoTerms(
            price_usd=listed if options.price_usd is None else options.price_usd,
            waits_s=VIDEO_WAITS_S if options.latency_s is None else 0.0,
            takes_s=VIDEO_TAKES_S if options.latency_s is None else options.latency_s,
        )

    def describe_video(self, job: Job) -> Body:
        """The video object of section 5. What the file does not print is OpenAI's: `completed_at`, `error`."""
        body: Body = {
            "id": job.id,
            "task_id": job.id,
            "object": "video",
            "model": job.order.model,
            "status": name_status(job),
            "progress": 0 if job.stage is Stage.WAITING else job.progress,
            "created_at": job.created_ms // 1000,
        }
        if job.stage is Stage.SUCCEEDED and job.ended_ms is not None:
            body |= {"completed_at": job.ended_ms // 1000, "seconds": str(ordered(job).seconds)}
        failure = describe_failure(job)
        return body if failure is None else body | {"error": failure}


def name_status(job: Job) -> str:
    """The word for a job's stage. The file prints two words for a job at work, so the second half has the second."""
    match job.stage:
        case Stage.WAITING:
            return "queued"
        case Stage.RUNNING:
            return "in_progress" if job.progress < 50 else "processing"
        case Stage.SUCCEEDED:
            return "completed"
        case Stage.REFUSED | Stage.FAILED | Stage.CANCELLED:
            return "failed"
        case _:
            assert_never(job.stage)


def error(status: int, message: str, kind: str, param: str | None, code: str | None) -> web.Response:
    """The OpenAI error body, wrapped with status_code as the gateway does."""
    body = {"status_code": status, "error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.json_response(body, status=status)
