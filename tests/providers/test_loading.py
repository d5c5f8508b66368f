"""Adapters are found by the name of their file: no list, no import of what is not asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import providers
from router.provider import AdapterFacts


def test_an_adapter_is_loaded_by_its_slug():
    adapter = providers.load("openai")
    assert adapter.facts.slug == "openai"
    assert providers.load("openai") is adapter


def test_wire_forms_and_simulators_are_no_adapters():
    assert {"apiyi", "bfl", "openai"} <= set(providers.known())
    assert not {"formats", "simulated"} & set(providers.known())
    assert list(providers.known()) == sorted(providers.known())


@pytest.mark.parametrize(
    "slug",
    ["nobody", "formats", "simulated", "formats.failures", "../openai", "openai.Adapter", "OpenAI", "", "__init__"],
)
def test_what_is_no_adapter_is_named_with_those_that_are(slug):
    with pytest.raises(providers.UnknownAdapter, match=r"known are: .*openai") as refused:
        providers.load(slug)
    assert repr(slug) in str(refused.value)
    assert providers.facts(slug) is None


def test_the_facts_are_to_be_had_without_an_instance():
    facts = providers.facts("bfl")
    assert isinstance(facts, AdapterFacts)
    assert facts.refusals_free


def test_a_new_file_is_an_adapter_and_a_wrong_name_in_it_is_a_bug(tmp_path):
    copied = tmp_path / "providers"
    shutil.copytree(Path(providers.__file__).parent, copied, ignore=shutil.ignore_patterns("simulated", "__pycache__"))
    source = (copied / "openai.py").read_text(encoding="utf-8")
    (copied / "acme.py").write_text(source.replace('slug="openai"', 'slug="acme"'), encoding="utf-8")
    (copied / "wrong.py").write_text(source, encoding="utf-8")
    code = "import providers; print(providers.known(), providers.load('acme').facts.slug); providers.load('wrong')"
    told = _run(code, tmp_path)
    assert told.stdout.strip() == f"{tuple(sorted({*providers.known(), 'acme', 'wrong'}))} acme"
    assert "providers/wrong.py calls itself 'openai'" in told.stderr


def test_naming_the_adapters_imports_none_of_them():
    code = "import sys, providers; providers.known(); print([m for m in sys.modules if m.startswith('providers.')])"
    assert _run(code).stdout.strip() == "[]"


def _run(code, *first):
    paths = [*map(str, first), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
