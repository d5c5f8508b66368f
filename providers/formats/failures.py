"""What every HTTP provider has in common when it fails: the table of contract section 6 as code, and safe wording.

An adapter reads its provider's error body into `Said`; `judge` decides what that means, the body's own code first, then
the status (provider notes, INDEX 7.3); `tell` puts it into a `Fail` from which the credential is blotted out.
What one provider means by a code or a word is that provider's `Dialect` and stands beside its adapter. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any

from router.outcome import Billed, Ejects, Fail, FailureKind, fail
from router.provider import Broken, Reply

DETAIL_SOURCE_CHARS = 2000
SNIPPET_CHARS = 200
NAME_CHARS = 64
CODE_MAX = 10**9
MASK = "***"
PIECE_CHARS = 8  # of a secret: shorter pieces give nothing away and would blot out ordinary words


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a failure means. `ejects` and `billed` None: as the facts of the kind say."""

    kind: FailureKind
    ejects: Ejects | None = None
    billed: Billed | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer that is no result says. `own`: the provider itself wrote it, not something in front of it."""

    status: int
    own: bool = False
    code: str = ""
    type: str = ""
    param: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One provider's vocabulary of errors.

    `codes` maps error codes (or types, where there is no code) to what they mean. `portable` names request fields whose
    rejection says nothing about other providers. `quota_words` and `refusal_words` are searched for in messages.
    """

    codes: Mapping[str, Ruling] = field(default_factory=dict)
    portable: frozenset[str] = frozenset()
    quota_words: re.Pattern[str] = re.compile(r"insufficient[ _](quota|balance|credits?|funds)", re.IGNORECASE)
    refusal_words: re.Pattern[str] | None = None


TARGET_OUT = Ruling(FailureKind.UNSUPPORTED, Ejects.TARGET)

# Contract 6, retry facts. What is not here goes by its hundred: see `_judge_status`.
STATUSES: Mapping[int, Ruling] = MappingProxyType(
    {
        # The key, the balance or the contract: nothing that this request could change.
        **dict.fromkeys((401, 402, 403), Ruling(FailureKind.ACCOUNT)),
        # Model, path and method come from our configuration: this target answers nobody until that is put right.
        **dict.fromkeys((404, 405, 415), TARGET_OUT),
        # Somebody in front gave up waiting. The work may go on behind, and be paid for.
        **dict.fromkeys((408, 499, 504, 520, 522, 524), Ruling(FailureKind.UNKNOWN)),
        429: Ruling(FailureKind.THROTTLED),
        **dict.fromkeys((503, 529), Ruling(FailureKind.OVERLOADED)),
        # Cloudflare never reached the origin: refused, unreachable, no TLS.
        **dict.fromkeys((521, 523, 525, 526), Ruling(FailureKind.UNSENT)),
    }
)

# Only under these statuses do words decide about an account. A 400 may quote the prompt, and no caller may be able to
# put a credential aside by what they write.
_ACCOUNT_STATUSES = frozenset({402, 403, 429})


def judge(said: Said, dialect: Dialect) -> Ruling:
    """Decide what an answer that is no result means: by its code, else by its words, else by its status."""
    for word in (said.code, said.type):
        if word in dialect.codes:
            return dialect.codes[word]
    if said.own and dialect.refusal_words is not None and dialect.refusal_words.search(said.message):
        return Ruling(FailureKind.REFUSED)
    if said.status in _ACCOUNT_STATUSES and dialect.quota_words.search(f"{said.code} {said.message}"):
        return Ruling(FailureKind.ACCOUNT)
    if said.status == 403 and said.own and _names_model(said):
        return TARGET_OUT
    if said.status in {400, 404, 422} and said.param is not None:
        return _judge_param(said.param, dialect)
    return _judge_status(said.status, own=said.own)


def tell(
    said: Said, ruling: Ruling, *, secret: str = "", rest_s: float | None = None, cost_nanos: int | None = None
) -> Fail:
    """Put a ruling into a `Fail` whose words hold no piece of the secret."""
    label = said.code or said.type
    detail = f"HTTP {said.status}{f' {label}' if label else ''}{f': {said.message}' if said.message else ''}"
    return fail(
        ruling.kind,
        mask(detail, secret),
        billed=ruling.billed,
        ejects=ruling.ejects,
        http_status=said.status,
        rest_s=rest_s,
        param=_clean_name(said.param, secret),
        cost_nanos=cost_nanos,
    )


def tell_broken(broken: Broken, *, secret: str = "", billed_once_sent: Billed | None = None) -> Fail:
    """Put an exchange without a whole answer into a `Fail`: not sent is free, sent is unknown (contract 6).

    `billed_once_sent` is for a provider whose data settles the bill of what was sent (contract 2.3).
    """
    kind = FailureKind.UNKNOWN if broken.sent else FailureKind.UNSENT
    return fail(kind, mask(broken.detail, secret), billed=billed_once_sent if broken.sent else None)


def mask(text: str, secret: str) -> str:
    """Blot out a secret and every piece of it, so that no cut and no ellipsis lets a part of it through.

    At most the first 2,000 characters are kept.
    """
    text = text[:DETAIL_SOURCE_CHARS]
    if not secret:
        return text
    size = min(len(secret), PIECE_CHARS)
    pieces = {secret[at : at + size] for at in range(len(secret) - size + 1)}
    hidden = [False] * len(text)
    for at in range(len(text) - size + 1):
        if text[at : at + size] in pieces:
            hidden[at : at + size] = [True] * size
    runs = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join(MASK if is_hidden else "".join(char for char, _ in run) for is_hidden, run in runs)


# -- reading bodies ---------------------------------------------------------------------------------------------------


def body_of(reply: Reply) -> Any:
    """Return what the pure functions of an adapter take as a body: decoded JSON, else the text, None for nothing."""
    return reply.data if reply.is_json else reply.text or None


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, an empty one in place of anything else: upstreams leave out and null what they like."""
    return value if isinstance(value, dict) else {}


def as_word(value: Any) -> str:
    """Return a code that may be text or a number (provider notes, INDEX 7.7), empty in place of anything else."""
    if isinstance(value, str):
        return value[:NAME_CHARS]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < CODE_MAX else ""


def as_text(value: Any, depth: int = 2) -> str:
    """Flatten what an upstream says about an error into one text, whatever JSON it is."""
    match value:
        case str():
            return value[:DETAIL_SOURCE_CHARS]
        case dict() if depth:
            return "; ".join(f"{key}: {as_text(part, depth - 1)}" for key, part in list(value.items())[:20])
        case list() if depth:
            return ", ".join(as_text(part, depth - 1) for part in value[:20])
        case _:
            return as_word(value)


def read_detail(detail: Any) -> tuple[str, tuple[str, ...]]:
    """Read FastAPI's `detail`, a text or one entry for each bad field: (message, the request fields it names)."""
    if not isinstance(detail, list):
        return as_text(detail), ()
    messages: list[str] = []
    names: list[str] = []
    for entry in map(as_object, detail[:20]):
        place = entry.get("loc")
        path = [as_word(part) for part in place[:20]] if isinstance(place, list) else []
        # The first part says body, query or path; the second is the field.
        if len(path) > 1 and path[1]:
            names.append(path[1])
        messages.append(f"{'.'.join(path[1:])}: {as_text(entry.get('msg'))}")
    return "; ".join(messages), tuple(names)


def read_foreign(status: int, body: Any) -> Said:
    """Describe an answer that is no error body of the provider: HTML, other text, nothing, or JSON without an error."""
    match body:
        case None | "":
            return Said(status, message="an empty body")
        case str() if body.lstrip().startswith("<"):
            # A page where an API was expected is what a wrong path gives (apiyi: a web page with 200).
            hint = " where JSON was expected; is the base_url right?" if status // 100 == 2 or status == 404 else ""
            return Said(status, message=f"HTML{hint}: {body[:SNIPPET_CHARS]}")
        case str():
            return Said(status, message=f"not JSON: {body[:SNIPPET_CHARS]}")
        case _:
            return Said(status, message="JSON that holds neither a result nor an error")


# -- parts ------------------------------------------------------------------------------------------------------------

_MODEL = re.compile(r"\bmodels?\b|model_|_model|模型", re.IGNORECASE)
_NAME = re.compile(rf"[A-Za-z0-9_.\[\]-]{{1,{NAME_CHARS}}}")


def _names_model(said: Said) -> bool:
    """Tell whether the upstream complains about the model, which is our configuration's choice."""
    return said.param == "model" or _MODEL.search(f"{said.code} {said.message}") is not None


def _judge_param(param: str, dialect: Dialect) -> Ruling:
    if param == "model":
        return TARGET_OUT
    # What this provider does not take another may (contract 6: only when the error names such a parameter).
    return Ruling(FailureKind.UNSUPPORTED if param in dialect.portable else FailureKind.BAD_REQUEST)


def _judge_status(status: int, *, own: bool) -> Ruling:
    if status in STATUSES:
        return STATUSES[status]
    match status // 100:
        case 2:
            return Ruling(FailureKind.UNUSABLE)  # it was done and paid for, and there is no result in it
        case 3 | 4:
            return Ruling(FailureKind.BAD_REQUEST)  # 3xx too: a redirect is never followed with a key in hand
        case 5 if own:
            return Ruling(FailureKind.SERVER_ERROR)  # the provider itself says that it failed
        case _:
            return Ruling(FailureKind.UNKNOWN)  # a gateway's page, or no proper HTTP: nobody says what became of it


def _clean_name(name: str | None, secret: str) -> str | None:
    """Keep the name of a request field only if it looks like one and holds nothing of the secret."""
    if name is None or _NAME.fullmatch(name) is None or mask(name, secret) != name:
        return None
    return name
