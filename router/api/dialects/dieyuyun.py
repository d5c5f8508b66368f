"""The Dieyuyun async dialect (dieyuyun.md sections 3 and 4, contract 5.2): flat bodies, six states, ISO times.

Pictures and films have the same bodies. `progress` and `model_code` stand in all states, because the printed samples
read `progress` of whatever they get. Floor 3.
"""

from __future__ import annotations

from typing import Any

from router.api.dialects.native import Sight, progress_of, time_of
from router.persistence import TaskView
from router.task import State, Task

STATUS = {
    State.PENDING: "queued",
    State.RUNNING: "processing",
    State.RETRYING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "expired",
}


def submitted(task: Task, request_id: str) -> dict[str, Any]:
    """Render the answer to a submit."""
    return {
        "id": task.id,
        "status": STATUS[task.state],
        "progress": 100 if task.state is State.SUCCEEDED else 0,
        "created_at": time_of(task.created_at, "seconds"),
        "request_id": request_id,
    }


def render(view: TaskView, sight: Sight) -> dict[str, Any]:
    """Render a task in any state; a cancelled or expired one is the in-progress body with that status."""
    task = view.task
    body: dict[str, Any] = {
        "id": task.id,
        "status": STATUS[task.state],
        "progress": progress_of(view, sight),
        "model_code": task.model,
        "created_at": time_of(task.created_at, "seconds"),
    }
    match task.state:
        case State.SUCCEEDED:
            body["result"] = {
                "created": (task.completed_at or task.updated_at) // 1000,
                "data": [{"url": sight.link(one), "revised_prompt": one.revised_prompt} for one in task.output],
            }
            usage = task.usage
            body["usage"] = {
                "input_tokens": None if usage is None else usage.input_tokens,
                "output_tokens": None if usage is None else usage.output_tokens,
            }
            body["completed_at"] = time_of(task.completed_at, "seconds")
        case State.FAILED:
            error_type = "internal_error" if task.error is None else task.error.error_type
            body["error_code"] = "upstream_error" if error_type == "provider_error" else error_type
            body["error_message"] = None if task.error is None else task.error.message
            body["failed_at"] = time_of(task.completed_at, "seconds")
        case _:
            body["updated_at"] = time_of(task.updated_at, "seconds")
    return body
