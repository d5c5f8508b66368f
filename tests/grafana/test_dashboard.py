"""The dashboard is one that Grafana takes and a stranger can read: places, words, units, any Prometheus behind it."""

from itertools import combinations

import pytest

from tests.grafana.shipped import DASHBOARD, PANELS, ROWS, VARIABLES

COLUMNS = 24
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"short", "s", "percentunit", "currencyUSD", "reqps", "Bps"}
# What a metric's name says of its unit; a rate per minute or a count has no unit of its own.
UNIT_OF = {"_usd_total": "currencyUSD", "_remaining_usd": "currencyUSD", "_bytes_total": "Bps", "quantile": "s"}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_ids_and_titles_are_unique():
    for name in ("id", "title"):
        values = [panel[name] for panel in (*PANELS, *ROWS)]
        assert len(values) == len(set(values))
    assert all(panel["id"] > 0 for panel in (*PANELS, *ROWS))


def test_no_two_panels_lie_over_one_another_and_none_leaves_the_grid():
    places = {panel["title"]: panel["gridPos"] for panel in (*PANELS, *ROWS)}

    for place in places.values():
        assert place["h"] > 0
        assert place["w"] > 0
        assert 0 <= place["x"] <= COLUMNS - place["w"]
    assert [pair for pair in combinations(places, 2) if overlap(*(places[title] for title in pair))] == []


def overlap(one, other):
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


def test_the_rows_tell_the_story_in_order():
    assert [row["title"] for row in sorted(ROWS, key=lambda row: row["gridPos"]["y"])] == [
        "Traffic",
        "Success",
        "Latency",
        "Queue",
        "Breakers",
        "Cost",
        "Wasted spend and unknown bills",
        "The daemon itself",
    ]
    assert all(row["gridPos"]["w"] == COLUMNS for row in ROWS)


@each_panel
def test_a_panel_says_in_one_sentence_what_to_do(panel):
    description = panel["description"]

    assert description.endswith(".")
    assert ". " not in description
    assert len(description.split()) >= 10


@each_panel
def test_a_panel_has_the_unit_of_what_it_shows(panel):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    expressions = " ".join(target["expr"] for target in panel["targets"])

    assert unit in UNITS
    if panel["title"].startswith("Share"):
        assert unit == "percentunit"
    elif wanted := {known for ending, known in UNIT_OF.items() if ending in expressions}:
        assert {unit} == wanted


@each_panel
def test_a_panel_and_its_queries_ask_the_chosen_prometheus_only(panel):
    assert panel["datasource"] == PROMETHEUS
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == PROMETHEUS
        assert target["range"] != target["instant"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))


def test_the_variables_are_the_prometheus_the_model_and_the_provider():
    assert list(VARIABLES) == ["datasource", "model", "provider"]
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("model", "provider"):
        assert VARIABLES[name]["datasource"] == PROMETHEUS
        assert (VARIABLES[name]["includeAll"], VARIABLES[name]["allValue"]) == (True, ".*")


def test_it_can_be_imported_anywhere():
    assert "id" not in DASHBOARD
    assert DASHBOARD["uid"] == "pointsman-overview"
    assert "__inputs" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 39
