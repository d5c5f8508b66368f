"""The one way to a URL that somebody else chose: results, image inputs, and the callbacks that webhooks go to.

Owns the judgement of such URLs, the guarded fetch and the guarded post (reliability-security section 7). The guard
stands where it cannot be talked round: at the moment of connecting, on the address itself, for every hop. Names and
rebinding resolvers end there; a literal address, in any spelling, ends before. Redirects of a fetch are followed by
hand, each one judged anew, those of a post not at all. Nothing of ours is sent along: no cookies, no proxy, and a
provider's key only to that provider's own origin; and no word of an answer gets into an error. Each connection is used
once, since a pooled one was judged for another URL. Knows nothing of media types, tasks or stores. Floor 3.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import aiohttp
from yarl import URL

from router.outbox import Posted, PostFailed, TryResult
from router.world import NO_HEADERS, FetchBroken, Fetched, FetchFailed

URL_MAX_CHARS = 2048
REDIRECTS_MAX = 3
PORTS = frozenset({80, 443, 8443})
CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 30.0
OUTERMOST_BYTES = 4 << 30


class GuardedFetcher:
    """The `Fetcher` of a running daemon. Needs no closing: it keeps no connection.

    `max_bytes` is the outermost bound; who reads a body sets a tighter one by what it is. `concurrency` bounds the
    fetches under way, from here to the end of their bodies. `idle_timeout_s` is the longest wait for the next byte.
    """

    def __init__(
        self,
        allow: FetchAllow,
        *,
        max_bytes: int = OUTERMOST_BYTES,
        concurrency: int = 64,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._allow = allow
        self._max_bytes = max_bytes
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._room = asyncio.Semaphore(concurrency)

    @asynccontextmanager
    async def open(
        self, url: str, allowed_origin: str | None, timeout_s: float, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Fetched | FetchFailed]:
        """Connect, follow redirects and read the head; the body is bounded by the same `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self._room)
                    answer = await self._follow(stack, url, allowed_origin, deadline, headers)
            except TimeoutError:
                answer = FetchFailed("timed out before an answer", gone=False)
            yield answer

    async def _follow(
        self, stack: AsyncExitStack, url: str, allowed_origin: str | None, deadline: float, headers: Mapping[str, str]
    ) -> Fetched | FetchFailed:
        for _ in range(1 + REDIRECTS_MAX):
            aim = judge(url, self._allow, allowed_origin)
            if isinstance(aim, Refusal):
                return FetchFailed(f"refused: {aim.reason}", gone=True)
            async with AsyncExitStack() as hop:
                own = allowed_origin is not None and _origin_of(aim.url) == _origin_of(URL(allowed_origin))
                response = await self._get(hop, aim, headers if own else NO_HEADERS)
                if isinstance(response, FetchFailed):
                    return response
                if response.status not in _REDIRECTS:
                    stack.push_async_exit(hop.pop_all())
                    return self._take(response, deadline)
                target = _redirect_of(aim, response)
                if target is None:
                    return FetchFailed("refused: a redirect to nowhere", gone=True)
                url = target
        return FetchFailed(f"refused: more than {REDIRECTS_MAX} redirects", gone=True)

    async def _get(
        self, hop: AsyncExitStack, aim: Aim, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse | FetchFailed:
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s, sock_read=self._idle_timeout_s)
        session = await hop.enter_async_context(_open_session(aim, self._allow, timeout))
        try:
            return await hop.enter_async_context(session.get(aim.url, headers=headers, allow_redirects=False))
        except aiohttp.ClientConnectorError as broken:
            if isinstance(broken.os_error, _AddressRefused):
                return FetchFailed("refused: not a public address", gone=True)
            return FetchFailed("could not connect", gone=False)
        except aiohttp.InvalidURL:
            return FetchFailed("refused: not a URL", gone=True)
        except (aiohttp.ClientError, TimeoutError) as broken:
            return FetchFailed(f"no answer ({type(broken).__name__})", gone=False)

    def _take(self, response: aiohttp.ClientResponse, deadline: float) -> Fetched | FetchFailed:
        if response.status != 200:
            # 408, 425 and 429 pass; any other 4xx is what an expired or withdrawn link looks like (403, 404, 410; 400).
            gone = 400 <= response.status < 500 and response.status not in {408, 425, 429}
            return FetchFailed(f"HTTP {response.status}", gone=gone)
        encoded = "Content-Encoding" in response.headers
        length = None if encoded else response.content_length
        if length is not None and length > self._max_bytes:
            return FetchFailed(f"larger than {self._max_bytes} bytes", gone=True)
        return _Arriving(response, length, self._max_bytes, deadline)


class GuardedPoster:
    """The `Poster` of a running daemon: one connection for each post, guarded as a fetch is, no redirect followed."""

    def __init__(self, allow: FetchAllow, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._allow = allow
        self._connect_timeout_s = connect_timeout_s

    async def __call__(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Posted | PostFailed:
        """Post and read the head of the answer; what stands in its body is nobody's business."""
        aim = judge(url, self._allow)
        if isinstance(aim, Refusal):
            return PostFailed(TryResult.REFUSED, f"refused: {aim.reason}")
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, self._connect_timeout_s))
        try:
            async with (
                asyncio.timeout(timeout_s),
                _open_session(aim, self._allow, timeout) as session,
                session.post(aim.url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return Posted(answer.status, answer.headers.get("Retry-After"))
        except aiohttp.ClientConnectorError as broken:
            if isinstance(broken.os_error, _AddressRefused):
                return PostFailed(TryResult.REFUSED, "refused: not a public address")
            return PostFailed(TryResult.UNREACHABLE, "could not connect")
        except TimeoutError:
            return PostFailed(TryResult.TIMED_OUT, "no answer in time")
        except (aiohttp.ClientError, ValueError) as broken:
            return PostFailed(TryResult.UNREACHABLE, f"no answer ({type(broken).__name__})")


class _Arriving:
    """A body on its way. Its pieces are counted after decompression."""

    def __init__(self, response: aiohttp.ClientResponse, length: int | None, max_bytes: int, deadline: float) -> None:
        self.content_type = response.content_type
        self.length = length
        self._content = response.content
        self._max_bytes = max_bytes
        self._deadline = deadline

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces; `FetchBroken` when it ends early, stalls, outlasts the time or outgrows the bound."""
        size = 0
        while True:
            try:
                # Timed read by read, so that no timeout ever strikes while the reader is busy with a piece.
                async with asyncio.timeout_at(self._deadline):
                    piece = await self._content.readany()
            except TimeoutError as late:
                raise FetchBroken("timed out within the body") from late
            except aiohttp.ClientError as broken:
                raise FetchBroken("the body ended early") from broken
            if not piece:
                return
            size += len(piece)
            if size > self._max_bytes:
                raise FetchBroken(f"larger than {self._max_bytes} bytes")
            yield piece


# -- what the operator allows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchAllow:
    """The setting FETCH_ALLOW, parsed: networks and host:port pairs that may be reached, http included (contract 4)."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    hosts: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> FetchAllow | tuple[str, ...]:
        """Read entries separated by commas or spaces; instead of a value, every problem with the entry that has it.

        An entry is a network (10.0.0.0/8, fd00::/8), an address, or host:port ([::1]:9000 for IPv6).
        """
        networks: list[IPv4Network | IPv6Network] = []
        hosts: set[tuple[str, int]] = set()
        problems: list[str] = []
        for entry in text.replace(",", " ").split():
            try:
                networks.append(ip_network(entry))
                continue
            except ValueError as not_a_network:
                if "/" in entry:
                    problems.append(f"{entry!r}: {not_a_network}")
                    continue
            pair = _HOST_AND_PORT.fullmatch(entry)
            if pair is None or not 0 < int(pair["port"]) < 65536:
                problems.append(f"{entry!r}: neither a network (10.0.0.0/8) nor host:port (storage.lan:9000)")
                continue
            hosts.add((_plain_host(pair["host"]), int(pair["port"])))
        return tuple(problems) if problems else cls(tuple(networks), frozenset(hosts))


_HOST_AND_PORT = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?):(?P<port>[0-9]{1,5})"
)


# -- the judgement ----------------------------------------------------------------------------------------------------


class Reach(Enum):
    """Which addresses a URL may lead to."""

    PUBLIC = "public"
    """Public ones, and networks of FETCH_ALLOW."""
    LISTED = "listed"
    """Networks of FETCH_ALLOW only: the URL is plain http or names an unusual port."""
    ANY = "any"
    """Any: the operator named this very host and port, in FETCH_ALLOW or as the provider's base_url."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A URL whose form is in order, and where it may lead. The addresses are judged when connecting."""

    url: URL
    reach: Reach


@dataclass(frozen=True, slots=True)
class Refusal:
    """A URL that is not fetched. The reason repeats nothing of it."""

    reason: str


def judge(text: str, allow: FetchAllow, allowed_origin: str | None = None) -> Aim | Refusal:
    """Judge the form of a URL (reliability-security 7.1); an address in it is judged at once.

    `allowed_origin` is scheme://host:port of the provider's base_url, None when no provider vouches for the URL.
    """
    url = _parse(text)
    if isinstance(url, Refusal):
        return url
    here = _origin_of(url)
    if (here[1], here[2]) in allow.hosts or (allowed_origin is not None and here == _origin_of(URL(allowed_origin))):
        return Aim(url, Reach.ANY)
    reach = Reach.PUBLIC if url.scheme == "https" and url.port in PORTS else Reach.LISTED
    if reach is Reach.LISTED and not allow.networks:
        return Refusal("not https on a usual port")
    literal = _address_in(here[1])
    if literal is None or permits(str(literal), reach, allow):
        return Aim(url, reach)
    return Refusal("not a public address")


def refusal_of(text: str, allow: FetchAllow) -> str | None:
    """Why a URL of a caller is not used, None when it may be; nothing is looked up or connected for it."""
    aim = judge(text, allow)
    return aim.reason if isinstance(aim, Refusal) else None


def permits(address: str, reach: Reach, allow: FetchAllow) -> bool:
    """Decide on a numeric address, as a resolver or a URL gave it."""
    if reach is Reach.ANY:
        return True
    ip = ip_address(address.partition("%")[0])
    # An IPv4 address in IPv6 clothes counts as itself for the operator's list, and as not public otherwise.
    plain = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
    if any(plain in network for network in allow.networks):
        return True
    return reach is Reach.PUBLIC and _is_public(ip)


def _parse(text: str) -> URL | Refusal:
    if len(text) > URL_MAX_CHARS:
        return Refusal(f"longer than {URL_MAX_CHARS} characters")
    # yarl drops some control characters silently; nothing may mean one thing here and another on the wire.
    if not text.isprintable() or " " in text or "\\" in text or "#" in text:
        return Refusal("a space, a backslash, a fragment or a control character")
    try:
        # ASCII is taken as it is, since requoting would break signatures; the rest has to be encoded.
        url = URL(text, encoded=text.isascii())
        host, port = url.raw_host, url.port
    except ValueError:
        return Refusal("not a URL")
    if url.scheme not in {"http", "https"} or not host:
        return Refusal("neither http nor https")
    if url.raw_user is not None or url.raw_password is not None:
        return Refusal("user information")
    if not _HOST.fullmatch(host) or not port:
        return Refusal("not a host")
    return url


_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")


def _address_in(host: str) -> IPv4Address | IPv6Address | None:
    """Read a literal address in any spelling that a resolver would take: 127.1, 0x7f000001, 017700000001."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return ip_address(socket.inet_aton(host)) if _NUMBERS.fullmatch(host) else None
    except OSError:
        return None


def _origin_of(url: URL) -> tuple[str, str, int]:
    return url.scheme, _plain_host(url.raw_host or ""), url.port or 0


def _plain_host(host: str) -> str:
    """Write a host so that it can be compared: lower case, no brackets, no root dot, addresses in their short form."""
    bare = host.strip("[]").lower().rstrip(".")
    try:
        return str(ip_address(bare))
    except ValueError:
        return bare


# Not for the public, whatever the registry of their block says: the networks of RFC 6890 and its successors, relays
# that would unpack another address inside (6to4, Teredo, ORCHID), and one vendor's metadata service.
_CLOSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Only 2000::/3 is given out for the public Internet; all else (mapped, NAT64, ULA, link-local, multicast) is not.
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _CLOSED_V4)
    return ip in _OPEN_V6 and not any(ip in network for network in _CLOSED_V6)


# -- connecting -------------------------------------------------------------------------------------------------------

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _AddressRefused(OSError):  # noqa: N818 - it names what happened
    """The guard will not connect to this address."""


def _open_session(aim: Aim, allow: FetchAllow, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session for one exchange, which sends nothing of ours along and connects only to where the aim may lead."""
    guard = partial(_make_guarded_socket, aim.reach, allow)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=guard, force_close=True, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"User-Agent": "pointsman", "Accept": "*/*", "Accept-Encoding": "identity"},
        timeout=timeout,
    )


def _make_guarded_socket(reach: Reach, allow: FetchAllow, address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, where = address
    if family not in {socket.AF_INET, socket.AF_INET6} or not permits(str(where[0]), reach, allow):
        # One text for all, so that several refused addresses of one name stay recognisable as refused.
        raise _AddressRefused("refused by the guard")
    return socket.socket(family, kind, protocol)


def _redirect_of(aim: Aim, response: aiohttp.ClientResponse) -> str | None:
    location = response.headers.get("Location", "")
    if not location or not location.isprintable() or len(location) > URL_MAX_CHARS:
        return None
    try:
        return str(aim.url.join(URL(location, encoded=location.isascii())))
    except ValueError:
        return None
