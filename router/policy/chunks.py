"""Chunks of a chat completion in OpenAI's form: what they say of usage, whether they say anything, how to make some.

An adapter tells chunks in this form whatever its upstream speaks (`provider.Delta`). Usage is asked for with every
stream, because the bill is made of it, and hidden from a caller who did not ask (openai-chat.md section 4). Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.provider import Usage

HEADS = ("id", "created", "model", "service_tier", "system_fingerprint")
COUNT_MAX = 10**12


def usage_in(chunk: Mapping[str, Any]) -> Usage | None:
    """Read the usage that a chunk, or a whole completion, tells; None when it tells none."""
    said = chunk.get("usage")
    if not isinstance(said, dict):
        return None
    details = said.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(_count(said.get("prompt_tokens")), None, cached, _count(said.get("completion_tokens")))


def without_usage(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Take out the usage: None for the chunk that holds nothing else."""
    if "usage" not in chunk:
        return chunk
    if chunk["usage"] is not None and not chunk.get("choices"):
        return None
    return {name: value for name, value in chunk.items() if name != "usage"}


def says_something(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk holds anything of an answer: more than who speaks, or why it ended."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("finish_reason") is not None:
            return True
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
            return True
    return False


def chunks_of(document: Mapping[str, Any], *, usage_wanted: bool) -> Iterator[Mapping[str, Any]]:
    """Tell a whole completion as a stream would: one chunk with all of it, one why it ended, one with the usage."""
    heads = {"object": "chat.completion.chunk", **{name: document[name] for name in HEADS if name in document}}
    choices = [one for one in document.get("choices") or () if isinstance(one, dict)]
    said = [
        {"index": one.get("index", 0), "delta": _delta_of(one), "logprobs": one.get("logprobs"), "finish_reason": None}
        for one in choices
    ]
    ended = [
        {"index": one.get("index", 0), "delta": {}, "logprobs": None, "finish_reason": one.get("finish_reason")}
        for one in choices
    ]
    yield {**heads, "choices": said}
    yield {**heads, "choices": ended}
    if usage_wanted and document.get("usage") is not None:
        yield {**heads, "choices": [], "usage": document["usage"]}


# -- parts ------------------------------------------------------------------------------------------------------------


def _delta_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls) if isinstance(call, dict)]
    return delta


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None
