"""An order for an answer in the OpenAI chat dialect, and the rules by which a server takes or refuses it.

Pure: parsed fields in, a `ChatOrder` or an `Invalid` out. Fields that the rules do not name are passed over, as most
gateways do. Tokens are counted by a rule of thumb, the same one on every run, so that tests about cost are stable.
Source: the provider file of the OpenAI chat API, sections 2 and 5.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from providers.simulated.body_fields import (
    FieldError,
    Fields,
    Invalid,
    check_amount,
    read_flag,
    read_number,
    read_text,
    read_word,
)

CONTEXT_TOKENS = 128_000
"""Tokens of all messages together that a model takes; more is context_length_exceeded."""
MESSAGES_MAX = 2048
CHOICES_MAX = 128
MESSAGE_TOKENS = 4
"""What a message costs beside its text."""
PART_TOKENS = 85
"""What a part that is no text costs: a picture at low detail."""

ROLES = ("system", "developer", "user", "assistant", "tool")
PARTS = ("text", "image_url", "input_audio", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOrder:
    """A valid order. prompt: the text of the last message of the user; n: answers wanted; tokens_max: where an answer
    is cut, None if nowhere; tool: the function that has to be called, None for an answer in words; in_json: the answer
    is to be a JSON object.
    """

    model: str
    prompt: str
    n: int
    tokens_in: int
    tokens_max: int | None
    stream: bool
    include_usage: bool
    tool: str | None
    in_json: bool


def read_chat(fields: Fields, *, models: Collection[str] | None) -> ChatOrder | Invalid:
    """Check the fields of a body. models: the only ones known, or None."""
    try:
        return _read(fields, models)
    except FieldError as found:
        return found.invalid


def count_tokens(text: str) -> int:
    """Four characters are a token."""
    return -(-len(text) // 4)


def _read(fields: Fields, models: Collection[str] | None) -> ChatOrder:
    model = read_text(fields, "model")
    if models is not None and model not in models:
        raise FieldError(f"The model '{model}' does not exist.", "model", "model_not_found", 404)
    prompt, tokens_in = _read_messages(fields)
    if tokens_in > CONTEXT_TOKENS:
        message = f"This model's maximum context length is {CONTEXT_TOKENS} tokens; the messages hold {tokens_in}."
        raise FieldError(message, "messages", "context_length_exceeded")
    for name, least, most in _AMOUNTS:
        check_amount(fields, name, least, most)
    stream = read_flag(fields, "stream")
    options = fields.get("stream_options")
    if options is not None and not stream:
        raise FieldError("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if options is not None and not isinstance(options, dict):
        raise FieldError("Invalid type for 'stream_options': expected an object.", "stream_options")
    newer = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    return ChatOrder(
        model=model,
        prompt=prompt,
        n=read_number(fields, "n", 1, CHOICES_MAX, 1),
        tokens_in=tokens_in,
        tokens_max=read_number(fields, newer, 1, CONTEXT_TOKENS, CONTEXT_TOKENS) if fields.get(newer) else None,
        stream=stream,
        include_usage=read_flag(options or {}, "include_usage"),
        tool=_read_tool(fields),
        in_json=_reads_json(fields),
    )


_AMOUNTS = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("max_tokens", 1, CONTEXT_TOKENS),
    ("max_completion_tokens", 1, CONTEXT_TOKENS),
)


def _read_messages(fields: Fields) -> tuple[str, int]:
    """The text of the user's last message, and the tokens of all messages."""
    messages = fields.get("messages")
    if messages is None:
        raise FieldError("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MESSAGES_MAX:
        raise FieldError(f"Invalid 'messages': expected a list of 1 to {MESSAGES_MAX} messages.", "messages")
    prompt, tokens = "", 3
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise FieldError(f"Invalid type for '{where}': expected an object.", where)
        if message.get("role") not in ROLES:
            raise FieldError(f"Invalid value for '{where}.role'.", f"{where}.role")
        text, others = _read_content(message, f"{where}.content")
        tokens += MESSAGE_TOKENS + count_tokens(text) + others * PART_TOKENS
        if message["role"] == "user":
            prompt = text
    return prompt, tokens


def _read_content(message: Mapping[str, Any], where: str) -> tuple[str, int]:
    """A message's text, and how many parts are none."""
    content = message.get("content")
    if isinstance(content, str):
        return content, 0
    if content is None and message["role"] == "assistant":
        return "", 0
    if not isinstance(content, list) or not content:
        raise FieldError(f"Invalid type for '{where}': expected a string or a list of parts.", where)
    texts: list[str] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            raise FieldError(f"Invalid value for '{where}[{index}].type'.", f"{where}[{index}].type")
        if part["type"] == "text":
            texts.append(read_text(part, "text"))
    return "\n".join(texts), len(content) - len(texts)


def _read_tool(fields: Fields) -> str | None:
    """The function that the answer has to call: the one that tool_choice names, or under `required` the first."""
    tools, choice = fields.get("tools"), fields.get("tool_choice")
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FieldError("Invalid type for 'tools': expected a list of objects.", "tools")
    names = [tool["function"].get("name") for tool in tools if isinstance(tool.get("function"), dict)]
    if isinstance(choice, dict):
        named = choice.get("function")
        wanted = named.get("name") if isinstance(named, dict) else None
        if wanted not in names:
            raise FieldError("Invalid 'tool_choice': no such tool.", "tool_choice")
        return str(wanted)
    return str(names[0]) if choice == "required" and names else None


def _reads_json(fields: Fields) -> bool:
    wanted = fields.get("response_format")
    if wanted is None:
        return False
    if not isinstance(wanted, dict):
        raise FieldError("Invalid type for 'response_format': expected an object.", "response_format")
    return read_word(wanted, "type", ("text", "json_object", "json_schema"), "text") != "text"
