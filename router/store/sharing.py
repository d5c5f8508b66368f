"""What daemons share, as verbs: places and starts of providers, circuits, the right to probe, and each other's endings.

Who may have what is decided by `policy.share`; here it is read and written under the lock of one row per provider or
circuit, so that no two daemons divide at the same time. Floor 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.leases import CircuitKey, CircuitNews, CircuitSeen, CircuitWord, Grant, Want
from router.persistence import ENDED_MAX, Owner
from router.policy.share import Fill, Leased, lease_places, take_tokens
from router.store import sql
from router.store.rows import task_of_row
from router.store.steps import Steps
from router.task import Task


class Sharing:
    """The verbs without state. `_instant` answers what time it is: the caller's, where one daemon has the store."""

    def _instant(self, now: int) -> Steps[int]:
        yield from ()
        return now

    def _awake(self, owner: Owner, silent_ms: int, now: int) -> Steps[set[int]]:
        """The epochs of the lives that were heard lately, and the asker's."""
        at = yield from self._instant(now)
        return {epoch for (epoch,) in (yield sql.AWAKE, (at - silent_ms,))} | {owner.epoch}

    def share(self, owner: Owner, wants: Sequence[Want], silent_ms: int, now: int) -> Steps[tuple[Grant, ...]]:
        """Divide places and take tokens, provider by provider in one order everywhere."""
        if not (yield sql.IS_LATEST, (owner.replica, owner.epoch)):
            return ()
        awake = yield from self._awake(owner, silent_ms, now)
        grants: dict[str, Grant] = {}
        for want in sorted(wants, key=lambda one: one.provider):
            ((tokens, filled_at),) = yield sql.LOCK_PACE, (want.provider,)
            at = yield from self._instant(now)
            rows = {epoch: Leased(places, need) for epoch, places, need in (yield sql.PLACES, (want.provider,))}
            mine = rows.pop(owner.epoch, None)
            others = {epoch: leased for epoch, leased in rows.items() if epoch in awake}
            places, held = lease_places(want, owner.epoch, others, at)
            if mine != held:
                yield sql.PUT_PLACES, (want.provider, owner.epoch, held.places, held.need)
            taken = 0
            if want.tokens:
                taken, fill = take_tokens(want, None if tokens < 0 else Fill(tokens, filled_at), at)
                yield sql.PUT_PACE, (want.provider, fill.tokens, fill.at)
            grants[want.provider] = Grant(want.provider, places, taken)
        return tuple(grants[want.provider] for want in wants)

    def exchange(self, owner: Owner, news: Sequence[CircuitNews], now: int) -> Steps[tuple[CircuitSeen, ...]]:
        """Write down what was moved here, then read all circuits."""
        at = yield from self._instant(now)
        for one in sorted(news, key=lambda one: one.key):
            if one.word is CircuitWord.RETURNED:
                yield sql.RETURN_PROBE, (*one.key, owner.epoch)
                continue
            until_at = None if one.open_for_ms is None else at + one.open_for_ms
            how = (until_at, one.openings, int(one.pinned))
            yield sql.PUT_CIRCUIT, (*one.key, one.word.value, *how, owner.epoch, int(one.by_hand))
        seen = []
        for row in (yield sql.CIRCUITS, ()):
            provider, target, model, word, until_at, openings, pinned, version, epoch = row
            left_ms = None if until_at is None else max(0, until_at - at)
            key = (provider, target, model)
            seen.append(CircuitSeen(key, CircuitWord(word), left_ms, openings, bool(pinned), version, epoch))
        return tuple(seen)

    def lease_probe(self, owner: Owner, key: CircuitKey, lease_ms: int, silent_ms: int, now: int) -> Steps[bool]:
        """Give the right to who asks first when the time is over and nobody who lives has it."""
        rows = yield sql.LOCK_CIRCUIT, key
        if not rows:
            return False
        until_at, holder, held_until = rows[0]
        at = yield from self._instant(now)
        if until_at is None or until_at > at:
            return False
        if holder not in {None, owner.epoch} and held_until > at:
            awake = yield from self._awake(owner, silent_ms, now)
            if holder in awake:
                return False
        yield sql.LEASE_PROBE, (*key, owner.epoch, at + lease_ms)
        return True

    def halted(self, owner: Owner) -> Steps[tuple[tuple[str, str], ...]]:
        """List what others have ended."""
        return tuple((tenant, task_id) for tenant, task_id in (yield sql.HALTED, (owner.epoch,)))

    def ended(self, tasks: Sequence[tuple[str, str]]) -> Steps[tuple[Task, ...]]:
        """Read which have ended."""
        if len(tasks) > ENDED_MAX:
            raise ValueError(f"{len(tasks)} tasks are asked for at once; {ENDED_MAX} may be")
        asked = set(tasks)
        ids = sorted({task_id for _tenant, task_id in tasks})
        rows = yield sql.ENDED, (*ids, *[""] * (ENDED_MAX - len(ids)))
        return tuple(task for task in map(task_of_row, rows) if (task.tenant, task.id) in asked)
