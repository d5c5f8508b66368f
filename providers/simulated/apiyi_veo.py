"""APIYI's older form of videos: a submit and a status route, each in an envelope of `success` and `data`.

The job is `job_desk.py`'s, key and price are those of APIYI's other videos. Ten tasks at once, a hundred requests a
minute. The file prints the reply to a submit and the error envelope; that a status shows the same members, and a
finished one the link of its clip as `videoUrl`, is an assumption, named here so that nobody takes it for knowledge.
Source: the provider file of APIYI, sections 3 and 5.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from aiohttp import web

from providers.simulated.body_fields import Invalid, read_object
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.film import Film
from providers.simulated.gallery import Gallery
from providers.simulated.job_desk import ENDED, JOB_OFFER, Body, Job, JobDesk, JobOrder, Stage
from providers.simulated.mischief import show_page
from providers.simulated.video_desk import FAILURES, VideoTerms
from providers.simulated.video_order import VideoFamily, VideoOrder, read_video
from providers.simulated.workshop import Workshop

TASKS_AT_ONCE = 10
REQUESTS_PER_MINUTE = 100
MINUTE_S = 60.0

SUBMIT_PATH = "/veo/v1/api/video/submit"
STATUS_PATH = "/veo/v1/api/video/status/"

_WORDS = {
    Stage.WAITING: "processing",
    Stage.RUNNING: "processing",
    Stage.SUCCEEDED: "completed",
    Stage.REFUSED: "failed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "failed",
}


class Shop(Protocol):
    """What the older form shares with the newer one."""

    video_families: ClassVar[Sequence[tuple[str, VideoFamily]]]
    default_video_model: ClassVar[str]

    def admit_video(self, request: web.Request) -> web.Response | None:
        """The refusal of a request whose key is missing or wrong, else None."""

    def quote_video(self, order: VideoOrder) -> VideoTerms:
        """Price and time of an order."""


class VeoDesk:
    """The handlers of the two routes."""

    def __init__(self, workshop: Workshop, gallery: Gallery, shop: Shop) -> None:
        self._workshop = workshop
        self._shop = shop
        self._desk = JobDesk(
            workshop,
            gallery,
            turn_away=turn_away,
            unknown=lambda task: refuse(404, f"task {task[:80]} not found", "task_not_found"),
            named=lambda entry: "veo_" + entry.replace("-", ""),
            shown=JOB_OFFER[Step.SUBMIT] | TURNED_AWAY,
        )
        self._asked_ms: deque[int] = deque(maxlen=REQUESTS_PER_MINUTE)

    def routes(self) -> tuple[web.RouteDef, ...]:
        """Submit and status."""
        return (web.post(SUBMIT_PATH, self.submit), web.get(STATUS_PATH + "{task}", self.show))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """POST submit: the fields of the newer form."""
        refused = self._shop.admit_video(request) or self._limit()
        if refused is not None:
            return refused
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return _complain(fields)
        self._workshop.describe(request, body=fields)
        order = read_video(
            fields,
            families=self._shop.video_families,
            default_model=self._shop.default_video_model,
            models=self._workshop.options.models,
        )
        if isinstance(order, Invalid):
            return _complain(order)
        if sum(job.stage not in ENDED for job in self._desk.jobs) >= TASKS_AT_ONCE:
            return turn_away(Fault(kind=FaultKind.ACTIVE_LIMIT))
        terms = self._shop.quote_video(order)
        job_order = JobOrder(
            model=order.model,
            prompt=order.prompt,
            outputs=(Film(order.prompt, order.width, order.height, float(order.seconds), caption=order.model),),
            price_usd=terms.price_usd,
            takes_s=terms.takes_s,
            waits_s=terms.waits_s,
            refusal_usd=terms.refusal_usd,
            failure_usd=terms.failure_usd,
        )
        return await self._desk.submit(request, job_order, describe)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """GET status."""
        refused = self._shop.admit_video(request) or self._limit()
        return refused or await self._desk.poll(request, request.match_info["task"], describe)

    def _limit(self) -> web.Response | None:
        # A minute of the simulated world is as short as its other times.
        now_ms, asked_ms = self._workshop.options.now_ms(), self._asked_ms
        minute_ms = MINUTE_S * 1000 * self._workshop.options.time_scale
        if len(asked_ms) == REQUESTS_PER_MINUTE and now_ms - asked_ms[0] < minute_ms:
            return turn_away(Fault(kind=FaultKind.THROTTLED))
        asked_ms.append(now_ms)
        return None


def describe(job: Job) -> Body:
    """The envelope around a task."""
    data: dict[str, Any] = {
        "taskId": job.id,
        "pollingUrl": f"{job.origin}{STATUS_PATH}{job.id}",
        "status": _WORDS[job.stage],
    }
    if job.stage is Stage.SUCCEEDED:
        data["videoUrl"] = job.origin + job.links[0]
    if job.stage in FAILURES:
        data["error_code"], data["message"] = FAILURES[job.stage]
    return {"success": True, "data": data}


def turn_away(fault: Fault) -> web.Response:
    """The words for a request that is not served; none of these is charged."""
    match fault.kind:
        case FaultKind.THROTTLED:
            return refuse(429, "Too many requests, please retry later.", "rate_limit")
        case FaultKind.ACTIVE_LIMIT:
            return refuse(429, f"At most {TASKS_AT_ONCE} tasks at once.", "concurrency_limit")
        case FaultKind.QUOTA:
            return refuse(403, "user quota is not enough", "insufficient_user_quota")
        case FaultKind.INVALID_KEY:
            return refuse(401, "Invalid token", "invalid_token")
        case FaultKind.UNSUPPORTED_PARAMETER:
            return refuse(400, f"Unknown parameter: '{fault.param}'.", "unknown_parameter")
        case FaultKind.MODEL_NOT_FOUND:
            return refuse(404, "The model does not exist.", "model_not_found")
        case FaultKind.MODERATION_BLOCKED:
            return refuse(400, "Your request was rejected by the safety system.", "moderation_blocked")
        case FaultKind.BAD_GATEWAY:
            return show_page(502, "502 Bad Gateway")
        case FaultKind.SERVER_ERROR:
            return refuse(500, "Unknown error", "server_error")
        case _:
            return refuse(503, "Upstream is busy, please retry later.", "upstream_busy")


def refuse(status: int, message: str, code: str, details: Body | None = None) -> web.Response:
    """The error envelope."""
    body = {"success": False, "message": message, "error_code": code, "details": details or {}}
    return web.json_response(body, status=status)


def _complain(invalid: Invalid) -> web.Response:
    details = {} if invalid.param is None else {"param": invalid.param}
    return refuse(invalid.status, invalid.message, invalid.code or "invalid_request", details)
