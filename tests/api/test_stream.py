"""Following tasks over SSE and WebSocket: what is told, when it ends, who may, and who is slow."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import ClientSession, WSMsgType

from router.api import links
from router.api.followers import StreamLimits
from router.api.stream import FOLLOWERS
from router.persistence import Unavailable
from router.store.memory import MemoryStore
from tests.api.house import ADMIN_KEY, Desk, open_house, ruleset
from tests.daemons import running_daemon, write_routing
from tests.store.stage import a_task
from tests.waiting import poll_until

BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "size": "1024x1024"}}
QUICK = StreamLimits(turn_s=0.02, hint_s=0.01, look_s=0.02)
ENDED = "task.succeeded"


class Moody(MemoryStore):
    """A store that can be away, and lose rows as retention does in the end."""

    is_away = False

    async def view(self, tenant, task_id):
        if self.is_away:
            raise Unavailable
        return await super().view(tenant, task_id)

    def has_ended(self, task_id):
        return self._tasks[task_id].is_terminal

    def lose(self, task_id):
        del self._tasks[task_id]


class Events:
    """The events of an SSE answer, one by one."""

    def __init__(self, reply):
        self.reply = reply

    async def block(self):
        """The lines of the next block, None at the end of the stream."""
        lines = []
        async with asyncio.timeout(60):
            while line := await self.reply.content.readline():
                if line == b"\n":
                    return lines
                lines.append(line.decode().rstrip("\n"))
        assert not lines, lines
        return None

    async def next(self):
        """The next event as (id, event, data), None at the end; comments and what carries no data are passed over."""
        while (lines := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
            if "data" in fields:
                assert list(fields) == ["id", "event", "data"]
                return fields["id"], fields["event"], json.loads(fields["data"])
        return None

    async def until(self, event):
        """The events up to one of this name."""
        seen = []
        while not seen or seen[-1][1] != event:
            seen.append(await self.next())
            assert seen[-1] is not None, f"the stream ended before {event}"
        return seen


@asynccontextmanager
async def following(house, path, status=200, **headers):
    """An open SSE answer."""
    async with house.client.get(path, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        assert reply.content_type == "text/event-stream"
        yield Events(reply)


@asynccontextmanager
async def socketing(house, path, **more):
    """An open WebSocket; a link may name the house too."""
    async with asyncio.timeout(60), house.client.ws_connect(path.removeprefix(house.url), **more) as talk:
        yield talk


async def submit(house, **more):
    reply = await house.client.post("/v1/tasks", json={**BODY, **more})
    assert reply.status == 202, await reply.text()
    return await reply.json()


async def finish(house):
    """A task that has succeeded."""
    reply = await house.client.post("/v1/tasks", json=BODY, headers={"Prefer": "wait=60"})
    task = await reply.json()
    assert task["status"] == "succeeded", task
    return task


def events_of(task):
    return f"/v1/tasks/{task['id']}/events"


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


# -- links ------------------------------------------------------------------------------------------------------------


async def test_the_link_of_a_task_needs_no_key_and_is_answered_to_any_origin():
    async with open_house(auth=True, streams=QUICK) as house:
        key = {"Authorization": f"Bearer {ADMIN_KEY}"}
        submitted = await house.client.post("/v1/tasks", json=BODY, headers={**key, "Prefer": "wait=60"})
        task = await submitted.json()
        url = task["events_url"]
        assert url.startswith(f"{house.url}/v1/tasks/{task['id']}/events?")
        async with following(house, url.removeprefix(house.url), Origin="https://shop.example") as events:
            assert events.reply.headers["Access-Control-Allow-Origin"] == "*"
            assert (await events.next())[2]["events_url"].startswith(f"{house.url}/v1/tasks/{task['id']}/events?")
        async with socketing(house, url, headers={"Origin": "https://shop.example"}) as talk:
            assert (await talk.receive_json())["event"] == ENDED

        without = await house.client.get(events_of(task))
        assert (without.status, "Access-Control-Allow-Origin" in without.headers) == (401, False)


async def test_a_link_stands_for_one_task_of_one_tenant_until_its_time_is_over():
    async with open_house() as house:
        task, other = await finish(house), await finish(house)
        secret, now_s = house.services.signing_secret, house.services.now() // 1000
        good = task["events_url"].removeprefix(house.url)
        forged = [
            good.replace(task["id"], other["id"]),
            good.replace("tenant=default", "tenant=globex"),
            good.replace("exp=", "exp=1"),
            good[:-1] + ("A" if good[-1] != "A" else "B"),
            links.events_link(secret, "", "default", task["id"], now_s - 1),
            f"{events_of(task)}?sig=",
        ]
        for path in forged:
            reply = await house.client.get(path)
            told = reply.status, reply.headers["Access-Control-Allow-Origin"], (await reply.json())["error"]["code"]
            assert told == (403, "*", "forbidden"), path
        assert int(good.partition("exp=")[2].partition("&")[0]) * 1000 <= house.services.now() + 86_400_000


async def test_a_browsers_page_from_elsewhere_may_not_follow_without_a_link():
    async with open_house() as house:
        task = await finish(house)
        for path in (events_of(task), "/v1/events"):
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": "https://evil.example"}
            reply = await house.client.get(path, headers=upgrade)
            assert (reply.status, (await reply.json())["error"]["code"]) == (403, "forbidden")
        async with socketing(house, events_of(task), headers={"Origin": house.url}) as talk:
            assert (await talk.receive_json())["event"] == ENDED


# -- WebSocket --------------------------------------------------------------------------------------------------------


async def test_a_socket_tells_the_same_and_closes_after_the_end():
    async with open_house(desk=Desk(is_open=False), streams=QUICK) as house:
        task = await submit(house)
        await poll_until(lambda: house.desk.jobs, "the paid call to be out")
        async with socketing(house, events_of(task)) as talk:
            running = await talk.receive_json()
            house.desk.open.set()
            ended = await talk.receive_json()
            closing = await talk.receive()
            assert (closing.type, talk.close_code) == (WSMsgType.CLOSE, 1000)

        assert [set(one) for one in (running, ended)] == [{"id", "event", "data"}] * 2
        assert [one["event"] for one in (running, ended)] == ["task.running", ENDED]
        assert ended["data"]["id"] == task["id"]
        async with socketing(house, events_of(task), params={"last_event_id": ended["id"]}) as t:
            assert (await t.receive()).type is WSMsgType.CLOSE  # nothing is newer
        async with socketing(house, events_of(task), params={"last_event_id": running["id"]}) as t:
            assert (await t.receive_json())["id"] == ended["id"]


async def test_a_socket_follows_all_tasks_too():
    async with open_house(streams=QUICK) as house, socketing(house, "/v1/events") as talk:
        task = await finish(house)
        while (told := await talk.receive_json())["event"] != ENDED:
            assert told["data"]["id"] == task["id"]
        assert told["id"].partition("-")[0].isdecimal()


# -- signs of life, and their absence ---------------------------------------------------------------------------------


async def test_a_stream_with_nothing_to_tell_gives_signs_of_life():
    async with open_house(desk=Desk(is_open=False), streams=replace(QUICK, ping_s=0.02)) as house:
        async with following(house, "/v1/events") as events:
            await events.block()
            assert [await events.block() for _ in range(3)] == [[": ping"]] * 3
        async with socketing(house, "/v1/events", autoping=False) as talk:
            assert (await talk.receive()).type is WSMsgType.PING


async def test_a_client_that_takes_nothing_is_cut_off_and_nobody_else_waits_for_it():
    async with open_house(desk=Desk(is_open=False), streams=replace(QUICK, stall_s=0.2)) as house:
        house.desk.open.set()
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop, server = asyncio.get_running_loop(), house.client.server
        await loop.sock_connect(deaf, (server.host, server.port))
        await loop.sock_sendall(deaf, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        followers = house.client.server.app[FOLLOWERS]
        await poll_until(lambda: followers.count == 1, "the deaf one to follow")
        long_words = {"prompt": "a cat " * 5_000, "size": "1024x1024"}
        async with following(house, "/v1/events") as events:
            told = 0
            while followers.count == 2:
                await submit(house, input=long_words)
                await events.until(ENDED)
                told += 1
                assert told < 500, "the deaf one is still there"
        deaf.close()

        assert told > 1


async def test_who_has_gone_is_noticed_and_leaves_nothing_behind():
    async with open_house(desk=Desk(is_open=False), streams=QUICK) as house:
        followers, readers = house.client.server.app[FOLLOWERS], len(house.life.runtime.bus.readers)
        task = await submit(house)
        async with following(house, events_of(task)), house.client.ws_connect("/v1/events"):
            assert (followers.count, len(house.life.runtime.bus.readers)) == (2, readers + 1)
        await poll_until(lambda: followers.count == 0, "both to be noticed")
        assert len(house.life.runtime.bus.readers) == readers


async def test_too_many_streams_are_refused_before_anything_is_read():
    async with open_house(streams=replace(QUICK, streams=3, streams_per_tenant=2)) as house:
        task = await finish(house)
        async with following(house, "/v1/events"), following(house, "/v1/events"):
            reply = await house.client.get(events_of(task))
            error = (await reply.json())["error"]
            assert (reply.status, error["error_type"], error["code"]) == (429, "rate_limited", "too_many_streams")
            assert "2 of yours" in error["message"]
            assert int(reply.headers["Retry-After"]) > 0
        followers = house.client.server.app[FOLLOWERS]
        await poll_until(lambda: followers.count == 0, "places to be free")
        async with following(house, events_of(task)) as events:
            assert (await events.next())[1] == ENDED


async def test_a_daemon_that_stops_lets_streams_go_at_once(tmp_path):
    write_routing(tmp_path)
    async with (
        running_daemon(tmp_path, auth="disabled") as daemon,
        ClientSession() as client,
        client.get(f"{daemon.url}/v1/events") as reply,
        client.ws_connect(f"{daemon.url}/v1/events") as talk,
    ):
        events = Events(reply)
        await events.block()
        stopping = asyncio.create_task(daemon.stop(30.0))
        assert await events.block() == [": closing"]
        assert await events.block() is None
        async with asyncio.timeout(60):
            assert (await talk.receive()).data == 1001
        await stopping
