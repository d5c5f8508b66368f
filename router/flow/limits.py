"""What tenants and API keys are held to at this daemon: the rates of their submits, and what is known of the keys.

A tenant's limits come with the rules in force and may change with them. A key's never change (`router.keys`), so that
what was learnt of one is true for as long as it is remembered; of whom nothing is known the store is asked. Both hold:
a submit takes a token of its key and one of its tenant, or none. How many tasks of a key run is counted by `dispatch`,
which of its models it may use is judged by `intake`. Each daemon counts for itself. Floor 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from router.flow.draft import Refused
from router.keys import NO_LIMITS, ApiKey, KeyLimits, KeyStore
from router.policy.pace import Bucket
from router.policy.rules import Rate, Tenant
from router.task import Error

KEYS_REMEMBERED = 20_000
BUCKETS_MAX = 20_000


class Limits:
    """The buckets of those who submit, and the limits of their keys by id."""

    def __init__(self, store: KeyStore, monotonic: Callable[[], float]) -> None:
        """Nothing is known yet, and every bucket is full."""
        self._store = store
        self._monotonic = monotonic
        self._keys: OrderedDict[str, KeyLimits] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def learn(self, key: ApiKey) -> None:
        """Remember the limits of a key that somebody has read."""
        self._remember(key.id, key.limits)

    def known(self, key_id: str | None) -> KeyLimits | None:
        """The limits of a key if they are remembered; None is the admin key, which has none."""
        return NO_LIMITS if key_id is None else self._keys.get(key_id)

    async def find(self, key_id: str | None) -> KeyLimits:
        """The limits of a key, read from the store if need be; a key that is gone has none. Raises `Unavailable`."""
        limits = self.known(key_id)
        if limits is None and key_id is not None:
            key = await self._store.key(key_id)
            limits = NO_LIMITS if key is None else key.limits
            self._remember(key_id, limits)
        return limits or NO_LIMITS

    def take(self, tenant: Tenant, key_id: str | None, key: KeyLimits) -> Refused | None:
        """Count a submit; the refusal says whose rate is used up and when to come again."""
        now_s = self._monotonic()
        held: list[tuple[str, Bucket]] = []
        if key.rate is not None and key_id is not None:
            rate = Rate(key.rate.count, key.rate.per_ms / 1000)
            held.append(("this API key", self._bucket(("key", key_id), rate, now_s)))
        if tenant.rate is not None:
            held.append((f"tenant {tenant.name}", self._bucket(("tenant", tenant.name), tenant.rate, now_s)))
        for whose, bucket in held:
            wait_s = bucket.wait_s(now_s)
            if wait_s > 0:
                limit = f"{bucket.rate.count} per {bucket.rate.per_s:g} s"
                message = f"The rate limit of {whose} ({limit}) is used up."
                return Refused(Error("rate_limited", message, "rate_limited", retryable=True), wait_s)
        for _whose, bucket in held:
            bucket.take(now_s)
        return None

    def _bucket(self, name: tuple[str, str], rate: Rate, now_s: float) -> Bucket:
        bucket = self._buckets.pop(name, None)
        if bucket is None or bucket.rate != rate:
            bucket = Bucket(rate, now_s)
        self._buckets[name] = bucket
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return bucket

    def _remember(self, key_id: str, limits: KeyLimits) -> None:
        self._keys[key_id] = limits
        self._keys.move_to_end(key_id)
        if len(self._keys) > KEYS_REMEMBERED:
            self._keys.popitem(last=False)
