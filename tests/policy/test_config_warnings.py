"""Warnings: requests without a fallback, targets without a price, names without a model, rules that never match."""

from router.config.gaps import CHECKS_MAX
from tests.policy.routing_files import ENVIRON, SMALL, read, warnings_of, with_key, with_rule

CATALOGUE = """\
version: 1
prices:
  openai:
    gpt-image-2: {price: {image: {1024x1024: 0.05}}, source: a list, date: "2026-11"}
"""
LOSS = "its cost is not known, and it is left out wherever a budget or max_price applies"
LONE = SMALL[: SMALL.index("      - {provider: flux")]
SMALL_FLUX = SMALL.replace("flux-pro", "flux-small")


def test_a_file_with_two_of_everything_has_no_warnings():
    assert warnings_of(SMALL) == []


def test_a_model_with_one_target_has_no_fallback():
    assert warnings_of(LONE) == [
        "routing.yaml:8:models.picture.targets: no fallback: only openai can serve these requests"
    ]


def test_a_rule_with_one_target_has_no_fallback():
    assert warnings_of(with_rule("{when: {tenant: a}, targets: [flux]}")) == [
        "routing.yaml:12:models.picture.rules[0]: no fallback: only flux can serve these requests"
    ]


def test_what_was_said_of_the_model_is_not_said_again_of_its_rules():
    assert len(warnings_of(f"{LONE}    rules:\n      - {{when: {{tenant: a}}, strategy: cheapest}}\n")) == 1


def test_shapes_that_one_target_alone_can_make_are_named():
    assert warnings_of(SMALL_FLUX) == [
        ("routing.yaml:8:models.picture.targets: no fallback: only openai can serve image.edit")
    ]
    assert warnings_of(with_rule('{when: {size: ["1024x1024", "3072x3072"], kind: image.generation}}')) == [
        "routing.yaml:12:models.picture.rules[0]: no fallback: only openai can serve 3072x3072"
    ]


def test_shapes_that_no_target_can_make_are_named():
    assert warnings_of(with_rule('{when: {size: ["1024x1024", "4096x4096"]}}')) == [
        (
            "routing.yaml:12:models.picture.rules[0]: "
            "nobody can serve image.generation 4096x4096, image.edit 4096x4096: no target does that"
        )
    ]
    assert warnings_of(with_rule("{when: {kind: image.variation}}")) == [
        "routing.yaml:12:models.picture.rules[0]: nobody can serve these requests: no target does that"
    ]


def test_more_outputs_than_a_target_makes_at_a_time_are_no_gap():
    assert warnings_of(with_rule('{when: {n: ["1-4", 20]}}')) == []


def test_a_target_without_a_credential_is_no_fallback():
    environ = {"OPENAI_API_KEY": ENVIRON["OPENAI_API_KEY"]}

    assert warnings_of(SMALL, environ=environ)[1:] == [
        "routing.yaml:8:models.picture.targets: no fallback: only openai can serve these requests"
    ]
    assert warnings_of(SMALL, environ={})[2:] == [
        (
            "routing.yaml:8:models.picture.targets: "
            "nobody can serve these requests: no target that could has a credential"
        )
    ]


def test_targets_without_a_price_are_named():
    text = SMALL.replace(", price: {image: {default: 0.05}}", "").replace("{image: {default: 0.04}}", "catalogue")

    assert warnings_of(text) == [
        f"routing.yaml:9:models.picture.targets[0]: has no price: {LOSS}",
        f"routing.yaml:10:models.picture.targets[1].price: the catalogue has no row for this model: {LOSS}",
    ]


def test_shapes_without_a_price_are_named_where_there_is_a_budget():
    priced = SMALL.replace("{image: {default: 0.05}}", "catalogue")
    text = f"{priced}budgets: [{{scope: all, window: day, limit: 1}}]\n"

    assert warnings_of(priced, catalogue=CATALOGUE) == []
    assert warnings_of(text, catalogue=CATALOGUE) == [
        (
            "routing.yaml:8:models.picture.targets: openai has no price for image.generation 1536x1024, "
            "image.edit 1536x1024: left out wherever a budget applies"
        )
    ]


def test_a_default_model_and_a_tenants_model_may_wait_for_their_model():
    text = with_key("default_model: {video: veo-3}\ntenants: {studio: {models: [picture, veo-3]}}")

    assert warnings_of(text) == [
        "routing.yaml:11:default_model.video: there is no such model, and no other of kind video",
        "routing.yaml:12:tenants.studio.models[1]: there is no such model",
    ]


def test_a_rule_with_the_condition_of_an_earlier_one_never_matches():
    text = with_rule(
        "{when: {tenant: a}}\n      - {when: {tenant: b}}\n      - {when: {tenant: [a]}, strategy: cheapest}"
    )

    assert warnings_of(text) == [
        "routing.yaml:14:models.picture.rules[2]: never matches: rules[0] has the same condition"
    ]


def test_a_file_beyond_the_bound_is_read_and_not_looked_through_to_its_end():
    sizes = ", ".join(f"{16 * number}x64" for number in range(4, 54))
    count = CHECKS_MAX // (2 * 2 * 50) + 10
    rules = "".join(
        f"      - {{when: {{tenant: t{number}, size: *s}}, targets: [flux, openai]}}\n" for number in range(count)
    )
    text = (
        with_rule(f"{{when: {{tenant: x, size: &s [{sizes}]}}}}")
        + rules
        + "      - {when: {tenant: z}, targets: [flux]}\n"
    )

    loaded = read(text)

    assert loaded.problems == ()
    assert loaded.warnings == ()
