"""From what an upstream hands over to bytes of our own: fetch or decode, check, hash, store.

Until our copy exists an attempt has not delivered, because upstream links end within minutes. The bytes are checked on
the way: magic and pixel size at the start, the size cap throughout, SHA-256 at the end; nothing is held whole. Fetching
costs nothing, so it is repeated while time remains; the job that made the result is never repeated from here. There are
two ways to fail, and they differ in whose fault they show: the result is bad (`unusable`), or it can no longer be had
(`result_lost` to the caller). Everything outside is reached through `World`. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any, Protocol

import orjson
import pybase64

from router.policy.media import HEAD_BYTES, MAX_PIXELS, MediaType, dimensions, sniff
from router.provider import Media
from router.task import Output
from router.world import FetchBroken, FetchFailed, VaultFull, World

FETCHED_BYTES = HEAD_BYTES
# Most pictures are one piece, so that a thread is asked once to decode and hash; a larger one is never held whole.
ONE_PIECE_CHARS = 2 << 20
PIECE_BYTES = 3 << 17
PIECE_CHARS = PIECE_BYTES // 3 * 4
SMALL_BYTES = 64 << 10
AT_ONCE = 4
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 15.0


class Digest(Protocol):
    """A hash that is being made."""

    def update(self, piece: bytes, /) -> None:
        """Go on with these bytes."""

    def hexdigest(self) -> str:
        """What it is so far."""


@dataclass(frozen=True, slots=True)
class Unfetchable:
    """There is no stored result. `unusable`: what was delivered is not a result; else it could not be had in time."""

    detail: str
    unusable: bool


async def store_outputs(
    world: World,
    media: Sequence[Media],
    *,
    key_prefix: str,
    allowed_origin: str | None,
    timeout_s: float,
    family: str | None = None,
) -> tuple[Output, ...] | Unfetchable:
    """Store every output under `key_prefix`/index, or none: when one fails, the others are removed again.

    `allowed_origin` is the provider's own (its base_url). `family` (image, video) is what was asked for; None takes any
    type on the list. No new try begins after `timeout_s`; a body under way ends by then, too.
    """
    if not media:
        return Unfetchable("nothing was delivered", unusable=True)
    deadline = asyncio.get_running_loop().time() + timeout_s
    if len(media) == 1:  # as nearly always: no group of tasks for one
        try:
            return (await _insist(_Source(world, media[0], f"{key_prefix}/0", allowed_origin, family), deadline),)
        except _Failed as failed:
            return failed.reason
    stored: dict[int, Output] = {}
    room = asyncio.Semaphore(AT_ONCE)

    async def store(index: int, item: Media) -> None:
        async with room:
            source = _Source(world, item, f"{key_prefix}/{index}", allowed_origin, family)
            stored[index] = await _insist(source, deadline)

    try:
        async with asyncio.TaskGroup() as group:
            for index, item in enumerate(media):
                group.create_task(store(index, item))
    except* _Failed as failures:
        failure = failures
    else:
        return tuple(stored[index] for index in range(len(media)))
    for output in stored.values():
        await world.vault.delete(output.key)
    first = failure.exceptions[0]
    assert isinstance(first, _Failed)
    return first.reason


class _Failed(Exception):  # noqa: N818 - it names what happened
    """Leaves the blocks of sink and task group, so that both undo what they hold."""

    def __init__(self, detail: str, *, unusable: bool) -> None:
        super().__init__(detail)
        self.reason = Unfetchable(detail, unusable)


@dataclass(frozen=True, slots=True)
class _Source:
    """One output on its way: what was handed over, and where its copy goes."""

    world: World
    item: Media
    key: str
    allowed_origin: str | None
    family: str | None


async def _insist(source: _Source, deadline: float) -> Output:
    """Copy one output, again and again while that may help and time remains."""
    loop, dice = asyncio.get_running_loop(), source.world.dice("rehost")
    for tries in count():
        try:
            if source.item.document is not None:
                return await _write_document(source, source.item.document)
            if source.item.url is None:
                digest = sha256()
                async with aclosing(_decode(source, digest)) as pieces:
                    return await _copy(source, pieces, digest)
            return await _fetch(source, source.item.url, deadline - loop.time())
        except FetchBroken as broken:
            detail = str(broken)
        except VaultFull as full:
            detail = f"storage_full: {full}"
        pause_s = min(BACKOFF_FIRST_S * 2 ** min(tries, 10), BACKOFF_MAX_S) * (0.5 + 0.5 * dice.random())
        if loop.time() + pause_s >= deadline:
            raise _Failed(detail, unusable=False)
        await asyncio.sleep(pause_s)
    raise AssertionError("count does not end")


async def _write_document(source: _Source, document: Mapping[str, Any]) -> Output:
    """Keep a chat completion as the JSON that it is."""
    content = orjson.dumps(document)
    async with source.world.vault.create(source.key) as sink:
        await sink.write(content)
    return Output(source.key, "application/json", len(content), sha256(content).hexdigest())


async def _fetch(source: _Source, url: str, timeout_s: float) -> Output:
    async with source.world.fetch.open(url, source.allowed_origin, timeout_s, source.item.headers) as answer:
        if isinstance(answer, FetchFailed):
            if answer.gone:
                raise _Failed(answer.detail, unusable=False)
            raise FetchBroken(answer.detail)
        digest = sha256()
        async with aclosing(answer.chunks()) as chunks, aclosing(_gather(source, chunks, digest)) as pieces:
            return await _copy(source, pieces, digest, announced=answer.length)


async def _copy(
    source: _Source, pieces: AsyncGenerator[bytes, None], digest: Digest, announced: int | None = None
) -> Output:
    """Check and store the pieces, which `digest` has seen; the first one is the whole head or the whole body."""
    piece = await anext(pieces, b"")
    media_type = _recognise(piece, source.family)
    if announced is not None and announced > media_type.max_bytes:
        raise _too_large(media_type)
    sides = dimensions(piece)
    if sides is not None and sides[0] * sides[1] > MAX_PIXELS:
        raise _Failed(f"a picture of {sides[0]}x{sides[1]} pixels", unusable=True)
    size = 0
    async with source.world.vault.create(source.key) as sink:
        while piece:
            size += len(piece)
            if size > media_type.max_bytes:
                raise _too_large(media_type)
            await sink.write(piece)
            piece = await anext(pieces, b"")
    return Output(
        key=source.key,
        content_type=media_type.content_type,
        bytes=size,
        sha256=digest.hexdigest(),
        width=sides[0] if sides else None,
        height=sides[1] if sides else None,
        revised_prompt=source.item.revised_prompt,
    )


def _recognise(head: bytes, family: str | None) -> MediaType:
    media_type = sniff(head)
    if media_type is None:
        raise _Failed("not a media file that we know" if head else "an empty result", unusable=True)
    if family is not None and media_type.family.value != family:
        raise _Failed(f"{media_type.content_type} where {family} was asked for", unusable=True)
    return media_type


def _too_large(media_type: MediaType) -> _Failed:
    return _Failed(f"{media_type.content_type} larger than {media_type.max_bytes} bytes", unusable=True)


# -- pieces -----------------------------------------------------------------------------------------------------------


async def _gather(source: _Source, chunks: AsyncIterator[bytes], digest: Digest) -> AsyncGenerator[bytes, None]:
    """Join what arrives into pieces of at least `FETCHED_BYTES`, but for the last, and hash them."""
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= FETCHED_BYTES:
            piece = b"".join(held)
            await source.world.offload(partial(digest.update, piece))
            yield piece
            held, size = [], 0
    if held:
        piece = b"".join(held)
        if size < SMALL_BYTES:
            digest.update(piece)
        else:
            await source.world.offload(partial(digest.update, piece))
        yield piece


async def _decode(source: _Source, digest: Digest) -> AsyncGenerator[bytes, None]:
    """Decode base64 text piece by piece and hash it, off the loop if it is large; the text itself is never copied.

    Accepts a `data:` prefix (apiyi.md, models "-all"), line breaks, and missing padding.
    """
    text = source.item.b64 or ""
    at, carry = 0, ""
    if text.startswith("data:"):
        at = text.find(";base64,", 0, 256) + len(";base64,")
        if at < len(";base64,"):
            raise _Failed("a data URI without base64", unusable=True)
    step = max(len(text), 1) if len(text) <= ONE_PIECE_CHARS else PIECE_CHARS
    while at < len(text) or carry:
        try:
            work = partial(_decode_piece, text, slice(at, at + step), carry, digest)
            piece, carry = work() if len(text) <= SMALL_BYTES else await source.world.offload(work)
        except ValueError:  # the decoder's own error is one
            raise _Failed("broken base64", unusable=True) from None
        at += step
        if piece:
            yield piece


def _decode_piece(text: str, part: slice, carry: str, digest: Digest) -> tuple[bytes, str]:
    """Decode and hash `carry` and a part; return the bytes and the characters of a quantum that is cut."""
    chars, rest = carry + text[part], ""
    if "-" in chars or "_" in chars:  # the URL-safe alphabet (google-gemini-image.md section 3)
        chars = chars.replace("-", "+").replace("_", "/")
    if any(blank in chars for blank in "\n\r\t "):
        chars = "".join(chars.split())
    if part.stop >= len(text):
        chars += "=" * (-len(chars) % 4)
    else:
        padding = chars.find("=")
        whole = (len(chars) if padding < 0 else padding) // 4 * 4
        chars, rest = chars[:whole], chars[whole:]
        if len(rest) > 4:
            msg = "padding before the end"
            raise ValueError(msg)
    piece = pybase64.b64decode(chars, validate=True)
    digest.update(piece)
    return piece, rest
