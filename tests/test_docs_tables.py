"""The tables of settings and metrics say what the code has, both ways: README, `serve --help` and the code agree."""

import re
from pathlib import Path

import router
from router.cli.environment import SETTINGS, describe_settings
from router.settings import SECRETS, Settings
from router.watch.metrics import METRICS

ROOT = Path(router.__file__).parent.parent
README = ROOT / "README.md"


def rows(heading):
    """The rows of the table below a heading of the README, as lists of cells."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    section = section.split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_readme_lists_every_metric_with_its_kind_and_labels_and_no_other():
    shown = {
        name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows("Metrics")
    }

    assert shown == {f"pointsman_{name}": (kind, labels) for name, (kind, labels, _) in METRICS.items()}


def test_the_readme_lists_every_setting_with_its_default_and_no_other():
    shown = {re.findall(r"`(\w+)`", names)[0]: default.strip("`") for names, default, _ in rows("Settings")}

    assert shown == {setting.variable: setting.default for setting in SETTINGS}


def test_the_table_of_settings_is_what_the_settings_read():
    fields = {name for name in Settings.model_fields if not name.endswith("_file")}

    assert {setting.name.lower() for setting in SETTINGS} == fields
    assert {setting.name.lower() for setting in SETTINGS if setting.is_secret} == set(SECRETS)
    assert {f"{name}_file" for name in SECRETS} == set(Settings.model_fields) - fields


def test_the_table_of_settings_has_the_defaults_that_hold():
    for setting in SETTINGS:
        field = Settings.model_fields[setting.name.lower()]
        held = "" if field.default_factory is not None or field.default is None else field.default
        assert setting.default in {str(held), f"{held:g}" if isinstance(held, float) else str(held)}


def test_the_help_of_serve_names_every_setting():
    for setting in SETTINGS:
        assert setting.variable in describe_settings()
