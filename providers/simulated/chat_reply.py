"""The answers of a seller in the OpenAI chat dialect: their words, tokens and cost, as one body or as chunks.

Pure: an order in, text and JSON out. An answer is a list of pieces; a piece is what one chunk of a stream carries and
counts as one token, so that what was streamed until a break can be counted, and charged.
Source: the provider file of the OpenAI chat API, sections 3 and 4. It lists no prices per token; those below are
OpenAI's public ones as they were last known, and only the simulated bill uses them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from providers.simulated.chat_order import ChatOrder
from providers.simulated.faults import FaultKind

ECHOED_CHARACTERS = 600
"""Characters of a prompt that an answer repeats."""
MILLION = Decimal(1_000_000)

REFUSAL = "I'm sorry, but I can't help with that request."

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatPrices:
    """US dollars per million tokens."""

    tokens_in: Decimal
    tokens_out: Decimal

    def price(self, tokens_in: int, tokens_out: int) -> Decimal:
        """What so many tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / MILLION


CHAT_PRICES: Sequence[tuple[str, ChatPrices]] = (
    ("gpt-5-nano", ChatPrices(Decimal("0.05"), Decimal("0.4"))),
    ("gpt-5-mini", ChatPrices(Decimal("0.25"), Decimal(2))),
    ("gpt-5", ChatPrices(Decimal("1.25"), Decimal(10))),
    ("gpt-4.1-mini", ChatPrices(Decimal("0.4"), Decimal("1.6"))),
    ("gpt-4.1", ChatPrices(Decimal(2), Decimal(8))),
    ("gpt-4o-mini", ChatPrices(Decimal("0.15"), Decimal("0.6"))),
    ("gpt-4o", ChatPrices(Decimal("2.5"), Decimal(10))),
)
"""By the beginning of the model's name, the first that fits."""
UNLISTED = ChatPrices(Decimal(1), Decimal(4))
"""The prices of a model that the list does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTerms:
    """What a seller says to an order. flat_usd: one price whatever the tokens, None to count them. first_token_s,
    token_s: unscaled seconds to the first piece of an answer and from there to each next one. finishes_alone: the work
    goes on, and is charged, when its client has left; else it stops, and what was made until then is charged.
    """

    prices: ChatPrices
    first_token_s: float
    token_s: float
    finishes_alone: bool
    flat_usd: Decimal | None = None

    def price(self, tokens_in: int, tokens_out: int) -> Decimal:
        """US dollars for so many tokens."""
        return self.prices.price(tokens_in, tokens_out) if self.flat_usd is None else self.flat_usd


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice. field: the member of the message that its pieces add up to."""

    index: int
    field: Literal["content", "refusal", "tool_calls"]
    pieces: tuple[str, ...]
    finish_reason: FinishReason
    tool: str = ""

    @property
    def text(self) -> str:
        """All pieces together."""
        return "".join(self.pieces)

    def delta(self, position: int) -> Body:
        """What the chunk of one piece adds to the message."""
        piece = self.pieces[position]
        if self.field != "tool_calls":
            return {self.field: piece}
        head = {"id": f"call_{self.index}", "type": "function"} if position == 0 else {}
        name = {"name": self.tool} if position == 0 else {}
        return {"tool_calls": [{"index": 0, **head, "function": name | {"arguments": piece}}]}

    def message(self) -> Body:
        """The whole message."""
        message: Body = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        if self.field == "tool_calls":
            function = {"name": self.tool, "arguments": self.text}
            return message | {"tool_calls": [{"id": f"call_{self.index}", "type": "function", "function": function}]}
        return message | {self.field: self.text}


def find_prices(model: str) -> ChatPrices:
    """The prices of a model."""
    return next((prices for prefix, prices in CHAT_PRICES if model.startswith(prefix)), UNLISTED)


def compose(order: ChatOrder, kind: FaultKind | None) -> tuple[Answer, ...]:
    """The answers to an order. A refusal is a message of its own kind; a filter cuts an answer that had begun."""
    match kind:
        case FaultKind.REFUSAL:
            return tuple(Answer(index, "refusal", _split(REFUSAL), "stop") for index in range(order.n))
        case FaultKind.EMPTY_DATA:
            return tuple(Answer(index, "content", (), "stop") for index in range(order.n))
        case FaultKind.CONTENT_MODERATED:
            answers = [_answer(order, index) for index in range(order.n)]
            return tuple(
                Answer(one.index, "content", one.pieces[: len(one.pieces) // 2], "content_filter") for one in answers
            )
        case _:
            return tuple(_answer(order, index) for index in range(order.n))


def write_body(order: ChatOrder, answers: Sequence[Answer], name: str, created_s: int) -> Body:
    """The reply of an order that is not streamed."""
    choices = [
        {"index": one.index, "finish_reason": one.finish_reason, "logprobs": None, "message": one.message()}
        for one in answers
    ]
    head = _head(order, name, created_s, "chat.completion")
    return head | {"choices": choices, "usage": write_usage(order.tokens_in, count_pieces(answers))}


def write_chunks(order: ChatOrder, answers: Sequence[Answer], name: str, created_s: int) -> Iterator[tuple[bool, Body]]:
    """The chunks of a stream in order, each with whether it carries a piece: the roles, the pieces of all answers in
    turn, the reasons for the end, and the usage if it was asked for.
    """
    head = _head(order, name, created_s, "chat.completion.chunk")
    usage: Body = {"usage": None} if order.include_usage else {}

    def chunk(index: int, delta: Mapping[str, Any], finish_reason: str | None) -> Body:
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
        return head | {"choices": [choice]} | usage

    for one in answers:
        opening = {"role": "assistant", "content": None if one.field == "tool_calls" else "", "refusal": None}
        yield False, chunk(one.index, opening, None)
    for position in range(max(len(one.pieces) for one in answers)):
        for one in answers:
            if position < len(one.pieces):
                yield True, chunk(one.index, one.delta(position), None)
    for one in answers:
        yield False, chunk(one.index, {}, one.finish_reason)
    if order.include_usage:
        yield False, head | {"choices": [], "usage": write_usage(order.tokens_in, count_pieces(answers))}


def count_pieces(answers: Sequence[Answer]) -> int:
    """The tokens of the answers together."""
    return sum(len(one.pieces) for one in answers)


def write_usage(tokens_in: int, tokens_out: int) -> Body:
    """The `usage` object."""
    nothing = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, **nothing},
    }


def _head(order: ChatOrder, name: str, created_s: int, kind: str) -> Body:
    known = {"id": name, "object": kind, "created": created_s, "model": order.model}
    return known | {"service_tier": "default", "system_fingerprint": None}


def _answer(order: ChatOrder, index: int) -> Answer:
    number = f" (answer {index + 1} of {order.n})" if order.n > 1 else ""
    text = f"This is {order.model}, simulated{number}. You wrote: {order.prompt[:ECHOED_CHARACTERS]}"
    if order.tool is not None:
        text = json.dumps({"echo": order.prompt[:ECHOED_CHARACTERS]})
    elif order.in_json:
        text = json.dumps({"answer": text})
    whole = _split(text)
    pieces = whole if order.tokens_max is None else whole[: order.tokens_max]
    if len(pieces) < len(whole):
        return Answer(index, "content" if order.tool is None else "tool_calls", pieces, "length", order.tool or "")
    if order.tool is not None:
        return Answer(index, "tool_calls", pieces, "tool_calls", order.tool)
    return Answer(index, "content", pieces, "stop")


def _split(text: str) -> tuple[str, ...]:
    # A word with the blanks before it is a piece; blanks at the very end are one too, so that nothing is lost.
    return tuple(re.findall(r"\s*\S+|\s+$", text))
