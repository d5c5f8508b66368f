"""The outbox in a database: its statements, its verbs as steps, and the lanes that they take.

Rows are written by `owe`, inside the step that moves a task. Delivering looks across tenants, because that is what it
is for: it finds what is due, host by host, jumping from one host to the next, so that a receiver with many rows never
hides the others. Meaning is defined by `memory_outbox`. Floor 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from router import outbox
from router.outbox import Repeat, Room, Standing, Try, TryResult, Webhook, WebhookSearch
from router.store.lane import Lane
from router.store.memory_outbox import DROPPED_AT_ONCE
from router.store.rows import Row, dump
from router.store.steps import Steps
from router.task import Task

NEWEST = (1 << 62, "")

COLUMNS = (
    *("id", "tenant", "task_id", "type", "url", "host", "created_at", "state", "tries", "next_at", "first_at"),
    *("fence", "ended_at", "log"),
)


def _expand(text: str) -> str:
    """Put the columns of a webhook into a statement."""
    places = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))
    return text.replace("{webhook}", ", ".join(COLUMNS)).replace("{values}", places)


# Write a webhook that a move owes.
INSERT_WEBHOOK = _expand("""
insert into webhook ({webhook}) values ({values})
""")

# See whether any is due.
ANY_DUE = """
select 1 from webhook where state = 'waiting' and next_at <= $1 limit 1
"""

# List the hosts for which something waits, jumping from one to the next, and since when the first of each is due.
WAITING_HOSTS = """
with recursive step (host) as (
    select min(host) from webhook where state = 'waiting'
    union all
    select (select min(webhook.host) from webhook where webhook.host > step.host and webhook.state = 'waiting')
    from step
    where step.host is not null
)
select
    (select min(webhook.next_at) from webhook where webhook.host = step.host and webhook.state = 'waiting') as due_at,
    step.host
from step
where step.host is not null
"""

# List what is due for one host.
DUE_OF_HOST = _expand("""
select {webhook} from webhook
where host = $1 and state = 'waiting' and next_at <= $2
order by next_at, id
limit $3
/* for update of webhook skip locked */
""")

# Take one by a lease.
LEASE_WEBHOOK = """
update webhook set fence = $3, first_at = $4, next_at = $5 where tenant = $1 and id = $2
"""

# Read one as it is and stays until the end of the transaction.
LOCK_WEBHOOK = _expand("""
update webhook set tries = tries where tenant = $1 and id = $2 returning {webhook}
""")

# The same for an operator, who names no tenant.
LOCK_ANY_WEBHOOK = _expand("""
update webhook set tries = tries where id = $1 returning {webhook}
""")

# Write down what has become of one.
PUT_WEBHOOK = """
update webhook
set state = $3, tries = $4, next_at = $5, first_at = $6, fence = $7, ended_at = $8, log = $9
where tenant = $1 and id = $2
"""

# List a page of the log, newest first.
WEBHOOKS = _expand("""
select {webhook} from webhook
where (created_at, id) < ($1, $2) and (cast($3 as text) is null or state = $3)
order by created_at desc, id desc
limit $4
""")

# The same of one tenant.
WEBHOOKS_OF_TENANT = _expand("""
select {webhook} from webhook
where tenant = $1 and (created_at, id) < ($2, $3) and (cast($4 as text) is null or state = $4)
order by created_at desc, id desc
limit $5
""")

# The same of one task; whose it is says $6, if that is asked.
WEBHOOKS_OF_TASK = _expand("""
select {webhook} from webhook
where task_id = $5 and (cast($6 as text) is null or tenant = $6)
    and (created_at, id) < ($1, $2) and (cast($3 as text) is null or state = $3)
order by created_at desc, id desc
limit $4
""")

# Disable an endpoint.
DISABLE = """
insert into disabled_endpoint (tenant, url, disabled_at) values ($1, $2, $3) on conflict do nothing
"""

# Enable it again.
ENABLE = """
delete from disabled_endpoint where tenant = $1 and url = $2 returning url
"""

# See whether it is disabled.
IS_DISABLED = """
select 1 from disabled_endpoint where tenant = $1 and url = $2
"""

# Delete webhooks that ended first.
SWEEP_WEBHOOKS = """
delete from webhook
where id in (select id from webhook where ended_at < $1 order by ended_at, id limit $2)
returning id
"""


class OutboxVerbs:
    """The verbs without state, a mixin of `verbs.Verbs`."""

    def _instant(self, now: int) -> Steps[int]:
        raise NotImplementedError

    def owe(self, before: Task, after: Task) -> Steps[None]:
        """Write down what a move owes, in the transaction of the move."""
        owed = outbox.webhook_of(before, after)
        if owed is not None:
            yield INSERT_WEBHOOK, _row_of(owed)

    def webhooks_due(self, now: int) -> Steps[bool]:
        """See whether any is due."""
        at = yield from self._instant(now)
        return bool((yield ANY_DUE, (at,)))

    def claim_webhooks(self, epoch: int, room: Room, lease_ms: int, now: int) -> Steps[tuple[Webhook, ...]]:
        """Take what is due, the host first whose first has been due longest."""
        at = yield from self._instant(now)
        taken: list[Webhook] = []
        dropped = strangers = 0
        for due_at, host in sorted((yield WAITING_HOSTS, ())):
            left = room.of(host, len(taken), strangers) if due_at <= at else 0
            while left > 0 and dropped <= DROPPED_AT_ONCE:
                rows = yield DUE_OF_HOST, (host, at, left)
                for row in map(_webhook_of, rows):
                    if not (yield IS_DISABLED, (row.tenant, row.url)):
                        after = outbox.leased(row, epoch, at, lease_ms)
                        yield LEASE_WEBHOOK, (row.tenant, row.id, epoch, after.first_at, after.next_at)
                        taken.append(after)
                        strangers += host not in room.places
                        left -= 1
                    elif dropped < DROPPED_AT_ONCE:
                        yield PUT_WEBHOOK, _state_of(outbox.dropped(row, at))
                        dropped += 1
                    else:
                        left = 0
                        break
                if not rows:
                    break
        return tuple(taken)

    def close_try(self, webhook: Webhook, one: Try, repeat: Repeat | None, now: int) -> Steps[Webhook | None]:
        """Write down what came of a try, if it still counts."""
        at = yield from self._instant(now)
        if one.result is TryResult.GONE:
            yield DISABLE, (webhook.tenant, webhook.url, at)
        rows = yield LOCK_WEBHOOK, (webhook.tenant, webhook.id)
        after = outbox.tried(_webhook_of(rows[0]), webhook, one, repeat, at) if rows else None
        if after is not None:
            yield PUT_WEBHOOK, _state_of(after)
        return after

    def webhooks(self, search: WebhookSearch) -> Steps[tuple[Webhook, ...]]:
        """Read a page of the log."""
        state = None if search.state is None else search.state.value
        page = (*(search.before or NEWEST), state, search.limit)
        if search.task_id is not None:
            rows = yield WEBHOOKS_OF_TASK, (*page, search.task_id, search.tenant)
        elif search.tenant is not None:
            rows = yield WEBHOOKS_OF_TENANT, (search.tenant, *page)
        else:
            rows = yield WEBHOOKS, page
        return tuple(map(_webhook_of, rows))

    def renew_webhook(self, webhook_id: str) -> Steps[Webhook | None]:
        """Begin a new round, and believe the endpoint again."""
        rows = yield LOCK_ANY_WEBHOOK, (webhook_id,)
        if not rows:
            return None
        after = outbox.renewed(_webhook_of(rows[0]))
        yield ENABLE, (after.tenant, after.url)
        yield PUT_WEBHOOK, _state_of(after)
        return after

    def enable_endpoint(self, tenant: str, url: str) -> Steps[bool]:
        """Enable it again."""
        return bool((yield ENABLE, (tenant, url)))

    def is_disabled(self, tenant: str, url: str) -> Steps[bool]:
        """See whether it is disabled."""
        return bool((yield IS_DISABLED, (tenant, url)))

    def sweep_webhooks(self, ended_before: int, limit: int) -> Steps[int]:
        """Delete the oldest of those that have ended."""
        return len((yield SWEEP_WEBHOOKS, (ended_before, limit)))


class OutboxLanes:
    """The verbs over an engine, a mixin of `relational.RelationalStore`.

    They take the fleet's own lane: what is taken there is never decided in step with others.
    """

    writes: Counter[str]
    _verbs: Any
    _keeper: Lane
    _reader: Lane
    _lister: Lane

    async def webhooks_due(self, now: int) -> bool:
        """See whether any is due."""
        due: bool = await self._lister.ask(self._verbs.webhooks_due, now)
        return due

    async def claim_webhooks(self, epoch: int, room: Room, lease_ms: int, now: int) -> tuple[Webhook, ...]:
        """Take what is due."""
        self.writes["claim_webhooks"] += 1
        taken: tuple[Webhook, ...] = await self._keeper.ask(self._verbs.claim_webhooks, epoch, room, lease_ms, now)
        return taken

    async def close_try(self, webhook: Webhook, one: Try, repeat: Repeat | None, now: int) -> Webhook | None:
        """Write down what came of a try."""
        self.writes["close_try"] += 1
        after: Webhook | None = await self._keeper.ask(self._verbs.close_try, webhook, one, repeat, now)
        return after

    async def webhooks(self, search: WebhookSearch) -> tuple[Webhook, ...]:
        """Read a page of the log."""
        found: tuple[Webhook, ...] = await self._lister.ask(self._verbs.webhooks, search)
        return found

    async def renew_webhook(self, webhook_id: str) -> Webhook | None:
        """Begin a new round."""
        self.writes["renew_webhook"] += 1
        after: Webhook | None = await self._keeper.ask(self._verbs.renew_webhook, webhook_id)
        return after

    async def enable_endpoint(self, tenant: str, url: str) -> bool:
        """Enable it again."""
        self.writes["enable_endpoint"] += 1
        was: bool = await self._keeper.ask(self._verbs.enable_endpoint, tenant, url)
        return was

    async def is_disabled(self, tenant: str, url: str) -> bool:
        """See whether it is disabled."""
        disabled: bool = await self._reader.ask(self._verbs.is_disabled, tenant, url)
        return disabled

    async def sweep_webhooks(self, ended_before: int, limit: int) -> int:
        """Delete the oldest of those that have ended."""
        self.writes["sweep_webhooks"] += 1
        count: int = await self._keeper.ask(self._verbs.sweep_webhooks, ended_before, limit)
        return count


# -- rows -------------------------------------------------------------------------------------------------------------


def _row_of(webhook: Webhook) -> Row:
    head = (webhook.id, webhook.tenant, webhook.task_id, webhook.type, webhook.url, webhook.host, webhook.created_at)
    return (*head, *_changing(webhook))


def _state_of(webhook: Webhook) -> Row:
    """The values of `PUT_WEBHOOK`."""
    return (webhook.tenant, webhook.id, *_changing(webhook))


def _changing(webhook: Webhook) -> Sequence[Any]:
    times = (webhook.next_at, webhook.first_at, webhook.fence, webhook.ended_at)
    return (webhook.state.value, webhook.tries, *times, dump(webhook.log))


def _webhook_of(row: Row) -> Webhook:
    said: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    log = () if said["log"] == "[]" else tuple(_try_of(one) for one in orjson.loads(said["log"]))
    return Webhook(**{**said, "state": Standing(said["state"]), "log": log})


def _try_of(said: dict[str, Any]) -> Try:
    return Try(**{**said, "result": TryResult(said["result"])})
