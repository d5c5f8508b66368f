"""Following tasks over SSE: what is told, of one task and of all, by whichever daemon, and when it ends."""

from dataclasses import replace

import pytest

from router.store.memory import MemoryStore
from tests.api.following import ENDED, QUICK, Moody, events_of, finish, following, submit
from tests.api.house import Desk, open_house, ruleset
from tests.store.stage import a_task
from tests.waiting import poll_until

# -- one task ---------------------------------------------------------------------------------------------------------


async def test_a_stream_begins_with_the_task_as_it_is_and_closes_after_its_end():
    async with open_house(desk=Desk(is_open=False), streams=QUICK) as house:
        task = await submit(house)
        async with following(house, events_of(task)) as events:
            first = await events.next()
            house.desk.open.set()
            rest = await events.until(ENDED)
            after = await events.next()
        seen = [first, *rest]

        assert first[1] in {"task.pending", "task.running"}
        assert after is None
        assert [event for _id, event, _data in seen] == [f"task.{data['status']}" for _id, _event, data in seen]
        assert [int(id_) for id_, _event, _data in seen] == sorted({int(id_) for id_, _event, _data in seen})
        shown = await (await house.client.get(f"/v1/tasks/{task['id']}")).json()
        moving = {"events_url", "output_url", "output", "attempts"}  # links are signed anew
        assert {k: v for k, v in seen[-1][2].items() if k not in moving} == {
            k: v for k, v in shown.items() if k not in moving
        }


async def test_what_has_ended_already_is_told_once_and_the_stream_closes():
    async with open_house() as house:
        task = await finish(house)
        async with following(house, events_of(task)) as events:
            assert events.reply.headers["X-Task-Id"] == task["id"]
            assert [(await events.next())[1], await events.next()] == [ENDED, None]


async def test_who_comes_back_gets_what_is_newer_and_nothing_twice():
    async with open_house(desk=Desk(is_open=False), streams=QUICK) as house:
        task = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        async with following(house, events_of(task)) as events:
            running = await events.next()
        assert running[1] == "task.running"
        async with following(house, events_of(task), **{"Last-Event-ID": running[0]}) as events:
            house.desk.open.set()
            ended = await events.next()
        assert (ended[1], int(ended[0]) > int(running[0])) == (ENDED, True)
        async with following(house, f"{events_of(task)}?last_event_id={running[0]}") as events:
            again = await events.next()
        assert again[:2] == ended[:2]

        knows = await house.client.get(events_of(task), headers={"Last-Event-ID": ended[0]})
        assert (knows.status, await knows.read()) == (204, b"")  # an EventSource does not come back after this


@pytest.mark.parametrize("path", ["/v1/tasks/{id}/events", "/v1/events"])
async def test_an_id_that_no_stream_gives_is_refused_by_name(path):
    async with open_house() as house:
        task = await finish(house)
        reply = await house.client.get(path.format(**task), params={"last_event_id": "soon"})

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "last_event_id")


async def test_another_tenants_task_is_as_unknown_as_no_task():
    async with open_house() as house:
        await house.store.admit(a_task(tenant="globex"), ())
        bodies = []
        for task_id in (a_task().id, f"task_{77:032x}"):
            for headers in ({}, {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}):
                reply = await house.client.get(f"/v1/tasks/{task_id}/events", headers=headers)
                bodies.append((reply.status, {**(await reply.json())["error"], "request_id": ""}))

        assert bodies[0][0] == 404
        assert bodies == [bodies[0]] * 4


async def test_progress_and_place_in_the_queue_are_told_as_they_change():
    narrow = ruleset()
    narrow = replace(
        narrow, providers={name: replace(one, max_concurrency=1) for name, one in narrow.providers.items()}
    )
    async with open_house(narrow, desk=Desk(is_open=False), streams=QUICK) as house:
        first = await submit(house, provider={"only": ["one"]})
        await poll_until(lambda: house.desk.jobs, "the only place to be taken")
        waiting = [await submit(house, provider={"only": ["one"]}) for _ in range(2)]
        async with (
            following(house, events_of(first)) as running,
            following(house, events_of(waiting[1])) as queued,
        ):
            assert (await running.next())[1] == "task.running"
            house.life.runtime.live[first["id"]].progress = 40  # as an adapter's poll does
            _id, event, data = await running.next()
            assert (event, data["progress"], data["status"]) == ("task.progress", 40, "running")

            places = [(await queued.next())[2]["queue_position"]]
            while places[-1] != 1:
                places.append((await queued.next())[2]["queue_position"])
            await house.client.post(f"/v1/tasks/{waiting[0]['id']}/cancel")
            _id, event, data = await queued.next()
            assert (event, data["status"], data["queue_position"]) == ("task.progress", "pending", 0)


async def test_what_waits_has_an_eta_once_twenty_have_been_seen():
    narrow = ruleset()
    narrow = replace(
        narrow, providers={name: replace(one, max_concurrency=1) for name, one in narrow.providers.items()}
    )

    async def told(house, task):
        async with following(house, events_of(task)) as events:
            return (await events.next())[2]

    async with open_house(narrow, desk=Desk(is_open=False)) as house:
        only = {"provider": {"only": ["one"]}}
        early = [await submit(house, **only) for _ in range(24)]
        unknown = await told(house, early[-1])
        house.desk.open.set()
        async with following(house, events_of(early[-1])) as events:
            await events.until(ENDED)
        house.desk.open.clear()
        late = [await submit(house, **only) for _ in range(4)]
        known = await told(house, late[-1])

        assert (unknown["status"], unknown["eta_seconds"]) == ("pending", None)
        assert known["status"] == "pending"
        assert known["eta_seconds"] >= 0


async def test_a_stream_whose_row_is_deleted_ends():
    async with open_house(store=Moody(), streams=QUICK) as house:
        await house.store.admit(replace(a_task(tenant="default"), fence=99), ())  # nobody here drives it
        async with following(house, f"/v1/tasks/{a_task().id}/events") as events:
            assert (await events.next())[1] == "task.pending"
            house.store.lose(a_task().id)
            assert await events.next() is None


async def test_what_happens_while_the_store_is_away_is_told_when_it_is_back():
    async with open_house(desk=Desk(is_open=False), store=Moody(), streams=QUICK) as house:
        task = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        async with following(house, events_of(task)) as events:
            assert (await events.next())[1] == "task.running"
            house.store.is_away = True
            house.desk.open.set()
            await poll_until(lambda: house.store.has_ended(task["id"]), "the task to end")
            house.store.is_away = False
            assert (await events.next())[1] == ENDED


# -- all tasks --------------------------------------------------------------------------------------------------------


async def test_all_tasks_of_a_caller_are_told_from_now_on_and_nobody_elses():
    async with open_house(streams=QUICK) as house:
        before = a_task(5, tenant="default", fence=99)
        await house.store.admit(before, ())
        async with following(house, "/v1/events") as events:
            await house.store.admit(a_task(tenant="globex"), ())
            tasks = [await finish(house), await finish(house)]
            seen = [*await events.until(ENDED), *await events.until(ENDED)]
        ends = [data["id"] for _id, event, data in seen if event == ENDED]

        assert ends == [task["id"] for task in tasks]
        assert before.id not in {data["id"] for _id, _event, data in seen}
        assert {data["id"] for _id, _event, data in seen} == set(ends)


async def test_a_stream_of_all_tasks_goes_on_where_it_was_left():
    async with open_house(streams=QUICK) as house:
        async with following(house, "/v1/events") as events:
            opening = await events.block()
            [first_id] = [line.removeprefix("id: ") for line in opening if line.startswith("id: ")]
            one = await finish(house)
            last_id = (await events.until(ENDED))[-1][0]
        two = await finish(house)
        for given in (first_id, last_id):
            async with following(house, "/v1/events", **{"Last-Event-ID": given}) as events:
                seen = set()
                while two["id"] not in seen:
                    _id, event, data = await events.next()
                    assert event == ENDED
                    seen.add(data["id"])
            assert seen == {one["id"], two["id"]}  # what is only just older than the id may come again


async def test_what_is_committed_late_is_told_although_its_instant_has_passed():
    async with open_house(streams=QUICK) as house:

        async def admit(number, ago_ms):
            at = house.services.now() - ago_ms
            await house.store.admit(a_task(number, tenant="default", updated_at=at, fence=99), ())
            return a_task(number).id

        async with following(house, "/v1/events") as events:
            for number, ago_ms in ((1, 0), (2, 5_000)):
                task_id = await admit(number, ago_ms)
                last_id, _event, data = await events.next()
                assert data["id"] == task_id
        late = await admit(3, 9_000)
        async with following(house, "/v1/events", **{"Last-Event-ID": last_id}) as events:
            assert late in {(await events.next())[2]["id"] for _ in range(3)}


async def test_a_long_absence_is_made_up_for_page_by_page():
    async with open_house(streams=replace(QUICK, unread=5)) as house:
        began = house.services.now() - 5_000
        for number in range(120):
            await house.store.admit(
                a_task(number, tenant="default", created_at=began, updated_at=began + number // 7, fence=99), ()
            )
        async with following(house, f"/v1/events?last_event_id={began}-1") as events:
            seen = [(await events.next())[2]["id"] for _ in range(120)]

        assert seen == sorted(seen)
        assert len(set(seen)) == 120


# -- on any replica ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/tasks/{id}/events", "/v1/events"])
async def test_a_task_that_another_daemon_drives_is_told_from_its_row(path):
    store = MemoryStore(shared=True)
    async with (
        open_house(store=store, desk=Desk(is_open=False), replica="one") as driver,
        open_house(store=store, replica="two", streams=QUICK) as other,
    ):
        if path == "/v1/events":
            async with following(other, path) as events:
                task = await submit(driver)
                driver.desk.open.set()
                seen = await events.until(ENDED)
        else:
            task = await submit(driver)
            async with following(other, path.format(**task)) as events:
                first = await events.next()
                driver.desk.open.set()
                seen = [first, *await events.until(ENDED)]

        assert {data["id"] for _id, _event, data in seen} == {task["id"]}
        assert (len(driver.desk.jobs), other.desk.jobs) == (1, [])


async def test_a_cancel_by_another_daemon_is_told():
    store = MemoryStore(shared=True)
    async with (
        open_house(store=store, desk=Desk(is_open=False), replica="one", streams=QUICK) as driver,
        open_house(store=store, replica="two") as other,
    ):
        task = await submit(driver)
        async with following(driver, events_of(task)) as events:
            await other.client.post(f"/v1/tasks/{task['id']}/cancel")
            await events.until("task.cancelled")
            assert await events.next() is None
