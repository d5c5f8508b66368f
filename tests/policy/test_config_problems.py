"""Every kind of problem outside of models, each with its exact file, line and path; and all of them at once."""

import pytest

from router.config.problems import PROBLEMS_MAX
from tests.policy.routing_files import SMALL, problems_of, read, with_key, with_provider, with_rule

DURATION = "with its unit, such as 500ms, 8s, 1m, 24h or 30d"
USD = "an amount in USD such as 0.03, from 0 to {} and no finer than 0.000000001"


# what is wrong: (text, the one problem without `routing.yaml:`)
PROBLEMS = {
    # -- the file
    "no version": (SMALL.removeprefix("version: 1\n"), "1:version: is missing"),
    "another version": (SMALL.replace("version: 1", "version: 2"), "1:version: must be 1"),
    "a version in quotes": (SMALL.replace("version: 1", "version: '1'"), "1:version: must be 1, without quotes"),
    "an unknown key": (
        with_key("tennants: {}"),
        "11:tennants: unknown key: did you mean tenants?",
    ),
    "an unknown key like no other": (
        with_key("plugins: {}"),
        (
            "11:plugins: unknown key: known are version, timezone, defaults, default_model, aliases, providers, "
            "models, budgets, tenants"
        ),
    ),
    "a section without a value": (
        with_key("budgets:"),
        "11:budgets: has no value: give it one, or comment the key out",
    ),
    "a list for a mapping": (with_key("tenants: [a]"), "11:tenants: must be a mapping of keys"),
    "a mapping for a list": (with_key("budgets: {scope: all}"), "11:budgets: must be a list"),
    "no models": (SMALL[: SMALL.index("models:")], "1:models: is missing"),
    "empty models": (SMALL[: SMALL.index("models:")] + "models: {}\n", "5:models: must not be empty"),
    "a time zone that is none": (
        with_key("timezone: Middle/Earth"),
        "11:timezone: must be a time zone that this machine knows, such as UTC or Europe/Berlin",
    ),
    "a time zone that is a path": (
        with_key("timezone: ../etc/passwd"),
        "11:timezone: must be a time zone that this machine knows, such as UTC or Europe/Berlin",
    ),
    # -- defaults
    "a duration without a unit": (
        with_key("defaults: {sync_wait: 540}"),
        f"11:defaults.sync_wait: must be a duration from 1s to 1h, {DURATION}",
    ),
    "a duration out of range": (
        with_key("defaults: {link_ttl: 2000d}"),
        f"11:defaults.link_ttl: must be a duration from 1s to 365d, {DURATION}",
    ),
    "rows that go before their results": (
        with_key("defaults: {retention: 30d, row_retention: 20d}"),
        "11:defaults.row_retention: must not be shorter than retention",
    ),
    "a tenant's share above the whole": (
        with_key("defaults: {queue: {max_pending: 10, per_tenant: 11}}"),
        "11:defaults.queue.per_tenant: must not be more than max_pending",
    ),
    "a default that is no model": (
        with_key("default_model: {image: picturesque}"),
        "11:default_model.image: there is no such model",
    ),
    "a default of another kind": (
        with_key("default_model: {video: picture}"),
        "11:default_model.video: is a model of kind image",
    ),
    "a default for a kind that is none": (
        with_key("default_model: {audio: picture}"),
        "11:default_model.audio: unknown key: known are image, video, chat",
    ),
    # -- aliases
    "an alias of nothing": (with_key("aliases: {a: b}"), "11:aliases.a: stands for no model of this file"),
    "an alias of an alias": (
        with_key("aliases: {a: picture, b: a}"),
        "11:aliases.b: stands for another alias: name the model itself",
    ),
    "an alias that hides a model": (
        with_key("aliases: {picture: picture}"),
        "11:aliases.picture: there is a model of this name, which the alias would hide",
    ),
    # -- providers
    "an unknown adapter": (
        with_provider("adapter: acme, api_key: '${X}'"),
        "5:providers.other.adapter: there is no adapter of this name",
    ),
    "an adapter that is no name": (
        with_provider("adapter: ../acme"),
        "5:providers.other.adapter: must be the name of an adapter, such as openai",
    ),
    "a provider without an adapter": (with_provider("api_key: '${X}'"), "5:providers.other.adapter: is missing"),
    "a provider's name with a blank": (
        SMALL.replace("  flux: {", "  my flux: {").replace("provider: flux", "provider: openai, name: second"),
        "4:providers.?: must be a name of letters, digits and . _ -",
    ),
    "no address": (
        with_provider("adapter: homeless, api_key: '${X}'"),
        "5:providers.other.base_url: is missing: this adapter has no address of its own",
    ),
    "an address of another scheme": (
        with_provider("adapter: openai, base_url: 'ftp://example.com'"),
        "5:providers.other.base_url: must be http(s)://host[:port][/path]",
    ),
    "an address with a query": (
        with_provider("adapter: openai, base_url: 'https://example.com/v1?key=1'"),
        "5:providers.other.base_url: must be http(s)://host[:port][/path], without ? and #",
    ),
    "an address with a bad port": (
        with_provider("adapter: openai, base_url: 'https://example.com:99999'"),
        "5:providers.other.base_url: must be http(s)://host[:port][/path]",
    ),
    "an address of a variable that is not set": (
        with_provider("adapter: openai, base_url: '${OTHER_URL}/v1'"),
        "5:providers.other.base_url: the variable OTHER_URL is not set",
    ),
    "two ways to give a key": (
        with_provider("adapter: openai, api_key: '${A}', api_keys: ['${B}']"),
        "5:providers.other.api_keys: stands beside api_key: write one of the two",
    ),
    "no keys": (with_provider("adapter: openai, api_keys: []"), "5:providers.other.api_keys: must not be empty"),
    "one variable twice": (
        with_provider("adapter: openai, api_keys: ['${BFL_API_KEY}', '${BFL_API_KEY}']"),
        "5:providers.other.api_keys[1]: the same variable stands above already",
    ),
    "a reference with something around it": (
        with_provider("adapter: openai, api_key: 'Bearer ${KEY}'"),
        "5:providers.other.api_key: a reference is ${NAME}, with nothing around it",
    ),
    "no places": (
        with_provider("adapter: openai, max_concurrency: 0"),
        "5:providers.other.max_concurrency: must be a whole number from 1 to 10000",
    ),
    "a fraction of a place": (
        with_provider("adapter: openai, max_concurrency: 1.5"),
        "5:providers.other.max_concurrency: must be a whole number from 1 to 10000",
    ),
    "a rate without a time": (
        with_provider("adapter: openai, rate_limit: 50"),
        "5:providers.other.rate_limit: must be a rate such as 50/1m: a number of starts, and a time from 100ms to 1d",
    ),
    "a rate of nothing": (
        with_provider("adapter: openai, rate_limit: 0/1m"),
        "5:providers.other.rate_limit: must be a rate such as 50/1m: a number of starts, and a time from 100ms to 1d",
    ),
    "a rate over no time": (
        with_provider("adapter: openai, rate_limit: 1/0s"),
        "5:providers.other.rate_limit: must be a rate such as 50/1m: a number of starts, and a time from 100ms to 1d",
    ),
    "a breaker that never counts": (
        with_provider("adapter: openai, breaker: {failure_rate: 0}"),
        "5:providers.other.breaker.failure_rate: must be a number above 0 and up to 1",
    ),
    "a breaker in per cent": (
        with_provider("adapter: openai, breaker: {failure_rate: 50}"),
        "5:providers.other.breaker.failure_rate: must be a number above 0 and up to 1",
    ),
    "a breaker that closes before it opened": (
        with_provider("adapter: openai, breaker: {open_for: 60s, open_max: 30s}"),
        "5:providers.other.breaker.open_max: must not be shorter than open_for",
    ),
    "a misspelt breaker": (
        with_provider("adapter: openai, breaker: {open_four: 60s}"),
        "5:providers.other.breaker.open_four: unknown key: did you mean open_for?",
    ),
    "a blank that is missing": (
        with_provider("adapter: openai, api_key:x"),
        "5:providers.other.?: unknown key: a blank is missing after `api_key:`",
    ),
    "a repeat that is none": (
        with_provider("adapter: openai, retry_unknown: sometimes"),
        "5:providers.other.retry_unknown: must be never, if_idempotent or always",
    ),
    # -- budgets and tenants
    "a budget without a limit": (
        with_key("budgets: [{scope: all, window: day}]"),
        "11:budgets[0].limit: is missing",
    ),
    "a budget of a scope that is none": (
        with_key("budgets: [{scope: user, window: day, limit: 1}]"),
        "11:budgets[0].scope: must be tenant, key, provider, model or all",
    ),
    "a budget of a window that is none": (
        with_key("budgets: [{scope: all, window: week, limit: 1}]"),
        "11:budgets[0].window: must be hour, day, month or total",
    ),
    "a budget beyond what the ledger holds": (
        with_key("budgets: [{scope: all, window: day, limit: 1e18}]"),
        f"11:budgets[0].limit: must be {USD.format(1000000000)}",
    ),
    "a budget that matches no provider": (
        with_key("budgets: [{scope: provider, match: opnai, window: day, limit: 1}]"),
        "11:budgets[0].match: fits no provider of this file",
    ),
    "a budget that matches no model": (
        with_key("budgets: [{scope: model, match: 'video-*', window: day, limit: 1}]"),
        "11:budgets[0].match: fits no model of this file",
    ),
    "a budget for all with a match": (
        with_key("budgets: [{scope: all, match: studio, window: day, limit: 1}]"),
        "11:budgets[0].match: has no meaning with scope all, which counts everything as one",
    ),
    "a budget twice": (
        with_key("budgets: [{scope: all, window: day, limit: 1}, {scope: all, window: day, limit: 2}]"),
        "11:budgets[1]: the same scope, match and window stand above already",
    ),
    "a pattern for a tenant": (
        with_key('tenants: {"studio-*": {weight: 1}}'),
        "11:tenants.?: must be the name of one tenant, or * for those not named",
    ),
    "a tenant without weight": (
        with_key("tenants: {studio: {weight: 0}}"),
        "11:tenants.studio.weight: must be a whole number from 1 to 1000",
    ),
    "a tenant without models": (
        with_key("tenants: {studio: {models: []}}"),
        "11:tenants.studio.models: must not be empty",
    ),
    "a webhook secret that is none": (
        with_key("tenants: {studio: {webhook_secrets: [c2hvcnQ=]}}"),
        "11:tenants.studio.webhook_secrets[0]: must be whsec_ followed by base64 of 24 to 64 bytes",
    ),
    "an empty webhook secret": (
        with_key("tenants: {studio: {webhook_secrets: [whsec_]}}"),
        "11:tenants.studio.webhook_secrets[0]: must be whsec_ followed by base64 of 24 to 64 bytes",
    ),
    "a webhook secret of all tenants": (
        with_key('tenants: {"*": {webhook_secrets: ["${HOOK}"]}}'),
        "11:tenants.*.webhook_secrets: a secret belongs to one tenant: name it",
    ),
    "a third webhook secret": (
        with_key('tenants: {studio: {webhook_secrets: ["${A}", "${B}", "${C}"]}}'),
        "11:tenants.studio.webhook_secrets: has more than 2 entries",
    ),
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_is_told_once_with_file_line_and_path(text, expected):
    assert problems_of(text) == [f"routing.yaml:{expected}"]


def test_a_reference_outside_secrets_and_addresses_is_a_problem_and_not_a_text():
    text = with_rule("{when: {metadata.team: '${TEAM}'}}")

    [problem] = problems_of(text)

    assert problem == (
        "routing.yaml:12:models.picture.rules[0].when.metadata.team: "
        "${NAME} is read in api_key, api_keys, base_url, webhook_secret, webhook_keys_url, webhook_secrets only"
    )


def test_every_problem_of_a_file_is_told_at_once_in_the_order_of_the_lines():
    text = """\
        version: 3
        timezone: Nowhere
        aliases: {a: nothing, b: picture}
        providers:
          openai: {adapter: openai, max_concurrency: none}
          flux: {adapter: bfl, api_key: "two words"}
          acme: {adapter: acme}
        models:
          picture:
            kind: image
            strategy: fastest
            targets:
              - {provider: openai, model: gpt-image-2, weight: heavy}
              - {provider: flux, model: flux-pro, price: {image: {default: x}}}
              - {provider: nobody, model: m}
            rules:
              - {when: {n: many}, targets: [openai]}
              - {when: {quality: high}, targets: [nowhere], timeout: soon}
          broken: {kind: image}
        budgets:
          - {scope: model, match: broken, window: day, limit: 1}
          - {scope: nobody, window: day, limit: 1}
          - {scope: model, match: unknown, window: day, limit: 1}
        tenants:
          studio: {models: [broken], rate_limit: fast}
        """

    lines = [problem.removeprefix("routing.yaml:").rpartition(": must")[0] or problem for problem in problems_of(text)]
    places = [
        (line.split(":")[0], line.split(":")[1]) for line in (each.removeprefix("routing.yaml:") for each in lines)
    ]

    assert places == [
        ("1", "version"),
        ("2", "timezone"),
        ("3", "aliases.a"),
        ("5", "providers.openai.max_concurrency"),
        ("6", "providers.flux.api_key"),
        ("7", "providers.acme.adapter"),
        ("11", "models.picture.strategy"),
        ("13", "models.picture.targets[0].weight"),
        ("14", "models.picture.targets[1].price.image.default"),
        ("15", "models.picture.targets[2].provider"),
        ("17", "models.picture.rules[0].when.n"),
        ("18", "models.picture.rules[1].timeout"),
        ("19", "models.broken.targets"),
        ("22", "budgets[1].scope"),
        ("23", "budgets[2].match"),
        ("25", "tenants.studio.rate_limit"),
    ]


def test_what_is_left_out_for_one_problem_does_not_cause_another():
    """The provider is broken, so that its targets cannot be made; rules, budgets and tenants refer to all of them."""
    text = SMALL.replace("adapter: openai,", "adapter: openai, rate_limit: 5,").replace(
        "kind: image", "kind: image"
    ) + (
        "    rules:\n      - {when: {tenant: a}, targets: [openai]}\n"
        "budgets:\n  - {scope: provider, match: openai, window: day, limit: 1}\n"
        "tenants: {a: {models: [picture]}}\ndefault_model: {image: picture}\naliases: {b: picture}\n"
    )

    assert [problem.partition(": ")[0] for problem in problems_of(text)] == [
        "routing.yaml:3:providers.openai.rate_limit"
    ]


def test_a_section_that_is_missing_or_wrong_is_told_and_not_all_that_refers_to_it():
    text = SMALL.replace("providers:", "provider:")
    more = "aliases: {a: picture}\nbudgets: [{scope: provider, match: openai, window: day, limit: 1}]\n"

    assert [problem.partition(": ")[0] for problem in problems_of(text + more)] == [
        "routing.yaml:1:providers",
        "routing.yaml:2:provider",
    ]
    assert [
        problem.partition(": ")[0] for problem in problems_of(SMALL[: SMALL.index("models:")] + "models: 5\n" + more)
    ] == ["routing.yaml:5:models"]


def test_an_item_that_is_left_out_does_not_shift_the_places_of_those_behind_it():
    text = with_rule("{when: {n: x}}\n      - {when: {n: 2}, targets: [nobody]}")

    assert [problem.partition(": ")[0] for problem in problems_of(text)] == [
        "routing.yaml:12:models.picture.rules[0].when.n",
        "routing.yaml:13:models.picture.rules[1].targets[0]",
    ]


def test_the_problems_of_the_catalogue_are_told_under_its_own_name():
    catalogue = """\
        version: 1
        prices:
          openai:
            gpt-image-2: {price: {image: {default: free}}, source: nobody, date: "2026-11"}
            gpt-image-1: {price: {image: {default: 0.1}}, source: somebody}
        """

    assert problems_of(SMALL, catalogue=catalogue) == [
        f"prices.yaml:4:prices.openai.gpt-image-2.price.image.default: must be {USD.format(10000)}",
        "prices.yaml:5:prices.openai.gpt-image-1.date: is missing",
    ]
    assert problems_of(SMALL, catalogue="prices: ]") == [
        "prices.yaml:1: while parsing a block node, did not find expected node content"
    ]


def test_the_number_of_problems_is_bounded_and_the_reader_is_told():
    text = SMALL + "".join(
        f"key{'x' * (number % 30)}{'y' * (number // 30)}: 1\n" for number in range(PROBLEMS_MAX + 100)
    )

    problems = read(text).problems

    assert len(problems) == PROBLEMS_MAX + 1
    assert problems[-1].message == f"the first {PROBLEMS_MAX} problems are listed; there may be more"
