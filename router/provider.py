"""The contract between the router and one adapter: what an adapter is given, and what it may answer.

An adapter turns a `Job` into HTTP exchanges through the one capability it gets (`Call`, or `Listen` where an answer is
streamed) and turns every reply into `Done`, `Pending` or a `Fail` from `router.outcome`. It has no session,
configuration, clock, store or logger, and never sees the bytes of an input: it says where they go (`Inline`, `Part`)
and the wire puts them there. What the router must know beforehand is data, `AdapterFacts`; the three verbs that not
every provider has (`stream`, `probe`, `verify`) are promised there. Floor 0: standard library only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from math import isfinite
from typing import Any, Protocol

from router.geometry import Sizes
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


# -- input files ---------------------------------------------------------------------------------------------------


class Role(StrEnum):
    """What an input file is for."""

    IMAGE = "image"
    MASK = "mask"
    FIRST_FRAME = "first_frame"
    LAST_FRAME = "last_frame"


@dataclass(frozen=True, slots=True)
class Source:
    """An input file of a job: bytes that we keep (`key` in the vault, `size` in bytes), or a `url` of the caller's.

    Exactly one of `key` and `url` is set. `content_type` is what the bytes say they are, octet-stream where unknown.
    """

    role: Role
    key: str | None = None
    url: str | None = None
    content_type: str = "application/octet-stream"
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse a file without a place or with two."""
        if (self.key is None) == (self.url is None):
            msg = "an input file has either a key or a url"
            raise ValueError(msg)

    @property
    def filename(self) -> str:
        """A name for a multipart part; some servers want an extension."""
        extension = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "video/mp4": "mp4"}
        return f"{self.role.value}.{extension.get(self.content_type, 'bin')}"


@dataclass(frozen=True, slots=True)
class Inline:
    """Stands in a request's JSON for the base64 of a kept file; `data_uri` puts `data:TYPE;base64,` before it."""

    source: Source
    data_uri: bool = True


def place(source: Source) -> str | Inline:
    """Say a file where a URL or a data URI is taken: the caller's URL as it is, kept bytes as a data URI."""
    return source.url if source.url is not None else Inline(source)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body: a text field, or a kept file."""

    name: str
    value: str | Source


# -- what the wire does ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP exchange to make. Secrets live in `headers` only.

    At most one of `json` (encoded once by the wire; it may hold `Inline`) and `form` (multipart) is set.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    form: tuple[Part, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. `data` is its decoded JSON, None when it is not JSON; `text` is the data as it came."""

    name: str
    data: Any
    text: str = ""


class Stream(Protocol):
    """An answer of status 2xx that arrives event by event (`text/event-stream`)."""

    status: int
    headers: Mapping[str, str]

    def events(self) -> AsyncGenerator[Event | Broken, None]:
        """The events as they arrive. A stream that is cut, stalls or outgrows its bound ends with a `Broken`."""


Call = Callable[[Request], Awaitable["Reply | Broken"]]
Listen = Callable[[Request], AbstractAsyncContextManager["Stream | Reply | Broken"]]
"""Make an exchange whose answer may be a stream; an answer that is none comes whole."""


# -- what an adapter is asked ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """What one attempt must produce.

    `model` is the upstream's own name. `input` holds the caller's fields (prompt, size, quality, n, ...) without the
    extras of contract 5.4, without files and already without fields that the adapter does not take; `files` are the
    input files in the caller's order. A target that makes fewer at a time than a task wants gets it in parts: `n` is
    then that of the part. `attempt_key` is unique to the task and part and stays the same when the same target is tried
    again: the idempotency key, where one is honoured. `callback_url` is where the upstream may wake us, None if it
    shall not. `remix_of` is the upstream's own name of the finished film to be made anew with another prompt, None
    where none is; `input` then says how long and large that film was.
    """

    attempt_key: str
    kind: Kind
    model: str
    input: Mapping[str, Any]
    base_url: str
    credential: str
    now: int
    files: tuple[Source, ...] = ()
    callback_url: str | None = None
    remix_of: str | None = None

    def files_of(self, role: Role) -> tuple[Source, ...]:
        """The input files for one purpose."""
        return tuple(one for one in self.files if one.role is role)

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
    """One output as the upstream hands it over: a URL to fetch, base64 text, or the JSON of a chat completion.

    Exactly one of `url`, `b64` and `document` is set. `headers` go with the fetch, and only to the origin of the
    provider's base_url (a content endpoint wants the key; a redirect elsewhere must not get it).
    """

    url: str | None = None
    b64: str | None = None
    document: Mapping[str, Any] | None = None
    revised_prompt: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse a media record without a source or with two."""
        if sum(one is not None for one in (self.url, self.b64, self.document)) != 1:
            msg = "a media record has one of a url, base64 text and a document"
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


@dataclass(frozen=True, slots=True)
class Partial:
    """A preview of output `index`; what is paid for comes with `Done`."""

    index: int
    media: Media


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of a chat completion, in OpenAI's form, to be passed on as it is."""

    data: Mapping[str, Any]


Submitted = Done | Pending | Fail
Polled = Done | Pending | Trouble | Missing | Fail
Streamed = Partial | Delta | Done | Fail


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
class Abilities:
    """What one upstream model can do.

    `fields` are the caller's fields that it takes; None means that every field is passed on as it came. `max_images` is
    how many reference images it takes (role `image`), `roles` which other files. `takes_urls`: it fetches a caller's
    URL itself; otherwise the router hands it the bytes. `seconds` are the lengths of film that it makes, None: any.
    `remixes`: it makes a film of its own anew by its job's id (`Job.remix_of`).
    """

    kinds: frozenset[Kind]
    max_n: int = 1
    sizes: Sizes | None = None
    fields: frozenset[str] | None = None
    max_images: int = 0
    roles: frozenset[Role] = frozenset()
    takes_urls: bool = False
    seconds: frozenset[int] | None = None
    remixes: bool = False


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What configuration and policy must know of an adapter.

    `abilities` maps an upstream model name or a prefix ending in `*` to what it can do; `"*"` is the rest.
    `idempotent`: a repeat with the same `attempt_key` at the same account is not paid twice (the provider says so).
    `refusals_free`: a refusal is documented as not charged. `polls_every_s` is the first wait between polls.
    `streams`: the kinds for which it has `stream`. `probes`: it has a free call that tells whether the provider is up.
    `webhooks`: it can be told where to wake us, and has `verify`; `webhook_keys_url` is where its public keys are
    published, None when a shared secret signs. `lacks` says why the provider has nothing in a column of the matrix in
    docs/providers.md (generate, edit, video, poll, cancel, webhook, streaming, probe).
    """

    slug: str
    base_url: str | None
    abilities: Mapping[str, Abilities]
    idempotent: bool = False
    refusals_free: bool = False
    cancels: bool = False
    polls_every_s: float = 2.0
    streams: frozenset[Kind] = frozenset()
    probes: bool = False
    webhooks: bool = False
    webhook_keys_url: str | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)

    def of_model(self, model: str) -> Abilities:
        """Find the abilities of an upstream model: its own entry, else the longest matching prefix."""
        exact = self.abilities.get(model)
        if exact is not None:
            return exact
        prefixes = [name for name in self.abilities if name.endswith("*") and model.startswith(name[:-1])]
        return self.abilities[max(prefixes, key=len)]


@dataclass(frozen=True, slots=True)
class Account:
    """Who asks, where no job is at hand."""

    base_url: str
    credential: str
    now: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook that arrived: lower-case headers and the raw body, with what it is checked against.

    `secret` is the one that the operator configured, "" when none is; `keys` the published key set (decoded JSON), None
    when the provider publishes none or it could not be had.
    """

    headers: Mapping[str, str]
    body: bytes
    secret: str
    keys: Any
    now: int


class Adapter(Protocol):
    """One upstream dialect. Instances hold nothing; one serves all attempts at once."""

    facts: AdapterFacts

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Make the one paid request of an attempt."""

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after an accepted job. Costs nothing."""

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Ask the upstream to stop the job; None when it has no cancel or did not confirm, and polling goes on."""


class Streaming(Protocol):
    """The verb of an adapter whose facts name a kind in `streams`."""

    def stream(self, job: Job, listen: Listen) -> AsyncGenerator[Streamed, None]:
        """Make the one paid request of an attempt and tell what arrives; the last word is one `Done` or `Fail`."""


class Probing(Protocol):
    """The verb of an adapter whose facts say `probes`."""

    async def probe(self, account: Account, call: Call) -> Fail | None:
        """Ask the provider for something that costs nothing; None when it answered well."""


class Hearing(Protocol):
    """The verb of an adapter whose facts say `webhooks`."""

    def verify(self, delivery: Delivery) -> bool:
        """Tell whether the provider signed this; an empty secret or a missing key set verifies nothing.

        What a webhook says is never believed: a verified one only wakes the poll (architecture section 4).
        """
