"""`pointsman keys` against a daemon: what it prints, where, with which exit code, and what it never does."""

import json
import re

import aiohttp
import pytest

from tests.daemons import ADMIN_KEY, run_command, running_daemon, write_routing
from tests.loopback import find_closed_port


async def keys(folder, daemon, *words, **said):
    """Run `pointsman keys` in a folder that has no store, with the admin key."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    said = {"url": daemon.url, "api_key": ADMIN_KEY, "admin_key": "", **said}
    return await run_command(elsewhere, "keys", *words, **said)


async def status_with(daemon, key):
    """The status that a key is answered with."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{daemon.url}/v1/models", headers={"x-api-key": key}) as reply,
    ):
        return reply.status


async def test_a_key_is_made_listed_rotated_and_revoked(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        limits = ("--scope", "read", "--scope", "cancel", "--model", "m", "--rate", "100/1m", "--max-concurrency", "2")
        words = ("--tenant", "studio", "--name", "press", "--expires-in", "30d", *limits, "--json")
        code, out, err = await keys(tmp_path, daemon, "create", *words)
        made = json.loads(out)
        assert (code, err) == (0, "")
        assert list(made)[:2] == ["id", "key"]
        assert (made["tenant"], made["name"], made["scopes"]) == ("studio", "press", ["cancel", "read"])
        assert (made["models"], made["rate_limit"], made["max_concurrency"]) == (["m"], "100/1m", 2)
        assert made["expires_at"] is not None
        assert await status_with(daemon, made["key"]) == 200

        code, out, _err = await keys(tmp_path, daemon, "list", "--json")
        assert code == 0
        assert [one["id"] for one in json.loads(out)] == [made["id"]]
        code, out, _err = await keys(tmp_path, daemon, "list")
        assert code == 0
        assert made["id"] in out
        assert "100/1m, 2 at a time, only m" in out
        assert made["key"] not in out

        code, out, _err = await keys(tmp_path, daemon, "rotate", made["id"], "--grace", "0s", "--json")
        rotated = json.loads(out)
        assert (code, rotated["id"]) == (0, made["id"])
        assert [await status_with(daemon, one["key"]) for one in (made, rotated)] == [401, 200]

        code, out, err = await keys(tmp_path, daemon, "revoke", made["id"])
        assert (code, out, err) == (0, f"{made['id']} of tenant studio is revoked\n", "")
        assert await status_with(daemon, rotated["key"]) == 401
        code, out, err = await keys(tmp_path, daemon, "rotate", made["id"])
        assert (code, out) == (1, "")
        assert err.startswith("pointsman: A key that was revoked")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == set()


async def test_without_options_a_key_is_the_default_tenants_and_stands_alone_on_stdout(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        code, out, err = await keys(tmp_path, daemon, "create")

        said = dict(line.split(maxsplit=1) for line in out.splitlines())
        assert code == 0
        assert (said["tenant"], said["scopes"]) == ("default", "cancel, generate, read")
        assert re.fullmatch(r"pm_[a-z2-7]{8}_[a-z2-7]{52}", said["key"])
        assert await status_with(daemon, said["key"]) == 200
        assert err == "Keep the key now: it is not shown again.\n"
        assert all(said["key"] not in json.dumps(line) for line in daemon.lines())


async def test_a_long_list_is_whole(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession() as session:
        for _turn in range(101):
            made = {"tenant": "studio"}
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            async with session.post(f"{daemon.url}/admin/v1/keys", json=made, headers=headers) as reply:
                assert reply.status == 201
        code, out, _err = await keys(tmp_path, daemon, "list", "--tenant", "studio", "--json")

        assert (code, len({one["id"] for one in json.loads(out)})) == (0, 101)


async def test_the_admin_key_file_of_the_first_start_is_found_and_a_tenants_key_is_refused(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, admin_key=None) as daemon:
        said = {"url": daemon.url, "admin_key": ""}
        code, out, err = await run_command(tmp_path, "keys", "create", "--json", **said)
        assert (code, err) == (0, "")

        code, out, err = await run_command(tmp_path, "keys", "list", api_key=json.loads(out)["key"], **said)
        assert (code, out) == (1, "")
        assert err.splitlines()[0] == "pointsman: This API key has no scope 'admin:read'."
        assert "POINTSMAN_API_KEY" in err

        code, out, err = await run_command(tmp_path, "keys", "list", **{**said, "data_dir": "nowhere"})
        assert (code, out) == (1, "")
        assert err.startswith("pointsman: No API key was sent")


async def test_where_operators_have_a_listener_of_their_own_it_is_found(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, admin_port=0) as daemon:
        port = daemon.admin_url.rpartition(":")[2]
        code, out, _err = await run_command(tmp_path, "keys", "list", "--json", admin_port=port)
        assert (code, json.loads(out)) == (0, [])

        code, _out, err = await run_command(tmp_path, "keys", "list", url=daemon.url)
        assert (code, err) == (1, "pointsman: There is nothing at this path.\n")


async def test_a_daemon_that_is_not_there_is_exit_code_3_in_one_line(tmp_path):
    url = f"http://127.0.0.1:{find_closed_port()}"
    code, out, err = await run_command(tmp_path, "keys", "list", url=url)

    assert (code, out) == (3, "")
    assert err == f"pointsman: cannot reach the daemon at {url}: Connection refused\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "--expires-in", "soon"], "--expires-in must be a duration"),
        (["create", "--rate", "often"], "--rate must be a rate"),
        (["create", "--scope", "everything"], "--scope"),
        (["create", "--max-concurrency", "0"], "--max-concurrency"),
        (["rotate", "key_1", "--grace", "5"], "--grace must be a duration"),
        (["revoke"], "ID"),
        (["grant"], "grant"),
    ],
)
async def test_what_is_written_wrongly_is_a_usage_error_before_anybody_is_asked(tmp_path, words, said):
    code, out, err = await run_command(tmp_path, "keys", *words, url=f"http://127.0.0.1:{find_closed_port()}")

    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x:99999", "http://x/?a=1"])
async def test_an_address_that_is_none_is_said_in_one_line(tmp_path, url):
    code, out, err = await run_command(tmp_path, "keys", "list", url=url)

    assert (code, out) == (1, "")
    assert err == "pointsman: POINTSMAN_URL: must be http(s)://host[:port][/path]\n"


async def test_what_the_daemon_refuses_is_said_with_the_field(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        code, out, err = await keys(tmp_path, daemon, "create", "--model", "no-such-model")
        assert (code, out) == (1, "")
        assert err == "pointsman: models: the configuration has no model 'no-such-model'.\n"

        code, out, err = await keys(tmp_path, daemon, "revoke", "../keys")
        assert (code, err) == (1, "pointsman: There is no such API key.\n")
