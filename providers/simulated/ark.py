"""Volcengine and BytePlus Ark, server side: Seedream's pictures at once, Seedance's films as tasks.

What sets it apart: pictures of a batch that fail one by one, a task that can be cancelled only while it is queued and
whose record the same call deletes once it has ended, a list by which a lost answer is found again, callbacks that
nobody signs, and one error code for three meanings. Refusals and failures cost nothing. It shares no code with the
adapter.
Source: the provider file of Ark.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, assert_never

from aiohttp import web

from providers.simulated.ark_errors import REQUEST_ID, Refusal, complain, name_request, turn_away, write_error
from providers.simulated.ark_fields import read_body
from providers.simulated.ark_film_order import FRAMES_PER_SECOND, FilmOrder, read_film_order
from providers.simulated.ark_picture_order import read_picture_order
from providers.simulated.ark_pictures import PICTURE_FAULTS, PictureCounter
from providers.simulated.courier import Courier, Parcel
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.gallery import Gallery
from providers.simulated.job_desk import ENDED, JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.workshop import Options, Workshop

BODY_BYTES: Final = 64 * 1024 * 1024
LINK_LIFETIME_S: Final = 24 * 3600.0
RECORD_LIFETIME_S: Final = 7 * 24 * 3600.0
QUEUE_S: Final = 2.0
FILM_S: Final = 30.0
"""A film takes 30 seconds to five minutes; a demo takes the short end."""
FLEX_S: Final = 3600.0
"""With `flex` it takes hours; one is taken."""
PAGE_MAX: Final = 500
TASKS: Final = "/api/v3/contents/generations/tasks"
STATUSES: Final = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
FILM_FAULTS = JOB_OFFER[Step.SUBMIT] | {
    FaultKind.ACTIVE_LIMIT,
    FaultKind.MODERATION_BLOCKED,
    FaultKind.CONTENT_MODERATED,
}
"""What a paid request for a film can show. The word of refusal, content_moderated and job_error is the task's code.

A 500 without an id is free there ("RETRY_FREE before any id"), so that error_after is offered for pictures only.
"""

Body = dict[str, Any]
Answer = Callable[[web.Request], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArkOptions(Options):
    """queued_max: tasks that may be queued at one time; one page of the vendor says 120. sequence_shortfall: by how
    many a sequence of pictures stays below `max_images`, which the model decides. queue_s: unscaled seconds in the
    queue.
    """

    queued_max: int = 120
    sequence_shortfall: int = 0
    queue_s: float = QUEUE_S


class Simulator:
    """Ark, as one account sees it."""

    offer: ClassVar[Offer] = {**JOB_OFFER, Step.SUBMIT: FILM_FAULTS | PICTURE_FAULTS}
    options_type: ClassVar[type[Options]] = ArkOptions
    base_path: ClassVar[str] = "/api/v3"

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, ArkOptions)
        self._options: ArkOptions = workshop.options
        self._workshop = workshop
        self._requests = 0
        self._gallery = Gallery(workshop, "/tos", LINK_LIFETIME_S)
        self._counter = PictureCounter(workshop, self._gallery, turn_away=self._turn_away, complain=self._complain)
        self._courier = Courier(workshop)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=self._turn_away,
            unknown=self._deny_knowledge,
            named=lambda _entry: name_task(workshop.bill.submitted, self._options.now_ms()),
            shown=FILM_FAULTS,
            changed=self._call_back,
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener. The links of results are on it too, and need no key."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch(), self._admit])
        application.on_response_prepare.append(self._name_request)
        application.add_routes(
            [
                web.post("/api/v3/images/generations", self.generate),
                web.post(TASKS, self.create_task),
                web.get(TASKS, self.list_tasks),
                web.get(TASKS + "/{id}", self.show_task),
                web.delete(TASKS + "/{id}", self.delete_task),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Links are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have."""
        return self._complain(Refusal("NotFound.API"))

    # --- pictures

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /images/generations."""
        fields = await self._read(request)
        if isinstance(fields, web.Response):
            return fields
        order = read_picture_order(fields, self._options.models, self._options.sequence_shortfall)
        return self._complain(order) if isinstance(order, Refusal) else await self._counter.sell(request, order)

    # --- films

    async def create_task(self, request: web.Request) -> web.StreamResponse:
        """POST /contents/generations/tasks: `{"id": ...}`, and no more."""
        fields = await self._read(request)
        if isinstance(fields, web.Response):
            return fields
        order = read_film_order(fields, self._options.models)
        if isinstance(order, Refusal):
            return self._complain(order)
        if sum(job.stage is Stage.WAITING for job in self._desk.jobs) >= self._options.queued_max:
            return self._complain(Refusal("QuotaExceeded"))
        return await self._desk.submit(request, self._write_order(order), lambda job: {"id": job.id})

    async def show_task(self, request: web.Request) -> web.StreamResponse:
        """GET /contents/generations/tasks/{id}, for seven days."""
        self._drop_old()
        return await self._desk.poll(request, request.match_info["id"], self._describe)

    async def list_tasks(self, request: web.Request) -> web.Response:
        """GET /contents/generations/tasks: a page of the tasks of seven days, the newest first. Tasks that the dial
        lost are not on it.
        """
        self._drop_old()
        query = request.query
        pages = {name: query.get(name, usual) for name, usual in (("page_num", "1"), ("page_size", "10"))}
        for name, text in pages.items():
            if not text.isdecimal() or not 1 <= int(text[:9]) <= PAGE_MAX:
                return self._complain(Refusal("InvalidParameter", f"`{name}` must be 1 to {PAGE_MAX}.", name))
        status, model = query.get("filter.status"), query.get("filter.model")
        if status is not None and status not in STATUSES:
            return self._complain(Refusal("InvalidParameter", "The status is not known.", "filter.status"))
        tier, ids = query.get("filter.service_tier"), query.getall("filter.task_ids", [])
        found = [
            job
            for job in reversed(self._desk.jobs)
            if not job.lost
            and (not ids or job.id in ids)
            and status in (None, name_status(job))
            and model in (None, job.order.model)
            and tier in (None, _film(job).tier)
        ]
        number, size = int(pages["page_num"]), int(pages["page_size"])
        page = found[(number - 1) * size : number * size]
        return web.json_response({"total": len(found), "items": [self._describe(job) for job in page]})

    async def delete_task(self, request: web.Request) -> web.Response:
        """DELETE /contents/generations/tasks/{id}: cancels a queued task, deletes the record of one that has ended, and
        refuses to touch a running one.
        """
        self._drop_old()
        job_id = request.match_info["id"]
        job = self._desk.find(job_id)
        if job is None or job.lost:
            return self._deny_knowledge(job_id)
        match job.stage:
            case Stage.WAITING:
                self._desk.cancel(job)
            case Stage.RUNNING:
                told = f"Cannot delete task `{job.id}` because it is currently running."
                return self._complain(Refusal("InvalidAction.RunningTaskDeletion", told))
            case Stage.SUCCEEDED | Stage.REFUSED | Stage.FAILED | Stage.CANCELLED:
                self._desk.forget(job)
            case _:
                assert_never(job.stage)
        return web.json_response({})

    def _write_order(self, order: FilmOrder) -> JobOrder:
        latency_s, price_usd = self._options.latency_s, self._options.price_usd
        usual_s = FLEX_S if order.tier == "flex" else FILM_S
        return JobOrder(
            model=order.model,
            prompt=order.prompt,
            outputs=order.draw_up(),
            price_usd=order.price_usd if price_usd is None else price_usd,
            takes_s=usual_s if latency_s is None else latency_s,
            waits_s=self._options.queue_s,
            pays_on_success=True,
            deadline_s=float(order.expires_after_s),
            asked={"film": order},
        )

    def _describe(self, job: Job) -> Body:
        # The fields in the order of the printed body. What is not known yet is null or left out: the SDK takes both.
        film, changed_ms = _film(job), job.created_ms if job.began_ms is None else job.began_ms
        told: Body = {
            "id": job.id,
            "model": film.model,
            "status": name_status(job),
            "error": write_failure(job),
            "content": None,
            "usage": None,
            "created_at": job.created_ms // 1000,
            "updated_at": (changed_ms if job.ended_ms is None else job.ended_ms) // 1000,
        }
        if job.stage is Stage.SUCCEEDED:
            links = [job.origin + link for link in job.links]
            told["content"] = {"video_url": links[0], "last_frame_url": links[1] if film.last_frame else None}
            told["usage"] = {"completion_tokens": film.tokens, "total_tokens": film.tokens}
        told |= {"seed": film.seed, "resolution": film.resolution, "ratio": film.ratio}
        told |= {"duration": int(film.seconds)} if film.frames is None else {"frames": film.frames}
        return told | {"framespersecond": FRAMES_PER_SECOND}

    def _call_back(self, job: Job) -> None:
        # The task as a GET shows it, unsigned, at each change of its status. Tried once: of further tries the file says
        # nothing.
        url = _film(job).callback_url
        if url is not None:
            body = json.dumps(self._describe(job)).encode()
            self._courier.send(Parcel(url, {"Content-Type": "application/json"}, body))

    # --- parts

    @web.middleware
    async def _admit(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        # Bearer with any key, or with the one key of the options; all of the API needs it.
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        genuine = word.lower() == "bearer" and key.strip() and self._options.api_key in (None, key.strip())
        if request.path.startswith(self.base_path) and not genuine:
            return self._complain(Refusal("AuthenticationError"))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _name_request(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith(self.base_path):
            response.headers.setdefault(REQUEST_ID, self._next_id())

    async def _read(self, request: web.Request) -> Body | web.Response:
        fields = await read_body(request)
        if isinstance(fields, Refusal):
            return self._complain(fields)
        self._workshop.describe(request, body=fields)
        return fields

    def _drop_old(self) -> None:
        oldest_ms = self._options.now_ms() - RECORD_LIFETIME_S * self._options.time_scale * 1000
        for job in self._desk.jobs:
            if job.created_ms >= oldest_ms:
                break
            if job.stage in ENDED:
                self._desk.forget(job)

    def _deny_knowledge(self, job_id: str) -> web.Response:
        return self._complain(Refusal("NotFound.Task", f"The specified task {job_id} is not found."))

    def _complain(self, refusal: Refusal) -> web.Response:
        return complain(refusal, self._next_id())

    def _turn_away(self, fault: Fault) -> web.Response:
        return turn_away(fault, self._next_id())

    def _next_id(self) -> str:
        self._requests += 1
        return name_request(f"{self._workshop.slug}/{self._options.seed}", self._requests, self._options.now_ms())


def name_task(number: int, now_ms: int) -> str:
    """A task's id: `cgt-`, the day, and five letters and digits, which are others for each of sixty million numbers."""
    scattered, letters = number * 7_368_787 % 36**5, ""
    for _ in range(5):
        scattered, digit = divmod(scattered, 36)
        letters = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + letters
    return f"cgt-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%d}-{letters}"


def name_status(job: Job) -> str:
    """The vendor's word for where a task is. `expired`: it was not done within `execution_expires_after`."""
    match job.stage:
        case Stage.WAITING:
            return "queued"
        case Stage.RUNNING:
            return "running"
        case Stage.SUCCEEDED:
            return "succeeded"
        case Stage.REFUSED | Stage.FAILED:
            return "failed"
        case Stage.CANCELLED:
            return "expired" if job.overdue else "cancelled"
        case _:
            assert_never(job.stage)


def write_failure(job: Job) -> Body | None:
    """`error` of a task: of one that was refused or failed, else null."""
    match job.stage:
        case Stage.REFUSED:
            return write_error("OutputVideoSensitiveContentDetected" if job.word is None else job.word)
        case Stage.FAILED:
            return write_error("InternalServiceError" if job.word is None else job.word)
        case _:
            return None


def _film(job: Job) -> FilmOrder:
    film = job.order.asked["film"]
    assert isinstance(film, FilmOrder)
    return film
