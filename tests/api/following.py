"""The client's side of streams, for the tests: events of an SSE answer one by one, sockets, tasks to follow."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

from router.api.application import build
from router.api.followers import StreamLimits
from router.api.listener import Listener
from router.api.stream import FOLLOWERS
from router.persistence import Unavailable
from router.store.memory import MemoryStore

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


@asynccontextmanager
async def listening(house, streams):
    """The house behind the product's own listener, where nobody tells a handler that its client has gone."""
    bound, app = socket.create_server(("127.0.0.1", 0)), build(house.services, streams=streams)
    listener = await Listener.start(app, bound, close_s=5.0)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", app[FOLLOWERS]
    finally:
        await listener.close()


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
