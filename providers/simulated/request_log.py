"""What a simulated provider was asked: the latest requests, and counts of all of them.

It keeps no secret (the key's header is masked) and no large body (long texts are cut), and it has a bound. Tests read
it to see what an adapter sent; people read it at `/_simulator/requests`.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from aiohttp import web

TEXT_KEPT = 1000
"""Characters of any one text of a body that the log keeps."""
BODY_DEPTH = 8
"""Levels of a body that the log keeps."""
SECRET_HEADERS = frozenset({"authorization", "x-key", "x-api-key", "x-goog-api-key", "cookie"})
SECRET_QUERY = frozenset({"key"})


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. at_ms: arrival; body: the parsed fields, texts cut; status: None while unanswered; fault: what it
    met.
    """

    number: int
    at_ms: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None
    status: int | None = None
    fault: str | None = None


class RequestLog:
    """The latest requests, the oldest first, and `total`, which counts those too that the log has let go."""

    def __init__(self, kept: int) -> None:
        self.total = 0
        self.answered: Counter[int] = Counter()
        self._kept = kept
        self._seen: OrderedDict[int, Seen] = OrderedDict()

    def __iter__(self) -> Iterator[Seen]:
        return iter(tuple(self._seen.values()))

    def __len__(self) -> int:
        return len(self._seen)

    def arrive(self, request: web.Request, at_ms: int) -> int:
        """Log a request and return its number, by which more is told later."""
        self.total += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        masked = {name: "***" if name in SECRET_HEADERS else value for name, value in headers.items()}
        query = {name: "***" if name in SECRET_QUERY else value for name, value in request.query.items()}
        seen = Seen(self.total, at_ms, request.method, request.path, query, masked)
        self._seen[seen.number] = seen
        while len(self._seen) > self._kept:
            self._seen.popitem(last=False)
        return seen.number

    def describe(self, number: int, *, body: object = None, fault: str | None = None) -> None:
        """Add what was found out about a request: its parsed body, the fault it met."""
        if number in self._seen:
            seen = self._seen[number]
            self._seen[number] = replace(
                seen, body=seen.body if body is None else _cut(body), fault=seen.fault if fault is None else fault
            )

    def answer(self, number: int, status: int) -> None:
        """Note the status that a request was answered with."""
        self.answered[status] += 1
        if number in self._seen:
            self._seen[number] = replace(self._seen[number], status=status)

    def as_json(self) -> dict[str, Any]:
        """The log as JSON: `total`, `answered` by status, and the kept requests."""
        return {
            "total": self.total,
            "answered": {str(status): count for status, count in sorted(self.answered.items())},
            "requests": [asdict(seen) for seen in self],
        }


def _cut(value: object, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value[:TEXT_KEPT]
    if isinstance(value, dict) and depth < BODY_DEPTH:
        return {str(name)[:TEXT_KEPT]: _cut(item, depth + 1) for name, item in list(value.items())[:100]}
    if isinstance(value, list) and depth < BODY_DEPTH:
        return [_cut(item, depth + 1) for item in value[:100]]
    return value if isinstance(value, bool | int | float | None) else "..."
