"""What a daemon remembers of keys, under a clock that the test turns: never for so long that a revocation is late."""

import asyncio

from router.api.key_cache import ENTRIES_MAX, KeyCache
from router.keys import ApiKey, NewSecret
from router.store.memory import MemoryStore

WITHIN_S = 5.0  # in which a revocation works on every replica
NOW = 1_795_176_000_000


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


class CountingStore(MemoryStore):
    """Counts the questions; `open` holds the answers back."""

    def __init__(self):
        super().__init__(shared=True)
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def find_key(self, digest):
        self.asked += 1
        key = await super().find_key(digest)
        await self.open.wait()
        return key


class Deaf(CountingStore):
    """Hints are lost."""

    def hint(self, topic):
        pass


def a_key(number=1):
    return ApiKey(f"key_{number}", "acme", "", f"pm_{number}", f"hash-{number}", NOW)


async def open_caches(store, count=2):
    """So many replicas' caches on one store, with one key in it, and a clock for all."""
    clock, learnt = Clock(), []
    await store.add_key(a_key())
    return clock, learnt, [KeyCache(store, clock, learnt.append) for _ in range(count)]


async def test_a_key_is_asked_for_once_in_a_while_and_told_on():
    store = CountingStore()
    clock, learnt, (cache,) = await open_caches(store, 1)
    for _turn in range(3):
        assert await cache.find("hash-1") == a_key()
    assert (store.asked, learnt) == (1, [a_key()])

    clock.now_s += WITHIN_S
    assert await cache.find("hash-1") == a_key()
    assert store.asked == 2


async def test_every_replica_sees_a_revocation_in_time_although_the_hint_is_lost():
    store = Deaf()
    clock, _learnt, caches = await open_caches(store)
    for cache in caches:
        await cache.find("hash-1")
    await store.revoke_key("acme", "key_1", NOW)
    caches[0].drop()
    assert (await caches[0].find("hash-1")).revoked_at == NOW
    assert (await caches[1].find("hash-1")).revoked_at is None

    clock.now_s += WITHIN_S
    assert (await caches[1].find("hash-1")).revoked_at == NOW


async def test_a_hint_makes_every_replica_forget_at_once():
    store = CountingStore()
    _clock, _learnt, caches = await open_caches(store)
    for cache in caches:
        await cache.find("hash-1")
    await store.rotate_key("acme", "key_1", NewSecret("hash-2", "pm_2", NOW, NOW))
    caches[0].drop()

    for cache in caches:
        assert (await cache.find("hash-1")).hash == "hash-2"


async def test_other_hints_make_nobody_forget():
    store = CountingStore()
    _clock, _learnt, (cache,) = await open_caches(store, 1)
    await cache.find("hash-1")
    store.hint("work")
    await cache.find("hash-1")

    assert store.asked == 1


async def test_an_answer_from_before_the_revocation_is_not_remembered_after_it():
    store = CountingStore()
    _clock, _learnt, (cache,) = await open_caches(store, 1)
    store.open.clear()
    asking = asyncio.create_task(cache.find("hash-1"))
    while not store.asked:
        await asyncio.sleep(0)
    await store.revoke_key("acme", "key_1", NOW)
    cache.drop()
    store.open.set()

    assert (await asking).revoked_at is None  # its question was there first
    assert (await cache.find("hash-1")).revoked_at == NOW


async def test_guesses_are_remembered_within_a_bound_and_drive_no_key_out():
    store = CountingStore()
    _clock, learnt, (cache,) = await open_caches(store, 1)
    await cache.find("hash-1")
    for number in range(ENTRIES_MAX + 1):
        assert await cache.find(f"guess-{number}") is None
    assert store.asked == ENTRIES_MAX + 2

    await cache.find("hash-1")
    await cache.find(f"guess-{ENTRIES_MAX}")
    assert store.asked == ENTRIES_MAX + 2
    await cache.find("guess-0")  # the oldest made room
    assert store.asked == ENTRIES_MAX + 3
    assert learnt == [a_key()]


async def test_a_guess_that_becomes_a_key_is_let_in_in_time():
    store = CountingStore()
    clock, _learnt, (cache,) = await open_caches(store, 1)
    assert await cache.find("hash-2") is None
    await store.add_key(a_key(2))

    clock.now_s += WITHIN_S
    assert await cache.find("hash-2") == a_key(2)
