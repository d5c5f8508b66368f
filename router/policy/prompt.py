"""How long a chat completion may get, as far as its request tells: what an estimate of its price is made of.

Reads the fields of the caller's body (openai-chat.md section 2). Text counts by its characters; a picture, a sound or a
file in a message counts as `PART_CHARS`, since only the upstream knows its tokens. Knows no prices. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A picture in high detail is some 1,500 tokens, at `price.CHARS_PER_TOKEN`.
PART_CHARS = 4_500
HEAVY_PARTS = frozenset({"image_url", "input_audio", "file"})
PROMPT_FIELDS = ("messages", "tools", "functions", "response_format", "prediction")


def count_prompt_chars(body: Mapping[str, Any]) -> int:
    """Count the characters that an upstream has to read, names of fields left out."""
    count, todo = 0, [body.get(name) for name in PROMPT_FIELDS]
    while todo:
        value = todo.pop()
        match value:
            case str():
                count += len(value)
            case dict() if value.get("type") in HEAVY_PARTS:
                count += PART_CHARS
            case dict():
                todo.extend(value.values())
            case list():
                todo.extend(value)
            case _:
                continue
    return count


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """Read how many tokens one answer may have; None when the caller sets no bound. The newer name counts first."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
