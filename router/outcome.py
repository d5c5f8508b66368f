"""The vocabulary of what can come of an attempt: one kind per failing outcome word, one row of facts per kind.

Adapters translate whatever an upstream says into these words; policies read only these words. No other part of the
router looks at a status code. The facts are the defaults of contract section 6 ("Retry facts"); where a provider's
own data says otherwise the adapter sets `billed` or `ejects` on the `Fail` it returns. Floor 0: standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Billed(StrEnum):
    """Whether money was spent on an attempt. Never guessed as zero (contract section 1)."""

    NO = "not_billed"
    YES = "billed"
    UNKNOWN = "unknown"


class FailureKind(StrEnum):
    """The failing outcome words of contract section 1, one per way an attempt can go wrong."""

    UNSENT = "unsent"
    THROTTLED = "throttled"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    UNKNOWN = "unknown"
    JOB_FAILED = "job_failed"
    LOST = "lost"
    RESULT_LOST = "result_lost"
    UNUSABLE = "unusable"
    REFUSED = "refused"
    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    ACCOUNT = "account"
    CANCELLED = "cancelled"
    BUG = "bug"


class Same(StrEnum):
    """May the same target be tried again?"""

    NEVER = "never"
    BACKOFF = "backoff"
    AFTER_REST = "after_rest"
    ONCE = "once"
    OTHER_CREDENTIAL = "other_credential"
    AS_RETRY_UNKNOWN = "as_retry_unknown"


class Other(StrEnum):
    """May another target be tried?"""

    YES = "yes"
    NO = "no"
    IF_RETRY_UNKNOWN_ALWAYS = "if_retry_unknown_always"
    IF_REFUSAL_FREE = "if_on_refusal_failover_and_free"
    IF_RETRY_UNUSABLE = "if_retry_unusable_failover"


class Health(StrEnum):
    """What the breaker of the target learns."""

    FAILURE = "failure"
    NEUTRAL = "neutral"


class Ejects(StrEnum):
    """What is put aside because of a failure, beyond what the breaker counts."""

    NOTHING = "nothing"
    TARGET = "target"
    CREDENTIAL = "credential"


class Fault(StrEnum):
    """Whose fault it is; decides the class of the error that the caller gets."""

    CALLER = "caller"
    PROVIDER = "provider"
    OURS = "ours"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of every failure of one kind unless the adapter says otherwise."""

    billed: Billed
    same: Same
    other: Other
    health: Health
    fault: Fault
    ejects: Ejects = Ejects.NOTHING


FACTS: Mapping[FailureKind, Facts] = MappingProxyType(
    {
        FailureKind.UNSENT: Facts(Billed.NO, Same.BACKOFF, Other.YES, Health.FAILURE, Fault.PROVIDER),
        FailureKind.THROTTLED: Facts(Billed.NO, Same.AFTER_REST, Other.YES, Health.NEUTRAL, Fault.PROVIDER),
        FailureKind.OVERLOADED: Facts(Billed.NO, Same.BACKOFF, Other.YES, Health.FAILURE, Fault.PROVIDER),
        FailureKind.SERVER_ERROR: Facts(Billed.NO, Same.BACKOFF, Other.YES, Health.FAILURE, Fault.PROVIDER),
        FailureKind.UNKNOWN: Facts(
            Billed.UNKNOWN, Same.AS_RETRY_UNKNOWN, Other.IF_RETRY_UNKNOWN_ALWAYS, Health.FAILURE, Fault.PROVIDER
        ),
        FailureKind.JOB_FAILED: Facts(Billed.UNKNOWN, Same.ONCE, Other.YES, Health.FAILURE, Fault.PROVIDER),
        FailureKind.LOST: Facts(
            Billed.UNKNOWN, Same.AS_RETRY_UNKNOWN, Other.IF_RETRY_UNKNOWN_ALWAYS, Health.FAILURE, Fault.PROVIDER
        ),
        FailureKind.RESULT_LOST: Facts(Billed.YES, Same.NEVER, Other.NO, Health.NEUTRAL, Fault.PROVIDER),
        FailureKind.UNUSABLE: Facts(Billed.YES, Same.NEVER, Other.IF_RETRY_UNUSABLE, Health.FAILURE, Fault.PROVIDER),
        FailureKind.REFUSED: Facts(Billed.YES, Same.NEVER, Other.IF_REFUSAL_FREE, Health.NEUTRAL, Fault.CALLER),
        FailureKind.BAD_REQUEST: Facts(Billed.NO, Same.NEVER, Other.NO, Health.NEUTRAL, Fault.CALLER),
        FailureKind.UNSUPPORTED: Facts(Billed.NO, Same.NEVER, Other.YES, Health.NEUTRAL, Fault.CALLER),
        FailureKind.ACCOUNT: Facts(
            Billed.NO, Same.OTHER_CREDENTIAL, Other.YES, Health.NEUTRAL, Fault.PROVIDER, Ejects.CREDENTIAL
        ),
        FailureKind.CANCELLED: Facts(Billed.UNKNOWN, Same.NEVER, Other.NO, Health.NEUTRAL, Fault.NOBODY),
        FailureKind.BUG: Facts(Billed.UNKNOWN, Same.NEVER, Other.NO, Health.NEUTRAL, Fault.OURS),
    }
)

SUCCEEDED = "succeeded"
OUTCOME_WORDS: tuple[str, ...] = (SUCCEEDED, *(kind.value for kind in FailureKind))


@dataclass(frozen=True, slots=True)
class Fail:
    """A classified failure.

    `detail` is one printable line without secrets, at most 500 characters. `rest_s` is how long the upstream asked us
    to stay away (already a number of seconds; the policy clamps it). `param` names the request field at fault, if the
    upstream named one. `cost_nanos` is the amount the upstream reported for this failure, None when it said nothing.
    """

    kind: FailureKind
    detail: str
    billed: Billed
    ejects: Ejects = Ejects.NOTHING
    http_status: int | None = None
    rest_s: float | None = None
    param: str | None = None
    cost_nanos: int | None = None


def fail(
    kind: FailureKind,
    detail: str,
    *,
    billed: Billed | None = None,
    ejects: Ejects | None = None,
    http_status: int | None = None,
    rest_s: float | None = None,
    param: str | None = None,
    cost_nanos: int | None = None,
) -> Fail:
    """Build a `Fail` whose unsaid facts are the defaults of its kind."""
    facts = FACTS[kind]
    return Fail(
        kind=kind,
        detail=one_line(detail),
        billed=facts.billed if billed is None else billed,
        ejects=facts.ejects if ejects is None else ejects,
        http_status=http_status,
        rest_s=rest_s,
        param=param,
        cost_nanos=cost_nanos,
    )


DETAIL_MAX_CHARS = 500


def one_line(text: str) -> str:
    """Make foreign text safe for one log line and one JSON string: printable, single-spaced, bounded."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * DETAIL_MAX_CHARS])
    return " ".join(printable.split())[:DETAIL_MAX_CHARS]
