"""`GET /v1/usage`: what the caller's tenant spent, by day, model, provider and key (contract 5.3). Floor 3.

Days are UTC and belong to the instant at which an attempt ended. Sums reach back as far as rows live
(`defaults.row_retention`); what an attempt cost whose bill nobody knows is in no sum and is counted instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any, Final

from aiohttp import web

from router.api.auth import SERVICES, caller_of
from router.api.errors import invalid
from router.api.replies import json_reply
from router.money import usd_of
from router.usage import DAY_MS, Spending

DAYS_USUAL: Final = 30
DAYS_MAX: Final = 400
GROUPS: Final = ("day", "model", "provider", "key")
COUNTED: Final = ("attempts", "delivered", "unknown", "cost_nanos", "wasted_nanos")
EPOCH: Final = date(1970, 1, 1)


async def read(request: web.Request) -> web.StreamResponse:
    """Sum between `from` and `to` (dates, both included; the last 30 days), by the groups of `group_by`."""
    principal, services = await caller_of(request), request.app[SERVICES]
    today = datetime.fromtimestamp(services.now() / 1000, UTC).date()
    last = _read_date(request, "to") or today
    first = _read_date(request, "from") or last - timedelta(days=DAYS_USUAL - 1)
    if first > last:
        invalid("from", "from must not be later than to.")
    if (last - first).days >= DAYS_MAX:
        invalid("from", f"A span has at most {DAYS_MAX} days.")
    groups = _read_groups(request)
    since, until = _day_of(first) * DAY_MS, (_day_of(last) + 1) * DAY_MS
    lines = await services.world.store.spending(principal.tenant, since, until)
    body = {
        "object": "usage",
        "tenant": principal.tenant,
        "from": first.isoformat(),
        "to": last.isoformat(),
        "group_by": list(groups),
        "data": [_render(line, groups) for line in _sum(lines, groups)],
        "total": _render(reduce(_add, lines, _NOTHING), ()),
    }
    return json_reply(200, body)


# -- parts ----------------------------------------------------------------------------------------------------------

_NOTHING: Final = Spending(0, "", "", None, 0, 0, 0, 0, 0)
_FIELD_OF: Final = {"day": "day", "model": "model", "provider": "provider", "key": "key_id"}


def _sum(lines: Sequence[Spending], groups: Sequence[str]) -> list[Spending]:
    """Add up lines that do not differ in the groups asked for."""
    sums: dict[tuple[object, ...], Spending] = {}
    for line in lines:
        group = tuple(getattr(line, _FIELD_OF[name]) for name in groups)
        sums[group] = _add(sums[group], line) if group in sums else line
    return list(sums.values())


def _add(one: Spending, other: Spending) -> Spending:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in COUNTED})


def _render(line: Spending, groups: Sequence[str]) -> dict[str, Any]:
    """Show a line with the groups it stands for. `cost_usd` sums what is known; `unknown` counts what is not."""
    shown: dict[str, Any] = {}
    if "day" in groups:
        shown["day"] = (EPOCH + timedelta(days=line.day)).isoformat()
    if "model" in groups:
        shown["model"] = line.model
    if "provider" in groups:
        shown["provider"] = line.provider
    if "key" in groups:
        shown["key_id"] = line.key_id
    return {
        **shown,
        "attempts": line.attempts,
        "delivered": line.delivered,
        "unknown": line.unknown,
        "cost_usd": usd_of(line.cost_nanos),
        "wasted_usd": usd_of(line.wasted_nanos),
    }


def _read_date(request: web.Request, name: str) -> date | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        read = date.fromisoformat(text)
    except ValueError:
        invalid(name, f"{name} must be a date such as 2026-11-21.")
    if not 1970 <= read.year <= 9000:
        invalid(name, f"{name} must lie between the years 1970 and 9000.")
    return read


def _read_groups(request: web.Request) -> tuple[str, ...]:
    text = request.query.get("group_by")
    if text is None:
        return GROUPS
    asked = text.split(",")
    if not set(asked) <= set(GROUPS) or len(set(asked)) != len(asked):
        invalid("group_by", f"group_by takes a comma-separated choice of {', '.join(GROUPS)}, each once.")
    return tuple(name for name in GROUPS if name in asked)


def _day_of(when: date) -> int:
    return (when - EPOCH).days
