"""No JSON value that an upstream may send, and nothing that a caller may ask, makes an adapter raise."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from providers import known, load
from router.outcome import Billed, Fail
from router.provider import Broken, Delta, Done, Event, Handle, Missing, Partial, Pending, Reply, Trouble, Usage
from tests.providers.exchange import Script, StreamScript, drive, job_of, jobs_of, module_of

SLUGS = known()
JOBS = [pytest.param(slug, job, id=f"{slug}-{job.kind.value}") for slug in SLUGS for job in jobs_of(slug)]
STREAMS = [
    pytest.param(slug, job, id=f"{slug}-{job.kind.value}")
    for slug in SLUGS
    for job in jobs_of(slug)
    if job.kind in load(slug).facts.streams
]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, -1, "", "x"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
# Values where an adapter looks for something, so that most examples get past the first test.
WORDS = (
    *("Ready", "Pending", "Error", "Task not found", "Request Moderated", "moderation_blocked", "insufficient_quota"),
    *("COMPLETED", "IN_PROGRESS", "content_policy_violation", "runner_disconnected", "no_media_generated"),
    *("completed", "failed", "image_generation.completed", "image_edit.partial_image", "content_filter"),
    *("https://api.bfl.ai/v1/get_result?id=1", "https://[", "data:image/png;base64,QUJD", "1e999999999", "NaN"),
)
LEAVES = SCALARS | st.sampled_from(WORDS) | JSON
INNER_KEYS = st.sampled_from(
    [
        "message",
        "type",
        "code",
        "param",
        "b64_json",
        "url",
        "revised_prompt",
        "loc",
        "msg",
        "sample",
        "input_tokens",
        "output_tokens",
        "input_tokens_details",
        "image_tokens",
        "index",
        "message",
        "delta",
        "content",
        "refusal",
        "tool_calls",
        "finish_reason",
        "logprobs",
    ]
)
INNER = st.dictionaries(INNER_KEYS, LEAVES, max_size=5)
OUTER_KEYS = st.sampled_from(
    [
        "error",
        "data",
        "usage",
        "detail",
        "details",
        "id",
        "polling_url",
        "request_id",
        "error_type",
        "images",
        "video",
        "has_nsfw_concepts",
        "status",
        "result",
        "cost",
        "progress",
        "retry_after",
        "status_code",
        "message",
        "choices",
        "type",
        "b64_json",
    ]
)
BODIES = JSON | st.dictionaries(OUTER_KEYS, LEAVES | INNER | st.lists(INNER | LEAVES, max_size=3), max_size=7)
STATUSES = st.sampled_from([100, 200, 202, 301, 400, 401, 403, 404, 422, 429, 500, 502, 503, 504, 599])
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "content-type"]), st.text(max_size=20))


@pytest.mark.parametrize(("slug", "job"), JOBS)
@settings(max_examples=300)
@given(body=BODIES, status=STATUSES, headers=HEADERS)
@example(body={"id": 10**5000, "cost": 10**5000}, status=200, headers={})
@example(body={"id": "x", "status": "Ready", "cost": 10**5000}, status=200, headers={})
@example(body={"id": "x", "status": "Ready", "cost": "1e999999999", "progress": 10**400}, status=200, headers={})
def test_no_body_makes_an_adapter_raise(slug, job, body, status, headers):
    adapter = load(slug)
    reply = Reply(status, headers, body)
    assert isinstance(drive(adapter.submit(job, Script(reply))), Done | Pending | Fail)
    for fields in ({}, {"polling_url": "https://api.bfl.ai/x", "cost_nanos": "1", "missed": "1"}):
        polled = drive(adapter.poll(Handle("1", fields), job, Script(reply)))
        assert isinstance(polled, Done | Pending | Trouble | Missing | Fail)
    assert isinstance(module_of(slug).fail(status, headers, body), Fail)
    assert isinstance(module_of(slug).usage(body), Usage)


@pytest.mark.parametrize("slug", SLUGS)
@given(text=st.text(), status=STATUSES)
def test_no_text_makes_an_adapter_raise(slug, text, status):
    adapter, job = load(slug), job_of(slug)
    reply = Reply(status, {}, None, text, is_json=False)
    assert isinstance(drive(adapter.submit(job, Script(reply))), Fail)
    assert isinstance(drive(adapter.poll(Handle("1"), job, Script(reply))), Trouble | Missing | Pending)


NAMES = st.sampled_from(["message", "error", "image_generation.completed"])
EVENTS = st.builds(Event, NAMES, BODIES) | st.builds(Event, NAMES, st.none(), st.sampled_from(["[DONE]", "{", ""]))
# Such as get past the first test: a preview, a token, an error that is free where nothing was told.
EVENTS |= st.sampled_from(
    [
        Event("message", {"type": "image_generation.partial_image", "b64_json": "QUJD"}),
        Event("message", {"choices": [{"index": 0, "delta": {"content": "hi"}}]}),
        Event("message", {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    ]
)
CUTS = st.builds(Broken, st.booleans(), st.booleans(), st.text(max_size=9))


@pytest.mark.parametrize(("slug", "job"), STREAMS)
@settings(max_examples=300)
@given(said=st.lists(EVENTS, max_size=4), cut=st.none() | CUTS)
def test_no_event_makes_a_stream_raise_and_each_ends_with_one_last_word(slug, job, said, cut):
    async def follow():
        stream = StreamScript([*said, *([] if cut is None else [cut])])
        return [one async for one in load(slug).stream(job, stream)]

    *told, last = drive(follow())
    assert isinstance(last, Done | Fail)
    assert all(isinstance(one, Partial | Delta) for one in told)
    previewed = any(isinstance(one, Partial) for one in told)
    assert not previewed or isinstance(last, Done) or last.billed is not Billed.NO


ASKED = st.dictionaries(
    st.sampled_from(["prompt", "n", "size", "quality", "output_format", "seed", "response_format", "stream"]), JSON
)


@pytest.mark.parametrize("slug", SLUGS)
@given(asked=ASKED, model=st.text(min_size=1))
def test_nothing_that_is_asked_makes_an_adapter_raise(slug, asked, model):
    job = job_of(slug, input=asked, model=model)
    script = Script(Reply(500, {}, None, is_json=False))
    assert isinstance(drive(load(slug).submit(job, script)), Fail)
    assert len(script.sent) <= 1
