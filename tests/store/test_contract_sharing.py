"""What daemons on one store share, in every engine: places and starts of providers, circuits, the right to probe.

And what they learn of each other's endings. Who gets how many places is decided and tested in `policy.share`.
"""

import asyncio

import pytest

from router.leases import CircuitNews, CircuitSeen, CircuitWord, Grant, Want
from router.persistence import ENDED_MAX, Owner
from tests.store.stage import (
    LATER,
    NOW,
    Cast,
    a_task,
    cancel_it,
    deliver,
    end,
    fail_with,
    retry,
)

SILENT_MS = 10_000
LEASE_MS = 5_000
FAL = ("fal", "fal", "veo-3")
OPENAI = ("openai", "openai", "gpt-image-2")


def want(places=8, *, provider="fal", need=8, in_use=0, **tokens):
    return Want(provider, places, in_use, need, **tokens)


def opened(key=FAL, open_for_ms=1_000, **more):
    return CircuitNews(key, CircuitWord.OPEN, open_for_ms, **more)


def closed(key=FAL, **more):
    return CircuitNews(key, CircuitWord.CLOSED, **more)


def returned(key=FAL):
    return CircuitNews(key, CircuitWord.RETURNED)


async def places_of(store, owner, *wants, now=NOW):
    return [grant.places for grant in await store.share(owner, wants or (want(),), SILENT_MS, now)]


async def lives(store, *replicas):
    return [await store.register(replica, NOW) for replica in replicas]


# -- places -----------------------------------------------------------------------------------------------------------


async def test_one_life_alone_may_use_all_that_there_is(store):
    (here,) = await lives(store, "here")

    assert await store.share(here, (want(),), SILENT_MS, NOW) == (Grant("fal", 8, 0),)
    assert await store.share(here, (want(need=0),), SILENT_MS, NOW) == (Grant("fal", 8, 0),)
    assert await store.share(here, (), SILENT_MS, NOW) == ()


async def test_each_want_is_answered_in_the_order_of_the_asking(store):
    (here,) = await lives(store, "here")
    grants = await store.share(here, (want(2, provider="openai"), want(7), want(1, provider="bfl")), SILENT_MS, NOW)

    assert grants == (Grant("openai", 2, 0), Grant("fal", 7, 0), Grant("bfl", 1, 0))


async def test_a_place_in_use_is_given_up_before_another_may_have_it(store):
    first, second = await lives(store, "first", "second")

    assert await places_of(store, first) == [8]
    # Six of the first are out: nothing is taken away, only what is left over is divided.
    assert await places_of(store, second) == [0]
    assert await places_of(store, first, want(in_use=6)) == [4]
    assert await places_of(store, second) == [2]
    assert await places_of(store, first, want(in_use=4)) == [4]
    assert await places_of(store, second) == [4]


async def test_the_places_of_all_lives_never_sum_to_more_than_there_are(store):
    owners = await lives(store, *"abcde")
    in_use, limit = dict.fromkeys(owners, 0), 7
    for turn in range(60):
        owner = owners[turn * 7 % 5]
        need = turn * 11 % 13
        (places,) = await places_of(store, owner, want(limit, need=need, in_use=in_use[owner]), now=NOW + turn * 900)
        for each in owners:
            await store.heartbeat(each, NOW + turn * 900)
        # It begins what it may, or ends some where it may begin none.
        in_use[owner] = max(in_use[owner] - 2, min(need, places))

        assert sum(in_use.values()) <= limit, turn
    assert any(in_use.values())


async def test_lives_that_ask_at_the_same_time_get_different_places(store):
    owners = await lives(store, *"abcd")
    answers = await asyncio.gather(*(places_of(store, owner) for owner in owners))

    assert sum(places for (places,) in answers) == 8


async def test_the_places_of_a_silent_life_are_free(store):
    silent, alive = await lives(store, "silent", "alive")
    await places_of(store, silent, want(in_use=8))
    last_heard, silent_at = NOW + SILENT_MS - 1, NOW + SILENT_MS
    await store.heartbeat(alive, last_heard)

    assert await places_of(store, alive, now=last_heard) == [0]
    assert await places_of(store, alive, now=silent_at) == [8]
    # It is back: what it has out is its own, but it begins nothing more.
    await store.heartbeat(silent, silent_at)
    assert await places_of(store, silent, want(in_use=8), now=silent_at) == [0]


async def test_the_places_of_a_life_that_left_are_free_at_once(store):
    first, second = await lives(store, "first", "second")
    await places_of(store, first, want(in_use=8))

    assert await places_of(store, second) == [0]
    assert await store.leave(first) is None
    assert await places_of(store, second) == [8]


async def test_the_leaving_of_a_former_life_is_not_the_leaving_of_the_next(store):
    former, other = await lives(store, "here", "other")
    (here,) = await lives(store, "here")
    await places_of(store, here, want(in_use=8))
    await store.leave(former)
    await store.leave(Owner("nobody", 99))

    assert await places_of(store, other) == [0]
    assert await places_of(store, here, want(in_use=8)) == [4]


async def test_a_replaced_life_gets_no_places_and_holds_none(store):
    zombie, other = await lives(store, "here", "other")
    await places_of(store, zombie, want(in_use=8))
    (here,) = await lives(store, "here")

    assert await store.share(zombie, (want(), want(provider="openai")), SILENT_MS, NOW) == ()
    assert await places_of(store, here) == [8]
    assert await places_of(store, other) == [0]


async def test_providers_do_not_share_with_each_other(store):
    first, second = await lives(store, "first", "second")
    await places_of(store, first, want(provider="fal"))

    assert await places_of(store, second, want(provider="openai"), want(provider="fal")) == [8, 0]


# -- starts -----------------------------------------------------------------------------------------------------------


def wanting(tokens_wanted, *, tokens=10, per_ms=1_000, provider="fal"):
    return want(provider=provider, tokens=tokens, per_ms=per_ms, tokens_wanted=tokens_wanted)


async def tokens_of(store, owner, *wants, now=NOW):
    return [grant.tokens for grant in await store.share(owner, wants, SILENT_MS, now)]


async def test_all_lives_take_their_starts_from_one_bucket(store):
    first, second = await lives(store, "first", "second")

    assert await tokens_of(store, first, wanting(4)) == [4]
    assert await tokens_of(store, second, wanting(9)) == [6]
    assert await tokens_of(store, first, wanting(1)) == [0]
    assert await tokens_of(store, first, wanting(3, provider="openai")) == [3]


async def test_starts_that_are_asked_for_at_the_same_time_are_given_once(store):
    owners = await lives(store, *"abcd")
    answers = await asyncio.gather(*(tokens_of(store, owner, wanting(4)) for owner in owners))

    assert sum(tokens for (tokens,) in answers) == 10


async def test_a_bucket_fills_with_time_up_to_its_size(store):
    first, second = await lives(store, "first", "second")
    await tokens_of(store, first, wanting(10))

    assert await tokens_of(store, second, wanting(10), now=NOW + 99) == [0]
    assert await tokens_of(store, second, wanting(10), now=NOW + 100) == [1]
    assert await tokens_of(store, first, wanting(10), now=NOW + 600) == [5]
    assert await tokens_of(store, first, wanting(10), now=NOW + 600) == [0]
    assert await tokens_of(store, second, wanting(50), now=NOW + 3_600_000) == [10]


async def test_a_clock_that_goes_back_earns_nothing_twice(store):
    first, second = await lives(store, "first", "second")
    await tokens_of(store, first, wanting(10))

    assert await tokens_of(store, first, wanting(10), now=NOW + 500) == [5]
    assert await tokens_of(store, second, wanting(10), now=NOW) == [0]
    assert await tokens_of(store, second, wanting(10), now=NOW + 500) == [0]


async def test_a_provider_without_a_rate_has_no_bucket(store):
    (here,) = await lives(store, "here")

    assert await tokens_of(store, here, want(tokens_wanted=5)) == [0]


async def test_a_replaced_life_takes_no_starts(store):
    (zombie,) = await lives(store, "here")
    (here,) = await lives(store, "here")

    assert await tokens_of(store, zombie, wanting(10)) == []
    assert await tokens_of(store, here, wanting(10)) == [10]


# -- circuits ---------------------------------------------------------------------------------------------------------


async def test_what_one_life_tells_of_a_circuit_the_others_see(store):
    here, there = await lives(store, "here", "there")
    told = await store.exchange(here, (opened(openings=3), opened(OPENAI, 60_000)), NOW)

    assert told == (
        CircuitSeen(FAL, CircuitWord.OPEN, 1_000, 3, False, 1, here.epoch),
        CircuitSeen(OPENAI, CircuitWord.OPEN, 60_000, 0, False, 1, here.epoch),
    )
    assert [seen.left_ms for seen in await store.exchange(there, (), NOW + 999)] == [1, 59_001]
    assert [seen.left_ms for seen in await store.exchange(there, (), NOW + 1_001)] == [0, 58_999]


async def test_the_version_of_a_circuit_grows_with_each_move_alone(store):
    here, there = await lives(store, "here", "there")
    seen = []
    for owner, news in ((here, opened()), (here, opened()), (there, closed()), (there, opened(OPENAI)), (here, None)):
        seen += [await store.exchange(owner, (news,) if news else (), NOW)]

    assert [[(one.key, one.word, one.version, one.epoch) for one in each] for each in seen] == [
        [(FAL, "open", 1, here.epoch)],
        [(FAL, "open", 2, here.epoch)],
        [(FAL, "closed", 3, there.epoch)],
        [(FAL, "closed", 3, there.epoch), (OPENAI, "open", 1, there.epoch)],
        [(FAL, "closed", 3, there.epoch), (OPENAI, "open", 1, there.epoch)],
    ]


async def test_a_circuit_is_open_for_ever_until_somebody_acts(store):
    here, there = await lives(store, "here", "there")
    await store.exchange(here, (opened(open_for_ms=None),), NOW)
    (seen,) = await store.exchange(there, (), NOW + 10**9)

    assert (seen.word, seen.left_ms) == (CircuitWord.OPEN, None)
    assert not await store.lease_probe(there, FAL, LEASE_MS, SILENT_MS, NOW + 10**9)
    (seen,) = await store.exchange(there, (closed(),), NOW + 10**9)
    assert seen.word is CircuitWord.CLOSED


async def test_what_an_operator_pinned_moves_only_by_hand(store):
    here, there = await lives(store, "here", "there")
    (pinned,) = await store.exchange(here, (opened(open_for_ms=0, pinned=True, by_hand=True),), NOW)

    assert pinned == CircuitSeen(FAL, CircuitWord.OPEN, 0, 0, True, 1, here.epoch)
    assert await store.exchange(there, (closed(),), NOW) == (pinned,)
    assert await store.exchange(there, (opened(openings=5),), NOW) == (pinned,)
    assert await store.exchange(there, (opened(OPENAI), closed()), NOW) == (
        pinned,
        CircuitSeen(OPENAI, CircuitWord.OPEN, 1_000, 0, False, 1, there.epoch),
    )
    (free, _other) = await store.exchange(there, (closed(by_hand=True),), NOW)
    assert free == CircuitSeen(FAL, CircuitWord.CLOSED, 0, 0, False, 2, there.epoch)


async def test_lives_that_tell_at_the_same_time_are_all_heard(store):
    owners = await lives(store, *"abcd")
    keys = [("fal", "fal", f"model-{number}") for number in range(6)]
    await asyncio.gather(*(store.exchange(owner, tuple(map(opened, keys)), NOW) for owner in owners))
    seen = await store.exchange(owners[0], (), NOW)

    assert [(one.key, one.version) for one in seen] == [(key, 4) for key in keys]
    assert {one.epoch for one in seen} <= {owner.epoch for owner in owners}


# -- the right to probe -----------------------------------------------------------------------------------------------

DUE = NOW + 1_000


async def open_circuit(store, **more):
    """Two lives, and a circuit that the first opened until DUE."""
    here, there = await lives(store, "here", "there")
    await store.exchange(here, (opened(**more),), NOW)
    return here, there


async def probe(store, owner, *, at=DUE, key=FAL):
    answer = await store.lease_probe(owner, key, LEASE_MS, SILENT_MS, at)
    assert isinstance(answer, bool)
    return answer


async def test_one_life_at_a_time_may_probe(store):
    here, there = await open_circuit(store)

    assert await probe(store, there)
    assert not await probe(store, here)
    assert not await probe(store, here, at=DUE + LEASE_MS - 1)


async def test_of_lives_that_ask_at_the_same_time_one_may_probe(store):
    owners = [*await open_circuit(store), *await lives(store, *"abc")]
    answers = await asyncio.gather(*(probe(store, owner) for owner in owners))

    assert sorted(answers) == [False] * 4 + [True]


async def test_the_holder_may_have_the_right_again(store):
    here, there = await open_circuit(store)
    await probe(store, there)

    assert await probe(store, there, at=DUE + 4_000)
    assert not await probe(store, here, at=DUE + 4_000 + LEASE_MS - 1)
    assert await probe(store, here, at=DUE + 4_000 + LEASE_MS)


async def test_nobody_probes_before_the_time(store):
    _here, there = await open_circuit(store)

    assert not await probe(store, there, at=DUE - 1)
    assert await probe(store, there, at=DUE)


@pytest.mark.parametrize("news", [closed(), opened(open_for_ms=0, pinned=True, by_hand=True), opened(open_for_ms=None)])
async def test_nobody_probes_what_is_closed_or_kept_open_by_hand(store, news):
    here, there = await open_circuit(store)
    await store.exchange(here, (news,), NOW)

    assert not await probe(store, there)
    assert not await probe(store, here, key=OPENAI)


async def test_the_right_ends_when_the_circuit_moves(store):
    here, there = await open_circuit(store)
    await probe(store, there)
    await store.exchange(there, (opened(open_for_ms=500),), DUE)

    assert not await probe(store, there, at=DUE + 499)
    assert await probe(store, here, at=DUE + 500)
    assert not await probe(store, there, at=DUE + 500)


async def test_the_right_ends_when_its_holder_hands_it_back(store):
    here, there = await open_circuit(store)
    await probe(store, there)
    before = await store.exchange(here, (returned(), returned(OPENAI)), DUE)

    assert not await probe(store, here)  # another's right is not handed back
    assert await store.exchange(there, (returned(),), DUE) == before  # and it is not a move
    assert await probe(store, here)
    assert not await probe(store, there)


async def test_the_right_ends_with_its_lease(store):
    here, there = await open_circuit(store)
    await probe(store, there)

    assert not await probe(store, here, at=DUE + LEASE_MS - 1)
    assert await probe(store, here, at=DUE + LEASE_MS)


async def test_the_right_ends_when_its_holder_falls_silent(store):
    here, there = await open_circuit(store)
    await store.lease_probe(there, FAL, 10 * SILENT_MS, SILENT_MS, DUE)

    assert not await probe(store, here, at=NOW + SILENT_MS - 1)
    assert await probe(store, here, at=NOW + SILENT_MS)


async def test_the_right_ends_when_its_holder_leaves(store):
    here, there = await open_circuit(store)
    await probe(store, there)
    await store.leave(there)

    assert await probe(store, here)


async def test_the_right_of_a_life_that_was_replaced_is_free(store):
    here, there = await open_circuit(store)
    await probe(store, there)
    await lives(store, "there")

    assert await probe(store, here)


# -- what others have ended -------------------------------------------------------------------------------------------


async def test_a_life_learns_of_its_tasks_that_ended_while_an_attempt_is_out(store):
    cast = Cast(store)
    here, there = await lives(store, "here", "there")
    mine = [await cast.open(await cast.admit(a_task(number, fence=here.epoch))) for number in (3, 1, 2)]
    theirs = await cast.open(await cast.admit(a_task(4, fence=there.epoch, tenant="globex")))
    waiting = await cast.admit(a_task(5, fence=here.epoch))

    assert await store.halted(here) == ()
    for task in (mine[0].task, mine[1].task, theirs.task, waiting):
        await store.cancel(task.tenant, task.id, cancel_it())
    assert await store.halted(here) == (("acme", a_task(1).id), ("acme", a_task(3).id))
    assert await store.halted(there) == (("globex", a_task(4).id),)
    await store.hear(end(mine[0].attempt))
    assert await store.halted(here) == (("acme", a_task(1).id),)


async def test_a_halted_task_with_several_attempts_out_is_named_once(store):
    cast = Cast(store)
    (here,) = await lives(store, "here")
    first = await cast.open(await cast.admit(a_task(fence=here.epoch)))
    again = await store.move(first.task, retry())  # its first attempt is still out
    await cast.open(again, part=1)
    await store.cancel("acme", again.id, cancel_it())

    assert await store.halted(here) == (("acme", again.id),)


async def test_who_waits_is_told_which_tasks_have_ended(store):
    cast = Cast(store)
    done = await cast.succeed(a_task(1), move=deliver())
    failed = await store.move(await cast.admit(a_task(2)), fail_with())
    await cast.admit(a_task(3))
    await cast.open(await cast.admit(a_task(4)))
    asked = [("acme", a_task(number).id) for number in (2, 4, 3, 1, 9)]

    assert await store.ended(asked) == (done, failed)
    assert await store.ended([]) == ()
    assert await store.ended([asked[0], asked[0]]) == (failed,)


async def test_nobody_learns_of_the_ending_of_another_tenants_task(store):
    done = await Cast(store).succeed(a_task(1))

    assert await store.ended([("globex", done.id), ("", done.id)]) == ()
    assert await store.ended([("globex", done.id), ("acme", done.id)]) == (done,)


async def test_so_many_tasks_may_be_asked_for_at_once_and_no_more(store):
    done = await Cast(store).succeed(a_task(1))
    many = [("acme", a_task(number).id) for number in range(1, ENDED_MAX + 2)]

    assert await store.ended(many[:ENDED_MAX]) == (done,)
    with pytest.raises(ValueError, match=str(ENDED_MAX)):
        await store.ended(many)


async def test_those_who_ask_at_the_same_time_are_each_told_their_own(store):
    done = [await Cast(store).succeed(a_task(number)) for number in range(6)]
    answers = await asyncio.gather(*(store.ended([("acme", task.id)]) for task in done))

    assert answers == [(task,) for task in done]
    assert LATER in {task.completed_at for task in done}
