"""WorldRouter, an aggregator of pictures by tasks: a POST that accepts one, then polls of it; no list, no cancel.

Results are stored URLs, never base64. What a model does not support is accepted and silently ignored (seed document,
"Create"), so that this adapter says itself what each family takes: Gemini models choose size and quality themselves,
and a request that names a size is not theirs. Whether failed and refused tasks are billed is not documented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs, openai_images
from providers.formats.failures import Dialect, Ruling, as_object
from router import outcome
from router.geometry import Sizes
from router.outcome import Ejects, Fail, FailureKind
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

REPLY_BYTES = 1 << 20
# What the table of the create fields prints for each family; `n` is capped by the server at a number not told.
_GPT_FIELDS = frozenset(
    {"prompt", "n", "size", "quality", "style", "background", "moderation", "output_compression", "output_format"}
    | {"user"}
)
_GEMINI_FIELDS = frozenset({"prompt", "n", "output_format", "user"})
_NO_SIZES = Sizes(named=frozenset({"auto"}))

FACTS = AdapterFacts(
    slug="worldrouter",
    # "The host in the document looks like a pre-release host": it is the only one that is known.
    base_url="https://inference-api-pre-d80ca3.worldrouter.ai",
    abilities={
        "gpt-image-2*": Abilities(
            openai_images.GENERATES, max_n=4, sizes=openai_images.MODELS["gpt-image-2*"].sizes, fields=_GPT_FIELDS
        ),
        # "Model decides the count": one is what can be relied on.
        "gemini-*": Abilities(openai_images.GENERATES, sizes=_NO_SIZES, fields=_GEMINI_FIELDS),
        "*": Abilities(openai_images.GENERATES, sizes=_NO_SIZES, fields=_GEMINI_FIELDS),
    },
    polls_every_s=2.0,
    lacks={
        "edit": "input images are not part of the task endpoint",
        "video": "images only",
        "chat": "images only",
        "cancel": "not documented",
        "webhook": "not documented",
        "streaming": "tasks are polled",
        "probe": "no free call is documented",
    },
)

DIALECT = Dialect(
    codes=openai_images.CODES,
    portable=openai_images.PORTABLE,
    quota_words=re.compile("budget|quota|insufficient", re.IGNORECASE),
    refusal_words=openai_images.REFUSAL_WORDS,
)
_END_USER = re.compile(r"\b(end[ -]?|per[ -])?user\b", re.IGNORECASE)
REFUSAL_WORDS = re.compile(r"moderation|safety|policy", re.IGNORECASE)


class Adapter:
    """The task endpoint at `base_url`/v1/images/generation_tasks."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Hand in the task; the answer is its id."""
        if job.kind not in openai_images.GENERATES:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        body = {**openai_images.build_body(job), "response_format": "url"}
        reply = await call(Request("POST", _tasks_url(job), _headers(job), body, max_reply_bytes=REPLY_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        whole = as_object(reply.data)
        task_id = jobs.read_id(whole.get("task_id")) or jobs.read_id(whole.get("id"))
        if reply.status // 100 == 2 and task_id:
            return Pending(Handle(task_id))
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Read the task; a status that is not known counts as still at work."""
        url = f"{_tasks_url(job)}/{quote(handle.remote_id, safe='')}"
        body = jobs.hear(await call(Request("GET", url, _headers(job), max_reply_bytes=REPLY_BYTES)), job)
        if isinstance(body, Trouble | Missing):
            return body
        match body["status"]:
            case "completed":
                media = openai_images.read_media(body, job.n)
                if media:
                    return Done(media, usage(body), http_status=200)
                return jobs.end(FailureKind.UNUSABLE, job, status=200, code="completed")
            case "failed":
                code, kind, message = jobs.read_reason(body)
                refused = REFUSAL_WORDS.search(f"{code} {kind} {message}") is not None
                ending = FailureKind.REFUSED if refused else FailureKind.JOB_FAILED
                return jobs.end(ending, job, status=200, code=code or kind, message=message)
            case _:
                return Pending(handle)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: no cancel is documented, and the task is heard to its end."""


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer that accepts nothing means; the parameters are those of every adapter."""
    said = openai_images.read_error(status, body)
    ruling = failures.judge(said, DIALECT)
    if ruling.kind is FailureKind.ACCOUNT and status in {402, 429} and _END_USER.search(said.message):
        # The budget of one end user must not put the account aside for all (provider notes, errors).
        ruling = Ruling(FailureKind.ACCOUNT, Ejects.NOTHING)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens of a completed task: "price = tokens x list price of the model"."""
    return openai_images.read_usage(body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _tasks_url(job: Job) -> str:
    return f"{job.base_url.rstrip('/').removesuffix('/v1')}/v1/images/generation_tasks"


def _headers(job: Job) -> dict[str, str]:
    return {"Authorization": f"Bearer {job.credential}", "Accept": "application/json"}
