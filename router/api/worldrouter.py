"""The WorldRouter surface: `POST /v1/images/generation_tasks` and `GET /v1/images/generation_tasks/{id}`. Floor 3.

A `response_format` other than `url` and a missing model or prompt are refused. Any other field of the surface that we,
or all targets of the model, cannot use is left out without a word, as its document promises (contract 5.2). The extras
of 5.4 are ours and are judged as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from router.api import submits, tasks, views
from router.api.auth import SERVICES, caller_of
from router.api.bodies import EXTRAS, IMAGE_BODY_MAX, N_MAX, fits, read_json, read_submission
from router.api.dialects import worldrouter
from router.api.errors import invalid
from router.api.replies import json_reply
from router.api.services import Services
from router.flow.draft import Draft
from router.provider import Kind

ROUTE: Final = "/v1/images/generation_tasks"
OPTIONAL: Final = (
    *("n", "size", "quality", "style", "background", "moderation"),
    *("output_compression", "output_format", "user"),
)
"""The fields of worldrouter.md section 3 that a model may not honour."""


async def create(request: web.Request) -> web.StreamResponse:
    """Take an image generation; 200 with the task."""
    principal, services = await caller_of(request), request.app[SERVICES]
    body = await read_json(request, IMAGE_BODY_MAX)
    if not body.get("model"):
        invalid("model", "model is required.", code="missing_required_parameter")
    if body.get("response_format") not in (None, "url"):
        invalid("response_format", "response_format must be url: tasks give links.")
    submission = read_submission(_usable(body), Kind.IMAGE_GENERATION, ROUTE, _usable(body))
    draft = submits.draft_of(
        request, principal, submission, kind=Kind.IMAGE_GENERATION, surface="worldrouter", route=ROUTE
    )
    accepted = await submits.take(request, await _feasible(services, draft))
    return json_reply(200, worldrouter.submitted(accepted.task), submits.replay_headers(accepted))


async def read(request: web.Request) -> web.StreamResponse:
    """Show an image task, whatever surface it came in by; 404 for other kinds. `Prefer: wait=N` holds until it ends."""
    principal = await caller_of(request)
    view = await tasks.look(request, principal)
    if view.task.kind.family != "image":
        raise tasks.no_such_task()
    return json_reply(200, worldrouter.render(view, views.sight_of(request, view)), {"X-Task-Id": view.task.id})


# -- parts ----------------------------------------------------------------------------------------------------------


def _usable(body: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the surface has and what can be meant: `jpg` is jpeg, n is capped, the rest goes."""
    kept = {
        name: value
        for name, value in body.items()
        if name in {"prompt", "response_format"} or (name in EXTRAS and name not in {"async", "stream"})
    }
    for name in OPTIONAL:
        value = body.get(name)
        if name == "output_format" and value == "jpg":
            value = "jpeg"
        if name == "n" and isinstance(value, int) and not isinstance(value, bool):
            value = min(value, N_MAX)
        if value is not None and fits(name, value):
            kept[name] = value
    return kept


async def _feasible(services: Services, draft: Draft) -> Draft:
    """Leave out what no target of the model honours. Each turn drops one field, so there is an end."""
    while True:
        problem = await services.life.intake.judge(draft)
        if problem is None or problem.param not in OPTIONAL or problem.param not in draft.input:
            return draft
        draft = replace(draft, input={name: value for name, value in draft.input.items() if name != problem.param})
