"""The storage of fal: files that a caller uploads and then names in an input, by either way of the official client.

A token for the content network and the raw bytes, or an address to put the bytes to. It keeps the latest files up to a
bound and serves them without a key; it knows nothing of jobs. Uploads in parts (above 100 MB) are not simulated.
Source: the provider file of fal, section 8; the second way is that of its official client, 1.0.3.
"""

import hashlib
import hmac
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from providers.simulated.workshop import Workshop

KEPT_BYTES = 256 * 1024 * 1024
"""Bytes of uploaded files that one simulator keeps; the oldest go first."""
FILES_KEPT = 10_000
TOKEN_LIFETIME_S = 3600.0
"""The file does not tell how long a token lives."""

Admit = Callable[[web.Request], web.Response | None]


class Storage:
    """The uploaded files below `/files/uploads`. `admit` refuses a request without the account's key."""

    def __init__(self, workshop: Workshop, admit: Admit) -> None:
        self._workshop = workshop
        self._admit = admit
        self._secret = hashlib.sha256(f"fal/{workshop.options.seed}/storage".encode()).digest()
        self._files: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._count = 0

    def routes(self) -> tuple[web.RouteDef, ...]:
        """Token and upload, initiate and put, and the files themselves."""
        return (
            web.post("/storage/auth/token", self.issue_token),
            web.post("/files/upload", self.upload),
            web.post("/storage/upload/initiate", self.initiate),
            web.put("/files/uploads/{name}", self.put),
            web.get("/files/uploads/{name}", self.show),
        )

    def lacks(self, address: str, origin: str) -> bool:
        """Whether an address names a file of this storage that is not there."""
        prefix = f"{origin}/files/uploads/"
        return address.startswith(prefix) and address.removeprefix(prefix) not in self._files

    async def issue_token(self, request: web.Request) -> web.Response:
        """POST /storage/auth/token: a bearer token for the content network, which is this origin too."""
        denied = self._admit(request)
        if denied is not None:
            return denied
        options = self._workshop.options
        expires_ms = options.now_ms() + int(TOKEN_LIFETIME_S * options.time_scale * 1000)
        return web.json_response(
            {
                "token": f"{expires_ms}.{self._sign(str(expires_ms))}",
                "token_type": "Bearer",
                "base_url": f"{request.scheme}://{request.host}",
                "expires_at": datetime.fromtimestamp(expires_ms / 1000, UTC).isoformat(),
            }
        )

    async def upload(self, request: web.Request) -> web.Response:
        """POST /files/upload: raw bytes under the token of `issue_token`."""
        word, _, token = request.headers.get("Authorization", "").partition(" ")
        expires, _, signature = token.partition(".")
        genuine = word == "Bearer" and hmac.compare_digest(
            signature.encode(errors="replace"), self._sign(expires).encode()
        )
        if not genuine or int(expires) < self._workshop.options.now_ms():
            return web.json_response({"detail": "Invalid or expired token"}, status=401)
        name = self._name(request.headers.get("X-Fal-File-Name", "upload.bin"))
        return await self._keep(request, name, {"access_url": self._address(request, name)})

    async def initiate(self, request: web.Request) -> web.Response:
        """POST /storage/upload/initiate: the address to put the bytes to, and the one to name in an input."""
        denied = self._admit(request)
        if denied is not None:
            return denied
        try:
            asked = json.loads(await request.read())
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict) or not isinstance(asked.get("file_name"), str):
            return web.json_response({"detail": "file_name: Field required"}, status=422)
        name = self._name(asked["file_name"])
        address = self._address(request, name)
        return web.json_response({"upload_url": f"{address}?sig={self._sign(name)}", "file_url": address})

    async def put(self, request: web.Request) -> web.Response:
        """PUT to the address that `initiate` gave; its signature stands for the key."""
        name, signature = request.match_info["name"], request.query.get("sig", "")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._sign(name).encode()):
            return web.Response(status=403, text="signature does not match")
        return await self._keep(request, name, {})

    async def show(self, request: web.Request) -> web.Response:
        """GET one file, without a key."""
        kept = self._files.get(request.match_info["name"])
        if kept is None:
            return web.Response(status=404, text="not found")
        return web.Response(body=kept[1], headers={"Content-Type": kept[0]})

    async def _keep(self, request: web.Request, name: str, answer: dict[str, Any]) -> web.Response:
        try:
            content = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.json_response({"detail": "File too large"}, status=413)
        self._kept_bytes += len(content) - len(self._files.pop(name, ("", b""))[1])
        self._files[name] = (request.headers.get("Content-Type", "application/octet-stream"), content)
        while self._kept_bytes > KEPT_BYTES or len(self._files) > FILES_KEPT:
            _, (_, dropped) = self._files.popitem(last=False)
            self._kept_bytes -= len(dropped)
        return web.json_response(answer)

    def _name(self, file_name: str) -> str:
        self._count += 1
        stem = self._sign(f"name/{self._count}")[:16]
        return f"{stem}_{re.sub(r'[^A-Za-z0-9._-]', '_', file_name)[:80]}"

    def _address(self, request: web.Request, name: str) -> str:
        return f"{request.scheme}://{request.host}/files/uploads/{name}"

    def _sign(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(errors="replace"), "sha256").hex()
