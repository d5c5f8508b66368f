"""The outbox as plain dicts: the part of the reference model that says what the verbs for webhooks mean. Floor 3."""

from __future__ import annotations

from router import outbox
from router.outbox import Repeat, Room, Standing, Try, TryResult, Webhook, WebhookSearch
from router.task import Task

DROPPED_AT_ONCE = 200


class MemoryOutbox:
    """A mixin of `memory.MemoryStore`, which says when a verb is called and when the store is closed."""

    def __init__(self) -> None:
        """Start empty."""
        self._webhooks: dict[str, Webhook] = {}
        self._disabled: set[tuple[str, str]] = set()

    def _write(self, verb: str) -> None:
        raise NotImplementedError

    def _read(self) -> None:
        raise NotImplementedError

    async def webhooks_due(self, now: int) -> bool:
        """See whether any is due."""
        self._read()
        return any(row.state is Standing.WAITING and row.next_at <= now for row in self._webhooks.values())

    async def claim_webhooks(self, epoch: int, room: Room, lease_ms: int, now: int) -> tuple[Webhook, ...]:
        """Take those that are due, host by host; the host whose first has been due longest comes first."""
        self._write("claim_webhooks")
        waiting = sorted(
            (row for row in self._webhooks.values() if row.state is Standing.WAITING),
            key=lambda row: (row.next_at, row.id),
        )
        hosts = sorted({row.host for row in waiting}, key=lambda host: (_first(waiting, host), host))
        taken: list[Webhook] = []
        dropped = strangers = 0
        for host in hosts:
            left = room.of(host, len(taken), strangers)
            for row in [row for row in waiting if row.host == host and row.next_at <= now]:
                if left <= 0:
                    break
                if (row.tenant, row.url) in self._disabled:
                    if dropped < DROPPED_AT_ONCE:
                        self._webhooks[row.id] = outbox.dropped(row, now)
                        dropped += 1
                        continue
                    break
                self._webhooks[row.id] = after = outbox.leased(row, epoch, now, lease_ms)
                taken.append(after)
                strangers += host not in room.places
                left -= 1
        return tuple(taken)

    async def close_try(self, webhook: Webhook, one: Try, repeat: Repeat | None, now: int) -> Webhook | None:
        """Write down what came of a try."""
        self._write("close_try")
        row = self._webhooks.get(webhook.id)
        if one.result is TryResult.GONE:
            self._disabled.add((webhook.tenant, webhook.url))
        after = None if row is None else outbox.tried(row, webhook, one, repeat, now)
        if after is not None:
            self._webhooks[after.id] = after
        return after

    async def webhooks(self, search: WebhookSearch) -> tuple[Webhook, ...]:
        """Read a page of the log."""
        self._read()
        return outbox.page_of(tuple(self._webhooks.values()), search)

    async def renew_webhook(self, webhook_id: str) -> Webhook | None:
        """Begin a new round."""
        self._write("renew_webhook")
        row = self._webhooks.get(webhook_id)
        if row is None:
            return None
        self._disabled.discard((row.tenant, row.url))
        self._webhooks[row.id] = after = outbox.renewed(row)
        return after

    async def enable_endpoint(self, tenant: str, url: str) -> bool:
        """Take back that it was disabled."""
        self._write("enable_endpoint")
        was = (tenant, url) in self._disabled
        self._disabled.discard((tenant, url))
        return was

    async def is_disabled(self, tenant: str, url: str) -> bool:
        """See whether it is."""
        self._read()
        return (tenant, url) in self._disabled

    async def sweep_webhooks(self, ended_before: int, limit: int) -> int:
        """Delete the oldest of those that have ended."""
        self._write("sweep_webhooks")
        ended = [(row.ended_at, row.id) for row in self._webhooks.values() if row.ended_at is not None]
        old = [webhook_id for at, webhook_id in sorted(ended) if at < ended_before][:limit]
        for webhook_id in old:
            del self._webhooks[webhook_id]
        return len(old)

    def _owe(self, before: Task, after: Task) -> None:
        """Write down what a move owes."""
        owed = outbox.webhook_of(before, after)
        if owed is not None:
            self._webhooks[owed.id] = owed


def _first(waiting: list[Webhook], host: str) -> int:
    return next(row.next_at for row in waiting if row.host == host)
