"""Dieyuyun, an aggregator whose models answer at once or by a task: `"async": true` asks for a task, the reply decides.

A reply with `data` is the result; one with `id` and `status` is a task, to be polled and, while queued or at work,
to be cancelled (seed document, "Async tasks"). A task that `expired` was cleaned up: it may have succeeded and been
billed. Whether failed, refused and cancelled tasks are billed is not documented, nor where films are submitted, so that
only pictures are done. There is no list and no idempotency key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs, openai_images
from providers.formats.failures import Dialect, Ruling, Said, as_object, as_text, as_word
from router import outcome
from router.outcome import Fail, FailureKind
from router.provider import (
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Missing,
    Pending,
    Polled,
    Request,
    Submitted,
    Trouble,
    Usage,
    rest_asked,
)

FACTS = AdapterFacts(
    slug="dieyuyun",
    base_url="https://open.dieyuyun.com",
    # OpenAI's names; which model takes which field is not documented, so that every field goes on as it came.
    abilities={**openai_images.MODELS, "*": Abilities(openai_images.GENERATES, max_n=10)},
    cancels=True,
    polls_every_s=3.0,  # "every 3-5 s, lengthen the interval when nothing changes"
    lacks={
        "edit": "not documented",
        "video": "the path of the submit is not documented",
        "chat": "not part of the asynchronous surface",
        "webhook": "none is documented",
        "streaming": "not documented for pictures",
        "probe": "no free call is certain",
    },
)

DIALECT = Dialect(
    codes={**openai_images.CODES, "upstream_error": Ruling(FailureKind.SERVER_ERROR)},
    portable=openai_images.PORTABLE,
    quota_words=re.compile("balance|quota|insufficient", re.IGNORECASE),
    refusal_words=openai_images.REFUSAL_WORDS,
)
REFUSAL_WORDS = re.compile(r"moderation|safety|policy|sensitive|content", re.IGNORECASE)


class Adapter:
    """The images endpoint at `base_url`, with or without /v1, and its tasks."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Ask for a task, and take what comes: a task, or the pictures."""
        if job.kind not in openai_images.GENERATES:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        plain = openai_images.ask(job, f"{_root(job)}/images/generations")
        body = {**(plain.json or {}), "async": True}
        reply = await call(replace(plain, json=body))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        whole = as_object(reply.data)
        if reply.status // 100 == 2:
            media = openai_images.read_media(whole, job.n)
            if media:
                return Done(media, usage(whole), http_status=reply.status)
            task_id = jobs.read_id(whole.get("id"))
            if task_id and isinstance(whole.get("status"), str):
                return Pending(Handle(task_id), jobs.percent(whole.get("progress")))
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the task."""
        reply = await call(Request("GET", _task_url(handle, job), _headers(job)))
        body = jobs.hear(reply, job)
        return body if isinstance(body, Trouble | Missing) else _judge(handle, job, body)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Cancel the task; what the reply looks like is not documented, so the task is read afterwards."""
        reply = await call(Request("POST", f"{_task_url(handle, job)}/cancel", _headers(job)))
        if isinstance(reply, Broken) or reply.status // 100 != 2:
            return None
        ended = await self.poll(handle, job, call)
        return ended if isinstance(ended, Fail) else None


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    said = read_error(status, body)
    return failures.tell(said, failures.judge(said, DIALECT), secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens of a synchronous reply. A task's `usage` counts units, not tokens (`output_tokens: 1`)."""
    return openai_images.read_usage(body) if "data" in as_object(body) else Usage()


def read_error(status: int, body: Any) -> Said:
    """Read OpenAI's error body, or the flat `error_code` and `error_message` of the tasks."""
    whole = as_object(body)
    if "error" not in whole and whole.get("error_code"):
        message = as_text(whole.get("error_message"))
        return Said(status, own=True, code=as_word(whole.get("error_code")), message=message)
    return openai_images.read_error(status, body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _judge(handle: Handle, job: Job, body: Mapping[str, Any]) -> Done | Pending | Fail:
    code, kind, message = jobs.read_reason(body)
    match body["status"]:
        case "completed":
            media = openai_images.read_media(body.get("result"), job.n)
            if media:
                return Done(media, usage(body), http_status=200)
            return jobs.end(FailureKind.UNUSABLE, job, status=200, code="completed")
        case "failed":
            refused = REFUSAL_WORDS.search(f"{code} {kind} {message}") is not None
            ending = FailureKind.REFUSED if refused else FailureKind.JOB_FAILED
            return jobs.end(ending, job, status=200, code=code, message=message)
        case "cancelled":
            return jobs.end(FailureKind.CANCELLED, job, status=200, code="cancelled")
        case "expired":
            # "The result was cleaned up": the job itself may have succeeded and been billed.
            return jobs.end(FailureKind.LOST, job, status=200, code="expired")
        case _:
            return Pending(handle, jobs.percent(body.get("progress")))


def _root(job: Job) -> str:
    return f"{job.base_url.rstrip('/').removesuffix('/v1')}/v1"


def _task_url(handle: Handle, job: Job) -> str:
    return f"{_root(job)}/tasks/{quote(handle.remote_id, safe='')}"


def _headers(job: Job) -> dict[str, str]:
    return {"Authorization": f"Bearer {job.credential}", "Accept": "application/json"}
