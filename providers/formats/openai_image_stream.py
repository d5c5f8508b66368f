"""Pictures of OpenAI's images endpoints as they arrive: previews, then the picture that is paid for.

Events name themselves in `type`: `image_generation.*` and `image_edit.*`, `.partial_image` and `.completed`; nothing
more is needed, the stream ends when the connection closes (OpenAI API reference, Images, streaming). With n > 1 several
`.completed` come, whose index is not documented: they count as they come. Pure: it reads events that others receive.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import fields

from providers.formats import openai_images, openai_stream
from providers.formats.failures import Said, as_object, as_word, judge, tell
from providers.formats.openai_stream import Terms
from router.provider import Broken, Done, Job, Media, Partial, Stream, Streamed, Usage

PARTIAL = frozenset({"image_generation.partial_image", "image_edit.partial_image"})
COMPLETED = frozenset({"image_generation.completed", "image_edit.completed"})


async def follow(job: Job, stream: Stream, terms: Terms) -> AsyncGenerator[Streamed, None]:
    """Tell previews as they come and end with one `Done` or `Fail`.

    A stream that ends badly after a picture is complete has delivered that picture; what all of it used is not said
    then, so that the estimate stands for it.
    """
    media: list[Media] = []
    usages: list[Usage] = []
    told = False
    async with aclosing(stream.events()) as events:
        async for event in events:
            failed = None
            if isinstance(event, Broken):
                failed = openai_stream.tell_cut(event, terms, told=told, secret=job.credential)
            elif (error := openai_stream.error_in(event)) is not None:
                failed = openai_stream.tell_error(stream.status, error, terms, told=told, secret=job.credential)
            if failed is not None:
                yield Done(tuple(media), http_status=stream.status) if media else failed
                return
            body = as_object(event.data) if not isinstance(event, Broken) else {}
            name, picture = as_word(body.get("type")), openai_images.read_item(body)
            if picture is None:
                continue
            if name in PARTIAL:
                told = True
                yield Partial(len(media), picture)
            elif name in COMPLETED:
                media.append(picture)
                usages.append(openai_images.read_usage(body))
                if len(media) >= job.n:
                    break
    if media:
        yield Done(tuple(media), _sum(usages), http_status=stream.status)
        return
    said = Said(stream.status, own=True, message="the stream ended without a picture")
    yield tell(said, judge(said, terms.dialect), secret=job.credential)


def _sum(usages: Sequence[Usage]) -> Usage:
    """Add up what each completed picture used; what one of them does not say is not known of all."""
    added: dict[str, int | None] = {}
    for one in fields(Usage):
        values = [getattr(usage, one.name) for usage in usages]
        added[one.name] = None if None in values else sum(values)
    return Usage(**added)
