"""What a sound routing file means: the contract's example and each notation, as the records that the policies read."""

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from router.policy.rules import (
    Breaker,
    Budget,
    Credential,
    Defaults,
    OnFailure,
    Price,
    Rate,
    Retry,
    RetryUnknown,
    Scope,
    Strategy,
    Tenant,
    Tokens,
    When,
    Window,
)
from router.task import Priority
from tests.policy.routing_files import ADAPTERS, SMALL, read, rules_of, with_key, with_model, with_rule

USD = 1_000_000_000

# Contract section 6 as it stands there, without the key that this version refuses (canary).
CONTRACT = """\
version: 1
timezone: UTC                    # of budget windows
defaults: {sync_wait: 540s, link_ttl: 24h, retention: 30d, row_retention: 400d, queue: {max_pending: 100000, per_tenant: 20000}}
default_model: {image: gpt-image-2, video: veo-3}
aliases: {dall-e-3: gpt-image-2}
providers:
  openai:   {adapter: openai, base_url: https://api.openai.com/v1, api_key: "${OPENAI_API_KEY}", max_concurrency: 16, rate_limit: 50/1m}
  apiyi:    {adapter: apiyi, api_keys: ["${APIYI_KEY_1}", "${APIYI_KEY_2}"]}
  flux:     {adapter: bfl, api_key: "${BFL_API_KEY}", breaker: {consecutive_failures: 5, failure_rate: 0.5, minimum: 10, window: 60s, open_for: 30s, open_max: 300s}}
models:
  gpt-image-2:
    kind: image
    strategy: ordered            # ordered | cheapest | fastest | success | weighted | balanced
    on_failure: cheapest         # next (default) | cheapest: how the untried are taken after a failure or while the first is open
    targets:                     # a target may have a name (default: the provider's); rules and canary refer to it
      - {provider: apiyi,  model: gpt-image-2, price: {image: {default: 0.03, "high:1024x1536": 0.12}}}
      - {provider: openai, model: gpt-image-2, price: catalogue}
    rules:                       # first match wins; otherwise the model's own targets
      - when: {quality: high, size: ["2048x2048", "4096x4096"]}
        strategy: cheapest
        timeout: 600s            # of one attempt
      - when: {tenant: ["studio-*"], kind: image.edit}
        targets: [openai]
    retry: {per_target: 2, total: 4, backoff: {first: 500ms, max: 8s}, retry_unknown: never, retry_unusable: never, on_refusal: fail}
budgets:                         # scope tenant | key | provider | model | all; window hour | day | month | total
  - {scope: tenant, match: "*", window: day, limit: 20}
  - {scope: provider, match: openai, window: month, limit: 500}
tenants:
  studio: {weight: 3, max_concurrency: 20, rate_limit: 100/1m, models: [gpt-image-2, veo-3], webhook_secrets: ["${STUDIO_WEBHOOK_SECRET}"]}
"""  # noqa: E501 - a quotation
CATALOGUE = """\
version: 1
prices:
  openai:
    gpt-image-2: {price: {tokens: {input: 5, image_output: 30}}, source: a list, date: "2026-11"}
"""
KEYS = {"OPENAI_API_KEY": "sk-1", "APIYI_KEY_1": "sk-2", "APIYI_KEY_2": "sk-3", "BFL_API_KEY": "b"}


def first_rule(rule):
    return rules_of(with_rule(rule)).models["picture"].rules[0]


def when(condition):
    return first_rule(f"{{when: {condition}}}").when


def price(written, catalogue=""):
    text = SMALL.replace("{image: {default: 0.05}}", written)
    return rules_of(text, catalogue=catalogue).models["picture"].otherwise.targets[0].price


# -- the contract's example -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    return rules_of(CONTRACT, environ=KEYS, catalogue=CATALOGUE)


def test_the_example_has_the_defaults_that_it_says(example):
    assert example.zone is UTC
    assert example.defaults == Defaults(540.0, 86_400.0, 30 * 86_400.0, 400 * 86_400.0, 100_000, 20_000)
    assert example.default_model == {"image": "gpt-image-2", "video": "veo-3"}
    assert example.model("dall-e-3") is example.models["gpt-image-2"]


def test_the_example_has_the_providers_that_it_says(example):
    openai, apiyi, flux = (example.providers[name] for name in ("openai", "apiyi", "flux"))

    assert openai.adapter is ADAPTERS["openai"]
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.credentials == (Credential("OPENAI_API_KEY", "sk-1"),)
    assert (openai.max_concurrency, openai.rate) == (16, Rate(50, 60.0))
    assert apiyi.base_url == ADAPTERS["apiyi"].base_url
    assert apiyi.credentials == (Credential("APIYI_KEY_1", "sk-2"), Credential("APIYI_KEY_2", "sk-3"))
    assert (apiyi.rate, apiyi.breaker, apiyi.retry_unknown) == (None, Breaker(), None)
    assert flux.breaker == Breaker(5, 0.5, 10, 60.0, 30.0, 300.0)


def test_the_example_has_the_model_that_it_says(example):
    model = example.models["gpt-image-2"]
    first, second = model.otherwise.targets

    assert (model.name, model.family, model.otherwise.number) == ("gpt-image-2", "image", 0)
    assert (model.otherwise.strategy, model.otherwise.on_failure) == (Strategy.ORDERED, OnFailure.CHEAPEST)
    assert model.otherwise.timeout_s is None
    assert model.otherwise.retry == Retry(2, 4, 0.5, 8.0, RetryUnknown.NEVER, False, False)
    assert (first.name, first.provider, first.model, first.weight) == ("apiyi", "apiyi", "gpt-image-2", 1)
    assert first.price == Price(image={"default": 30_000_000, "high:1024x1536": 120_000_000})
    assert first.abilities is ADAPTERS["apiyi"].abilities["*"]
    assert (second.name, second.provider) == ("openai", "openai")
    assert second.price == Price(tokens=Tokens(input=5 * USD, image_output=30 * USD))
    assert second.abilities is ADAPTERS["openai"].abilities["gpt-image-2*"]


def test_the_example_has_the_rules_that_it_says(example):
    model = example.models["gpt-image-2"]
    large, edits = model.rules

    assert (large.number, edits.number) == (1, 2)
    assert large.when == When(quality=("high",), size=("2048x2048", "4096x4096"))
    assert (large.strategy, large.on_failure, large.timeout_s) == (Strategy.CHEAPEST, OnFailure.CHEAPEST, 600.0)
    assert large.targets == model.otherwise.targets
    assert edits.when == When(tenant=("studio-*",), kind=("image.edit",))
    assert [target.name for target in edits.targets] == ["openai"]
    assert edits.targets[0] is model.otherwise.targets[1]
    assert (edits.strategy, edits.timeout_s, edits.retry) == (Strategy.ORDERED, None, model.otherwise.retry)


def test_the_example_has_the_budgets_and_tenants_that_it_says(example):
    assert example.budgets == (
        Budget(Scope.TENANT, "*", Window.DAY, 20 * USD),
        Budget(Scope.PROVIDER, "openai", Window.MONTH, 500 * USD),
    )
    assert example.tenants == {"studio": Tenant("studio", 3, 20, Rate(100, 60.0), frozenset({"gpt-image-2", "veo-3"}))}


def test_the_same_texts_have_the_same_hash_and_another_text_has_another():
    one, same = rules_of(SMALL), rules_of(SMALL)

    assert one.hash == same.hash
    assert one == same
    assert len(one.hash) == 16
    assert len({one.hash, rules_of(f"{SMALL}# \n").hash, rules_of(SMALL, catalogue=CATALOGUE).hash}) == 3


def test_a_changed_secret_makes_another_ruleset_under_the_same_hash():
    before, after = rules_of(SMALL), rules_of(SMALL, environ={"OPENAI_API_KEY": "sk-new", "BFL_API_KEY": "bfl-key"})

    assert before.hash == after.hash
    assert before != after


def test_what_is_not_said_is_the_default_of_the_rules():
    rules = rules_of(SMALL)
    model = rules.models["picture"]

    assert (rules.zone, rules.defaults, rules.budgets, rules.tenants) == (UTC, Defaults(), (), {})
    assert (model.otherwise.strategy, model.otherwise.on_failure) == (Strategy.ORDERED, OnFailure.NEXT)
    assert (model.otherwise.retry, model.rules) == (Retry(), ())
    assert rules.providers["openai"].max_concurrency == 16


# -- notations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1500ms", 1.5), ("8s", 8.0), ("1m", 60.0), ("24h", 86_400.0), ("1d", 86_400.0), ("1.5m", 90.0), ("1s", 1.0)],
)
def test_durations_carry_their_unit(written, seconds):
    assert rules_of(with_model(timeout=written)).models["picture"].otherwise.timeout_s == seconds


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1/100ms", Rate(1, 0.1)), ("50/1m", Rate(50, 60.0)), ("1000/1d", Rate(1000, 86_400.0)), ("5/10s", Rate(5, 10.0))],
)
def test_rates_are_starts_in_a_time(written, expected):
    text = SMALL.replace("adapter: openai,", f"adapter: openai, rate_limit: {written},")

    assert rules_of(text).providers["openai"].rate == expected


@pytest.mark.parametrize(
    ("written", "nanos"),
    [
        ("0.03", 30_000_000),
        ("0.1", 100_000_000),
        ("'0.29'", 290_000_000),
        ("1.001", 1_001_000_000),
        (".5", 500_000_000),
        ("0.000000001", 1),
        ("1e-9", 1),
        ("0", 0),
        ("9999.999999999", 9_999_999_999_999),
        ("10000", 10_000 * USD),
    ],
)
def test_amounts_are_exact_to_the_nano_dollar(written, nanos):
    assert price(f"{{request: {written}}}") == Price(request=nanos)


def test_a_price_is_a_sum_of_lines():
    written = """{image: {default: 0.01, high: 0.02, 1024x1536: 0.03, "high:1024x1536": 0.04},
        megapixel: {first: 0.03, further: 0.015}, video_second: {default: 0.1, 1080p: 0.2}, request: 0.001,
        tokens: {input: 5, image_input: 8, cached: 0.5, output: 10, image_output: 0.075}}"""

    assert price(written) == Price(
        image={"default": 10_000_000, "high": 20_000_000, "1024x1536": 30_000_000, "high:1024x1536": 40_000_000},
        megapixel=(30_000_000, 15_000_000),
        video_second={"default": 100_000_000, "1080p": 200_000_000},
        request=1_000_000,
        tokens=Tokens(5 * USD, 8 * USD, 500_000_000, 10 * USD, 75_000_000),
    )


def test_a_price_that_the_catalogue_does_not_have_is_unknown_and_not_zero():
    assert price("catalogue") is None
    assert price("catalogue", CATALOGUE) == Price(tokens=Tokens(input=5 * USD, image_output=30 * USD))


@pytest.mark.parametrize(
    ("written", "spans"),
    [
        ("2", ((2, 2),)),
        ("[1, 3]", ((1, 1), (3, 3))),
        ('"2-4"', ((2, 4),)),
        ("2-4", ((2, 4),)),
        ('">=2"', ((2, None),)),
        ('">1"', ((2, None),)),
        ('"<=4"', ((1, 4),)),
        ('"<4"', ((1, 3),)),
        ('[1, "5 - 6", ">= 9"]', ((1, 1), (5, 6), (9, None))),
    ],
)
def test_counts_are_numbers_lists_and_ranges(written, spans):
    assert when(f"{{n: {written}}}").n == spans
    assert when(f"{{seconds: {written}}}").seconds == spans


def test_every_condition_has_its_key():
    condition = """{kind: "image.*", tenant: [studio-*, agency], size: 1024x1024, quality: [high, hd], n: 2, seconds: 4,
        priority: [urgent, low], surface: openai, metadata.team: [ads, art-*], metadata.a.b: x,
        hours: ["22:00-06:00", 9:30-24:00]}"""

    assert when(condition) == When(
        kind=("image.*",),
        tenant=("studio-*", "agency"),
        size=("1024x1024",),
        quality=("high", "hd"),
        n=((2, 2),),
        seconds=((4, 4),),
        priority=(Priority.URGENT, Priority.LOW),
        surface=("openai",),
        metadata={"team": ("ads", "art-*"), "a.b": ("x",)},
        hours=((1320, 360), (570, 1440)),
    )


def test_the_time_zone_is_that_of_the_file():
    assert rules_of(with_key("timezone: Europe/Berlin")).zone == ZoneInfo("Europe/Berlin")


# -- rules over models ------------------------------------------------------------------------------------------------


def test_a_rule_may_change_everything():
    rule = first_rule(
        "{when: {tenant: a}, targets: [flux, openai], strategy: weighted, on_failure: cheapest, timeout: 5s, "
        "retry: {per_target: 0, total: 9, backoff: {first: 1s, max: 2s}, retry_unknown: always, "
        "retry_unusable: failover, on_refusal: failover}}"
    )

    assert [target.name for target in rule.targets] == ["flux", "openai"]
    assert (rule.strategy, rule.on_failure, rule.timeout_s) == (Strategy.WEIGHTED, OnFailure.CHEAPEST, 5.0)
    assert rule.retry == Retry(0, 9, 1.0, 2.0, RetryUnknown.ALWAYS, True, True)


def test_the_retry_of_a_rule_replaces_that_of_its_model_key_by_key():
    text = with_rule("{when: {tenant: a}, retry: {total: 9, backoff: {max: 20s}}}").replace(
        "kind: image", "kind: image\n    retry: {per_target: 1, backoff: {first: 2s}, retry_unknown: if_idempotent}"
    )
    model = rules_of(text).models["picture"]

    assert model.otherwise.retry == Retry(1, 4, 2.0, 8.0, RetryUnknown.IF_IDEMPOTENT)
    assert model.rules[0].retry == Retry(1, 9, 2.0, 20.0, RetryUnknown.IF_IDEMPOTENT)


@pytest.mark.parametrize(
    ("written", "waits"), [("{first: 30s}", (30.0, 30.0)), ("{max: 100ms}", (0.1, 0.1)), ("{}", (0.5, 8.0))]
)
def test_of_the_two_waits_the_one_that_is_not_said_gives_way(written, waits):
    retry = rules_of(with_model(retry=f"{{backoff: {written}}}")).models["picture"].otherwise.retry

    assert (retry.backoff_first_s, retry.backoff_max_s) == waits


def test_a_rule_names_targets_by_their_names_or_by_their_provider():
    text = with_rule("{when: {tenant: a}, targets: [flux, main]}").replace(
        "      - {provider: flux, model: flux-pro",
        "      - {name: small, provider: flux, model: flux-small, price: catalogue}\n"
        "      - {name: main, provider: openai, model: gpt-image-1, price: catalogue}\n"
        "      - {name: large, provider: flux, model: flux-pro",
    )

    targets = rules_of(text).models["picture"].rules[0].targets

    assert [(target.name, target.provider, target.model) for target in targets] == [
        ("small", "flux", "flux-small"),
        ("large", "flux", "flux-pro"),
        ("main", "openai", "gpt-image-1"),
    ]


def test_a_name_goes_before_a_provider():
    text = with_rule("{when: {tenant: a}, targets: [flux]}").replace(
        "      - {provider: flux,", "      - {name: flux-b, provider: flux, model: flux-b}\n      - {provider: flux,"
    )

    assert [target.model for target in rules_of(text).models["picture"].rules[0].targets] == ["flux-pro"]


def test_a_rule_may_bring_whole_targets_along():
    rule = first_rule(
        "{when: {tenant: a}, targets: [openai, {provider: flux, model: flux-dev, weight: 7, price: {request: 1}}]}"
    )

    brought = rule.targets[1]
    assert (brought.name, brought.provider, brought.model, brought.weight) == ("flux", "flux", "flux-dev", 7)
    assert brought.price == Price(request=USD)
    assert brought.abilities is ADAPTERS["bfl"].abilities["flux-*"]


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_limits_that_were_not_said_give_way_to_those_that_were():
    assert rules_of(with_key("defaults: {queue: {max_pending: 50}}")).defaults.per_tenant == 50
    assert rules_of(with_key("defaults: {queue: {per_tenant: 200000}}")).defaults.max_pending == 200_000
    assert rules_of(with_key("defaults: {retention: 500d}")).defaults.row_retention_s == 500 * 86_400.0
    assert rules_of(with_key("defaults: {row_retention: 7d}")).defaults.retention_s == 7 * 86_400.0
    text = SMALL.replace("adapter: openai,", "adapter: openai, breaker: {open_for: 600s, minimum: 3},")
    assert rules_of(text).providers["openai"].breaker == Breaker(5, 0.5, 3, 60.0, 600.0, 600.0)


def test_the_models_of_a_tenant_may_be_named_by_their_aliases():
    rules = rules_of(with_key('aliases: {p: picture}\ntenants: {a: {models: [p]}, "*": {max_concurrency: 2}}'))

    assert rules.tenants == {"a": Tenant("a", models=frozenset({"picture"})), "*": Tenant("*", max_concurrency=2)}
    assert rules.tenant("somebody").max_concurrency == 2


def test_a_budget_without_a_match_counts_each_value_for_itself():
    rules = rules_of(
        with_key("budgets: [{scope: key, window: hour, limit: 0.50}, {scope: all, window: total, limit: 0}]")
    )

    assert rules.budgets == (
        Budget(Scope.KEY, "*", Window.HOUR, 500_000_000),
        Budget(Scope.ALL, "*", Window.TOTAL, 0),
    )


def test_an_address_may_be_put_together_from_variables():
    text = SMALL.replace(
        "adapter: openai,", 'adapter: openai, base_url: "${SCHEME}://${HOST}/v1/", retry_unknown: always,'
    )
    rules = rules_of(
        text, environ={"SCHEME": "http", "HOST": "127.0.0.1:8081", "OPENAI_API_KEY": "k", "BFL_API_KEY": "k"}
    )

    assert rules.providers["openai"].base_url == "http://127.0.0.1:8081/v1"
    assert rules.providers["openai"].retry_unknown is RetryUnknown.ALWAYS


def test_nothing_of_a_ruleset_can_be_changed():
    rules = rules_of(SMALL)

    for mapping in (rules.models, rules.providers, rules.aliases, rules.default_model, rules.tenants):
        with pytest.raises(TypeError):
            mapping["x"] = None
    with pytest.raises(TypeError):
        rules.models["picture"].otherwise.targets[0].price.image["default"] = 0


def test_a_thousand_rules_are_read_and_keep_their_order():
    rules = "".join(f"      - {{when: {{tenant: t{number}}}, targets: [flux]}}\n" for number in range(1000))

    compiled = read(f"{SMALL}    rules:\n{rules}").ruleset.models["picture"].rules

    assert [rule.number for rule in compiled] == list(range(1, 1001))
    assert compiled[999].when.tenant == ("t999",)
