"""The WorldRouter dialect of image tasks (worldrouter.md sections 3 and 4, contract 5.2): `imgtask_` ids, URLs only.

Floor 3.
"""

from __future__ import annotations

from typing import Any

from router.api.dialects import native
from router.api.dialects.native import Sight, is_swept, time_of
from router.persistence import TaskView
from router.task import Error, State, Task

STATUS = {
    State.PENDING: "queued",
    State.RUNNING: "in_progress",
    State.RETRYING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
    State.EXPIRED: "failed",
}


def submitted(task: Task) -> dict[str, Any]:
    """Render what every state has, which is also the answer to a submit."""
    task_id = f"imgtask_{task.id.removeprefix('task_')}"
    return {
        "id": task_id,
        "object": "image.generation_task",
        "created": task.created_at // 1000,
        "task_id": task_id,
        "status": "completed" if is_swept(task) else STATUS[task.state],
        "model": task.model,
        "created_at": (time_of(task.created_at, "seconds") or "").replace("Z", "+00:00"),
    }


def render(view: TaskView, sight: Sight) -> dict[str, Any]:
    """Render an image task in any state; a cancelled or expired one has failed, by its error."""
    task, body = view.task, submitted(view.task)
    if body["status"] == "completed":
        body["data"] = [{"url": sight.link(one)} for one in task.output]
        body["usage"] = _usage(task)
    elif body["status"] == "failed":
        # The document does not print its members: those of contract 5.5, which has OpenAI's among them.
        reason = task.error or Error("internal_error", "The task failed.", "internal_error")
        body["error"] = native.error_of(view, reason)
    return body


def _usage(task: Task) -> dict[str, int | None]:
    said, made = (None, None) if task.usage is None else (task.usage.input_tokens, task.usage.output_tokens)
    total = None if said is None or made is None else said + made
    return {"input_tokens": said, "output_tokens": made, "total_tokens": total}
