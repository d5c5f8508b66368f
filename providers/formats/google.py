"""What Google's generative APIs have in common: the key's header, `google.rpc.Status` bodies, and what they mean.

Source: Gemini API, error reference (provider notes, Gemini section 6). The status word is read before the number; a 429
says in its details when to come back (RetryInfo) and whether the day's quota is gone (QuotaFailure). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.formats import failures
from providers.formats.failures import TARGET_OUT, Dialect, Ruling, Said, as_object, as_text, as_word
from router.outcome import Fail, FailureKind
from router.provider import REST_MAX_S, Account, Broken, Call, Job, Request, rest_asked

BASE_URL = "https://generativelanguage.googleapis.com"
DETAILS_MAX = 20
_PER_DAY = re.compile(r"PerDay", re.IGNORECASE)
_NO_LIMIT = re.compile(r"limit:\s*0\b")
_BAD_KEY = re.compile(r"API key (not valid|expired)|API_KEY_INVALID", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)s")
PREFIX = "/v1beta"

DIALECT = Dialect(
    codes={
        "FAILED_PRECONDITION": Ruling(FailureKind.ACCOUNT),  # the region, the free tier, billing that is off
        "UNAUTHENTICATED": Ruling(FailureKind.ACCOUNT),
        "PERMISSION_DENIED": Ruling(FailureKind.ACCOUNT),
        "NOT_FOUND": TARGET_OUT,
        "RESOURCE_EXHAUSTED": Ruling(FailureKind.THROTTLED),
        "CANCELLED": Ruling(FailureKind.UNKNOWN),
        "DEADLINE_EXCEEDED": Ruling(FailureKind.UNKNOWN),
        "INTERNAL": Ruling(FailureKind.SERVER_ERROR),
        "UNAVAILABLE": Ruling(FailureKind.OVERLOADED),
    },
    portable=frozenset({"size", "aspect_ratio", "resolution", "seconds"}),
)


def fail(
    status: int, headers: Mapping[str, str], body: Any, portable: Mapping[str, str], *, now: int = 0, secret: str = ""
) -> Fail:
    """Say what an error answer means. `portable` maps Google's names of fields to ours."""
    said = read_error(status, body, portable)
    ruling = failures.judge(said, DIALECT)
    if said.code == "INVALID_ARGUMENT" or status == 400:
        if _BAD_KEY.search(f"{said.message} {_reasons(body)}"):
            ruling = Ruling(FailureKind.ACCOUNT)
    elif ruling.kind is FailureKind.THROTTLED and _is_used_up(said, body):
        ruling = Ruling(FailureKind.ACCOUNT)  # waiting for the day's quota is not a rest of seconds
    rest_s = _retry_delay(body)
    return failures.tell(said, ruling, secret=secret, rest_s=rest_asked(headers, now) if rest_s is None else rest_s)


def read_error(status: int, body: Any, portable: Mapping[str, str]) -> Said:
    """Read a `google.rpc.Status`; the field that it complains of is looked for in its message."""
    error = as_object(body).get("error")
    if isinstance(body, list) and body:  # a stream's error comes as an array of one
        error = as_object(body[0]).get("error")
    if not isinstance(error, dict):
        return failures.read_foreign(status, body)
    message = as_text(error.get("message"))
    named = next((ours for theirs, ours in portable.items() if theirs.lower() in message.lower()), None)
    return Said(status, own=True, code=as_word(error.get("status")), param=named, message=message)


def headers_of(credential: str) -> dict[str, str]:
    """The key's own header."""
    return {"x-goog-api-key": credential, "Accept": "application/json"}


def root(base_url: str) -> str:
    """The API's root with its version; a base URL may end in one."""
    bare = base_url.rstrip("/")
    return bare if bare.endswith(("/v1", "/v1beta")) else bare + PREFIX


def model_url(job: Job, verb: str) -> str:
    """The address of a model's verb; a name may come with its `models/`."""
    return f"{root(job.base_url)}/models/{job.model.removeprefix('models/')}:{verb}"


async def probe(account: Account, call: Call) -> Fail | None:
    """List one model: free, and it needs the key."""
    url = f"{root(account.base_url)}/models?pageSize=1"
    reply = await call(Request("GET", url, headers_of(account.credential), max_reply_bytes=1 << 20))
    if isinstance(reply, Broken):
        return failures.tell_broken(reply, secret=account.credential)
    if reply.status == 200 and isinstance(as_object(reply.data).get("models"), list):
        return None
    return fail(reply.status, reply.headers, failures.body_of(reply), {}, now=account.now, secret=account.credential)


# -- parts ------------------------------------------------------------------------------------------------------------


def _details(body: Any) -> list[Mapping[str, Any]]:
    error = as_object(as_object(body).get("error"))
    details = error.get("details")
    return [as_object(one) for one in details[:DETAILS_MAX]] if isinstance(details, list) else []


def _reasons(body: Any) -> str:
    return " ".join(as_word(one.get("reason")) for one in _details(body))


def _retry_delay(body: Any) -> float | None:
    """Read RetryInfo.retryDelay (`34s`)."""
    for one in _details(body):
        delay = one.get("retryDelay")
        found = _SECONDS.fullmatch(delay) if isinstance(delay, str) else None
        if found is not None and float(found[1]) > 0:
            return min(float(found[1]), REST_MAX_S)
    return None


def _is_used_up(said: Said, body: Any) -> bool:
    """Whether a 429 is about a day's quota, or about one that is not there at all."""
    if _NO_LIMIT.search(said.message):
        return True
    for one in _details(body):
        violations = one.get("violations")
        for violation in violations[:DETAILS_MAX] if isinstance(violations, list) else []:
            if _PER_DAY.search(as_text(as_object(violation).get("quotaId"))):
                return True
    return False
