"""A seller of videos in the OpenAI videos dialect: create, retrieve, list, delete, content, remix.

The life of a job is `job_desk.py`'s; here are the dialect's routes and bodies, and the bytes behind the key. What
differs between sellers (keys, error bodies, prices, the members of a video object) is the `VideoSeller`'s. It shares no
code with any adapter.
Source: the provider file of the OpenAI videos API.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar, Protocol

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.bill import NOTHING
from providers.simulated.body_fields import FieldError, Invalid, read_object, read_text
from providers.simulated.faults import TURNED_AWAY, Fault, FaultKind, Step
from providers.simulated.film import Film
from providers.simulated.gallery import NOT_A_PICTURE, Gallery
from providers.simulated.image_upload import read_upload
from providers.simulated.job_desk import ENDED, JOB_OFFER, Body, Job, JobDesk, JobOrder, Stage
from providers.simulated.picture import Picture
from providers.simulated.video_order import VideoFamily, VideoOrder, read_video
from providers.simulated.workshop import Workshop

LISTED_MAX = 100
LISTED_DEFAULT = 20

VIDEO_OFFER = {**JOB_OFFER, Step.RESULT: JOB_OFFER[Step.RESULT] | {FaultKind.REDIRECTED}}
"""What a dial can show at a seller of this dialect; a seller may add its own kinds."""

FAILURES: dict[Stage, tuple[str, str]] = {
    Stage.REFUSED: ("moderation_blocked", "Your request was blocked by our moderation system."),
    Stage.FAILED: ("internal_error", "The video could not be generated."),
}
"""Code and message of a job that came to nothing. Only moderation_blocked is a published code."""

_VARIANTS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTerms:
    """What a seller says to an order: US dollars for each ending, unscaled seconds in the queue and at work."""

    price_usd: Decimal
    waits_s: float
    takes_s: float
    refusal_usd: Decimal = NOTHING
    failure_usd: Decimal = NOTHING


class VideoSeller(Protocol):
    """What differs between the sellers of this dialect. video_prefix: how ids begin. poll_after_s: what the reply to a
    poll recommends, None for no such header.
    """

    video_families: ClassVar[Sequence[tuple[str, VideoFamily]]]
    default_video_model: ClassVar[str]
    video_prefix: ClassVar[str]
    poll_after_s: ClassVar[float | None]

    def admit_video(self, request: web.Request) -> web.Response | None:
        """The refusal of a request whose key is missing or wrong, else None."""

    def complain(self, invalid: Invalid) -> web.Response:
        """The error body for an order that breaks a rule, or for an id that is unknown."""

    def decline(self, fault: Fault, model: str) -> web.Response:
        """The answer to a request that is not served; called with the kinds of `TURNED_AWAY`."""

    def quote_video(self, order: VideoOrder) -> VideoTerms:
        """Price and time of an order."""

    def describe_video(self, job: Job) -> Body:
        """The video object."""


class VideoDesk:
    """The handlers of one seller's video routes."""

    def __init__(self, workshop: Workshop, gallery: Gallery, seller: VideoSeller, *, lifetime_s: float) -> None:
        """lifetime_s: unscaled seconds that a finished video can be fetched."""
        self._workshop = workshop
        self._seller = seller
        self._lifetime_ms = int(lifetime_s * workshop.options.time_scale * 1000)
        self._desk = JobDesk(
            workshop,
            gallery,
            turn_away=lambda fault: seller.decline(fault, ""),
            unknown=self._miss,
            named=lambda entry: seller.video_prefix + entry.replace("-", ""),
            shown=VIDEO_OFFER[Step.SUBMIT] | TURNED_AWAY,
        )

    def routes(self, path: str) -> tuple[web.RouteDef, ...]:
        """The routes below `path` that every seller has: create, retrieve, content. `path` is such as `/v1/videos`."""
        return (
            web.post(path, self.create),
            web.get(path + "/{video}", self.retrieve),
            web.get(path + "/{video}/content", self.fetch),
        )

    def further_routes(self, path: str) -> tuple[web.RouteDef, ...]:
        """The routes that resellers leave out: list, delete, remix."""
        return (
            web.get(path, self.show_all),
            web.delete(path + "/{video}", self.delete),
            web.post(path + "/{video}/remix", self.remix),
        )

    def expires_ms(self, job: Job) -> int | None:
        """When the bytes of a finished video go, in milliseconds since the epoch; None before it has succeeded."""
        if job.stage is not Stage.SUCCEEDED or job.ended_ms is None:
            return None
        return job.ended_ms + self._lifetime_ms

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /videos: JSON or a form, with or without a first frame."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        upload = await read_upload(request)
        if isinstance(upload, Invalid):
            return self._seller.complain(upload)
        self._workshop.describe(request, body=upload.fields)
        order = read_video(
            upload.fields,
            families=self._seller.video_families,
            default_model=self._seller.default_video_model,
            models=self._workshop.options.models,
            reference=upload.reference,
            reference_size=upload.sizes.get("input_reference"),
        )
        if isinstance(order, Invalid):
            return self._seller.complain(order)
        return await self._submit(request, order)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """GET /videos/{id}."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        response = await self._desk.poll(request, request.match_info["video"], self._seller.describe_video)
        after_s = self._seller.poll_after_s
        if after_s is not None and not response.prepared:
            after_ms = max(1, int(after_s * self._workshop.options.time_scale * 1000))
            response.headers["openai-poll-after-ms"] = str(after_ms)
        return response

    async def show_all(self, request: web.Request) -> web.StreamResponse:
        """GET /videos: the newest first, or with `order=asc` the oldest; a page begins behind `after`."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        limit, way = request.query.get("limit", str(LISTED_DEFAULT)), request.query.get("order", "desc")
        if not (limit.isdecimal() and 1 <= int(limit) <= LISTED_MAX):
            message = f"Invalid 'limit': must be between 1 and {LISTED_MAX}."
            return self._seller.complain(Invalid(message, "limit"))
        if way not in ("asc", "desc"):
            return self._seller.complain(Invalid("Invalid 'order': must be 'asc' or 'desc'.", "order"))
        jobs = [job for job in self._desk.jobs if not job.lost]
        if way == "desc":
            jobs.reverse()
        after = request.query.get("after")
        if after is not None:
            names = [job.id for job in jobs]
            if after not in names:
                return self._miss(after)
            jobs = jobs[names.index(after) + 1 :]
        page = [self._seller.describe_video(job) for job in jobs[: int(limit)]]
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return web.json_response({"object": "list", "data": page, **ends, "has_more": len(jobs) > len(page)})

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE /videos/{id}: of a job that has ended. Nothing says what a running one gives; a 400 here."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        job = self._find(request)
        if job is None:
            return self._miss(request.match_info["video"])
        if job.stage not in ENDED:
            return self._seller.complain(Invalid("A video in progress cannot be deleted.", "video_id", "invalid_state"))
        self._desk.forget(job)
        return web.json_response({"id": job.id, "object": "video.deleted", "deleted": True})

    async def remix(self, request: web.Request) -> web.StreamResponse:
        """POST /videos/{id}/remix: the same model, length and size with another prompt, at the price of a new one."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        fields = await read_object(request)
        if isinstance(fields, Invalid):
            return self._seller.complain(fields)
        self._workshop.describe(request, body=fields)
        job = self._find(request)
        if job is None:
            return self._miss(request.match_info["video"])
        if job.stage is not Stage.SUCCEEDED:
            return self._seller.complain(Invalid("Only a completed video can be remixed.", "video_id", "invalid_state"))
        try:
            prompt = read_text(fields, "prompt")
        except FieldError as found:
            return self._seller.complain(found.invalid)
        return await self._submit(request, replace(ordered(job), prompt=prompt, remix_of=job.id))

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        """GET /videos/{id}/content: bytes, or a part of them; 404 before the job is done and after their time."""
        denied = self._seller.admit_video(request)
        if denied is not None:
            return denied
        variant = request.query.get("variant", "video")
        if variant not in _VARIANTS:
            message = "Invalid 'variant': must be 'video', 'thumbnail' or 'spritesheet'."
            return self._seller.complain(Invalid(message, "variant"))
        job = self._find(request)
        expires_ms = None if job is None else self.expires_ms(job)
        if job is None or expires_ms is None or expires_ms < self._workshop.options.now_ms():
            return self._miss(request.match_info["video"])
        return await self._serve(request, job, variant)

    async def _submit(self, request: web.Request, order: VideoOrder) -> web.StreamResponse:
        terms = self._seller.quote_video(order)
        film = Film(
            prompt=order.prompt,
            width=order.width,
            height=order.height,
            seconds=float(order.seconds),
            caption=f"{order.model}  {order.size}  {order.seconds} s",
        )
        job_order = JobOrder(
            model=order.model,
            prompt=order.prompt,
            outputs=(film,),
            price_usd=terms.price_usd,
            takes_s=terms.takes_s,
            waits_s=terms.waits_s,
            refusal_usd=terms.refusal_usd,
            failure_usd=terms.failure_usd,
            asked={"order": order},
        )
        return await self._desk.submit(request, job_order, self._seller.describe_video)

    async def _serve(self, request: web.Request, job: Job, variant: str) -> web.StreamResponse:
        workshop, order = self._workshop, ordered(job)
        fault = workshop.dial.draw(Step.RESULT, model=order.model, prompt=order.prompt)
        workshop.describe(request, fault=fault)
        kind = fault.kind if fault else None
        if fault is not None and kind in TURNED_AWAY:
            return self._seller.decline(fault, order.model)
        if kind is FaultKind.EXPIRED:
            return self._miss(job.id)
        if kind is FaultKind.REDIRECTED and variant == "video":
            return web.Response(status=302, headers={"Location": job.origin + job.links[0]})
        if fault is not None and kind is FaultKind.SLOW:
            await workshop.pause(fault.delay_s())
        body = NOT_A_PICTURE if kind is FaultKind.WRONG_MAGIC else await workshop.painter.paint(_show(job, variant))
        response = await mischief.deliver(
            request,
            fault,
            body,
            content_type=_VARIANTS[variant],
            closing=workshop.closing,
            scale=workshop.options.time_scale,
        )
        if kind in (None, FaultKind.SLOW, FaultKind.WRONG_MAGIC):
            return cut_out(request, response, body)
        return response

    def _find(self, request: web.Request) -> Job | None:
        job = self._desk.find(request.match_info["video"])
        return None if job is None or job.lost else job

    def _miss(self, video: str) -> web.Response:
        return self._seller.complain(Invalid(f"Video with id '{video[:80]}' not found.", "video_id", "not_found", 404))


def ordered(job: Job) -> VideoOrder:
    """The order of a job that this desk accepted."""
    order: VideoOrder = job.order.asked["order"]
    return order


def describe_failure(job: Job) -> Body | None:
    """The `error` member of a video object: None while there is nothing to say."""
    failure = FAILURES.get(job.stage)
    return None if failure is None else {"code": failure[0], "message": failure[1]}


def cut_out(request: web.Request, response: web.StreamResponse, body: bytes) -> web.StreamResponse:
    """The part of a whole body that the request's Range asks for: 206, or 416 when there is no such part."""
    response.headers["Accept-Ranges"] = "bytes"
    if "Range" not in request.headers:
        return response
    try:
        asked = request.http_range
    except ValueError:
        return response  # a malformed header is as good as none
    start, stop, _ = asked.indices(len(body))
    if start >= stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    place = f"bytes {start}-{stop - 1}/{len(body)}"
    headers = {"Content-Type": response.headers["Content-Type"], "Content-Range": place, "Accept-Ranges": "bytes"}
    return web.Response(status=206, body=body[start:stop], headers=headers)


def _show(job: Job, variant: str) -> Film | Picture:
    """What a variant is drawn from. The two still ones are one picture each, named below."""
    output = job.order.outputs[0]
    if variant == "video":
        return output
    return Picture(
        prompt=output.prompt,
        width=output.width,
        height=output.height,
        format="webp" if variant == "thumbnail" else "jpeg",
        caption=variant,
    )
