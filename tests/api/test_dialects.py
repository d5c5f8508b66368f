"""Whole bodies of each dialect in each state, against what its document prints; the bodies stand in dialects/*.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from router.api.dialects import dieyuyun, pixapi, worldrouter
from router.api.dialects.native import Sight
from router.outcome import Billed
from router.persistence import TaskView
from router.policy.errors import STATUS
from router.provider import Kind, Usage
from router.task import (
    Attempt,
    Error,
    Output,
    Priority,
    Task,
    apply,
    cancelled,
    delivered,
    ended,
    expired,
    failed,
    retried,
    started,
    swept,
)

AT = 1_780_655_400_123  # 2026-06-05T10:30:00.123Z
LATER = AT + 86_400_000
HEX = "0197400db7fb7abc8def0123456789ab"
NEW = Task(
    id=f"task_{HEX}",
    tenant="default",
    kind=Kind.IMAGE_GENERATION,
    model="gpt-image-2",
    input={"prompt": "A cat sitting on a windowsill"},
    surface="dieyuyun",
    route="/v1/images/generations",
    priority=Priority.NORMAL,
    created_at=AT,
    updated_at=AT,
    request_id="req_def456",
)
PICTURE = Output(f"{NEW.id}/0", "image/png", 48_213, "00", 1024, 1024, "A fluffy orange cat")
BROKEN = Error("provider_error", "The upstream provider returned an error.", "provider_error", billing=Billed.NO)
MODULES = {"dieyuyun": dieyuyun, "pixapi": pixapi, "worldrouter": worldrouter}
BODIES = {
    name: json.loads((Path(__file__).parent / "dialects" / f"{name}.json").read_text(encoding="utf-8"))
    for name in MODULES
}
MAY_BE_NULL = {"revised_prompt", "credits_cost", "completed", "input_tokens", "output_tokens", "total_tokens"}


def views():
    """One task in every state that the table of states (contract section 1) has, with its attempts."""
    first = Attempt(
        NEW.id, "default", 1, "a", "a", "m", "key", "https://a.invalid", "key-1", AT + 5_000, LATER, "rules"
    )
    bought = ended(first, AT + 25_000, "succeeded", Billed.YES, 15_000_000)
    wasted = ended(first, AT + 10_000, "server_error", Billed.NO, 0)
    running = apply(NEW, started(AT + 5_000, "a", "m"))
    retrying = apply(running, retried(AT + 10_000, AT + 20_000))
    succeeded = apply(running, delivered(AT + 25_000, (PICTURE,), Usage(20, 0, 0, 397), (), LATER))
    return {
        "pending": TaskView(NEW, ()),
        "running": TaskView(running, (first,)),
        "retrying": TaskView(retrying, (wasted,)),
        "succeeded": TaskView(succeeded, (bought,)),
        "failed": TaskView(apply(retrying, failed(AT + 10_000, BROKEN, LATER)), (wasted,)),
        "cancelled": TaskView(apply(retrying, cancelled(AT + 12_000, LATER)), (wasted,)),
        "unstarted": TaskView(apply(NEW, expired(AT + 60_000, "It was not started within 60 s.", LATER)), ()),
        "swept": TaskView(apply(succeeded, swept(LATER)), (bought,)),
    }


STATES = tuple(views())


def rendered(name, state, *, film=False, **changes):
    view = views()[state]
    kind = Kind.VIDEO_GENERATION if film else Kind.IMAGE_GENERATION
    view = replace(view, task=replace(view.task, kind=kind, **changes))
    return MODULES[name].render(view, Sight(link=lambda output: f"https://files.example/{output.key}", progress=60))


def submitted(name):
    return dieyuyun.submitted(NEW, "req_def456") if name == "dieyuyun" else MODULES[name].submitted(NEW)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", MODULES)
def test_a_task_has_exactly_this_body_in_this_state(name, state):
    assert rendered(name, state) == BODIES[name]["states"][state]


@pytest.mark.parametrize("state", ["succeeded", "swept"])
@pytest.mark.parametrize("name", ["dieyuyun", "pixapi"])
def test_a_film_has_exactly_this_body_in_this_state(name, state):
    assert rendered(name, state, film=True) == BODIES[name]["films"][state]


@pytest.mark.parametrize("name", MODULES)
def test_a_submit_is_answered_with_the_members_that_are_printed_and_no_others(name):
    assert submitted(name) == BODIES[name]["submitted"]
    assert set(submitted(name)) == set(BODIES[name]["printed"]["submitted"])


PRINTED = [
    ("dieyuyun", "processing", ("pending", "running", "retrying", "cancelled", "unstarted", "swept")),
    ("dieyuyun", "completed", ("succeeded",)),
    ("dieyuyun", "failed", ("failed",)),
    ("pixapi", "submitted", ("pending", "running", "retrying")),
    ("pixapi", "completed", ("succeeded", "swept")),
    ("pixapi", "error", ("failed", "cancelled", "unstarted")),
    ("worldrouter", "submitted", ("pending", "running", "retrying", "failed", "cancelled", "unstarted")),
    ("worldrouter", "completed", ("succeeded", "swept")),
]


@pytest.mark.parametrize(
    ("name", "printed", "state"), [(name, printed, state) for name, printed, states in PRINTED for state in states]
)
def test_every_member_that_is_printed_for_a_state_is_there_and_of_the_printed_type(name, printed, state):
    assert missing(BODIES[name]["printed"][printed], rendered(name, state)) == []


@pytest.mark.parametrize("name", MODULES)
def test_what_nobody_knows_is_null_and_never_left_out(name):
    view = views()["succeeded"]
    unknown = replace(view.attempts[0], billing=Billed.UNKNOWN, cost_nanos=None)
    task = replace(view.task, usage=None, output=(replace(PICTURE, revised_prompt=None),))
    body = MODULES[name].render(TaskView(task, (unknown,)), Sight(link=lambda output: output.key))

    assert missing(BODIES[name]["printed"]["completed"], body) == []
    nulls = {
        "dieyuyun": lambda: [*body["usage"].values(), body["result"]["data"][0]["revised_prompt"]],
        "pixapi": lambda: [body["credits_cost"]],
        "worldrouter": lambda: [*body["usage"].values()],
    }[name]()
    assert nulls == [None] * len(nulls)


@pytest.mark.parametrize("error_type", [*STATUS])
def test_pixapi_numbers_the_error_of_a_task_by_its_status_in_http(error_type):
    error = rendered("pixapi", "failed", error=Error(error_type, "No.", error_type))["error"]

    expected = 499 if error_type == "cancelled" else STATUS[error_type]
    assert error == {"code": expected, "message": "No.", "type": error_type}


def test_the_error_of_pixapi_names_the_field_that_its_message_does_not():
    named = Error("invalid_request", "It is too long.", "invalid_request", param="prompt")

    assert pixapi.error(named, 400)["message"] == "prompt: It is too long."
    assert pixapi.error(replace(named, message="prompt is too long."), 400)["message"] == "prompt is too long."


@pytest.mark.parametrize(
    ("nanos", "amount"), [(0, 0), (1, 1e-7), (15_000_000, 1.5), (30_000_000, 3), (125_500, 0.01255)]
)
def test_a_credit_is_a_cent_to_the_last_nano(nanos, amount):
    view = views()["succeeded"]
    view = replace(view, attempts=(replace(view.attempts[0], cost_nanos=nanos),))

    assert pixapi.render(view, Sight(link=str))["credits_cost"] == amount


def missing(printed, body, path=""):
    """What of a printed body another has not, or has as something else."""
    if isinstance(printed, dict):
        if not isinstance(body, dict):
            return [path]
        return [
            found
            for name, value in printed.items()
            for found in (missing(value, body[name], f"{path}.{name}") if name in body else [f"{path}.{name}"])
        ]
    if isinstance(printed, list):
        if not isinstance(body, list):
            return [path]
        return [found for item in body for found in missing(printed[0], item, f"{path}[]")]
    if body is None and path.rpartition(".")[2] in MAY_BE_NULL:
        return []
    same = isinstance(body, int | float) if isinstance(printed, int | float) else type(body) is type(printed)
    return [] if same else [path]
