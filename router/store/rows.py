"""Records to columns and back: the one place that knows in which order the columns of a task and an attempt stand.

Structured parts are JSON as text, written once when they change. Knows no statement and no engine. Floor 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from router.outcome import Billed
from router.provider import Handle, Kind, Usage
from router.task import Attempt, AttemptState, Error, Output, Preferences, Priority, State, Task

Row = tuple[Any, ...]

TASK_COLUMNS = (
    *("id", "tenant", "owner", "fence", "version", "state", "priority", "kind", "model", "surface", "route", "digest"),
    *("key_id", "idempotency_key", "request_id", "retry_of", "created_at", "updated_at", "start_by", "deadline"),
    *("not_before", "started_at", "completed_at", "expires_at", "tries", "provider", "target_model", "metadata"),
    *("preferences", "output", "usage", "error", "warnings", "input", "callback_url", "callback_events", "link_base"),
)
ATTEMPT_COLUMNS = (
    *("task_id", "tenant", "n", "part", "state", "fence", "provider", "target", "target_model", "account"),
    *("base_url", "attempt_key", "started_at", "timeout_at", "rules_hash", "estimate_nanos", "handle", "accepted_at"),
    *("ended_at", "outcome", "http_status", "billing", "cost_nanos", "estimated", "detail", "output"),
    *("count", "usage"),
)

NO_PREFERENCES = Preferences()


def dump(value: object) -> str:
    """Write JSON. What JSON cannot hold is a bug of whoever made it and raises TypeError."""
    return orjson.dumps(value, default=_plain).decode()


def row_of_task(task: Task) -> Row:
    """Every column of a task, in the order of `TASK_COLUMNS`."""
    return (
        task.id,
        task.tenant,
        task.owner,
        task.fence,
        task.version,
        task.state.value,
        int(task.priority),
        task.kind.value,
        task.model,
        task.surface,
        task.route,
        task.digest,
        task.key_id,
        task.idempotency_key,
        task.request_id,
        task.retry_of,
        task.created_at,
        task.updated_at,
        task.start_by,
        task.deadline,
        task.not_before,
        task.started_at,
        task.completed_at,
        task.expires_at,
        task.tries,
        task.provider,
        task.target_model,
        dump(task.metadata),
        "{}" if task.preferences == NO_PREFERENCES else dump(task.preferences),
        dump(task.output),
        dump_if_any(task.usage),
        dump_if_any(task.error),
        dump(task.warnings),
        dump(task.input),
        task.callback_url,
        " ".join(task.callback_events),
        task.link_base,
    )


def task_of_row(row: Row) -> Task:
    """Read a task from a row that begins with `TASK_COLUMNS`."""
    return Task(
        id=row[0],
        tenant=row[1],
        owner=row[2],
        fence=row[3],
        version=row[4],
        state=State(row[5]),
        priority=Priority(row[6]),
        kind=Kind(row[7]),
        model=row[8],
        surface=row[9],
        route=row[10],
        digest=row[11],
        key_id=row[12],
        idempotency_key=row[13],
        request_id=row[14],
        retry_of=row[15],
        created_at=row[16],
        updated_at=row[17],
        start_by=row[18],
        deadline=row[19],
        not_before=row[20],
        started_at=row[21],
        completed_at=row[22],
        expires_at=row[23],
        tries=row[24],
        provider=row[25],
        target_model=row[26],
        metadata=orjson.loads(row[27]),
        preferences=_preferences_of(row[28]),
        output=outputs_of(row[29]),
        usage=None if row[30] is None else Usage(**orjson.loads(row[30])),
        error=None if row[31] is None else _error_of(row[31]),
        warnings=tuple(orjson.loads(row[32])),
        input=orjson.loads(row[33]),
        callback_url=row[34],
        callback_events=tuple(row[35].split()),
        link_base=row[36],
    )


def row_of_attempt(attempt: Attempt) -> Row:
    """Every column of an attempt, in the order of `ATTEMPT_COLUMNS`."""
    return (
        attempt.task_id,
        attempt.tenant,
        attempt.n,
        attempt.part,
        attempt.state.value,
        attempt.fence,
        attempt.provider,
        attempt.target,
        attempt.target_model,
        attempt.account,
        attempt.base_url,
        attempt.attempt_key,
        attempt.started_at,
        attempt.timeout_at,
        attempt.rules_hash,
        attempt.estimate_nanos,
        dump_if_any(attempt.handle),
        attempt.accepted_at,
        attempt.ended_at,
        attempt.outcome,
        attempt.http_status,
        attempt.billing.value,
        attempt.cost_nanos,
        int(attempt.estimated),
        attempt.detail,
        dump(attempt.output),
        attempt.count,
        dump_if_any(attempt.usage),
    )


def attempt_of_row(row: Row) -> Attempt:
    """Read an attempt from a row that begins with `ATTEMPT_COLUMNS`."""
    return Attempt(
        task_id=row[0],
        tenant=row[1],
        n=row[2],
        part=row[3],
        state=AttemptState(row[4]),
        fence=row[5],
        provider=row[6],
        target=row[7],
        target_model=row[8],
        account=row[9],
        base_url=row[10],
        attempt_key=row[11],
        started_at=row[12],
        timeout_at=row[13],
        rules_hash=row[14],
        estimate_nanos=row[15],
        handle=None if row[16] is None else Handle(**orjson.loads(row[16])),
        accepted_at=row[17],
        ended_at=row[18],
        outcome=row[19],
        http_status=row[20],
        billing=Billed(row[21]),
        cost_nanos=row[22],
        estimated=bool(row[23]),
        detail=row[24],
        output=outputs_of(row[25]),
        count=row[26],
        usage=None if row[27] is None else Usage(**orjson.loads(row[27])),
    )


def outputs_of(text: str) -> tuple[Output, ...]:
    """Read a JSON list of outputs."""
    return () if text == "[]" else tuple(Output(**item) for item in orjson.loads(text))


def dump_if_any(value: object) -> str | None:
    """Write JSON, None as null."""
    return None if value is None else dump(value)


# -- parts ----------------------------------------------------------------------------------------------------------


def _preferences_of(text: str) -> Preferences:
    if text == "{}":
        return NO_PREFERENCES
    said = orjson.loads(text)
    for name in ("order", "only", "ignore"):
        said[name] = tuple(said[name])
    return Preferences(**said)


def _error_of(text: str) -> Error:
    said = orjson.loads(text)
    said["billing"] = Billed(said["billing"])
    return Error(**said)


def _plain(value: object) -> object:
    """What orjson does not know by itself: mappings that are not dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
