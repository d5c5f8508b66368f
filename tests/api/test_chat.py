"""`POST /v1/chat/completions` over HTTP: bodies, frames, headers, errors and callers who go away."""

import asyncio
import io
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from router.api.application import build
from router.api.image_stream import Pace
from router.api.listener import Listener
from router.outcome import Billed
from router.policy.rules import Tenant
from tests.api.house import ADMIN_KEY, open_house
from tests.flow.switchboard import (
    COST,
    DOCUMENT,
    DONE,
    HELLO,
    ROLE,
    USED,
    Player,
    Till,
    chat_rules,
    failure,
    limit,
    say,
)
from tests.waiting import poll_until

ROUTE = "/v1/chat/completions"
HI = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**HI, "stream": True}
EVER = Pace(silent_s=60.0)


@asynccontextmanager
async def open_exchange(turns=None, *, rules=None, pace=EVER, **said):
    player = Player(turns={"one": turns or []})
    async with open_house(rules or chat_rules(), desk=player, pace=pace, store=Till(), **said) as house:
        yield house


async def frames_of(reply):
    """The data of a stream's events, comments left out."""
    text = await reply.text()
    return [block.removeprefix("data: ") for block in text.split("\n\n") if block and not block.startswith(":")]


async def rows_of(house, reply):
    """What is written of a call, once it is."""
    request_id = reply.headers["X-Request-Id"]
    return await poll_until(lambda: house.store.relayed("default", request_id), "the row")


# -- what comes back --------------------------------------------------------------------------------------------------


async def test_a_plain_answer_is_the_upstreams_document_with_its_cost():
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, json=HI)

        assert (reply.status, await reply.json()) == (200, DOCUMENT)
        assert reply.headers["X-Cost-USD"] == reply.headers["x-litellm-response-cost"] == f"{COST / 1e9:g}"
        assert reply.headers["X-Request-Id"].startswith("req_")
        assert "X-Task-Id" not in reply.headers
        (row,) = await rows_of(house, reply)
        assert (row.streamed, row.cost_nanos) == (False, COST)


async def test_a_stream_is_events_that_end_with_done():
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, json=STREAM)

        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert (reply.headers["Cache-Control"], reply.headers["X-Accel-Buffering"]) == ("no-cache", "no")
        frames = await frames_of(reply)
        assert [json.loads(one) for one in frames[:3]] == [ROLE, say("hel"), say("lo")]
        assert frames[-1] == "[DONE]"
        assert len(frames) == 5
        assert [row.streamed for row in await rows_of(house, reply)] == [True]


async def test_the_chunk_with_the_usage_comes_last_for_who_asked():
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, json={**STREAM, "stream_options": {"include_usage": True}})

        assert json.loads((await frames_of(reply))[-2]) == USED


async def test_fields_go_on_as_they_came_metadata_too_and_extras_do_not():
    extras = {"priority": "low", "provider": {"only": ["two"]}, "timeout": 60, "start_within": 5}
    known = {"temperature": 0.5, "metadata": {"order": "7"}, "tools": [{"type": "function"}], "their_own": [1, None]}
    async with open_exchange() as house:
        await house.client.post(ROUTE, json={**HI, **known, **extras, "stream": False})

        assert dict(house.desk.jobs[0].input) == {"messages": HI["messages"], **known}
        assert house.desk.asked() == ["two"]


async def test_an_idempotency_key_says_nothing_here():
    async with open_exchange() as house:
        for _ in range(2):
            reply = await house.client.post(ROUTE, json=HI, headers={"Idempotency-Key": "k"})
            assert (reply.status, reply.headers.get("Idempotent-Replayed")) == (200, None)

        assert len(house.desk.jobs) == 2


async def test_the_first_model_of_its_kind_is_meant_where_none_is_named():
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, json={"messages": HI["messages"]})

        assert reply.status == 200


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_failures_before_the_first_byte_are_seen_by_nobody():
    async with open_exchange([[failure()], [ROLE, failure("server_error")]]) as house:
        plain = await house.client.post(ROUTE, json=HI)
        streamed = await house.client.post(ROUTE, json=STREAM)

        assert (plain.status, streamed.status) == (200, 200)
        assert (await frames_of(streamed))[-1] == "[DONE]"
        assert house.desk.asked() == ["one", "two", "one", "two"]


async def test_a_failure_after_the_first_byte_is_an_event_and_no_done():
    broken = failure("job_failed", billed=Billed.YES)
    async with open_exchange([[say("a"), broken]]) as house:
        reply = await house.client.post(ROUTE, json=STREAM)
        frames = await frames_of(reply)

        assert json.loads(frames[0]) == say("a")
        error = json.loads(frames[1])["error"]
        assert (error["error_type"], error["billing"], error["task_id"]) == ("provider_error", "billed", None)
        assert error["request_id"] == reply.headers["X-Request-Id"]
        assert len(frames) == 2
        assert house.desk.asked() == ["one"]


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "streamed"])
async def test_what_fails_before_the_first_byte_is_an_ordinary_error_with_its_tries(body):
    async with open_exchange([[failure("unknown")]]) as house:
        reply = await house.client.post(ROUTE, json=body)
        error = (await reply.json())["error"]

        assert (reply.status, reply.headers["X-Error-Type"]) == (504, "outcome_unknown")
        assert (reply.headers["x-should-retry"], "Retry-After" in reply.headers) == ("false", False)
        (made,) = error["attempts"]
        assert (made["provider"], made["outcome"], made["billing"]) == ("one", "unknown", "unknown")
        assert made["cost_usd"] is None


async def test_a_budget_that_is_used_up_is_402_and_nothing_is_sent():
    async with open_exchange(rules=chat_rules(budgets=[limit(1)])) as house:
        reply = await house.client.post(ROUTE, json=STREAM)
        error = (await reply.json())["error"]

        assert (reply.status, error["type"], error["code"]) == (402, "insufficient_quota", "budget_exceeded")
        assert error["billing"] == "not_billed"
        assert house.desk.jobs == []


async def test_a_rejected_request_names_the_field_that_the_upstream_named():
    async with open_exchange([[failure("bad_request", param="temperature", http_status=400)]]) as house:
        reply = await house.client.post(ROUTE, json=HI)
        error = (await reply.json())["error"]

        assert (reply.status, error["param"], error["billing"]) == (400, "temperature", "not_billed")
        assert house.desk.asked() == ["one"]


async def test_a_tenant_with_too_many_calls_out_is_told_when_to_come_again():
    held = asyncio.Event()
    rules = chat_rules(tenants={"default": Tenant("default", max_concurrency=1)})
    async with open_exchange([[held, DONE]], rules=rules) as house:
        first = asyncio.create_task(house.client.post(ROUTE, json=HI))
        await poll_until(lambda: house.desk.jobs, "the first call")
        reply = await house.client.post(ROUTE, json=HI)
        held.set()

        assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        assert (await first).status == 200


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"role": "user"}] * 10_001}, "messages"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": [1]}, "stream_options"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"async": True}, "async"),
        ({"callback_url": "https://a.example"}, "callback_url"),
        ({"priority": "soon"}, "priority"),
        ({"provider": {"nobody": 1}}, "provider.nobody"),
        ({"timeout": -1}, "timeout"),
        ({"model": 7}, "model"),
        ({"model": "nobody"}, "model"),
    ],
)
async def test_bad_input_is_named_and_costs_nothing(changes, param):
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, json={**HI, **changes})
        error = (await reply.json())["error"]

        assert (reply.status, error["param"]) == (404 if param == "model" and changes[param] != 7 else 400, param)
        assert error["billing"] == "not_billed"
        assert house.desk.jobs == []
        assert await house.store.relayed("default", reply.headers["X-Request-Id"]) == ()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": NaN}', b"[" * 100 + b"]" * 100, b'{"a":' * 70 + b"1" + b"}" * 70]
)
async def test_a_body_that_is_no_object_is_refused(body):
    async with open_exchange() as house:
        reply = await house.client.post(ROUTE, data=body, headers={"Content-Type": "application/json"})

        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_json")


async def test_a_body_without_end_is_refused():
    async with open_exchange() as house:
        message = {"role": "user", "content": "x" * (25 << 20)}
        body = io.BytesIO(json.dumps({"messages": [message]}).encode())
        reply = await house.client.post(ROUTE, data=body, headers={"Content-Type": "application/json"})

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (413, "too_large")


async def test_without_a_key_nothing_is_read():
    async with open_exchange(auth=True) as house:
        refused = await house.client.post(ROUTE, json=HI)
        allowed = await house.client.post(ROUTE, json=HI, headers={"x-api-key": ADMIN_KEY})

        assert (refused.status, allowed.status) == (401, 200)


# -- callers ----------------------------------------------------------------------------------------------------------


async def test_a_silent_stream_is_kept_awake_by_comments():
    held = asyncio.Event()
    async with open_exchange([[say("a"), held, *HELLO]], pace=Pace(silent_s=0.01)) as house:
        reply = await house.client.post(ROUTE, json=STREAM)
        first = await reply.content.readuntil(b"\n\n")
        second = await reply.content.readuntil(b"\n\n")
        held.set()

        assert (first[:6], second) == (b"data: ", b": keep-alive\n\n")
        assert (await frames_of(reply))[-1] == "[DONE]"


@asynccontextmanager
async def calling(house, body, pace=EVER):
    """A call over a connection of its own to the daemon's listener; aiohttp's for tests cancels handlers by itself."""
    bound = socket.create_server(("127.0.0.1", 0))
    listener = await Listener.start(build(house.services, pace=pace), bound, close_s=5.0)
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    text = json.dumps(body).encode()
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    writer.write(head.encode() + b"\r\n\r\n" + text)
    yield reader, writer
    writer.close()
    await listener.close()


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "streamed"])
async def test_who_hangs_up_before_the_first_byte_ends_the_call(body):
    async with open_exchange([[asyncio.Event()]]) as house, calling(house, body) as (_reader, writer):
        await poll_until(lambda: house.desk.jobs, "the call")
        writer.close()
        await poll_until(lambda: not house.life.relay.out, "the end of the call")

        ((_at, row),) = await poll_until(lambda: house.store.booked, "the row")
        assert (row.outcome, row.billing, row.begun) == ("cancelled", Billed.UNKNOWN, False)


async def test_who_hangs_up_in_the_middle_ends_the_upstream_call():
    async with open_exchange([[say("a"), asyncio.Event()]]) as house, calling(house, STREAM) as (reader, writer):
        await reader.readuntil(b"data: ")
        writer.close()
        await poll_until(lambda: house.desk.hung_up, "the upstream to be hung up on")

        ((_at, row),) = await poll_until(lambda: house.store.booked, "the row")
        assert (row.outcome, row.billing, row.begun) == ("cancelled", Billed.UNKNOWN, True)


async def test_who_does_not_read_is_not_read_for_and_is_hung_up_on():
    endless = [say("x" * 100_000)] * 10_000
    pace = replace(EVER, read_within_s=0.2)
    async with open_exchange([endless]) as house, calling(house, STREAM, pace) as (_reader, _writer):
        await poll_until(lambda: house.desk.hung_up, "the upstream to be hung up on")
        await poll_until(lambda: not house.life.relay.out, "the end of the call")

        ((_at, row),) = await poll_until(lambda: house.store.booked, "the row")
        assert row.outcome == "cancelled"


async def test_a_shutdown_waits_for_a_stream_and_then_cuts_it_with_an_event():
    async with open_exchange([[say("a"), asyncio.Event()]]) as house:
        reply = await house.client.post(ROUTE, json=STREAM)
        await reply.content.readuntil(b"\n\n")
        await house.life.end(0.05)
        frames = await frames_of(reply)

        error = json.loads(frames[0])["error"]
        assert (error["error_type"], error["billing"]) == ("unavailable", "unknown")
        assert [row.detail for row in await rows_of(house, reply)] == ["a shutdown cut it short"]
