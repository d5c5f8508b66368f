"""The native task routes (contract 5.3): submit, read, list, cancel, retry. Reads call no writing verb. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from router.api import links, submits, views
from router.api.auth import SERVICES, Principal, caller_of
from router.api.bodies import (
    EXTRAS,
    TASK_BODY_MAX,
    digest_of,
    read_idempotency_key,
    read_json,
    read_prefer,
    read_submission,
)
from router.api.dialects import native
from router.api.errors import Refusal, invalid
from router.api.multipart import is_form, read_form
from router.api.replies import json_reply, request_id_of
from router.flow.draft import Draft, Upload
from router.flow.runtime import FILES, files_of
from router.persistence import Cancelled, Search, TaskView, TooLate, Unavailable
from router.provider import Kind
from router.shelf import Erased, StillOut
from router.task import Error, State

ROUTE = "/v1/tasks"
LIMIT_USUAL = 20
LIMIT_MAX = 100
KINDS = {kind.value: kind for kind in Kind}
NATIVE_FIELDS = frozenset(
    {"kind", "model", "input", "priority", "metadata", "start_within", "timeout", "provider", "callback_url"}
    | {"callback_events", "async", "stream"}
)


async def create(request: web.Request) -> web.StreamResponse:
    """`POST /v1/tasks`: 202 with the task; `Prefer: wait=N` holds the answer until it ends.

    The body is JSON, or a form where files come as parts: `kind`, `input[prompt]`, `image`, `mask` and so on.
    """
    principal, services = await caller_of(request), request.app[SERVICES]
    prefer = read_prefer(request)
    form = await read_form(request, principal.tenant) if is_form(request) else None
    body = await read_json(request, TASK_BODY_MAX) if form is None else form.fields
    kind = _read_kind(body.get("kind"))
    for name in body:
        if name not in NATIVE_FIELDS:
            invalid(name, f"A task has no field {name!r}; what the provider takes goes into input.")
    fields = body.get("input")
    if not isinstance(fields, dict):
        invalid("input", "input is required and must be an object with the fields of the kind, such as prompt.")
    for name in fields:
        if name in EXTRAS:
            invalid(f"input.{name}", f"{name} stands beside input, not in it.")
    submission = read_submission(body, kind, ROUTE, fields, "input.", files=() if form is None else form.files)
    if submission.streams:
        invalid("stream", "A task is not streamed; follow its events, or use the surface of its kind.")
    draft = submits.draft_of(request, principal, submission, kind=kind, surface="native", route=ROUTE)
    accepted = await submits.submit(services, draft)
    if prefer.wait_s is None:
        return await submits.accepted_reply(request, accepted)
    wait_s = submits.wait_of(services, prefer)
    try:
        view = await submits.wait_for_end(request, accepted.task, wait_s)
    except Unavailable:
        view = None  # what was accepted is known all the same
    return await submits.accepted_reply(request, accepted, view, prefer_applied=f"wait={wait_s:g}")


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /v1/tasks/{id}` in the dialect the task came in by; `Prefer: wait=N` holds until it ends."""
    principal = await caller_of(request)
    views.speak(request)
    view = await look(request, principal)
    views.speak(request, view.task)
    views.refuse_unshowable(request, view.task)
    family = view.task.kind.family
    if views.dialect_of(request, view.task) == "openai" and ("openai", family) not in views.RENDERERS:
        return await submits.answer_as_call(request, view)
    return json_reply(200, views.render(request, view), {"X-Task-Id": view.task.id})


async def look(request: web.Request, principal: Principal) -> TaskView:
    """Find the task in the path, wait for its end if asked to, and note that its caller has seen it; 404 else."""
    services = request.app[SERVICES]
    view = await services.world.store.view(principal.tenant, views.task_id_of(request))
    if view is None:
        raise no_such_task()
    prefer = read_prefer(request)
    if prefer.wait_s is not None and not view.task.is_terminal:
        view = await submits.wait_for_end(request, view.task, submits.wait_of(services, prefer)) or view
    services.life.waiters.told(view.task)
    if view.task.is_terminal:
        await services.life.intake.uncollected.collect(principal.tenant, view.task.digest)
    return view


async def listing(request: web.Request) -> web.StreamResponse:
    """`GET /v1/tasks`: newest first, with filters and a signed cursor."""
    principal, services = await caller_of(request), request.app[SERVICES]
    search = _read_search(request, principal.tenant)
    found = await services.world.store.search(principal.tenant, search)
    page = found[: search.limit - 1]
    for view in page:
        services.life.waiters.told(view.task)
    more = len(found) == search.limit
    last = page[-1].task if page else None
    cursor = None
    if more and last is not None:
        cursor = links.write_cursor(services.signing_secret, principal.tenant, last.created_at, last.id)
    body = {
        "object": "list",
        "data": [native.render(view, views.sight_of(request, view)) for view in page],
        "has_more": more,
        "next_cursor": cursor,
    }
    return json_reply(200, body)


async def cancel(request: web.Request) -> web.StreamResponse:
    """`POST /v1/tasks/{id}/cancel`: 200 with the task, also when it was cancelled before; 409 when it had ended."""
    principal, services = await caller_of(request), request.app[SERVICES]
    views.speak(request)
    task_id = views.task_id_of(request)
    match await services.life.intake.cancel(principal.tenant, task_id):
        case None:
            raise no_such_task()
        case TooLate(task) if task.state is not State.CANCELLED:
            views.speak(request, task)
            message = f"The task has already ended ({task.state.value})."
            raise Refusal(Error("conflict", message, "conflict"), task_id=task.id)
        case Cancelled(task=task) | TooLate(task=task):
            view = await services.world.store.view(principal.tenant, task_id) or TaskView(task, ())
            return json_reply(200, views.render(request, view), {"X-Task-Id": task.id})


async def retry(request: web.Request) -> web.StreamResponse:
    """`POST /v1/tasks/{id}/retry`: a new task with a new bill, for a failed one only."""
    principal, services = await caller_of(request), request.app[SERVICES]
    view = await services.world.store.view(principal.tenant, views.task_id_of(request))
    if view is None:
        raise no_such_task()
    old = view.task
    if old.state is not State.FAILED or not old.input:
        message = f"Only a failed task can be retried; this one is {old.state.value}."
        raise Refusal(Error("conflict", message, "conflict"), task_id=old.id)
    route = f"{ROUTE}/{old.id}/retry"  # a key or a repeat of the first submit is not one of this
    draft = Draft(
        tenant=principal.tenant,
        key_id=principal.key_id,
        kind=old.kind,
        model=old.model,
        input={name: value for name, value in old.input.items() if name != FILES},
        surface=old.surface,
        route=route,
        digest=digest_of(route, old.kind, old.model, old.input),
        request_id=request_id_of(request),
        priority=old.priority,
        metadata=old.metadata,
        preferences=old.preferences,
        idempotency_key=read_idempotency_key(request),
        repeats=submits.announces_repeat(request),
        retry_of=old.id,
        files=tuple(
            Upload(one.role, url=one.url, copy_of=one.key, content_type=one.content_type) for one in files_of(old)
        ),
        callback_url=old.callback_url,
        callback_events=old.callback_events,
        link_base=views.base_of(request),
    )
    return await submits.accepted_reply(request, await submits.submit(services, draft))


async def delete(request: web.Request) -> web.StreamResponse:
    """`DELETE /v1/tasks/{id}`: output and input of an ended task go at once; 409 for a live one."""
    principal, task_id = await caller_of(request), views.task_id_of(request)
    await erase(request, principal, task_id)
    return json_reply(200, {"id": task_id, "object": "task.deleted", "deleted": True}, {"X-Task-Id": task_id})


async def erase(request: web.Request, principal: Principal, task_id: str) -> None:
    """Remove what an ended task of the caller has left, and whoever asks again meets the same; 404 or 409 else."""
    match await request.app[SERVICES].life.intake.erase(principal.tenant, task_id):
        case None:
            raise no_such_task()
        case StillOut(task):
            message = f"The task is {task.state.value}; only an ended one can be deleted."
            if task.is_terminal:
                message = "The provider is still at work on this task; delete it when its last attempt has ended."
            raise Refusal(Error("conflict", message, "conflict"), task_id=task.id)
        case Erased():
            return


def no_such_task() -> Refusal:
    """The same 404 for an unknown task and for another tenant's (promise 6)."""
    return Refusal(Error("not_found", "There is no such task.", "not_found"))


# -- parts ----------------------------------------------------------------------------------------------------------


def _read_kind(value: object) -> Kind:
    if not isinstance(value, str) or value not in KINDS:
        invalid("kind", f"kind must be one of {', '.join(KINDS)}.")
    return KINDS[value]


def _read_search(request: web.Request, tenant: str) -> Search:
    """Read the filters; the page asks for one row more than it shows, to know whether there is another page."""
    query: Mapping[str, str] = request.query
    services = request.app[SERVICES]
    status, limit, cursor = query.get("status"), query.get("limit", str(LIMIT_USUAL)), query.get("cursor")
    states = {state.value: state for state in State}
    if status is not None and status not in states:
        invalid("status", f"status must be one of {', '.join(states)}.")
    if not limit.isdecimal() or not 1 <= int(limit[:6]) <= LIMIT_MAX:
        invalid("limit", f"limit must be a whole number from 1 to {LIMIT_MAX}.")
    before = None
    if cursor is not None:
        before = links.read_cursor(services.signing_secret, tenant, cursor)
        if before is None:
            invalid("cursor", "cursor must be the next_cursor of an earlier page.")
    for name in ("model", "provider", "idempotency_key"):
        if "\x00" in query.get(name, ""):
            invalid(name, f"{name} contains a NUL character.")
    key = query.get("idempotency_key")
    if key is not None and not 1 <= len(key) <= 255:
        invalid("idempotency_key", "idempotency_key must have 1 to 255 characters.")
    return Search(
        status=None if status is None else states[status],
        model=query.get("model"),
        provider=query.get("provider"),
        created_after=_read_instant(query.get("created_after")),
        idempotency_key=key,
        before=before,
        limit=int(limit) + 1,
    )


def _read_instant(text: str | None) -> int | None:
    """Read RFC 3339 or seconds since the epoch."""
    if text is None:
        return None
    try:
        if text.isdecimal():
            return int(text[:12]) * 1000
        when: Any = datetime.fromisoformat(text)
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        invalid("created_after", "created_after must be an RFC 3339 time or seconds since the epoch.")
