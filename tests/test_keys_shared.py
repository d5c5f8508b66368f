"""API keys of two daemons on one PostgreSQL database: made at one, good at the other, and ended at both."""

import aiohttp
import pytest

from router.api.auth import hash_key
from router.store import postgres
from tests.daemons import ADMIN_KEY, running_daemon, write_routing
from tests.postgres import shared_server
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def url():
    """The address of an empty database."""
    server = shared_server()
    made = server.create()
    yield made
    server.drop(made)


async def ask(session, method, address, headers, json=None):
    async with session.request(method, address, headers=headers, json=json) as reply:
        return reply.status, await reply.json()


async def test_a_key_that_is_revoked_at_one_daemon_is_refused_by_the_other(tmp_path, url):
    write_routing(tmp_path)
    both = {"database_url": url}
    async with (
        running_daemon(tmp_path, replica_id="one", **both) as one,
        running_daemon(tmp_path, replica_id="two", **both) as two,
        aiohttp.ClientSession() as session,
    ):
        status, made = await ask(session, "POST", f"{one.url}/admin/v1/keys", ADMIN, {"tenant": "studio"})
        assert status == 201
        key = {"x-api-key": made["key"]}
        for daemon in (one, two):
            assert (await ask(session, "GET", f"{daemon.url}/v1/models", key))[0] == 200

        # Somebody who never says so: the row alone, which each daemon must find out for itself.
        silent = await postgres.open_store(url)
        assert await silent.revoke_key("studio", made["id"], 1) is not None
        await silent.close()

        async def refused():
            answers = [await ask(session, "GET", f"{daemon.url}/v1/models", key) for daemon in (one, two)]
            return [status for status, _body in answers] == [401, 401]

        await poll_until(refused, "both daemons to find out that the key was revoked")


async def test_a_secret_is_nowhere_in_the_database(tmp_path, url):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, database_url=url) as daemon, aiohttp.ClientSession() as session:
        _status, made = await ask(session, "POST", f"{daemon.url}/admin/v1/keys", ADMIN)
        store = await postgres.open_store(url)
        (kept,) = await store.keys(None, None, 9)
        pepper = bytes.fromhex(await store.keep("pepper", ""))
        await store.close()

    assert kept.hash == hash_key(made["key"], pepper)
    assert made["key"] not in repr(kept) + kept.hash + kept.prefix
    assert made["key"].startswith(kept.prefix)
