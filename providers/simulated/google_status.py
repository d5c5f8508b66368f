"""What the two Google simulators have in common: keys, errors as google.rpc.Status, and the free list of models.

It knows neither pictures nor films: `gemini.py` and `veo.py` give it their models and their dial's rows. The words
that a row of the dial may carry here: `quota` takes FAILED_PRECONDITION (billing off, 400) or `limit: 0` instead of
the day's quota; `invalid_key` takes UNAUTHENTICATED (401) or PERMISSION_DENIED (403) instead of API_KEY_INVALID (400);
`gateway_timeout` takes CANCELLED (499) instead of DEADLINE_EXCEEDED (504).
Source: the provider file of Gemini images, sections 1, 2 and 6.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from providers.simulated.faults import Fault, FaultKind
from providers.simulated.mischief import show_page
from providers.simulated.workshop import Workshop

VERSIONS = "{version:v1|v1beta}"
"""The first segment of every path: SDK 2 calls v1beta, SDK 3 calls v1, and the server takes both."""
BODY_BYTES = 140 * 1024 * 1024
"""Fourteen pictures of 7 MB as base64, and some text."""
RETRY_S = 1.0
"""What a 429 asks for unless the dial says otherwise."""
PAGE_MODELS = 50

_TYPE = "type.googleapis.com/google.rpc."
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why an order is refused as INVALID_ARGUMENT: a sentence that names the field by its path."""

    message: str


class Registry:
    """The models of one simulator and the free calls that show them, for anybody with a key."""

    def __init__(self, workshop: Workshop, models: Sequence[str], methods: Sequence[str]) -> None:
        """models: those of the provider file; methods: what can be called on each."""
        self._workshop = workshop
        self._methods = list(methods)
        self._models = tuple(models) if workshop.options.models is None else workshop.options.models

    def routes(self) -> list[web.RouteDef]:
        """GET models and GET models/{id}."""
        path = f"/{VERSIONS}/models"
        return [web.get(path, self.list_models), web.get(path + "/{model}", self.show_model)]

    def holds(self, model: str) -> bool:
        """Whether the model can be called."""
        return model in self._models

    async def list_models(self, request: web.Request) -> web.Response:
        """GET models: `pageSize` at a time, `pageToken` for the next ones."""
        denied = admit(request, self._workshop)
        if denied is not None:
            return denied
        size, begin = (request.query.get(name, default) for name, default in (("pageSize", "0"), ("pageToken", "0")))
        if not (size.isdecimal() and begin.isdecimal()):
            return error("INVALID_ARGUMENT", "Invalid pageSize or pageToken.")
        end = int(begin) + (int(size) or PAGE_MODELS)
        body: dict[str, Any] = {"models": [self._describe(model) for model in self._models[int(begin) : end]]}
        return web.json_response(body | ({"nextPageToken": str(end)} if end < len(self._models) else {}))

    async def show_model(self, request: web.Request) -> web.Response:
        """GET models/{id}."""
        model = request.match_info["model"]
        denied = admit(request, self._workshop)
        if denied is not None:
            return denied
        return web.json_response(self._describe(model)) if self.holds(model) else unknown_model(model)

    def _describe(self, model: str) -> dict[str, Any]:
        return {"name": f"models/{model}", "displayName": model, "supportedGenerationMethods": self._methods}


def admit(request: web.Request, workshop: Workshop) -> web.Response | None:
    """The refusal of a request whose key is missing or wrong, else None. The key stands in the header or the query."""
    key, expected = read_key(request), workshop.options.api_key
    if not key:
        message = "Method doesn't allow unregistered callers (callers without established identity)."
        return error("PERMISSION_DENIED", message)
    if expected is not None and key != expected:
        return _refuse_key()
    return None


def read_key(request: web.Request) -> str:
    """The key that a request carries, "" for none."""
    return request.headers.get("x-goog-api-key") or request.query.get("key", "")


async def read_object(request: web.Request) -> dict[str, Any] | Invalid:
    """The JSON object of a body, within the bound of the listener."""
    try:
        body = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        return Invalid("Request payload size exceeds the limit.")
    except (ValueError, RecursionError):
        return Invalid("Invalid JSON payload received. Expected an object key or }.")
    return body if isinstance(body, dict) else Invalid("Invalid JSON payload received. Root element must be a message.")


def error(status: str, message: str, *details: Mapping[str, Any]) -> web.Response:
    """An error body: google.rpc.Status under `error`, with the HTTP status of its word."""
    return web.json_response(status_body(status, message, *details), status=_HTTP[status])


def status_body(status: str, message: str, *details: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an error, which a stream sends as an event too. details: `{"@type": ...}`, left out if none."""
    body: dict[str, Any] = {"code": _HTTP[status], "message": message, "status": status}
    return {"error": body | ({"details": list(details)} if details else {})}


def unknown_model(model: str, method: str = "generateContent") -> web.Response:
    """404 for a model that is not there, or that has no such method."""
    message = f"models/{model} is not found for API version v1beta, or is not supported for {method}."
    return error("NOT_FOUND", message)


def turn_away(fault: Fault, model: str, param: str) -> web.Response:
    """The answer to an order that is not accepted. param: the path of the field that `unsupported_parameter` means."""
    match fault.kind:
        case FaultKind.THROTTLED:
            wait_s = RETRY_S if fault.retry_after_s is None else fault.retry_after_s
            message = f"You exceeded your current quota. Please retry in {wait_s:g}s."
            return error("RESOURCE_EXHAUSTED", message, _violate("PerMinute", model), _retry_in(wait_s))
        case FaultKind.QUOTA if fault.word == "FAILED_PRECONDITION":
            message = "Billing is not enabled for this project, and the free tier is not available in your country."
            return error("FAILED_PRECONDITION", message)
        case FaultKind.QUOTA if fault.word == "limit: 0":
            message = (
                "You exceeded your current quota. * Quota exceeded for metric: generate_content_requests, limit: 0"
            )
            return error("RESOURCE_EXHAUSTED", message, _violate("PerMinute", model), _retry_in(RETRY_S))
        case FaultKind.QUOTA:
            message = "You exceeded your current quota, please check your plan and billing details."
            return error("RESOURCE_EXHAUSTED", message, _violate("PerDay", model), _retry_in(RETRY_S))
        case FaultKind.INVALID_KEY if fault.word == "UNAUTHENTICATED":
            return error("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        case FaultKind.INVALID_KEY if fault.word == "PERMISSION_DENIED":
            return error("PERMISSION_DENIED", "Your project has been denied access. Please contact support.")
        case FaultKind.INVALID_KEY:
            return _refuse_key()
        case FaultKind.UNSUPPORTED_PARAMETER:
            named = param if fault.param == "size" else fault.param
            return error("INVALID_ARGUMENT", f"{named}: the value is not supported by this model.")
        case FaultKind.MODEL_NOT_FOUND:
            return unknown_model(model)
        case FaultKind.BAD_GATEWAY:
            return show_page(502, "502 Bad Gateway")
        case FaultKind.SERVER_ERROR:
            return error("INTERNAL", "An internal error has occurred. Please retry.")
        case _:
            return error("UNAVAILABLE", "The model is overloaded. Please try again later.")


def give_up(fault: Fault) -> web.Response:
    """The answer of a server that ran out of time over an accepted order."""
    if fault.word == "CANCELLED":
        return error("CANCELLED", "The operation was cancelled.")
    return error("DEADLINE_EXCEEDED", "Deadline expired before operation could complete.")


def _refuse_key() -> web.Response:
    info = {"@type": f"{_TYPE}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    return error("INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", info)


def _violate(period: str, model: str) -> dict[str, Any]:
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
        "quotaId": f"GenerateRequests{period}PerProjectPerModel",
        "quotaDimensions": {"model": model, "location": "global"},
    }
    return {"@type": f"{_TYPE}QuotaFailure", "violations": [violation]}


def _retry_in(seconds: float) -> dict[str, Any]:
    # No Retry-After header goes with it: the file does not promise one.
    return {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{seconds:g}s"}
