"""The native task object of contract 5.3: every field present, null when absent or unknown, money as strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from router.money import usd_of
from router.persistence import TaskView
from router.policy.errors import openai_type
from router.policy.parts import count_repeats
from router.provider import Usage
from router.task import Attempt, AttemptState, Error, Output, State, Task, bill


@dataclass(frozen=True, slots=True)
class Sight:
    """What of a task is not in its row: links, its place in the queue, how far its upstream is.

    `eta_s` is how many seconds its end is away.
    """

    link: Callable[[Output], str]
    progress: int = 0
    queue_position: int | None = None
    eta_s: float | None = None
    events_url: str | None = None


def render(view: TaskView, sight: Sight) -> dict[str, Any]:
    """Render a task with its attempts."""
    task, summary = view.task, bill(view.task, view.attempts)
    output = [_output(one, sight.link) for one in task.output]
    return {
        "id": task.id,
        "object": "task",
        "kind": task.kind.value,
        "status": task.state.value,
        "progress": progress_of(view, sight),
        "model": task.model,
        "provider": task.provider,
        "target_model": task.target_model,
        "surface": task.surface,
        "priority": task.priority.word,
        "input": _input(task.input),
        "metadata": dict(task.metadata),
        "output": output,
        "output_url": output[0]["url"] if output else None,
        "usage": _usage(task.usage),
        "cost": {
            "total_usd": usd_of(summary.total_nanos),
            "wasted_usd": usd_of(summary.wasted_nanos),
            "billing": summary.billing.value,
        },
        "retry_count": count_repeats(view.attempts),
        "queue_position": sight.queue_position,
        "eta_seconds": sight.eta_s,
        "latency_ms": None if task.completed_at is None else task.completed_at - task.created_at,
        "attempts": [attempt(one, sight.link) for one in view.attempts],
        "error": None if task.error is None or task.state is State.SUCCEEDED else error_of(view, task.error),
        "warnings": list(task.warnings),
        "retry_of": task.retry_of,
        "events_url": sight.events_url,
        "request_id": task.request_id,
        "created_at": time_of(task.created_at),
        "started_at": time_of(task.started_at),
        "updated_at": time_of(task.updated_at),
        "completed_at": time_of(task.completed_at),
        "expires_at": time_of(task.expires_at),
    }


def _input(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Show what was asked; of an input file what it is and where it came from, not where we keep it."""
    shown = dict(fields)
    files = shown.get("files")
    if isinstance(files, list):
        shown["files"] = [{name: value for name, value in row.items() if name != "key"} for row in files]
    return shown


def attempt(one: Attempt, link: Callable[[Output], str]) -> dict[str, Any]:
    """Render one attempt."""
    return {
        "n": one.n,
        "part": one.part,
        "provider": one.provider,
        "target": one.target,
        "target_model": one.target_model,
        "outcome": one.outcome,
        "http_status": one.http_status,
        "billing": one.billing.value,
        "cost_usd": usd_of(one.cost_nanos) if one.state is AttemptState.ENDED else None,
        "estimated": one.estimated,
        "remote_id": None if one.handle is None else one.handle.remote_id,
        "started_at": time_of(one.started_at),
        "ended_at": time_of(one.ended_at),
        "detail": one.detail,
        "output": [_output(result, link) for result in one.output],
    }


def error_of(view: TaskView, reason: Error) -> dict[str, Any]:
    """Render the error of a task with its bill: the object of contract 5.5 without `attempts`."""
    return error(replace(reason, billing=bill(view.task, view.attempts).billing), view.task.id, view.task.request_id)


def error(reason: Error, task_id: str, request_id: str) -> dict[str, Any]:
    """Render an error with the id of its task."""
    return {
        "message": reason.message,
        "type": openai_type(reason.error_type),
        "param": reason.param,
        "code": reason.code,
        "error_type": reason.error_type,
        "retryable": reason.retryable,
        "billing": reason.billing.value,
        "task_id": task_id,
        "request_id": request_id,
        "details": dict(reason.details),
    }


def progress_of(view: TaskView, sight: Sight) -> int:
    """0 while pending, 100 only when succeeded (contract 5.3)."""
    match view.task.state:
        case State.SUCCEEDED:
            return 100
        case State.PENDING:
            return 0
        case State.EXPIRED:
            return 100 if is_swept(view.task) else 0
        case State.RUNNING | State.RETRYING | State.FAILED | State.CANCELLED:
            return min(99, sight.progress)


def is_swept(task: Task) -> bool:
    """Whether a task succeeded and retention removed its output; one that expired unstarted has an error."""
    return task.state is State.EXPIRED and task.error is None


@lru_cache(maxsize=1_000)
def time_of(instant: int | None, timespec: str = "milliseconds") -> str | None:
    """Write an instant as RFC 3339 in UTC with milliseconds, or with seconds where a dialect prints it so."""
    if instant is None:
        return None
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _output(one: Output, link: Callable[[Output], str]) -> dict[str, Any]:
    return {
        "url": link(one),
        "content_type": one.content_type,
        "bytes": one.bytes,
        "width": one.width,
        "height": one.height,
        "sha256": one.sha256,
        "revised_prompt": one.revised_prompt,
    }


def _usage(usage: Usage | None) -> Mapping[str, int | None] | None:
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
