"""Canned replies for the wire without a socket: aioresponses, made to work with aiohttp 3.14.

aioresponses 0.7.9 builds responses without the writer that aiohttp has wanted since 3.14, and a body reader too small
for pictures. It also goes round traces, timeouts and redirects, so it can show how replies and exceptions are told, and
nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock, patch

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aioresponses import aioresponses


class _CannedResponse(aiohttp.ClientResponse):
    def __init__(self, *args, **kwargs):
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


def _make_reader(loop):
    return aiohttp.StreamReader(Mock(spec=BaseProtocol, _reading_paused=False), limit=1 << 30, loop=loop)


@contextmanager
def canned() -> Iterator[aioresponses]:
    """Answer for every aiohttp session, as told on what this yields."""
    with (
        patch("aioresponses.core.ClientResponse", _CannedResponse),
        patch("aioresponses.core.stream_reader_factory", _make_reader),
        aioresponses() as replies,
    ):
        yield replies


def connection_key() -> aiohttp.client_reqrep.ConnectionKey:
    """Name a connection for the exceptions that want one."""
    return aiohttp.client_reqrep.ConnectionKey("provider.test", 443, True, True, None, None, None)
