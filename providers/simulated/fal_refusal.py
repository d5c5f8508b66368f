"""How fal turns a request away that is not served: the plain form, a failure told at once, the page of its proxy.

It makes responses and decides nothing. None of these requests is accepted, and none is charged.
Source: the provider file of fal, sections 5 and 7.
"""

from aiohttp import web

from providers.simulated.fal_errors import UNITS_HEADER, ErrorRow, Failure, break_schema, find_platform_failure
from providers.simulated.faults import Fault, FaultKind


def turn_away(fault: Fault) -> web.Response:
    """The vendor's words for a request that is not served. Retry-After only where the dial asks for it: the vendor
    documents none.
    """
    match fault.kind:
        case FaultKind.THROTTLED:
            refused = detail(429, "Too many requests")
        case FaultKind.ACTIVE_LIMIT:
            refused = detail(429, "Concurrent requests limit reached")
        case FaultKind.QUOTA if fault.param == "402":
            refused = detail(402, "Payment required")
        case FaultKind.QUOTA:
            refused = detail(403, "User is locked. Reason: Exhausted balance.")
        case FaultKind.INVALID_KEY:
            refused = detail(401, "Invalid or missing credentials")
        case FaultKind.UNSUPPORTED_PARAMETER:
            field = "image_size" if fault.param == "size" else fault.param
            refused = refuse(break_schema(ErrorRow("value_error", "The value is not supported", ("body", field))))
        case FaultKind.MODEL_NOT_FOUND:
            refused = detail(404, "Application not found", {UNITS_HEADER: "0"})
        case FaultKind.SERVER_ERROR:
            refused = refuse(find_platform_failure("internal_error"))
        case FaultKind.BAD_GATEWAY:
            refused = show_ingress(502, "502 Bad Gateway")
        case _:
            refused = show_ingress(503, "503 Service Temporarily Unavailable")
    if fault.retry_after_s is not None:
        refused.headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return refused


def refuse(failure: Failure) -> web.Response:
    """A failure that is told at once."""
    return web.json_response(failure.body(), status=failure.status, headers=failure.headers())


def lose_request() -> web.Response:
    """An id that is not known (any more)."""
    return detail(404, "Request not found")


def detail(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """The plain form of an error."""
    return web.json_response({"detail": text}, status=status, headers=headers)


def show_ingress(status: int, title: str) -> web.Response:
    """The page of the proxy in front: it says nginx and has no x-fal-request-id, so the official client tries again."""
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    return web.Response(
        status=status, text=f"{page}<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n", content_type="text/html"
    )
