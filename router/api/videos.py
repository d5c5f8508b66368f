"""The videos API of OpenAI: create, list, read, delete, content, remix; and Dieyuyun's films. Floor 3.

A create never waits: it answers with the video object, which is read again until it has ended. With `"async": true` it
is Dieyuyun's submit (contract 5.2), whose task is read at `/v1/tasks/{id}`; `/v1/videos/generations` is Dieyuyun's
alone. Every video task of the caller is shown here, whatever surface it came in by; a task of another kind is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web

from router.api import files, submits, tasks, views
from router.api.auth import SERVICES, Principal, caller_of
from router.api.bodies import EXTRAS, IMAGE_BODY_MAX, TASK_BODY_MAX, Submission, read_json, read_submission
from router.api.dialects import dieyuyun, videos
from router.api.dialects.native import Sight
from router.api.errors import Refusal, invalid
from router.api.multipart import is_form, read_form
from router.api.replies import json_reply, request_id_of
from router.api.services import Services
from router.flow.draft import Accepted
from router.flow.runtime import FILES, REMIX
from router.outcome import SUCCEEDED
from router.persistence import TaskView
from router.provider import Kind
from router.shelf import FilmPage
from router.task import Error, State, Task, canonical_id

ROUTE: Final = "/v1/videos"
GENERATIONS: Final = "/v1/videos/generations"
LIMIT_MAX: Final = 100
VARIANTS: Final = ("video", "thumbnail", "spritesheet")
POLL_USUAL_S: Final = 2.0
POLL_MIN_S: Final = 1.0
POLL_MAX_S: Final = 10.0
REMIX_TAKES: Final = frozenset({"prompt"}) | (EXTRAS - {"model", "async", "stream"})


async def create(request: web.Request) -> web.StreamResponse:
    """`POST /v1/videos`, as a form or as JSON: the video object at once, or Dieyuyun's submit."""
    principal = await caller_of(request)
    submission = await _read(request, principal, ROUTE)
    if submission.asynchronous:
        return await _take_dieyuyun(request, principal, submission, ROUTE)
    return await _take(request, principal, submission, ROUTE)


async def generate(request: web.Request) -> web.StreamResponse:
    """`POST /v1/videos/generations`: Dieyuyun's films, which are asynchronous only."""
    principal = await caller_of(request)
    submission = await _read(request, principal, GENERATIONS)
    if not submission.asynchronous:
        invalid("async", 'Films of this path are asynchronous: send "async": true, or use POST /v1/videos.')
    return await _take_dieyuyun(request, principal, submission, GENERATIONS)


async def listing(request: web.Request) -> web.StreamResponse:
    """`GET /v1/videos`: the caller's films by age, newest first unless `order=asc`; `after` is an id."""
    principal, services = await caller_of(request), request.app[SERVICES]
    limit, order = request.query.get("limit", "20"), request.query.get("order", "desc")
    if not limit.isdecimal() or not 1 <= int(limit[:6]) <= LIMIT_MAX:
        invalid("limit", f"limit must be a whole number from 1 to {LIMIT_MAX}.")
    if order not in {"asc", "desc"}:
        invalid("order", "order must be asc or desc.")
    after = await _read_after(services, principal.tenant, request.query.get("after"))
    page = FilmPage(int(limit) + 1, oldest_first=order == "asc", after=after)
    found = await services.world.store.films(principal.tenant, page)
    shown = found[: int(limit)]
    for view in shown:
        services.life.waiters.told(view.task)
    data = [videos.render(view, views.sight_of(request, view)) for view in shown]
    return json_reply(200, videos.page(data, has_more=len(found) > len(shown)))


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /v1/videos/{id}`; `openai-poll-after-ms` says when to ask again."""
    return _show(request, _film(await tasks.look(request, await caller_of(request))))


async def delete(request: web.Request) -> web.StreamResponse:
    """`DELETE /v1/videos/{id}`: output and input of an ended task go at once; 409 for a live one."""
    principal = await caller_of(request)
    task = _film(await tasks.look(request, principal)).task
    await tasks.erase(request, principal, task.id)
    return json_reply(200, videos.deleted(task.id), {"X-Task-Id": task.id})


async def content(request: web.Request) -> web.StreamResponse:
    """`GET /v1/videos/{id}/content`: the film, whole or the range asked for; 404 where there is none."""
    principal, variant = await caller_of(request), request.query.get("variant", "video")
    if variant not in VARIANTS:
        invalid("variant", f"variant must be one of {', '.join(VARIANTS)}.")
    task = _film(await tasks.look(request, principal)).task
    if not task.output:
        raise _not_ready(task)
    if variant != "video":
        message = f"The provider of this film delivers no {variant}."
        raise Refusal(Error("not_found", message, "variant_unavailable", param="variant"), task_id=task.id)
    return await files.serve(request, task.output[0].key, {"X-Task-Id": task.id})


async def remix(request: web.Request) -> web.StreamResponse:
    """`POST /v1/videos/{id}/remix`: the film anew with another prompt, by the target that made it and no other."""
    principal, services = await caller_of(request), request.app[SERVICES]
    body = await read_json(request, IMAGE_BODY_MAX)
    for name in body:
        if name not in REMIX_TAKES and body[name] is not None:
            invalid(
                name, f"A remix takes a prompt, and what every submit takes, but no {name}; the rest is the film's."
            )
    found = await services.world.store.view(principal.tenant, views.task_id_of(request))
    if found is None:
        raise tasks.no_such_task()
    original, origin = _film(found).task, _origin_of(found)
    route = f"{ROUTE}/{videos.id_of(original.id)}/remix"
    kept = {name: value for name, value in original.input.items() if name not in {FILES, REMIX, "prompt", "n"}}
    fields = {**kept, "prompt": body.get("prompt")}
    submission = read_submission({**body, "model": original.model}, original.kind, route, fields)
    submission = replace(submission, input={**submission.input, REMIX: origin})
    return await _take(request, principal, submission, route)


# -- submits --------------------------------------------------------------------------------------------------------


async def _read(request: web.Request, principal: Principal, route: str) -> Submission:
    """Read what was asked, as a form or as JSON."""
    if is_form(request):
        form = await read_form(request, principal.tenant)
        return read_submission(form.fields, Kind.VIDEO_GENERATION, route, form.fields, files=form.files)
    body = await read_json(request, TASK_BODY_MAX)
    return read_submission(body, Kind.VIDEO_GENERATION, route, body)


async def _take(request: web.Request, principal: Principal, submission: Submission, route: str) -> web.StreamResponse:
    """Make a task and answer with its video object, as it is now."""
    kind = Kind.VIDEO_GENERATION
    draft = submits.draft_of(request, principal, submission, kind=kind, surface="openai", route=route)
    accepted = await submits.take(request, draft)
    view = await _view_of(request, accepted)
    return _show(request, view, submits.replay_headers(accepted))


async def _take_dieyuyun(
    request: web.Request, principal: Principal, submission: Submission, route: str
) -> web.StreamResponse:
    kind = Kind.VIDEO_GENERATION
    draft = submits.draft_of(request, principal, submission, kind=kind, surface="dieyuyun", route=route)
    accepted = await submits.take(request, draft)
    reply = dieyuyun.submitted(accepted.task, request_id_of(request))
    return json_reply(200, reply, submits.replay_headers(accepted))


async def _view_of(request: web.Request, accepted: Accepted) -> TaskView:
    """A task just accepted is as it was made; one that existed before is read."""
    task, store = accepted.task, request.app[SERVICES].world.store
    return (await store.view(task.tenant, task.id) if accepted.replayed else None) or TaskView(task, ())


def _origin_of(view: TaskView) -> Mapping[str, str]:
    """Say which job at which target a remix begins with; 409 where there is no finished film, 400 where no job."""
    task = view.task
    if task.state is not State.SUCCEEDED:
        message = f"Only a finished film can be remixed; this one is {videos.status_of(task)}"
        message += ", and was removed." if videos.is_removed(task) else "."
        raise Refusal(Error("conflict", message, "conflict", param="video_id"), task_id=task.id)
    makers = [one for one in view.attempts if one.outcome == SUCCEEDED and one.handle is not None]
    if not makers or makers[-1].handle is None:
        invalid("video_id", "The provider that made this film gave it no name of its own, so it cannot be remixed.")
    maker, handle = makers[-1], makers[-1].handle
    return {
        "task": task.id,
        "provider": maker.provider,
        "target": maker.target,
        "model": maker.target_model,
        "remote_id": handle.remote_id,
    }


# -- answers --------------------------------------------------------------------------------------------------------


def _film(view: TaskView) -> TaskView:
    """A task of another kind is not there for this surface (contract 5.2)."""
    if view.task.kind is not Kind.VIDEO_GENERATION:
        raise tasks.no_such_task()
    return view


def _show(request: web.Request, view: TaskView, more: Mapping[str, str] | None = None) -> web.StreamResponse:
    sight = views.sight_of(request, view)
    headers = {"X-Task-Id": view.task.id, **(more or {})}
    if not view.task.is_terminal:
        headers["openai-poll-after-ms"] = str(_poll_after_ms(request.app[SERVICES], sight))
    return json_reply(200, videos.render(view, sight), headers)


def _poll_after_ms(services: Services, sight: Sight) -> int:
    """When to ask again: ten times until the end where that is foreseen, within bounds; the SDK keeps the first."""
    wait_s = POLL_USUAL_S if sight.eta_s is None else min(POLL_MAX_S, max(POLL_MIN_S, sight.eta_s / 10))
    return max(1, round(1000 * wait_s * services.life.runtime.time_scale))


def _not_ready(task: Task) -> Refusal:
    """Why there is no film to be had; asking again helps only while one may come."""
    told = {
        "queued": "The film is not begun yet.",
        "in_progress": "The film is being made.",
        "failed": "No film was made.",
        "completed": "The film was removed.",
    }[videos.status_of(task)]
    error = Error("not_found", told, "video_not_ready", retryable=not task.is_terminal)
    return Refusal(error, task_id=task.id, retry_after_s=None if task.is_terminal else POLL_USUAL_S)


async def _read_after(services: Services, tenant: str, after: str | None) -> tuple[int, str] | None:
    """Find the place of a film of the caller's own."""
    if after is None:
        return None
    view = await services.world.store.view(tenant, canonical_id(after) or "")
    if view is None or view.task.kind is not Kind.VIDEO_GENERATION:
        invalid("after", "after must be the id of one of your videos.")
    return view.task.created_at, view.task.id
