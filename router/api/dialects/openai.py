"""The OpenAI images reply (openai-images.md section 4, openai-sdk-compat.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.provider import Usage
from router.task import Task


def images(task: Task, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Render a succeeded image task. `data` holds one object per image, with `b64_json` or `url`."""
    reply: dict[str, Any] = {"created": (task.completed_at or task.updated_at) // 1000, "data": list(data)}
    if task.output:
        reply["output_format"] = task.output[0].content_type.partition("/")[2]
        if task.output[0].width is not None:
            reply["size"] = f"{task.output[0].width}x{task.output[0].height}"
    quality = task.input.get("quality")
    if isinstance(quality, str) and quality != "auto":
        reply["quality"] = quality
    usage = usage_of(task.usage)
    if usage is not None:
        reply["usage"] = usage
    return reply


def usage_of(usage: Usage | None) -> dict[str, Any] | None:
    """Render what the upstream said it used; None when it said nothing (unknown is not zero)."""
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    image_tokens = usage.input_image_tokens or 0
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {
            "text_tokens": max(0, usage.input_tokens - image_tokens),
            "image_tokens": image_tokens,
        },
    }
