"""Replicate, server side: predictions of pictures and films, held or polled, listed and cancelled; files; webhooks.

What sets it apart: a create is never repeated by its SDK and has no key against repetition, so the list is how a lost
answer is found again; models that are priced by hardware time charge for failures and refusals too, others for
success only; an output is a link or a list of links, by the model, and gone after an hour. It shares no code with the
adapter.
Source: the provider file of Replicate; the replies of models, versions and files as the SDK reads them.
"""

import base64
import json
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, assert_never

from aiohttp import web

from providers.simulated.bill import NOTHING
from providers.simulated.courier import reaches_loopback
from providers.simulated.faults import Fault, FaultKind, Offer, Step
from providers.simulated.gallery import Gallery
from providers.simulated.job_desk import ENDED, JOB_OFFER, Job, JobDesk, JobOrder, Stage
from providers.simulated.mischief import show_page
from providers.simulated.replicate_files import Files, write_instant
from providers.simulated.replicate_order import (
    MODELS,
    Mistake,
    PredictionOrder,
    find_model,
    name_version,
    read_deadline_s,
    read_prediction,
    read_wait_s,
    write_schema,
)
from providers.simulated.replicate_webhooks import Webhooks
from providers.simulated.workshop import Options, Workshop

BODY_BYTES = 64 * 1024 * 1024
OUTPUT_LIFETIME_S = 3600.0
PAGE = 100
"""Predictions on one page of the list."""
NSFW = "NSFW content detected. Try running it again, or try a different prompt."
FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateOptions(Options):
    """boot_s: unscaled seconds in `starting`; a cold boot takes minutes. failure_text: `error` of a job that the dial
    lets fail. created_status: 201, or 202 as some official models answer. retry_after_header: whether a 429 carries the
    header, or only its text. webhook_secret: `whsec_` and base64; None makes one of the seed. webhook_forged: sign with
    another secret. webhook_copies: how often each event is delivered.
    """

    boot_s: float = 0.5
    failure_text: str = OUT_OF_MEMORY
    created_status: int = 201
    retry_after_header: bool = True
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_forged: bool = False
    webhook_copies: int = 1


class Simulator:
    """Replicate, as one account sees it. Its base URL has no path: SDK and adapter add `/v1/...`."""

    offer: ClassVar[Offer] = {
        **JOB_OFFER,
        Step.SUBMIT: JOB_OFFER[Step.SUBMIT] | {FaultKind.CONTENT_MODERATED, FaultKind.ERROR_AFTER},
    }
    options_type: ClassVar[type[Options]] = ReplicateOptions
    base_path: ClassVar[str] = ""

    def __init__(self, workshop: Workshop) -> None:
        assert isinstance(workshop.options, ReplicateOptions)
        self._options: ReplicateOptions = workshop.options
        self._workshop = workshop
        self._gallery = Gallery(workshop, "/delivery", OUTPUT_LIFETIME_S)
        self._files = Files(workshop)
        self._desk = JobDesk(
            workshop,
            self._gallery,
            turn_away=self._turn_away,
            unknown=lambda _id: detail(404, "Prediction not found"),
            named=name_prediction,
            changed=self._tell,
            price_cancelled=self._price_cancelled,
        )
        self._webhooks = Webhooks(
            workshop,
            self._describe,
            secret=self._options.webhook_secret,
            forged=self._options.webhook_forged,
            copies=self._options.webhook_copies,
        )

    def applications(self) -> tuple[web.Application, ...]:
        """One listener. The links of outputs are on it too, and need no key."""
        application = web.Application(client_max_size=BODY_BYTES, middlewares=[self._workshop.watch(), self._admit])
        application.add_routes(
            [
                web.post("/v1/models/{owner}/{name}/predictions", self.create_by_name),
                web.post("/v1/deployments/{owner}/{name}/predictions", self.create_by_name),
                web.post("/v1/predictions", self.create_by_version),
                web.get("/v1/predictions", self.list_predictions),
                web.get("/v1/predictions/{id}", self.show_prediction),
                web.post("/v1/predictions/{id}/cancel", self.cancel),
                web.get("/v1/models/{owner}/{name}", self.show_model),
                web.get("/v1/models/{owner}/{name}/versions", self.list_versions),
                web.get("/v1/models/{owner}/{name}/versions/{version}", self.show_version),
                web.post("/v1/files", self._files.upload),
                web.get("/v1/files", self._files.list_all),
                web.get("/v1/files/{id}", self._files.show),
                web.delete("/v1/files/{id}", self._files.delete),
                web.get("/v1/webhooks/default/secret", self.show_secret),
                web.get("/delivery/{name}", self.show_output),
            ]
        )
        return (application,)

    def opened(self, ports: tuple[int, ...]) -> None:
        """Addresses are built from the request's Host, so the port is of no use."""

    async def not_found(self, request: web.Request) -> web.Response:
        """The answer for every path and method that the API does not have."""
        return detail(404, "The requested resource could not be found.")

    # --- predictions

    async def create_by_name(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/models/{owner}/{name}/predictions, and the same of a deployment."""
        body = await self._read_body(request)
        if isinstance(body, web.Response):
            return body
        return await self._create(request, _name(request), body)

    async def create_by_version(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/predictions: `version` is 64 hexadecimal digits, `owner/name` or `owner/name:digits`."""
        body = await self._read_body(request)
        if isinstance(body, web.Response):
            return body
        version = body.get("version")
        if not isinstance(version, str):
            return invalid([Mistake("version", "version is required")])
        name = self._find_version(version)
        if name is None:
            return detail(404, "The specified version does not exist, or you do not have permission to run it.")
        return await self._create(request, name, body)

    async def _create(self, request: web.Request, name: str, body: Body) -> web.StreamResponse:
        if not self._knows(name):
            return detail(404, "The requested resource could not be found.")
        hold_s = read_wait_s(request.headers.get("Prefer", ""))
        if hold_s is None:
            return problem(400, "Bad request", "Prefer: wait must be between 1 and 60 seconds.")
        after = request.headers.get("Cancel-After")
        deadline_s = None if after is None else read_deadline_s(after)
        if after is not None and deadline_s is None:
            return problem(400, "Bad request", "Cancel-After must be a duration such as 30s, 1m or 1h30m.")
        prediction = read_prediction(name, body, self._options.latency_s)
        if not isinstance(prediction, PredictionOrder):
            return invalid(prediction)
        if prediction.webhook is not None and not _takes_webhook(prediction.webhook):
            return invalid([Mistake("webhook", "Must be an HTTPS URL")])
        order = self._write_order(prediction, deadline_s)
        status = self._options.created_status
        return await self._desk.submit(request, order, self._describe, status=status, hold_s=hold_s)

    async def show_prediction(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/predictions/{id}."""
        return await self._desk.poll(request, request.match_info["id"], self._describe)

    async def list_predictions(self, request: web.Request) -> web.Response:
        """GET /v1/predictions: a page of a hundred, the newest first. Jobs that the dial lost are not on it."""
        jobs = [job for job in self._desk.jobs if not job.lost]
        cursor = request.query.get("cursor", str(len(jobs)))
        if not re.fullmatch(r"[0-9]{1,9}", cursor) or int(cursor) > len(jobs):
            return problem(400, "Bad request", "Invalid cursor.")
        end = int(cursor)
        begin = max(0, end - PAGE)
        here = f"{request.scheme}://{request.host}/v1/predictions?cursor="
        page = {
            "previous": f"{here}{min(len(jobs), end + PAGE)}" if end < len(jobs) else None,
            "next": f"{here}{begin}" if begin > 0 else None,
            "results": [self._describe(job) for job in reversed(jobs[begin:end])],
        }
        return web.json_response(page)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/predictions/{id}/cancel: 200 with the prediction, also of one that has ended and stays as it is."""
        job = self._desk.find(request.match_info["id"])
        if job is None or job.lost:
            return detail(404, "Prediction not found")
        self._desk.cancel(job)
        return web.json_response(self._describe(job))

    async def show_output(self, request: web.Request) -> web.StreamResponse:
        """An output file, for an hour; then it is deleted, and the answer is 404."""
        answer = await self._gallery.show(request)
        return detail(404, "Not found") if not answer.prepared and answer.status == 403 else answer

    # --- what costs nothing

    async def show_model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{owner}/{name}."""
        name = _name(request)
        if not self._knows(name):
            return detail(404, "The requested resource could not be found.")
        described = {
            "url": f"https://replicate.com/{name}",
            "owner": request.match_info["owner"],
            "name": request.match_info["name"],
            "description": "A simulated model",
            "visibility": "public",
            "github_url": None,
            "paper_url": None,
            "license_url": None,
            "run_count": sum(job.order.model == name for job in self._desk.jobs),
            "cover_image_url": None,
            "default_example": None,
            "latest_version": _describe_version(name),
        }
        return web.json_response(described)

    async def list_versions(self, request: web.Request) -> web.Response:
        """GET /v1/models/{owner}/{name}/versions: one."""
        name = _name(request)
        if not self._knows(name):
            return detail(404, "The requested resource could not be found.")
        return web.json_response({"previous": None, "next": None, "results": [_describe_version(name)]})

    async def show_version(self, request: web.Request) -> web.Response:
        """GET /v1/models/{owner}/{name}/versions/{version}."""
        name = _name(request)
        if not self._knows(name) or request.match_info["version"] != name_version(name):
            return detail(404, "The requested resource could not be found.")
        return web.json_response(_describe_version(name))

    async def show_secret(self, request: web.Request) -> web.Response:
        """GET /v1/webhooks/default/secret."""
        return web.json_response({"key": self._webhooks.secret})

    # --- parts

    @web.middleware
    async def _admit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        # Bearer with any key, or with the one key of the options; all of /v1 needs it.
        word, _, key = request.headers.get("Authorization", "").partition(" ")
        expected = self._options.api_key
        genuine = word.lower() == "bearer" and key.strip() and expected in (None, key.strip())
        if request.path.startswith("/v1/") and not genuine:
            return unauthenticated()
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _read_body(self, request: web.Request) -> Body | web.Response:
        try:
            body = json.loads(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return problem(413, "Payload too large", "The request body is too large.")
        except (ValueError, RecursionError):
            return problem(400, "Bad request", "The request body is not valid JSON.")
        if not isinstance(body, dict):
            return problem(400, "Bad request", "The request body must be a JSON object.")
        self._workshop.describe(request, body=body)
        return body

    def _knows(self, name: str) -> bool:
        models = self._options.models
        return name in models if models is not None else re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None

    def _find_version(self, version: str) -> str | None:
        name, colon, digits = version.rpartition(":") if ":" in version else (version, "", "")
        if "/" in name:
            return name if not colon or digits == name_version(name) else None
        known = MODELS if self._options.models is None else self._options.models
        return next((model for model in known if name_version(model) == version), None)

    def _write_order(self, prediction: PredictionOrder, deadline_s: float | None) -> JobOrder:
        hardware = prediction.model.hardware
        amount = prediction.amount_usd
        if self._options.price_usd is not None:
            amount = self._options.price_usd * len(prediction.outputs)
        asked = {
            "input": dict(prediction.given),
            "webhook": prediction.webhook,
            "events": prediction.events,
        }
        return JobOrder(
            model=prediction.name,
            prompt=prediction.prompt,
            outputs=prediction.outputs,
            price_usd=amount,
            takes_s=prediction.runs_s,
            waits_s=self._options.boot_s,
            refusal_usd=amount if hardware else NOTHING,
            failure_usd=amount if hardware else NOTHING,
            pays_on_success=not hardware,
            deadline_s=deadline_s,
            asked=asked,
        )

    def _describe(self, job: Job) -> Body:
        order, model, scale = job.order, find_model(job.order.model), self._options.time_scale
        lifetime_ms = OUTPUT_LIFETIME_S * scale * 1000
        removed = job.ended_ms is not None and self._options.now_ms() > job.ended_ms + lifetime_ms
        links = [job.origin + link for link in job.links]
        output: str | list[str] | None = None
        if links and not removed:
            output = links if model.listed else links[0]
        base = f"{job.origin}/v1/predictions/{job.id}"
        return {
            "id": job.id,
            "model": order.model,
            "version": "hidden" if model.official else name_version(order.model),
            "status": name_status(job),
            "input": {} if removed else order.asked["input"],
            "output": output,
            "logs": "" if job.began_ms is None else f"Using seed: {sum(order.prompt.encode())}\n",
            "error": self._write_failure(job),
            "metrics": self._measure(job),
            "data_removed": removed,
            "created_at": write_instant(job.created_ms),
            "started_at": None if job.began_ms is None else write_instant(job.began_ms),
            "completed_at": None if job.ended_ms is None else write_instant(job.ended_ms),
            "urls": {"get": base, "cancel": base + "/cancel", "web": f"{job.origin}/p/{job.id}"},
        }

    def _write_failure(self, job: Job) -> str | None:
        match job.stage:
            case Stage.REFUSED:
                return FLAGGED if job.fault is FaultKind.CONTENT_MODERATED else NSFW
            case Stage.FAILED:
                return self._options.failure_text
            case _:
                return None

    def _measure(self, job: Job) -> dict[str, float]:
        if job.stage not in ENDED or job.began_ms is None:
            return {}
        ran_s = measure_run_s(job, self._options.time_scale)
        return {"predict_time": ran_s, "total_time": ran_s + job.order.waits_s}

    def _price_cancelled(self, job: Job) -> Decimal:
        # Before its start a prediction is free; after it, hardware is paid by the time.
        if not find_model(job.order.model).hardware or job.order.takes_s == 0:
            return NOTHING
        part = measure_run_s(job, self._options.time_scale) / job.order.takes_s
        return round(job.order.price_usd * Decimal(str(part)), 9)

    def _tell(self, job: Job) -> None:
        self._webhooks.tell(job)

    def _turn_away(self, fault: Fault) -> web.Response:
        match fault.kind:
            case FaultKind.THROTTLED:
                wait_s = 1.0 if fault.retry_after_s is None else fault.retry_after_s
                told = f"Request was throttled. Your rate limit resets in ~{math.ceil(wait_s)}s."
                refused = problem(429, "Rate limited", told)
                if self._options.retry_after_header:
                    refused.headers["Retry-After"] = f"{wait_s:g}"
                return refused
            case FaultKind.QUOTA:
                told = "You have insufficient credit to run this model. Please buy credit and try again."
                return problem(402, "Insufficient credit", told)
            case FaultKind.INVALID_KEY:
                return unauthenticated()
            case FaultKind.UNSUPPORTED_PARAMETER:
                return invalid([Mistake(f"input.{fault.param}", f"{fault.param} is not supported by this model")])
            case FaultKind.MODEL_NOT_FOUND:
                return detail(404, "The requested resource could not be found.")
            case FaultKind.BAD_GATEWAY:
                return show_page(502, "502 Bad Gateway")
            case FaultKind.SERVER_ERROR:
                return problem(500, "Internal server error", "Something went wrong on our side.")
            case _:
                busy = problem(503, "Service unavailable", "The service is temporarily unavailable.")
                if fault.retry_after_s is not None:
                    busy.headers["Retry-After"] = f"{fault.retry_after_s:g}"
                return busy


def name_prediction(entry: str) -> str:
    """A prediction's id, 26 letters and digits, made from a UUID of the bill."""
    return base64.b32encode(bytes.fromhex(entry.replace("-", ""))).decode().rstrip("=").lower()


def name_status(job: Job) -> str:
    """The vendor's word for where a job is. `aborted`: its deadline came before it began; the SDK does not know it."""
    match job.stage:
        case Stage.WAITING:
            return "starting"
        case Stage.RUNNING:
            return "processing"
        case Stage.SUCCEEDED:
            return "succeeded"
        case Stage.REFUSED | Stage.FAILED:
            return "failed"
        case Stage.CANCELLED:
            return "aborted" if job.overdue and job.began_ms is None else "canceled"
        case _:
            assert_never(job.stage)


def measure_run_s(job: Job, time_scale: float) -> float:
    """The unscaled seconds at work that are billed and reported: the order's, or fewer of a job that was cancelled."""
    if job.began_ms is None or job.ended_ms is None:
        return 0.0
    if job.stage is not Stage.CANCELLED or time_scale == 0:
        return job.order.takes_s
    return min(job.order.takes_s, round((job.ended_ms - job.began_ms) / 1000 / time_scale, 3))


def detail(status: int, text: str) -> web.Response:
    """The older error body: one sentence."""
    return web.json_response({"detail": text}, status=status)


def problem(status: int, title: str, text: str, **more: object) -> web.Response:
    """The error body of RFC 7807."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": text, **more}
    return web.json_response(body, status=status, content_type="application/problem+json")


def invalid(mistakes: list[Mistake]) -> web.Response:
    """The body for an input that breaks rules: a row for each."""
    told = "".join(f"- {mistake.field}: {mistake.description}\n" for mistake in mistakes)
    rows = [{"field": mistake.field, "description": mistake.description} for mistake in mistakes]
    return problem(422, "Input validation failed", told, invalid_fields=rows)


def unauthenticated() -> web.Response:
    """The answer to a missing or wrong key."""
    return problem(401, "Unauthenticated", "You did not pass a valid authentication token")


def _name(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def _describe_version(name: str) -> Body:
    return {
        "id": name_version(name),
        "created_at": write_instant(1_767_225_600_000),
        "cog_version": "0.16.8",
        "openapi_schema": write_schema(find_model(name)),
    }


def _takes_webhook(url: str) -> bool:
    # The vendor wants https; plain http is taken where nothing leaves the machine.
    return url.startswith("https://") or reaches_loopback(url)
