"""The wire with input files and streams: what goes out as multipart or in JSON, what is heard event by event."""

import asyncio
import base64
from contextlib import aclosing, asynccontextmanager
from email import message_from_bytes

import orjson
import pytest

from router.provider import Broken, Event, Inline, Part, Reply, Request, Role, Source
from router.wire import Wire
from tests.loopback import answering, http, serve

PICTURE = Source(Role.IMAGE, "task_1/in/0", content_type="image/png", size=9)
MASK = Source(Role.MASK, "task_1/in/1", content_type="application/octet-stream", size=4)
FILES = {"task_1/in/0": b"\x89PNG\r\n...", "task_1/in/1": b"mask"}
LARGE = bytes(range(256)) * 8192


async def inline(work):
    return work()


@asynccontextmanager
async def wired(files=FILES):
    async def read_file(key):
        return files[key]

    wire = Wire(inline, read_file)
    try:
        yield wire
    finally:
        await wire.close()


async def send(files=FILES, **body):
    async with serve(answering(http())) as peer, wired(files) as wire:
        reply = await wire(Request("POST", peer.url + "/v1", {"Authorization": "Bearer k"}, **body), 30)
    return reply, peer


def parts_of(request):
    head, _, body = request.partition(b"\r\n\r\n")
    kind = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-type:"))
    whole = message_from_bytes(kind + b"\r\n\r\n" + body)
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in whole.get_payload()
    ]


async def test_a_form_carries_texts_and_files_with_their_names_types_and_bytes():
    form = (Part("prompt", "a cät"), Part("image[]", PICTURE), Part("mask", MASK))
    _reply, peer = await send(form=form)

    assert parts_of(peer.requests[0]) == [
        ("prompt", None, "text/plain", "a cät".encode()),
        ("image[]", "image.png", "image/png", FILES["task_1/in/0"]),
        ("mask", "mask.bin", "application/octet-stream", b"mask"),
    ]


@pytest.mark.parametrize("content", [FILES["task_1/in/0"], LARGE], ids=["small", "large"])
async def test_a_file_inside_json_goes_out_as_base64_where_the_adapter_put_it(content):
    document = {"parts": [{"data": Inline(PICTURE, data_uri=False)}], "url": Inline(PICTURE), "n": 1}
    _reply, peer = await send({"task_1/in/0": content}, json=document)

    sent = orjson.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
    encoded = base64.b64encode(content).decode()
    assert sent == {"parts": [{"data": encoded}], "url": f"data:image/png;base64,{encoded}", "n": 1}


@pytest.mark.parametrize("body", [{"form": (Part("image", PICTURE),)}, {"json": {"image": Inline(PICTURE)}}])
async def test_a_request_whose_file_is_gone_is_not_sent(body):
    broken, peer = await send({}, **body)

    assert broken == Broken(sent=False, timed_out=False, detail="an input file is gone")
    assert peer.requests == []


# -- streams ----------------------------------------------------------------------------------------------------------


def event_stream(*, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n".encode()


def streaming(*pieces, held=False):
    """Send a stream in these pieces, then end it, or hold it without a word."""

    async def script(_request, writer):
        writer.write(event_stream())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if held:
            await asyncio.Event().wait()
        writer.close()

    return script


async def listen(script, *, timeout_s=30.0, idle_s=30.0):
    async with serve(script) as peer, wired() as wire:
        request = Request("POST", peer.url, {}, {"stream": True})
        async with wire.listen(request, timeout_s, idle_s) as answer:
            if isinstance(answer, Reply | Broken):
                return answer
            assert answer.status == 200
            async with aclosing(answer.events()) as events:
                return [event async for event in events]


STREAMS = {
    "one event": ([b'data: {"a": 1}\n\n'], [Event("message", {"a": 1})]),
    "a name": ([b"event: done\ndata: 7\n\n"], [Event("done", 7)]),
    "carriage returns": ([b"event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"], [Event("a", 1), Event("message", 2)]),
    "no space behind the colon": ([b"data:1\n\n"], [Event("message", 1)]),
    "comments and unknown fields": ([b": ping\n\nid: 5\nretry: 9\ndata: 1\n\n"], [Event("message", 1)]),
    "several lines of data": ([b'data: {"a":\ndata: 1}\n\n'], [Event("message", {"a": 1})]),
    "no JSON": ([b"data: [DONE]\n\n"], [Event("message", None, "[DONE]")]),
    "torn anywhere": ([b"da", b"ta: ", b'{"a"', b": 1}", b"\r", b"\n\r", b"\n"], [Event("message", {"a": 1})]),
    "no empty line at the end": ([b"data: 1\n\ndata: 2\n"], [Event("message", 1), Event("message", 2)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("pieces", "heard"), STREAMS.values(), ids=STREAMS)
async def test_events_are_heard_as_the_standard_has_them(pieces, heard):
    assert await listen(streaming(*pieces)) == heard


async def test_a_large_event_arrives_whole():
    encoded = base64.b64encode(LARGE)
    heard = await listen(
        streaming(b'data: "', *(encoded[at : at + 9999] for at in range(0, len(encoded), 9999)), b'"\n\n')
    )

    assert heard == [Event("message", encoded.decode())]


async def test_a_stream_that_is_cut_ends_with_a_word_that_says_so():
    async def cut(_request, writer):
        head = event_stream().replace(b"Connection: close", b"Transfer-Encoding: chunked")
        writer.write(head + b"9\r\ndata: 1\n\n\r\n40\r\ndata: 2")
        await writer.drain()
        writer.close()

    assert await listen(cut) == [
        Event("message", 1),
        Broken(sent=True, timed_out=False, detail="the stream was cut"),
    ]


async def test_a_stream_that_falls_silent_ends_after_the_time_between_bytes():
    heard = await listen(streaming(b"data: 1\n\n", held=True), idle_s=0.2)

    assert heard == [Event("message", 1), Broken(sent=True, timed_out=True, detail="the stream stopped")]


async def test_an_answer_that_is_no_stream_is_given_whole():
    reply = await listen(
        answering(http(b'{"error": "no"}', status="429 Too Many Requests", headers="Retry-After: 7\r\n"))
    )

    assert (reply.status, reply.data, reply.headers["retry-after"]) == (429, {"error": "no"}, "7")


async def test_a_server_that_does_not_answer_a_listener_in_time_leaves_the_outcome_unknown():
    async def silent(_request, _writer):
        await asyncio.Event().wait()

    broken = await listen(silent, timeout_s=0.2)

    assert (broken.sent, broken.timed_out) == (True, True)
