"""The wire form of OpenAI's chat completions, whole and as server-sent events: requests, results, usage, refusals.

Fields go on as they came; only the streaming fields are the router's. A completion is kept as the JSON that it is. A
stream is passed on chunk by chunk and put together again beside it, so that its end has the same document. Usage is
asked for always, because it is what the bill is made of, and the chunk that holds nothing else is hidden from a caller
who did not ask (OpenAI API reference, Chat; types of the openai Python SDK 3.52). Pure: no call is made here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from providers.formats import failures, openai_stream
from providers.formats.failures import Ruling, Said, as_object, as_text
from providers.formats.openai_stream import Terms
from router.outcome import Billed, Fail, FailureKind
from router.provider import Broken, Delta, Done, Job, Kind, Media, Request, Stream, Streamed, Usage

CHATS = frozenset({Kind.CHAT_COMPLETION})
COUNT_MAX = 10**12
INDEX_MAX = 1000  # of choices and tool calls; nobody sends as many
END = "[DONE]"
HEADS = ("id", "created", "model", "service_tier", "system_fingerprint")

# Error codes of chat beside those of images; a prompt that is too long here may fit another model.
CODES: Mapping[str, Ruling] = MappingProxyType(
    {
        "context_length_exceeded": Ruling(FailureKind.UNSUPPORTED),
        # Azure's word, and that of gateways in front of it.
        "content_filter": Ruling(FailureKind.REFUSED),
    }
)


def ask(job: Job, url: str, *, streamed: bool = False) -> Request:
    """Write the request for a completion, to be answered whole or chunk by chunk."""
    ours = {"model", "stream", "stream_options"}
    body: dict[str, Any] = {"model": job.model}
    body |= {name: value for name, value in job.input.items() if value is not None and name not in ours}
    if streamed:
        body["stream"] = True
        body["stream_options"] = {**as_object(job.input.get("stream_options")), "include_usage": True}
    headers = {"Authorization": f"Bearer {job.credential}", "Accept": "application/json"}
    return Request("POST", url, headers, body)


def read_document(body: Any) -> Mapping[str, Any] | None:
    """Return a completion that has a message, None for anything else and for a refusal."""
    choices = _choices(body)
    if not any(isinstance(choice.get("message"), dict) for choice in choices) or refusal_of(body) is not None:
        return None
    return as_object(body)


def refusal_of(body: Any) -> str | None:
    """Return what a refusal says: every choice has `message.refusal`, or was stopped by the content filter."""
    choices = _choices(body)
    refusals = [as_object(choice.get("message")).get("refusal") for choice in choices]
    filtered = [choice.get("finish_reason") == "content_filter" for choice in choices]
    if not choices or not all(stopped or refusal for stopped, refusal in zip(filtered, refusals, strict=True)):
        return None
    said = next((as_text(refusal) for refusal in refusals if refusal), "")
    return said or "stopped by the content filter"


def tell_refusal(status: int, refusal: str, *, secret: str = "") -> Fail:
    """Put a refusal under HTTP 200 into a `Fail`; it is billed (provider notes, INDEX 4, row chat)."""
    said = Said(status, own=True, code="content_filter", message=refusal)
    return failures.tell(said, Ruling(FailureKind.REFUSED, billed=Billed.YES), secret=secret)


def read_usage(body: Any) -> Usage:
    """Read the usage block of a completion or of a chunk."""
    usage = as_object(as_object(body).get("usage"))
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(as_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


# -- the stream -------------------------------------------------------------------------------------------------------


async def follow(job: Job, stream: Stream, terms: Terms) -> AsyncGenerator[Streamed, None]:
    """Tell chunks as they come and end with one `Done` or `Fail`.

    A stream that ends, or is cut, before it said why it finished is truncated, and what became of it is unknown.
    """
    wanted = as_object(job.input.get("stream_options")).get("include_usage") is True
    made = Completion()
    ended = False
    async with aclosing(stream.events()) as events:
        async for event in events:
            if isinstance(event, Broken):
                if made.is_finished(job.n):
                    break
                yield openai_stream.tell_cut(event, terms, told=made.has_begun, secret=job.credential)
                return
            if event.text.strip() == END:
                ended = True
                break
            error = openai_stream.error_in(event)
            if error is not None:
                told = made.has_begun
                yield openai_stream.tell_error(stream.status, error, terms, told=told, secret=job.credential)
                return
            if not isinstance(event.data, dict):
                if event.data is None and not event.text:
                    continue
                garbled = Broken(sent=True, timed_out=False, detail="a chunk of the stream is garbled")
                yield openai_stream.tell_cut(garbled, terms, told=made.has_begun, secret=job.credential)
                return
            made.add(event.data)
            chunk = show(event.data, usage_wanted=wanted)
            if chunk is not None:
                yield Delta(chunk)
    yield _conclude(job, stream.status, made, terms, ended=ended)


def show(chunk: Mapping[str, Any], *, usage_wanted: bool) -> Mapping[str, Any] | None:
    """Hide the usage that only we asked for: the chunk that holds nothing else, and the member in the others."""
    if usage_wanted or "usage" not in chunk:
        return chunk
    if chunk["usage"] is not None and not chunk.get("choices"):
        return None
    return {name: value for name, value in chunk.items() if name != "usage"}


@dataclass(slots=True)
class Completion:
    """A completion that grows by chunks; `document` is what the whole answer would have been."""

    has_begun: bool = False
    _heads: dict[str, Any] = field(default_factory=dict)
    _usage: Any = None
    _choices: dict[int, _Choice] = field(default_factory=dict)

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in a chunk."""
        self._heads |= {name: chunk[name] for name in HEADS if chunk.get(name) is not None}
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for said in _choices(chunk):
            choice = self._choices.setdefault(_index(said), _Choice())
            choice.add(said)
            self.has_begun = self.has_begun or choice.has_begun

    def is_finished(self, n: int) -> bool:
        """Tell whether every choice that was asked for has said why it finished."""
        ended = [choice.finish_reason is not None for choice in self._choices.values()]
        return all(ended) and len(ended) >= max(1, n)

    def document(self) -> dict[str, Any]:
        """Put together the completion."""
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "finish_reason": choice.finish_reason,
                "logprobs": choice.logprobs or None,
            }
            for index, choice in sorted(self._choices.items())
        ]
        whole = {"object": "chat.completion", **self._heads, "choices": choices}
        return whole if self._usage is None else {**whole, "usage": self._usage}


# -- parts ------------------------------------------------------------------------------------------------------------


def _conclude(job: Job, status: int, made: Completion, terms: Terms, *, ended: bool) -> Done | Fail:
    document = made.document()
    refusal = refusal_of(document)
    if refusal is not None:
        return tell_refusal(status, refusal, secret=job.credential)
    if not ended and not made.is_finished(job.n):
        short = Broken(sent=True, timed_out=False, detail="the stream ended before it said why it finished")
        return openai_stream.tell_cut(short, terms, told=made.has_begun, secret=job.credential)
    if not document["choices"]:
        said = Said(status, own=True, message="the stream ended without a choice")
        return failures.tell(said, failures.judge(said, terms.dialect), secret=job.credential)
    return Done((Media(document=document),), read_usage(document), http_status=status)


@dataclass(slots=True)
class _Text:
    """Text that comes in pieces."""

    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    """One choice as it grows. Text is joined at the end; calls of tools are kept by their index."""

    finish_reason: str | None = None
    has_begun: bool = False
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    _said: dict[str, Any] = field(default_factory=dict)
    _calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, said: Mapping[str, Any]) -> None:
        reason = said.get("finish_reason")
        if isinstance(reason, str):
            self.finish_reason = reason
        for name, tokens in as_object(said.get("logprobs")).items():
            if isinstance(tokens, list):
                self.logprobs.setdefault(name, []).extend(tokens)
        for name, value in as_object(said.get("delta")).items():
            self.has_begun = self.has_begun or bool(value and name != "role")
            if name == "tool_calls" and isinstance(value, list):
                for call in map(as_object, value):
                    _grow(self._calls.setdefault(_index(call), {}), call)
            else:
                _grow(self._said, {name: value})

    def message(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": None, "refusal": None, **_join(self._said)}
        if self._calls:
            message["tool_calls"] = [_join(call) for _, call in sorted(self._calls.items())]
        return message


_WORDS = frozenset({"role", "id", "type", "name"})  # said whole, and sometimes again


def _grow(into: dict[str, Any], said: Mapping[str, Any], depth: int = 3) -> None:
    """Add what a delta says: text is continued, lists go on, objects are entered, anything else replaces."""
    for name, value in said.items():
        held = into.get(name)
        match value:
            case None:
                into.setdefault(name, None)
            case str() if name in _WORDS:
                into[name] = value or held
            case str():
                text = held if isinstance(held, _Text) else _Text()
                text.pieces.append(value)
                into[name] = text
            case list() if isinstance(held, list):
                held.extend(value)
            case list():
                into[name] = list(value)
            case dict() if depth:
                inner = held if isinstance(held, dict) else {}
                into[name] = inner
                _grow(inner, value, depth - 1)
            case _ if name != "index":
                into[name] = value
            case _:
                pass


def _join(grown: Mapping[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name, value in grown.items():
        match value:
            case _Text(pieces):
                joined[name] = "".join(pieces)
            case dict():
                joined[name] = _join(value)
            case _:
                joined[name] = value
    return joined


def _choices(body: Any) -> list[Mapping[str, Any]]:
    choices = as_object(body).get("choices")
    return [as_object(choice) for choice in choices[:INDEX_MAX]] if isinstance(choices, list) else []


def _index(said: Mapping[str, Any]) -> int:
    index = said.get("index")
    return index if isinstance(index, int) and 0 <= index < INDEX_MAX else 0


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None
