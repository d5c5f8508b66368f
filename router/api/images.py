"""`POST /v1/images/generations`: sync for stock OpenAI SDKs, or at once with `"async": true` or `Prefer`. Floor 3."""

from __future__ import annotations

from aiohttp import web

from router.api import submits, views
from router.api.auth import SERVICES, caller_of
from router.api.bodies import (
    IMAGE_BODY_MAX,
    read_idempotency_key,
    read_json,
    read_prefer,
    read_submission,
)
from router.api.dialects import dieyuyun
from router.api.replies import json_reply, request_id_of
from router.flow.draft import Draft
from router.provider import Kind
from router.task import Priority

ROUTE = "/v1/images/generations"


async def generate(request: web.Request) -> web.StreamResponse:
    """Take an image generation of the OpenAI surface."""
    principal, services = caller_of(request), request.app[SERVICES]
    prefer = read_prefer(request)
    body = await read_json(request, IMAGE_BODY_MAX)
    submission = read_submission(body, Kind.IMAGE_GENERATION, ROUTE, body)
    at_once = submission.asynchronous or prefer.respond_async
    wait_s = submits.wait_of(services, prefer)
    draft = Draft(
        tenant=principal.tenant,
        key_id=principal.key_id,
        kind=Kind.IMAGE_GENERATION,
        model=submission.model,
        input=submission.input,
        surface="dieyuyun" if submission.asynchronous else "openai",
        route=ROUTE,
        digest=submission.digest,
        request_id=request_id_of(request),
        priority=submits.priority_of(submission, Priority.NORMAL if at_once else Priority.HIGH),
        metadata=submission.metadata,
        preferences=submission.preferences,
        idempotency_key=read_idempotency_key(request),
        start_within_s=submission.start_within_s,
        timeout_s=submission.timeout_s,
        wait_s=None if at_once else services.life.runtime.rules.defaults.sync_wait_s,
        repeats=submits.announces_repeat(request),
        files=submission.files,
        callback_url=submission.callback_url,
        callback_events=submission.callback_events,
        link_base=views.base_of(request),
    )
    accepted = await submits.submit(services, draft)
    if submission.asynchronous:
        services.life.waiters.told(accepted.task)
        reply = dieyuyun.submitted(accepted.task, request_id_of(request))
        return json_reply(200, reply, submits.replay_headers(accepted))
    if prefer.respond_async:
        return await submits.accepted_reply(request, accepted, prefer_applied="respond-async")
    return await submits.wait_and_answer(request, accepted, prefer, wait_s)
