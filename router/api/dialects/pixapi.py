"""The Pixapi async dialect (pixapi.md sections 3 to 5, contract 5.2): four states, unix times, the cost in credits.

A task has one shape in all states, with what its state adds: the submit's `created_at` while nothing has been made, the
`result` of a completed one, the `error` of a failed one. Floor 3.
"""

from __future__ import annotations

from typing import Any

from router.api.dialects.native import Sight, is_swept, progress_of
from router.persistence import TaskView
from router.policy.errors import status_of
from router.task import Error, State, Task, bill

STATUS = {
    State.PENDING: "submitted",
    State.RUNNING: "processing",
    State.RETRYING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
    State.EXPIRED: "failed",
}
CANCELLED_CODE = 499  # that of nginx for a client that went away; contract 5.2
NANOS_PER_CREDIT = 10_000_000  # a credit is a cent


def submitted(task: Task) -> dict[str, Any]:
    """Render the answer to a submit."""
    return {
        "status": _status(task),
        "id": task.id,
        "progress": 100 if _status(task) == "completed" else 0,
        "created_at": task.created_at // 1000,
        "model": task.model,
    }


def render(view: TaskView, sight: Sight) -> dict[str, Any]:
    """Render an image or a video task in any state; a cancelled or expired one has failed, by its error."""
    task, status = view.task, _status(view.task)
    body: dict[str, Any] = {"id": task.id, "status": status, "model": task.model, "progress": progress_of(view, sight)}
    match status:
        case "completed":
            body["credits_cost"] = _credits(view)
            body["result"] = {"type": task.kind.family, "data": [{"url": sight.link(one)} for one in task.output]}
        case "failed":
            reason = task.error or Error("internal_error", "The task failed.", "internal_error")
            code = CANCELLED_CODE if reason.error_type == "cancelled" else status_of(reason)
            body["credits_cost"] = _credits(view)
            body["error"] = error(reason, code)
        case _:
            body["created_at"] = task.created_at // 1000
    body["created"] = task.created_at // 1000
    body["completed"] = None if task.completed_at is None else task.completed_at // 1000
    return body


def error(reason: Error, code: int) -> dict[str, Any]:
    """Render an error: `code` is the HTTP status. There is no `param`, so the message names the field."""
    named = reason.param is None or reason.param in reason.message
    message = reason.message if named else f"{reason.param}: {reason.message}"
    return {"code": code, "message": message, "type": reason.error_type}


def _status(task: Task) -> str:
    return "completed" if is_swept(task) else STATUS[task.state]


def _credits(view: TaskView) -> float | None:
    """100 x USD, None when the amount is unknown."""
    total = bill(view.task, view.attempts).total_nanos
    return None if total is None else total / NANOS_PER_CREDIT
