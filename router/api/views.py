"""Seeing a task as a caller does: its row in a dialect, with links, progress and place in the queue. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from router.api import links
from router.api.auth import SERVICES
from router.api.dialects import dieyuyun, native, pixapi, videos, worldrouter
from router.api.dialects.native import Sight
from router.api.errors import Refusal, invalid
from router.api.replies import SURFACE
from router.api.services import Services
from router.money import usd_of
from router.persistence import TaskView
from router.policy import route
from router.task import Output, State, Task, bill, canonical_id

RENDERERS: Mapping[tuple[str, str], Callable[[TaskView, Sight], dict[str, Any]]] = {
    ("dieyuyun", "image"): dieyuyun.render,
    ("dieyuyun", "video"): dieyuyun.render,
    ("pixapi", "image"): pixapi.render,
    ("pixapi", "video"): pixapi.render,
    ("worldrouter", "image"): worldrouter.render,
    ("openai", "video"): videos.render,
}
"""How each dialect shows each family of kinds; what is not here it cannot show. OpenAI has an object for films only."""
DIALECTS = ("native", "dieyuyun", "pixapi", "worldrouter", "openai")
PROGRESS_CAP = 95
NO_TASK = "task_"  # no task has this id; what callers make up is not shown to the store


def base_of(request: web.Request) -> str:
    """The base of links: `PUBLIC_URL`, else the request's own Host (contract 5.1)."""
    services = request.app[SERVICES]
    return services.public_url or f"{request.scheme}://{request.host}"


def sight_of(request: web.Request, view: TaskView) -> Sight:
    """Gather what of a task is not in its row."""
    return sight_from(request.app[SERVICES], base_of(request), view)


def sight_from(services: Services, base: str, view: TaskView) -> Sight:
    """The same where nobody asks: `base` is where links begin."""
    task = view.task
    return Sight(
        link=lambda output: link_of(services, base, task, output),
        progress=progress_of(services, view),
        queue_position=position_of(services, task),
        eta_s=_eta_s(services, view),
        events_url=links.events_link(services.signing_secret, base, task.tenant, task.id, _until_s(services, task)),
    )


def progress_of(services: Services, view: TaskView) -> int:
    """How far a task is, in percent, and no less than was said before."""
    return services.life.runtime.progress.tell(view.task.id, _progress(services, view))


def position_of(services: Services, task: Task) -> int | None:
    """About how many go before a task that waits on this daemon; None when it does not."""
    return services.life.runtime.queue.position(task.id) if task.state is State.PENDING else None


def link_of(services: Services, base: str, task: Task, output: Output) -> str:
    """Sign a link to an output."""
    return links.file_link(services.signing_secret, base, output.key, _until_s(services, task))


def speak(request: web.Request, task: Task | None = None) -> None:
    """Settle in whose words errors of this request are told: the view asked for, else the task's surface."""
    asked = request.query.get("view")
    if asked is not None and asked not in DIALECTS:
        invalid("view", f"view must be one of {', '.join(DIALECTS)}.")
    if asked is not None or task is not None:
        request[SURFACE] = asked or ("native" if task is None else task.surface)


def dialect_of(request: web.Request, task: Task) -> str:
    """The dialect to show a task in: the view asked for, else that of its surface; OpenAI-surface tasks are native."""
    return request.query.get("view") or ("native" if task.surface == "openai" else task.surface)


def refuse_unshowable(request: web.Request, task: Task) -> None:
    """Refuse a view that has no form for a task of this kind."""
    asked = request.query.get("view")
    if asked in {"dieyuyun", "pixapi", "worldrouter"} and (asked, task.kind.family) not in RENDERERS:
        invalid("view", f"The {asked} view has no form for a task of the kind {task.kind.value}.")


def render(request: web.Request, view: TaskView) -> dict[str, Any]:
    """Render a task in the dialect of the request; natively where the dialect has no object for its kind."""
    renderer = RENDERERS.get((dialect_of(request, view.task), view.task.kind.family), native.render)
    return renderer(view, sight_of(request, view))


def task_headers(view: TaskView, *, replayed: bool = False) -> dict[str, str]:
    """`X-Task-Id`, the cost where it is known and new, and whether an ending was replayed (contract 5.3, 5.4)."""
    headers = {"X-Task-Id": view.task.id}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
        return headers
    total = usd_of(bill(view.task, view.attempts).total_nanos) if view.task.is_terminal else None
    if total is not None:
        headers["X-Cost-USD"] = headers["x-litellm-response-cost"] = total
    return headers


def refusal_of(request: web.Request, view: TaskView, *, replayed: bool = False) -> Refusal:
    """The error of a task that ended without a result, for a caller who waited for it."""
    services, task = request.app[SERVICES], view.task
    error = task.error
    if error is None:
        raise AssertionError(task.state)
    attempts = [
        native.attempt(one, lambda output: link_of(services, base_of(request), task, output)) for one in view.attempts
    ]
    # A cancel is written before the bill of the attempt that was out; the attempts know the bill as it is now.
    error = replace(error, billing=bill(task, view.attempts).billing)
    return Refusal(error, task_id=task.id, attempts=attempts, headers=task_headers(view, replayed=replayed))


def task_id_of(request: web.Request) -> str:
    """Read the id in the path, in any of its three spellings; an ill-formed one is as unknown as any other."""
    return canonical_id(request.match_info["id"]) or NO_TASK


def _until_s(services: Services, task: Task) -> int:
    """Until when a link of a task lives: for `link_ttl`, and at most until the task's output goes (contract 5.1)."""
    until = services.now() + round(services.life.runtime.rules.defaults.link_ttl_s * 1000)
    return (until if task.expires_at is None else min(until, task.expires_at)) // 1000


def _progress(services: Services, view: TaskView) -> int:
    """The upstream's own word, else elapsed time against what is usual for the target, capped (contract 5.3)."""
    live = services.life.runtime.live.get(view.task.id)
    said = 0 if live is None else live.progress
    expected_s = _expected_s(services, view)
    if not expected_s:
        return said
    return max(said, min(PROGRESS_CAP, int(100 * _elapsed_s(services, view) / expected_s)))


def _eta_s(services: Services, view: TaskView) -> float | None:
    """How long a task should still take; None before enough has been seen, and while it waits for another attempt.

    One that waits takes its turn in the queue, and then as long as is usual for the first target of its model that
    enough has been seen of.
    """
    if view.task.state is State.PENDING:
        expected_s = _usual_s(services, view.task)
        wait_s = None if expected_s is None else services.life.runtime.queue.wait_s(view.task.id)
        return None if wait_s is None or expected_s is None else round(wait_s + expected_s, 1)
    expected_s = _expected_s(services, view)
    return None if expected_s is None else round(max(0.0, expected_s - _elapsed_s(services, view)), 1)


def _usual_s(services: Services, task: Task) -> float | None:
    runtime = services.life.runtime
    model = runtime.rules.model(task.model)
    for target in () if model is None else model.otherwise.targets:
        expected_s = runtime.fleet.expected_s(runtime.rules.providers[target.provider], target)
        if expected_s is not None:
            return expected_s
    return None


def _elapsed_s(services: Services, view: TaskView) -> float:
    return max(0, services.now() - view.attempts[-1].started_at) / 1000


def _expected_s(services: Services, view: TaskView) -> float | None:
    """The median of what the running attempt's target takes; None below 20 samples."""
    if view.task.state is not State.RUNNING or not view.attempts:
        return None
    last, runtime = view.attempts[-1], services.life.runtime
    found = route.reconstruct(runtime.rules, view.task.model, last.provider, last.target, last.target_model)
    return None if found is None else runtime.fleet.expected_s(found.provider, found.target)
