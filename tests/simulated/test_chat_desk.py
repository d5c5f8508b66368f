"""Simulated sellers of chat answers, driven by the unmodified `openai` SDK, and by plain HTTP where the SDK would hide
what is on the wire. Two sellers share the desk: OpenAI stops when its client leaves, APIYI goes on and charges in full.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal

import aiohttp
import openai
import pytest

from providers.simulated import Fault, FaultKind, Options, Running, What, start
from tests.waiting import poll_until

MODEL = "gpt-4o"
HELLO = [{"role": "user", "content": "hello there"}]
REPLY = "This is gpt-4o, simulated. You wrote: hello there"
TOKENS_IN = 3 + 4 + 3
TOKENS_OUT = len(REPLY.split())


@pytest.fixture
async def upstream() -> AsyncIterator[Running]:
    async with start("openai", options=Options(time_scale=0.001)) as running:
        yield running


@pytest.fixture
async def sdk(upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=upstream.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-test"}) as session:
        yield session


async def read_frames(answer: aiohttp.ClientResponse) -> list[str]:
    text = (await answer.read()).decode()
    return [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]


async def collect(stream) -> tuple[str, list]:
    """The text of a stream's first choice, and its chunks; a break in the stream comes out as it is."""
    chunks = [chunk async for chunk in stream]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


# --- what succeeds


async def test_an_answer_repeats_the_prompt_and_its_usage_times_the_token_price_is_on_the_bill(sdk, upstream):
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO)

    assert (
        reply.choices[0].message.content,
        reply.choices[0].finish_reason,
        reply.choices[0].message.refusal,
    ) == (REPLY, "stop", None)
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (TOKENS_IN, TOKENS_OUT)
    assert usage.total_tokens == TOKENS_IN + TOKENS_OUT
    price = (TOKENS_IN * Decimal("2.5") + TOKENS_OUT * Decimal(10)) / 1_000_000
    assert [("hello there", What.SUCCESS, price)] == [
        (entry.prompt, entry.what, entry.amount_usd) for entry in upstream.bill.entries
    ]


async def test_a_stream_gives_the_same_words_and_its_usage_only_when_asked(sdk, upstream):
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    text, chunks = await collect(stream)
    plain_text, plain = await collect(await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))

    assert text == plain_text == REPLY
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (TOKENS_IN, TOKENS_OUT)
    assert [chunk.usage for chunk in (*chunks[:-1], *plain)] == [None] * (len(chunks) - 1 + len(plain))
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    one, other = upstream.bill.entries
    assert (one.what, other.what, one.amount_usd) == (What.SUCCESS, What.SUCCESS, other.amount_usd)


async def test_a_streams_frames_end_with_done_and_say_null_for_a_usage_still_to_come(http, upstream):
    body = {"model": MODEL, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with http.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
        frames = await read_frames(answer)

    assert (answer.content_type, answer.headers["X-Accel-Buffering"]) == ("text/event-stream", "no")
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_several_answers_are_numbered_in_the_reply_and_in_the_stream(sdk):
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO, n=2)
    _, chunks = await collect(await sdk.chat.completions.create(model=MODEL, messages=HELLO, n=2, stream=True))

    streamed = ["", ""]
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in reply.choices] == streamed
    assert streamed[0] != streamed[1]


async def test_an_answer_is_cut_at_the_tokens_allowed(sdk):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO, **{name: 3})
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("This is gpt-4o,", "length")
        assert reply.usage.completion_tokens == 3


async def test_json_and_a_required_tool_are_honoured_by_an_echo(sdk):
    as_json = await sdk.chat.completions.create(model=MODEL, messages=HELLO, response_format={"type": "json_object"})
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("one", "two")]
    choice = {"type": "function", "function": {"name": "two"}}
    called = await sdk.chat.completions.create(model=MODEL, messages=HELLO, tools=tools, tool_choice=choice)
    _, chunks = await collect(
        await sdk.chat.completions.create(model=MODEL, messages=HELLO, tools=tools, tool_choice="required", stream=True)
    )

    assert "hello there" in json.loads(as_json.choices[0].message.content)["answer"]
    call = called.choices[0].message.tool_calls[0].function
    assert (call.name, json.loads(call.arguments)) == ("two", {"echo": "hello there"})
    deltas = [chunk.choices[0].delta.tool_calls[0].function for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert deltas[0].name == "one"
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"echo": "hello there"}
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"


async def test_parts_of_a_message_are_read_and_what_is_no_text_costs_too(sdk, upstream):
    parts = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
    ]
    reply = await sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    )

    assert reply.usage.prompt_tokens == 3 + (4 + 3) + (4 + 3 + 85)
    assert upstream.bill.entries[0].prompt == "what is this"


# --- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0].type", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 520_000}]}, "messages", "context_length_exceeded"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "type", "invalid_value"),
        ({"tools": [{}], "tool_choice": {"function": {"name": "none"}}}, "tool_choice", "invalid_value"),
    ],
)
async def test_a_field_out_of_range_is_a_400_that_names_it_and_costs_nothing(http, upstream, fields, param, code):
    body = {"model": MODEL, "messages": HELLO} | fields
    async with http.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
        error = (await answer.json())["error"]

    assert (400, param, code) == (answer.status, error["param"], error["code"])
    assert upstream.bill.submitted == 0


# --- what the dial does


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (FaultKind.OVERLOADED, (503, "overloaded")),
        (FaultKind.THROTTLED, (429, "rate_limit_exceeded")),
        (FaultKind.QUOTA, (429, "insufficient_quota")),
        (FaultKind.SERVER_ERROR, (500, "server_error")),
        (FaultKind.INVALID_KEY, (401, "invalid_api_key")),
        (FaultKind.MODEL_NOT_FOUND, (404, "model_not_found")),
        (FaultKind.MODERATION_BLOCKED, (400, "moderation_blocked")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_byte_is_an_ordinary_one_and_free(sdk, upstream, kind, words, stream):
    upstream.dial.set(Fault(kind=kind))
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)

    assert words == (caught.value.status_code, caught.value.code)
    assert upstream.bill.submitted == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_message_of_its_own_kind_under_200_and_is_billed(sdk, upstream, stream):
    upstream.dial.set(Fault(kind=FaultKind.REFUSAL))
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    if stream:
        _, chunks = await collect(reply)
        refusal = "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks)
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        refusal, content = reply.choices[0].message.refusal, reply.choices[0].message.content or ""

    assert (refusal, content) == ("I'm sorry, but I can't help with that request.", "")
    assert [(entry.what, entry.amount_usd > 0) for entry in upstream.bill.entries] == [(What.REFUSAL, True)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_filtered_answer_breaks_off_with_content_filter_and_is_billed(sdk, upstream, stream):
    upstream.dial.set(Fault(kind=FaultKind.CONTENT_MODERATED))
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    if stream:
        text, chunks = await collect(reply)
        finish = chunks[-1].choices[0].finish_reason
    else:
        text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason

    assert finish == "content_filter"
    assert REPLY.startswith(text)
    assert text != REPLY
    assert [(entry.what, entry.amount_usd > 0) for entry in upstream.bill.entries] == [(What.REFUSAL, True)]


async def test_an_error_inside_a_stream_comes_after_some_words_which_are_billed_as_far_as_they_came(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.STREAM_ERROR))
    stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    words: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the break is kept

    with pytest.raises(openai.APIError) as caught:
        await read()

    assert caught.value.code == "overloaded"
    assert not isinstance(caught.value, openai.APIStatusError)
    half = TOKENS_OUT // 2
    assert "".join(words).split() == REPLY.split()[:half]
    price = (TOKENS_IN * Decimal("2.5") + half * Decimal(10)) / 1_000_000
    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [(What.FAILURE, price)] == [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]


async def test_a_stream_that_is_cut_is_a_broken_connection_to_its_client(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.TRUNCATED))
    stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    with pytest.raises(openai.APIConnectionError):
        await collect(stream)

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert upstream.bill.billed == 1


async def test_an_unfinished_stream_ends_cleanly_without_reason_usage_or_done(http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.UNFINISHED))
    body = {"model": MODEL, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with http.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
        frames = await read_frames(answer)

    chunks = [json.loads(frame) for frame in frames]
    assert len(chunks) == 1 + TOKENS_OUT // 2
    assert {(chunk["choices"][0]["finish_reason"], chunk["usage"]) for chunk in chunks} == {(None, None)}


async def test_a_ragged_stream_is_whole_all_the_same(sdk, http, upstream):
    upstream.dial.set(Fault(kind=FaultKind.RAGGED))
    text, chunks = await collect(await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    async with http.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
        raw = await answer.read()

    assert (text, chunks[-1].choices[0].finish_reason) == (REPLY, "stop")
    assert raw.startswith(b": PROCESSING\r\n\r\ndata:{")
    assert raw.endswith(b"data:[DONE]\r\n\r\n")


async def test_faults_of_streams_and_of_other_desks_leave_a_plain_answer_alone(sdk, upstream):
    kinds = (FaultKind.STREAM_ERROR, FaultKind.UNFINISHED, FaultKind.GARBAGE_BASE64, FaultKind.JOB_ERROR)
    upstream.dial.set(*(Fault(kind=kind) for kind in kinds))
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO)

    assert reply.choices[0].message.content == REPLY
    assert upstream.dial.hits == {}


async def test_an_answer_without_choices_is_charged(sdk, upstream):
    upstream.dial.set(Fault(kind=FaultKind.EMPTY_DATA))
    reply = await sdk.chat.completions.create(model=MODEL, messages=HELLO)
    text, _ = await collect(await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True))

    assert (reply.choices, text) == ([], "")
    assert upstream.bill.billed == 2


@pytest.mark.parametrize(
    ("kind", "what"), [(FaultKind.DROP, What.DISCONNECT), (FaultKind.GATEWAY_TIMEOUT, What.TIMEOUT)]
)
async def test_an_answer_that_never_arrives_is_charged(sdk, upstream, kind, what):
    upstream.dial.set(Fault(kind=kind))
    with pytest.raises(openai.APIError):
        await sdk.chat.completions.create(model=MODEL, messages=HELLO)

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    assert [(what, True)] == [(entry.what, entry.amount_usd > 0) for entry in upstream.bill.entries]


@pytest.mark.parametrize("kind", [FaultKind.ENDLESS, FaultKind.FLOOD])
async def test_an_endless_stream_goes_on_until_its_client_has_enough(http, upstream, kind):
    upstream.dial.set(Fault(kind=kind, seconds=0.01))
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    async with http.post(f"{upstream.base_url}/chat/completions", json=body) as answer:
        assert (await answer.content.readexactly(4000)).startswith(b": ping")


# --- a client that leaves


async def leave(base_url: str) -> None:
    """Begin a stream of which no word has come yet, and hang up."""
    async with openai.AsyncOpenAI(api_key="sk", base_url=base_url, max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()


async def test_openai_stops_when_its_client_leaves_and_charges_what_was_made(upstream):
    upstream.dial.set(Fault(kind=FaultKind.SLOW, seconds=300))
    await leave(upstream.base_url)

    await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
    entry = upstream.bill.entries[0]
    assert (entry.what, entry.amount_usd) == (What.DISCONNECT, TOKENS_IN * Decimal("2.5") / 1_000_000)


async def test_apiyi_finishes_for_a_client_that_left_and_charges_in_full():
    slow = (Fault(kind=FaultKind.SLOW, seconds=300),)
    async with start("apiyi", options=Options(time_scale=0.001, faults=slow)) as upstream:
        await leave(f"{upstream.base_url}/v1")
        await poll_until(lambda: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end")
        entry = upstream.bill.entries[0]

    price = (TOKENS_IN * Decimal("2.5") + TOKENS_OUT * Decimal(10)) / 1_000_000
    assert (entry.what, entry.amount_usd) == (What.DISCONNECT, price)


async def test_a_client_that_gives_up_on_a_plain_answer_is_charged_by_both_ways_of_doing_business():
    for slug, path in (("openai", ""), ("apiyi", "/v1")):
        late = (Fault(kind=FaultKind.LATE, seconds=300),)
        async with start(slug, options=Options(time_scale=0.001, faults=late)) as upstream:
            client = openai.AsyncOpenAI(api_key="sk", base_url=upstream.base_url + path, max_retries=0)
            call = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=HELLO))
            await poll_until(lambda upstream=upstream: upstream.bill.submitted == 1, "the order to be accepted")
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await client.close()
            await poll_until(
                lambda upstream=upstream: upstream.bill.entries[0].what is not What.ACCEPTED, "the job to end"
            )
            assert [(entry.what, entry.amount_usd > 0) for entry in upstream.bill.entries] == [(What.TIMEOUT, True)]
