"""What this daemon remembers of API keys, so that not every request asks the store. Floor 3.

An entry lives for at most `TTL_S`: that is how long a revoked key may still work here when every hint is lost, well
within the five seconds of the contract. A revocation is hinted to the other daemons, which then forget at once. Secrets
that nobody has are remembered too, apart from the keys, so that a flood of guesses drives none of them out. Only hashes
are kept. What a key is allowed is told on, so that the flow knows its limits before the first submit arrives there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from router.keys import ApiKey
from router.persistence import Store

TTL_S = 2.0
ENTRIES_MAX = 10_000
TOPIC = "keys"


class KeyCache:
    """Keys by the hash of their secret. One for all listeners of a daemon; it is not used across threads."""

    def __init__(self, store: Store, monotonic: Callable[[], float], on_key: Callable[[ApiKey], None]) -> None:
        """`on_key` is told each key that was read."""
        self._store = store
        self._monotonic = monotonic
        self._on_key = on_key
        self._found: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._strange: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._generation = 0
        store.listen(self._hear)

    async def find(self, digest: str) -> ApiKey | None:
        """The key whose secret, or former secret, has this hash, whatever its state; it may be `TTL_S` old."""
        now_s = self._monotonic()
        entry = self._found.get(digest) or self._strange.get(digest)
        if entry is not None and now_s < entry[0]:
            return entry[1]
        generation = self._generation
        key = await self._store.find_key(digest)
        if key is not None:
            self._on_key(key)
        if generation == self._generation:  # what was read before somebody said "forget" may be what to forget
            self._remember(digest, now_s + TTL_S, key)
        return key

    def drop(self) -> None:
        """Forget everything, here and soon at the other daemons: a key was revoked, rotated or made."""
        self._forget()
        self._store.hint(TOPIC)

    def _hear(self, topic: str) -> None:
        if topic == TOPIC:
            self._forget()

    def _forget(self) -> None:
        self._generation += 1
        self._found.clear()
        self._strange.clear()

    def _remember(self, digest: str, until_s: float, key: ApiKey | None) -> None:
        """Keep an answer, counted from when it was asked for; the one remembered longest makes room."""
        self._found.pop(digest, None)
        self._strange.pop(digest, None)
        entries = self._strange if key is None else self._found
        entries[digest] = (until_s, key)
        if len(entries) > ENTRIES_MAX:
            entries.popitem(last=False)
