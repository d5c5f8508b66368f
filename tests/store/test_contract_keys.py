"""API keys in every engine: what is written is read back, who finds which key, what ends one (contract section 4)."""

from dataclasses import replace

import pytest

from router.keys import ApiKey, KeyLimits, KeyRate, KeyScope, KeyState, NewSecret, holds, state_of
from router.persistence import Unavailable
from tests.store.stage import LATER, NOW


def a_key(number=1, **changes):
    """Make a key with a bit of everything in it."""
    plain = ApiKey(
        id=f"key_{number:032x}",
        tenant="acme",
        name="ein Käfer 🪲",
        prefix=f"pm_{number:08d}",
        hash=f"{number:064x}",
        created_at=NOW + number,
        scopes=frozenset({KeyScope.READ, KeyScope.ADMIN_READ}),
        limits=KeyLimits(frozenset({"gpt-image-2", "veo-3"}), KeyRate(100, 60_000), 3),
        expires_at=NOW + 86_400_000,
    )
    return replace(plain, **changes)


def rotation(number, at=LATER, grace_ms=1_000):
    return NewSecret(hash=f"{number:064x}", prefix=f"pm_new{number:05d}", at=at, former_until=at + grace_ms)


async def test_a_key_is_read_as_it_was_written(store):
    full, bare = a_key(1), ApiKey("key_2", "acme", "", "pm_2", "b" * 64, NOW)
    nothing_allowed = a_key(3, limits=KeyLimits(models=frozenset()), scopes=frozenset())
    for key in (full, bare, nothing_allowed):
        assert await store.add_key(key)

        assert await store.find_key(key.hash) == key
        assert await store.key(key.id) == key


async def test_neither_an_id_nor_a_hash_is_written_over(store):
    assert await store.add_key(a_key(1))

    assert not await store.add_key(a_key(1, tenant="globex", hash="f" * 64))
    assert not await store.add_key(a_key(2, tenant="globex", hash=a_key(1).hash))
    assert await store.keys(None, None, 10) == (a_key(1),)


async def test_a_secret_that_nobody_has_finds_nothing(store):
    await store.add_key(a_key(1))

    assert await store.find_key("0" * 64) is None
    assert await store.key("key_0") is None


async def test_keys_are_listed_newest_first_in_pages_of_a_tenant_or_of_all(store):
    mine = [a_key(number) for number in (1, 3, 5)]
    theirs = [a_key(number, tenant="globex") for number in (2, 4)]
    for key in (*mine, *theirs):
        await store.add_key(key)

    every = sorted((*mine, *theirs), key=lambda key: key.id, reverse=True)
    assert await store.keys(None, None, 10) == tuple(every)
    assert await store.keys(None, every[1].id, 2) == tuple(every[2:4])
    assert await store.keys("acme", None, 10) == (mine[2], mine[1], mine[0])
    assert await store.keys("acme", mine[2].id, 1) == (mine[1],)
    assert await store.keys("nobody", None, 10) == ()


async def test_the_first_revocation_stands(store):
    await store.add_key(a_key(1))
    revoked = a_key(1, revoked_at=LATER)

    assert await store.revoke_key("acme", revoked.id, LATER) == revoked
    assert await store.revoke_key("acme", revoked.id, LATER + 5) == revoked
    assert await store.find_key(revoked.hash) == revoked


async def test_another_tenants_key_is_neither_revoked_nor_rotated(store):
    await store.add_key(a_key(1))

    assert await store.revoke_key("globex", a_key(1).id, LATER) is None
    assert await store.rotate_key("globex", a_key(1).id, rotation(9)) is None
    assert await store.key(a_key(1).id) == a_key(1)


async def test_after_a_rotation_both_secrets_find_the_key_and_after_the_next_the_oldest_does_not(store):
    await store.add_key(a_key(1))
    first = rotation(11)
    once = await store.rotate_key("acme", a_key(1).id, first)

    assert once == a_key(
        1, hash=first.hash, prefix=first.prefix, former_hash=a_key(1).hash, former_until=first.former_until
    )
    assert await store.find_key(a_key(1).hash) == await store.find_key(first.hash) == once

    second = rotation(12, at=LATER + 10)
    twice = await store.rotate_key("acme", a_key(1).id, second)
    assert (twice.hash, twice.former_hash) == (second.hash, first.hash)
    assert await store.find_key(a_key(1).hash) is None
    assert await store.find_key(first.hash) == twice


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_an_ended_key_gets_no_new_secret(store, end):
    key = a_key(1, expires_at=LATER if end == "expired" else None)
    await store.add_key(key)
    if end == "revoked":
        key = await store.revoke_key("acme", key.id, NOW)

    assert await store.rotate_key("acme", key.id, rotation(11, at=LATER)) is None
    assert await store.key(key.id) == key


async def test_a_closed_store_answers_nothing_about_keys(store):
    await store.close()

    for asking in (store.find_key("x"), store.keys(None, None, 1), store.add_key(a_key())):
        with pytest.raises(Unavailable):
            await asking


# -- what a key is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "at", "digest", "state"),
    [
        ({}, NOW, None, KeyState.ACTIVE),
        ({"revoked_at": NOW}, NOW, None, KeyState.REVOKED),
        ({"expires_at": LATER}, LATER - 1, None, KeyState.ACTIVE),
        ({"expires_at": LATER}, LATER, None, KeyState.EXPIRED),
        ({"revoked_at": NOW, "expires_at": NOW}, LATER, None, KeyState.REVOKED),
        ({"hash": "new", "former_hash": "old", "former_until": LATER}, LATER, "new", KeyState.ACTIVE),
        ({"hash": "new", "former_hash": "old", "former_until": LATER}, LATER - 1, "old", KeyState.ACTIVE),
        ({"hash": "new", "former_hash": "old", "former_until": LATER}, LATER, "old", KeyState.ROTATED),
        ({"hash": "new", "former_hash": "old", "former_until": LATER}, NOW, "older", KeyState.ROTATED),
    ],
)
def test_the_state_of_a_key_and_of_a_secret(changes, at, digest, state):
    assert state_of(a_key(1, **changes), at, digest) is state


def test_no_scope_includes_another_but_admin_write_admin_read():
    for scope in KeyScope:
        allowed = {wanted for wanted in KeyScope if holds(frozenset({scope}), wanted)}
        assert allowed == {scope} | ({KeyScope.ADMIN_READ} if scope is KeyScope.ADMIN_WRITE else set())
