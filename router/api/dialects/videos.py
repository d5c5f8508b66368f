"""OpenAI's video object (openai-videos.md section 3), as its SDK's strict validation wants it. Pure rendering, floor 3.

The types demand a text for `seconds` and `size`, also where a caller said neither: then it is what the API documents as
the default of an unsaid field. A size that OpenAI does not have is told as it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.api.dialects.native import Sight, progress_of
from router.flow.runtime import REMIX
from router.persistence import TaskView
from router.task import Error, State, Task

USUAL_SECONDS = "4"
USUAL_SIZE = "720x1280"
STATUS = {
    State.PENDING: "queued",
    State.RUNNING: "in_progress",
    State.RETRYING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}


def render(view: TaskView, sight: Sight) -> dict[str, Any]:
    """Render a video task in any state; one whose film was removed is still `completed` (contract section 1)."""
    task = view.task
    delivered = task.state is State.SUCCEEDED or is_removed(task)
    return {
        "id": id_of(task.id),
        "object": "video",
        "model": task.model,
        "status": status_of(task),
        "progress": progress_of(view, sight),
        "created_at": task.created_at // 1000,
        "completed_at": None if task.completed_at is None else task.completed_at // 1000,
        "expires_at": task.expires_at // 1000 if delivered and task.expires_at is not None else None,
        "seconds": _seconds_of(task),
        "size": _size_of(task),
        "prompt": task.input.get("prompt"),
        "remixed_from_video_id": _origin_of(task.input.get(REMIX)),
        "error": None if delivered or task.error is None else _error(task.error),
    }


def page(videos: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Render a page of video objects; the SDK goes on with `after=last_id`."""
    first, last = (videos[0]["id"], videos[-1]["id"]) if videos else (None, None)
    return {"object": "list", "data": videos, "first_id": first, "last_id": last, "has_more": has_more}


def deleted(task_id: str) -> dict[str, Any]:
    """Render the answer to a DELETE."""
    return {"id": id_of(task_id), "object": "video.deleted", "deleted": True}


def id_of(task_id: str) -> str:
    """Spell a task's id as OpenAI's videos do (contract 5.2)."""
    return f"video_{task_id.removeprefix('task_')}"


def status_of(task: Task) -> str:
    """Say the state in OpenAI's words: an expired task either lost its film, or was never begun."""
    if task.state is State.EXPIRED:
        return "completed" if is_removed(task) else "failed"
    return STATUS[task.state]


def is_removed(task: Task) -> bool:
    """Whether the task had succeeded and its output was removed since."""
    return task.state is State.EXPIRED and task.error is None


# -- parts ----------------------------------------------------------------------------------------------------------


def _seconds_of(task: Task) -> str:
    seconds = task.input.get("seconds")
    return str(seconds) if isinstance(seconds, int | str) else USUAL_SECONDS


def _size_of(task: Task) -> str:
    size = task.input.get("size")
    if isinstance(size, str) and size != "auto":
        return size
    made = next((one for one in task.output if one.width is not None), None)
    return USUAL_SIZE if made is None else f"{made.width}x{made.height}"


def _origin_of(remix: Mapping[str, str] | None) -> str | None:
    return None if remix is None else id_of(remix["task"])


def _error(error: Error) -> dict[str, Any]:
    return {"code": error.code, "message": error.message}
