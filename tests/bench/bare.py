"""The yardstick: the least that an aiohttp server with an aiohttp client can be, in one process.

Each POST is read, decoded, given another model, encoded, sent on over a kept connection, and its answer is decoded and
given back. No key, no queue, no store, no metrics. `python -m tests.bench.bare UPSTREAM` prints its port.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import aiohttp
import orjson
from aiohttp import web

BODY_MAX = 32 << 20
HEADERS = {"Authorization": "Bearer a-key", "Content-Type": "application/json"}


async def serve(upstream: str) -> None:
    """Relay to `upstream` (scheme, host and port) until the process is ended."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def relay(request: web.Request) -> web.Response:
            body = orjson.loads(await request.read())
            body["model"] = "another"
            data = orjson.dumps(body)
            async with session.post(upstream + request.path, data=data, headers=HEADERS) as answer:
                content = await answer.read()
                if answer.status == 200:
                    orjson.loads(content)
                return web.Response(status=answer.status, body=content, content_type="application/json")

        app = web.Application(client_max_size=BODY_MAX)
        app.router.add_post("/{path:.*}", relay)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
        await web.SockSite(runner, bound).start()
        print(bound.getsockname()[1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
