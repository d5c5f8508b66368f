"""What to do next with a task: before an attempt, after a failed one, and in which words it fails.

`before` and `after` read a `Plan` (which already holds what the history permits and how each target stands) and answer
with one of a few decisions; `run` turns them into actions. The rules are those of contract section 6 (Retry), the error
classes those of 5.5. Pure: the jitter comes in as a number. Floor 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.money import usd_of
from router.outcome import Billed, Ejects, Fail, FailureKind
from router.policy.fit import Exclusion, Reason
from router.policy.route import RESTING, Candidate, Plan, Try, UnknownModel
from router.policy.rules import Retry
from router.task import Error


@dataclass(frozen=True, slots=True)
class Go:
    """Make an attempt at this candidate, now."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Hold:
    """Every candidate is out for a while: wait, in the state the task has, until the first may be tried."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Deliver:
    """The attempt succeeded. `after` judges failures and never says this; it completes the set of what may follow."""


@dataclass(frozen=True, slots=True)
class Again:
    """All have been tried: wait so many seconds and go round again."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Go straight on to a target that has not been tried."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing more will be tried; the task fails with this error."""

    error: Error


Before = Go | Hold | GiveUp
After = Deliver | Again | Elsewhere | GiveUp

DOUBLINGS_MAX = 32  # far above any `total`; keeps the backoff of a strange configuration a number


def before(plan: Plan, history: Sequence[Try], beside: Sequence[Try] = ()) -> Before:
    """Decide whether an attempt starts now, given what has failed so far (oldest first).

    `beside`: what has failed of other parts of the task; it decides nothing, but it may have been billed.
    """
    if history and (not plan.candidates or len(history) >= plan.rule.retry.total):
        return GiveUp(_error_of_last(history, plan, beside))
    if not plan.candidates:
        return GiveUp(_error_of_last(beside, plan, ()) if beside else _error_of_nobody(plan))
    ready = next((one for one in plan.candidates if one.ready_in_s <= 0), None)
    if ready is not None:
        return Go(ready)
    return Hold(min(one.ready_in_s for one in plan.candidates))


def after(fail: Fail, history: Sequence[Try], plan: Plan, jitter: float, beside: Sequence[Try] = ()) -> After:
    """Decide what follows a failed attempt.

    `history` includes this failure, `plan` was made after it and with it, `jitter` is a number in [0, 1). `beside`: as
    in `before`.
    """
    if not plan.candidates or len(history) >= plan.rule.retry.total:
        return GiveUp(error_of(fail, history, plan, beside))
    if any(one.tries == 0 and one.ready_in_s <= 0 for one in plan.candidates):
        return Elsewhere()
    first = min(plan.candidates, key=lambda one: one.ready_in_s)
    if first.reason == RESTING and first.ready_in_s > 0:
        return Again(first.ready_in_s)
    return Again(max(first.ready_in_s, _backoff_s(plan.candidates, plan.rule.retry, jitter)))


def _backoff_s(candidates: Sequence[Candidate], retry: Retry, jitter: float) -> float:
    """Exponential backoff with full jitter; the exponent is the round that begins, the first repeat being round 0."""
    tries = min((one.tries for one in candidates if one.tries > 0), default=1)
    ceiling_s = retry.backoff_first_s * 2.0 ** min(tries - 1, DOUBLINGS_MAX)
    return jitter * min(ceiling_s, retry.backoff_max_s)


# -- the words of a failure -----------------------------------------------------------------------------------------


def error_of(fail: Fail, history: Sequence[Try], plan: Plan, beside: Sequence[Try] = ()) -> Error:
    """Put the last failure of a task into the words of contract 5.5, with the billing of all its attempts.

    `retryable` is False wherever a repeat could pay twice or would only meet the same answer.
    """
    billing, tries = billing_of([*history, *beside, Try("", fail.kind, fail.billed)]), len(history) + len(beside)
    error_type, code = _class_of(fail)
    subject = history[-1].target if history else plan.model
    detail = f" ({fail.detail})" if fail.detail else ""
    count = f" after {tries} attempts" if tries > 1 else ""
    return Error(
        error_type=error_type,
        message=f"{subject} {_TOLD[fail.kind]}{count}{detail}; {_MONEY[billing]}.",
        code=code,
        param=fail.param if error_type == "invalid_request" else None,
        retryable=billing is Billed.NO and fail.kind in _PASSING,
        billing=billing,
        details={
            "outcome": fail.kind.value,
            "target": history[-1].target if history else None,
            "http_status": fail.http_status,
            "attempts": tries,
        },
    )


def billing_of(history: Sequence[Try]) -> Billed:
    """Sum up the bill of attempts: unknown if any is, else billed if any is (contract 5.3, Money)."""
    seen = {past.billed for past in history}
    return next((billed for billed in (Billed.UNKNOWN, Billed.YES) if billed in seen), Billed.NO)


def over_budget(budget: str, window: str, left_nanos: int) -> Error:
    """Say that a budget (`tenant:acme`) has less left in its window than the request needs."""
    message = f"The budget {budget} ({window}) has {usd_of(left_nanos)} USD left, less than this request may cost"
    details = {"budget": budget, "window": window, "left_usd": usd_of(left_nanos)}
    return Error("budget_exceeded", f"{message}; {_MONEY[Billed.NO]}.", "budget_exceeded", details=details)


_MONEY = {
    Billed.NO: "nothing was billed",
    Billed.YES: "money was spent",
    Billed.UNKNOWN: "money may have been spent",
}

_TOLD = {
    FailureKind.UNSENT: "could not be reached",
    FailureKind.THROTTLED: "asked to be called less often",
    FailureKind.OVERLOADED: "is overloaded",
    FailureKind.SERVER_ERROR: "failed with an error of its own",
    FailureKind.UNKNOWN: "gave no usable answer to a request that was sent",
    FailureKind.JOB_FAILED: "accepted the job and then failed it",
    FailureKind.LOST: "no longer knows the job that it accepted",
    FailureKind.RESULT_LOST: "made a result that cannot be fetched any more",
    FailureKind.UNUSABLE: "answered with something that is not a result",
    FailureKind.REFUSED: "refused the request by its content policy",
    FailureKind.BAD_REQUEST: "rejected the request",
    FailureKind.UNSUPPORTED: "does not support what was asked for",
    FailureKind.ACCOUNT: "does not accept the account it is called with",
    FailureKind.CANCELLED: "was stopped because the task was cancelled",
    FailureKind.BUG: "could not be used because of an error in this service",
}

# Failures after which the same request may well succeed later.
_PASSING = frozenset(
    {
        FailureKind.UNSENT,
        FailureKind.THROTTLED,
        FailureKind.OVERLOADED,
        FailureKind.SERVER_ERROR,
        FailureKind.UNKNOWN,
        FailureKind.JOB_FAILED,
        FailureKind.LOST,
    }
)


def _class_of(fail: Fail) -> tuple[str, str]:
    """Find the error_type and the code. An unknown outcome whose bill is known is a timeout (promise 3)."""
    match fail.kind:
        case FailureKind.REFUSED:
            return "content_refused", "moderation_blocked"
        case FailureKind.BAD_REQUEST:
            return "invalid_request", "invalid_request"
        case FailureKind.UNSUPPORTED if fail.param is not None and fail.ejects is Ejects.NOTHING:
            return "invalid_request", "invalid_request"
        case FailureKind.UNKNOWN | FailureKind.LOST | FailureKind.RESULT_LOST if fail.billed is Billed.UNKNOWN:
            return "outcome_unknown", "outcome_unknown"
        case FailureKind.UNKNOWN | FailureKind.LOST:
            return "provider_timeout", "provider_timeout"
        case FailureKind.RESULT_LOST:
            return "provider_error", "result_lost"
        case FailureKind.CANCELLED:
            return "cancelled", "cancelled"
        case FailureKind.BUG:
            return "internal_error", "internal_error"
        case (
            FailureKind.UNSENT
            | FailureKind.THROTTLED
            | FailureKind.OVERLOADED
            | FailureKind.SERVER_ERROR
            | FailureKind.JOB_FAILED
            | FailureKind.UNUSABLE
            | FailureKind.UNSUPPORTED
            | FailureKind.ACCOUNT
        ):
            # An unsupported model, path or method is the provider's or the configuration's fault, not a field's.
            return "provider_error", "provider_error"


def _error_of_last(history: Sequence[Try], plan: Plan, beside: Sequence[Try]) -> Error:
    """Fail with what was met last, when what was left to try is gone since (a reload, a budget, an account)."""
    last = history[-1]
    return error_of(Fail(last.kind, "", last.billed), history, plan, beside)


# -- the words of having nobody -------------------------------------------------------------------------------------

_PRICED_OUT = frozenset({Reason.PRICE_UNKNOWN, Reason.MAX_PRICE})
_OUT_NOW = frozenset({Reason.BUDGET, Reason.ACCOUNT, Reason.FORCED_OPEN})
_ASKED_IN_ORDER = (*Reason,)


def _error_of_nobody(plan: Plan) -> Error:
    """Say why a request that was never tried has no candidate: the moment's reasons before the request's own.

    A target that is only out now could serve the request, so the request is not at fault. Among the request's reasons
    the one asked last is told: it is what the target that came nearest lacked.
    """
    if isinstance(plan, UnknownModel):
        return _refusal("model_not_found", f"The model {plan.model!r} does not exist", plan, param="model")
    now = [one for one in plan.excluded if one.reason in _OUT_NOW]
    if now:
        return _error_of_moment(now, plan)
    nearest = max(plan.excluded, key=lambda one: _ASKED_IN_ORDER.index(one.reason), default=None)
    if nearest is None or nearest.reason is Reason.NO_CREDENTIAL:
        told = nearest.detail if nearest else "it has no target"
        return _refusal("no_provider_available", f"No provider of {plan.model} can be used: {told}", plan)
    if nearest.reason in _PRICED_OUT:
        priced_out = {one.reason for one in plan.excluded if one.reason in _PRICED_OUT}
        code = "price_unknown" if priced_out == {Reason.PRICE_UNKNOWN} else "price_ceiling"
        told = f"No target of {plan.model} is within the price that is allowed: {nearest.detail}"
        return _refusal("price_ceiling", told, plan, param=nearest.param, code=code)
    told = f"No target of {plan.model} can serve this request: {nearest.detail}"
    return _refusal("invalid_request", told, plan, param=nearest.param)


def _error_of_moment(now: Sequence[Exclusion], plan: Plan) -> Error:
    """Accounts alone: the providers' own words, at once (contract 5.1). Budgets alone: 402. A mixture may pass: 503."""
    reasons = {one.reason for one in now}
    told = "; ".join(f"{one.target}: {one.detail}" for one in now)
    if reasons == {Reason.ACCOUNT}:
        return _refusal(
            "provider_error", f"No provider of {plan.model} accepts the account it is called with ({told})", plan
        )
    if reasons == {Reason.BUDGET}:
        return _refusal("budget_exceeded", f"No provider of {plan.model} has budget left ({told})", plan)
    return _refusal(
        "no_provider_available", f"No provider of {plan.model} can be used now ({told})", plan, retryable=True
    )


def _refusal(
    error_type: str,
    told: str,
    plan: Plan,
    *,
    param: str | None = None,
    code: str | None = None,
    retryable: bool = False,
) -> Error:
    """Build the error of a task for which nothing was ever sent."""
    return Error(
        error_type=error_type,
        message=f"{told}; {_MONEY[Billed.NO]}.",
        code=code or error_type,
        param=param,
        retryable=retryable,
        details={"excluded": [{"target": one.target, "reason": one.reason.value} for one in plan.excluded]},
    )
