"""APIYI, an aggregator: pictures over a connection that is held until they are there, chat, and films as jobs.

It speaks OpenAI's forms. What sets it apart is its bill (APIYI image API essentials): a refusal by content safety
arrives under HTTP 200 and is billed, and a request whose connection ends early is finished and billed all the same.
429, 503 and failures that are its own are not. Pictures are not stored, so that a lost answer cannot be fetched again;
films are polled (`/v1/videos`, with `duration` for `seconds`). Its native forms of other vendors (Gemini, MiniMax, the
older Veo paths) are not spoken here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from providers.formats import failures, openai_chat, openai_images, openai_stream, openai_videos
from providers.formats.failures import Dialect, Ruling, Said, as_object
from router import outcome
from router.geometry import Sizes, resolution_of
from router.outcome import Billed, Ejects, Fail, FailureKind
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

# The reverse channels take a prompt, pictures and little else, and make one at a time; "-all" ignores the size.
_REVERSE_FIELDS = frozenset({"prompt", "n"})
_REVERSE = Abilities(openai_images.DRAWS, fields=_REVERSE_FIELDS | {"size"}, max_images=openai_images.IMAGES_MAX)
# `duration` is "4", "6" or "8"; of the picture only `metadata.resolution` can be said, and unsaid a Veo film is 16:9.
_VEO_SIZES = Sizes(named=frozenset({"auto"}), ratios=frozenset({"16:9"}), resolutions=frozenset({"720p", "1080p"}))
_VEO = Abilities(
    openai_videos.FILMS,
    sizes=_VEO_SIZES,
    fields=frozenset({"prompt", "n", "size", "seconds", "resolution"}),
    seconds=frozenset({4, 6, 8}),
)

FACTS = AdapterFacts(
    slug="apiyi",
    base_url="https://api.apiyi.com",
    abilities={
        # Edits are multipart there: a picture that the caller names by its URL is fetched by us.
        **{model: replace(able, takes_urls=False) for model, able in openai_images.MODELS.items()},
        "gpt-image-2-all": replace(_REVERSE, fields=_REVERSE_FIELDS, sizes=Sizes(named=frozenset({"auto"}))),
        "gpt-image-2-vip": _REVERSE,
        "veo*": _VEO,
        # Only in its vendor's own form, on paths of its own.
        "MiniMax-*": Abilities(frozenset()),
        # FLUX, Seedream and whatever else it resells: one picture per call is all that its pages show.
        "*": Abilities(
            openai_images.DRAWS | openai_chat.CHATS | openai_videos.FILMS,
            max_images=openai_images.IMAGES_MAX,
            roles=openai_images.MASKED,
        ),
    },
    polls_every_s=POLLS_EVERY_S,
    streams=openai_chat.CHATS,
    probes=True,
    lacks={
        "cancel": "no cancel is documented, and a client that goes away stops nothing",
        "webhook": "none is documented; films are polled",
    },
)

DIALECT = Dialect(
    # Its channels pass OpenAI's codes through; this one is the gateway's own.
    codes={
        **openai_images.CODES,
        **openai_chat.CODES,
        **openai_videos.CODES,
        "insufficient_user_quota": Ruling(FailureKind.ACCOUNT),
    },
    portable=openai_images.PORTABLE | openai_videos.PORTABLE | {"resolution"},
    # "402, or 403/429 with quota words": any mention of a quota is about our balance there.
    quota_words=re.compile("quota", re.IGNORECASE),
    refusal_words=openai_images.REFUSAL_WORDS,
)

# What the caller calls by one name goes out by another.
_OUR_NAMES: Mapping[str, str] = MappingProxyType(
    {"duration": "seconds", "metadata.resolution": "resolution", "metadata": "resolution"}
)
# "Reverse Veo models bill on success only." Of others nothing is said.
_VEO_JOBS = openai_videos.Terms(DIALECT, billed_if_failed=Billed.NO, billed_if_refused=Billed.NO)
_JOBS = openai_videos.Terms(DIALECT)
# "Client timeout or own disconnect: billed"; and tokens already produced are billed everywhere.
_CHAT_STREAM = openai_stream.Terms(DIALECT, billed_once_told=Billed.YES, billed_once_sent=Billed.YES)


class Adapter:
    """APIYI's images, chat and videos. `base_url` may end in /v1 or not; its pages give both."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Make the picture or the completion and wait for it, or hand in the film."""
        request = build(job)
        if isinstance(request, Fail):
            return request
        reply = await call(request)
        if isinstance(reply, Broken):
            # A client timeout or disconnect does not stop the job: it is finished and billed normally.
            return failures.tell_broken(reply, secret=job.credential, billed_once_sent=Billed.YES)
        if job.kind is Kind.VIDEO_GENERATION:
            return _conclude_video(job, reply)
        return _conclude(job, reply)

    async def stream(self, job: Job, listen: Listen) -> AsyncGenerator[Streamed, None]:
        """Make a completion and tell its chunks as they come."""
        request = build(job, streamed=True)
        if isinstance(request, Fail):
            yield request
            return
        async with listen(request) as answer:
            if isinstance(answer, Broken):
                yield failures.tell_broken(answer, secret=job.credential, billed_once_sent=Billed.YES)
            elif isinstance(answer, Reply):
                yield _conclude(job, answer)
            else:
                async with aclosing(openai_chat.follow(job, answer, _CHAT_STREAM)) as told:
                    async for one in told:
                        yield one

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after a film. Pictures have no task id and are not kept."""
        if job.kind is not Kind.VIDEO_GENERATION:
            return Missing("this provider keeps no pictures")
        reply = await call(openai_videos.ask_after(handle, job, _videos_url(job)))
        if isinstance(reply, Broken):
            return Trouble(outcome.one_line(failures.mask(reply.detail, job.credential)))
        return openai_videos.read_poll(handle, reply, job, _videos_url(job), _terms(job))

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel."""

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """List the models, which costs nothing. A web page under HTTP 200 is what a wrong path gives, and no answer."""
        headers = {"Authorization": f"Bearer {account.credential}", "Accept": "application/json"}
        request = Request("GET", f"{_root(account.base_url)}/models", headers, max_reply_bytes=MODELS_BYTES)
        reply = await call(request)
        if isinstance(reply, Broken):
            return failures.tell_broken(reply, secret=account.credential, billed_once_sent=Billed.NO)
        if reply.status // 100 == 2 and isinstance(as_object(reply.data).get("data"), list):
            return None
        body = failures.body_of(reply)
        said = openai_images.read_error(reply.status, body)
        rest_s = rest_asked(reply.headers, account.now)
        failed = failures.tell(said, failures.judge(said, DIALECT), secret=account.credential, rest_s=rest_s)
        return replace(failed, billed=Billed.NO)


def build(job: Job, *, streamed: bool = False) -> Request | Fail:
    """Write the one paid request; a `Fail` when what is asked cannot be said, before anything is paid."""
    root = _root(job.base_url)
    match job.kind:
        case Kind.CHAT_COMPLETION:
            return openai_chat.ask(job, f"{root}/chat/completions", streamed=streamed)
        case Kind.VIDEO_GENERATION:
            return openai_videos.ask(job, _videos_url(job), build_video(job))
        case Kind.IMAGE_EDIT if not job.files_of(Role.IMAGE):
            return outcome.fail(FailureKind.BAD_REQUEST, "an edit needs an image", param="image")
        case Kind.IMAGE_GENERATION | Kind.IMAGE_EDIT:
            if FACTS.of_model(job.model).max_n == 1:
                # "n unsupported": one picture is what comes, said or not.
                job = replace(job, input={name: value for name, value in job.input.items() if name != "n"})
            verb = "edits" if job.kind is Kind.IMAGE_EDIT else "generations"
            return openai_images.ask(job, f"{root}/images/{verb}")
        case _:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")


def build_video(job: Job) -> dict[str, Any]:
    """Build the fields of a film: `duration` for `seconds`, `metadata.resolution` for the size or the resolution."""
    body = openai_videos.build_body(job)
    if "seconds" in body:
        body["duration"] = body.pop("seconds")
    resolution, sizes = body.pop("resolution", None), FACTS.of_model(job.model).sizes
    if sizes is not None and isinstance(size := body.pop("size", None), str):
        resolution = resolution or resolution_of(size, sizes.resolutions)
    if resolution is not None:
        body["metadata"] = {**as_object(body.get("metadata")), "resolution": resolution}
    return body


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer without a result means; the parameters are those of every adapter (`providers/openai.py`)."""
    said = openai_images.read_error(status, body)
    refusal = openai_chat.refusal_of(body) if status // 100 == 2 else None
    if refusal is not None:
        return openai_chat.tell_refusal(status, refusal, secret=secret)
    if _is_refusal(status, body):
        # A refusal by content safety "arrives with HTTP 200" and is billed; it is never sent again.
        ruling = Ruling(FailureKind.REFUSED, billed=Billed.YES)
        said = replace(said, message="no picture under HTTP 200, which is how content safety refuses; it is billed")
    else:
        said = replace(said, param=_OUR_NAMES.get(said.param or "", said.param))
        ruling = _judge(replace(said, status=_inner_status(status, body)))
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens that official channels and chat report; the reverse channels have a flat price and no tokens."""
    return openai_chat.read_usage(body) if "choices" in as_object(body) else openai_images.read_usage(body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _conclude(job: Job, reply: Reply) -> Done | Fail:
    media: tuple[Media, ...] = ()
    if reply.status // 100 == 2 and job.kind is Kind.CHAT_COMPLETION:
        document = openai_chat.read_document(reply.data)
        media = () if document is None else (Media(document=document),)
    elif reply.status // 100 == 2:
        media = openai_images.read_media(reply.data, job.n)
    if media:
        return Done(media, usage(reply.data), http_status=reply.status)
    return _fail_of(job, reply)


def _conclude_video(job: Job, reply: Reply) -> Submitted:
    accepted = openai_videos.read_created(reply, job, _videos_url(job), _terms(job))
    if accepted is not None:
        return accepted
    failed = _fail_of(job, reply)
    if failed.kind is FailureKind.REFUSED and reply.status // 100 != 2:
        # Refused "before work starts, not charged": unlike a picture, a film is looked at before it is begun.
        return replace(failed, billed=Billed.NO)
    return failed


def _fail_of(job: Job, reply: Reply) -> Fail:
    return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)


def _terms(job: Job) -> openai_videos.Terms:
    return _VEO_JOBS if job.model.startswith("veo") else _JOBS


def _root(base_url: str) -> str:
    return f"{base_url.rstrip('/').removesuffix('/v1')}/v1"


def _videos_url(job: Job) -> str:
    return f"{_root(job.base_url)}/videos"


def _judge(said: Said) -> Ruling:
    ruling = failures.judge(said, DIALECT)
    if said.status == 403 and ruling.kind is FailureKind.UNSUPPORTED:
        # "403 (key, group, model not allowed)" is about the account; but a key that may not use one model serves the
        # others, so that only this target is put aside.
        return Ruling(FailureKind.ACCOUNT, Ejects.TARGET)
    return ruling


def _inner_status(status: int, body: Any) -> int:
    """Prefer the status that a wrapped error carries: `{"status_code": 400, "error": {...}}` may come as a 500."""
    inner = as_object(body).get("status_code")
    return inner if status >= 400 and isinstance(inner, int) and 400 <= inner < 600 else status


def _is_refusal(status: int, body: Any) -> bool:
    """Tell a refusal from garbage: a 2xx of the right form, whose `data` is there and holds no picture."""
    whole = as_object(body)
    items = whole.get("data")
    if status // 100 != 2 or whole.get("error") or "data" not in whole or not isinstance(items, list | None):
        return False
    entries = map(as_object, items or ())
    return not any(entry.get("b64_json") or entry.get("url") for entry in entries)
