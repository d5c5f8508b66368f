"""Events become the numbers of contract section 7, under labels that callers cannot multiply."""

import asyncio
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from router.events import (
    AttemptEnded,
    ConfigApplied,
    FailedOver,
    RelayEnded,
    RelayMoved,
    TaskAdmitted,
    TaskEnded,
    WebhookTried,
)
from router.outbox import DELIVERIES, Standing, Try, TryResult
from router.outcome import Billed
from router.policy.rules import Tenant
from router.task import Priority, State, ended
from router.watch.metrics import METRICS, Levels, Metrics
from tests.policy.rulebook import rule, ruleset, target
from tests.watch.happenings import (
    AT,
    DONE,
    FAILED,
    FAILURE,
    INTENT,
    ONE_OF_EACH,
    RELAYED,
    SUCCESS,
    TASK,
    WEBHOOK,
    list_event_types,
)

RULES = replace(ruleset(rule(target("a"), target("b"))), tenants={"studio": Tenant("studio"), "*": Tenant("*")})


def make(levels=None, rules=lambda: RULES):
    async def read_levels():
        return levels or Levels()

    return Metrics(rules, read_levels)


async def samples(metrics):
    """The page as {(name, labels as sorted pairs): value}."""
    text, _content_type = await metrics.render()
    families = text_string_to_metric_families(text.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def labels(**pairs):
    return tuple(sorted((name.rstrip("_"), value) for name, value in pairs.items()))


async def test_every_event_is_taken():
    metrics = make()
    for event in ONE_OF_EACH:
        metrics.read(event)

    assert {type(event) for event in ONE_OF_EACH} == list_event_types()
    assert (await samples(metrics))["pointsman_tasks_submitted_total", labels(model="m", surface="openai")] == 1


async def test_each_try_of_a_webhook_counts_by_what_it_came_to_and_all_begin_at_zero():
    metrics = make()
    one = Try(AT, TryResult.TIMED_OUT)
    for standing in (Standing.WAITING, Standing.WAITING, Standing.FAILED, Standing.DELIVERED):
        metrics.read(WebhookTried(AT, WEBHOOK, one, standing))

    seen = await samples(metrics)
    counts = {
        result: seen["pointsman_webhook_deliveries_total", labels(result=result)] for result in DELIVERIES.values()
    }
    assert counts == {"failed": 2, "given_up": 1, "delivered": 1, "dropped": 0}


async def test_an_attempt_counts_its_outcome_its_bill_and_its_cost():
    metrics = make()
    metrics.read(AttemptEnded(AT, TASK, FAILURE))
    metrics.read(AttemptEnded(AT, DONE, SUCCESS))

    seen = await samples(metrics)
    failure = labels(provider="a", model="a-model", outcome="overloaded", billing="not_billed")
    success = labels(provider="a", model="a-model", outcome="succeeded", billing="billed")
    assert seen["pointsman_attempts_total", failure] == 1
    assert seen["pointsman_attempts_total", success] == 1
    assert seen["pointsman_cost_usd_total", labels(provider="a", model="a-model", tenant="studio")] == 0.04
    assert seen["pointsman_attempt_duration_seconds_sum", labels(provider="a", model="a-model")] == 8
    assert not [name for name, _labels in seen if name.startswith("pointsman_wasted_usd_total")]


async def test_what_was_billed_and_delivered_nothing_is_wasted():
    metrics = make()
    refusal = ended(INTENT, AT, "refused", Billed.YES, 30_000_000)
    cancelled = replace(TASK, state=State.CANCELLED)
    metrics.read(AttemptEnded(AT, FAILED, refusal))
    metrics.read(AttemptEnded(AT, cancelled, SUCCESS, heard=True))

    seen = await samples(metrics)
    assert seen["pointsman_wasted_usd_total", labels(provider="a", reason="refused")] == 0.03
    assert seen["pointsman_wasted_usd_total", labels(provider="a", reason="cancelled")] == 0.04


async def test_a_part_of_a_task_that_goes_on_is_not_wasted():
    metrics = make()
    metrics.read(AttemptEnded(AT, replace(TASK, state=State.RUNNING), SUCCESS))

    assert not [name for name, _labels in await samples(metrics) if name.startswith("pointsman_wasted_usd_total")]


async def test_an_unknown_cost_enters_no_counter_and_is_seen_by_its_billing():
    metrics = make()
    metrics.read(AttemptEnded(AT, FAILED, ended(INTENT, AT, "unknown", Billed.UNKNOWN, None)))

    seen = await samples(metrics)
    unknown = labels(provider="a", model="a-model", outcome="unknown", billing="unknown")
    assert seen["pointsman_attempts_total", unknown] == 1
    assert not [name for name, _labels in seen if name == "pointsman_cost_usd_total"]


async def test_a_try_of_a_relayed_completion_counts_as_an_attempt():
    metrics = make()
    metrics.read(RelayEnded(AT, RELAYED, None))
    metrics.read(RelayEnded(AT, replace(RELAYED, outcome="job_failed"), None))
    metrics.read(RelayMoved(AT, RELAYED.request_id, "studio", "m", "a", "b", "overloaded"))

    seen = await samples(metrics)
    success = labels(provider="a", model="a-model", outcome="succeeded", billing="billed")
    assert seen["pointsman_attempts_total", success] == 1
    assert seen["pointsman_cost_usd_total", labels(provider="a", model="a-model", tenant="studio")] == 0.04
    assert seen["pointsman_wasted_usd_total", labels(provider="a", reason="job_failed")] == 0.02
    assert seen["pointsman_attempt_duration_seconds_sum", labels(provider="a", model="a-model")] == 4
    assert seen["pointsman_failovers_total", labels(model="m", from_="a", to="b", reason="overloaded")] == 1


async def test_names_that_the_configuration_lacks_are_other():
    metrics = make()
    stranger = replace(TASK, model="typed by a caller", tenant="unheard-of")
    attempt = replace(SUCCESS, provider="gone", target_model="gone-model", tenant="unheard-of")
    metrics.read(TaskAdmitted(AT, stranger))
    metrics.read(AttemptEnded(AT, replace(stranger, state=State.SUCCEEDED), attempt))
    metrics.read(FailedOver(AT, stranger, "gone", "b", "overloaded"))
    metrics.on_http("other", "BREW", 405, 0.01)

    seen = await samples(metrics)
    assert seen["pointsman_tasks_submitted_total", labels(model="other", surface="openai")] == 1
    assert seen["pointsman_cost_usd_total", labels(provider="other", model="other", tenant="other")] == 0.04
    assert seen["pointsman_failovers_total", labels(model="other", from_="other", to="b", reason="overloaded")] == 1
    assert seen["pointsman_http_requests_total", labels(route="other", method="other", code="405")] == 1


async def test_a_reload_brings_its_names():
    rules = [RULES]
    metrics = make(rules=lambda: rules[0])
    rules[0] = ruleset(rule(target("new")))
    metrics.read(AttemptEnded(AT, DONE, replace(SUCCESS, provider="new", target_model="new-model")))
    metrics.read(ConfigApplied(AT, "1" * 16, "0" * 16))
    metrics.read(AttemptEnded(AT, DONE, replace(SUCCESS, provider="new", target_model="new-model")))

    seen = await samples(metrics)
    outcome = {"outcome": "succeeded", "billing": "billed"}
    assert seen["pointsman_attempts_total", labels(provider="other", model="other", **outcome)] == 1
    assert seen["pointsman_attempts_total", labels(provider="new", model="new-model", **outcome)] == 1
    assert seen["pointsman_config_reloads_total", labels(result="applied")] == 1


async def test_a_counter_of_closed_labels_stands_at_zero_before_it_counts():
    rules = [RULES]
    metrics = make(rules=lambda: rules[0])
    rules[0] = replace(RULES, models={**RULES.models, "new": RULES.models["m"]})
    metrics.read(ConfigApplied(AT, "1" * 16, "0" * 16))

    seen = await samples(metrics)
    assert seen["pointsman_config_reloads_total", labels(result="rejected")] == 0
    for model in ("m", "new"):
        assert {
            status: seen["pointsman_tasks_finished_total", labels(model=model, status=status)]
            for status in ("succeeded", "failed", "cancelled", "expired")
        } == {"succeeded": 0, "failed": 0, "cancelled": 0, "expired": 0}


async def test_levels_are_read_at_the_scrape_and_what_is_gone_disappears():
    levels = [
        Levels(
            queue_depth={Priority.HIGH: 3},
            queue_oldest_s=7.5,
            circuits={("a", "a-model"): 2},
            inflight={"a": 4},
            budgets_left_nanos={"tenant:studio": 1_500_000_000},
            loop_lag_s=0.25,
        )
    ]

    async def read_levels():
        return levels[0]

    metrics = Metrics(lambda: RULES, read_levels)
    first = await samples(metrics)
    assert first["pointsman_queue_depth", labels(priority="high")] == 3
    assert first["pointsman_queue_depth", labels(priority="low")] == 0
    assert first["pointsman_queue_oldest_seconds", ()] == 7.5
    assert first["pointsman_circuit_state", labels(provider="a", model="a-model")] == 2
    assert first["pointsman_inflight", labels(provider="a")] == 4
    assert first["pointsman_budget_remaining_usd", labels(scope="tenant:studio")] == 1.5
    assert first["pointsman_config_info", labels(hash="0" * 16)] == 1
    assert first["pointsman_loop_lag_seconds", ()] == 0.25

    levels[0] = Levels()
    again = Metrics(lambda: RULES, read_levels)  # the first one keeps its page for a second
    assert ("pointsman_circuit_state", labels(provider="a", model="a-model")) not in await samples(again)


async def test_a_second_scrape_within_a_second_gets_the_same_page():
    asked = []

    async def read_levels():
        asked.append(1)
        await asyncio.sleep(0)
        return Levels()

    metrics = Metrics(lambda: RULES, read_levels)
    pages = await asyncio.gather(*(metrics.render() for _ in range(10)))
    assert len({page for page, _type in pages}) == 1
    assert len(asked) == 1


async def test_the_page_has_the_names_and_labels_of_the_table():
    metrics = make(Levels(circuits={("a", "a-model"): 0}, inflight={"a": 0}, budgets_left_nanos={"all": 0}))
    for event in ONE_OF_EACH:
        metrics.read(event)
    metrics.read(TaskEnded(AT, FAILED, State.RUNNING))
    metrics.read(AttemptEnded(AT, FAILED, ended(INTENT, AT, "refused", Billed.YES, 1)))
    metrics.on_http("/healthz", "GET", 200, 0.001)
    metrics.on_commit(0.002)

    found = {}
    for name, pairs in await samples(metrics):
        stem = name.removeprefix("pointsman_")
        for ending in ("_bucket", "_sum", "_count", "_created"):
            stem = stem if stem in METRICS else stem.removesuffix(ending)
        if stem in METRICS:
            found.setdefault(stem, set()).update(label for label, _value in pairs if label != "le")
    assert found == {name: set(names) for name, (_kind, names, _text) in METRICS.items()}
