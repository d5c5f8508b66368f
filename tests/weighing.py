# ruff: noqa: T201 - this is a command: what it prints is its result
"""How much memory many large answers at once take, weighed in a process of its own: a command for `test_memory.py`.

`python -m tests.weighing serve COUNT BYTES FORM` answers POSTs with base64 and holds every last byte back until COUNT
requests are there; FORM is announced or chunked. `python -m tests.weighing weigh COUNT URL FOLDER` asks that many times
at once, stores what comes through wire, rehost and vault, and prints its figures as JSON.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from router.flow.rehost import store_outputs
from router.provider import Media, Reply, Request
from router.vault.local import LocalVault
from router.wire import Wire
from router.world import WallClock, World, seeded_dice
from tests.loopback import read_request

# A picture's head, a multiple of three bytes long, then anything.
HEAD = "iVBORw0KGgoAAAANSUhEUgAAACgAAAAeCAIAAADRv8uKAAAA"


async def serve(count: int, size: int, form: str) -> None:
    frame = b'{"created": 1, "data": [{"b64_json": "%s"}]}'
    body = frame % HEAD.encode().ljust(size - len(frame) + 2, b"A")
    head, tail = _frame(body, form)
    arrived = 0
    all_sent = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        await read_request(reader)
        writer.write(head)
        writer.write(memoryview(body)[:-1])
        await writer.drain()
        arrived += 1
        if arrived == count:
            all_sent.set()
        await all_sent.wait()
        writer.write(tail)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _frame(body: bytes, form: str) -> tuple[bytes, bytes]:
    """Return what goes before all but the last byte of the body, and the rest."""
    start = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if form == "announced":
        return f"{start}Content-Length: {len(body)}\r\n\r\n".encode(), body[-1:]
    chunked = f"{start}Transfer-Encoding: chunked\r\n\r\n{len(body) - 1:x}\r\n".encode()
    return chunked, b"\r\n1\r\n" + body[-1:] + b"\r\n0\r\n\r\n"


async def weigh(count: int, url: str, folder: Path) -> None:
    threads = ThreadPoolExecutor(2)

    async def offload(work):
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    vault = LocalVault(folder)
    wire = Wire(offload, vault.read)
    world = World(WallClock(), seeded_dice(1), wire, wire.listen, None, None, vault, offload, None)  # type: ignore[arg-type]

    async def ask(number: int) -> int:
        reply = await wire(Request("POST", url, {}, {"prompt": "a cat"}, max_reply_bytes=64 << 20), 120)
        assert isinstance(reply, Reply), reply
        media = Media(b64=reply.data["data"][0]["b64_json"])
        stored = await store_outputs(
            world, [media], key_prefix=f"task_{number}/1", allowed_origin=None, timeout_s=60, family="image"
        )
        assert isinstance(stored, tuple), stored
        return stored[0].bytes

    before = _status("VmRSS")
    stored = await asyncio.gather(*(ask(number) for number in range(count)))
    print(json.dumps({"before": before, "peak": _status("VmHWM"), "after": _status("VmRSS"), "stored": sum(stored)}))
    await wire.close()
    await vault.close()


def _status(name: str) -> int:
    """Read one figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", count, size, form]:
            asyncio.run(serve(int(count), int(size), form))
        case ["weigh", count, url, folder]:
            asyncio.run(weigh(int(count), url, Path(folder)))
