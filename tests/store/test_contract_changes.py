"""What has changed, in every engine: in which order it is listed, and that only its tenant is told."""

import pytest

from router.changes import VERSIONS_MAX
from tests.store.stage import LATER, NOW, Cast, a_task, deliver


async def test_what_was_moved_is_listed_in_order_page_by_page_and_only_to_its_tenant(store):
    cast = Cast(store)
    for number in range(5):
        await cast.admit(a_task(number, created_at=NOW + number // 2, updated_at=NOW + number // 2))
    await cast.admit(a_task(9, tenant="globex"))
    moved = await cast.succeed(a_task(7), move=deliver(at=LATER))
    found = await store.changed("acme", (0, ""), 100)

    assert [(int(one.task_id[5:], 16), one.version) for one in found] == [*((n, 1) for n in range(5)), (7, 3)]
    assert found[-1].updated_at == moved.updated_at == LATER
    assert await store.changed("acme", (0, ""), 2) == found[:2]
    for at, one in enumerate(found):  # some were moved in the same millisecond: the id decides
        assert await store.changed("acme", (one.updated_at, one.task_id), 100) == found[at + 1 :]
    assert await store.changed("acme", (LATER, moved.id), 100) == ()
    assert [one.task_id for one in await store.changed("globex", (0, ""), 100)] == [a_task(9).id]


async def test_the_versions_of_tasks_are_told_to_their_tenant_alone(store):
    cast = Cast(store)
    moved, waiting = await cast.succeed(a_task(1)), await cast.admit(a_task(2))
    other = await cast.admit(a_task(3, tenant="globex"))
    asked = [waiting.id, moved.id, moved.id, other.id, "task_nobody"]
    found = await store.versions("acme", asked)

    assert [(one.task_id, one.version, one.updated_at) for one in found] == [
        (moved.id, 3, LATER),
        (waiting.id, 1, waiting.updated_at),
    ]
    assert await store.versions("acme", []) == ()
    with pytest.raises(ValueError, match="33 tasks"):
        await store.versions("acme", ["task"] * (VERSIONS_MAX + 1))
