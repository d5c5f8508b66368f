"""The unmodified `openai` SDK against the simulated sellers of chat: plain answers, streams, and what a stream that
breaks looks like to each major version. Source: the provider file of the OpenAI chat API, sections 4 to 7.
"""

import openai
import pytest

HELLO = [{"role": "user", "content": "hello there"}]
WORDS = "This is gpt-4o, simulated. You wrote: hello there"


@pytest.fixture(params=["openai", "apiyi"])
def seller(request, simulate):
    """A simulated seller; both speak the dialect."""
    return simulate(request.param)


@pytest.fixture
def client(seller):
    """The SDK, its own resends switched off."""
    base_url = seller.base_url if seller.base_url.endswith("/v1") else f"{seller.base_url}/v1"
    with openai.OpenAI(api_key="sk-test", base_url=base_url, max_retries=0) as sdk:
        yield sdk


def test_a_plain_answer_arrives_with_its_usage_and_is_charged_once(seller, client):
    reply = client.chat.completions.create(model="gpt-4o", messages=HELLO)

    assert (reply.object, reply.model) == ("chat.completion", "gpt-4o")
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (WORDS, "stop")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert [job["what"] for job in seller.bill()["jobs"]] == ["success"]


def test_a_stream_arrives_in_pieces_and_its_usage_comes_last(client):
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == WORDS
    assert len(pieces) == len(WORDS.split())
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], len(pieces))


def test_a_stream_may_be_torn_and_glued_by_a_proxy_and_is_whole_all_the_same(seller, client):
    seller.set_faults([{"kind": "ragged"}])
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WORDS


def test_a_refusal_is_a_message_of_its_own_and_a_filter_a_reason_for_the_end(seller, client):
    seller.set_faults([{"kind": "refusal"}])
    refused = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    seller.set_faults([{"kind": "content_moderated"}])
    filtered = client.chat.completions.create(model="gpt-4o", messages=HELLO)

    assert refused.choices[0].message.refusal
    assert filtered.choices[0].finish_reason == "content_filter"
    assert seller.bill()["billed"] == 2


def test_an_error_inside_a_stream_is_raised_without_a_status_and_never_sent_again(seller, client):
    seller.set_faults([{"kind": "stream_error"}])
    pieces = []

    def read():
        patient = client.with_options(max_retries=2)
        for chunk in patient.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True):
            pieces.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the break is kept

    with pytest.raises(openai.APIError) as caught:
        read()

    assert caught.value.code == "overloaded"
    assert not isinstance(caught.value, openai.APIStatusError)
    assert WORDS.startswith("".join(pieces))
    assert "".join(pieces)
    assert seller.bill()["submitted"] == 1


def test_a_cut_stream_is_a_broken_connection_and_an_unfinished_one_ends_in_silence(seller, client):
    seller.set_faults([{"kind": "truncated"}])
    # Version 3 wraps it, earlier ones let the exception of their HTTP library through.
    with pytest.raises(Exception, match=r"(?i)connection|incomplete|closed") as caught:
        list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert type(caught.value).__name__ in ("APIConnectionError", "RemoteProtocolError")

    seller.set_faults([{"kind": "unfinished"}])
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * len(chunks)


def test_an_error_before_the_first_byte_is_the_sdks_exception_and_free(seller, client):
    for kind, exception in (
        ("overloaded", openai.InternalServerError),
        ("throttled", openai.RateLimitError),
        ("invalid_key", openai.AuthenticationError),
        ("model_not_found", openai.NotFoundError),
        ("moderation_blocked", openai.BadRequestError),
    ):
        seller.set_faults([{"kind": kind}])
        with pytest.raises(exception):
            client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)

    assert seller.bill()["submitted"] == 0


def test_the_sdks_own_resends_are_seen_and_charged_where_an_answer_was_lost(seller, client):
    seller.set_faults([{"kind": "drop", "first": 1}])
    client.with_options(max_retries=1).chat.completions.create(model="gpt-4o", messages=HELLO)

    assert (seller.bill()["submitted"], seller.bill()["jobs"][-1]["what"]) == (2, "success")
