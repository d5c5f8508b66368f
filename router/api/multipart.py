"""Forms of every surface (openai-sdk-compat.md section 4): text fields as JSON would have them, files into the vault.

A file part goes to the storage piece by piece, under the task that it will belong to, so that a request takes a few
hundred kilobytes of memory whatever it brings; what it is and its digest are told on the way. Nothing is decoded: a
picture that would unfold into gigabytes is so many bytes like any other. Whatever is wrong is a 4xx that names the
field. What lies in the vault is the intake's once it has been offered; before that `discard` removes it. Floor 3.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any, NoReturn

import orjson
from aiohttp import web

from router.api.auth import SERVICES
from router.api.errors import Refusal, invalid
from router.api.form_data import BrokenForm, FormReader, Head, boundary_of
from router.api.uploads import FIELDS
from router.flow import uploads
from router.flow.draft import Folder, Upload
from router.flow.uploads import FILES_MAX
from router.policy.media import sniff
from router.task import Error, new_id
from router.world import VaultFull

PARTS_MAX = 64
FILE_MAX_BYTES = 50 << 20
TEXT_MAX_BYTES = 1 << 20  # of all text fields together
FORM_MAX_BYTES = FILES_MAX * FILE_MAX_BYTES + (2 << 20)
FORM_MAX_S = 1_800.0  # well below the hour after which uploads without a row are swept
HEAD_BYTES = 64
STORAGE_FULL_RETRY_S = 30.0

FOLDER: web.RequestKey[Folder] = web.RequestKey("folder", Folder)

WORDS = frozenset(
    {"prompt", "model", "size", "quality", "background", "output_format", "moderation", "response_format", "style"}
    | {"user", "safety_identifier", "seconds", "input_fidelity", "complexity", "callback_url", "priority"}
    | {"negative_prompt", "aspect_ratio", "metadata"}
)
"""Fields whose values are text, even where they look like a number or a truth value."""
DOCUMENTS = frozenset({"metadata", "provider", "svg", "callback_events", "input"})
"""Fields that some clients write as JSON into one part."""

_NAME = re.compile(r"([^\[\]]{1,64})((?:\[[^\[\]]{0,64}\]){0,8})")
_FILE_NAME = re.compile(r"(?:(\w+)|input\[(\w+)\])(?:\[[0-9]*\])?", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_DECIMAL = re.compile(r"-?[0-9]{1,9}\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Form:
    """A form as read: `fields` as a JSON body would have them, `files` in the order in which they came."""

    fields: dict[str, Any]
    files: tuple[Upload, ...]


def is_form(request: web.Request) -> bool:
    """Whether the body is multipart/form-data rather than JSON."""
    return request.content_type == "multipart/form-data"


async def read_form(request: web.Request, tenant: str, max_bytes: int = FORM_MAX_BYTES) -> Form:
    """Read a form of at most `max_bytes`; 400 or 413 in the contract's form else, naming the field.

    The files lie in the vault then. They become the task's when the intake takes them, and go when it does not.
    """
    if (request.content_length or 0) > max_bytes:
        _refuse_size(None, f"The body is larger than {max_bytes} bytes.", max_bytes)
    services = request.app[SERVICES]
    folder = Folder(tenant, new_id(services.now(), services.world.dice("ids")))
    request[FOLDER] = folder
    try:
        async with asyncio.timeout(FORM_MAX_S):
            reading = _Reading(request, folder, max_bytes)
            return await reading.read(FormReader(request.content, boundary_of(request.headers.get("Content-Type", ""))))
    except BrokenForm as broken:
        invalid(broken.field, str(broken), code="invalid_form")
    except VaultFull:
        error = Error("unavailable", "There is no room for the files.", "storage_full", retryable=True)
        raise Refusal(error, retry_after_s=STORAGE_FULL_RETRY_S) from None
    except TimeoutError:
        invalid(None, f"The body took longer than {FORM_MAX_S:g} s.", code="invalid_form")


async def discard(request: web.Request) -> None:
    """Remove what a form has brought and the intake was never offered; called when the request is over."""
    folder = request.get(FOLDER)
    if folder is not None and not folder.offered:
        with suppress(OSError, VaultFull):  # the sweep of uploads finds it
            await uploads.discard(request.app[SERVICES].world.vault, folder)


# -- parts ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """One form on its way in."""

    request: web.Request
    folder: Folder
    max_bytes: int
    fields: dict[str, Any] = field(default_factory=dict)
    files: list[Upload] = field(default_factory=list)
    parts: int = 0
    text_bytes: int = 0
    all_bytes: int = 0

    async def read(self, reader: FormReader) -> Form:
        while (head := await reader.head()) is not None:
            self.parts += 1
            if self.parts > PARTS_MAX:
                invalid(head.name[:64], f"A form has at most {PARTS_MAX} parts.", code="too_many_parts")
            if head.filename is not None:
                self.files.append(await self._keep(head, reader))
            else:
                self._place(head.name, await self._read_text(head, reader))
        return Form(self.fields, tuple(self.files))

    async def _keep(self, head: Head, reader: FormReader) -> Upload:
        """Let a file go into the vault, and describe it by its bytes."""
        found = _FILE_NAME.fullmatch(head.name)
        name = "" if found is None else found[1] or found[2]
        role = FIELDS.get(name)
        if role is None:
            invalid(head.name[:64], f"{head.name[:64]} is not a field for files; those are {', '.join(FIELDS)}.")
        if len(self.files) >= FILES_MAX:
            invalid(name, f"A request takes at most {FILES_MAX} files.", code="too_many_files")
        vault, digest, size, first = self.request.app[SERVICES].world.vault, sha256(), 0, b""
        key = uploads.key_of(self.folder.task_id, len(self.files), arriving=True)
        await uploads.begin(vault, self.folder, key, self.request.app[SERVICES].now())
        async with vault.create(key) as sink:
            async for piece in reader.body():
                size += self._count(len(piece))
                if size > FILE_MAX_BYTES:
                    _refuse_size(name, f"{name} is larger than {FILE_MAX_BYTES} bytes.", FILE_MAX_BYTES)
                if len(first) < HEAD_BYTES:
                    first += piece[:HEAD_BYTES]
                digest.update(piece)
                await sink.write(piece)
            if not size:
                invalid(name, f"{name} is empty.")
        kind = sniff(first)
        return Upload(
            role,
            kept=key,
            folder=self.folder,
            size=size,
            content_type="application/octet-stream" if kind is None else kind.content_type,
            sha256=digest.hexdigest(),
        )

    async def _read_text(self, head: Head, reader: FormReader) -> str:
        name = head.name.partition("[")[0][:64]
        if head.charset not in {"", "utf-8", "utf8", "us-ascii", "ascii"}:
            invalid(name, f"{name} must be UTF-8, not {head.charset[:40]}.", code="invalid_charset")
        pieces = []
        async for piece in reader.body():
            self.text_bytes += self._count(len(piece))
            if self.text_bytes > TEXT_MAX_BYTES:
                _refuse_size(name, f"The text of a form has at most {TEXT_MAX_BYTES} bytes.", TEXT_MAX_BYTES)
            pieces.append(piece)
        try:
            return b"".join(pieces).decode("utf-8")
        except UnicodeDecodeError:
            invalid(name, f"{name} is not UTF-8.", code="invalid_charset")

    def _count(self, size: int) -> int:
        self.all_bytes += size
        if self.all_bytes > self.max_bytes:
            _refuse_size(None, f"The body is larger than {self.max_bytes} bytes.", self.max_bytes)
        return size

    def _place(self, written: str, text: str) -> None:
        """Put a text field where its name says: `name`, `name[]`, `name[key]`, and these in one another."""
        found = _NAME.fullmatch(written)
        if found is None:
            invalid(written[:64], "A field's name is at most 64 characters, with at most 8 keys in brackets behind it.")
        name, keys = found[1], re.findall(r"\[([^\[\]]*)\]", found[2])
        if name == "input" and keys:
            value = _read_value(keys[0], text)
        else:
            value = _read_document(name, text) if not keys and name in DOCUMENTS else _read_value(name, text)
        path: list[str | None] = [name, *keys, None]
        place: Any = self.fields
        for key, following in pairwise(path):
            inner: Any = value if following is None else [] if following == "" else {}
            if isinstance(place, list) != (key == ""):
                invalid(name, f"{name} is written both as a list and as something else.")
            elif isinstance(place, list):
                place.append(inner)
            elif key not in place:
                place[key] = inner
            elif following is None or type(place[key]) is not type(inner):
                invalid(name, f"{written} was sent more than once.")
            else:
                inner = place[key]
            place = inner


def _read_value(name: str, text: str) -> Any:
    """Say a text as JSON would: numbers and truth values, but for the fields that are text."""
    if name in WORDS:
        return text
    if text in {"true", "false"}:
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _read_document(name: str, text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return _read_value(name, text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        invalid(name, f"{name} is not valid JSON.", code="invalid_json")


def _refuse_size(param: str | None, message: str, max_bytes: int) -> NoReturn:
    raise Refusal(Error("too_large", message, "too_large", param=param, details={"max_bytes": max_bytes}))
