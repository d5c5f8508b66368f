"""The files in config/: each loads with the real adapters, fits the JSON Schema, and says what its comments promise."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import providers
from router.config import load, schema, starter
from router.config.prices import read_catalogue
from router.policy.price import quote
from router.policy.rules import Price, Shape, Strategy, Tokens
from router.provider import Kind
from tests.policy.routing_files import SMALL, absent

FOLDER = Path(__file__).parents[2] / "config"
CATALOGUE = (FOLDER / "prices.yaml").read_text(encoding="utf-8")
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml") if path.name != "prices.yaml")
DEMO = {
    **{f"POINTSMAN_DEMO_{name}_URL": "http://127.0.0.1:9" for name in ("OPENAI", "APIYI", "BFL")},
    **{f"POINTSMAN_DEMO_{name}_KEY": "demo" for name in ("OPENAI", "APIYI", "BFL")},
}
KEYS = dict.fromkeys(("OPENAI_API_KEY", "APIYI_API_KEY", "BFL_API_KEY", "BFL_KEY_1", "BFL_KEY_2"), "k")
CENT = 10_000_000


def read_shipped(name, environ):
    return load(
        (FOLDER / name).read_text(encoding="utf-8"),
        source=f"config/{name}",
        environ=environ,
        read_secret=absent,
        adapter=providers.facts,
        catalogue=CATALOGUE,
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keys", [{}, KEYS], ids=["without keys", "with keys"])
def test_every_file_loads_without_a_problem(name, keys):
    loaded = read_shipped(name, {**DEMO, **keys})

    assert loaded.problems == ()
    assert loaded.ruleset.models


@pytest.mark.parametrize("name", FILES)
def test_every_file_fits_the_schema(name):
    jsonschema.validate(yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")), schema())


def test_the_schema_in_the_folder_is_the_one_of_the_models():
    written = (FOLDER / "schema.json").read_text(encoding="utf-8")

    assert written == json.dumps(schema(), indent=2) + "\n"


def test_the_schema_is_one_of_2020_12_and_describes_every_section():
    made = schema()

    jsonschema.Draft202012Validator.check_schema(made)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["required"] == ["version", "providers", "models"]
    assert "description" in made["properties"]["timezone"]
    assert all("description" in part for part in made["$defs"].values())


@pytest.mark.parametrize(
    "broken",
    [
        SMALL.replace("version: 1", "version: 2"),
        SMALL.replace("kind: image", "kind: picture"),
        SMALL.replace("api_key", "apikey"),
        SMALL.replace("0.05", "cheap"),
        f"{SMALL}    strategy: fastest\n",
        f"{SMALL}    canary: {{}}\n",
        f"{SMALL}    timeout: 8\n",
        f"{SMALL}    rules: [{{when: {{}}}}]\n",
        f"{SMALL}    rules: [{{when: {{tenants: a}}}}]\n",
        f"{SMALL}    rules: [{{when: {{n: many}}}}]\n",
    ],
)
def test_the_schema_refuses_what_check_refuses(broken):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(broken), schema())


def test_the_schema_takes_what_check_takes():
    rules = """
    rules:
      - when: {metadata.team: [a, b], n: [1, "2-4", ">=8"], hours: "22:00-06:00", priority: high, quality: no}
        targets: [openai, {provider: flux, model: flux-pro, price: {image: {default: "0.03"}}}]
"""

    jsonschema.validate(yaml.safe_load(SMALL + rules), schema())


def test_the_starter_is_the_shipped_routing_file():
    assert starter() == (FOLDER / "routing.yaml").read_text(encoding="utf-8")


def test_the_routing_file_only_warns_when_no_key_is_set_and_has_nothing_to_warn_of_when_all_are():
    bare, full = read_shipped("routing.yaml", {}), read_shipped("routing.yaml", KEYS)

    assert {provider.credentials for provider in bare.ruleset.providers.values()} == {()}
    assert len(bare.warnings) >= 3
    assert full.warnings == ()
    assert {provider.adapter.slug for provider in full.ruleset.providers.values()} == {"openai", "apiyi", "bfl"}


def test_the_cheapest_target_of_the_demo_is_the_one_that_the_demo_breaks():
    loaded = read_shipped("demo.yaml", DEMO)
    model = loaded.ruleset.models["demo-image"]
    prices = {target.provider: target.price for target in model.otherwise.targets}

    assert loaded.warnings == ()
    assert model.otherwise.strategy is Strategy.CHEAPEST
    assert loaded.ruleset.providers["budget"].adapter.slug == "apiyi"
    assert prices["budget"] == Price(image={"default": 3 * CENT})
    assert prices["flux"] == Price(image={"default": 4 * CENT})
    assert prices["openai"].image["medium:1024x1024"] == 53_000_000


def test_the_demo_does_not_load_without_its_simulators():
    assert {problem.path for problem in read_shipped("demo.yaml", {}).problems} == {
        "providers.budget.base_url",
        "providers.flux.base_url",
        "providers.openai.base_url",
    }


# (adapter, model, line) -> what the provider documents say; a few of each kind
LISTED = {
    ("openai", "gpt-image-2"): Price(
        image={
            "low:1024x1024": 6_000_000,
            "medium:1024x1024": 53_000_000,
            "high:1024x1024": 211_000_000,
            "low:3840x2160": 12_000_000,
            "medium:3840x2160": 101_000_000,
            "high:3840x2160": 401_000_000,
        },
        tokens=Tokens(input=500 * CENT, image_input=800 * CENT, image_output=3000 * CENT),
    ),
    ("apiyi", "gpt-image-2-all"): Price(image={"default": 3 * CENT}),
    ("bfl", "flux-2-pro"): Price(megapixel=(30_000_000, 15_000_000)),
    ("bfl", "flux-pro-1.1-ultra"): Price(image={"default": 6 * CENT}),
}


def test_the_catalogue_says_what_the_price_lists_say_and_nothing_of_what_they_leave_open():
    prices, problems = read_catalogue(CATALOGUE)

    assert problems == ()
    assert {key: prices[key] for key in LISTED} == LISTED
    assert ("openai", "gpt-image-2.6-flare") not in prices
    assert ("apiyi", "gpt-image-2") not in prices


def test_every_row_of_the_catalogue_belongs_to_an_adapter_that_is_here():
    prices, _problems = read_catalogue(CATALOGUE)

    assert {adapter for adapter, _model in prices} <= set(providers.known())


@pytest.mark.parametrize(
    ("model", "size", "nanos"),
    [
        ("veo-3.1-generate-001", "1280x720", 320 * CENT),
        ("veo-3.1-generate-001", "2160x3840", 480 * CENT),
        ("veo-3.1-fast-generate-001", "3840x2160", 240 * CENT),
        ("veo-3.1-lite-generate-001", "3840x2160", None),
    ],
)
def test_a_large_film_is_quoted_by_the_row_of_its_resolution(model, size, nanos):
    prices, _problems = read_catalogue(CATALOGUE)

    assert quote(prices["veo", model], Shape(Kind.VIDEO_GENERATION, model, size=size, seconds=8)) == nanos
