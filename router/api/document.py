"""The OpenAPI document: joined once from the files in `openapi/`, served as JSON and as a page without scripts.

The files are written by hand before the code (spec-first), one for each area; this joins them and writes out the two
abbreviations they use: `x-refusals`, the statuses of an operation whose bodies are errors, and `x-refusal-form`, in
whose words. It knows nothing of routes; a test holds the two against each other. Floor 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
import yaml
from aiohttp import web

from router.api import reference

FOLDER: Final = Path(__file__).parent / "openapi"
METHODS: Final = ("get", "post", "put", "patch", "delete")
FORMS: Final = {"": "Error", "pixapi": "PixapiError", "any": "AnyError"}
ALWAYS: Final = 500  # every handler may have a bug
REPEATABLE: Final = (409, 410, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Served:
    """Bytes that do not change while the process lives, with their type and version."""

    body: bytes
    content_type: str
    etag: str
    headers: tuple[tuple[str, str], ...] = ()


async def read_json(request: web.Request) -> web.StreamResponse:
    """`GET /openapi.json`."""
    return _answer(request, _documents()[0])


async def read_page(request: web.Request) -> web.StreamResponse:
    """`GET /docs`."""
    return _answer(request, _documents()[1])


def prepare() -> None:
    """Join the document now, so that a broken one stops the start and the first reader does not wait."""
    _documents()


def compose() -> dict[str, Any]:
    """Join the files into one OpenAPI 3.1 document. ValueError when two of them say the same thing."""
    whole: dict[str, Any] = {"paths": {}, "components": {}}
    for path in sorted(FOLDER.glob("*.yaml")):
        part = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        for area, named in part.pop("components", {}).items():
            _join(whole["components"].setdefault(area, {}), named, path)
        _join(whole["paths"], part.pop("paths", {}), path)
        _join(whole, part, path)
    _write_out_refusals(whole)
    order = ("openapi", "info", "servers", "security", "tags", "paths", "components")
    return {name: whole[name] for name in order}


def list_operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of every operation, in the order of the document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


# -- parts ----------------------------------------------------------------------------------------------------------


@cache
def _documents() -> tuple[Served, Served]:
    """Make the document and its page, once for the process: they depend on nothing but the program."""
    document = compose()
    body = orjson.dumps(document)
    page = reference.render(document).encode()
    policy = (("Content-Security-Policy", reference.POLICY), ("X-Content-Type-Options", "nosniff"))
    return (
        Served(body, "application/json", _etag_of(body)),
        Served(page, "text/html", _etag_of(page), policy),
    )


def _etag_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def _answer(request: web.Request, served: Served) -> web.StreamResponse:
    headers = {"ETag": f'"{served.etag}"', "Cache-Control": "no-cache", **dict(served.headers)}
    known = request.if_none_match or ()
    if any(one.value in {served.etag, "*"} for one in known):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if served.content_type.startswith("text/") else None
    return web.Response(body=served.body, content_type=served.content_type, charset=charset, headers=headers)


def _join(whole: dict[str, Any], part: dict[str, Any], path: Path) -> None:
    for name, value in part.items():
        if name in whole:
            raise ValueError(f"{path.name} says {name} a second time")
        whole[name] = value


def _write_out_refusals(document: dict[str, Any]) -> None:
    """Put a response for each status of `x-refusals` into its operation, and make the responses they refer to."""
    responses = document["components"]["responses"]
    bare = {int(name[-3:]): responses.pop(name) for name in list(responses) if name.startswith("Refused")}
    for schema in FORMS.values():
        for status, said in bare.items():
            responses[f"{schema}{status}"] = _refusal(status, said["description"], schema)
    # An alias in YAML is the same object twice: every operation gets responses of its own.
    for _path, _method, operation in list_operations(document):
        schema = FORMS[operation.pop("x-refusal-form", "")]
        statuses = {*operation.pop("x-refusals"), ALWAYS}
        refusals = {str(one): {"$ref": f"#/components/responses/{schema}{one}"} for one in sorted(statuses)}
        operation["responses"] = {**operation["responses"], **refusals}


def _refusal(status: int, description: str, schema: str) -> dict[str, Any]:
    names = {"X-Request-Id": "RequestId", "X-Error-Type": "ErrorType", "X-Task-Id": "TaskId"}
    if status in REPEATABLE:
        names |= {"Retry-After": "RetryAfter", "x-should-retry": "ShouldRetry", "Location": "Location"}
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{header}"} for name, header in names.items()},
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
