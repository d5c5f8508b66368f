"""Small pieces every handler uses to answer: JSON replies and the id of the request. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
# When (on the loop's clock) a stream began to answer: how long it goes on says nothing about how fast we are.
ANSWERED_AT_S: web.RequestKey[float] = web.RequestKey("answered_at_s", float)


def json_reply(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON, encoded once."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)


def request_id_of(request: web.Request) -> str:
    """The id that the middleware gave this request."""
    return request[REQUEST_ID]
