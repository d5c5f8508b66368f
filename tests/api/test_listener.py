"""Connections that are slow or too many, over real sockets: they are cut off or told so, and nobody else notices."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from router.api.listener import LIMITS, Gate, Limits, Listener

PATIENT = Limits(head_s=60.0, body_window_s=60.0)
HASTY = Limits(head_s=0.05, body_window_s=0.05, body_bytes_per_s=1 << 20)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = 8 << 20


class Desk:
    """An application: `/` answers, `/read` reads the body, `/busy` reads it once it is `free`."""

    def __init__(self):
        self.free = asyncio.Event()
        self.busy = asyncio.Event()

    def application(self):
        app = web.Application(client_max_size=BIG * 2)
        app.router.add_get("/", self.answer)
        app.router.add_get("/busy", self.read_late)
        app.router.add_post("/read", self.read)
        app.router.add_post("/busy", self.read_late)
        return app

    async def answer(self, _request):
        return web.Response(text="hello")

    async def read(self, request):
        return web.Response(text=str(len(await request.read())))

    async def read_late(self, request):
        self.busy.set()
        await self.free.wait()
        return await self.read(request)


@asynccontextmanager
async def listening(limits):
    """A listener on a free port; gives its desk and a function that connects."""
    bound, desk, writers = socket.create_server(("127.0.0.1", 0)), Desk(), []
    port = bound.getsockname()[1]
    listener = await Listener.start(desk.application(), bound, close_s=5.0, limits=limits)

    async def connect(local="127.0.0.1"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
        writers.append(writer)
        return reader, writer

    try:
        async with asyncio.timeout(60):
            yield desk, connect
    finally:
        desk.free.set()
        for writer in writers:
            writer.close()
        await listener.close()


def post(path, size):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


async def answer_of(reader):
    """Status and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(beginning):
    async with listening(replace(PATIENT, head_s=0.05)) as (_desk, connect):
        reader, writer = await connect()
        writer.write(beginning)
        assert await reader.read() == b""


async def test_the_next_head_of_a_kept_connection_has_the_same_deadline():
    async with listening(replace(PATIENT, head_s=0.2)) as (_desk, connect):
        reader, writer = await connect()
        for _turn in range(2):
            writer.write(GET)
            assert await answer_of(reader) == (200, b"hello")
        writer.write(GET[:10])
        assert await reader.read() == b""


async def test_a_head_that_follows_too_soon_does_not_end_the_answer_under_way():
    async with listening(replace(PATIENT, head_s=0.05)) as (desk, connect):
        reader, writer = await connect()
        writer.write(GET.replace(b"GET /", b"GET /busy") + b"GET / ")
        await desk.busy.wait()
        writer.write(b"HT")
        slow, _its_writer = await connect()
        assert await slow.read() == b""  # a deadline has passed meanwhile
        desk.free.set()
        assert await answer_of(reader) == (200, b"0")


async def test_a_body_that_trickles_ends_the_connection():
    async with listening(replace(PATIENT, body_window_s=0.05)) as (_desk, connect):
        reader, writer = await connect()
        writer.write(post("/read", 1000) + b"x" * 10)
        assert await reader.read() == b""


async def test_a_body_that_comes_fast_and_then_stalls_ends_the_connection():
    async with listening(replace(PATIENT, body_window_s=0.2, body_bytes_per_s=1 << 10)) as (_desk, connect):
        reader, writer = await connect()
        writer.write(post("/read", BIG) + b"x" * (BIG - 1))
        assert await reader.read() == b""


async def test_a_body_that_is_whole_is_not_hurried_whatever_the_handler_does():
    async with listening(HASTY) as (desk, connect):
        reader, writer = await connect()
        writer.write(post("/busy", 10) + b"x" * 10)
        await desk.busy.wait()
        slow, _its_writer = await connect()
        assert await slow.read() == b""
        desk.free.set()
        assert await answer_of(reader) == (200, b"10")


async def test_a_body_that_we_do_not_read_is_not_late():
    async with listening(HASTY) as (desk, connect):
        reader, writer = await connect()
        writer.write(post("/busy", BIG) + b"x" * BIG)
        await desk.busy.wait()
        for _turn in range(3):
            slow, _its_writer = await connect()
            assert await slow.read() == b""
        desk.free.set()
        assert await answer_of(reader) == (200, str(BIG).encode())


async def test_a_connection_too_many_is_told_so_and_a_place_that_is_free_again_is_given():
    async with listening(replace(PATIENT, connections=2)) as (_desk, connect):
        first, its_writer = await connect()
        second, other_writer = await connect()
        for reader, writer in ((first, its_writer), (second, other_writer)):
            writer.write(GET)
            assert await answer_of(reader) == (200, b"hello")
        refused, _writer = await connect()
        status, body = await answer_of(refused)
        error = json.loads(body)["error"]
        assert (status, error["error_type"], error["code"]) == (503, "unavailable", "too_many_connections")
        assert (error["retryable"], error["billing"]) == (True, "not_billed")
        assert await refused.read() == b""

        its_writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
        await first.read()
        third, third_writer = await connect()
        third_writer.write(GET)
        assert await answer_of(third) == (200, b"hello")


async def test_one_address_cannot_take_every_place():
    limits = replace(PATIENT, connections_per_address=1, is_loopback_bound=True)
    async with listening(limits) as (_desk, connect):
        first, its_writer = await connect()
        its_writer.write(GET)
        assert await answer_of(first) == (200, b"hello")
        refused, _writer = await connect()
        assert (await answer_of(refused))[0] == 503
        other, other_writer = await connect("127.0.0.2")
        other_writer.write(GET)
        assert await answer_of(other) == (200, b"hello")


def test_an_address_has_64_places_of_1000_and_loopback_all_of_them():
    gate = Gate(LIMITS)
    assert [gate.admit("192.0.2.1") for _ in range(65)] == [True] * 64 + [False]
    gate.leave("192.0.2.1")
    assert gate.admit("192.0.2.1")
    assert [gate.admit("127.0.0.1") for _ in range(937)] == [True] * 936 + [False]
    assert not gate.admit("192.0.2.2")


async def test_closing_ends_idle_connections():
    async with listening(PATIENT) as (_desk, connect):
        reader, writer = await connect()
        writer.write(GET)
        await answer_of(reader)
    assert await reader.read() == b""
