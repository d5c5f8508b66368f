"""Every metric, label and value that a panel or a rule names is on the page of a daemon that has worked; every metric
of the code is on the dashboard or in a rule.
"""

import asyncio
import re

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from providers.simulated import Fault, FaultKind, Options, start
from router.watch.metrics import METRICS
from tests.daemons import ADMIN_KEY, ROUTING, running_daemon, write_routing
from tests.grafana.expressions import SCRAPED, Series, judge
from tests.grafana.shipped import VARIABLES, list_panel_queries, list_rule_queries
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
# What each prompt meets at provider a, and how its task ends.
ENDINGS = {
    "a picture that comes": (None, "succeeded"),
    "a picture of the second provider": (FaultKind.OVERLOADED, "succeeded"),
    "a picture that is a web page": (FaultKind.HTML, "failed"),
    "a picture of unknown bill": (FaultKind.DROP, "failed"),
}
BUDGET = "budgets: [{{scope: all, window: total, limit: 100}}]\n"
QUERIES = [*list_panel_queries(), *list_rule_queries()]


async def work(folder):
    """Let a daemon do a task of every ending and refuse a routing file; returns the series of its page."""
    faults = tuple(Fault(kind=kind, prompt=prompt) for prompt, (kind, _status) in ENDINGS.items() if kind)
    async with (
        start("openai", options=Options(latency_s=0.0, faults=faults)) as a,
        start("openai", options=Options(latency_s=0.0)) as b,
    ):
        write_routing(folder, a.base_url, b.base_url, ROUTING + BUDGET)
        async with running_daemon(folder) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            for prompt, (_kind, status) in ENDINGS.items():
                assert await run_task(session, prompt) == status, prompt
            write_routing(folder, text="version: 1\nmodels: nothing\n")
            async with session.post("/admin/v1/config/reload") as answer:
                assert answer.status == 400, await answer.text()
            return await poll_until(lambda: read_series(session), "every metric on the page")


async def run_task(session, prompt):
    """Submit a native task and wait for its end; returns its status."""
    body = {"kind": "image.generation", "model": "m", "input": {"prompt": prompt}}
    async with session.post("/v1/tasks", json=body) as answer:
        assert answer.status == 202, await answer.text()
        task = (await answer.json())["id"]

    async def ask():
        async with session.get(f"/v1/tasks/{task}") as read:
            status = (await read.json())["status"]
        return status if status not in {"pending", "running", "retrying"} else None

    return await poll_until(ask, "the end of the task")


async def read_series(session):
    """Read the page; None while a metric of the code is not on it."""
    async with session.get("/metrics") as answer:
        assert answer.status == 200
        page = await answer.text()
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]
    series = Series([(one.name, dict(one.labels)) for one in samples])
    told = any(labels.get("billing") == "unknown" for _name, labels in series.rows)
    return series if told and {stem(name) for name in series.labels} >= METRICS.keys() else None


def stem(name):
    """The name in the table of the code: without the prefix and without what a histogram puts behind it."""
    name = name.removeprefix("pointsman_")
    endings = [name, *(name.removesuffix(ending) for ending in ("_bucket", "_sum", "_count"))]
    return next((one for one in endings if one in METRICS), name)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return asyncio.run(work(tmp_path_factory.mktemp("working")))


def test_the_page_has_every_metric_of_the_code_with_its_labels(series):
    found = {}
    for name, labels in series.labels.items():
        if stem(name) in METRICS:
            found.setdefault(stem(name), set()).update(labels - SCRAPED - {"le"})

    assert found == {name: set(labels) for name, (_kind, labels, _says) in METRICS.items()}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_an_expression_names_only_what_is_on_the_page(series, query):
    assert judge(query.expression, series).complaints == []


@pytest.mark.parametrize("query", list_panel_queries(), ids=lambda query: query.place)
def test_a_legend_names_each_series_by_all_its_labels_and_no_other(series, query):
    assert query.text
    assert set(re.findall(r"{{\s*(\w+)\s*}}", query.text)) == judge(query.expression, series).labels


@pytest.mark.parametrize("query", list_rule_queries(), ids=lambda query: query.place)
def test_an_annotation_shows_only_labels_that_the_alert_has(series, query):
    assert set(re.findall(r"\$labels\.(\w+)", query.text)) <= judge(query.expression, series).labels


def test_every_metric_of_the_code_is_on_the_dashboard_or_in_a_rule(series):
    used = {stem(metric) for query in QUERIES for metric in judge(query.expression, series).metrics}

    assert METRICS.keys() - used == set()


def test_the_variables_list_values_of_labels_on_the_page(series):
    for name in ("model", "provider"):
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", VARIABLES[name]["definition"]).groups()
        assert label in series.labels[metric]
        assert VARIABLES[name]["query"]["query"] == VARIABLES[name]["definition"]


@pytest.mark.parametrize("query", list_panel_queries(), ids=lambda query: query.place)
def test_the_variable_of_models_is_matched_with_names_that_callers_use(series, query):
    """Attempts and costs say the provider's name of a model; matched with the callers' they would show nothing."""
    for metric, matchers in re.findall(r"(pointsman_\w+)\{([^}]*)\}", query.expression):
        if '"$model"' in matchers:
            assert "m" in {labels["model"] for name, labels in series.rows if name == metric}


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(pointsman_tasks_total[5m])", "no series is called pointsman_tasks_total"),
        ("sum by (tenant) (pointsman_inflight)", "tenant is no label there"),
        ('pointsman_inflight{model="m"}', "model is no label there"),
        ('pointsman_tasks_finished_total{status="success"}', "no series of pointsman_tasks_finished_total has"),
        ('pointsman_tasks_finished_total{status=~"failed|ended"}', "has status='ended'"),
        ("histogram_quantile(0.9, sum(rate(pointsman_store_commit_seconds_bucket[5m])))", "le is no label there"),
        ("sum by (le) (rate(pointsman_store_commit_seconds_count[5m]))", "le is no label there"),
        ("sum by (provider) (pointsman_inflight) / sum(pointsman_inflight)", "the sides have different labels"),
        ("sum by (provider) (sum(pointsman_inflight))", "provider is no label there"),
    ],
)
def test_a_wrong_expression_is_told(series, expression, complaint):
    assert complaint in " ".join(judge(expression, series).complaints)
