"""The wire: what every kind of trouble is told as, and that nothing paid for is sent twice, leaked or held unbounded.

How replies and exceptions are told is shown with canned ones; time, sockets and bytes against a real loopback server.
"""

import asyncio
import gzip
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import orjson
import pytest

from router.provider import Broken, Reply, Request
from router.wire import Wire, make_socket
from tests.canned import canned, connection_key
from tests.loopback import answering, find_closed_port, http, reset, serve
from tests.waiting import poll_until

SECRET = "sk-secret-canary"
NO_FILES = {}
HEADERS = {"Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET}


async def inline(work):
    return work()


@asynccontextmanager
async def wired(offload=inline, files=NO_FILES, **limits):
    async def read_file(key):
        return files[key]

    wire = Wire(offload, read_file, **limits)
    try:
        yield wire
    finally:
        await wire.close()


def post(url, body=None, **more):
    return Request("POST", url, HEADERS, {"prompt": "a cat"} if body is None else body, **more)


def get(url, **more):
    return Request("GET", url, HEADERS, **more)


async def ask(script, request=post, *, reads=True, timeout_s=30.0, path="/v1", **limits):
    """Make one exchange with a server that follows the script."""
    more = {"max_reply_bytes": limits.pop("max_reply_bytes")} if "max_reply_bytes" in limits else {}
    async with serve(script, reads=reads) as peer, wired(**limits) as wire:
        return await wire(request(peer.url + path, **more), timeout_s)


# -- how replies and exceptions are told ------------------------------------------------------------------------------

URL = "https://provider.test/v1/images"

EXCEPTIONS = [
    (aiohttp.ClientConnectorError(connection_key(), OSError(111, "refused")), False, False),
    (aiohttp.ClientConnectorDNSError(connection_key(), OSError(-2, "unknown name")), False, False),
    (aiohttp.ClientConnectorSSLError(connection_key(), ssl.SSLError(1, "handshake")), False, False),
    (
        aiohttp.ClientConnectorCertificateError(connection_key(), ssl.SSLCertVerificationError(1, "expired")),
        False,
        False,
    ),
    (aiohttp.InvalidURL("nonsense"), False, False),
    (aiohttp.ConnectionTimeoutError("connect"), False, True),
    (aiohttp.ServerDisconnectedError(), True, False),
    (aiohttp.ClientOSError(104, "reset"), True, False),
    (aiohttp.ClientConnectionResetError("closing transport"), True, False),
    (aiohttp.ClientPayloadError("cut"), True, False),
    (aiohttp.ClientResponseError(None, (), status=400, message=SECRET), True, False),
    (aiohttp.SocketTimeoutError("read"), True, True),
    (aiohttp.ServerTimeoutError("read"), True, True),
    (TimeoutError(), True, True),
]


@pytest.mark.parametrize(("trouble", "sent", "timed_out"), EXCEPTIONS, ids=lambda case: type(case).__name__)
async def test_only_what_fails_while_connecting_is_unsent(trouble, sent, timed_out):
    with canned() as replies:
        replies.post(URL, exception=trouble)
        async with wired() as wire:
            broken = await wire(post(URL), 30)

    assert isinstance(broken, Broken)
    assert (sent, timed_out) == (broken.sent, broken.timed_out)
    assert broken.detail
    assert SECRET not in broken.detail


BODIES = [
    (b'{"data": [{"url": "https://x"}]}', {"data": [{"url": "https://x"}]}, True, ""),
    (b"[1, 2]", [1, 2], True, ""),
    (b"null", None, True, ""),
    (b"", None, False, ""),
    (b"<html>502 Bad Gateway</html>", None, False, "<html>502 Bad Gateway</html>"),
    (b'{"data": NaN}', None, False, '{"data": NaN}'),
    (b'{"cut": "of', None, False, '{"cut": "of'),
    (b"[" * 5000, None, False, "[" * 2000),
    ("€".encode() * 3000, None, False, "€" * 2000),
    (b"\xff\xfe", None, False, "��"),
]


@pytest.mark.parametrize(("body", "data", "is_json", "text"), BODIES, ids=range(len(BODIES)))
async def test_a_body_is_json_or_the_beginning_of_a_text(body, data, is_json, text):
    with canned() as replies:
        replies.post(URL, status=502, body=body, content_type="text/html", headers={"Retry-After": "7"})
        async with wired() as wire:
            reply = await wire(post(URL), 30)

    assert reply == Reply(502, reply.headers, data, text, is_json)
    assert reply.headers["retry-after"] == "7"


async def test_a_large_canned_body_is_read_whole():
    picture = "A" * 1_000_000
    with canned() as replies:
        replies.get(URL, body=orjson.dumps({"b64_json": picture}))
        async with wired() as wire:
            reply = await wire(get(URL), 30)

    assert reply.data == {"b64_json": picture}


# -- a real far side --------------------------------------------------------------------------------------------------


async def test_a_request_arrives_as_it_was_meant_and_the_answer_comes_back():
    answer = http(b'{"ok": true}', headers="X-Request-Id: r1\r\nVia: a\r\nVia: b\r\n")
    async with serve(answering(answer)) as peer, wired() as wire:
        reply = await wire(post(f"{peer.url}/v1/images?x=1"), 30)

    assert reply.status == 200
    assert reply.data == {"ok": True}
    assert reply.headers["x-request-id"] == "r1"
    assert reply.headers["via"] == "a, b"
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/images?x=1 HTTP/1.1\r\n")
    assert f"Authorization: Bearer {SECRET}".encode() in head
    assert b"Content-Type: application/json" in head
    assert orjson.loads(body) == {"prompt": "a cat"}


async def test_a_large_request_body_arrives_whole():
    picture = "A" * 3_000_000
    async with serve(answering(http())) as peer, wired() as wire:
        await wire(post(peer.url, {"image": picture}), 30)

    assert peer.requests[0].endswith(orjson.dumps({"image": picture}))


async def test_a_refusal_that_comes_before_the_request_is_through_is_heard():
    async def refuse(_request, writer):
        writer.write(http(b'{"error": "too large"}', status="413 Content Too Large"))
        await asyncio.Event().wait()

    async with serve(refuse, bodies=False) as peer, wired() as wire:
        reply = await wire(post(peer.url, {"image": "A" * 30_000_000}), 60)

    assert (reply.status, reply.data) == (413, {"error": "too large"})


async def test_a_get_has_no_body():
    async with serve(answering(http())) as peer, wired() as wire:
        await wire(get(peer.url), 30)

    assert peer.requests[0].endswith(b"\r\n\r\n")
    assert b"content-type" not in peer.requests[0].lower()


async def test_a_closed_port_is_unsent():
    async with wired() as wire:
        broken = await wire(post(f"http://127.0.0.1:{find_closed_port()}/"), 30)

    assert (broken.sent, broken.timed_out) == (False, False)


async def test_tls_to_a_plain_port_is_unsent():
    async with serve(answering(http(), close=True), reads=False) as peer, wired() as wire:
        broken = await wire(post(f"https://127.0.0.1:{peer.port}/"), 30)

    assert (broken.sent, broken.timed_out) == (False, False)


async def hang(_request, _writer):
    await asyncio.Event().wait()


@pytest.mark.parametrize(("timeout_s", "connect_timeout_s"), [(30, 0.1), (0.1, 30)], ids=["connect", "whole"])
async def test_a_handshake_that_never_ends_is_unsent(timeout_s, connect_timeout_s):
    async with serve(hang, reads=False) as peer, wired(connect_timeout_s=connect_timeout_s) as wire:
        broken = await wire(post(f"https://127.0.0.1:{peer.port}/"), timeout_s)

    assert (broken.sent, broken.timed_out) == (False, True)


async def close(_request, writer):
    writer.close()


async def abort(_request, writer):
    reset(writer)


@pytest.mark.parametrize(
    ("script", "reads"),
    [(close, True), (abort, True), (close, False), (abort, False)],
    ids=["closed", "reset", "closed at accept", "reset at accept"],
)
async def test_a_connection_lost_before_the_answer_leaves_the_outcome_open_and_is_not_repeated(script, reads):
    async with serve(script, reads=reads) as peer, wired() as wire:
        broken = await wire(post(peer.url), 30)

        assert (broken.sent, broken.timed_out) == (True, False)
        assert peer.connections == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

CUT = {
    "length": http(b'{"data": 1}', length=500),
    "chunked": CHUNKED + b"5\r\n[1,2,\r\n",
    "within the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no gzip at all": http(b"[1]", headers="Content-Encoding: gzip\r\n"),
}

GARBLED = {
    "a header of 200 KB": http(headers=f"X-Long: {'x' * 200_000}\r\n"),
    "50,000 headers": http(headers="".join(f"X-{n}: y\r\n" for n in range(50_000))),
    "two lengths": http(headers="Content-Length: 999\r\n"),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("answer", [*CUT.values(), *GARBLED.values()], ids=[*CUT, *GARBLED])
async def test_an_answer_that_is_cut_or_garbled_leaves_the_outcome_open(answer):
    broken = await ask(answering(answer, close=True))

    assert isinstance(broken, Broken)
    assert (broken.sent, broken.timed_out) == (True, False)


async def test_no_answer_in_time_leaves_the_outcome_open():
    broken = await ask(hang, timeout_s=0.2)

    assert (broken.sent, broken.timed_out) == (True, True)


async def test_the_first_byte_may_take_longer_than_a_pause_within_a_body():
    release = asyncio.Event()

    async def think(_request, writer):
        await release.wait()
        writer.write(http())

    asyncio.get_running_loop().call_later(0.5, release.set)
    reply = await ask(think, idle_timeout_s=0.05, connect_timeout_s=0.2)

    assert reply.data == {}


async def test_a_body_that_stops_halfway_is_given_up_long_before_the_timeout():
    async def stop(_request, writer):
        writer.write(http(b"[1,", length=500))
        await asyncio.Event().wait()

    broken = await ask(stop, timeout_s=3600, idle_timeout_s=0.1)

    assert (broken.sent, broken.timed_out) == (True, True)


async def test_a_body_that_trickles_for_ever_ends_with_the_timeout():
    async def trickle(_request, writer):
        writer.write(http(b"[", length=10_000))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    broken = await ask(trickle, timeout_s=0.3, idle_timeout_s=5)

    assert (broken.sent, broken.timed_out) == (True, True)


async def flood(_request, writer):
    writer.write(CHUNKED)
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


BOMB = gzip.compress(bytes(200 << 20), compresslevel=1)

OVERSIZED = {
    "announced": answering(http(b"[1]", length=1 << 30)),
    "endless": flood,
    "a gzip bomb": answering(http(BOMB, headers="Content-Encoding: gzip\r\n")),
}


@pytest.mark.parametrize("script", OVERSIZED.values(), ids=OVERSIZED)
async def test_a_body_stops_at_the_cap(script):
    broken = await ask(script, max_reply_bytes=1 << 20)

    assert isinstance(broken, Broken)
    assert (broken.sent, broken.timed_out) == (True, False)
    assert str(1 << 20) in broken.detail


async def test_a_compressed_answer_is_unpacked():
    reply = await ask(answering(http(gzip.compress(b'{"a": [1]}'), headers="Content-Encoding: gzip\r\n")))

    assert reply.data == {"a": [1]}


async def test_a_redirect_is_an_answer_and_nothing_is_sent_to_its_target():
    async with serve(answering(http())) as other:
        redirect = http(status="307 Temporary Redirect", headers=f"Location: {other.url}/\r\n")
        reply = await ask(answering(redirect))

        assert reply.status == 307
        assert other.connections == 0


async def test_cookies_are_not_kept():
    async with serve(answering(http(headers="Set-Cookie: session=1; Path=/\r\n"))) as peer, wired() as wire:
        await wire(get(peer.url), 30)
        await wire(get(peer.url), 30)

    assert len(peer.requests) == 2
    assert b"cookie" not in peer.requests[1].lower()


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{find_closed_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{find_closed_port()}")

    assert (await ask(answering(http()))).status == 200


async def test_each_paid_request_has_a_connection_of_its_own_and_polls_share_one():
    async with serve(answering(http())) as peer, wired() as wire:
        for request in (get, get, get):
            await wire(request(peer.url), 30)

        assert peer.connections == 1

        for request in (post, post, get):
            await wire(request(peer.url), 30)

        assert peer.connections == 3


async def test_a_server_that_drops_idle_connections_on_reuse_harms_no_paid_request():
    served = set()

    async def once(_request, writer):
        if writer in served:
            reset(writer)
        else:
            served.add(writer)
            writer.write(http())

    async with serve(once) as peer, wired() as wire:
        replies = [await wire(request(peer.url), 30) for request in (get, post, post, post)]

        assert [reply.status for reply in replies] == [200] * 4
        assert len(peer.requests) == 4


async def test_a_cancelled_call_lets_go_of_its_connection():
    async def keep_busy(_request, writer):
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(keep_busy) as peer, wired() as wire:
        call = asyncio.create_task(wire(post(peer.url), 60))
        await poll_until(lambda: peer.requests, "the request to arrive")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert await poll_until(lambda: peer.closed, "the far side to see the connection go") == 1


@pytest.mark.parametrize("announced", [True, False])
async def test_large_bodies_are_decoded_off_the_loop_and_one_at_a_time(announced):
    busy, most, threads = 0, 0, set()

    async def offload(work):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        result = await asyncio.get_running_loop().run_in_executor(None, partial(note_thread, work))
        busy -= 1
        return result

    def note_thread(work):
        threads.add(threading.get_ident())
        return work()

    body = orjson.dumps({"b64_json": "A" * 3_000_000})
    answer = http(body) if announced else CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with serve(answering(answer)) as peer, wired(offload) as wire:
        replies = await asyncio.gather(*(wire(post(peer.url), 60) for _ in range(5)))

    assert [len(reply.data["b64_json"]) for reply in replies] == [3_000_000] * 5
    assert most == 1
    assert threading.get_ident() not in threads


async def test_a_large_text_is_cut_and_not_kept():
    reply = await ask(answering(http(b"x" * 1_000_000)))

    assert not reply.is_json
    assert reply.text == "x" * 2000


async def test_a_reply_that_arrived_in_time_is_not_lost_to_slow_decoding():
    async def offload(work):
        await asyncio.sleep(0.4)
        return work()

    reply = await ask(answering(http(orjson.dumps("A" * 500_000))), timeout_s=0.3, offload=offload)

    assert reply.data == "A" * 500_000


def test_a_socket_probes_the_far_side_every_thirty_seconds():
    with make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 30
