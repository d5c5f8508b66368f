"""`GET /v1/files/{id}/{n}`: result bytes by signed, expiring link, in ranges; no key and no row is needed. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from router.api import links
from router.api.auth import SERVICES
from router.api.errors import Refusal
from router.api.replies import request_id_of
from router.policy.media import sniff
from router.task import Error

CHUNK = 1 << 18
INLINE = ("image/", "video/", "audio/")


async def read(request: web.Request) -> web.StreamResponse:
    """Serve an object, whole or the one range that is asked for."""
    services = request.app[SERVICES]
    key = links.read_file_link(
        services.signing_secret,
        request.match_info["id"],
        request.match_info["n"],
        exp=request.query.get("exp", ""),
        sig=request.query.get("sig", ""),
        now_s=services.now() // 1000,
    )
    if key is None:
        raise Refusal(
            Error("forbidden", "The link is not valid or has expired; read the task for a new one.", "forbidden")
        )
    return await serve(request, key)


async def serve(request: web.Request, key: str, more: Mapping[str, str] | None = None) -> web.StreamResponse:
    """Answer with an object of the vault, whole or the range asked for; 404 when it is gone. `more`: headers."""
    vault = request.app[SERVICES].world.vault
    try:
        size = await vault.size(key)
        head = await vault.read(key, 0, 4096)
    except KeyError:
        raise Refusal(Error("not_found", "The file was removed.", "not_found")) from None
    media = sniff(head)
    content_type = media.content_type if media is not None else "application/octet-stream"
    span = _range_of(request, size)
    partial, (start, stop) = span is not None, span or (0, size)
    response = web.StreamResponse(
        status=206 if partial else 200, headers={**_headers(content_type, key), **(more or {})}
    )
    response.headers["X-Request-Id"] = request_id_of(request)
    response.content_type = content_type
    response.content_length = stop - start
    if partial:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    while start < stop:
        piece = await vault.read(key, start, min(CHUNK, stop - start))
        await response.write(piece)
        start += len(piece)
    await response.write_eof()
    return response


def _range_of(request: web.Request, size: int) -> tuple[int, int] | None:
    """Read the `Range` header into a half-open span of bytes, None where the whole file is meant (RFC 9110 section 14).

    416 when nothing of the range exists.
    """
    header = request.headers.get("Range", "")
    unit, _equals, spec = header.partition("=")
    if unit.strip().lower() != "bytes" or "," in spec or "-" not in spec:
        return None
    first, _dash, last = (part.strip() for part in spec.partition("-"))
    if not (first.isdecimal() or (not first and last.isdecimal())) or (last and not last.isdecimal()):
        return None
    if not first:
        start, stop = max(0, size - int(last[:18])), size
    else:
        start, stop = int(first[:18]), min(size, int(last[:18]) + 1) if last else size
    if start >= stop:
        error = Error("invalid_request", "The range lies outside the file.", "invalid_range")
        raise Refusal(error, status=416, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _headers(content_type: str, key: str) -> dict[str, str]:
    """Never let a browser guess or run what an upstream sent."""
    inline = content_type.startswith(INLINE)
    name = f"{key.replace('/', '-')}.{content_type.partition('/')[2]}" if inline else key.replace("/", "-")
    return {
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'{"inline" if inline else "attachment"}; filename="{name}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=3600",
        "Accept-Ranges": "bytes",
    }
