"""Those who follow tasks: by link, from other origins, over WebSocket, too slow, too many; and a daemon that stops."""

import asyncio
import socket
from dataclasses import replace

from aiohttp import ClientSession, WSMsgType

from router.api import links
from router.api.stream import FOLLOWERS
from tests.api.following import BODY, ENDED, QUICK, Events, events_of, finish, following, listening, socketing, submit
from tests.api.house import ADMIN_KEY, Desk, open_house
from tests.daemons import running_daemon, write_routing
from tests.waiting import poll_until

KEYS = "/admin/v1/keys"

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
    quick = replace(QUICK, stall_s=0.2)
    long_words = {"prompt": "a cat " * 5_000, "size": "1024x1024"}
    async with open_house() as house, listening(house, quick) as (url, followers), ClientSession(url) as client:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            deaf.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await poll_until(lambda: followers.count == 1, "the deaf one to follow")
            async with client.get("/v1/events") as reply:
                told, events = 0, Events(reply)
                await events.block()
                while followers.count == 2:
                    await submit(house, input=long_words)
                    await events.until(ENDED)
                    told += 1
                    assert told < 500, "the deaf one is still there"

        assert told > 1


async def test_who_has_gone_is_noticed_and_leaves_nothing_behind():
    async with open_house(desk=Desk(is_open=False)) as house, listening(house, QUICK) as (url, followers):
        readers = len(house.life.runtime.bus.readers)
        task = await submit(house)
        async with ClientSession(url) as client:
            async with client.get(events_of(task)) as reply, client.ws_connect("/v1/events"):
                await Events(reply).next()
                await poll_until(lambda: followers.count == 2, "both to follow")
                assert len(house.life.runtime.bus.readers) == readers + 1
            await poll_until(lambda: followers.count == 0, "both to be noticed")
            assert len(house.life.runtime.bus.readers) == readers


async def test_a_stream_ends_when_its_key_is_revoked():
    async with open_house(auth=True, streams=QUICK) as house:
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        made = await (await house.client.post(KEYS, json={"name": "page", "tenant": "acme"}, headers=admin)).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        async with following(house, "/v1/events", **key) as events, socketing(house, "/v1/events", headers=key) as talk:
            await events.block()
            revoked = await house.client.post(f"{KEYS}/{made['id']}/revoke", headers=admin)
            assert revoked.status == 200
            assert await events.block() is None
            assert (await talk.receive()).type is WSMsgType.CLOSE


async def test_a_stream_is_counted_by_the_time_to_its_first_word():
    async with open_house() as house, listening(house, replace(QUICK, ping_s=0.05)) as (url, _followers):
        loop = asyncio.get_running_loop()
        async with ClientSession(url) as client, client.get("/v1/events") as reply:
            began_s, events = loop.time(), Events(reply)
            for _ in range(4):  # the opening, and as many pings as take a while
                await events.block()
            lasted_s = loop.time() - began_s
        await poll_until(lambda: house.exchanges, "the stream to be over")
        [(route, method, status, seconds)] = house.exchanges

        assert (route, method, status) == ("/v1/events", "GET", 200)
        assert seconds < lasted_s


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
