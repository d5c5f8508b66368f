"""Chunks of a completion: their usage, whether they say anything, and whole answers told in chunks."""

import pytest

from router.policy.chunks import chunks_of, says_something, usage_in, without_usage
from router.provider import Usage

USED = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def delta(finish_reason=None, **said):
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish_reason}]}


def test_usage_is_read_where_it_is_told():
    assert usage_in({"usage": USED}) == Usage(input_tokens=9, cached_tokens=4, output_tokens=2)
    assert usage_in({"usage": {"prompt_tokens": -1, "completion_tokens": "2"}}) == Usage()
    assert [usage_in(chunk) for chunk in ({}, {"usage": None}, {"usage": [1]})] == [None] * 3


def test_usage_is_hidden_and_what_else_a_chunk_says_is_not():
    assert without_usage({"choices": [], "usage": USED}) is None
    assert without_usage({**delta(content="a"), "usage": None}) == delta(content="a")
    assert without_usage({**delta(content="a"), "usage": USED}) == delta(content="a")
    assert without_usage({"choices": [], "usage": None}) == {"choices": []}
    chunk = delta(content="a")
    assert without_usage(chunk) is chunk


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (delta(role="assistant"), False),
        (delta(role="assistant", content=""), False),
        (delta(content=None, refusal=None), False),
        ({"choices": []}, False),
        ({"choices": ["odd"]}, False),
        ({"choices": None}, False),
        (delta(content="a"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(refusal="no"), True),
        (delta("stop"), True),
    ],
)
def test_a_chunk_says_something_when_there_is_more_than_who_speaks(chunk, says):
    assert says_something(chunk) is says


def test_a_whole_answer_is_told_as_a_stream_would():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [call]}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USED,
    }

    said, ended, used = chunks_of(document, usage_wanted=True)
    assert {one["object"] for one in (said, ended, used)} == {"chat.completion.chunk"}
    assert {one["id"] for one in (said, ended, used)} == {"chatcmpl-1"}
    assert said["choices"][0]["delta"] == {**message, "tool_calls": [{"index": 0, **call}]}
    assert (said["choices"][0]["finish_reason"], ended["choices"][0]["finish_reason"]) == (None, "stop")
    assert (used["choices"], used["usage"]) == ([], USED)
    assert len(list(chunks_of(document, usage_wanted=False))) == 2
