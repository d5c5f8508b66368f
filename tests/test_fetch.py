"""The guarded fetch: what it brings, what it gives up, and that its guard lets nobody reach a listener that is not
allowed. Nothing but the loopback is ever connected to; the judgement alone is in test_fetch_judgement.
"""

import asyncio
import gzip
from contextlib import aclosing, asynccontextmanager

import pytest

from router.fetch import FetchAllow, GuardedFetcher
from router.world import FetchBroken, FetchFailed
from tests.loopback import answering, find_closed_port, http, serve
from tests.waiting import poll_until

SECRET = "canary-of-the-answer"


def allow(text):
    parsed = FetchAllow.parse(text)
    assert isinstance(parsed, FetchAllow), parsed
    return parsed


@asynccontextmanager
async def opened(url, allowed="127.0.0.0/8", origin=None, timeout_s=30.0, **limits):
    fetcher = GuardedFetcher(allow(allowed), **limits)
    async with fetcher.open(url, origin, timeout_s) as answer:
        yield answer


async def fetch(url, *args, **named):
    """Return what was fetched or why not."""
    async with opened(url, *args, **named) as answer:
        if isinstance(answer, FetchFailed):
            return answer
        try:
            async with aclosing(answer.chunks()) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except FetchBroken as broken:
            return broken


async def test_a_body_arrives_with_its_type_and_length():
    async with serve(answering(http(b"\x89PNG..."))) as peer, opened(f"{peer.url}/a") as answer:
        assert (answer.content_type, answer.length) == ("application/json", 7)
        assert b"".join([chunk async for chunk in answer.chunks()]) == b"\x89PNG..."


async def test_a_signed_url_is_sent_letter_by_letter_and_nothing_with_it():
    path = "/results/a%2Fb/%7Ec?se=2026-11-20T00%3A00%3A00Z&sig=%2Babc%2F~%3D&x=a+b"
    async with serve(answering(http(headers="Set-Cookie: session=1\r\n"))) as peer:
        await fetch(peer.url + path)
        await fetch(peer.url + path)

    for request in peer.requests:
        assert request.startswith(f"GET {path} HTTP/1.1\r\n".encode())
        names = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
        assert names == {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection"}


SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "[::ffff:127.0.0.1]",
    "①②⑦.⓪.⓪.①",
    "0.0.0.0",  # noqa: S104 - it is judged, not bound
    "0",
    "[::ffff:7f00:1]",
]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_a_closed_address_reaches_a_listener(host):
    # Another network is listed, so that plain http on any port passes the form and the guard alone decides.
    async with serve(answering(http())) as peer:
        failed = await fetch(f"http://{host}:{peer.port}/", "192.0.2.0/24")

        assert isinstance(failed, FetchFailed)
        assert failed.gone
        assert peer.connections == 0


async def test_a_redirect_to_a_closed_address_is_judged_and_not_followed():
    async with serve(answering(http())) as inside:
        answer = http(status="302 Found", headers=f"Location: {inside.url}/admin\r\n")
        async with serve(answering(answer)) as outside:
            failed = await fetch(outside.url, f"127.0.0.1:{outside.port}")

            assert isinstance(failed, FetchFailed)
            assert failed.gone
            assert (outside.connections, inside.connections) == (1, 0)


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:{}/",
        "file:///etc/passwd",
        "//user:secret@127.0.0.1:{}/",
        "http://localhost:{}/",
        "//0x7f.1:{}/",
    ],
)
async def test_each_hop_is_judged_by_the_same_rules(location):
    # All of them lead to a listener of ours, so that even a broken guard would reach nobody else.
    async with serve(answering(http())) as inside:
        moved = http(status="307 Moved", headers=f"Location: {location.format(inside.port)}\r\n")
        async with serve(answering(moved)) as outside:
            failed = await fetch(outside.url, f"127.0.0.1:{outside.port}")

        assert failed.gone
        assert failed.detail.startswith("refused: ")
        assert inside.connections == 0


async def test_a_relative_redirect_is_followed_without_cookies():
    async def script(request, writer):
        moved = request.startswith(b"GET /a/b ")
        headers = "Location: ../c?sig=%2B\r\nSet-Cookie: session=1; Path=/\r\n"
        writer.write(http(status="302 Found", headers=headers) if moved else http(b"here"))

    async with serve(script) as peer:
        assert await fetch(f"{peer.url}/a/b") == b"here"

    assert peer.requests[1].startswith(b"GET /c?sig=%2B HTTP/1.1\r\n")
    assert b"session" not in peer.requests[1]


async def test_a_key_goes_to_the_providers_own_origin_and_not_with_a_redirect_to_another():
    async with serve(answering(http(b"here"))) as elsewhere:
        moved = http(status="302 Found", headers=f"Location: {elsewhere.url}/c\r\n")
        async with serve(answering(moved)) as own:
            fetcher = GuardedFetcher(allow("127.0.0.0/8"))
            headers = {"Authorization": f"Bearer {SECRET}"}
            async with fetcher.open(f"{own.url}/a", own.url, 30, headers) as answer:
                assert b"".join([chunk async for chunk in answer.chunks()]) == b"here"
            async with fetcher.open(f"{elsewhere.url}/d", own.url, 30, headers) as answer:
                assert b"".join([chunk async for chunk in answer.chunks()]) == b"here"

    assert SECRET.encode() in own.requests[0]
    assert [SECRET.encode() in request for request in elsewhere.requests] == [False, False]


@pytest.mark.parametrize(("hops", "arrives"), [(3, True), (4, False)])
async def test_three_redirects_are_followed_and_no_more(hops, arrives):
    async def script(request, writer):
        left = int(request.split(b" ")[1].rpartition(b"/")[2])
        writer.write(http(status="301 Moved", headers=f"Location: /{left - 1}\r\n") if left else http(b"here"))

    async with serve(script) as peer:
        answer = await fetch(f"{peer.url}/{hops}")

    assert (answer == b"here") is arrives
    assert arrives or answer.gone
    assert len(peer.requests) == 4


async def test_a_redirect_to_nowhere_is_final():
    async with serve(answering(http(status="302 Found"))) as peer:
        assert (await fetch(peer.url)).gone


async def test_the_own_origin_of_a_provider_needs_no_permission():
    async with serve(answering(http(b"mine"))) as own, serve(answering(http())) as other:
        assert await fetch(f"{own.url}/x", "", f"{own.url}/v1") == b"mine"
        assert isinstance(await fetch(f"{other.url}/x", "", f"{own.url}/v1"), FetchFailed)

        assert other.connections == 0


async def test_a_connection_is_never_used_for_a_second_url():
    async with serve(answering(http(b"mine"))) as peer:
        fetcher = GuardedFetcher(allow(f"127.0.0.1:{peer.port}"))
        for _ in range(3):
            async with fetcher.open(peer.url, None, 30) as answer:
                assert [chunk async for chunk in answer.chunks()] == [b"mine"]

        assert peer.connections == 3


@pytest.mark.parametrize(
    ("status", "gone"),
    [
        *[(status, True) for status in (400, 401, 403, 404, 410)],
        *[(status, False) for status in (204, 304, 408, 425, 429, 500, 502, 503)],
    ],
)
async def test_a_status_says_whether_another_try_may_help_and_no_word_of_the_answer_is_told(status, gone):
    body = b"" if status in {204, 304} else SECRET.encode()
    answer = http(body, status=f"{status} {SECRET}", headers=f"X-Reason: {SECRET}\r\n")
    async with serve(answering(answer, close=True)) as peer:
        failed = await fetch(f"{peer.url}/{SECRET}?sig={SECRET}")

    assert failed == FetchFailed(f"HTTP {status}", gone)


async def test_what_cannot_be_connected_may_be_tried_again():
    assert (await fetch(f"http://127.0.0.1:{find_closed_port()}/")) == FetchFailed("could not connect", gone=False)


async def test_a_garbled_answer_may_be_tried_again_and_is_not_told():
    async with serve(answering(f"{SECRET} {SECRET}\r\n\r\n".encode(), close=True)) as peer:
        failed = await fetch(peer.url)

    assert not failed.gone
    assert SECRET not in failed.detail


async def stop(_request, writer):
    writer.write(http(b"abc", length=500))
    await asyncio.Event().wait()


async def trickle(_request, writer):
    writer.write(http(b"a", length=10_000))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


BREAKS = {
    "cut": (answering(http(b"abc", length=500), close=True), {}),
    "stalled": (stop, {"idle_timeout_s": 0.1}),
    "endless and slow": (trickle, {"timeout_s": 0.3}),
    "larger than announced": (
        answering(http(gzip.compress(bytes(50 << 20)), headers="Content-Encoding: gzip\r\n")),
        {"max_bytes": 1 << 20},
    ),
}


@pytest.mark.parametrize(("script", "limits"), BREAKS.values(), ids=BREAKS)
async def test_a_body_that_does_not_arrive_whole_is_broken(script, limits):
    async with serve(script) as peer:
        assert isinstance(await fetch(peer.url, **limits), FetchBroken)


async def test_a_body_announced_as_too_large_is_not_begun():
    async with serve(answering(http(b"abc", length=1 << 40))) as peer:
        failed = await fetch(peer.url, max_bytes=1000)

    assert failed == FetchFailed("larger than 1000 bytes", gone=True)


async def hang(_request, _writer):
    await asyncio.Event().wait()


@pytest.mark.parametrize("limits", [{"timeout_s": 0.1}, {"idle_timeout_s": 0.1}], ids=["whole", "idle"])
async def test_an_answer_that_does_not_come_may_be_tried_again(limits):
    async with serve(hang) as peer:
        failed = await fetch(peer.url, **limits)

    assert isinstance(failed, FetchFailed)
    assert not failed.gone


async def test_no_timeout_strikes_while_the_reader_is_busy_with_a_piece():
    async with serve(answering(http(b"abc"))) as peer, opened(peer.url, timeout_s=0.2) as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"abc"
        busy = asyncio.Event()
        asyncio.get_running_loop().call_later(0.4, busy.set)

        assert await busy.wait()


async def test_fetches_beyond_the_cap_wait_for_room_no_longer_than_their_time():
    async with serve(stop) as peer:
        fetcher = GuardedFetcher(allow("127.0.0.0/8"), concurrency=1)
        async with fetcher.open(peer.url, None, 60) as first:
            assert not isinstance(first, FetchFailed)
            async with fetcher.open(peer.url, None, 0.1) as second:
                assert isinstance(second, FetchFailed)
                assert not second.gone

            assert peer.connections == 1

        async with fetcher.open(peer.url, None, 60) as third:
            assert not isinstance(third, FetchFailed)


async def test_a_reader_that_leaves_early_closes_the_connection():
    async with serve(trickle) as peer:
        async with opened(peer.url) as answer:
            assert answer.length == 10_000

        assert await poll_until(lambda: peer.closed, "the far side to see the connection go") == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{find_closed_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{find_closed_port()}")
    async with serve(answering(http(b"direct"))) as peer:
        assert await fetch(peer.url) == b"direct"
