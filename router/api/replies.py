"""Small pieces every handler uses to answer: JSON replies, the id of the request, the surface it came to. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
# When (on the loop's clock) a stream began to answer: how long it goes on says nothing about how fast we are.
ANSWERED_AT_S: web.RequestKey[float] = web.RequestKey("answered_at_s", float)
SURFACE: web.RequestKey[str] = web.RequestKey("surface", str)
"""Whose words an error of this request is told in; set as soon as it is known, the frame reads it."""

PATHS = {"/v1/async/": "pixapi", "/v1/images/generation_tasks": "worldrouter"}
"""The paths that only one surface has, so that even an unknown method or a missing key is answered in its form."""


def json_reply(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON, encoded once."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)


def surface_of(request: web.Request) -> str:
    """The surface that a refusal of this request is told to."""
    by_path = (surface for start, surface in PATHS.items() if request.path.startswith(start))
    return request.get(SURFACE) or next(by_path, "native")


def request_id_of(request: web.Request) -> str:
    """The id that the middleware gave this request."""
    return request[REQUEST_ID]
