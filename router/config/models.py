"""The shape of the routing file and of the price catalogue: every key there is, how it is written, what it means.

Plain pydantic models that refuse unknown keys (contract section 6). A key that is left out is None here; its default is
that of the rule it is compiled to (`router.policy.rules`), so that a default stands in one place. The descriptions go
into the JSON Schema. What keys demand of each other is checked where they are compiled. Floor 1.
"""

from __future__ import annotations

from datetime import tzinfo
from decimal import Decimal
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from router.config.notation import (
    OneOrMore,
    ScalarOr,
    duration,
    hours,
    matching,
    pattern,
    rate,
    share,
    span,
    text,
    usd,
    whole,
    words,
    zone,
)
from router.policy import rules
from router.policy.rules import OnFailure, RetryUnknown, Scope, Strategy, Window
from router.task import Priority

CATALOGUE = "catalogue"
SURFACES = ("native", "openai", "dieyuyun", "pixapi", "worldrouter")
FAMILIES = ("image", "video", "chat")
LATER_STRATEGIES = ("fastest", "success", "balanced")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}"
_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"
_LIST_MAX = 1000
TENANT_NAME, TENANT_EXPECTED = _KEY, "the name of a tenant: letters, digits and . _ -"
METADATA_KEY = r"metadata\.\S{1,64}"

Name = Annotated[str, matching(_NAME, "a name of letters, digits and . _ : / @ + -")]
Key = Annotated[str, matching(_KEY, "a name of letters, digits and . _ -")]
MetadataKey = Annotated[str, matching(METADATA_KEY, "metadata.KEY, with a KEY of up to 64 characters")]
TenantKey = Annotated[str, matching(rf"\*|{_KEY}", "the name of one tenant, or * for those not named")]
Secret = Annotated[str, text("a key: ${NAME} or file:PATH", max_chars=8192)]
Address = Annotated[str, text("an address, http(s)://host[:port][/path]", max_chars=2048)]
Count = Annotated[int, whole(1, 100_000)]
Usd = Annotated[int, usd()]
UnitPrice = Annotated[int, usd(Decimal(10_000))]
RateWord = Annotated[rules.Rate, rate()]

Pattern = Annotated[str, pattern()]
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=_LIST_MAX), OneOrMore()]
Spans = Annotated[
    tuple[Annotated[tuple[int, int | None], span()], ...], Field(min_length=1, max_length=_LIST_MAX), OneOrMore()
]
Hours = Annotated[tuple[Annotated[tuple[int, int], hours()], ...], Field(min_length=1, max_length=24), OneOrMore()]
Priorities = Annotated[
    tuple[Annotated[Priority, words({level.word: level for level in Priority})], ...],
    Field(min_length=1, max_length=len(Priority)),
    OneOrMore(),
]

Family = Annotated[Literal["image", "video", "chat"], words({family: family for family in FAMILIES})]
StrategyWord = Annotated[Strategy, words({word.value: word for word in Strategy}, later=LATER_STRATEGIES)]
OnFailureWord = Annotated[OnFailure, words({word.value: word for word in OnFailure})]
RetryUnknownWord = Annotated[RetryUnknown, words({word.value: word for word in RetryUnknown})]
ScopeWord = Annotated[Scope, words({word.value: word for word in Scope})]
WindowWord = Annotated[Window, words({word.value: word for word in Window})]

T = TypeVar("T")

_BREAKER, _RETRY, _DEFAULTS = rules.Breaker(), rules.Retry(), rules.Defaults()


def said_or(said: T | None, otherwise: T) -> T:
    """What the file says, or what holds where it does not."""
    return otherwise if said is None else said


class Entry(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# -- prices -----------------------------------------------------------------------------------------------------------


class MegapixelEntry(Entry):
    """A price by the number of pixels."""

    first: UnitPrice = Field(description="USD for the first megapixel (2**20 pixels)")
    further: UnitPrice = Field(description="USD for each further one that was begun")


class TokensEntry(Entry):
    """Prices of tokens, in USD per million."""

    input: UnitPrice | None = Field(None, description="of input")
    image_input: UnitPrice | None = Field(None, description="of input images, if not as `input`")
    cached: UnitPrice | None = Field(None, description="of cached input, if not as `input`")
    output: UnitPrice | None = Field(None, description="of output")
    image_output: UnitPrice | None = Field(None, description="of output images, if not as `output`")

    @model_validator(mode="after")
    def _demand_a_price(self) -> TokensEntry:
        if not self.model_fields_set:
            raise ValueError("must hold at least one price")
        return self


RowKey = Annotated[
    str, matching(rf"default|{_WORD}|[A-Za-z]{_WORD}:[0-9]{_WORD}", "default, a quality, a size, or quality:size")
]
VideoRowKey = Annotated[str, matching(_WORD, "default, or a resolution such as 1080p")]


class PriceEntry(Entry):
    """A sum of lines, in USD. A line that is not listed adds nothing."""

    image: dict[RowKey, UnitPrice] | None = Field(
        None, description="of one image: default, a quality, a size, or quality:size; the most specific wins"
    )
    megapixel: MegapixelEntry | None = Field(None, description="of one image, by its size")
    video_second: dict[VideoRowKey, UnitPrice] | None = Field(
        None, description="of a second of video: default, or a resolution such as 1080p"
    )
    request: UnitPrice | None = Field(None, description="of a request")
    tokens: TokensEntry | None = Field(None, description="of a million tokens")

    @model_validator(mode="after")
    def _demand_a_price(self) -> PriceEntry:
        if not self.model_fields_set or self.image == {} or self.video_second == {}:
            raise ValueError("must hold at least one price")
        return self


_catalogue_word = words({CATALOGUE: CATALOGUE}, or_else="a mapping of prices")
PriceValue = Annotated[PriceEntry | Literal["catalogue"], ScalarOr(_catalogue_word, PriceEntry)]


class CatalogueRow(Entry):
    """The list price of one upstream model, and who said so when."""

    price: PriceEntry
    source: Annotated[str, text()]
    date: Annotated[str, matching(r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?", "the date of the source, YYYY-MM or YYYY-MM-DD")]


class CatalogueFile(Entry):
    """The price catalogue: adapter, then upstream model, then its row."""

    version: Annotated[int, whole(1, 1)]
    prices: dict[Key, dict[Name, CatalogueRow]]


# -- providers --------------------------------------------------------------------------------------------------------


class BreakerEntry(Entry):
    """When a target is left alone, and for how long."""

    consecutive_failures: Annotated[int, whole(1, 1000)] | None = Field(
        None, description=f"failures in a row that open it; default {_BREAKER.consecutive_failures}"
    )
    failure_rate: Annotated[float, share()] | None = Field(
        None, description=f"share of failures in the window that opens it; default {_BREAKER.failure_rate}"
    )
    minimum: Count | None = Field(None, description=f"attempts before the share counts; default {_BREAKER.minimum}")
    window: Annotated[float, duration("1s", "1h")] | None = Field(
        None, description=f"of the share; default {_BREAKER.window_s:g}s"
    )
    open_for: Annotated[float, duration("100ms", "1h")] | None = Field(
        None, description=f"the first time it stays open; default {_BREAKER.open_for_s:g}s"
    )
    open_max: Annotated[float, duration("100ms", "1d")] | None = Field(
        None, description=f"the longest that it stays open; default {_BREAKER.open_max_s:g}s"
    )


class ProviderEntry(Entry):
    """An account at an upstream."""

    adapter: Annotated[str, matching(r"[a-z][a-z0-9_]{0,63}", "the name of an adapter, such as openai")] = Field(
        description="the dialect it speaks"
    )
    base_url: Address | None = Field(
        None, description="the adapter's own if not said; ${NAME} inside is filled in", repr=False
    )
    api_key: Secret | None = Field(None, description="${NAME} or file:PATH", repr=False)
    api_keys: tuple[Secret, ...] | None = Field(
        None, description="several accounts, in place of api_key", repr=False, min_length=1, max_length=100
    )
    max_concurrency: Annotated[int, whole(1, 10_000)] | None = Field(
        None, description="attempts at the same time; default 16"
    )
    rate_limit: RateWord | None = Field(None, description="starts in a time, such as 50/1m")
    breaker: BreakerEntry = Field(BreakerEntry(), description="the circuit breaker of each of its targets")
    retry_unknown: RetryUnknownWord | None = Field(
        None, description="for attempts here, whatever the model says; see `retry`"
    )
    webhooks: bool | None = Field(
        None, description="let the upstream wake us when a job is done (needs PUBLIC_URL); polling goes on all the same"
    )
    webhook_secret: Secret | None = Field(
        None, description="${NAME} or file:PATH: what the upstream signs its webhooks with", repr=False
    )
    webhook_keys_url: Address | None = Field(
        None, description="where the upstream publishes the keys it signs with; the adapter's own if not said"
    )


# -- models -----------------------------------------------------------------------------------------------------------


class TargetEntry(Entry):
    """A provider, an upstream model and a price: what an attempt is made on."""

    name: Key | None = Field(None, description="what rules call it; the provider's name if not said")
    provider: Key = Field(description="one of `providers`")
    model: Name = Field(description="the upstream's own name")
    price: PriceValue | None = Field(
        None, description="`catalogue` (config/prices.yaml), or a sum of lines; without one the cost is not known"
    )
    weight: Annotated[int, whole(0, 1_000_000)] | None = Field(None, description="share under `weighted`; default 1")


class BackoffEntry(Entry):
    """Waits between rounds, with full jitter."""

    first: Annotated[float, duration("10ms", "1h")] | None = Field(
        None, description=f"the first; default {_RETRY.backoff_first_s:g}s"
    )
    max: Annotated[float, duration("10ms", "1h")] | None = Field(
        None, description=f"the longest; default {_RETRY.backoff_max_s:g}s"
    )


class RetryEntry(Entry):
    """What may be tried again. The keys of a rule replace those of its model one by one."""

    per_target: Annotated[int, whole(0, 20)] | None = Field(
        None, description=f"repeats of one target after its first try; default {_RETRY.per_target}"
    )
    total: Annotated[int, whole(1, 50)] | None = Field(
        None, description=f"attempts of a task, the first included; default {_RETRY.total}"
    )
    backoff: BackoffEntry = Field(BackoffEntry(), description="waits between rounds")
    retry_unknown: RetryUnknownWord | None = Field(
        None, description="after a try whose outcome is not known, which may be paid twice; default never"
    )
    retry_unusable: Annotated[bool, words({"never": False, "failover": True})] | None = Field(
        None, description="after a paid answer without a usable result, which is paid again; default never"
    )
    on_refusal: Annotated[bool, words({"fail": False, "failover": True})] | None = Field(
        None, description="after a refusal by content policy, where refusals are free; default fail"
    )


class WhenEntry(BaseModel):
    """The condition of a rule: every key must match. Keys are free in one form only, `metadata.KEY`."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)
    __pydantic_extra__: dict[MetadataKey, Patterns]

    kind: Patterns | None = Field(None, description="image.generation, image.edit ...")
    tenant: Patterns | None = Field(None, description="a name, or a pattern such as studio-*")
    size: Patterns | None = Field(None, description="WIDTHxHEIGHT or auto, as the request says it")
    quality: Patterns | None = Field(None, description="as the request says it")
    n: Spans | None = Field(None, description="outputs asked for: 2, 2-4, >=2")
    seconds: Spans | None = Field(None, description="of video: 4, 4-8, >=10")
    priority: Priorities | None = Field(None, description="urgent, high, normal, low")
    surface: Patterns | None = Field(None, description="the dialect it came in by: " + ", ".join(SURFACES))
    hours: Hours | None = Field(None, description="22:00-06:00, in the time zone of the file")

    @model_validator(mode="after")
    def _demand_a_condition(self) -> WhenEntry:
        if not self.model_fields_set and not self.__pydantic_extra__:
            raise ValueError("must hold at least one condition")
        return self


_target_name = matching(_KEY, "the name of a target of the model, or a mapping")
RuleTarget = Annotated[TargetEntry | str, ScalarOr(_target_name, TargetEntry)]


class RuleEntry(Entry):
    """What holds for the requests that match. What it leaves out is as the model says."""

    when: WhenEntry
    targets: tuple[RuleTarget, ...] | None = Field(
        None, description="names of the model's targets or of their providers, or targets", min_length=1, max_length=100
    )
    strategy: StrategyWord | None = None
    on_failure: OnFailureWord | None = None
    timeout: Annotated[float, duration("1s", "24h")] | None = Field(None, description="of one attempt")
    retry: RetryEntry = RetryEntry()


class ModelEntry(Entry):
    """A public model name and the targets that serve it."""

    kind: Family
    strategy: StrategyWord | None = Field(None, description="order of the targets; default ordered: as they are listed")
    on_failure: OnFailureWord | None = Field(
        None, description="order of the untried after a failure; default next: as before"
    )
    targets: tuple[TargetEntry, ...] = Field(min_length=1, max_length=100)
    rules: tuple[RuleEntry, ...] = Field((), description="the first that matches wins", max_length=_LIST_MAX)
    timeout: Annotated[float, duration("1s", "24h")] | None = Field(
        None, description="of one attempt; by kind and size if not said"
    )
    retry: RetryEntry = RetryEntry()


# -- the file ---------------------------------------------------------------------------------------------------------


class QueueEntry(Entry):
    """Bounds of the queue; a submit beyond them is refused with 429."""

    max_pending: Annotated[int, whole(1, 10_000_000)] | None = Field(
        None, description=f"in all; default {_DEFAULTS.max_pending}"
    )
    per_tenant: Annotated[int, whole(1, 10_000_000)] | None = Field(
        None, description=f"of one tenant; default {_DEFAULTS.per_tenant}"
    )


class DefaultsEntry(Entry):
    """Times and bounds of the daemon."""

    sync_wait: Annotated[float, duration("1s", "1h")] | None = Field(
        None, description=f"the longest wait of a synchronous call; default {_DEFAULTS.sync_wait_s:g}s"
    )
    link_ttl: Annotated[float, duration("1s", "365d")] | None = Field(
        None, description=f"life of a link to a result; default {_DEFAULTS.link_ttl_s / 3600:g}h"
    )
    retention: Annotated[float, duration("1s", "3650d")] | None = Field(
        None, description=f"how long results and inputs are kept; default {_DEFAULTS.retention_s / 86_400:g}d"
    )
    # Not less than a day: an Idempotency-Key lives as long as its row (contract 5.4).
    row_retention: Annotated[float, duration("24h", "36500d")] | None = Field(
        None,
        description="how long records without them are kept, at least 24h; "
        f"default {_DEFAULTS.row_retention_s / 86_400:g}d",
    )
    queue: QueueEntry = QueueEntry()


class DefaultModelEntry(Entry):
    """The model of a request that names none, by kind."""

    image: Name | None = None
    video: Name | None = None
    chat: Name | None = None


class BudgetEntry(Entry):
    """A limit of spending for each value of a scope."""

    scope: ScopeWord = Field(description="what is counted")
    match: Pattern | None = Field(None, description="a name or a pattern; default *: each value has its own")
    window: WindowWord = Field(description="calendar span after which it starts anew")
    limit: Usd = Field(description="USD")


class TenantEntry(Entry):
    """Limits of one tenant, or of each that is not named (`*`)."""

    weight: Annotated[int, whole(1, 1000)] | None = Field(None, description="share of the queue; default 1")
    max_concurrency: Count | None = Field(None, description="tasks that run at the same time")
    rate_limit: RateWord | None = Field(None, description="submits in a time, such as 100/1m")
    models: tuple[Name, ...] | None = Field(
        None, description="the only ones it may use", min_length=1, max_length=_LIST_MAX
    )
    webhook_secrets: tuple[Secret, ...] | None = Field(
        None,
        description="${NAME} or file:PATH: what its webhooks are signed with, whsec_ and base64 of 24 to 64 bytes; two "
        "while one replaces the other; default: one of its own from GET /v1/webhook_secret",
        min_length=1,
        max_length=2,
        repr=False,
    )


class RoutingFile(Entry):
    """The routing file of Pointsman (config/routing.yaml)."""

    version: Annotated[int, whole(1, 1)] = Field(description="of this format")
    timezone: Annotated[tzinfo, zone()] | None = Field(None, description="of budgets and of `hours`; default UTC")
    defaults: DefaultsEntry = DefaultsEntry()
    default_model: DefaultModelEntry = DefaultModelEntry()
    aliases: dict[Name, Name] = Field({}, description="another name for a model")
    providers: dict[Key, ProviderEntry] = Field(description="accounts at upstreams, by a name of your own")
    models: dict[Name, ModelEntry] = Field(description="what callers may ask for, by the name that they send")
    budgets: tuple[BudgetEntry, ...] = Field((), description="limits of spending", max_length=500)
    tenants: dict[TenantKey, TenantEntry] = Field({}, description="limits of tenants")
