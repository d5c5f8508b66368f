"""multipart/form-data as it arrives (RFC 7578): the head of one part after the other, and its body in pieces.

Owns the wire form and the bounds of what is not a body: preamble, heads. Nothing is held but the piece at hand. What
the parts mean, and how many and how large they may be, stands in `multipart`; whatever is wrong with the form itself is
`BrokenForm`, whose text a caller may read. Floor 3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message

import aiohttp
from aiohttp import http_exceptions, web

PREAMBLE_MAX_BYTES = 4 << 10
HEAD_MAX_BYTES = 8 << 10
BOUNDARY_MAX_CHARS = 70  # RFC 2046 5.1.1
PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})


class BrokenForm(Exception):  # noqa: N818 - the text is what the caller is told
    """The body is not a form that can be read; `field` is the part where that was seen, None outside of parts."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Head:
    """What a part says of itself. `filename` None: a text field. `charset` is lower case, "" when it names none."""

    name: str
    filename: str | None
    charset: str


def boundary_of(content_type: str) -> bytes:
    """Read the boundary out of a Content-Type header."""
    boundary = _parsed(content_type, "Content-Type").get_param("boundary")
    if not isinstance(boundary, str) or not 1 <= len(boundary) <= BOUNDARY_MAX_CHARS or not boundary.isascii():
        raise BrokenForm(f"Content-Type must name a boundary of 1 to {BOUNDARY_MAX_CHARS} characters.", "Content-Type")
    return boundary.encode()


class FormReader:
    """The parts of one body: `head` for the next one, then all of `body`, and so on until `head` is None."""

    def __init__(self, content: aiohttp.StreamReader, boundary: bytes) -> None:
        self._content = content
        self._delimiter = b"\r\n--" + boundary
        # As if a line had ended before: so the first delimiter looks like all others.
        self._held = bytearray(b"\r\n")
        self._name: str | None = None
        self._begun = False

    async def head(self) -> Head | None:
        """Go to the next part; None at the end of the form."""
        if not self._begun:
            await self._skip_preamble()
        while len(self._held) < 2:
            await self._more()
        if self._held.startswith(b"--"):
            return None
        raw = await self._head_bytes()
        self._name = None
        head = _read_head(raw)
        self._name = head.name
        return head

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the part in pieces, none of them empty."""
        while (at := self._held.find(self._delimiter)) < 0:
            safe = len(self._held) - len(self._delimiter) + 1
            if safe > 0:
                piece = bytes(memoryview(self._held)[:safe])
                del self._held[:safe]
                yield piece
            await self._more()
        piece = bytes(memoryview(self._held)[:at])
        del self._held[: at + len(self._delimiter)]
        if piece:
            yield piece

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _skip_preamble(self) -> None:
        while (at := self._held.find(self._delimiter)) < 0:
            if len(self._held) > PREAMBLE_MAX_BYTES or not await self._receive():
                raise BrokenForm("The boundary that Content-Type names is not in the body.", "Content-Type")
        del self._held[: at + len(self._delimiter)]
        self._begun = True

    async def _head_bytes(self) -> bytes:
        while (at := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > HEAD_MAX_BYTES:
                break
            await self._more()
        if not 0 <= at <= HEAD_MAX_BYTES:
            raise BrokenForm(f"The head of a part is longer than {HEAD_MAX_BYTES} bytes, or has no end.")
        raw = bytes(memoryview(self._held)[:at])
        del self._held[: at + 4]
        return raw

    async def _more(self) -> None:
        if not await self._receive():
            raise BrokenForm("The form ends before its last boundary.", self._name)

    async def _receive(self) -> bool:
        """Wait for more; False at the end of the body."""
        try:
            piece = await self._content.readany()
        except (aiohttp.ClientPayloadError, web.RequestPayloadError, http_exceptions.BadHttpMessage):
            raise BrokenForm("The body is garbled on its way.", self._name) from None
        self._held += piece
        return bool(piece)


def _read_head(raw: bytes) -> Head:
    """Read Content-Disposition, and what else of a head matters."""
    try:
        rest_of_boundary, *lines = raw.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise BrokenForm("The head of a part is not UTF-8.") from None
    if rest_of_boundary.strip():
        raise BrokenForm("A boundary is not followed by a line end.")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    disposition = _parsed(headers.get("content-disposition", ""), "Content-Disposition")
    name = disposition.get_param("name", header="Content-Disposition")
    if disposition.get_content_disposition() != "form-data" or not isinstance(name, str) or not name:
        raise BrokenForm("Each part must say Content-Disposition: form-data with a name.")
    encoding = headers.get("content-transfer-encoding", "").lower()
    if encoding not in PLAIN_ENCODINGS:
        raise BrokenForm(f"{name} must come as it is, without a Content-Transfer-Encoding.", name)
    filename = disposition.get_param("filename", header="Content-Disposition")
    charset = _parsed(headers.get("content-type", ""), "Content-Type").get_param("charset")
    return Head(
        name=name,
        filename=filename if isinstance(filename, str) else None if filename is None else "",
        charset=charset.lower() if isinstance(charset, str) else "",
    )


def _parsed(value: str, header: str) -> Message:
    message = Message()
    message[header] = value
    return message
