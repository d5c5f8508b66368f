"""The aiohttp application: routes, request ids, and one place where all that goes wrong gets its body. Floor 3."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_urldispatcher import MatchInfoError

from router.api import (
    callbacks,
    chat,
    document,
    errors,
    files,
    image_stream,
    images,
    keys,
    models,
    multipart,
    operations,
    pixapi,
    stream,
    tasks,
    usage,
    videos,
    webhooks,
    worldrouter,
)
from router.api.auth import SERVICES
from router.api.errors import Refusal
from router.api.followers import Followers, StreamLimits
from router.api.operations import OWN_LISTENER
from router.api.replies import ANSWERED_AT_S, REQUEST_ID, surface_of
from router.api.services import Services
from router.persistence import Unavailable
from router.task import Error, new_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADER_LINE_MAX: Final = 8190
HEADER_FIELD_MAX: Final = 8190
HEADERS_MAX: Final = 128
KEEPALIVE_S: Final = 75.0
STREAM_LIMITS: Final = StreamLimits()


def build(
    services: Services,
    *,
    public: bool = True,
    admin: bool = True,
    pace: image_stream.Pace = image_stream.USUAL_PACE,
    streams: StreamLimits = STREAM_LIMITS,
) -> web.Application:
    """Make the application of one listener: the public routes, the operators' routes, or both.

    `pace` holds the times of streams of images, `streams` those of streams of events, and how many there may be.
    """
    app = web.Application(middlewares=[_frame], client_max_size=64 << 20)
    app[SERVICES] = services
    app[OWN_LISTENER] = admin and not public
    app[image_stream.PACE] = pace
    app[callbacks.KEY_SETS] = callbacks.KeySets()
    document.prepare()
    add = app.router
    add.add_get("/healthz", operations.healthz)
    add.add_get("/readyz", operations.readyz)
    add.add_get("/openapi.json", document.read_json)
    add.add_get("/docs", document.read_page)
    if public:
        add.add_post(images.GENERATIONS, images.generate)
        add.add_post(images.EDITS, images.edit)
        add.add_post(images.VARIATIONS, images.vary)
        add.add_post(pixapi.GENERATIONS, pixapi.generate)
        add.add_post(pixapi.EDITS, pixapi.edit)
        add.add_post(pixapi.VIDEOS, pixapi.film)
        add.add_post(worldrouter.ROUTE, worldrouter.create)
        add.add_get(worldrouter.ROUTE + "/{id}", worldrouter.read, allow_head=False)
        add.add_post(chat.ROUTE, chat.complete)
        _add_films(add)
        add.add_post("/v1/tasks", tasks.create)
        add.add_get("/v1/tasks", tasks.listing, allow_head=False)
        add.add_get("/v1/tasks/{id}", tasks.read, allow_head=False)
        add.add_delete("/v1/tasks/{id}", tasks.delete)
        app[stream.FOLLOWERS] = Followers(services, streams)
        app.on_shutdown.append(stream.close)
        add.add_get("/v1/tasks/{id}/events", stream.follow_task, allow_head=False)
        add.add_get("/v1/events", stream.follow_all, allow_head=False)
        add.add_post("/v1/tasks/{id}/cancel", tasks.cancel)
        add.add_post("/v1/tasks/{id}/retry", tasks.retry)
        add.add_get("/v1/files/{id}/{n}", files.read)
        add.add_post("/v1/callbacks/{provider}/{task}", callbacks.receive)
        add.add_get("/v1/webhook_secret", webhooks.secret, allow_head=False)
        add.add_get("/v1/models", models.listing, allow_head=False)
        add.add_get("/v1/models/{id:.+}", models.read, allow_head=False)
        add.add_post("/v1/route/explain", operations.explain)
        add.add_get("/v1/usage", usage.read, allow_head=False)
    if admin:
        add.add_get("/metrics", operations.metrics)
        add.add_get("/admin/v1/config", operations.config_current)
        add.add_get("/admin/v1/config/current", operations.config_current)
        add.add_post("/admin/v1/config/check", operations.config_check)
        add.add_post("/admin/v1/config/reload", operations.config_reload)
        add.add_get("/admin/v1/webhooks", webhooks.listing, allow_head=False)
        add.add_post("/admin/v1/webhooks/test", webhooks.test)
        add.add_post("/admin/v1/webhooks/{id}/redeliver", webhooks.redeliver)
        add.add_get("/admin/v1/providers", operations.providers)
        add.add_get("/admin/v1/breakers", operations.providers)
        add.add_get("/admin/v1/keys", keys.listing)
        add.add_post("/admin/v1/keys", keys.create)
        add.add_get("/admin/v1/keys/{id}", keys.read)
        add.add_delete("/admin/v1/keys/{id}", keys.revoke)
        add.add_post("/admin/v1/keys/{id}/revoke", keys.revoke)
        add.add_post("/admin/v1/keys/{id}/rotate", keys.rotate)
        add.add_post("/admin/v1/breakers/{provider}/{target}/{action}", operations.circuit)
    return app


def _add_films(add: web.UrlDispatcher) -> None:
    # What stands beside an id in the path comes before it.
    add.add_post(videos.ROUTE, videos.create)
    add.add_get(videos.ROUTE, videos.listing, allow_head=False)
    add.add_post(videos.GENERATIONS, videos.generate)
    add.add_get(videos.ROUTE + "/{id}", videos.read, allow_head=False)
    add.add_delete(videos.ROUTE + "/{id}", videos.delete)
    add.add_get(videos.ROUTE + "/{id}/content", videos.content)
    add.add_post(videos.ROUTE + "/{id}/remix", videos.remix)


@web.middleware
async def _frame(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, answer every failure in the contract's form, count the exchange by its route."""
    services = request.app[SERVICES]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    request_id = request[REQUEST_ID] = new_id(services.now(), services.world.dice("requests"), "req_")
    try:
        response = await _answer(request, handler, request_id)
    finally:
        await multipart.discard(request)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    answered_at_s = request.get(ANSWERED_AT_S, loop.time())
    services.on_http(route_of(request), request.method, response.status, answered_at_s - began_s)
    return response


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        if isinstance(request.match_info, MatchInfoError):
            redirected = _without_trailing_slash(request)
            if redirected is not None:
                return redirected
        return await handler(request)
    except Refusal as refusal:
        return errors.answer_of(refusal, request_id, surface_of(request))
    except Unavailable:
        message = "The store cannot be reached; nothing is known to have been accepted."
        error = Error("unavailable", message, "unavailable", retryable=True)
        return errors.answer_of(Refusal(error, retry_after_s=2.0), request_id, surface_of(request))
    except web.HTTPException as refused:
        allowed = tuple(refused.allowed_methods) if isinstance(refused, web.HTTPMethodNotAllowed) else ()
        return errors.answer_of(errors.of_http(refused.status, allowed), request_id, surface_of(request))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception as bug:  # noqa: BLE001 - the one boundary where a bug of a handler becomes an answer
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"a handler failed in {request_id} on {route_of(request)}", "exception": bug}
        )
        return errors.answer_of(errors.bug(), request_id, surface_of(request))


def _without_trailing_slash(request: web.Request) -> web.StreamResponse | None:
    """A trailing slash is ignored: clients keep method and body over a 307."""
    refused = request.match_info.http_exception
    if refused is not None and refused.status == 404 and len(request.path) > 1 and request.path.endswith("/"):
        return web.Response(status=307, headers={"Location": str(request.rel_url.with_path(request.path.rstrip("/")))})
    return None


def route_of(request: web.Request) -> str:
    """The route's template, never the raw path, so that a label set stays small."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical
