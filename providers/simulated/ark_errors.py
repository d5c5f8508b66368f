"""The error bodies of Ark: a code, its status and sentence, the field at fault; and which of them a fault of the dial
shows.

It knows no socket and no order. A row of the dial may name any code of the table in its `word`; without one the kind's
usual code is taken. `QuotaExceeded` has three meanings that only its message tells apart, so two of them have names of
their own here.
Source: the provider file of Ark, section 4; the sentences that it does not print are those of the vendor's page of
error codes, or in its manner.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from providers.simulated.faults import Fault, FaultKind
from providers.simulated.mischief import show_page

REQUEST_ID = "x-request-id"
"""The header that names a request; an error's sentence ends with the same name."""
TRIAL = "QuotaExceeded: free trial quota"
RESET = "QuotaExceeded: usage quota"
"""Words of the dial for the two meanings of `QuotaExceeded` that concern the account."""

_TYPES: Mapping[int, str] = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalServerError",
}
_NOT_OPEN = "Your account has not activated the model. Please activate the model service in the Ark Console."
_BEYOND = "The request has exceeded the quota."

CODES: Mapping[str, tuple[int, str]] = {
    "MissingParameter": (400, "The request failed because it is missing one or multiple required parameters."),
    "InvalidParameter": (400, "One or more parameters specified in the request are not valid."),
    "InvalidParameter.UnsupportedParameter": (400, "The specified parameter is not supported by this model."),
    "InvalidImageURL": (400, "The specified image URL is not valid."),
    "InvalidArgumentError": (400, "The specified argument is not valid."),
    "ContentSecurityDetectionError": (400, "The request failed because the content could not be checked."),
    "InvalidEndpoint.ClosedEndpoint": (400, "The request targeted an endpoint that is currently closed."),
    "InvalidSubscription": (400, "Your account does not have a valid subscription."),
    "AuthenticationError": (401, "The API key or AK/SK in the request is missing or invalid."),
    "InvalidAccountStatus": (401, "The account is in an abnormal status."),
    "AccountOverdueError": (403, "The request failed because your account has an overdue balance."),
    "AccessDenied": (403, "The request failed because you do not have access to the requested resource."),
    "OperationDenied.ServiceOverdue": (403, "The operation is denied because the service is overdue."),
    "OperationDenied.ServiceNotOpen": (403, "The operation is denied because the service is not open."),
    "OperationDenied.PermissionDenied": (403, "The operation is denied because you do not have permission."),
    "InvalidEndpointOrModel.NotFound": (404, "The model or endpoint does not exist or you do not have access to it."),
    "InvalidEndpointOrModel.ModelIDAccessDisabled": (404, "Accessing the model via Model ID is not allowed."),
    "ModelNotOpen": (404, _NOT_OPEN),
    "UnsupportedModel": (404, "The model does not support this feature."),
    "NotFound.Task": (404, "The specified task is not found."),
    "NotFound.API": (404, "The specified API is not found."),
    "InvalidAction.RunningTaskDeletion": (409, "Cannot delete the task because it is currently running."),
    "RateLimitExceeded.EndpointRPMExceeded": (429, "The Requests Per Minute (RPM) limit of the endpoint is exceeded."),
    "RateLimitExceeded.EndpointTPMExceeded": (429, "The Tokens Per Minute (TPM) limit of the endpoint is exceeded."),
    "ModelAccountRpmRateLimitExceeded": (429, "The RPM limit of the model for your account has been exceeded."),
    "ModelAccountTpmRateLimitExceeded": (429, "The TPM limit of the model for your account has been exceeded."),
    "ModelAccountIpmRateLimitExceeded": (429, "The images per minute limit of the model has been exceeded."),
    "APIAccountRpmRateLimitExceeded": (429, "The RPM limit of the API for your account has been exceeded."),
    "AccountRateLimitExceeded": (429, "The rate limit of your account has been exceeded."),
    "ServerOverloaded": (429, "The service is currently unable to handle the request. Please try again later."),
    "RequestBurstTooFast": (429, "The request rate rose too fast. Please raise it smoothly."),
    "ModelLoadingError": (429, "The model is being loaded. Please try again later."),
    "InflightBatchsizeExceeded": (429, "The concurrency allowed for the amount paid in has been exceeded."),
    "SetLimitExceeded": (429, "Your account has reached the limit that you set, and the model service was paused."),
    "QuotaExceeded": (429, _BEYOND),
    TRIAL: (429, "Your account has exhausted its free trial quota of the model."),
    RESET: (429, "You have exceeded the usage quota. It will reset at 2030-01-01 00:00:00 +0800 CST."),
    "InternalServiceError": (500, "The service encountered an unexpected internal error."),
}
"""Status and sentence by code. Codes of content policy are many and made of parts: `find_code` knows them."""

SUBJECTS: Mapping[str, str] = {"Text": "text", "Image": "image", "Video": "video", "Audio": "audio"}

USUAL: Mapping[FaultKind, str] = {
    FaultKind.OVERLOADED: "ServerOverloaded",
    FaultKind.THROTTLED: "ModelAccountRpmRateLimitExceeded",
    FaultKind.ACTIVE_LIMIT: "QuotaExceeded",
    FaultKind.SERVER_ERROR: "InternalServiceError",
    FaultKind.QUOTA: "AccountOverdueError",
    FaultKind.INVALID_KEY: "AuthenticationError",
    FaultKind.UNSUPPORTED_PARAMETER: "InvalidParameter",
    FaultKind.MODEL_NOT_FOUND: "InvalidEndpointOrModel.NotFound",
    FaultKind.MODERATION_BLOCKED: "InputTextSensitiveContentDetected",
}
"""What a kind of the dial is at Ark if its row has no word; a bad gateway is a proxy's page."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: a code, a sentence in place of the table's, the field at fault."""

    code: str
    message: str | None = None
    param: str | None = None


class RefusalError(Exception):
    """A field that breaks its rule: carries the refusal from there to the function that reads the whole order."""

    def __init__(self, code: str, message: str | None = None, param: str | None = None) -> None:
        super().__init__(code)
        self.refusal = Refusal(code, message, param)


def find_code(code: str) -> tuple[int, str]:
    """Status and sentence of a code. One that is not in the table goes by the part before its first point, or is one of
    content policy; any other is an internal error.
    """
    if code in CODES:
        return CODES[code]
    stem = code.partition(".")[0]
    if stem in CODES:
        return CODES[stem]
    if stem == "NotFound":
        return 404, "The specified resource is not found."
    if "SensitiveContentDetected" in stem or "RiskDetection" in stem:
        side = "output" if stem.startswith("Output") else "input"
        subject = next((word for name, word in SUBJECTS.items() if name in stem), "text")
        return 400, f"The request failed because the {side} {subject} may contain sensitive information."
    return CODES["InternalServiceError"]


def write_error(code: str, message: str | None = None) -> dict[str, Any]:
    """The short form, of one picture of a batch or of a failed task."""
    return {"code": print_code(code), "message": find_code(code)[1] if message is None else message}


def complain(refusal: Refusal, request_id: str) -> web.Response:
    """The answer to a refused request, named like the request in header and sentence."""
    status, usual = find_code(refusal.code)
    error = {
        "code": print_code(refusal.code),
        "message": f"{usual if refusal.message is None else refusal.message} Request id: {request_id}",
        "param": "" if refusal.param is None else refusal.param,
        "type": _TYPES[status],
    }
    return web.json_response({"error": error}, status=status, headers={REQUEST_ID: request_id})


def turn_away(fault: Fault, request_id: str) -> web.Response:
    """The vendor's words for a request that is not served. Retry-After, which the file does not know, is sent only
    when the dial asks for it.
    """
    if fault.kind is FaultKind.BAD_GATEWAY:
        return show_page(502, "502 Bad Gateway")
    code = USUAL[fault.kind] if fault.word is None else fault.word
    message, param = None, None
    if fault.kind is FaultKind.UNSUPPORTED_PARAMETER:
        param = fault.param
        message = f"The parameter `{param}` specified in the request is not valid: it is not supported by this model."
    answer = complain(Refusal(code, message, param), request_id)
    if fault.retry_after_s is not None:
        answer.headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return answer


def print_code(code: str) -> str:
    """A code as it is sent: the names for meanings of one code lose what tells them apart."""
    return code.partition(":")[0]


def name_request(owner: str, number: int, now_ms: int) -> str:
    """The id of a request: `02`, its milliseconds, and hexadecimal digits of its number."""
    return f"02{now_ms}{hashlib.sha256(f'{owner}/{number}'.encode()).hexdigest()[:32]}"
