"""The transcripts of the adapters (`<slug>.yaml`) as values, and the scripted call that plays one back.

An exchange says what must be sent, what comes back and what must be concluded; every figure stands in the YAML. This
file knows no provider.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from providers import load
from router.provider import Broken, Handle, Job, Kind, Polled, Reply, Request, Submitted

NOW = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
MANDATORY = (
    *("accepted", "pending", "done", "bad_request", "content_refused", "auth", "throttled", "outage", "garbled"),
    *("job_failed", "job_lost"),
)
# What a provider without jobs cannot show. It must say so (`cannot`), and show what it makes of such an answer.
ONLY_WITH_JOBS = frozenset({"accepted", "pending", "job_failed", "job_lost"})


@dataclass
class Script:
    """A call that gives one prepared answer and keeps what was sent. Without an answer nothing may be sent."""

    answer: Reply | Broken | None
    sent: list[Request] = field(default_factory=list)

    async def __call__(self, request: Request) -> Reply | Broken:
        self.sent.append(request)
        assert self.answer is not None, f"{request.method} {request.url} was sent where nothing may be"
        return self.answer


@dataclass(frozen=True)
class Exchange:
    """One recorded exchange: a submit, or a poll if there is a handle."""

    slug: str
    name: str
    job: Job
    handle: Handle | None
    answer: Reply | Broken | None
    spec: Mapping[str, Any]

    def play(self) -> tuple[Submitted | Polled, list[Request]]:
        """Let the adapter take its turn; return what it concluded and what it sent."""
        adapter, script = load(self.slug), Script(self.answer)
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
    return (_exchange(slug, spec["row"], {**spec, "reply": spec}) for spec in read(slug)["errors"])


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
    )


def reply_of(spec: Mapping[str, Any]) -> Reply:
    """Build the answer that the wire would give: `json`, `text`, or neither for an empty body."""
    return Reply(
        status=spec["status"],
        headers=spec.get("headers", {}),
        data=spec.get("json"),
        text=spec.get("text", ""),
        is_json="json" in spec,
    )


def _exchange(slug: str, name: str, spec: Mapping[str, Any]) -> Exchange:
    answer: Reply | Broken | None = None
    if "broken" in spec:
        answer = Broken(**spec["broken"])
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
