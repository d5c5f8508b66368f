"""Every kind of problem with a model, its targets and its rules, each with its exact file, line and path."""

import pytest

from tests.policy.routing_files import SMALL, problems_of, with_model, with_rule, with_target

DURATION = "with its unit, such as 500ms, 8s, 1m, 24h or 30d"
PATTERN = "a text, or a pattern such as studio-*"
USD = "an amount in USD such as 0.03, from 0 to 10000 and no finer than 0.000000001"

# what is wrong: (text, the one problem without `routing.yaml:`)
PROBLEMS = {
    # -- models and targets
    "a kind that is none": (
        SMALL.replace("kind: image", "kind: picture"),
        "7:models.picture.kind: must be image, video or chat",
    ),
    "a model without a kind": (SMALL.replace("    kind: image\n", ""), "6:models.picture.kind: is missing"),
    "a model without targets": (
        SMALL[: SMALL.index("    targets:")] + "    targets: []\n",
        "8:models.picture.targets: must not be empty",
    ),
    "a strategy that is none": (
        with_model(strategy="random"),
        "11:models.picture.strategy: must be ordered, cheapest or weighted",
    ),
    "an order after failures that is none": (
        with_model(on_failure="no"),
        "11:models.picture.on_failure: must be next or cheapest",
    ),
    "a provider that is not there": (
        with_target("provider: acme, model: x"),
        "11:models.picture.targets[2].provider: there is no such provider; there are flux, openai",
    ),
    "two targets of one name": (
        with_target("provider: openai, model: gpt-image-1"),
        (
            "11:models.picture.targets[2]: another target of the model has this name already: "
            "give it a `name` of its own"
        ),
    ),
    "a target without a model": (
        with_target("name: x, provider: openai"),
        "11:models.picture.targets[2].model: is missing",
    ),
    "an adapter that does not know the model": (
        with_target("name: x, provider: flux, model: stable-diffusion"),
        "11:models.picture.targets[2].model: the adapter bfl does not know this model",
    ),
    "an upstream model that does nothing of the kind": (
        with_target("name: x, provider: flux, model: flux-fill"),
        (
            "11:models.picture.targets[2].model: the adapter bfl does nothing of kind image with this model "
            "in this version"
        ),
    ),
    "a kind that no adapter does yet": (
        SMALL.replace("kind: image", "kind: chat").replace("      - {provider: flux, model: flux-pro", "      # - {"),
        (
            "9:models.picture.targets[0].model: the adapter openai does nothing of kind chat with this model "
            "in this version"
        ),
    ),
    "a weight below zero": (
        with_target("name: x, provider: flux, model: flux-pro, weight: -1"),
        "11:models.picture.targets[2].weight: must be a whole number from 0 to 1000000",
    ),
    "a timeout of nothing": (
        with_model(timeout="0s"),
        f"11:models.picture.timeout: must be a duration from 1s to 24h, {DURATION}",
    ),
    # -- prices
    "a price by a word": (
        with_target("name: x, provider: flux, model: flux-pro, price: cheap"),
        "11:models.picture.targets[2].price: must be catalogue or a mapping of prices",
    ),
    "a price without a price": (
        with_target("name: x, provider: flux, model: flux-pro, price: {}"),
        "11:models.picture.targets[2].price: must hold at least one price",
    ),
    "rows without a price": (
        with_target("name: x, provider: flux, model: flux-pro, price: {image: {}}"),
        "11:models.picture.targets[2].price: must hold at least one price",
    ),
    "a price without rows": (
        with_target("name: x, provider: flux, model: flux-pro, price: {image: 0.03}"),
        "11:models.picture.targets[2].price.image: must be a mapping of keys",
    ),
    "a price below zero": (
        with_target("name: x, provider: flux, model: flux-pro, price: {image: {default: -0.03}}"),
        f"11:models.picture.targets[2].price.image.default: must be {USD}",
    ),
    "a price with a sign for dollars": (
        with_target("name: x, provider: flux, model: flux-pro, price: {image: {default: $0.03}}"),
        f"11:models.picture.targets[2].price.image.default: must be {USD}",
    ),
    "a price too fine": (
        with_target("name: x, provider: flux, model: flux-pro, price: {request: 0.0000000001}"),
        f"11:models.picture.targets[2].price.request: must be {USD}",
    ),
    "a row that is neither quality nor size": (
        with_target("name: x, provider: flux, model: flux-pro, price: {image: {'1024x1024:high': 0.03}}"),
        "11:models.picture.targets[2].price.image.?: must be default, a quality, a size, or quality:size",
    ),
    "half a megapixel price": (
        with_target("name: x, provider: flux, model: flux-pro, price: {megapixel: {first: 0.03}}"),
        "11:models.picture.targets[2].price.megapixel.further: is missing",
    ),
    "an unknown line": (
        with_target("name: x, provider: flux, model: flux-pro, price: {images: {default: 1}}"),
        "11:models.picture.targets[2].price.images: unknown key: did you mean image?",
    ),
    # -- retry
    "more repeats than anybody wants": (
        with_model(retry="{per_target: 1000}"),
        "11:models.picture.retry.per_target: must be a whole number from 0 to 20",
    ),
    "no attempts": (
        with_model(retry="{total: 0}"),
        "11:models.picture.retry.total: must be a whole number from 1 to 50",
    ),
    "a backoff that shrinks": (
        with_model(retry="{backoff: {first: 8s, max: 1s}}"),
        "11:models.picture.retry.backoff.max: must not be shorter than first",
    ),
    "an answer to a refusal that is none": (
        with_model(retry="{on_refusal: retry}"),
        "11:models.picture.retry.on_refusal: must be fail or failover",
    ),
    "an answer to rubbish that is none": (
        with_model(retry="{retry_unusable: always}"),
        "11:models.picture.retry.retry_unusable: must be never or failover",
    ),
    # -- rules
    "a rule without a condition": (
        with_rule("{strategy: cheapest}"),
        "12:models.picture.rules[0].when: is missing",
    ),
    "an empty condition": (
        with_rule("{when: {}}"),
        "12:models.picture.rules[0].when: must hold at least one condition",
    ),
    "a condition without a value": (
        with_rule("{when: {tenant: , quality: high}}"),
        "12:models.picture.rules[0].when.tenant: has no value: give it one, or comment the key out",
    ),
    "an unknown condition": (
        with_rule("{when: {tenants: a}}"),
        "12:models.picture.rules[0].when.tenants: unknown key: did you mean tenant?",
    ),
    "metadata without its key": (
        with_rule("{when: {metadata: {team: ads}}}"),
        (
            "12:models.picture.rules[0].when.metadata: unknown key: known are kind, tenant, size, quality, n, seconds, "
            "priority, surface, hours, metadata.KEY"
        ),
    ),
    "an empty list of words": (
        with_rule("{when: {quality: []}}"),
        "12:models.picture.rules[0].when.quality: must not be empty",
    ),
    "a mapping for a word": (
        with_rule("{when: {quality: [high, {a: b}]}}"),
        f"12:models.picture.rules[0].when.quality[1]: must be {PATTERN}",
    ),
    "a range that falls": (
        with_rule('{when: {n: "4-2"}}'),
        "12:models.picture.rules[0].when.n: must be a count from 1, or a range such as 2-4 or >=2",
    ),
    "a count of none": (
        with_rule("{when: {n: [2, 0]}}"),
        "12:models.picture.rules[0].when.n[1]: must be a count from 1, or a range such as 2-4 or >=2",
    ),
    "seconds that are no count": (
        with_rule("{when: {seconds: 8s}}"),
        "12:models.picture.rules[0].when.seconds: must be a count from 1, or a range such as 2-4 or >=2",
    ),
    "an hour that no clock shows": (
        with_rule('{when: {hours: "22:00-25:00"}}'),
        "12:models.picture.rules[0].when.hours: must be a span of the day such as 22:00-06:00",
    ),
    "hours that are empty": (
        with_rule('{when: {hours: "22:00-22:00"}}'),
        "12:models.picture.rules[0].when.hours: must be a span of the day such as 22:00-06:00",
    ),
    "a priority that is none": (
        with_rule("{when: {priority: [high, higher]}}"),
        "12:models.picture.rules[0].when.priority[1]: must be urgent, high, normal or low",
    ),
    "a kind of another family": (
        with_rule("{when: {kind: video.generation}}"),
        (
            "12:models.picture.rules[0].when.kind: must fit a kind of this model: image.edit, image.generation, "
            "image.variation"
        ),
    ),
    "a surface that is none": (
        with_rule("{when: {surface: soap}}"),
        "12:models.picture.rules[0].when.surface: must fit a surface: dieyuyun, native, openai, pixapi, worldrouter",
    ),
    "a size with a large X": (
        with_rule("{when: {size: 1024X1024}}"),
        "12:models.picture.rules[0].when.size: a size is WIDTHxHEIGHT, with a small x",
    ),
    "a rule's target that the model does not have": (
        with_rule("{when: {tenant: a}, targets: [openai, acme]}"),
        "12:models.picture.rules[0].targets[1]: the model has no such target; it has flux, openai",
    ),
    "a rule's target twice": (
        with_rule("{when: {tenant: a}, targets: [openai, openai]}"),
        (
            "12:models.picture.rules[0].targets[1]: another target of the rule has this name already: "
            "give it a `name` of its own"
        ),
    ),
    "a rule's whole target under the name of another provider's": (
        with_rule("{when: {tenant: a}, targets: [{name: openai, provider: flux, model: flux-pro, price: catalogue}]}"),
        "12:models.picture.rules[0].targets: openai is the name of a target at another provider: choose another",
    ),
    # -- what this version does not do
    "a canary": (
        with_model(canary="{target: {provider: flux, model: flux-pro}, percent: 5}"),
        "11:models.picture.canary: not available in this version",
    ),
    **{
        f"the strategy {strategy}": (
            with_model(strategy=strategy),
            (
                f"11:models.picture.strategy: {strategy} is not available in this version: "
                "use ordered, cheapest or weighted"
            ),
        )
        for strategy in ("fastest", "success", "balanced")
    },
    "the strategy fastest in a rule": (
        with_rule("{when: {tenant: a}, strategy: fastest}"),
        (
            "12:models.picture.rules[0].strategy: fastest is not available in this version: "
            "use ordered, cheapest or weighted"
        ),
    ),
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_of_a_model_is_told_once_with_file_line_and_path(text, expected):
    assert problems_of(text) == [f"routing.yaml:{expected}"]
