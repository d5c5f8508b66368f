"""The compiled routing configuration: frozen records that every decision reads and nothing changes.

`router.config` makes a `Ruleset` out of the YAML (contract section 6); the policies in this folder read it. All that
can be worked out once is worked out there (abilities of targets, price rows, timeouts), so that a decision only
compares. Durations are seconds, money is nano-USD. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum

from router.provider import Abilities, AdapterFacts, Kind, Role
from router.task import Priority


class Strategy(StrEnum):
    """How candidates are put in order. The other words of contract 6 are refused as not available in this version."""

    ORDERED = "ordered"
    CHEAPEST = "cheapest"
    WEIGHTED = "weighted"


class OnFailure(StrEnum):
    """How the untried are taken after a failure or while the first is open."""

    NEXT = "next"
    CHEAPEST = "cheapest"


class RetryUnknown(StrEnum):
    """May a try whose outcome is unknown be repeated (promise 3)?"""

    NEVER = "never"
    IF_IDEMPOTENT = "if_idempotent"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a target opens and for how long."""

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    minimum: int = 10
    window_s: float = 60.0
    open_for_s: float = 30.0
    open_max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts in `per_s` seconds, as a token bucket of that size."""

    count: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Credential:
    """One secret of a provider. `label` is safe to store and show (a variable's name or `#n`); `secret` is neither."""

    label: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """How a provider may wake us: what signs its webhooks, a shared `secret` or the keys published at `keys_url`."""

    secret: str = field(default="", repr=False)
    keys_url: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """An account at an upstream. No credential: the provider is an exclusion (`no_credential`), not an error."""

    name: str
    adapter: AdapterFacts
    base_url: str
    credentials: tuple[Credential, ...]
    max_concurrency: int = 16
    rate: Rate | None = None
    breaker: Breaker = Breaker()
    retry_unknown: RetryUnknown | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """USD per million tokens, as nano-USD per million."""

    input: int = 0
    image_input: int | None = None
    cached: int | None = None
    output: int = 0
    image_output: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """A sum of lines (contract 6, Prices), every amount in nano-USD. A line that is absent adds nothing.

    `image` keys: `default`, a quality, a size, or `quality:size`; the most specific wins. `megapixel` is (first,
    further). `video_second` keys: `default` or a resolution word.
    """

    image: Mapping[str, int] | None = None
    megapixel: tuple[int, int] | None = None
    video_second: Mapping[str, int] | None = None
    request: int | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, an upstream model and a price. `price` None: unknown, which is not zero."""

    name: str
    provider: str
    model: str
    price: Price | None
    abilities: Abilities
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Retry:
    """The retry facts of a model or a rule (contract 6, Retry)."""

    per_target: int = 2
    total: int = 4
    backoff_first_s: float = 0.5
    backoff_max_s: float = 8.0
    retry_unknown: RetryUnknown = RetryUnknown.NEVER
    retry_unusable_failover: bool = False
    on_refusal_failover: bool = False


@dataclass(frozen=True, slots=True)
class When:
    """The condition of a rule: every key that is set must match. Patterns of strings are shell-style (`studio-*`).

    `hours` are half-open spans of minutes after midnight in the configuration's time zone; a span may pass midnight.
    `n` and `seconds` are inclusive spans (low, high), high None for open.
    """

    kind: tuple[str, ...] | None = None
    tenant: tuple[str, ...] | None = None
    size: tuple[str, ...] | None = None
    quality: tuple[str, ...] | None = None
    n: tuple[tuple[int, int | None], ...] | None = None
    seconds: tuple[tuple[int, int | None], ...] | None = None
    priority: tuple[Priority, ...] | None = None
    surface: tuple[str, ...] | None = None
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hours: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for matching requests. `number` is its place in the file from 1; 0 is the model's own defaults."""

    number: int
    when: When
    targets: tuple[Target, ...]
    strategy: Strategy
    on_failure: OnFailure
    timeout_s: float | None
    retry: Retry


@dataclass(frozen=True, slots=True)
class Model:
    """A public model name. `rules` in file order; `otherwise` is what holds when none matches."""

    name: str
    family: str
    rules: tuple[Rule, ...]
    otherwise: Rule


class Scope(StrEnum):
    """What a budget counts."""

    TENANT = "tenant"
    KEY = "key"
    PROVIDER = "provider"
    MODEL = "model"
    ALL = "all"


class Window(StrEnum):
    """The calendar span after which a budget starts anew, in the configuration's time zone."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit in nano-USD per scope value and window. `match` is a shell-style pattern; `*`: each value has its own."""

    scope: Scope
    match: str
    window: Window
    limit: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """Limits of one tenant; the entry `*` holds for those not named. `models` None: all.

    `webhook_secrets` are live, none: a derived one is (contract 5.7).
    """

    name: str
    weight: int = 1
    max_concurrency: int | None = None
    rate: Rate | None = None
    models: frozenset[str] | None = None
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """`defaults:` of the YAML, in seconds and counts."""

    sync_wait_s: float = 540.0
    link_ttl_s: float = 86_400.0
    retention_s: float = 30 * 86_400.0
    row_retention_s: float = 400 * 86_400.0
    max_pending: int = 100_000
    per_tenant: int = 20_000


@dataclass(frozen=True, slots=True)
class Ruleset:
    """One configuration, whole and valid. `hash` is the SHA-256 of the texts it came from (first 16 hex digits)."""

    hash: str
    zone: tzinfo
    defaults: Defaults
    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    aliases: Mapping[str, str]
    default_model: Mapping[str, str]
    budgets: tuple[Budget, ...] = ()
    tenants: Mapping[str, Tenant] = field(default_factory=dict)

    def model(self, name: str) -> Model | None:
        """Find a public model by its name or alias."""
        return self.models.get(self.aliases.get(name, name))

    def tenant(self, name: str) -> Tenant:
        """Find the limits of a tenant: its own entry, else `*`, else none."""
        return self.tenants.get(name) or self.tenants.get("*") or Tenant(name)


@dataclass(frozen=True, slots=True)
class Origin:
    """The target that made the film which a request remixes: the only one that can (contract 5.1)."""

    provider: str
    target: str
    model: str

    def made_by(self, target: Target) -> bool:
        """Whether this is that target."""
        return (target.provider, target.name, target.model) == (self.provider, self.target, self.model)


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a request routing and pricing may look at. `size` and `quality` None: not said.

    `images` counts the reference images, `roles` names what the other input files are for. `max_tokens` bounds one
    answer of a chat, None: not said. `origin`: of a remix.
    """

    kind: Kind
    model: str
    tenant: str = "default"
    size: str | None = None
    quality: str | None = None
    n: int = 1
    seconds: int | None = None
    priority: Priority = Priority.NORMAL
    surface: str = "native"
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    prompt_chars: int = 0
    images: int = 0
    roles: frozenset[Role] = frozenset()
    max_tokens: int | None = None
    origin: Origin | None = None
