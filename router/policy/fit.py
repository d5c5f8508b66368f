"""Whether a target could serve a request at all, whatever the moment: what was asked against what it can do and costs.

Asks, in the order of contract section 6: `only` and `ignore`, capabilities, price, and last whether we hold a
credential. The words for every exclusion live here. Knows nothing of circuits, accounts, budgets' balances or a task's
history: `route` adds those. Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from router.money import usd_of
from router.policy.price import AUTO
from router.policy.rules import Provider, Shape, Target
from router.provider import Role
from router.task import Preferences

# A target that does not take one of these cannot do what was asked; any other field may be dropped (contract 5.4).
ESSENTIAL_FIELDS = frozenset({"seconds"})
# Honoured by the router itself, whatever a target takes; more than `max_n` are made in parts.
OUR_FIELDS = frozenset({"model", "n", "response_format", "stream"})
# What a caller calls the input files.
FIELD_OF_ROLE = {
    Role.IMAGE: "image",
    Role.MASK: "mask",
    Role.FIRST_FRAME: "input_reference",
    Role.LAST_FRAME: "last_frame",
}


class Reason(StrEnum):
    """Why a target is not a candidate, in the order in which it is asked."""

    NOT_ORIGIN = "not_origin"
    NOT_IN_ONLY = "not_in_only"
    IGNORED = "ignored"
    KIND = "kind"
    REMIX = "remix"
    SIZE = "size"
    SECONDS = "seconds"
    INPUT = "input"
    COUNT = "count"
    UNSUPPORTED = "unsupported"
    PRICE_UNKNOWN = "price_unknown"
    MAX_PRICE = "max_price"
    NO_CREDENTIAL = "no_credential"
    NOT_FIRST = "not_first"
    BUDGET = "budget"
    ACCOUNT = "account"
    FORCED_OPEN = "forced_open"
    TRIED = "tried"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A target that may not, with a word for programs and a detail for people. `param`: the request field at fault."""

    target: str
    provider: str
    reason: Reason
    detail: str
    param: str | None = None


def find_misfit(
    target: Target,
    provider: Provider,
    price_nanos: int | None,
    shape: Shape,
    preferences: Preferences,
    *,
    priced_only: bool,
) -> Exclusion | None:
    """Say why this target could never serve this request, None when it could.

    `price_nanos` is the estimate of the whole shape there. `priced_only`: a budget applies, so that an unknown price is
    reason enough (promise 5). The credential is asked last: `no_credential` means that nothing else is in the way.
    """
    found = (
        _find_other_origin(target, shape)
        or _find_unwanted(target, preferences)
        or _find_inability(target, shape, preferences)
        or _find_excess(target, price_nanos, shape, preferences, priced_only=priced_only)
    )
    if found is None and not provider.credentials:
        return exclude(target, Reason.NO_CREDENTIAL, f"no credential is set for {provider.name}")
    return found


def exclude(target: Target, reason: Reason, detail: str, param: str | None = None) -> Exclusion:
    """Write down why a target is out."""
    return Exclusion(target.name, target.provider, reason, detail, param)


def wishes_of(shape: Shape) -> frozenset[str]:
    """Name the fields that a target must take to honour the request; `auto` leaves the choice to whoever makes it."""
    idle = {name for name, value in (("size", shape.size), ("quality", shape.quality)) if value == AUTO}
    return shape.fields - OUR_FIELDS - idle


def untaken_by(target: Target, wishes: frozenset[str]) -> tuple[str, ...]:
    """Name the wishes that this target does not take, in alphabetical order."""
    taken = target.abilities.fields
    return () if taken is None else tuple(sorted(wishes - taken))


def is_named(target: Target, names: Iterable[str]) -> bool:
    """Tell whether the target, or its provider, is among the names of a request's `only`, `ignore` or `order`."""
    return any(name in (target.name, target.provider) for name in names)


# -- parts ----------------------------------------------------------------------------------------------------------


def _find_other_origin(target: Target, shape: Shape) -> Exclusion | None:
    if shape.origin is None or shape.origin.made_by(target):
        return None
    origin = shape.origin
    told = f"only {origin.target} ({origin.model}), which made the film, could remix it"
    return exclude(target, Reason.NOT_ORIGIN, told, "video_id")


def _find_unwanted(target: Target, preferences: Preferences) -> Exclusion | None:
    if preferences.only and not is_named(target, preferences.only):
        return exclude(target, Reason.NOT_IN_ONLY, "the request's provider.only leaves it out", "provider.only")
    if is_named(target, preferences.ignore):
        return exclude(target, Reason.IGNORED, "the request's provider.ignore names it", "provider.ignore")
    return None


def _find_inability(target: Target, shape: Shape, preferences: Preferences) -> Exclusion | None:
    """Say what of the request the upstream model cannot honour (contract 5.4)."""
    abilities, model = target.abilities, target.model
    if shape.kind not in abilities.kinds:
        return exclude(target, Reason.KIND, f"{model} does not do {shape.kind.value}", "model")
    if shape.origin is not None:
        # What the film was made with was decided then; only whether it can be made anew is asked.
        told = f"{target.provider} has no remix for {model}"
        return None if abilities.remixes else exclude(target, Reason.REMIX, told, "video_id")
    if shape.size is not None and shape.size != AUTO:
        takes_sizes = abilities.fields is None or "size" in abilities.fields
        if not takes_sizes or (abilities.sizes is not None and not abilities.sizes.fits(shape.size)):
            return exclude(target, Reason.SIZE, f"{model} cannot make the size {shape.size}", "size")
    found = _find_lack_of_seconds(target, shape) or _find_lack_of_inputs(target, shape)
    if found is not None:
        return found
    if abilities.max_n < 1:  # one that makes fewer than are asked for makes them in parts
        return exclude(target, Reason.COUNT, f"{model} makes none", "n")
    untaken = untaken_by(target, wishes_of(shape))
    for name in untaken:
        if preferences.require_parameters or name in ESSENTIAL_FIELDS:
            return exclude(target, Reason.UNSUPPORTED, f"{model} does not take {name}", name)
    return None


def _find_lack_of_seconds(target: Target, shape: Shape) -> Exclusion | None:
    lengths = target.abilities.seconds
    if shape.seconds is None or lengths is None or shape.seconds in lengths:
        return None
    told = ", ".join(map(str, sorted(lengths)))
    return exclude(target, Reason.SECONDS, f"{target.model} makes {told} seconds, not {shape.seconds}", "seconds")


def _find_lack_of_inputs(target: Target, shape: Shape) -> Exclusion | None:
    """Hold the input files against what the model takes; a file is never dropped (contract 5.4)."""
    abilities, model = target.abilities, target.model
    if shape.images > abilities.max_images:
        detail = f"{model} takes at most {abilities.max_images} input images, not {shape.images}"
        return exclude(target, Reason.INPUT, detail, FIELD_OF_ROLE[Role.IMAGE])
    for role in sorted(shape.roles - abilities.roles):
        return exclude(target, Reason.INPUT, f"{model} takes no {role.value}", FIELD_OF_ROLE[role])
    return None


def _find_excess(
    target: Target, price_nanos: int | None, shape: Shape, preferences: Preferences, *, priced_only: bool
) -> Exclusion | None:
    """Hold the estimate against `max_price`, whose limits are per task, per image and per second of video."""
    if not preferences.max_price and not (priced_only and price_nanos is None):
        return None
    units = {"task": 1}
    if shape.kind.family == "image":
        units["image"] = shape.n
    if shape.kind.family == "video":
        units["video_second"] = shape.n * (shape.seconds or 1)
    limits = {unit: limit for unit, limit in preferences.max_price.items() if unit in units}
    param = "provider.max_price" if limits else None
    if price_nanos is None:
        if not (limits or priced_only):
            return None  # only limits of another unit
        return exclude(target, Reason.PRICE_UNKNOWN, "what this request costs there is not known", param)
    for unit, limit in limits.items():
        if price_nanos > limit * units[unit]:
            told = f"it costs about {usd_of(price_nanos)} USD there and the limit is {usd_of(limit)} USD per {unit}"
            return exclude(target, Reason.MAX_PRICE, told, param)
    return None
