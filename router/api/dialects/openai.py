"""OpenAI's images replies and events (openai-images.md sections 4 and 5, openai-sdk-compat.md section 5).

What the SDK's types list as words is said in those words or, where a field may be missing, left out; an event has all
of its fields, because the types demand them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from router.flow.previews import Preview
from router.provider import Kind, Usage
from router.task import Output, Task

QUALITIES = frozenset({"low", "medium", "high", "xhigh", "max"})
BACKGROUNDS = frozenset({"transparent", "opaque"})
FORMATS = frozenset({"png", "webp", "jpeg", "gif"})
STREAMED_FORMATS = frozenset({"png", "webp", "jpeg"})
EVENTS = {Kind.IMAGE_GENERATION: "image_generation", Kind.IMAGE_EDIT: "image_edit"}
NOTHING_SAID = Usage(input_tokens=0, output_tokens=0)


def images(task: Task, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Render a succeeded image task. `data` holds one object per image, with `b64_json` or `url`."""
    reply: dict[str, Any] = {"created": (task.completed_at or task.updated_at) // 1000, "data": list(data)}
    first = task.output[0] if task.output else None
    said = (
        ("background", task.input.get("background"), BACKGROUNDS),
        ("output_format", None if first is None else _format_of(first), FORMATS),
        ("quality", task.input.get("quality"), QUALITIES),
    )
    reply |= {name: value for name, value, words in said if isinstance(value, str) and value in words}
    if first is not None and first.width is not None:
        reply["size"] = f"{first.width}x{first.height}"
    usage = usage_of(task.usage)
    if usage is not None:
        reply["usage"] = usage
    return reply


def partial_event(task: Task, preview: Preview, at: int) -> tuple[str, dict[str, Any]]:
    """Name and body of the event that shows a preview; `at` in milliseconds since the epoch."""
    name = f"{EVENTS[task.kind]}.partial_image"
    asked = task.input.get("size")
    about = _about(task, asked if isinstance(asked, str) else "auto", task.input.get("output_format"), at)
    return name, {"type": name, "partial_image_index": preview.n, "b64_json": preview.b64, **about}


def completed_event(task: Task, index: int, b64_json: orjson.Fragment) -> tuple[str, dict[str, Any]]:
    """Name and body of the event that delivers picture `index`; the usage of all of them comes with the last.

    The types demand numbers of an event's usage: where an upstream says none, they are 0.
    """
    name, output = f"{EVENTS[task.kind]}.completed", task.output[index]
    size = "auto" if output.width is None else f"{output.width}x{output.height}"
    is_last = index == len(task.output) - 1
    usage = (usage_of(task.usage) if is_last else None) or usage_of(NOTHING_SAID)
    about = _about(task, size, _format_of(output), task.completed_at or task.updated_at)
    return name, {"type": name, "b64_json": b64_json, **about, "usage": usage}


def usage_of(usage: Usage | None) -> dict[str, Any] | None:
    """Render what the upstream said it used; None when it said nothing (unknown is not zero)."""
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    image_tokens = usage.input_image_tokens or 0
    rendered: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {
            "text_tokens": max(0, usage.input_tokens - image_tokens),
            "image_tokens": image_tokens,
        },
    }
    if usage.output_image_tokens is not None:
        rendered["output_tokens_details"] = {
            "text_tokens": max(0, usage.output_tokens - usage.output_image_tokens),
            "image_tokens": usage.output_image_tokens,
        }
    return rendered


def _about(task: Task, size: str, output_format: object, at: int) -> dict[str, Any]:
    """What every event says of its picture."""
    quality, background = task.input.get("quality"), task.input.get("background")
    return {
        "created_at": at // 1000,
        "size": size,
        "quality": quality if quality in QUALITIES else "auto",
        "background": background if background in BACKGROUNDS else "auto",
        "output_format": output_format if output_format in STREAMED_FORMATS else "png",
    }


def _format_of(output: Output) -> str:
    return output.content_type.partition("/")[2]
