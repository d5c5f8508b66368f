"""Webhooks that are owed: what a row of the outbox says, when one is written, and what becomes of it try by try.

A row is written in the transaction of the move that it tells of (contract 5.7, promise 7), so that no ending is ever
without its webhook; whoever delivers takes rows by a lease, and the row's id stays over all repeats. The rules are the
pure functions here, which every store calls; what a receiver is sent stands in `deliver`. An endpoint is tenant and
URL. Instants are milliseconds since the epoch, UTC. Floor 0: standard library only.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

from router.task import Task

TERMINAL_TYPES = ("task.succeeded", "task.failed", "task.cancelled", "task.expired")
CALLBACK_TYPES = (*TERMINAL_TYPES, "task.running", "task.retrying")
TRIES_KEPT = 10  # of each webhook, in the log
SECRET_PREFIX = "whsec_"  # noqa: S105 - it says what follows
NO_PLACES: Mapping[str, int] = MappingProxyType({})


class Standing(StrEnum):
    """Where a webhook stands. Only a waiting one is tried."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


# What a try came to for those who count, by where its webhook stands after it.
DELIVERIES: Mapping[Standing, str] = MappingProxyType(
    {
        Standing.DELIVERED: "delivered",
        Standing.WAITING: "failed",
        Standing.FAILED: "given_up",
        Standing.DROPPED: "dropped",
    }
)


class TryResult(StrEnum):
    """What one try came to."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # by the guard: the URL leads to where nobody may go
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"  # an answer that is neither 2xx nor 410
    GONE = "gone"  # 410: the endpoint wants no more
    TASK_GONE = "task_gone"  # its row is no longer kept


@dataclass(frozen=True, slots=True)
class Try:
    """One try: when it began, what came of it, the HTTP status if there was one, and how long it took."""

    at: int
    result: TryResult
    status: int | None = None
    detail: str = ""
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class Webhook:
    """One row. `host` is the URL's host:port, by which receivers are kept apart.

    `tries` counts those of the present round; `first_at` is when it began. A row is due from `next_at` on; who takes it
    puts that off by a lease and writes his epoch into `fence`. `log` holds the last tries, oldest first.
    """

    id: str
    tenant: str
    task_id: str
    type: str
    url: str
    host: str
    created_at: int
    state: Standing = Standing.WAITING
    tries: int = 0
    next_at: int = 0
    first_at: int | None = None
    fence: int = 0
    ended_at: int | None = None
    log: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """How many webhooks may be taken now: `total`, and of a host so many as `places` says.

    Hosts that are not there are strangers: one of each, and `strangers` of them together.
    """

    total: int
    strangers: int
    places: Mapping[str, int] = field(default_factory=lambda: NO_PLACES)

    def of(self, host: str, taken: int, strangers: int) -> int:
        """How many of one host, when so many were taken already, and so many of them of strangers."""
        left = self.total - taken
        return min(left, self.places[host]) if host in self.places else min(left, 1, self.strangers - strangers)


@dataclass(frozen=True, slots=True)
class Repeat:
    """When to try again: `after_first_ms` after the first try of the round, and not within `rest_ms` from now."""

    after_first_ms: int
    rest_ms: int = 0


@dataclass(frozen=True, slots=True)
class WebhookSearch:
    """A page of the log, newest first. `before`: (created_at, id) of the last row of the page before."""

    tenant: str | None = None
    state: Standing | None = None
    task_id: str | None = None
    before: tuple[int, str] | None = None
    limit: int = 20


def webhook_of(before: Task, after: Task) -> Webhook | None:
    """The webhook that a move owes, None when it owes none: no callback, a type not asked for, or the same state.

    Its id is made of the task's and the version's, so that the same move can never owe two. The first try is due at
    once, whatever the clock of the next reader says.
    """
    if after.callback_url is None or after.state is before.state:
        return None
    event = f"task.{after.state.value}"
    if event not in after.callback_events:
        return None
    return Webhook(
        id=f"msg_{after.id.partition('_')[2]}_{after.version}",
        tenant=after.tenant,
        task_id=after.id,
        type=event,
        url=after.callback_url,
        host=host_of(after.callback_url),
        created_at=after.updated_at,
    )


def host_of(url: str) -> str:
    """The host:port of a URL that has passed the guard, in lower case."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port or {'http': 80}.get(parts.scheme, 443)}"


def leased(webhook: Webhook, epoch: int, at: int, lease_ms: int) -> Webhook:
    """Somebody takes a waiting webhook and will have told by the end of the lease what came of it."""
    first_at = at if webhook.first_at is None else webhook.first_at
    return replace(webhook, fence=epoch, first_at=first_at, next_at=at + lease_ms)


def tried(row: Webhook, known: Webhook, one: Try, repeat: Repeat | None, at: int) -> Webhook | None:
    """What a row becomes by a try that was made of it as it was known; None when the try no longer counts.

    A delivery counts whoever has the row by now. `repeat` None: a failure was the last.
    """
    delivered = one.result is TryResult.DELIVERED
    if row.state is not Standing.WAITING or not (delivered or (row.fence, row.tries) == (known.fence, known.tries)):
        return None
    after = replace(row, tries=row.tries + 1, log=(*row.log, one)[-TRIES_KEPT:])
    if delivered:
        return replace(after, state=Standing.DELIVERED, ended_at=at)
    if one.result is TryResult.GONE:
        return replace(after, state=Standing.DROPPED, ended_at=at)
    if repeat is None:
        return replace(after, state=Standing.FAILED, ended_at=at)
    first_at = at if after.first_at is None else after.first_at
    return replace(after, next_at=max(first_at + repeat.after_first_ms, at + repeat.rest_ms))


def dropped(row: Webhook, at: int) -> Webhook:
    """The endpoint of a waiting webhook has been disabled."""
    return replace(row, state=Standing.DROPPED, ended_at=at)


def renewed(row: Webhook) -> Webhook:
    """An operator wants it sent again: a new round, due at once, whatever it had come to."""
    return replace(row, state=Standing.WAITING, tries=0, next_at=0, first_at=None, fence=0, ended_at=None)


class Outbox(Protocol):
    """What the store does for webhooks, besides writing their rows with the moves."""

    async def webhooks_due(self, now: int) -> bool:
        """Whether any webhook is due."""

    async def claim_webhooks(self, epoch: int, room: Room, lease_ms: int, now: int) -> tuple[Webhook, ...]:
        """Take webhooks that are due, longest due first, for so long; those of disabled endpoints are dropped instead.

        Of lives that claim at the same time each gets others. What is not closed in time is due again for anybody.
        """

    async def close_try(self, webhook: Webhook, one: Try, repeat: Repeat | None, now: int) -> Webhook | None:
        """Write down a try (`outbox.tried`); 410 also disables the endpoint. None when it no longer counts."""

    async def webhooks(self, search: WebhookSearch) -> tuple[Webhook, ...]:
        """A page of the log, of all tenants or of one."""

    async def renew_webhook(self, webhook_id: str) -> Webhook | None:
        """Begin a new round of tries and enable the endpoint; None when there is no such webhook."""

    async def enable_endpoint(self, tenant: str, url: str) -> bool:
        """Take back that an endpoint was disabled; whether it was."""

    async def is_disabled(self, tenant: str, url: str) -> bool:
        """Whether an endpoint has answered 410."""

    async def sweep_webhooks(self, ended_before: int, limit: int) -> int:
        """Delete webhooks that ended before an instant; returns how many."""


# -- sending ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer came. `retry_after`: the header as it was."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class PostFailed:
    """No answer came; the detail repeats nothing that the other side has said."""

    result: TryResult
    detail: str


class Poster(Protocol):
    """The guarded way to a callback."""

    async def __call__(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Posted | PostFailed:
        """Post a body as it is; no redirect is followed, and everything is over within `timeout_s`."""


def derive_secret(signing_secret: bytes, tenant: str) -> str:
    """The secret of a tenant that was given none, in the form of Standard Webhooks."""
    key = hmac.digest(signing_secret, b"webhook secret\0" + tenant.encode(), "sha256")
    return SECRET_PREFIX + base64.b64encode(key).decode()


def key_of(secret: str) -> bytes | None:
    """The key in `whsec_...`: base64 of 24 to 64 bytes; None for anything else."""
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        return None
    return key if 24 <= len(key) <= 64 else None


def sign(keys: Sequence[bytes], webhook_id: str, at_s: int, body: bytes) -> str:
    """The header `webhook-signature`: one `v1` signature for each live secret."""
    message = b"%s.%d." % (webhook_id.encode(), at_s) + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, message, 'sha256')).decode()}" for key in keys)


def page_of(rows: Sequence[Webhook], search: WebhookSearch) -> tuple[Webhook, ...]:
    """Select a page of the log from rows in any order."""
    found = [
        row
        for row in rows
        if search.tenant in {None, row.tenant}
        and search.state in {None, row.state}
        and search.task_id in {None, row.task_id}
        and (search.before is None or (row.created_at, row.id) < search.before)
    ]
    found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    return tuple(found[: search.limit])
