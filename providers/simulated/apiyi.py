"""APIYI, server side: an aggregator of images behind one synchronous OpenAI-shaped door, with bills of its own
making.

What sets it apart: a refusal arrives under HTTP 200 and is charged, a client that hangs up is charged, 429 and 503
are not; nothing can be fetched again by an id, and a path that does not exist shows a web page under 200. Video, chat
and the Gemini form are not simulated. It shares no code with the adapter.
Source: the provider file of APIYI.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from aiohttp import web

from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.gallery import Gallery
from providers.simulated.image_desk import IMAGE_OFFER, ImageDesk
from providers.simulated.image_order import OPENAI_FAMILIES, Family, Invalid, Order
from providers.simulated.image_reply import Delivery, Terms
from providers.simulated.image_upload import BODY_BYTES
from providers.simulated.image_usage import count_usage, price_order
from providers.simulated.mischief import show_page
from providers.simulated.workshop import Options, Workshop

LATENCY_S = 10.0
"""Between the 5 to 15 seconds of FLUX and Seedream and the 90 to 200 of the reverse channels."""
LINK_LIFETIME_S = 3600.0
"""The file says "temporary, length unknown"; OpenAI's hour is taken."""
REVERSE_PRICE_USD = Decimal("0.03")
UNLISTED_PRICE_USD = Decimal("0.04")
REVERSE_MODELS = ("gpt-image-2-all", "gpt-image-2-vip")
LINK_MODELS = ("flux-", "seedream-")
CATALOGUE = ("gpt-image-2", *REVERSE_MODELS, "flux-pro-1.1", "seedream-4.0")

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
        **IMAGE_OFFER,
        Step.SUBMIT: IMAGE_OFFER[Step.SUBMIT] | {FaultKind.MODERATION_BLOCKED},
    }
    options_type: ClassVar[type[Options]] = ApiyiOptions
    base_path: ClassVar[str] = ""
    families: ClassVar[Sequence[tuple[str, Family]]] = (
        ("gpt-image-2-all", _REVERSE_ALL),
        ("gpt-image-2-vip", _REVERSE_VIP),
        *((prefix, _LINKED) for prefix in LINK_MODELS),
        *OPENAI_FAMILIES,
    )

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/r2", LINK_LIFETIME_S)
        self._desk = ImageDesk(workshop, self._gallery, self)

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post("/v1/images/generations", self._desk.generate),
                web.post("/v1/images/edits", self._desk.edit),
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

    def complain(self, invalid: Invalid) -> web.Response:
        """The OpenAI error body, wrapped with its status."""
        return error(invalid.status, invalid.message, "shell_api_error", invalid.param, invalid.code)

    def turn_away(self, fault: Fault, order: Order) -> web.Response:
        """The gateway's words for an order that is not accepted. None of these is charged."""
        match fault.kind:
            case FaultKind.THROTTLED:
                refused = error(429, "Too many requests, please retry later.", "shell_api_error", None, "rate_limit")
            case FaultKind.QUOTA:
                refused = error(403, "user quota is not enough", "shell_api_error", None, "insufficient_user_quota")
            case FaultKind.INVALID_KEY:
                refused = error(401, "Invalid token", "shell_api_error", None, "invalid_token")
            case FaultKind.UNSUPPORTED_PARAMETER:
                message = f"Unknown parameter: '{fault.param}'."
                refused = error(400, message, "shell_api_error", fault.param, "unknown_parameter")
            case FaultKind.MODEL_NOT_FOUND:
                message = f"The model '{order.model}' does not exist."
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


def error(status: int, message: str, kind: str, param: str | None, code: str | None) -> web.Response:
    """The OpenAI error body, wrapped with status_code as the gateway does."""
    body = {"status_code": status, "error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.json_response(body, status=status)
