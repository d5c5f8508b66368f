"""The contract between the router and one adapter: what an adapter is given, and what it may answer.

An adapter turns a `Job` into HTTP exchanges through the one capability it gets, `Call`, and turns every reply into
`Done`, `Pending` or a `Fail` from `router.outcome`. It has no session, configuration, clock, store or logger. What the
router must know beforehand (kinds, sizes, counts, whether a key makes a repeat safe) is data, `AdapterFacts`.
Floor 0: standard library only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from math import isfinite
from typing import Any, Protocol

from router.outcome import Fail


class Kind(StrEnum):
    """What is asked for (contract section 1)."""

    IMAGE_GENERATION = "image.generation"
    IMAGE_EDIT = "image.edit"
    IMAGE_VARIATION = "image.variation"
    VIDEO_GENERATION = "video.generation"
    CHAT_COMPLETION = "chat.completion"

    @property
    def family(self) -> str:
        """`image`, `video` or `chat`: the word that a model's `kind` in the YAML uses."""
        return self.value.partition(".")[0]


# -- what the wire does ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP exchange to make. `json` is encoded once by the wire. Secrets live in `headers` only."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    max_reply_bytes: int = 32 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer that arrived whole.

    `headers` have lower-case names. `data` is the decoded JSON, None when the body is not JSON; `text` is then its
    first 2,000 characters, for a detail line.
    """

    status: int
    headers: Mapping[str, str]
    data: Any
    text: str = ""
    is_json: bool = True


@dataclass(frozen=True, slots=True)
class Broken:
    """No whole answer. `sent` is whether request headers had left this machine: after that the outcome is unknown."""

    sent: bool
    timed_out: bool
    detail: str


Call = Callable[[Request], Awaitable["Reply | Broken"]]


# -- what an adapter is asked ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """What one attempt must produce.

    `model` is the upstream's own name. `input` holds the caller's fields (prompt, size, quality, n, ...) without the
    extras of contract 5.4 and already without fields that the adapter does not take. `attempt_key` is unique to the
    task and part and stays the same when the same target is tried again: the idempotency key, where one is honoured.
    """

    attempt_key: str
    kind: Kind
    model: str
    input: Mapping[str, Any]
    base_url: str
    credential: str
    now: int

    @property
    def n(self) -> int:
        """How many outputs are asked for."""
        value = self.input.get("n")
        return value if isinstance(value, int) else 1


@dataclass(frozen=True, slots=True)
class Handle:
    """The upstream's own name for an accepted job, plus what is needed to poll it (string values, stored as JSON)."""

    remote_id: str
    fields: Mapping[str, str] = field(default_factory=dict)


# -- what an adapter may answer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Media:
    """One output as the upstream hands it over: a URL to fetch or base64 text. Exactly one of the two is set."""

    url: str | None = None
    b64: str | None = None
    revised_prompt: str | None = None

    def __post_init__(self) -> None:
        """Refuse a media record without a source or with two."""
        if (self.url is None) == (self.b64 is None):
            msg = "a media record has either a url or base64 text"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the upstream says it used. None means it did not say."""

    input_tokens: int | None = None
    input_image_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    output_image_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The job is finished and the upstream has delivered. `cost_nanos` is its own amount, None when it named none."""

    media: tuple[Media, ...]
    usage: Usage = Usage()
    cost_nanos: int | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """The job is accepted and not finished. `progress` 0-100 or None; `after_s` is the upstream's own wish, or None."""

    handle: Handle
    progress: int | None = None
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A poll failed. It says nothing about the job: the flow polls again, backing off (contract 6, last row).

    `refused`: the credential was not accepted; if a reload has replaced it, the flow polls with the one now in force.
    """

    detail: str
    after_s: float | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """The upstream does not know the job id (just now). The flow believes it after three in a row."""

    detail: str


Submitted = Done | Pending | Fail
Polled = Done | Pending | Trouble | Missing | Fail


REST_MAX_S = 3600.0


def rest_asked(headers: Mapping[str, str], now: int) -> float | None:
    """Read how long the upstream asks us to stay away, in seconds: `retry-after-ms`, else `retry-after` (or a date).

    None when nothing usable was said: negative, not a number, a date in the past. Longer than an hour counts as an
    hour; the policy clamps further (contract 6, Retry). Sources: RFC 9110 10.2.3; `retry-after-ms` openai-images.md 7.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            try:
                when = parsedate_to_datetime(text)
                # The asctime form names no zone, and RFC 9110 says that it is UTC.
                aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
                seconds = aware.timestamp() - now / 1000
            except (ValueError, TypeError, OverflowError):
                continue
        if isfinite(seconds) and seconds > 0:
            return min(seconds, REST_MAX_S)
    return None


# -- what the router knows of an adapter beforehand ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which `size` values (WIDTHxHEIGHT) a target honours. All limits in pixels; `named` are accepted as they are."""

    named: frozenset[str] = frozenset()
    multiple: int = 1
    min_side: int = 1
    max_side: int = 0
    max_pixels: int = 0
    max_ratio: float = 0.0

    def fits(self, size: str) -> bool:
        """Tell whether the size can be honoured exactly."""
        if size in self.named:
            return True
        sides = parse_size(size)
        if sides is None or self.max_side == 0:
            return False
        short, long = min(sides), max(sides)
        return (
            all(side % self.multiple == 0 for side in sides)
            and short >= self.min_side
            and long <= self.max_side
            and (self.max_pixels == 0 or short * long <= self.max_pixels)
            and (self.max_ratio == 0 or long <= short * self.max_ratio)
        )


def parse_size(size: str) -> tuple[int, int] | None:
    """Read `WIDTHxHEIGHT` into two positive numbers of at most five digits, else None."""
    width, cross, height = size.partition("x")
    if (
        not cross
        or not size.isascii()
        or not width.isdecimal()
        or not height.isdecimal()
        or len(width) > 5
        or len(height) > 5
    ):
        return None
    sides = int(width), int(height)
    return sides if min(sides) > 0 else None


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one upstream model can do. `fields` None means: every field is passed on as it came."""

    kinds: frozenset[Kind]
    max_n: int = 1
    sizes: Sizes | None = None
    fields: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What configuration and policy must know of an adapter.

    `abilities` maps an upstream model name or a prefix ending in `*` to what it can do; `"*"` is the rest.
    `idempotent`: a repeat with the same `attempt_key` at the same account is not paid twice (the provider says so).
    `refusals_free`: a refusal is documented as not charged. `polls_every_s` is the first wait between polls.
    """

    slug: str
    base_url: str | None
    abilities: Mapping[str, Abilities]
    idempotent: bool = False
    refusals_free: bool = False
    cancels: bool = False
    polls_every_s: float = 2.0

    def of_model(self, model: str) -> Abilities:
        """Find the abilities of an upstream model: its own entry, else the longest matching prefix."""
        exact = self.abilities.get(model)
        if exact is not None:
            return exact
        prefixes = [name for name in self.abilities if name.endswith("*") and model.startswith(name[:-1])]
        return self.abilities[max(prefixes, key=len)]


class Adapter(Protocol):
    """One upstream dialect. Instances hold nothing; one serves all attempts at once."""

    facts: AdapterFacts

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Make the one paid request of an attempt."""

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after an accepted job. Costs nothing."""

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Ask the upstream to stop the job; None when it has no cancel or did not confirm, and polling goes on."""
