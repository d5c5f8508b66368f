"""What operators and Prometheus ask: health, readiness, metrics, configuration, breakers (contract 5.6). Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from router.api import strict_json
from router.api.auth import SERVICES, caller_of, comes_from_loopback, is_operator, require_admin
from router.api.bodies import IMAGE_BODY_MAX, read_json, read_raw, read_submission
from router.api.errors import Refusal, invalid
from router.api.replies import json_reply, request_id_of
from router.api.services import ReloadResult, Services
from router.api.submits import priority_of
from router.flow.draft import Draft
from router.flow.fleet import Fleet
from router.keys import KeyScope
from router.provider import Kind
from router.task import Error, Priority

CONFIG_MAX = 1 << 20
OWN_LISTENER: web.AppKey[bool] = web.AppKey("own_listener", bool)


async def healthz(_request: web.Request) -> web.StreamResponse:
    """The process lives."""
    return json_reply(200, {"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """Whether new work is taken: 200 or 503; the checks by name for everybody, their detail for operators only."""
    checks = await request.app[SERVICES].ready_checks()
    ready = all(state == "ok" for state in checks.values())
    shown = (
        checks
        if await is_operator(request)
        else {name: "ok" if state == "ok" else "failed" for name, state in checks.items()}
    )
    headers = {} if ready else {"Retry-After": "2"}
    return json_reply(200 if ready else 503, {"status": "ready" if ready else "not_ready", "checks": shown}, headers)


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus text; off loopback it needs the admin key, unless it is on the admin listener."""
    if not (request.app[OWN_LISTENER] or comes_from_loopback(request)):
        await require_admin(request)
    text, content_type = await request.app[SERVICES].metrics()
    return web.Response(body=text, headers={"Content-Type": content_type})


async def explain(request: web.Request) -> web.StreamResponse:
    """`POST /v1/route/explain`: the plan of a request that is not made; spends nothing."""
    principal, services = await caller_of(request, KeyScope.READ), request.app[SERVICES]
    body = await read_json(request, IMAGE_BODY_MAX)
    fields = body.get("input", {name: value for name, value in body.items() if name != "kind"})
    if not isinstance(fields, dict):
        invalid("input", "input must be an object.")
    kind = body.get("kind", Kind.IMAGE_GENERATION.value)
    if kind not in [one.value for one in Kind]:
        invalid("kind", f"kind must be one of {', '.join(one.value for one in Kind)}.")
    submission = read_submission(body, Kind(kind), "/v1/route/explain", {"prompt": "explain", **fields})
    draft = Draft(
        tenant=principal.tenant,
        key_id=principal.key_id,
        kind=Kind(kind),
        model=submission.model,
        input=submission.input,
        surface="native",
        route="/v1/tasks",
        digest=submission.digest,
        request_id=request_id_of(request),
        metadata=submission.metadata,
        preferences=submission.preferences,
        priority=priority_of(submission, Priority.NORMAL),
    )
    return json_reply(200, await explained(services, draft))


async def explained(services: Services, draft: Draft) -> Mapping[str, Any]:
    """Plan a draft as a submit would, and say why."""
    answer = await services.life.intake.explain(draft)
    if isinstance(answer, Error):
        raise Refusal(answer)
    return answer


# -- /admin/v1 ------------------------------------------------------------------------------------------------------


async def config_current(request: web.Request) -> web.StreamResponse:
    """Which configuration is in force: its hash, source and time; never its text, which may hold secrets."""
    await require_admin(request)
    return json_reply(200, request.app[SERVICES].config_info())


async def config_check(request: web.Request) -> web.StreamResponse:
    """Judge a YAML text without applying it."""
    await require_admin(request)
    text = await _read_text(request)
    return _reload_reply(request.app[SERVICES].check_config(text), applied=False)


async def config_reload(request: web.Request) -> web.StreamResponse:
    """Load the file now; a bad one changes nothing and says why."""
    await require_admin(request)
    return _reload_reply(await request.app[SERVICES].reload(), applied=True)


async def providers(request: web.Request) -> web.StreamResponse:
    """Every provider with its targets: breaker, reason, slots; credentials by label only."""
    await require_admin(request)
    return json_reply(200, _fleet(request.app[SERVICES]))


async def circuit(request: web.Request) -> web.StreamResponse:
    """Force a target's breaker open or closed, or reset it; `*` means every target of the provider."""
    await require_admin(request)
    services = request.app[SERVICES]
    fleet = services.life.runtime.fleet
    provider, target, action = (request.match_info[part] for part in ("provider", "target", "action"))
    operations = {"open": fleet.force_open, "close": fleet.force_close, "reset": fleet.reset}
    if action not in operations:
        invalid("action", f"The action must be one of {', '.join(operations)}.")
    known = [one.target for one in fleet.snapshot().targets if one.provider == provider]
    done = [operations[action](provider, name) for name in known if target in {"*", name}]
    if not any(done):
        raise Refusal(Error("not_found", "There is no such provider or target.", "not_found"))
    if action != "open":
        _restore_accounts(fleet, provider)
    services.life.runtime.wake_pump()
    return json_reply(200, _fleet(services))


def _restore_accounts(fleet: Fleet, provider: str) -> None:
    """End the rest of a provider's credentials: all its targets rest with them until an operator says otherwise."""
    for one in fleet.snapshot().providers:
        for account in one.accounts if one.name == provider else ():
            fleet.restore_account(provider, account.label)


def _fleet(services: Services) -> dict[str, Any]:
    """Show the fleet: one object per provider with its targets."""
    seen = services.life.runtime.fleet.snapshot()
    shown = []
    for provider in seen.providers:
        targets = [_plain(target) for target in seen.targets if target.provider == provider.name]
        shown.append({**_plain(provider), "targets": targets})
    return {"object": "list", "data": shown}


def _plain(record: object) -> dict[str, Any]:
    """Turn a snapshot record into JSON; an endless wait is null."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(record))
    return plain


def _reload_reply(result: ReloadResult, *, applied: bool) -> web.Response:
    body = {
        "ok": not result.problems,
        "hash": result.hash,
        "changed": result.changed if applied else False,
        "problems": list(result.problems),
        "warnings": list(result.warnings),
    }
    return json_reply(200 if not result.problems else 400, body)


async def _read_text(request: web.Request) -> str:
    raw = await read_raw(request, CONFIG_MAX)
    if request.content_type == "application/json":
        text = strict_json.parse(raw).get("config")
        if not isinstance(text, str):
            invalid("config", "config must be the YAML text.")
        return text
    try:
        return raw.decode()
    except UnicodeDecodeError:
        invalid(None, "The body is not UTF-8.")
