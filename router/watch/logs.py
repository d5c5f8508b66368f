"""Events into log lines: one table from event to level and name, JSON or console, with task, attempt and provider.

The loop only puts a record into a bounded queue; a thread renders and writes what is there, at most twenty times a
second, so that a slow terminal never holds up a task and a busy daemon never wakes a thread per line. Prompts and other
input are not in the table. Known secrets and what looks like one are blotted out after tracebacks have become text
(I17). Floor 3; it steers nothing.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO, assert_never

import orjson
import structlog

from router.events import (
    AccountRested,
    AttemptAccepted,
    AttemptEnded,
    AttemptOpened,
    BreakerMoved,
    BudgetRefused,
    BytesStored,
    CallCut,
    ConfigApplied,
    ConfigRejected,
    DrainStarted,
    Event,
    FailedOver,
    KeyChanged,
    LifeReplaced,
    QueueRefused,
    Recovered,
    RelayEnded,
    RelayMoved,
    TaskAdmitted,
    TaskEnded,
    TaskHeld,
    TaskInterrupted,
    TaskProgressed,
    TaskRetrying,
    TasksTaken,
    TaskStarted,
    TaskSwept,
    WebhookTried,
)
from router.money import usd_of
from router.outbox import DELIVERIES, Standing
from router.outcome import SUCCEEDED
from router.relays import Relayed
from router.task import Attempt, State, Task

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
QUEUE_MAX = 10_000
WRITE_EVERY_S = 0.05
WRITE_AFTER_LINES = 1_000  # however fast more of them come
SECRET_MIN_CHARS = 8
BLOT = "[redacted]"
# Keys by their look, for those that no configuration has told us: Bearer words, ours (pm_), the vendors' (sk-), links.
LOOKS_SECRET = re.compile(
    r"(?i)(?<=bearer )[\w.~+/=-]{8,}|\bpm_\w{8,}|\bsk-[\w-]{8,}|\bwhsec_[\w+/=]{8,}|(?<=[?&]sig=)[\w.=-]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
# One of these stands in whatever the pattern finds: looking for them first is several times as fast.
SECRET_SIGNS = ("bearer ", "pm_", "sk-", "whsec_", "sig=", "://")
SECRET_NAMES = frozenset({"authorization", "x-api-key", "x-key", "api_key", "secret", "password", "credential"})

Line = tuple[str, str, dict[str, Any]]
DaemonEvent = (
    BreakerMoved
    | AccountRested
    | BudgetRefused
    | QueueRefused
    | BytesStored
    | ConfigApplied
    | ConfigRejected
    | DrainStarted
    | CallCut
    | Recovered
    | LifeReplaced
    | TasksTaken
    | KeyChanged
    | WebhookTried
)


class Log:
    """The log of a daemon: `read` is its bus reader, `say` writes a line that is no event. `close` writes the rest.

    `now` gives milliseconds since the epoch. `level` is the lowest that is written.
    """

    def __init__(self, stream: TextIO, *, form: str, level: str, now: Callable[[], int]) -> None:
        self._now = now
        self._threshold = LEVELS[level]
        self._secrets: tuple[str, ...] = ()
        self._queue: queue.Queue[tuple[int, Line] | None] = queue.Queue(QUEUE_MAX)
        self.dropped = 0
        self._stream = stream
        self._lines = Lines()
        self._closing = threading.Event()
        renderer: Any = structlog.processors.JSONRenderer(serializer=_dump)
        if form == "console":
            renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=24)
        self._logger: Any = structlog.wrap_logger(
            self._lines,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                self._blot,
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._threshold),
        )
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def hide(self, secrets: Iterable[str]) -> None:
        """Blot these out wherever they occur, besides those told before."""
        found = {secret for secret in secrets if len(secret) >= SECRET_MIN_CHARS}
        self._secrets = tuple(sorted(found.union(self._secrets), key=len, reverse=True))

    def read(self, event: Event) -> None:
        """Write the line of an event (a reader of the bus)."""
        line = line_of(event)
        if LEVELS[line[0]] >= self._threshold:
            self._put(event.at, line)

    def say(self, level: str, name: str, **fields: Any) -> None:
        """Write a line of the daemon's own, such as where it listens."""
        if LEVELS[level] >= self._threshold:
            self._put(self._now(), (level, name, fields))

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout=5.0)

    def _put(self, at: int, line: Line) -> None:
        try:
            self._queue.put_nowait((at, line))
        except queue.Full:
            self.dropped += 1

    def _write_all(self) -> None:
        """Write the first line at once, and what comes soon after it together."""
        queued = self._queue.get()
        while queued is not None:
            self._render(*queued)
            if self._lines.count >= WRITE_AFTER_LINES:
                self._write()
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                self._write()
                self._closing.wait(WRITE_EVERY_S)
                queued = self._queue.get()
        self._write()

    def _render(self, at: int, line: Line) -> None:
        level, name, fields = line
        stamp = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            getattr(self._logger, level)(name, at=stamp, **fields)
        except ValueError:  # what cannot be written as text; there is nobody to tell
            self.dropped += 1

    def _write(self) -> None:
        texts = self._lines.take()
        try:
            self._stream.write("".join(texts))
            self._stream.flush()
        except (OSError, ValueError):  # the stream is gone or full; there is nobody to tell
            self.dropped += len(texts)

    def _blot(self, _logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in fields.items():
            fields[name] = BLOT if name.lower() in SECRET_NAMES else self._cleaned(value)
        return fields

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, BLOT)
            lower = value.lower()
            return LOOKS_SECRET.sub(BLOT, value) if any(sign in lower for sign in SECRET_SIGNS) else value
        if isinstance(value, Mapping):
            return {
                name: BLOT if str(name).lower() in SECRET_NAMES else self._cleaned(one) for name, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._cleaned(one) for one in value]
        return value


class Lines:
    """Where structlog puts rendered lines, until they are written."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def msg(self, text: str) -> None:
        """Take a line."""
        self._texts.append(f"{text}\n")

    debug = info = warning = error = msg

    @property
    def count(self) -> int:
        """How many have been collected."""
        return len(self._texts)

    def take(self) -> list[str]:
        """Give away what was collected."""
        texts, self._texts = self._texts, []
        return texts


class Foreign(logging.Handler):
    """What libraries log goes into the same stream, with the same blots."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on; its traceback becomes text in the log's thread."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        self._log.say(level, "library", **fields)


def _dump(fields: object, **_said: object) -> str:
    """Write JSON; what JSON cannot hold as its text."""
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half a character, as a broken upstream may send
        return json.dumps(fields, default=str)


def line_of(event: Event) -> Line:
    """Level, name and fields of an event: the table."""
    match event:
        case TaskAdmitted(task=task):
            return "info", "task.admitted", {**_task(task), "surface": task.surface, "priority": task.priority.word}
        case TaskStarted(task=task, waited_s=waited_s):
            return "debug", "task.started", {**_task(task), "provider": task.provider, "waited_s": round(waited_s, 3)}
        case TaskRetrying(task=task, delay_s=delay_s):
            return "info", "task.retrying", {**_task(task), "delay_s": round(delay_s, 3)}
        case TaskInterrupted(task=task):
            return "info", "task.interrupted", _task(task)
        case TaskEnded(task=task, was=was):
            level = "warning" if task.state is State.FAILED else "info"
            error = {} if task.error is None else {"error_type": task.error.error_type, "message": task.error.message}
            ms = None if task.completed_at is None else task.completed_at - task.created_at
            fields = {**_task(task), "provider": task.provider, "was": was.value, "latency_ms": ms, **error}
            return level, f"task.{task.state.value}", fields
        case TaskSwept(task=task):
            return "debug", "task.swept", _task(task)
        case TaskHeld(task=task, delay_s=delay_s):
            return "info", "task.held", {**_task(task), "delay_s": round(delay_s, 3)}
        case TaskProgressed(task=task, progress=progress):
            return "debug", "task.progress", {**_task(task), "progress": progress}
        case AttemptOpened(attempt=attempt):
            return "debug", "attempt.opened", _attempt(attempt)
        case AttemptAccepted(attempt=attempt):
            remote_id = None if attempt.handle is None else attempt.handle.remote_id
            return "debug", "attempt.accepted", {**_attempt(attempt), "remote_id": remote_id}
        case AttemptEnded(attempt=attempt, heard=heard):
            return "info" if attempt.outcome == SUCCEEDED else "warning", "attempt.ended", _end(attempt, heard=heard)
        case FailedOver(task=task, source=source, destination=destination, reason=reason):
            return "info", "task.failed_over", {**_task(task), "from": source, "to": destination, "reason": reason}
        case RelayEnded(relayed=relayed, estimate_nanos=estimate, cut=cut):
            level = "error" if cut else "info" if relayed.outcome == SUCCEEDED else "warning"
            more = {"cut": True, "estimate_usd": usd_of(estimate)} if cut else {}
            return level, "relay.ended", {**_relayed(relayed), **more}
        case RelayMoved(request_id=request_id, tenant=tenant, model=model):
            fields = {"request": request_id, "tenant": tenant, "model": model}
            moved = {"from": event.source, "to": event.destination, "reason": event.reason}
            return "info", "relay.failed_over", {**fields, **moved}
        case _:
            return _daemon_line_of(event)


def _daemon_line_of(event: DaemonEvent) -> Line:
    """The lines about the daemon rather than about one task."""
    match event:
        case BreakerMoved(provider=provider, target=target, model=model, before=before, after=after, open_for_s=open_s):
            level = "warning" if after == "open" else "info"
            fields = {"provider": provider, "target": target, "model": model, "before": before, "after": after}
            return level, "breaker.moved", {**fields, "open_for_s": round(open_s, 1)}
        case AccountRested(provider=provider, account=account, rest_s=rest_s, detail=detail):
            rest = {"provider": provider, "account": account, "rest_s": round(rest_s, 1), "detail": detail}
            return "error", "account.rested", rest
        case BudgetRefused(tenant=tenant, budget=budget, window=window, left=left):
            refused = {"tenant": tenant, "budget": budget, "window": window, "left_usd": usd_of(left)}
            return "warning", "budget.refused", refused
        case QueueRefused(tenant=tenant, bound=bound):
            return "warning", "queue.refused", {"tenant": tenant, "bound": bound}
        case BytesStored(task_id=task_id, provider=provider, bytes=size):
            return "debug", "bytes.stored", {"task": task_id, "provider": provider, "bytes": size}
        case ConfigApplied(hash=new, before=before, warnings=warnings):
            return "info", "config.applied", {"hash": new, "before": before, "warnings": list(warnings)}
        case ConfigRejected(problems=problems):
            return "error", "config.rejected", {"problems": list(problems)}
        case DrainStarted(running=running):
            return "info", "drain.started", {"running": running}
        case CallCut(attempt=attempt, estimate_nanos=estimate):
            return "error", "call.cut", {**_attempt(attempt), "estimate_usd": usd_of(estimate), "billing": "unknown"}
        case Recovered(waiting=waiting, resumed=resumed, unknown=unknown):
            return "info", "recovered", {"waiting": waiting, "resumed": resumed, "unknown": unknown}
        case TasksTaken(count=count, silent=silent):
            return (
                "warning" if silent else "info",
                "tasks.taken",
                {"count": count, "from": "silent" if silent else "busy"},
            )
        case KeyChanged(key_id=key_id, tenant=tenant, change=change, by=by):
            return "info", f"key.{change}", {"key_id": key_id, "tenant": tenant, "by": by or "admin"}
        case LifeReplaced(replica=replica, epoch=epoch):
            return "error", "life.replaced", {"replica": replica, "epoch": epoch}
        case WebhookTried():
            return _webhook_line_of(event)
        case _:
            assert_never(event)


def _webhook_line_of(event: WebhookTried) -> Line:
    """The host alone stands for the URL, whose path and query are often a secret."""
    webhook, tried = event.webhook, event.tried
    fields = {
        "webhook": webhook.id,
        "task": webhook.task_id,
        "tenant": webhook.tenant,
        "type": webhook.type,
        "host": webhook.host,
        "try": webhook.tries + 1,
        "result": tried.result.value,
        "http_status": tried.status,
        "detail": tried.detail,
        "took_ms": tried.took_ms,
    }
    level = {Standing.DELIVERED: "info", Standing.WAITING: "warning"}.get(event.standing, "error")
    return level, f"webhook.{DELIVERIES[event.standing]}", fields


def _task(task: Task) -> dict[str, Any]:
    return {"task": task.id, "tenant": task.tenant, "model": task.model}


def _relayed(one: Relayed) -> dict[str, Any]:
    return {
        "request": one.request_id,
        "tenant": one.tenant,
        "model": one.model,
        "try": one.n,
        "provider": one.provider,
        "target": one.target,
        "target_model": one.target_model,
        "account": one.account,
        "streamed": one.streamed,
        "outcome": one.outcome,
        "billing": one.billing.value,
        "cost_usd": usd_of(one.cost_nanos),
        "http_status": one.http_status,
        "detail": one.detail,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "task": attempt.task_id,
        "tenant": attempt.tenant,
        "attempt": attempt.n,
        "provider": attempt.provider,
        "target": attempt.target,
        "target_model": attempt.target_model,
        "account": attempt.account,
    }


def _end(attempt: Attempt, *, heard: bool) -> dict[str, Any]:
    fields = {
        **_attempt(attempt),
        "outcome": attempt.outcome,
        "billing": attempt.billing.value,
        "cost_usd": usd_of(attempt.cost_nanos),
        "http_status": attempt.http_status,
        "detail": attempt.detail,
    }
    return {**fields, "heard": True} if heard else fields
