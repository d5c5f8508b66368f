"""Chat completions, plain and streamed, driven by the `openai` SDK of every major version that is about."""

import json
import urllib.request

import openai
import pytest

from tests.waiting import poll_until_sync

HELLO = [{"role": "user", "content": "hello there"}]
WORDS = "This is gpt-4o, simulated. You wrote: hello there"


def submitted(daemon, slug="openai"):
    return daemon.upstream[slug].bill()["submitted"]


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_plain_answer_comes_with_its_usage_its_cost_and_an_id_of_the_request(sdk, daemon):
    before = submitted(daemon)
    raw = sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    reply = raw.parse()

    assert (reply.object, reply.model) == ("chat.completion", "gpt-4o")
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (WORDS, "stop")
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    cost = (usage.prompt_tokens * 2.5 + usage.completion_tokens * 10) / 1e6
    assert float(raw.headers["x-cost-usd"]) == pytest.approx(cost)
    assert raw.headers["x-request-id"].startswith("req_")
    assert submitted(daemon) == before + 1


def test_a_stream_comes_in_pieces_and_hides_the_usage_that_was_not_asked_for(sdk, daemon):
    chunks = list(sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))

    assert text_of(chunks) == WORDS
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    sent = daemon.upstream["openai"].requests()["requests"][-1]["body"]
    assert sent["stream_options"] == {"include_usage": True}


def test_the_usage_that_was_asked_for_comes_last(sdk):
    stream = sdk.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], len(WORDS.split()))


def test_what_a_proxy_did_to_the_upstreams_stream_is_not_seen(sdk, daemon):
    daemon.upstream["openai"].set_faults([{"kind": "ragged"}])

    assert text_of(sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)) == WORDS


def test_metadata_and_unknown_fields_go_on_and_extras_do_not(sdk, daemon):
    sdk.chat.completions.create(
        model="gpt-4o",
        messages=HELLO,
        metadata={"order": "7"},
        extra_body={"priority": "low", "provider": {"only": ["openai"]}, "top_k": 3},
    )
    sent = daemon.upstream["openai"].requests()["requests"][-1]["body"]

    assert (sent["metadata"], sent["top_k"]) == ({"order": "7"}, 3)
    assert not {"priority", "provider"} & set(sent)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("kind", ["overloaded", "throttled"])
def test_a_failure_before_the_first_byte_is_seen_by_nobody(sdk, daemon, kind, streamed):
    before = submitted(daemon), submitted(daemon, "apiyi")
    daemon.upstream["openai"].set_faults([{"kind": kind, "first": 1}])
    client = sdk.with_options(max_retries=0)
    reply = client.chat.completions.create(model=f"pair-{kind}", messages=HELLO, stream=streamed)

    assert (text_of(reply) if streamed else reply.choices[0].message.content) == WORDS
    assert (submitted(daemon), submitted(daemon, "apiyi")) == (before[0], before[1] + 1)


def test_a_failure_after_the_first_byte_is_raised_and_nobody_else_is_asked(sdk, daemon):
    before = submitted(daemon), submitted(daemon, "apiyi")
    daemon.upstream["openai"].set_faults([{"kind": "stream_error"}])
    pieces = []

    def read():
        for chunk in sdk.chat.completions.create(model="pair-overloaded", messages=HELLO, stream=True):
            pieces.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the break is kept

    with pytest.raises(openai.APIError) as caught:
        read()

    assert not isinstance(caught.value, openai.APIStatusError)
    assert caught.value.body["error_type"] == "provider_error"
    assert WORDS.startswith("".join(pieces))
    assert "".join(pieces)
    assert (submitted(daemon), submitted(daemon, "apiyi")) == (before[0] + 1, before[1])


@pytest.mark.parametrize("kind", ["truncated", "unfinished"])
def test_a_stream_that_breaks_off_is_an_error_also_where_the_upstream_was_silent_about_it(sdk, daemon, kind):
    daemon.upstream["openai"].set_faults([{"kind": kind}])

    with pytest.raises(openai.APIError) as caught:
        list(sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert caught.value.body["billing"] in ("billed", "unknown")


def test_a_lost_answer_is_never_asked_for_again(sdk, daemon):
    before = submitted(daemon)
    daemon.upstream["openai"].set_faults([{"kind": "drop"}])

    with pytest.raises(openai.InternalServerError) as caught:
        sdk.with_options(max_retries=2).chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (caught.value.status_code, caught.value.body["code"]) == (504, "outcome_unknown")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert submitted(daemon) == before + 1


def test_a_used_up_budget_is_402_and_not_repeated(sdk, daemon):
    before = len(daemon.upstream["openai"].requests()["requests"])

    with pytest.raises(openai.APIStatusError) as caught:
        sdk.with_options(max_retries=2).chat.completions.create(model="gpt-4o-poor", messages=HELLO, stream=True)
    assert (caught.value.status_code, caught.value.body["type"]) == (402, "insufficient_quota")
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(daemon.upstream["openai"].requests()["requests"]) == before


def test_errors_are_the_sdks_own_exceptions(sdk, daemon):
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="nobody", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as empty:
        sdk.chat.completions.create(model="gpt-4o", messages=[])
    with (
        openai.OpenAI(api_key="pm_wrong", base_url=daemon.base_url) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model="gpt-4o", messages=HELLO)

    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (empty.value.param, empty.value.body["billing"]) == ("messages", "not_billed")


def test_what_was_spent_is_summed_with_everything_else(sdk, daemon):
    def delivered():
        request = urllib.request.Request(  # noqa: S310 - the address is ours
            f"{daemon.base_url}/usage?group_by=model", headers={"Authorization": f"Bearer {daemon.key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            rows = {row["model"]: row for row in json.load(answer)["data"]}
        return rows["pair-overloaded"]["delivered"] if "pair-overloaded" in rows else 0

    before = delivered()
    for streamed in (False, True):
        list(sdk.chat.completions.create(model="pair-overloaded", messages=HELLO, stream=streamed))

    assert poll_until_sync(lambda: delivered() >= before + 2, "the sums")
