"""What nobody has collected is neither forgotten nor revived, whatever happens while the store is read or away."""

import asyncio

from router.flow.uncollected import KEPT_MAX, Uncollected
from router.persistence import Unavailable
from router.store.memory import MemoryStore
from tests.store.stage import NOW, a_task

TASK = a_task(1)
WHO = (TASK.tenant, TASK.digest)


class Slow(MemoryStore):
    """A store whose reads of these rows wait for the test, and whose writes fail while it is `away`."""

    def __init__(self):
        super().__init__(shared=True)
        self.asked, self.answer, self.away = asyncio.Event(), asyncio.Event(), False
        self.answer.set()

    async def uncollected(self, now, limit):
        rows = await super().uncollected(now, limit)
        self.asked.set()
        await self.answer.wait()
        return rows

    async def leave_uncollected(self, *said):
        if self.away:
            raise Unavailable
        await super().leave_uncollected(*said)


async def while_reading(known, store, step):
    store.asked.clear()
    store.answer.clear()
    reading = asyncio.create_task(known.refresh(NOW))
    await store.asked.wait()
    await step()
    store.answer.set()
    await reading


async def test_what_is_added_while_the_store_is_read_is_not_forgotten():
    store = Slow()
    known = Uncollected(store)
    await while_reading(known, store, lambda: known.add(TASK, NOW))

    assert known.holds(*WHO, NOW)


async def test_what_is_collected_while_the_store_is_read_is_not_revived():
    store = Slow()
    known = Uncollected(store)
    await known.add(TASK, NOW)
    await while_reading(known, store, lambda: known.collect(*WHO))

    assert not known.holds(*WHO, NOW)


async def test_what_could_not_be_written_is_kept_and_written_when_the_store_is_back():
    store = Slow()
    known, other = Uncollected(store), Uncollected(store)
    store.away = True
    await known.add(TASK, NOW)
    known.remember(a_task(2), NOW)
    store.away = False
    await known.refresh(NOW)
    await other.refresh(NOW)

    assert known.holds(*WHO, NOW)
    assert other.holds(*WHO, NOW)
    assert other.holds(TASK.tenant, a_task(2).digest, NOW)


async def test_what_another_daemon_gave_out_is_forgotten_here():
    store = Slow()
    known, other = Uncollected(store), Uncollected(store)
    await known.add(TASK, NOW)
    await known.refresh(NOW)
    await other.refresh(NOW)
    await other.collect(*WHO)
    await known.refresh(NOW)

    assert not known.holds(*WHO, NOW)


async def test_what_has_run_out_makes_room():
    known = Uncollected(MemoryStore())
    for number in range(KEPT_MAX):
        known.remember(a_task(number), NOW)
    later = NOW + 48 * 3_600_000
    known.remember(a_task(KEPT_MAX), later)

    assert known.holds(TASK.tenant, a_task(KEPT_MAX).digest, later)
