"""Relayed completions: who is asked, when another is, who waits, who is turned away. Time is virtual."""

import asyncio
from contextlib import aclosing

from router.events import RelayEnded, RelayMoved
from router.flow.relay import PATIENCE_S, Whole
from router.keys import ApiKey, KeyLimits
from router.outcome import Billed
from router.policy.rules import Breaker, Tenant
from router.provider import Delta
from router.task import Preferences
from tests.flow.switchboard import (
    COST,
    DOCUMENT,
    DONE,
    END,
    FACTS,
    HELLO,
    ROLE,
    USED,
    WHOLE_FACTS,
    Player,
    chat_rules,
    failure,
    limit,
    relaying,
    say,
)

ESTIMATE = 100 * 1_000 + 50 * 10_000  # 300 characters, max_tokens 50


# -- what the caller is told ------------------------------------------------------------------------------------------


def test_a_stream_is_passed_on_chunk_by_chunk_and_its_usage_is_hidden_from_who_did_not_ask():
    async def scene(board):
        told = await board.hear()

        assert [one.data for one in told] == [ROLE, say("hel"), say("lo"), END]
        assert board.player.jobs[0].input["stream_options"] == {"include_usage": True}

    relaying(scene)


def test_usage_is_told_to_who_asked_for_it():
    async def scene(board):
        told = await board.hear(input={"stream_options": {"include_usage": True}})

        assert told[-1] == Delta(USED)

    relaying(scene)


def test_a_null_usage_in_every_chunk_is_taken_out_too():
    async def scene(board):
        told = await board.hear()

        assert [one.data for one in told] == [say("a"), END]

    with_null = [{**say("a"), "usage": None}, {**END, "usage": None}, USED, DONE]
    relaying(scene, player=Player(turns={"one": [with_null]}))


def test_a_plain_answer_is_the_whole_document_with_its_cost():
    async def scene(board):
        assert await board.hear(streamed=False) == [Whole(DOCUMENT, COST)]

    relaying(scene)


def test_who_wants_a_stream_of_a_provider_without_one_gets_the_whole_answer_in_chunks():
    async def scene(board):
        told = await board.hear(input={"stream_options": {"include_usage": True}})

        assert board.text(told) == "hello"
        assert told[1].data["choices"][0]["finish_reason"] == "stop"
        assert told[-1].data["usage"] == DOCUMENT["usage"]

    relaying(scene, rules=chat_rules(facts=WHOLE_FACTS), player=Player(WHOLE_FACTS))


# -- failing over -----------------------------------------------------------------------------------------------------


def test_before_the_first_byte_the_next_candidate_is_asked():
    async def scene(board):
        told = await board.hear()

        assert (board.text(told), board.player.asked()) == ("hello", ["one", "two"])
        assert [(one.source, one.destination, one.reason) for one in board.seen(RelayMoved)] == [
            ("one", "two", "overloaded")
        ]

    relaying(scene, player=Player(turns={"one": [[failure()]]}))


def test_a_chunk_that_says_nothing_yet_does_not_bind_the_call():
    async def scene(board):
        told = await board.hear()

        assert [one.data for one in told] == [ROLE, say("hel"), say("lo"), END]
        assert board.player.asked() == ["one", "two"]

    relaying(scene, player=Player(turns={"one": [[ROLE, failure()]]}))


def test_after_the_first_byte_nobody_else_is_asked():
    async def scene(board):
        told = await board.hear()

        assert [one.data for one in told[:-1]] == [ROLE, say("hel")]
        assert (told[-1].error.error_type, told[-1].error.billing) == ("provider_error", Billed.YES)
        assert board.player.asked() == ["one"]

    relaying(scene, player=Player(turns={"one": [[ROLE, say("hel"), failure("job_failed", billed=Billed.YES)]]}))


def test_an_unknown_outcome_is_never_asked_of_another():
    async def scene(board):
        (told,) = await board.hear(streamed=False)

        assert (told.error.error_type, told.error.billing) == ("outcome_unknown", Billed.UNKNOWN)
        assert board.player.asked() == ["one"]

    relaying(scene, player=Player(turns={"one": [[failure("unknown")]]}))


def test_when_all_have_failed_the_caller_hears_the_last_and_sees_every_try():
    async def scene(board):
        (told,) = await board.hear(streamed=False)

        assert told.error.error_type == "provider_error"
        assert [(one.n, one.provider, one.outcome) for one in told.tries] == [
            (1, "one", "overloaded"),
            (2, "two", "server_error"),
            (3, "one", "overloaded"),
            (4, "two", "server_error"),
        ]

    turns = {"one": [[failure()], [failure()]], "two": [[failure("server_error")], [failure("server_error")]]}
    relaying(scene, player=Player(turns=turns))


def test_a_repeat_that_would_take_longer_than_a_caller_waits_is_refused_with_the_time():
    async def scene(board):
        (told,) = await board.hear(streamed=False)

        assert told.error.details["outcome"] == "throttled"
        assert told.retry_after_s > PATIENCE_S
        assert board.player.asked() == ["one", "two"]

    turns = {name: [[failure("throttled", rest_s=60.0)]] for name in ("one", "two")}
    relaying(scene, player=Player(turns=turns))


def test_a_refusal_after_the_first_byte_ends_the_stream_as_the_upstream_ended_it():
    filtered = {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}

    async def scene(board):
        told = await board.hear()
        await asyncio.sleep(1)

        assert [one.data for one in told] == [say("a"), filtered]
        (row,) = await board.rows()
        assert (row.outcome, row.billing, row.cost_nanos) == ("refused", Billed.YES, COST)

    relaying(scene, player=Player(turns={"one": [[say("a"), filtered, USED, failure("refused")]]}))


def test_an_adapter_that_raises_is_our_mistake_and_nobody_elses():
    async def scene(board):
        (told,) = await board.hear()

        assert (told.error.error_type, told.error.billing) == ("internal_error", Billed.UNKNOWN)
        assert board.player.asked() == ["one"]

    relaying(scene, player=Player(turns={"one": [[ValueError("oh")]]}))


def test_nothing_heard_for_the_time_between_bytes_ends_the_try():
    async def scene(board):
        (told,) = await board.hear()

        assert told.error.error_type == "outcome_unknown"
        assert asyncio.get_running_loop().time() == 120.0

    relaying(scene, player=Player(turns={"one": [["listen"]]}))


def test_targets_that_fail_are_passed_over_until_their_circuit_lets_them():
    async def scene(board):
        for _ in range(3):
            await board.hear()
        board.player.jobs.clear()
        await board.hear()

        assert board.player.asked() == ["two"]

    rules = chat_rules(breaker=Breaker(consecutive_failures=3))
    relaying(scene, rules=rules, player=Player(turns={"one": [[failure()]] * 3}))


def test_preferences_choose_the_candidate():
    async def scene(board):
        await board.hear(preferences=Preferences(only=("two",)))

        assert board.player.asked() == ["two"]

    relaying(scene)


# -- a caller who goes away -------------------------------------------------------------------------------------------


async def leave_after_two(board):
    async with aclosing(board.complete()) as told:
        async for one in told:
            if board.text([one]) == "hel":
                break
    await asyncio.sleep(1)
    return (await board.rows())[0]


def test_who_goes_away_hangs_up_on_the_upstream_and_the_bill_is_unknown():
    async def scene(board):
        row = await leave_after_two(board)

        assert board.player.hung_up == 1
        assert (row.outcome, row.billing, row.cost_nanos, row.begun) == ("cancelled", Billed.UNKNOWN, None, True)
        assert await board.spent() == (ESTIMATE, 0)  # the budget keeps the estimate

    relaying(scene, rules=chat_rules(budgets=[limit(10**12)]))


def test_the_bill_of_who_goes_away_is_known_if_the_usage_was_told():
    async def scene(board):
        row = await leave_after_two(board)

        assert (row.outcome, row.billing, row.cost_nanos) == ("cancelled", Billed.YES, COST)

    relaying(scene, player=Player(turns={"one": [[{**say("a"), "usage": USED["usage"]}, *HELLO]]}))


def test_a_place_is_free_again_when_its_caller_has_gone():
    async def scene(board):
        await leave_after_two(board)

        assert board.text(await board.hear()) == "hello"
        assert board.player.asked() == ["one", "one"]

    relaying(scene, rules=chat_rules(max_concurrency=1))


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_busy_target_is_waited_for_and_not_passed_over():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        second = await board.hear()
        await first

        assert board.text(second) == "hello"
        assert board.player.asked() == ["one", "one"]
        assert 4.0 <= asyncio.get_running_loop().time() < 5.0

    rules = chat_rules(max_concurrency=1)
    relaying(scene, rules=rules, player=Player(turns={"one": [[say("a"), 4.0, DONE]]}))


def test_a_busy_target_is_not_waited_for_without_end():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        (told,) = await board.hear()

        assert (told.error.error_type, told.error.billing) == ("no_provider_available", Billed.NO)
        assert told.retry_after_s >= 1
        assert PATIENCE_S <= asyncio.get_running_loop().time() <= PATIENCE_S + 1
        await first

    rules = chat_rules(max_concurrency=1)
    relaying(scene, rules=rules, player=Player(turns={"one": [[say("a"), 60.0, DONE]]}))


def test_a_caller_may_have_less_patience():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        (told,) = await board.hear(start_within_s=2.0)

        assert told.error.error_type == "no_provider_available"
        assert 2.9 <= asyncio.get_running_loop().time() <= 3.0
        await first

    rules = chat_rules(max_concurrency=1)
    relaying(scene, rules=rules, player=Player(turns={"one": [[say("a"), 60.0, DONE]]}))


def test_a_tenant_has_no_more_calls_out_than_it_may():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        (told,) = await board.hear()
        other = await board.hear(tenant="another")
        await first

        assert (told.error.error_type, told.retry_after_s) == ("rate_limited", 1.0)
        assert board.text(other) == "hello"
        assert board.relay.out == 0

    rules = chat_rules(tenants={"default": Tenant("default", max_concurrency=1)})
    relaying(scene, rules=rules, player=Player(turns={"one": [[say("a"), 5.0, DONE]]}))


def test_a_key_has_no_more_calls_out_than_it_may():
    async def scene(board):
        key = ApiKey("key_1", "default", "n", "pm_x", "h", 0, limits=KeyLimits(max_concurrency=1))
        await board.store.add_key(key)
        first = asyncio.create_task(board.hear(key_id="key_1"))
        await asyncio.sleep(1)
        (told,) = await board.hear(key_id="key_1")
        other = await board.hear()
        await first

        assert (told.error.error_type, told.retry_after_s) == ("rate_limited", 1.0)
        assert board.text(other) == "hello"

    relaying(scene, player=Player(turns={"one": [[say("a"), 5.0, DONE]]}))


def test_a_model_that_does_not_exist_and_one_of_another_kind_are_named():
    async def scene(board):
        (unknown,) = await board.hear(model="nobody")

        assert (unknown.error.error_type, unknown.error.param) == ("model_not_found", "model")
        assert await board.store.relayed("default", f"req_{1:032x}") == ()

    relaying(scene)


# -- shutting down ----------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_what_is_out_and_lets_nothing_begin():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        ending = asyncio.create_task(board.life.end(60.0))
        await asyncio.sleep(1)
        (refused,) = await board.hear()
        told = await first
        await ending

        assert refused.error.error_type == "unavailable"
        assert board.text(told) == "ahello"
        assert len(await board.rows()) == 1

    relaying(scene, player=Player(turns={"one": [[say("a"), 30.0, *HELLO]]}))


def test_what_a_drain_cuts_is_told_with_what_it_may_have_cost():
    async def scene(board):
        async def call():
            async with aclosing(board.complete()) as told:
                async for _one in told:
                    await board.relay.cutting.wait()
                    break

        first = asyncio.create_task(call())
        await asyncio.sleep(1)
        await board.life.end(5.0)
        await first

        (ended,) = board.seen(RelayEnded)
        assert (ended.cut, ended.estimate_nanos, ended.relayed.billing) == (True, ESTIMATE, Billed.UNKNOWN)
        assert await board.rows() == (ended.relayed,)

    relaying(scene, player=Player(FACTS, turns={"one": [[say("a"), 600.0, DONE]]}))
