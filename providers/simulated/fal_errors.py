"""The errors of fal: two families with a body, headers and a price each, by the names that the provider prints.

Pure: a name in, a `Failure` out, and what the wire shows of it. It knows neither jobs nor the dial. A model's error is
a list of rows and says whether a retry may help; the platform's own is a text with an `error_type`.
Source: the provider file of fal, section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

UNITS_HEADER: Final = "x-fal-billable-units"
TIMEOUT_TYPE_HEADER: Final = "X-Fal-Request-Timeout-Type"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One row of a model's error: its type, a sentence, where in the request, what stood there, the rule's figures."""

    kind: str
    message: str
    loc: tuple[str | int, ...] = ("body", "prompt")
    value: Any = None
    context: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as fal prints it."""
        return {
            "loc": list(self.loc),
            "msg": self.message,
            "type": self.kind,
            "url": f"https://docs.fal.ai/errors#{self.kind}",
            "input": self.value,
            "ctx": dict(self.context or {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a request ends that makes nothing. rows: a model's error, empty for one of the platform. retryable: the
    model's own word. free: nothing is charged (5xx, requests that never started, broken rules of the schema). units:
    the header of billable units, None where fal sends none. own_timeout: the caller's own limit ran out.
    """

    type: str
    status: int
    message: str
    rows: tuple[ErrorRow, ...] = ()
    retryable: bool = False
    free: bool = False
    units: str | None = None
    own_timeout: bool = False

    @property
    def platform(self) -> bool:
        """Whether the platform failed, and not the model."""
        return not self.rows

    def body(self) -> dict[str, Any]:
        """The JSON under the failure's status."""
        if self.platform:
            return {"detail": self.message, "error_type": self.type}
        return {"detail": [row.as_json() for row in self.rows]}

    def headers(self) -> dict[str, str]:
        """What goes with the body."""
        headers = {} if self.units is None else {UNITS_HEADER: self.units}
        if self.platform:
            headers["X-Fal-Error-Type"] = self.type
        else:
            headers["X-Fal-Retryable"] = "true" if self.retryable else "false"
        if self.own_timeout:
            headers[TIMEOUT_TYPE_HEADER] = "user"
        return headers


# type: (status, retryable, message). "5xx" of the file is read as 502 and 503; feature_not_supported, printed without a
# status, as 422.
_MODEL: Mapping[str, tuple[int, bool, str]] = {
    "content_policy_violation": (422, False, "The content could not be processed because it was flagged."),
    "no_media_generated": (422, False, "No media was generated, possibly because of the prompt."),
    "face_detection_error": (422, False, "Could not detect a face in the image."),
    "image_too_large": (422, False, "The image is too large."),
    "image_too_small": (422, False, "The image is too small."),
    "image_load_error": (422, False, "The image could not be loaded."),
    "file_download_error": (422, False, "The file could not be downloaded."),
    "file_too_large": (422, False, "The file is too large."),
    "unsupported_image_format": (422, False, "The image's format is not supported."),
    "unsupported_audio_format": (422, False, "The audio's format is not supported."),
    "unsupported_video_format": (422, False, "The video's format is not supported."),
    "value_error": (422, False, "The value is not valid."),
    "missing": (422, False, "Field required"),
    "greater_than": (422, False, "Input should be greater than the limit"),
    "feature_not_supported": (422, False, "This feature is not supported by the endpoint."),
    "generation_timeout": (504, True, "The generation took longer than allowed."),
    "downstream_service_error": (502, True, "The downstream service answered with an error."),
    "downstream_service_unavailable": (503, True, "The downstream service is unavailable."),
    "internal_server_error": (500, True, "Internal server error"),
}
_PLATFORM: Mapping[str, tuple[int, str]] = {
    "request_timeout": (504, "Request timed out before it was started"),
    "startup_timeout": (504, "Runner startup timed out"),
    "runner_scheduling_failure": (503, "No runner could be scheduled"),
    "runner_connection_timeout": (503, "Connecting to the runner timed out"),
    "runner_disconnected": (503, "The runner disconnected"),
    "runner_connection_refused": (503, "The runner refused the connection"),
    "runner_connection_error": (503, "The connection to the runner failed"),
    "runner_incomplete_response": (502, "The runner's response was incomplete"),
    "runner_server_error": (500, "The runner failed"),
    "client_disconnected": (499, "Client disconnected"),
    "client_cancelled": (499, "Request was cancelled"),
    "bad_request": (400, "Bad request"),
    "internal_error": (500, "Internal error"),
}
_SCHEMA = frozenset({"missing", "value_error", "greater_than"})
"""The checker's own words: such a request breaks the schema, which is free."""

NAMES: Final = (*_MODEL, *_PLATFORM)
"""Every error type that can be dialled."""


def find_failure(name: str) -> Failure | None:
    """The failure of this type; `no_media_generated/retryable` is the same one with X-Fal-Retryable true. None for a
    word that is no type.
    """
    kind, _, word = name.partition("/")
    if kind in _PLATFORM:
        return find_platform_failure(kind)
    if kind not in _MODEL:
        return None
    status, retryable, message = _MODEL[kind]
    row = ErrorRow(kind, message, ("body", "prompt"))
    if status < 500 and kind in _SCHEMA:
        return break_schema(row)
    return Failure(
        type=kind,
        status=status,
        message=message,
        rows=(row,),
        retryable=retryable or word == "retryable",
        free=status >= 500,
    )


def find_platform_failure(name: str) -> Failure:
    """The platform's failure of this type. KeyError for a word that is none."""
    status, message = _PLATFORM[name]
    return Failure(type=name, status=status, message=message, free=True)


def break_schema(*rows: ErrorRow) -> Failure:
    """The failure of a request that breaks rules of its model's schema: a row for each, and free by its header."""
    return Failure(type=rows[0].kind, status=422, message=rows[0].message, rows=rows, free=True, units="0")
