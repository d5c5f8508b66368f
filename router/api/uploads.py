"""Input files of a request, taken out of its fields: reference images, a mask, the first and the last frame.

A caller names a file by an https URL or gives its bytes as a data URI (contract 5.3); what the bytes are is told by
their beginning, never by what the caller calls them, and unknown ones go on as octet-stream (5.4). Nothing is fetched
and nothing is written here: `flow/intake` keeps the bytes under the task. Floor 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import pybase64

from router.api.errors import invalid
from router.flow.draft import Upload
from router.flow.uploads import FILES_MAX
from router.policy.media import sniff
from router.provider import Role

URL_MAX_CHARS = 2048
FIELDS: Mapping[str, Role] = {
    "image": Role.IMAGE,
    "images": Role.IMAGE,
    "mask": Role.MASK,
    "input_reference": Role.FIRST_FRAME,
    "last_frame": Role.LAST_FRAME,
}
"""The fields of a request that hold files, and what the files are for."""


def take_files(
    fields: Mapping[str, Any], prefix: str = "", arrived: tuple[Upload, ...] = ()
) -> tuple[dict[str, Any], tuple[Upload, ...]]:
    """Part the fields from the files in them, which go behind those that `arrived` as parts of a form.

    `prefix` goes before a field's name in an error. In all they are in the order of their purpose.
    """
    rest = {name: value for name, value in fields.items() if name not in FIELDS}
    files: list[Upload] = list(arrived)
    for name, role in FIELDS.items():
        value = fields.get(name)
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        files += [_read(item, role, f"{prefix}{name}[{at}]" if len(items) > 1 else prefix + name)
                  for at, item in enumerate(items)]  # fmt: skip
    if len(files) > FILES_MAX:
        invalid(prefix + "image", f"A request takes at most {FILES_MAX} files.")
    for name, role in FIELDS.items():
        if role is not Role.IMAGE and sum(one.role is role for one in files) > 1:
            invalid(prefix + name, f"{name} takes one file.")
    order = list(dict.fromkeys(FIELDS.values()))
    return rest, tuple(sorted(files, key=lambda one: order.index(one.role)))


def digests_of(files: tuple[Upload, ...]) -> list[list[str]]:
    """Name the files in a canonical body (contract 5.4: file digests)."""
    return [[one.role.value, one.url or one.sha256] for one in files]


# -- parts ----------------------------------------------------------------------------------------------------------


def _read(item: object, role: Role, param: str) -> Upload:
    """Read `"https://..."`, `"data:image/png;base64,..."`, or either inside `{"image_url": ...}`, `{"url": ...}`."""
    if isinstance(item, dict):
        inner = item.get("image_url", item.get("url"))
        item = inner.get("url") if isinstance(inner, dict) else inner
    if not isinstance(item, str) or not item:
        invalid(param, f"{param} must be an https URL or a data URI of a file.")
    if item.startswith("data:"):
        return upload_of(_decode(item, param), role)
    if len(item) > URL_MAX_CHARS or not item.startswith(("https://", "http://")) or not item.isprintable():
        invalid(param, f"{param} must be an https URL of at most {URL_MAX_CHARS} characters, or a data URI.")
    return Upload(role, url=item)


def upload_of(content: bytes, role: Role) -> Upload:
    """Describe bytes that came with a request."""
    kind = sniff(content[:64])
    return Upload(
        role,
        content=content,
        content_type="application/octet-stream" if kind is None else kind.content_type,
        sha256=sha256(content).hexdigest(),
    )


def _decode(uri: str, param: str) -> bytes:
    head, comma, text = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        invalid(param, f"{param} must be a data URI with base64.")
    try:
        content = pybase64.b64decode(text, validate=True)
    except ValueError:
        invalid(param, f"{param} is not valid base64.")
    if not content:
        invalid(param, f"{param} is empty.")
    return content
