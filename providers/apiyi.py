"""APIYI, an aggregator that holds a synchronous connection until the picture is there (OpenAI's form of images).

What sets it apart is its bill (APIYI image API essentials): a refusal by content safety arrives under HTTP 200 and is
billed, and a request whose connection ends early is finished and billed all the same. 429, 503 and failures that are
its own are not. Nothing is stored, so that a lost answer cannot be fetched again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from providers.formats import failures, openai_images
from providers.formats.failures import Dialect, Ruling, Said
from router import outcome
from router.geometry import Sizes
from router.outcome import Billed, Ejects, Fail, FailureKind
from router.provider import (
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Missing,
    Polled,
    Submitted,
    Usage,
    rest_asked,
)

# The reverse channels take a prompt and little else, and make one picture at a time; "-all" ignores the size.
_REVERSE_FIELDS = frozenset({"prompt", "n"})

FACTS = AdapterFacts(
    slug="apiyi",
    base_url="https://api.apiyi.com",
    abilities={
        **openai_images.MODELS,
        "gpt-image-2-all": Abilities(
            openai_images.GENERATES, sizes=Sizes(named=frozenset({"auto"})), fields=_REVERSE_FIELDS
        ),
        "gpt-image-2-vip": Abilities(openai_images.GENERATES, fields=_REVERSE_FIELDS | {"size"}),
        # FLUX, Seedream and whatever else it resells: one picture per call is all that its pages show.
        "*": Abilities(openai_images.GENERATES),
    },
)

DIALECT = Dialect(
    # Its channels pass OpenAI's codes through; this one is the gateway's own.
    codes={**openai_images.CODES, "insufficient_user_quota": Ruling(FailureKind.ACCOUNT)},
    portable=openai_images.PORTABLE,
    # "402, or 403/429 with quota words": any mention of a quota is about our balance there.
    quota_words=re.compile("quota", re.IGNORECASE),
    refusal_words=openai_images.REFUSAL_WORDS,
)


class Adapter:
    """APIYI's images endpoint. `base_url` may end in /v1 or not; its pages give both."""

    facts: AdapterFacts = FACTS

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Generate, and wait for the picture."""
        if job.kind not in openai_images.GENERATES:
            return outcome.fail(FailureKind.UNSUPPORTED, f"this adapter does not do {job.kind.value}", param="kind")
        root = job.base_url.rstrip("/").removesuffix("/v1")
        request = openai_images.ask(job, f"{root}/v1/images/generations")
        if FACTS.of_model(job.model).max_n == 1 and request.json is not None:
            # "n unsupported": one picture is what comes, said or not.
            request = replace(request, json={name: value for name, value in request.json.items() if name != "n"})
        reply = await call(request)
        if isinstance(reply, Broken):
            # A client timeout or disconnect does not stop the job: it is finished and billed normally.
            return failures.tell_broken(reply, secret=job.credential, billed_once_sent=Billed.YES)
        media = openai_images.read_media(reply.data, job.n) if reply.status // 100 == 2 else ()
        if media:
            return Done(media, usage(reply.data), http_status=reply.status)
        return fail(reply.status, reply.headers, failures.body_of(reply), now=job.now, secret=job.credential)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Say that there is nothing to ask: images have no task id and are not kept."""
        return Missing("this provider keeps no jobs")

    async def cancel(self, handle: Handle, job: Job, call: Call) -> None:
        """Do nothing: there is no cancel."""


def fail(status: int, headers: Mapping[str, str], body: Any, *, now: int = 0, secret: str = "") -> Fail:
    """Say what an answer without a picture means; the parameters are those of every adapter (`providers/openai.py`)."""
    said = openai_images.read_error(status, body)
    if _is_refusal(status, body):
        # A refusal by content safety "arrives with HTTP 200" and is billed; it is never sent again.
        ruling = Ruling(FailureKind.REFUSED, billed=Billed.YES)
        said = replace(said, message="no picture under HTTP 200, which is how content safety refuses; it is billed")
    else:
        ruling = _judge(replace(said, status=_inner_status(status, body)))
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now))


def usage(body: Any) -> Usage:
    """Read the tokens that official channels pass through; the reverse channels have a flat price and report none."""
    return openai_images.read_usage(body)


# -- parts ------------------------------------------------------------------------------------------------------------


def _judge(said: Said) -> Ruling:
    ruling = failures.judge(said, DIALECT)
    if said.status == 403 and ruling.kind is FailureKind.UNSUPPORTED:
        # "403 (key, group, model not allowed)" is about the account; but a key that may not use one model serves the
        # others, so that only this target is put aside.
        return Ruling(FailureKind.ACCOUNT, Ejects.TARGET)
    return ruling


def _inner_status(status: int, body: Any) -> int:
    """Prefer the status that a wrapped error carries: `{"status_code": 400, "error": {...}}` may come as a 500."""
    inner = failures.as_object(body).get("status_code")
    return inner if status >= 400 and isinstance(inner, int) and 400 <= inner < 600 else status


def _is_refusal(status: int, body: Any) -> bool:
    """Tell a refusal from garbage: a 2xx of the right form, whose `data` is there and holds no picture."""
    whole = failures.as_object(body)
    items = whole.get("data")
    if status // 100 != 2 or whole.get("error") or "data" not in whole or not isinstance(items, list | None):
        return False
    entries = map(failures.as_object, items or ())
    return not any(entry.get("b64_json") or entry.get("url") for entry in entries)
