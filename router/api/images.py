"""`POST /v1/images/generations`, `edits` and `variations`: sync for stock OpenAI SDKs, or at once. Floor 3.

A generation is JSON. An edit and a variation come as a form, or as JSON that names its pictures (openai-sdk-compat.md
section 4). All three wait for the end, or answer at once with `"async": true` or `Prefer`; with `stream: true` they
show the pictures coming (`image_stream`).
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from router.api import image_stream, submits
from router.api.auth import SERVICES, caller_of
from router.api.bodies import (
    IMAGE_BODY_MAX,
    TASK_BODY_MAX,
    Submission,
    read_json,
    read_prefer,
    read_submission,
)
from router.api.dialects import dieyuyun
from router.api.errors import invalid
from router.api.multipart import is_form, read_form
from router.api.replies import json_reply, request_id_of
from router.flow.runtime import STREAM
from router.provider import Kind
from router.task import Priority

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"
KINDS = {GENERATIONS: Kind.IMAGE_GENERATION, EDITS: Kind.IMAGE_EDIT, VARIATIONS: Kind.IMAGE_VARIATION}


async def generate(request: web.Request) -> web.StreamResponse:
    """Take an image generation of the OpenAI surface."""
    return await _take(request, GENERATIONS)


async def edit(request: web.Request) -> web.StreamResponse:
    """Take an edit of one to sixteen pictures, with or without a mask."""
    return await _take(request, EDITS)


async def vary(request: web.Request) -> web.StreamResponse:
    """Take a variation of a picture; served by targets that declare `image.variation`."""
    return await _take(request, VARIATIONS)


# -- parts ----------------------------------------------------------------------------------------------------------


async def _take(request: web.Request, route: str) -> web.StreamResponse:
    principal, services = await caller_of(request), request.app[SERVICES]
    prefer, kind = read_prefer(request), KINDS[route]
    submission = await _read(request, principal.tenant, kind, route)
    _check_stream(submission, kind)
    at_once = submission.asynchronous or (prefer.respond_async and not submission.streams)
    surface = "dieyuyun" if submission.asynchronous else "openai"
    draft = submits.draft_of(request, principal, submission, kind=kind, surface=surface, route=route)
    if submission.streams:
        draft = replace(draft, input={**draft.input, STREAM: True})
    if not at_once:
        priority = submits.priority_of(submission, Priority.HIGH)
        draft = replace(draft, priority=priority, wait_s=services.life.runtime.rules.defaults.sync_wait_s)
    accepted = await submits.submit(services, draft)
    if submission.asynchronous:
        services.life.waiters.told(accepted.task)
        reply = dieyuyun.submitted(accepted.task, request_id_of(request))
        return json_reply(200, reply, submits.replay_headers(accepted))
    if submission.streams:
        return await image_stream.answer(request, accepted)
    if prefer.respond_async:
        return await submits.accepted_reply(request, accepted, prefer_applied="respond-async")
    return await submits.wait_and_answer(request, accepted, prefer, submits.wait_of(services, prefer))


def _check_stream(submission: Submission, kind: Kind) -> None:
    if submission.streams and kind is Kind.IMAGE_VARIATION:
        invalid("stream", "Variations are not streamed.")
    if submission.streams and submission.asynchronous:
        invalid("stream", "stream and async exclude each other.")


async def _read(request: web.Request, tenant: str, kind: Kind, route: str) -> Submission:
    """Read what was asked, as a form or as JSON."""
    if kind is not Kind.IMAGE_GENERATION and is_form(request):
        form = await read_form(request, tenant)
        return read_submission(form.fields, kind, route, form.fields, files=form.files)
    body = await read_json(request, IMAGE_BODY_MAX if kind is Kind.IMAGE_GENERATION else TASK_BODY_MAX)
    return read_submission(body, kind, route, body)
