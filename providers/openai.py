"""OpenAI images, chat and videos, and every server that speaks the same forms at another base URL.

Pictures and chat are synchronous: one POST, whose answer comes whole or event by event; no job id, no poll, no cancel,
no later lookup, no idempotency key (OpenAI API reference, Images and Chat). Films are jobs that are polled. OpenAI's
own videos closed in September 2026, and many sellers went on with the form: it is spoken for them. The wire forms live
in `formats/openai_*.py`, the table of statuses in `formats/failures.py`; here stands what is OpenAI's own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from providers.formats import failures, openai_chat, openai_image_stream, openai_images, openai_stream, openai_videos
from providers.formats.failures import Dialect, Ruling, as_object
from router import outcome
from router.outcome import Billed, Fail, FailureKind
from router.provider import (
    Abilities,
    Account,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Kind,
    Listen,
    Media,
    Missing,
    Polled,
    Reply,
    Request,
    Role,
    Streamed,
    Submitted,
    Trouble,
    Usage,
    rest_asked,
)

MODELS_BYTES = 4 << 20
POLLS_EVERY_S = 10.0  # "poll each 10-20 s" (OpenAI videos)

FACTS = AdapterFacts(
    slug="openai",
    base_url="https://api.openai.com/v1",
    # A model that we do not know, here or at a compatible server, gets every field as it came.
    abilities={
        **openai_images.MODELS,
        **openai_videos.MODELS,
        "*": Abilities(
            openai_images.DRAWS | openai_chat.CHATS | openai_videos.FILMS,
            max_n=10,
            max_images=openai_images.IMAGES_MAX,
            roles=openai_images.MASKED | {Role.FIRST_FRAME},
            remixes=True,
        ),
    },
    polls_every_s=POLLS_EVERY_S,
    streams=openai_images.DRAWS | openai_chat.CHATS,
    probes=True,
    lacks={
        "cancel": "pictures and chat are synchronous, and of films only those that have ended can be deleted",
        "webhook": "those of films went with OpenAI's own videos; sellers of the form are polled",
    },
)

DIALECT = Dialect(
    codes={**openai_images.CODES, **openai_chat.CODES, **openai_videos.CODES},
    portable=openai_images.PORTABLE | openai_videos.PORTABLE,
    # Only these words: the message of an ordinary rate limit mentions billing, too.
    quota_words=re.compile(
        r"insufficient[ _](quota|balance|credits?|funds)|exceeded your current quota", re.IGNORECASE
    ),
    refusal_words=openai_images.REFUSAL_WORDS,
)

# A preview costs about a hundred output tokens; whether a picture that then fails is charged is not said.
_IMAGE_STREAM = openai_stream.Terms(DIALECT)
# What a seller charges for a film that fails is the seller's own affair.
_JOBS = openai_videos.Terms(DIALECT)
# "Tokens already produced are billed."
_CHAT_STREAM = openai_stream.Terms(DIALECT, billed_once_told=Billed.YES)

# 403 "Your organization must be verified to use the model ...": it names the model and is about the account.
_VERIFICATION = re.compile(r"\bverif", re.IGNORECASE)


class Adapter:
    """OpenAI's images, chat completions and videos under `base_url` (with /v1)."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Make the pictures or the completion, and wait, the connection silent until then; or hand in the film."""
        request = build(job)
        if isinstance(request, Fail):
            return request
        reply = await call(request)
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=job.credential)
        if job.kind is Kind.VIDEO_GENERATION:
            return _conclude_film(job, reply)
        return _conclude(job, reply)

    async def stream(self, job: Job, listen: Listen) -> AsyncGenerator[Streamed, None]:
        """Make the same and tell previews, or chunks, as they come. A server that does not stream answers whole."""
        request = build(job, streamed=True)
        if isinstance(request, Fail):
            yield request
            return
        async with listen(request) as answer:
            if isinstance(answer, Broken):
                yield failures.tell_broken(answer, secret=job.credential)
            elif isinstance(answer, Reply):
                yield _conclude(job, answer)
            else:
                chats = job.kind in openai_chat.CHATS
                told = (
                    openai_chat.follow(job, answer, _CHAT_STREAM)
                    if chats
                    else openai_image_stream.follow(job, answer, _IMAGE_STREAM)
                )
                async with aclosing(told):
                    async for one in told:
                        yield one

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after a film. Of pictures and completions no lost answer can be looked up."""
        if job.kind is not Kind.VIDEO_GENERATION:
            return Missing("this provider keeps no jobs but films")
        reply = await call(openai_videos.ask_after(handle, job, _videos_url(job)))
        if isinstance(reply, Broken):
            return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
        return openai_videos.read_poll(handle, reply, job, _videos_url(job), _JOBS)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel."""

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """List the models, which costs nothing and needs a key that is in force."""
        headers = {"Authorization": f"Bearer {account.credential}", "Accept": "application/json"}
        url = f"{account.base_url.rstrip('/')}/models"
        reply = await call(Request("GET", url, headers, max_reply_bytes=MODELS_BYTES))
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=account.credential, billed_once_sent=Billed.NO)
        if reply.status // 100 == 2 and as_object(reply.data):
            return None
        body = failures.body_of(reply)
        failed = fail(reply.status, reply.headers, body, now=account.now, secret=account.credential)
        return replace(failed, billed=Billed.NO)


def build(job: Job, *, streamed: bool = False) -> Request | Fail:
    """Write the one paid request; a `Fail` when what is asked cannot be said, before anything is paid."""
    root = job.base_url.rstrip("/")
    match job.kind:
        case Kind.CHAT_COMPLETION:
            return openai_chat.ask(job, f"{root}/chat/completions", streamed=streamed)
        case Kind.IMAGE_GENERATION:
            return openai_images.ask(job, f"{root}/images/generations", streamed=streamed)
        case Kind.VIDEO_GENERATION:
            return openai_videos.ask(job, _videos_url(job), openai_videos.build_body(job))
        case Kind.IMAGE_EDIT if job.files_of(Role.IMAGE):
            return openai_images.ask(job, f"{root}/images/edits", streamed=streamed)
        case Kind.IMAGE_EDIT:
            return outcome.fail(FailureKind.BAD_REQUEST, "an edit needs an image", param="image")
        case _:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer without a result means.

    `body` is decoded JSON, a text that is not JSON, or None; `now` (ms since the epoch) makes sense of a date in
    Retry-After; no piece of `secret` gets into the detail.
    """
    refusal = openai_chat.refusal_of(body) if status // 100 == 2 else None
    if refusal is not None:
        return openai_chat.tell_refusal(status, refusal, secret=secret)
    said = openai_images.read_error(status, body)
    if status == 403 and _VERIFICATION.search(said.message):
        ruling = Ruling(FailureKind.ACCOUNT)
    else:
        ruling = failures.judge(said, DIALECT)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens that GPT image models and completions report; other image models report none."""
    return openai_chat.read_usage(body) if "choices" in as_object(body) else openai_images.read_usage(body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _conclude(job: Job, reply: Reply) -> Done | Fail:
    media: tuple[Media, ...] = ()
    if reply.status // 100 == 2 and job.kind in openai_chat.CHATS:
        document = openai_chat.read_document(reply.data)
        media = () if document is None else (Media(document=document),)
    elif reply.status // 100 == 2:
        media = openai_images.read_media(reply.data, job.n)
    if media:
        return Done(media, usage(reply.data), http_status=reply.status)
    return _fail_of(job, reply)


def _conclude_film(job: Job, reply: Reply) -> Submitted:
    accepted = openai_videos.read_created(reply, job, _videos_url(job), _JOBS)
    if accepted is not None:
        return accepted
    failed = _fail_of(job, reply)
    # A film is looked at before it is begun, and what is refused then is not charged.
    free = failed.kind is FailureKind.REFUSED and reply.status // 100 != 2
    return replace(failed, billed=Billed.NO) if free else failed


def _fail_of(job: Job, reply: Reply) -> Fail:
    return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)


def _videos_url(job: Job) -> str:
    return f"{job.base_url.rstrip('/')}/videos"
