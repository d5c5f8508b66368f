"""Which rule of a model holds for a request, and how long an attempt may take where the rule does not say.

Reads the request's shape, the instant and the configuration's time zone (contract section 6, `rules` and Timeouts).
Knows nothing of targets: what a rule's targets can do is asked in `fit`. Floor 1.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from fnmatch import fnmatchcase

from router.geometry import parse_size
from router.policy.rules import Model, Rule, Shape, When

VIDEO_TIMEOUT_S = 1800.0
CHAT_TIMEOUT_S = 120.0  # between bytes
IMAGE_TIMEOUTS_S = ((1_100_000, 180.0), (2_500_000, 300.0))  # up to so many pixels
LARGE_IMAGE_TIMEOUT_S = 600.0
SLOW_QUALITIES = frozenset({"high", "xhigh", "max", "hd"})


def match_rule(model: Model, shape: Shape, *, now: int, zone: tzinfo) -> Rule:
    """Find the first rule whose `when` holds, else the model's own defaults. `now`: milliseconds since the epoch."""
    return next((rule for rule in model.rules if _holds(rule.when, shape, now, zone)), model.otherwise)


def attempt_timeout_s(shape: Shape) -> float:
    """Say how long one attempt may take, in seconds (contract 6, Timeouts). An unsaid size counts as `auto`."""
    match shape.kind.family:
        case "video":
            return VIDEO_TIMEOUT_S
        case "chat":
            return CHAT_TIMEOUT_S
        case _:
            sides = None if shape.size is None else parse_size(shape.size)
            if sides is None or shape.quality in SLOW_QUALITIES:
                return LARGE_IMAGE_TIMEOUT_S
            pixels = sides[0] * sides[1]
            return next((limit_s for bound, limit_s in IMAGE_TIMEOUTS_S if pixels <= bound), LARGE_IMAGE_TIMEOUT_S)


# -- parts ----------------------------------------------------------------------------------------------------------


def _holds(when: When, shape: Shape, now: int, zone: tzinfo) -> bool:
    """Every key that is set must match; what the request did not say matches no key."""
    return (
        _matches(when.kind, shape.kind.value)
        and _matches(when.tenant, shape.tenant)
        and _matches(when.size, shape.size)
        and _matches(when.quality, shape.quality)
        and _matches(when.surface, shape.surface)
        and _lies_in(when.n, shape.n)
        and _lies_in(when.seconds, shape.seconds)
        and (when.priority is None or shape.priority in when.priority)
        and all(_matches(patterns, shape.metadata.get(key)) for key, patterns in when.metadata.items())
        and (when.hours is None or _is_hour(when.hours, now, zone))
    )


def _matches(patterns: tuple[str, ...] | None, value: str | None) -> bool:
    if patterns is None:
        return True
    return value is not None and any(fnmatchcase(value, pattern) for pattern in patterns)


def _lies_in(spans: tuple[tuple[int, int | None], ...] | None, number: int | None) -> bool:
    if spans is None:
        return True
    return number is not None and any(low <= number and (high is None or number <= high) for low, high in spans)


def _is_hour(spans: tuple[tuple[int, int], ...], now: int, zone: tzinfo) -> bool:
    """Read the zone's clock against half-open spans; one that ends before it starts passes midnight."""
    local = datetime.fromtimestamp(now / 1000, tz=zone)
    minute = 60 * local.hour + local.minute
    return any(low <= minute < high if low <= high else minute >= low or minute < high for low, high in spans)
