"""What fal says of a request: the submit's reply, the status while it waits, runs and has ended, and the result.

It reads a job and changes nothing. The outcome shows in the result's status code; the status itself names an error of
the platform only, so a client that reads nothing but COMPLETED takes a model's refusal for a success.
Source: the provider file of fal, sections 2, 3 and 5.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from providers.simulated.fal_errors import Failure, find_failure
from providers.simulated.fal_order import FalOrder
from providers.simulated.film import Film, PyAVMissingError
from providers.simulated.job_desk import ENDED, Job, Stage
from providers.simulated.painter import Painter
from providers.simulated.picture import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was settled at acceptance. app: the first two segments of the endpoint id, below which the job is asked
    for; order: None for an input that the model refuses; outputs: what is made; price_usd: what that costs, and
    loss_usd what an end without it costs; failure: how the job ends without a result; black: links of the pictures that
    a safety checker put in place of the real ones; webhook_url: where the end is told.
    """

    app: str
    order: FalOrder | None
    outputs: tuple[Picture | Film, ...]
    price_usd: Decimal
    loss_usd: Decimal
    failure: Failure | None = None
    black: tuple[str, ...] = ()
    webhook_url: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in JSON: HTTP status, body, headers of its own."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def read_plan(job: Job) -> Plan:
    """The plan that travels with a job."""
    plan = job.order.asked["plan"]
    assert isinstance(plan, Plan)
    return plan


def find_end(job: Job) -> Failure | None:
    """Why an ended job has no result; None when it has one."""
    return find_failure("client_cancelled") if job.stage is Stage.CANCELLED else read_plan(job).failure


def describe_submit(job: Job, position: int) -> Reply:
    """The reply to a submit: the id and the three addresses."""
    address = _address(job)
    return Reply(
        200,
        {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "queue_position": position,
            "response_url": address,
            "status_url": f"{address}/status",
            "cancel_url": f"{address}/cancel",
        },
    )


def describe_status(job: Job, position: int, *, logs: bool) -> Reply:
    """The status: 202 until it has ended, 200 afterwards, whatever the end was. logs: whether lines are asked for."""
    body: dict[str, Any] = {"request_id": job.id, "response_url": _address(job)}
    if job.stage is Stage.WAITING:
        return Reply(202, {"status": "IN_QUEUE", "queue_position": position} | body)
    lines = _log(job) if logs else []
    if job.stage not in ENDED:
        return Reply(202, {"status": "IN_PROGRESS", "logs": lines} | body)
    body = {"status": "COMPLETED", "logs": lines, "metrics": {"inference_time": _inference_s(job)}} | body
    end = find_end(job)
    if end is not None and end.platform:
        body |= {"error": end.message, "error_type": end.type}
    return Reply(200, body)


async def describe_result(job: Job, painter: Painter) -> Reply:
    """The result: the model's output, or the failure under its own status. Before the end 400, which the file leaves
    open.
    """
    if job.stage not in ENDED:
        return Reply(400, {"detail": "Request is still in progress"})
    end = find_end(job)
    if end is not None:
        return Reply(end.status, end.body(), end.headers())
    return Reply(200, await _make_payload(job, painter))


async def _make_payload(job: Job, painter: Painter) -> dict[str, Any]:
    plan = read_plan(job)
    order, outputs = plan.order, job.order.outputs
    assert order is not None
    links = plan.black or job.links
    if order.video:
        video = {"url": job.origin + links[0], "content_type": "video/mp4", "file_name": "output.mp4"}
        try:
            return {"video": video | {"file_size": len(await painter.paint(outputs[0]))}}
        except PyAVMissingError:  # the download says so
            return {"video": video | {"file_size": None}}
    images = []
    for output, link in zip(outputs, links, strict=True):
        content_type, url = f"image/{order.format}", job.origin + link
        if order.inline:
            url = f"data:{content_type};base64,{base64.b64encode(await painter.paint(output)).decode()}"
        images.append({"url": url, "width": order.width, "height": order.height, "content_type": content_type})
    return {
        "images": images,
        "seed": order.seed,
        "has_nsfw_concepts": [bool(plan.black)] * len(images),
        "prompt": order.prompt,
        "timings": {},
    }


def _address(job: Job) -> str:
    return f"{job.origin}/{read_plan(job).app}/requests/{job.id}"


def _inference_s(job: Job) -> float:
    if job.began_ms is None or job.ended_ms is None:
        return 0.0
    return max(0, job.ended_ms - job.began_ms) / 1000


def _log(job: Job) -> list[dict[str, str]]:
    if job.began_ms is None:
        return []
    begun = {"message": "Running the model", "level": "INFO", "source": "USER", "timestamp": _show_time(job.began_ms)}
    end = find_end(job) if job.stage in ENDED else None
    if end is None or job.ended_ms is None:
        return [begun]
    return [
        begun,
        {"message": end.message, "level": "ERROR", "source": "USER", "timestamp": _show_time(job.ended_ms)},
    ]


def _show_time(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
