"""The transcripts of the adapters (`<slug>.yaml`) as values, and the scripted call that plays one back.

An exchange says what must be sent, what comes back and what must be concluded; every figure stands in the YAML. This
file knows no provider.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from providers import load
from router.provider import (
    Account,
    Broken,
    Delta,
    Event,
    Handle,
    Inline,
    Job,
    Kind,
    Part,
    Partial,
    Polled,
    Reply,
    Request,
    Role,
    Source,
    Streamed,
    Submitted,
)

NOW = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
MANDATORY = (
    *("accepted", "pending", "done", "bad_request", "content_refused", "auth", "throttled", "outage", "garbled"),
    *("job_failed", "job_lost"),
)
# What a provider without jobs cannot show. It must say so (`cannot`), and show what it makes of such an answer.
ONLY_WITH_JOBS = frozenset({"accepted", "pending", "job_failed", "job_lost"})


@dataclass
class Script:
    """A call that gives prepared answers, the last one again and again, and keeps what was sent.

    Without an answer nothing may be sent.
    """

    answer: Reply | Broken | list[Reply | Broken] | None
    sent: list[Request] = field(default_factory=list)

    async def __call__(self, request: Request) -> Reply | Broken:
        self.sent.append(request)
        assert self.answer is not None, f"{request.method} {request.url} was sent where nothing may be"
        if isinstance(self.answer, list):
            return self.answer[min(len(self.sent), len(self.answer)) - 1]
        return self.answer


@dataclass
class StreamScript:
    """A listen that gives one prepared stream, or an answer that is none, and keeps what was sent."""

    answer: Reply | Broken | list[Event | Broken]
    sent: list[Request] = field(default_factory=list)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def __call__(self, request: Request) -> AsyncIterator[Any]:
        self.sent.append(request)
        yield self if isinstance(self.answer, list) else self.answer

    async def events(self) -> AsyncGenerator[Event | Broken, None]:
        assert isinstance(self.answer, list)
        for event in self.answer:
            yield event


@dataclass(frozen=True)
class Exchange:
    """One recorded exchange: a submit, a poll if there is a handle, or what `verb` says (cancel, probe, stream)."""

    slug: str
    name: str
    job: Job
    handle: Handle | None
    answer: Any
    spec: Mapping[str, Any]

    def play(self) -> tuple[Submitted | Polled | list[Streamed], list[Request]]:
        """Let the adapter take its turn; return what it concluded and what it sent."""
        adapter: Any = load(self.slug)
        if self.spec.get("verb") == "stream":
            stream = StreamScript(self.answer)
            return drive(_gather(adapter.stream(self.job, stream))), stream.sent
        script = Script(self.answer)
        if self.spec.get("verb") == "cancel":
            return drive(adapter.cancel(self.handle, self.job, script)), script.sent
        if self.spec.get("verb") == "probe":
            account = Account(self.job.base_url, self.job.credential, self.job.now)
            return drive(adapter.probe(account, script)), script.sent
        if self.handle is not None:
            return drive(adapter.poll(self.handle, self.job, script)), script.sent
        return drive(adapter.submit(self.job, script)), script.sent


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing but a scripted call, which is all that an adapter may wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the adapter waits for something that is not its call")


def module_of(slug: str) -> ModuleType:
    """Return the adapter's module, for its pure `fail` and `usage`."""
    return import_module(f"providers.{slug}")


@cache
def read(slug: str) -> Mapping[str, Any]:
    """Read a transcript as it stands."""
    return yaml.safe_load((Path(__file__).parent / f"{slug}.yaml").read_text(encoding="utf-8"))


def exchanges_of(slug: str) -> Iterator[Exchange]:
    """Yield the recorded exchanges."""
    return (_exchange(slug, name, spec) for name, spec in read(slug)["exchanges"].items())


def errors_of(slug: str) -> Iterator[Exchange]:
    """Yield the cases of the error table; each is named by its row."""
    return (
        _exchange(slug, spec["row"], {**({"reply": spec} if "status" in spec else {}), **spec})
        for spec in read(slug)["errors"]
    )


def job_of(slug: str, **changes: Any) -> Job:
    """Build the transcript's ordinary job, with changes."""
    whole = read(slug)
    spec = {"kind": "image.generation", "base_url": whole["base_url"], **whole["job"], **changes}
    return Job(
        attempt_key="task_1-0",
        kind=Kind(spec["kind"]),
        model=spec["model"],
        input=spec["input"],
        base_url=spec["base_url"],
        credential=whole["credential"],
        now=NOW,
        files=tuple(Source(**{**one, "role": Role(one["role"])}) for one in spec.get("files", ())),
        callback_url=spec.get("callback_url"),
        remix_of=spec.get("remix_of"),
    )


def jobs_of(slug: str) -> Iterator[Job]:
    """Yield one job of each kind that the transcript shows: the first."""
    seen: set[Kind] = set()
    for one in exchanges_of(slug):
        if one.job.kind not in seen:
            seen.add(one.job.kind)
            yield one.job


def reply_of(spec: Mapping[str, Any]) -> Reply:
    """Build the answer that the wire would give: `json`, `text`, or neither for an empty body."""
    return Reply(
        status=spec["status"],
        headers=spec.get("headers", {}),
        data=spec.get("json"),
        text=spec.get("text", ""),
        is_json="json" in spec,
    )


def shown(request: Request) -> dict[str, Any]:
    """Write a request as the transcripts do: a kept file is `<key>`, as a data URI `data:TYPE;base64,<key>`."""
    return {
        "method": request.method,
        "url": request.url,
        "headers": dict(request.headers),
        "json": _show(request.json),
        "form": [[part.name, _show_part(part)] for part in request.form],
    }


def _show(value: Any) -> Any:
    match value:
        case Inline(source, data_uri):
            return f"data:{source.content_type};base64,<{source.key}>" if data_uri else f"<{source.key}>"
        case Mapping():
            return {name: _show(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_show(inner) for inner in value]
        case _:
            return value


def _show_part(part: Part) -> str:
    return part.value if isinstance(part.value, str) else f"<{part.value.key}>"


def tell_stream(told: list[Streamed]) -> list[Any]:
    """Write what a stream told, but for its last word: `partial INDEX`, or a chunk's data."""
    return [
        f"partial {one.index}" if isinstance(one, Partial) else one.data
        for one in told[:-1]
        if isinstance(one, Partial | Delta)
    ]


def _event(spec: Mapping[str, Any]) -> Event | Broken:
    if "broken" in spec:
        return Broken(**spec["broken"])
    return Event(spec.get("name", "message"), spec.get("data"), spec.get("text", ""))


async def _gather(stream: AsyncGenerator[Streamed, None]) -> list[Streamed]:
    return [one async for one in stream]


def _exchange(slug: str, name: str, spec: Mapping[str, Any]) -> Exchange:
    answer: Any = None
    if "broken" in spec:
        answer = Broken(**spec["broken"])
    elif "replies" in spec:
        answer = [reply_of(one) for one in spec["replies"]]
    elif "events" in spec:
        answer = [_event(one) for one in spec["events"]]
    elif "reply" in spec:
        answer = reply_of(spec["reply"])
    return Exchange(
        slug=slug,
        name=name,
        job=job_of(slug, **spec.get("job", {})),
        handle=Handle(**spec["handle"]) if "handle" in spec else None,
        answer=answer,
        spec=spec,
    )
