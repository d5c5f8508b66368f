"""What one failure permits: the same target again, or another one (contract section 6, Retry facts; promise 3).

Turns a row of `outcome.FACTS` and the retry settings of a rule into yes or no. Knows nothing of plans, candidates or
waiting; `route` asks it for every failure that a task has seen, so that one paid or unknown outcome bars what follows
however many harmless ones came after it. Floor 1.
"""

from __future__ import annotations

from typing import assert_never

from router.outcome import FACTS, Billed, FailureKind, Other, Same
from router.policy.rules import Retry, RetryUnknown

ONCE_MAX = 1  # a job that was accepted and failed is repeated at the same target one time


def permits_same(kind: FailureKind, failures: int, retry_unknown: RetryUnknown, *, idempotent: bool) -> bool:
    """May the target that failed so be tried again, as far as this failure is concerned?

    `failures` counts the failures of this kind that the target has had for this task, this one included. `idempotent`:
    its adapter declares that a repeat with the same key is not paid twice, which is what `if_idempotent` needs.
    """
    same = FACTS[kind].same
    match same:
        case Same.NEVER:
            return False
        case Same.BACKOFF | Same.AFTER_REST | Same.OTHER_CREDENTIAL:
            return True
        case Same.ONCE:
            return failures <= ONCE_MAX
        case Same.AS_RETRY_UNKNOWN:
            return retry_unknown is RetryUnknown.ALWAYS or (retry_unknown is RetryUnknown.IF_IDEMPOTENT and idempotent)
        case _:
            assert_never(same)


def permits_other(
    kind: FailureKind, billed: Billed, retry: Retry, retry_unknown: RetryUnknown, *, refusals_free: bool
) -> bool:
    """May another target be tried after this failure?

    An unknown outcome bars it unless `retry_unknown: always`, also when the bill is known: a picture may exist and be
    paid for. A refusal moves on only under `on_refusal: failover` and where it was free: not billed, or of unknown
    billing at an adapter that declares its refusals free (`refusals_free`).
    """
    other = FACTS[kind].other
    match other:
        case Other.YES:
            return True
        case Other.NO:
            return False
        case Other.IF_RETRY_UNKNOWN_ALWAYS:
            return retry_unknown is RetryUnknown.ALWAYS
        case Other.IF_REFUSAL_FREE:
            free = billed is Billed.NO or (billed is Billed.UNKNOWN and refusals_free)
            return retry.on_refusal_failover and free
        case Other.IF_RETRY_UNUSABLE:
            return retry.retry_unusable_failover
        case _:
            assert_never(other)
