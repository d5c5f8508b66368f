"""What lies in `grafana/`, read for the tests: panels, variables and queries of the dashboard, rules, YAML files."""

import json
from dataclasses import dataclass
from pathlib import Path

from router.config.document import Items, Keys, Scalar, compose

FOLDER = Path(__file__).parent.parent.parent / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboards" / "overview.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@dataclass(frozen=True)
class Query:
    """An expression, where it stands, and the text that names its series (a legend) or its labels (annotations)."""

    place: str
    expression: str
    text: str


def read_yaml(name):
    """Read a YAML file of the folder by our own reader: mappings, lists, and every scalar as the text that it is."""
    document = compose((FOLDER / name).read_text(encoding="utf-8"))
    assert document.root is not None, document.slips
    assert document.slips == ()
    return _plain(document.root)


def list_rules():
    """Every alert rule."""
    return [rule for group in read_yaml("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def list_panel_queries():
    """Every query of the dashboard, with its legend."""
    return [
        Query(f"{panel['title']} {target['refId']}", target["expr"], target["legendFormat"])
        for panel in PANELS
        for target in panel["targets"]
    ]


def list_rule_queries():
    """Every rule's expression, with its annotations."""
    return [Query(rule["alert"], rule["expr"], " ".join(rule["annotations"].values())) for rule in list_rules()]


def _plain(node):
    match node:
        case Scalar(text=text):
            return text
        case Items(entries=entries):
            return [_plain(entry.node) for entry in entries]
        case Keys(entries=keyed):
            return {key: _plain(entry.node) for key, entry in keyed.items()}
