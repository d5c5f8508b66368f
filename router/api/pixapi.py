"""The Pixapi surface: `POST /v1/async/images/generations`, `/images/edits` and `/videos/generations`. Floor 3.

Bodies are those of the calls without `/async`, so they are read by the same functions; the path says that the answer is
a task, and an `async` field is ignored (contract 5.2). Films take Pixapi's own names, too. Tasks are read at
`/v1/tasks/{id}`.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from router.api import submits
from router.api.auth import caller_of
from router.api.bodies import FILM_MAX_S, IMAGE_BODY_MAX, TASK_BODY_MAX, read_json, read_submission
from router.api.dialects import pixapi
from router.api.errors import invalid
from router.api.multipart import Form, is_form, read_form
from router.api.replies import json_reply
from router.provider import Kind

GENERATIONS: Final = "/v1/async/images/generations"
EDITS: Final = "/v1/async/images/edits"
VIDEOS: Final = "/v1/async/videos/generations"


async def generate(request: web.Request) -> web.StreamResponse:
    """Take an image generation."""
    return await _take(request, Kind.IMAGE_GENERATION, GENERATIONS)


async def edit(request: web.Request) -> web.StreamResponse:
    """Take an image edit, as a form or as JSON that names its pictures."""
    return await _take(request, Kind.IMAGE_EDIT, EDITS)


async def film(request: web.Request) -> web.StreamResponse:
    """Take a video, from text or from a picture (`input_image`)."""
    return await _take(request, Kind.VIDEO_GENERATION, VIDEOS)


# -- parts ----------------------------------------------------------------------------------------------------------


async def _take(request: web.Request, kind: Kind, route: str) -> web.StreamResponse:
    principal = await caller_of(request)
    form = await _read(request, principal.tenant, kind)
    body = {name: value for name, value in form.fields.items() if name != "async"}
    if body.get("stream") not in (None, False):
        invalid("stream", "stream is for the call that is held until the end; this one answers with a task.")
    if kind is Kind.VIDEO_GENERATION:
        body = _translate(body)
    submission = read_submission(body, kind, route, body, files=form.files)
    draft = submits.draft_of(request, principal, submission, kind=kind, surface="pixapi", route=route)
    accepted = await submits.take(request, draft)
    return json_reply(200, pixapi.submitted(accepted.task), submits.replay_headers(accepted))


async def _read(request: web.Request, tenant: str, kind: Kind) -> Form:
    if kind is not Kind.IMAGE_GENERATION and is_form(request):
        return await read_form(request, tenant)
    return Form(await read_json(request, IMAGE_BODY_MAX if kind is Kind.IMAGE_GENERATION else TASK_BODY_MAX), ())


def _translate(body: dict[str, Any]) -> dict[str, Any]:
    """Say `duration` and `input_image` of a film (pixapi.md section 3) in the words that all surfaces share."""
    duration, picture = body.get("duration"), body.get("input_image")
    rest = {name: value for name, value in body.items() if name not in {"duration", "input_image"}}
    if duration is not None:
        seconds = int(duration[:5]) if isinstance(duration, str) and duration.isdecimal() else duration
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= FILM_MAX_S:
            invalid("duration", f"duration must be a whole number of seconds from 1 to {FILM_MAX_S}.")
        if rest.setdefault("seconds", seconds) not in {seconds, str(seconds)}:
            invalid("duration", "duration and seconds say different things; one is enough.")
    if picture is not None:
        if not isinstance(picture, str) or not picture:
            invalid("input_image", "input_image must be an https URL, a data URI or base64.")
        if "input_reference" in rest:
            invalid("input_image", "input_image and input_reference are the same; one is enough.")
        named = picture.startswith(("data:", "https://", "http://"))
        rest["input_reference"] = picture if named else f"data:;base64,{picture}"
    return rest
