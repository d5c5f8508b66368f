"""The files for Prometheus and Grafana have what those demand, and agree with one another and with the daemon."""

import re

import promql_parser as promql
import pytest

from tests.grafana.shipped import FOLDER, list_rules, read_yaml

RULE_KEYS = {"alert", "expr", "for", "labels", "annotations"}
ALERTS = {
    "PointsmanNoSuccess": "critical",
    "PointsmanBreakerOpen": "warning",
    "PointsmanQueueOld": "warning",
    "PointsmanUnknownOutcomes": "warning",
    "PointsmanConfigRejected": "warning",
    "PointsmanWebhooksLost": "warning",
    "PointsmanUnreachable": "critical",
}

each_rule = pytest.mark.parametrize("rule", list_rules(), ids=lambda rule: rule["alert"])


def test_prometheus_scrapes_the_metrics_with_the_admin_key_from_a_file():
    config = read_yaml("prometheus/prometheus.yml")
    [scrape] = config["scrape_configs"]

    assert (scrape["job_name"], scrape["metrics_path"], scrape["scheme"]) == ("pointsman", "/metrics", "http")
    assert scrape["authorization"] == {"type": "Bearer", "credentials_file": "admin-key"}
    assert scrape["static_configs"] == [{"targets": ["127.0.0.1:8080"]}]
    for name in config["rule_files"]:
        assert (FOLDER / "prometheus" / name).is_file()


def test_a_scrape_ends_before_the_next_begins():
    timing = {
        name: promql.parse_duration(text) for name, text in read_yaml("prometheus/prometheus.yml")["global"].items()
    }

    assert timing.keys() == {"scrape_interval", "scrape_timeout", "evaluation_interval"}
    assert timing["scrape_timeout"] <= timing["scrape_interval"]


def test_the_rules_stand_in_groups_with_names():
    groups = read_yaml("prometheus/alerts.yml")

    assert groups.keys() == {"groups"}
    for group in groups["groups"]:
        assert group.keys() == {"name", "rules"}
        assert group["name"]
    assert {rule["alert"]: rule["labels"]["severity"] for rule in list_rules()} == ALERTS


@each_rule
def test_a_rule_has_what_prometheus_and_the_one_who_is_woken_need(rule):
    assert rule.keys() == RULE_KEYS
    assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    promql.parse(rule["expr"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert "\n" not in rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"].split()) >= 15


@each_rule
def test_a_rule_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet(rule):
    tests = read_yaml("prometheus/alerts_test.yml")
    cases = [
        case["exp_alerts"]
        for test in tests["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]

    assert tests["rule_files"] == ["alerts.yml"]
    assert [case for case in cases if case]
    assert [case for case in cases if not case]


def test_the_cases_are_about_alerts_that_exist():
    named = {
        case["alertname"]
        for test in read_yaml("prometheus/alerts_test.yml")["tests"]
        for case in test["alert_rule_test"]
    }

    assert named == set(ALERTS)


def test_the_job_that_a_rule_names_is_the_one_that_is_scraped():
    [job] = {name for rule in list_rules() for name in re.findall(r'job="([^"]*)"', rule["expr"])}

    assert [scrape["job_name"] for scrape in read_yaml("prometheus/prometheus.yml")["scrape_configs"]] == [job]


def test_grafana_is_given_a_prometheus_with_the_interval_of_the_scrapes():
    given = read_yaml("provisioning/datasources/prometheus.yml")
    [source] = given["datasources"]

    assert given["apiVersion"] == "1"
    assert source["name"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
    assert source["url"].startswith("http")
    assert source["jsonData"]["timeInterval"] == read_yaml("prometheus/prometheus.yml")["global"]["scrape_interval"]


def test_grafana_is_told_the_folder_that_the_readme_mounts():
    given = read_yaml("provisioning/dashboards/pointsman.yml")
    [provider] = given["providers"]

    assert given["apiVersion"] == "1"
    assert provider["name"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] in (FOLDER / "README.md").read_text(encoding="utf-8")
