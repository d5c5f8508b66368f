"""The wire form of OpenAI's videos, which sellers speak on after OpenAI's own service closed: a job and its polls.

A create answers with an object that has an id; the object is asked for until its `status` says how it ended; the bytes
are at `/content`, with the key. There is no cancel (DELETE removes an ended job and is none) and no idempotency key. A
poll that goes wrong says nothing about the job. Source: types of the openai Python SDK 3.52 and recordings of it and of
2.8.1, which sends JSON where there is no file. Which words of the caller a seller calls by other names, and what it
bills, stands in its adapter. Pure: no call is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from providers.formats import failures, jobs, openai_images
from providers.formats.failures import Dialect, Ruling, as_object, as_text
from providers.formats.multipart import write_fields
from router import outcome
from router.geometry import Sizes
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    REST_MAX_S,
    Abilities,
    Done,
    Handle,
    Job,
    Kind,
    Media,
    Missing,
    Part,
    Pending,
    Polled,
    Reply,
    Request,
    Role,
    Trouble,
    rest_asked,
)

FILMS = frozenset({Kind.VIDEO_GENERATION})
_SMALL, _LARGE = frozenset({"auto", "720x1280", "1280x720"}), frozenset({"1024x1792", "1792x1024"})
_SORA = Abilities(
    FILMS,
    sizes=Sizes(named=_SMALL),
    fields=frozenset({"prompt", "n", "size", "seconds"}),
    roles=frozenset({Role.FIRST_FRAME}),
    seconds=frozenset({4, 8, 12}),
    remixes=True,
)
MODELS: Mapping[str, Abilities] = MappingProxyType(
    {"sora-2*": _SORA, "sora-2-pro*": replace(_SORA, sizes=Sizes(named=_SMALL | _LARGE))}
)
"""What the models of this form do at every seller that has the whole of it."""
REPLY_BYTES = 1 << 20

# "Unknown" is none of these: an unheard-of word means that the job lives until it says otherwise.
DELIVERED = frozenset({"completed", "succeeded", "success"})
FAILED = frozenset({"failed", "failure", "error", "expired", "incomplete"})
CANCELLED = frozenset({"cancelled", "canceled"})

# Beside the codes of images: the check before a film is begun.
CODES: Mapping[str, Ruling] = MappingProxyType({"sentinel_block": Ruling(FailureKind.REFUSED)})
# Another seller may make the size or the length that this one does not.
PORTABLE = frozenset({"size", "seconds"})


@dataclass(frozen=True, slots=True)
class Terms:
    """How one seller's jobs end: its error words, and what a job costs that failed, or was refused, after it began."""

    dialect: Dialect
    billed_if_failed: Billed = Billed.UNKNOWN
    billed_if_refused: Billed = Billed.UNKNOWN


def build_body(job: Job) -> dict[str, Any]:
    """Build the fields of a create: the caller's, `seconds` as a string ("4", "8", "12")."""
    body: dict[str, Any] = {"model": job.model}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in {"model", "n"}}
    if body.get("size") == "auto":
        del body["size"]
    if isinstance(body.get("seconds"), int | float):
        body["seconds"] = f"{body['seconds']:g}"
    return body


def ask(job: Job, url: str, body: Mapping[str, Any]) -> Request:
    """Write the create: multipart where a file goes along as the first frame, else JSON; or the remix of a film.

    A remix takes the prompt alone; length and size are those of the film.
    """
    if job.remix_of is not None:
        remix = f"{url}/{quote(job.remix_of, safe='')}/remix"
        return Request("POST", remix, headers(job.credential), {"prompt": body["prompt"]}, max_reply_bytes=REPLY_BYTES)
    form: tuple[Part, ...] = ()
    for source in job.files_of(Role.FIRST_FRAME)[:1]:
        if source.url is not None:
            body = {**body, "input_reference": {"image_url": source.url}}
        else:
            form = (*write_fields(body), Part("input_reference", source))
    return Request("POST", url, headers(job.credential), None if form else body, form, REPLY_BYTES)


def ask_after(handle: Handle, job: Job, url: str) -> Request:
    """Write the poll; `url` is where creates go."""
    return Request(
        "GET", f"{url}/{quote(handle.remote_id, safe='')}", headers(job.credential), max_reply_bytes=REPLY_BYTES
    )


def read_handle(reply: Reply) -> Handle | None:
    """Read the id of what was accepted (`id`, at some `task_id`); None when nothing was.

    An id counts under 5xx, too: a server error is free only where no job id came with it.
    """
    body = as_object(reply.data)
    remote_id = jobs.read_id(body.get("id")) or jobs.read_id(body.get("task_id"))
    if reply.status // 100 not in {2, 5} or not remote_id:
        return None
    return Handle(remote_id)


def read_created(reply: Reply, job: Job, url: str, terms: Terms) -> Done | Pending | Fail | None:
    """Read the answer to a create; None when nothing was accepted."""
    handle = read_handle(reply)
    if handle is None:
        return None
    told = read_video(handle, reply, job, url, terms) if isinstance(as_object(reply.data).get("status"), str) else None
    return Pending(handle) if told is None else told


def read_poll(handle: Handle, reply: Reply, job: Job, url: str, terms: Terms) -> Polled:
    """Read the answer to a poll. Whatever is no word about the job is `Trouble`."""
    if reply.status in {404, 410}:
        return Missing("the seller does not know the job")
    if reply.status // 100 == 2 and isinstance(as_object(reply.data).get("status"), str):
        return read_video(handle, reply, job, url, terms)
    detail = f"HTTP {reply.status} and no status of the job: {as_text(failures.body_of(reply))}"
    told = outcome.one_line(failures.mask(detail, job.credential))
    return Trouble(told, rest_asked(reply.headers, job.now), refused=reply.status in {401, 403})


def read_video(handle: Handle, reply: Reply, job: Job, url: str, terms: Terms) -> Done | Pending | Fail:
    """Translate the video object by its `status`."""
    body = as_object(reply.data)
    status = body["status"].lower()
    if status in DELIVERED:
        content = f"{url}/{quote(handle.remote_id, safe='')}/content"
        # The key goes with the fetch, and to no other host: a redirect to signed storage does not get it.
        media = Media(url=content, headers={"Authorization": f"Bearer {job.credential}"})
        return Done((media,), http_status=reply.status)
    if status in FAILED or status in CANCELLED:
        return _end(status, reply, job, terms)
    return Pending(handle, _percent(body.get("progress")), _after_s(reply.headers))


def headers(credential: str) -> dict[str, str]:
    """Write the headers of every call."""
    return {"Authorization": f"Bearer {credential}", "Accept": "application/json"}


# -- parts ------------------------------------------------------------------------------------------------------------


def _end(status: str, reply: Reply, job: Job, terms: Terms) -> Fail:
    """Say how a job ended that delivered nothing. An unknown code is a failure of the job."""
    said = openai_images.read_error(reply.status, reply.data)
    ruling = failures.judge(said, terms.dialect)
    if ruling.kind is FailureKind.REFUSED:
        ruling = Ruling(FailureKind.REFUSED, billed=terms.billed_if_refused)
    elif status in CANCELLED:
        ruling = Ruling(FailureKind.CANCELLED)
    else:
        ruling = Ruling(FailureKind.JOB_FAILED, billed=terms.billed_if_failed)
    message = f"the job ended as {status}; {said.message}" if said.own else f"the job ended as {status}"
    told = failures.Said(said.status, said.own, said.code, said.type, message=message)
    return failures.tell(told, ruling, secret=job.credential)


def _percent(progress: Any) -> int | None:
    """Accept 0 to 100; sellers also say it as a fraction of a percent."""
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 100:
        return None
    return int(progress)


def _after_s(said: Mapping[str, str]) -> float | None:
    """Read `openai-poll-after-ms`, the wish that the SDK's own polling honours."""
    try:
        seconds = float(said.get("openai-poll-after-ms", "")) / 1000
    except ValueError:
        return None
    return min(seconds, REST_MAX_S) if isfinite(seconds) and seconds > 0 else None
