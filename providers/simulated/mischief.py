"""The faults that live on the wire: a cut connection, silence, a body that breaks off or never ends, a proxy's web
page.

It carries out what the dial decided and decides nothing. Each function answers one request of an aiohttp server. None
of them outlives its client: the server cancels a handler whose connection is gone, and `closing` ends those that
would wait for ever.
"""

import asyncio

from aiohttp import web

from providers.simulated.faults import Fault, FaultKind

FLOOD_BYTES = 1024 * 1024 * 1024
"""Where a flood ends: far above every cap that a client may have."""
TRICKLE_BYTES = 1_000_000
"""Where an endless body ends, if nobody hangs up."""
CHUNK = b"A" * 65_536

_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>\n"
)


class NoAnswer(web.Response):
    """Stands for the answer of a request whose connection was cut; nothing of it reaches the client."""


def show_page(status: int, title: str) -> web.Response:
    """A web page in place of an API's answer, such as a proxy's 502 or a site's front page under 200."""
    return web.Response(status=status, text=_PAGE.format(title=title), content_type="text/html")


def cut(request: web.Request) -> NoAnswer:
    """Break the connection without a byte: the client sees a reset."""
    if request.transport is not None:
        request.transport.abort()
    return NoAnswer()


async def hold(request: web.Request, closing: asyncio.Event) -> NoAnswer:
    """Say nothing until the client goes away or the simulator closes."""
    await closing.wait()
    return cut(request)


async def truncate(request: web.Request, body: bytes, content_type: str) -> web.StreamResponse:
    """Promise the whole body by Content-Length, send half of it and close the connection."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(body) + 1)})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return NoAnswer()


async def trickle(
    request: web.Request, head: bytes, content_type: str, closing: asyncio.Event, every_s: float
) -> web.StreamResponse:
    """Send `head`, then one byte every `every_s` seconds."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    await response.write(head)
    for _ in range(TRICKLE_BYTES):
        if closing.is_set():
            break
        await response.write(b" ")
        await asyncio.sleep(every_s)
    return response


async def flood(request: web.Request, head: bytes, content_type: str, closing: asyncio.Event) -> web.StreamResponse:
    """Send `head`, then bytes as fast as the client takes them, up to `FLOOD_BYTES`."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    await response.write(head)
    for _ in range(FLOOD_BYTES // len(CHUNK)):
        if closing.is_set():
            break
        await response.write(CHUNK)
        await asyncio.sleep(0)
    return response


async def deliver(
    request: web.Request,
    fault: Fault | None,
    body: bytes,
    *,
    content_type: str,
    closing: asyncio.Event,
    scale: float,
) -> web.StreamResponse:
    """Answer 200 with this body, in the way that the fault says. Faults that are not of the wire deliver it whole."""
    match fault.kind if fault else None:
        case FaultKind.DROP:
            return cut(request)
        case FaultKind.HANG:
            return await hold(request, closing)
        case FaultKind.HTML:
            return show_page(200, "Welcome")
        case FaultKind.BAD_GATEWAY:
            return show_page(502, "502 Bad Gateway")
        case FaultKind.GATEWAY_TIMEOUT:
            return show_page(504, "504 Gateway Time-out")
        case FaultKind.TRUNCATED:
            return await truncate(request, body, content_type)
        case FaultKind.ENDLESS if fault:
            return await trickle(request, body[:-1], content_type, closing, fault.delay_s() * scale)
        case FaultKind.FLOOD:
            return await flood(request, body[:-1], content_type, closing)
        case _:
            return web.Response(body=body, headers={"Content-Type": content_type})
