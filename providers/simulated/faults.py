"""The fault dial of a simulated provider: what goes wrong, to which requests, how often.

It decides and counts; it never touches a socket (`mischief.py` does) and knows no provider's wire format. A dial
holds rows. Each row sees every request that matches it, in order of arrival, and draws once from a dice of its own,
so that the same requests under the same seed meet the same faults, whatever the other rows do. The first row that
hits is carried out.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Step(StrEnum):
    """Where in the life of a job a fault strikes: the paid request, a poll, or the download of a result."""

    SUBMIT = "submit"
    POLL = "poll"
    RESULT = "result"


class FaultKind(StrEnum):
    """Everything that can be dialled. A simulator offers those which its provider can show; `MEANINGS` says what each
    does.
    """

    # Turned away: no job exists and nothing is charged.
    OVERLOADED = "overloaded"
    THROTTLED = "throttled"
    ACTIVE_LIMIT = "active_limit"
    SERVER_ERROR = "server_error"
    BAD_GATEWAY = "bad_gateway"
    QUOTA = "quota"
    INVALID_KEY = "invalid_key"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MODEL_NOT_FOUND = "model_not_found"
    MODERATION_BLOCKED = "moderation_blocked"
    EXPIRED = "expired"
    # Accepted: a job exists, and the bill says what it cost.
    SLOW = "slow"
    LATE = "late"
    HANG = "hang"
    DROP = "drop"
    GATEWAY_TIMEOUT = "gateway_timeout"
    ERROR_AFTER = "error_after"
    REFUSAL = "refusal"
    CONTENT_MODERATED = "content_moderated"
    TEXT_ONLY = "text_only"
    JOB_ERROR = "job_error"
    TASK_NOT_FOUND = "task_not_found"
    LOST = "lost"
    NO_COST = "no_cost"
    HTML = "html"
    GARBAGE_BASE64 = "garbage_base64"
    WRONG_MAGIC = "wrong_magic"
    EMPTY_DATA = "empty_data"
    STREAM_ERROR = "stream_error"
    UNFINISHED = "unfinished"
    RAGGED = "ragged"
    TRUNCATED = "truncated"
    ENDLESS = "endless"
    FLOOD = "flood"
    REDIRECTED = "redirected"


MEANINGS: Mapping[FaultKind, str] = {
    FaultKind.OVERLOADED: "503 in the provider's own error body; not accepted",
    FaultKind.THROTTLED: "429 with Retry-After; not accepted",
    FaultKind.ACTIVE_LIMIT: "429 as if the account's job slots were all taken; not accepted",
    FaultKind.SERVER_ERROR: "500 in the provider's own error body; not accepted",
    FaultKind.BAD_GATEWAY: "502 as an HTML page of a proxy; not accepted",
    FaultKind.QUOTA: "the account is out of quota or credits; not accepted",
    FaultKind.INVALID_KEY: "401, the key is refused; not accepted",
    FaultKind.UNSUPPORTED_PARAMETER: "the field `param` is refused; not accepted",
    FaultKind.MODEL_NOT_FOUND: "404 naming the model; not accepted",
    FaultKind.MODERATION_BLOCKED: "400 moderation_blocked, the free form of a refusal",
    FaultKind.EXPIRED: "403, as if the signed link were too old",
    FaultKind.SLOW: "the answer, or the job, takes `seconds` longer",
    FaultKind.LATE: "the job succeeds and is charged, the answer comes `seconds` late: later than the client waits",
    FaultKind.HANG: "accepted and charged, and never answered",
    FaultKind.DROP: "accepted and charged, and the connection is cut at once",
    FaultKind.GATEWAY_TIMEOUT: "accepted and charged, and answered with 504: a proxy's HTML, or the vendor's words",
    FaultKind.ERROR_AFTER: "accepted and charged, and answered with a 500 all the same",
    FaultKind.REFUSAL: "content policy, in the provider's usual form (and at the provider's usual price)",
    FaultKind.CONTENT_MODERATED: "the job is accepted, its output is refused",
    FaultKind.TEXT_ONLY: "200 as if all was well, with an explanation in place of the picture",
    FaultKind.JOB_ERROR: "the job is accepted and then fails",
    FaultKind.TASK_NOT_FOUND: "the first `polls` polls of the job do not know it yet",
    FaultKind.LOST: "the job is accepted, and no poll ever knows it",
    FaultKind.NO_COST: "the submit's reply does not say what the job costs",
    FaultKind.HTML: "200 with a web page instead of the answer",
    FaultKind.GARBAGE_BASE64: "b64_json that is not base64",
    FaultKind.WRONG_MAGIC: "the picture's bytes are text",
    FaultKind.EMPTY_DATA: "200 without any picture in it",
    FaultKind.STREAM_ERROR: "a stream breaks off with an error event after its first piece",
    FaultKind.UNFINISHED: "a stream ends cleanly, but before its last events",
    FaultKind.RAGGED: "a whole stream with CRLF, comments, and events torn and joined over the writes",
    FaultKind.TRUNCATED: "the body ends in the middle",
    FaultKind.ENDLESS: "a body of one byte every `seconds`, without end",
    FaultKind.FLOOD: "a body as fast as the client reads, without end (one GiB)",
    FaultKind.REDIRECTED: "302 to a signed link that needs no key",
}
"""One sentence per kind, shown by `GET /_simulator/faults`."""

TURNED_AWAY = frozenset(
    {
        FaultKind.OVERLOADED,
        FaultKind.THROTTLED,
        FaultKind.ACTIVE_LIMIT,
        FaultKind.SERVER_ERROR,
        FaultKind.BAD_GATEWAY,
        FaultKind.QUOTA,
        FaultKind.INVALID_KEY,
        FaultKind.UNSUPPORTED_PARAMETER,
        FaultKind.MODEL_NOT_FOUND,
        FaultKind.MODERATION_BLOCKED,
    }
)
"""The kinds that at a submit mean: no job exists, and the bill is not touched."""

Offer = Mapping[Step, frozenset[FaultKind]]
"""What a simulator can show at which step."""

DEFAULT_SECONDS: Mapping[FaultKind, float] = {FaultKind.SLOW: 30.0, FaultKind.LATE: 900.0, FaultKind.ENDLESS: 0.05}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the dial.

    share: the part of the matching requests that meet it, 0 to 1. first: only the first so many matching requests.
    model, prompt: a text that must occur in the request's model or prompt. at: the step; None takes the first step of
    the life at which the simulator offers the kind. seconds: for slow, late and endless, multiplied by the time
    scale. retry_after_s: the header of 429 and 503, sent as it is. polls: for task_not_found. param: for
    unsupported_parameter. word: the provider's own word (or text) for a kind that it shows in several forms; its
    module says which it knows, None takes the usual one.
    """

    kind: FaultKind
    share: float = 1.0
    first: int | None = None
    model: str | None = None
    prompt: str | None = None
    at: Step | None = None
    seconds: float | None = None
    retry_after_s: float | None = None
    polls: int = 2
    param: str = "size"
    word: str | None = None

    def delay_s(self) -> float:
        """The delay of this row in unscaled seconds; 0.0 for kinds that have none."""
        return self.seconds if self.seconds is not None else DEFAULT_SECONDS.get(self.kind, 0.0)


@dataclass(frozen=True, slots=True)
class FaultProblem:
    """Why a row is refused: the field at fault, such as `faults[0].share`, and a sentence."""

    field: str
    message: str


class Dial:
    """The rows in force. Settable at any moment; setting starts every count and every dice anew."""

    def __init__(self, offer: Offer, seed: str, faults: tuple[Fault, ...] = ()) -> None:
        """A ValueError names the first row that the offer does not cover."""
        self.offer = offer
        self.hits: Counter[FaultKind] = Counter()
        self._seed = seed
        self._rows: tuple[_Row, ...] = ()
        self.set(*faults)

    def set(self, *faults: Fault) -> None:
        """Put these rows in force instead of the present ones. ValueError: a row is out of range or not offered."""
        checked = [settle(fault, self.offer, f"faults[{index}]") for index, fault in enumerate(faults)]
        problems = [problem for problem in checked if isinstance(problem, FaultProblem)]
        if problems:
            raise ValueError(f"{problems[0].field}: {problems[0].message}")
        settled = [fault for fault in checked if isinstance(fault, Fault)]
        self._rows = tuple(
            _Row(fault, random.Random(f"{self._seed}/{index}/{fault.kind}")) for index, fault in enumerate(settled)
        )
        self.hits.clear()

    def clear(self) -> None:
        """Nothing goes wrong from here on."""
        self.set()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The rows in force, with their steps filled in."""
        return tuple(row.fault for row in self._rows)

    def draw(
        self, step: Step, *, model: str = "", prompt: str = "", shown: Collection[FaultKind] | None = None
    ) -> Fault | None:
        """What this request meets, or None. Every matching row counts it and throws its dice, hit or not. shown: the
        kinds that this very request can show, at a provider whose requests differ in that; rows of others stay out.
        """
        rows = [row for row in self._rows if shown is None or row.fault.kind in shown]
        struck = [row.fault for row in rows if row.matches(step, model, prompt) and row.strikes()]
        if not struck:
            return None
        self.hits[struck[0].kind] += 1
        return struck[0]


class _Row:
    def __init__(self, fault: Fault, dice: random.Random) -> None:
        self.fault = fault
        self._dice = dice
        self._met = 0

    def matches(self, step: Step, model: str, prompt: str) -> bool:
        fault = self.fault
        return fault.at is step and (fault.model or "") in model and (fault.prompt or "") in prompt

    def strikes(self) -> bool:
        self._met += 1
        drawn = self._dice.random() < self.fault.share
        return drawn and (self.fault.first is None or self._met <= self.fault.first)


def settle(fault: Fault, offer: Offer, where: str) -> Fault | FaultProblem:
    """The row with its step filled in, or why it cannot be dialled here. `where` is the path that a problem names."""
    at = fault.at or next((step for step in Step if fault.kind in offer.get(step, ())), None)
    if at is None:
        return FaultProblem(f"{where}.kind", f"this provider does not show {fault.kind!s}")
    if fault.kind not in offer.get(at, ()):
        return FaultProblem(f"{where}.at", f"this provider does not show {fault.kind!s} at {at!s}")
    if not 0 <= fault.share <= 1:
        return FaultProblem(f"{where}.share", "must be between 0 and 1")
    for name in ("first", "seconds", "retry_after_s", "polls"):
        amount = getattr(fault, name)
        if amount is not None and not 0 <= amount <= 1_000_000:
            return FaultProblem(f"{where}.{name}", "must be between 0 and 1000000")
    return Fault(**{field.name: getattr(fault, field.name) for field in fields(fault)} | {"at": at})


def parse_faults(document: object, offer: Offer) -> tuple[Fault, ...] | FaultProblem:
    """Rows from JSON: `{"faults": [{"kind": "overloaded", "share": 0.5}]}` or the bare list, at most 100 rows."""
    rows = document.get("faults") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        return FaultProblem("faults", "must be a list of rows")
    if len(rows) > 100:
        return FaultProblem("faults", "at most 100 rows")
    faults: list[Fault] = []
    for index, row in enumerate(rows):
        parsed = _parse_row(row, f"faults[{index}]")
        settled = parsed if isinstance(parsed, FaultProblem) else settle(parsed, offer, f"faults[{index}]")
        if isinstance(settled, FaultProblem):
            return settled
        faults.append(settled)
    return tuple(faults)


def fault_json(fault: Fault) -> dict[str, Any]:
    """A row as JSON, absent values left out; `parse_faults` reads it back."""
    shown = {field.name: getattr(fault, field.name) for field in fields(fault)}
    return {name: value for name, value in shown.items() if value is not None}


_NUMBERS = {"share": float, "first": int, "seconds": float, "retry_after_s": float, "polls": int}
_TEXTS = ("model", "prompt", "param", "word")


def _parse_row(row: object, where: str) -> Fault | FaultProblem:
    if not isinstance(row, dict):
        return FaultProblem(where, "must be an object")
    known = {field.name for field in fields(Fault)}
    for name in row:
        if name not in known:
            return FaultProblem(f"{where}.{name}", "unknown field")
    taken: dict[str, Any] = {}
    for name, value in row.items():
        if value is None and name != "kind":
            continue
        if name in ("kind", "at"):
            words = tuple(FaultKind) if name == "kind" else tuple(Step)
            if value not in words:
                return FaultProblem(f"{where}.{name}", f"must be one of {', '.join(words)}")
            taken[name] = FaultKind(value) if name == "kind" else Step(value)
        elif name in _TEXTS:
            if not isinstance(value, str):
                return FaultProblem(f"{where}.{name}", "must be a text")
            taken[name] = value
        else:
            whole = _NUMBERS[name] is int
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                return FaultProblem(f"{where}.{name}", f"must be {'an integer' if whole else 'a number'}")
            taken[name] = value
    if "kind" not in taken:
        return FaultProblem(f"{where}.kind", "is required")
    return Fault(**taken)
