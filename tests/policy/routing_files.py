"""Routing files for the tests of configuration: a small sound one to vary, adapters as plain facts, and `read`."""

from textwrap import dedent

from router.config import load
from router.geometry import Sizes
from router.provider import Abilities, AdapterFacts, Kind

IMAGES = frozenset({Kind.IMAGE_GENERATION})
SQUARE = Sizes(named=frozenset({"auto", "1024x1024"}), multiple=16, min_side=64, max_side=2048)
ADAPTERS = {
    "openai": AdapterFacts(
        "openai",
        "https://api.openai.example/v1",
        {
            "gpt-image-2*": Abilities(
                IMAGES | {Kind.IMAGE_EDIT},
                max_n=10,
                sizes=Sizes(named=frozenset({"auto", "1024x1024", "1536x1024"}), multiple=16, max_side=3840),
            ),
            "*": Abilities(IMAGES, max_n=10),
        },
    ),
    "apiyi": AdapterFacts("apiyi", "https://api.apiyi.example", {"*": Abilities(IMAGES, max_n=10, sizes=SQUARE)}),
    "bfl": AdapterFacts(
        "bfl",
        "https://api.bfl.example",
        {
            "flux-fill": Abilities(frozenset()),
            "flux-small": Abilities(IMAGES, sizes=SQUARE),
            "flux-*": Abilities(IMAGES | {Kind.IMAGE_EDIT}, max_n=10, sizes=SQUARE),
        },
        refusals_free=True,
    ),
    "homeless": AdapterFacts("homeless", None, {"*": Abilities(IMAGES)}),
}

SMALL = """\
version: 1
providers:
  openai: {adapter: openai, api_key: "${OPENAI_API_KEY}"}
  flux: {adapter: bfl, api_key: "${BFL_API_KEY}"}
models:
  picture:
    kind: image
    targets:
      - {provider: openai, model: gpt-image-2, price: {image: {default: 0.05}}}
      - {provider: flux, model: flux-pro, price: {image: {default: 0.04}}}
"""
ENVIRON = {"OPENAI_API_KEY": "sk-openai", "BFL_API_KEY": "bfl-key"}


def absent(path):
    """Read no secret: there are no files."""
    raise FileNotFoundError(path)


def read(text, *, environ=None, files=None, catalogue="", source="routing.yaml"):
    """Load a text; `files` are the contents of `file:` references by path."""
    secrets = files or {}

    def read_secret(path):
        return secrets[path] if path in secrets else absent(path)

    return load(
        dedent(text),
        source=source,
        environ=ENVIRON if environ is None else environ,
        read_secret=read_secret,
        adapter=ADAPTERS.get,
        catalogue=dedent(catalogue),
    )


def problems_of(text, **given):
    """The problems as they are printed, in the order of the lines."""
    loaded = read(text, **given)
    assert loaded.ruleset is None or not loaded.problems
    return [str(problem) for problem in loaded.problems]


def warnings_of(text, **given):
    """The warnings of a text without problems, as they are printed."""
    loaded = read(text, **given)
    assert loaded.problems == ()
    return [str(problem) for problem in loaded.warnings]


def rules_of(text, **given):
    """The ruleset of a text without problems."""
    loaded = read(text, **given)
    assert loaded.problems == ()
    return loaded.ruleset


def with_model(**keys):
    """SMALL with further keys of the model, each as one line of YAML: `with_model(timeout="8s")`."""
    return SMALL + "".join(f"    {key}: {value}\n" for key, value in keys.items())


def with_rule(rule):
    """SMALL with one rule, in YAML's flow form; it stands in line 12."""
    return f"{SMALL}    rules:\n      - {rule}\n"


def with_key(line):
    """SMALL with one more line at the end, at the top level; it stands in line 11."""
    return f"{SMALL}{line}\n"


def with_provider(keys):
    """SMALL with another provider, in YAML's flow form without braces; it stands in line 5."""
    return SMALL.replace("models:", f"  other: {{{keys}}}\nmodels:", 1)


def with_target(keys):
    """SMALL with another target, in YAML's flow form without braces; it stands in line 11."""
    return f"{SMALL}      - {{{keys}}}\n"
