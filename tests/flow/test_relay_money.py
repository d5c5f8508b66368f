"""Relayed completions: what budgets hold of them, what they cost, and what is written when. Time is virtual."""

import asyncio
from dataclasses import replace

from router.events import BudgetRefused, RelayEnded
from router.flow.relay import Failed, Whole
from router.outcome import Billed
from router.policy.rules import Scope
from router.provider import Delta
from tests.flow.switchboard import (
    COST,
    DOCUMENT,
    DONE,
    HELLO,
    USAGE,
    Player,
    chat_rules,
    failure,
    limit,
    relaying,
    say,
)

ESTIMATE = 100 * 1_000 + 50 * 10_000  # 300 characters, max_tokens 50


# -- money ------------------------------------------------------------------------------------------------------------


def test_a_budget_is_held_while_the_call_is_out_and_settled_at_its_cost():
    async def scene(board):
        first = asyncio.create_task(board.hear())
        await asyncio.sleep(1)
        (second,) = await board.hear()

        assert (second.error.error_type, second.retry_after_s) == ("budget_exceeded", None)
        assert board.seen(BudgetRefused)[0].left == ESTIMATE - 1
        await first
        assert len(await board.hear()) > 1  # what the first did not use has come back, before anything is written
        await asyncio.sleep(1)
        assert await board.spent() == (0, 2 * COST)

    rules = chat_rules(budgets=[limit(2 * ESTIMATE - 1)])
    relaying(scene, rules=rules, player=Player(turns={"one": [[say("a"), 5.0, *HELLO]]}))


def test_what_was_spent_counts_before_and_after_it_is_written():
    async def scene(board):
        await board.hear()
        refused = [(await board.hear())[-1]]
        await asyncio.sleep(1)
        refused.append((await board.hear())[-1])

        assert [type(one) for one in refused] == [Failed, Failed]
        assert [one.left for one in board.seen(BudgetRefused)] == [ESTIMATE - COST] * 2

    relaying(scene, rules=chat_rules(budgets=[limit(ESTIMATE)]))


def test_calls_side_by_side_never_pass_a_limit_together():
    async def scene(board):
        told = await asyncio.gather(*(board.hear() for _ in range(10)))

        assert sum(isinstance(one[-1], Failed) for one in told) == 7
        await asyncio.sleep(1)
        assert await board.spent() == (0, 3 * COST)

    turns = {"one": [[1.0, *HELLO] for _ in range(3)]}
    relaying(scene, rules=chat_rules(budgets=[limit(3 * ESTIMATE)]), player=Player(turns=turns))


def test_a_budget_of_a_provider_leads_to_the_next_one():
    async def scene(board):
        await board.hear()
        await asyncio.sleep(1)
        board.player.jobs.clear()
        await board.hear()

        assert board.player.asked() == ["two"]
        assert await board.spent("provider:one") == (0, COST)

    budget = replace(limit(ESTIMATE), scope=Scope.PROVIDER, match="one")
    relaying(scene, rules=chat_rules(budgets=[budget]))


def test_under_a_budget_a_target_without_a_price_is_left_out():
    async def scene(board):
        (told,) = await board.hear()

        assert (told.error.error_type, told.error.code) == ("price_ceiling", "price_unknown")
        assert board.player.jobs == []

    relaying(scene, rules=chat_rules(price=None, budgets=[limit(10**12)]))


def test_without_a_bound_of_the_caller_an_answer_of_4096_tokens_is_held():
    async def scene(board):
        (told,) = await board.hear(input={"max_tokens": None})

        assert told.error.error_type == "budget_exceeded"
        assert isinstance((await board.hear(input={"max_tokens": 4_095}))[0], Delta)

    relaying(scene, rules=chat_rules(budgets=[limit(100 * 1_000 + 4_095 * 10_000)]))


def test_the_providers_own_amount_goes_before_usage_and_price():
    async def scene(board):
        assert await board.hear(streamed=False) == [Whole(DOCUMENT, 12_345)]

    relaying(scene, player=Player(turns={"one": [[replace(DONE, cost_nanos=12_345)]]}))


def test_a_stream_that_breaks_without_its_usage_is_charged_by_its_chunks():
    async def scene(board):
        await board.hear()
        await asyncio.sleep(1)

        (row,) = await board.rows()
        assert (row.billing, row.cost_nanos, row.estimated) == (Billed.YES, 100 * 1_000 + 2 * 10_000, True)

    relaying(scene, player=Player(turns={"one": [[say("a"), say("b"), failure("unknown", billed=Billed.YES)]]}))


# -- what is written --------------------------------------------------------------------------------------------------


def test_a_try_is_written_within_a_second_and_together_with_others():
    async def scene(board):
        await asyncio.gather(*(board.hear() for _ in range(10)))
        loop = asyncio.get_running_loop()
        ended_s = loop.time()

        assert board.store.booked == []
        await asyncio.sleep(1)
        instants = {at for at, _row in board.store.booked}
        assert len(board.store.booked) == 10
        assert len(instants) == 1
        assert max(instants) <= ended_s + 1

    relaying(scene)


def test_what_is_written_says_who_asked_whom_and_what_was_used():
    async def scene(board):
        await board.hear(key_id="k1", streamed=False)
        await asyncio.sleep(1)

        first, second = await board.rows()
        assert (first.n, first.provider, first.outcome, first.billing) == (1, "one", "overloaded", Billed.NO)
        assert (second.n, second.key_id, second.model, second.target_model) == (2, "k1", "chat", "upstream")
        assert (second.outcome, second.cost_nanos, second.usage, second.begun) == ("succeeded", COST, USAGE, True)
        lines = await board.store.ledger(first.request_id)
        assert [(line.entry, line.n, line.spent_delta) for line in lines] == [("spend", 2, COST)]
        assert [one.relayed for one in board.seen(RelayEnded)] == [first, second]

    relaying(scene, player=Player(turns={"one": [[failure()]]}))


def test_while_nothing_can_be_written_no_new_call_begins():
    async def scene(board):
        board.store.is_away = True
        await board.hear()
        await asyncio.sleep(1)
        (told,) = await board.hear()
        board.store.is_away = False
        await asyncio.sleep(1)

        assert (told.error.error_type, told.error.retryable) == ("unavailable", True)
        assert len(await board.rows()) == 1
        assert board.text(await board.hear()) == "hello"

    relaying(scene)
