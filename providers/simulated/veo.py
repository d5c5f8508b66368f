"""Veo, server side: predictLongRunning, the operation that is polled, and the file that is downloaded with the key.

Only films that were made are charged. Words that a row of the dial may carry: `refusal` another reason in
`raiMediaFilteredReasons`; `job_error` another word of google.rpc for the operation's error, such as
RESOURCE_EXHAUSTED; those of `google_status.py`. There is no cancel, no list, and no webhook is sent. It shares no code
with the adapter. Source: the provider file of Veo, sections 1, 2, 4, 5 and 6.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.film import PyAVMissingError
from providers.simulated.gallery import NOT_A_PICTURE, Gallery
from providers.simulated.google_status import (
    BODY_BYTES,
    VERSIONS,
    Invalid,
    Registry,
    admit,
    error,
    read_key,
    read_object,
    turn_away,
    unknown_model,
)
from providers.simulated.job_desk import JOB_OFFER, Body, Job, JobDesk, JobOrder, Stage
from providers.simulated.veo_order import MODELS, read_veo_order
from providers.simulated.workshop import Options, Workshop

METHOD = "predictLongRunning"
GOOGLE = "https://generativelanguage.googleapis.com"
RESPONSE_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
FILTERED = (
    "We encountered an issue with the prompt and could not create your video. You will not be charged for this "
    "attempt. Try rephrasing the prompt."
)

_CODES = {
    "INVALID_ARGUMENT": (3, "Request contains an invalid argument."),
    "DEADLINE_EXCEEDED": (4, "Deadline expired before operation could complete."),
    "RESOURCE_EXHAUSTED": (8, "The service is out of capacity. Please try again later."),
    "INTERNAL": (13, "Video generation failed due to an internal server issue. Please try again."),
    "UNAVAILABLE": (14, "The service is currently unavailable."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VeoOptions(Options):
    """file_lifetime_s: unscaled seconds that a film is kept. uri: the address of a finished film. `host` is the one
    that the request came to, `google` Google's own https form, which alone the official SDK can download (it sends it
    to its base URL); None gives the SDK, known by its header, the latter and everybody else the former.
    """

    file_lifetime_s: float = 2 * 86_400.0
    uri: Literal["host", "google"] | None = None


class Simulator:
    """Veo, as one key sees it. Its base URL has no path: the adapter adds `/v1beta/models/{model}:...`."""

    offer: ClassVar[Offer] = {
        Step.SUBMIT: (JOB_OFFER[Step.SUBMIT] - {FaultKind.WRONG_MAGIC}) | {FaultKind.MODERATION_BLOCKED},
        Step.POLL: JOB_OFFER[Step.POLL],
        Step.RESULT: JOB_OFFER[Step.RESULT] | {FaultKind.REDIRECTED},
    }
    options_type: ClassVar[type[Options]] = VeoOptions
    base_path: ClassVar[str] = ""

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, VeoOptions)
        self._options: VeoOptions = workshop.options
        self._workshop = workshop
        self._registry = Registry(workshop, tuple(MODELS), (METHOD,))
        self._gallery = Gallery(workshop, "/storage", self._options.file_lifetime_s)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=_turn_away,
            unknown=lambda name: error("NOT_FOUND", f"Operation {name} is not found."),
            named=lambda uuid: uuid.replace("-", "")[:20],
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch()])
        application.add_routes(
            [
                web.post(f"/{VERSIONS}/models/{{model}}:{{method}}", self.submit),
                web.get(f"/{VERSIONS}/models/{{model}}/operations/{{operation}}", self.poll),
                web.get(f"/{VERSIONS}/files/{{file}}:download", self.download),
                *self._registry.routes(),
                self._gallery.route(),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Addresses are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that is not there."""
        return error("NOT_FOUND", f"{request.method} {request.path} is not found.")

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """POST models/{model}:predictLongRunning: answered with the operation's name."""
        workshop, model, method = self._workshop, request.match_info["model"], request.match_info["method"]
        denied = admit(request, workshop)
        if denied is not None:
            return denied
        if method != METHOD or not self._registry.holds(model):
            return unknown_model(model, method)
        body = await read_object(request)
        if isinstance(body, Invalid):
            return error("INVALID_ARGUMENT", body.message)
        workshop.describe(request, body=body)
        asked = read_veo_order(model, body)
        if isinstance(asked, Invalid):
            return error("INVALID_ARGUMENT", asked.message)
        options = self._options
        order = JobOrder(
            model=model,
            prompt=asked.prompt,
            outputs=asked.films,
            price_usd=asked.price_usd() if options.price_usd is None else options.price_usd * asked.samples,
            takes_s=asked.rules.latency_s if options.latency_s is None else options.latency_s,
            asked={"key": read_key(request)},
        )
        return await self._desk.submit(request, order, lambda job: {"name": _name(job)})

    async def poll(self, request: web.Request) -> web.StreamResponse:
        """GET models/{model}/operations/{id}: the name alone while it runs, then `done` with its ending."""
        denied = admit(request, self._workshop)
        if denied is not None:
            return denied
        operation = request.match_info["operation"]
        job = self._desk.find(operation)
        known = job is not None and job.order.model == request.match_info["model"]
        return await self._desk.poll(request, operation if known else "", partial(self._describe, request))

    def _describe(self, request: web.Request, job: Job) -> Body:
        body: Body = {"name": _name(job)}
        match job.stage:
            case Stage.WAITING | Stage.RUNNING | Stage.CANCELLED:
                return body
            case Stage.FAILED:
                code, message = _CODES.get(job.word or "INTERNAL", (2, job.word or "Unknown error."))
                return body | {"done": True, "error": {"code": code, "message": message}}
            case Stage.REFUSED:
                count = len(job.order.outputs)
                reasons = [job.word or FILTERED] * count
                filtered = {"raiMediaFilteredCount": count, "raiMediaFilteredReasons": reasons}
                return body | _respond(filtered)
            case Stage.SUCCEEDED:
                origin, version = self._choose_origin(request), request.match_info["version"]
                uris = [f"{origin}/{version}/files/{job.id}{index}" for index in range(len(job.order.outputs))]
                samples = [{"video": {"uri": f"{uri}:download?alt=media"}} for uri in uris]
                return body | _respond({"generatedSamples": samples})

    def _choose_origin(self, request: web.Request) -> str:
        official = request.headers.get("x-goog-api-client", "").startswith("google-genai-sdk/")
        wanted = self._options.uri or ("google" if official else "host")
        return GOOGLE if wanted == "google" else f"{request.scheme}://{request.host}"

    # --- files

    async def download(self, request: web.Request) -> web.StreamResponse:
        """GET files/{id}:download?alt=media: the film, for the key that ordered it, as long as it is kept."""
        workshop, file = self._workshop, request.match_info["file"]
        denied = admit(request, workshop)
        if denied is not None:
            return denied
        if request.query.get("alt") != "media":
            return error("INVALID_ARGUMENT", "Downloading a file needs alt=media.")
        job, index = self._desk.find(file[:-1]), file[-1:]
        if job is None or job.ended_ms is None or not index.isdecimal() or int(index) >= len(job.links):
            return error("NOT_FOUND", f"File {file} is not found.")
        lifetime_ms = self._options.file_lifetime_s * self._options.time_scale * 1000
        if self._options.now_ms() > job.ended_ms + lifetime_ms:
            return error("NOT_FOUND", f"File {file} is not found.")
        if job.order.asked["key"] != read_key(request):
            return _forbid(file)
        return await self._serve(request, job, int(index))

    async def _serve(self, request: web.Request, job: Job, index: int) -> web.StreamResponse:
        workshop, film = self._workshop, job.order.outputs[index]
        fault = workshop.dial.draw(Step.RESULT, model=job.order.model, prompt=job.order.prompt)
        workshop.describe(request, fault=fault)
        kind = fault.kind if fault else None
        match kind:
            case FaultKind.EXPIRED:
                return _forbid(request.match_info["file"])
            case FaultKind.OVERLOADED | FaultKind.SERVER_ERROR if fault:
                return _turn_away(fault)
            case FaultKind.REDIRECTED:
                link = f"{request.scheme}://{request.host}{job.links[index]}"
                return web.Response(status=302, headers={"Location": link})
            case FaultKind.SLOW if fault:
                await workshop.pause(fault.delay_s())
            case _:
                pass
        try:
            body = NOT_A_PICTURE if kind is FaultKind.WRONG_MAGIC else await workshop.painter.paint(film)
        except PyAVMissingError as missing:
            return web.Response(status=501, text=str(missing))
        scale, closing = self._options.time_scale, workshop.closing
        return await mischief.deliver(
            request, fault, body, content_type=film.content_type, closing=closing, scale=scale
        )


def _name(job: Job) -> str:
    return f"models/{job.order.model}/operations/{job.id}"


def _respond(response: dict[str, Any]) -> Body:
    return {"done": True, "response": {"@type": RESPONSE_TYPE, "generateVideoResponse": response}}


def _forbid(file: str) -> web.Response:
    message = f"You do not have permission to access the File {file} or it may not exist."
    return error("PERMISSION_DENIED", message)


def _turn_away(fault: Fault) -> web.Response:
    if fault.kind is FaultKind.MODERATION_BLOCKED:
        message = "The prompt could not be submitted: it contains words that violate Google's usage policy."
        return error("INVALID_ARGUMENT", message)
    return turn_away(fault, fault.model or next(iter(MODELS)), "parameters.resolution")
