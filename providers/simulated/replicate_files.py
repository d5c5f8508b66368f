"""The uploaded files of the simulated Replicate: what came, by its size and checksums; the bytes themselves are not
kept.

An input names a file by the address of its description, `urls.get`, as the SDK does. It knows neither predictions nor
prices.
Source: the provider file of Replicate, section 2; field names as the SDK's `File` has them.
"""

import datetime as dt
import hashlib
import json
import re
from collections import OrderedDict
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from providers.simulated.workshop import Workshop

FILE_BYTES = 100 * 1024 * 1024
FILES_KEPT = 1000
LIFETIME_S = 24 * 3600.0
"""How long a file is kept; the provider file leaves it open."""


class Files:
    """The account's files, the oldest forgotten first."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._count = 0

    async def upload(self, request: web.Request) -> web.Response:
        """POST /v1/files: the part `content`, and `metadata` as JSON if it came."""
        try:
            described = await self._read_form(request)
        except (ValueError, AssertionError, RuntimeError, HttpProcessingError):  # what aiohttp raises for bad forms
            return web.json_response({"detail": "The form could not be parsed."}, status=400)
        if isinstance(described, str):
            return web.json_response({"detail": described}, status=400)
        self._kept[described["id"]] = described
        while len(self._kept) > FILES_KEPT:
            self._kept.popitem(last=False)
        self._workshop.describe(request, body={"content": described["name"], "size": described["size"]})
        return web.json_response(described, status=201)

    async def show(self, request: web.Request) -> web.Response:
        """GET /v1/files/{id}."""
        described = self._kept.get(request.match_info["id"])
        return _missing() if described is None else web.json_response(described)

    async def list_all(self, request: web.Request) -> web.Response:
        """GET /v1/files: one page, the newest first."""
        return web.json_response({"previous": None, "next": None, "results": list(reversed(self._kept.values()))})

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/files/{id}."""
        return _missing() if self._kept.pop(request.match_info["id"], None) is None else web.Response(status=204)

    async def _read_form(self, request: web.Request) -> dict[str, Any] | str:
        described: dict[str, Any] | None = None
        metadata: Any = None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                return "The form must not be nested."
            if part.name == "content":
                described = await self._take(request, part)
            elif part.name == "metadata":
                metadata = json.loads(await part.read_chunk(64 * 1024))
            else:
                await part.release()
        if described is None:
            return "The part 'content' is required and must not be larger than 100 MB."
        return described | {"metadata": metadata if isinstance(metadata, dict) else {}}

    async def _take(self, request: web.Request, part: BodyPartReader) -> dict[str, Any] | None:
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        while chunk := await part.read_chunk():
            size += len(chunk)
            sha256.update(chunk)
            md5.update(chunk)
        if size > FILE_BYTES:
            return None
        self._count += 1
        now_ms, scale = self._workshop.options.now_ms(), self._workshop.options.time_scale
        seeded = f"{self._workshop.slug}/{self._workshop.options.seed}/file/{self._count}"
        file_id = hashlib.sha256(seeded.encode()).hexdigest()[:52]
        name = re.sub(r"[^\w. -]", "_", part.filename or "file")[:200]
        return {
            "id": file_id,
            "name": name,
            "content_type": part.headers.get("Content-Type", "application/octet-stream"),
            "size": size,
            "etag": md5.hexdigest(),
            "checksums": {"sha256": sha256.hexdigest(), "md5": md5.hexdigest()},
            "created_at": write_instant(now_ms),
            "expires_at": write_instant(now_ms + int(LIFETIME_S * scale * 1000)),
            "urls": {"get": f"{request.scheme}://{request.host}/v1/files/{file_id}"},
        }


def write_instant(at_ms: int) -> str:
    """Milliseconds since the epoch as the vendor writes an instant, such as `2026-01-01T00:00:00.000Z`."""
    moment = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def _missing() -> web.Response:
    return web.json_response({"detail": "The requested resource could not be found."}, status=404)
