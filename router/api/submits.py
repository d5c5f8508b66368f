"""What every submit surface shares: asking the intake, holding the request until the end, answering with it. Floor 3.

A sync call is a task plus a waiter (contract 5.1). A caller that goes away aborts nothing: its task runs on, and the
repeat of the same request attaches to it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from pybase64 import b64encode as encode

from router.api import views
from router.api.auth import SERVICES, Principal
from router.api.bodies import Prefer, Submission, read_idempotency_key
from router.api.dialects import native, openai
from router.api.errors import Refusal, invalid
from router.api.replies import json_reply, request_id_of
from router.api.services import Services
from router.flow.draft import Accepted, Draft, Refused
from router.outcome import Billed
from router.persistence import TaskView, Unavailable
from router.provider import Kind
from router.task import Error, Output, Priority, State, Task, bill

ENCODED_AT_ONCE_BYTES = 2 << 20
LOOK_EVERY_S = 2.0  # how soon a waiting handler notices that its caller has gone, or that the store is back
RETRY_AFTER_S = {"unavailable": 2.0, "deadline_exceeded": 1.0}


async def submit(services: Services, draft: Draft) -> Accepted:
    """Ask the intake; a refusal is raised in the contract's form. Where a callback leads is judged before anything."""
    if draft.callback_url is not None:
        reason = services.judge_callback(draft.callback_url)
        if reason is not None:
            invalid("callback_url", f"callback_url is refused: {reason}.")
    answer = await services.life.intake.submit(draft)
    if isinstance(answer, Refused):
        # Only a key that was used for something else names a task: the one that has it.
        task_id = answer.error.details.get("task_id")
        raise Refusal(answer.error, task_id=task_id, retry_after_s=answer.retry_after_s)
    return answer


def draft_of(
    request: web.Request, principal: Principal, submission: Submission, *, kind: Kind, surface: str, route: str
) -> Draft:
    """Draw up a request that nobody waits for; a surface that does sets `wait_s` and its priority."""
    return Draft(
        tenant=principal.tenant,
        key_id=principal.key_id,
        kind=kind,
        model=submission.model,
        input=submission.input,
        surface=surface,
        route=route,
        digest=submission.digest,
        request_id=request_id_of(request),
        priority=priority_of(submission, Priority.NORMAL),
        metadata=submission.metadata,
        preferences=submission.preferences,
        idempotency_key=read_idempotency_key(request),
        start_within_s=submission.start_within_s,
        timeout_s=submission.timeout_s,
        repeats=announces_repeat(request),
        files=submission.files,
        callback_url=submission.callback_url,
        callback_events=submission.callback_events,
        link_base=views.base_of(request),
    )


async def take(request: web.Request, draft: Draft) -> Accepted:
    """Submit, and note that the caller has the id."""
    services = request.app[SERVICES]
    accepted = await submit(services, draft)
    services.life.waiters.told(accepted.task)
    return accepted


async def answer_as_call(request: web.Request, view: TaskView) -> web.StreamResponse:
    """The OpenAI view of what OpenAI has no task object for: what the call itself would answer now (contract 5.1).

    That is the reply or the error of an ended task, and 202 with the native one while it goes on.
    """
    task, services = view.task, request.app[SERVICES]
    if not task.is_terminal:
        return json_reply(202, native.render(view, views.sight_of(request, view)), {"X-Task-Id": task.id})
    if task.kind.family == "chat" and task.state is State.SUCCEEDED:
        reply = await services.world.vault.read(task.output[0].key)
        return web.Response(
            body=reply, content_type="application/json", headers=views.task_headers(view, replayed=True)
        )
    return await ending_of(request, view, replayed=True)


async def wait_and_answer(
    request: web.Request, accepted: Accepted, prefer: Prefer, wait_s: float
) -> web.StreamResponse:
    """Hold the request until the task ends, the caller leaves, or the bound is reached."""
    services, task = request.app[SERVICES], accepted.task
    was_over = task.is_terminal
    try:
        view = await wait_for_end(request, task, wait_s)
    except Unavailable:
        services.life.intake.uncollected.remember(task, services.now())
        message = "The store cannot be reached; the task was accepted and goes on. Repeat to collect it."
        raise postponed(task, "unavailable", message, Billed.UNKNOWN) from None
    if view is None:
        raise Refusal(Error("not_found", "The task is gone.", "not_found"))
    if view.task.is_terminal:
        await services.life.intake.uncollected.collect(task.tenant, task.digest)
        return await ending_of(request, view, replayed=accepted.replayed and was_over)
    if is_gone(request):
        services.life.waiters.hung_up(view.task)
        return web.Response(status=499)
    billing = bill(view.task, view.attempts).billing
    services.life.waiters.told(view.task)
    if services.life.runtime.closing:
        raise postponed(task, "unavailable", "The service is shutting down; the task goes on.", billing)
    if prefer.wait_s is not None:
        return await accepted_reply(request, accepted, view, prefer_applied=f"wait={wait_s:g}")
    await services.life.intake.uncollected.add(view.task, services.now())
    message = "The task is not finished within the time this service holds a request; it goes on. Repeat to collect it."
    raise postponed(task, "deadline_exceeded", message, billing)


def postponed(task: Task, word: str, message: str, billing: Billed) -> Refusal:
    """The task goes on and this call cannot be answered with its end."""
    return Refusal(
        Error(word, message, word, retryable=True, billing=billing),
        task_id=task.id,
        retry_after_s=RETRY_AFTER_S[word],
        should_retry=True,
        headers={"Location": f"/v1/tasks/{task.id}"},
    )


async def wait_for_end(request: web.Request, task: Task, wait_s: float) -> TaskView | None:
    """Wait up to `wait_s` for a task to end, the caller to leave or a drain; returns the row as it is then.

    A store that is away meanwhile is waited for; `Unavailable` when it still is at the end.
    """
    services = request.app[SERVICES]
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    with services.life.waiters.waiting(task) as ending:
        while True:
            away = False
            ending.clear()
            try:
                view = await services.world.store.view(task.tenant, task.id)
            except Unavailable:
                away = True
            if not away and (view is None or view.task.is_terminal):
                return view
            while not ending.is_set():
                left = min(until - loop.time(), LOOK_EVERY_S)
                if left <= 0 or is_gone(request) or services.life.runtime.closing:
                    return await services.world.store.view(task.tenant, task.id)
                try:
                    async with asyncio.timeout(left):
                        await ending.wait()
                except TimeoutError:
                    if away:
                        break


async def ending_of(request: web.Request, view: TaskView, *, replayed: bool) -> web.StreamResponse:
    """Answer a sync call with what its task came to."""
    task = view.task
    require_result(request, view, replayed=replayed)
    data = [await _image(request, task, index) for index in range(len(task.output))]
    return json_reply(200, openai.images(task, data), views.task_headers(view, replayed=replayed))


def require_result(request: web.Request, view: TaskView, *, replayed: bool) -> None:
    """Refuse with the reason where an ended task has no result to give."""
    task = view.task
    if task.state is State.SUCCEEDED:
        return
    if task.error is None:
        billing = bill(task, view.attempts).billing
        gone = Error("expired", "The result was removed after its retention time.", "expired", billing=billing)
        raise Refusal(gone, task_id=task.id, headers=views.task_headers(view, replayed=replayed))
    raise views.refusal_of(request, view, replayed=replayed)


async def accepted_reply(
    request: web.Request, accepted: Accepted, view: TaskView | None = None, prefer_applied: str | None = None
) -> web.Response:
    """202 with the native task. `view` None: nothing was waited for, so that a task just accepted is as it was made."""
    services, task = request.app[SERVICES], accepted.task
    if view is None and accepted.replayed:
        view = await services.world.store.view(task.tenant, task.id)
    view = view or TaskView(task, ())
    services.life.waiters.told(view.task)
    replayed = accepted.replayed and accepted.task.is_terminal
    headers = {**views.task_headers(view, replayed=replayed), "Location": f"/v1/tasks/{task.id}"}
    if prefer_applied is not None:
        headers["Preference-Applied"] = prefer_applied
    return json_reply(202, native.render(view, views.sight_of(request, view)), headers)


def replay_headers(accepted: Accepted) -> dict[str, str]:
    """`X-Task-Id`, and `Idempotent-Replayed` where the ending of an earlier request is given again."""
    replayed = {"Idempotent-Replayed": "true"} if accepted.replayed and accepted.task.is_terminal else {}
    return {"X-Task-Id": accepted.task.id, **replayed}


def wait_of(services: Services, prefer: Prefer) -> float:
    """How long to hold a sync call: `sync_wait`, or less if the caller says so."""
    bound = services.life.runtime.rules.defaults.sync_wait_s
    return bound if prefer.wait_s is None else min(bound, prefer.wait_s)


def priority_of(submission: Submission, usual: Priority) -> Priority:
    """The caller's priority, else the surface's."""
    return usual if submission.priority is None else submission.priority


def announces_repeat(request: web.Request) -> bool:
    """Whether the OpenAI SDK says that this is its own automatic repeat (openai-sdk-compat.md section 8)."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isdecimal() and int(count[:6]) > 0


def is_gone(request: web.Request) -> bool:
    """Whether the caller's connection is closed."""
    return request.transport is None or request.transport.is_closing()


async def _image(request: web.Request, task: Task, index: int) -> dict[str, Any]:
    """One image of the reply: base64 by default (the gpt-image habit), a signed link on request."""
    services, output = request.app[SERVICES], task.output[index]
    image: dict[str, Any] = {}
    if task.input.get("response_format") == "url":
        image["url"] = views.link_of(services, views.base_of(request), task, output)
    else:
        image["b64_json"] = await base64_of(services, output)
    if output.revised_prompt is not None:
        image["revised_prompt"] = output.revised_prompt
    return image


async def base64_of(services: Services, output: Output) -> orjson.Fragment:
    """Read an output as a JSON string in base64."""
    content = await services.world.vault.read(output.key)
    # A megabyte takes less time than a thread takes to begin.
    small = len(content) <= ENCODED_AT_ONCE_BYTES
    encoded = encode(content) if small else await services.world.offload(partial(encode, content))
    # Base64 needs no JSON escapes, so the encoder may take the bytes as they are.
    return orjson.Fragment(b'"' + encoded + b'"')
