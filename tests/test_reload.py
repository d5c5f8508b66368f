"""A new routing file comes into force whole, or not at all and with its reasons; no request notices (I19, O2)."""

import asyncio

import aiohttp
import pytest

from providers.simulated import Options, start
from tests.daemons import ADMIN_KEY, ROUTING, running_daemon, write_routing
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
FAST = Options(latency_s=0.0)
RELOADS = 200
BAD_EVERY = 10  # of 200 reloads 20 are of a file that is not valid


def variant(number):
    """A valid routing text that no other number has."""
    return ROUTING.replace("default: 0.03", f"default: 0.0{number + 100}")


def hashes(daemon):
    return [line["hash"] for line in daemon.lines() if line["event"] == "config.applied"]


def refusals(daemon):
    return [line for line in daemon.lines() if line["event"] == "config.rejected"]


async def test_a_file_replaced_by_a_rename_comes_into_force(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        write_routing(tmp_path, text=variant(1))

        await poll_until(lambda: daemon.life.runtime.rules.hash != before.hash, "the new rules")
        await poll_until(lambda: hashes(daemon), "the line in the log")
        assert hashes(daemon) == [daemon.life.runtime.rules.hash]


async def test_a_file_behind_a_swapped_symlink_comes_into_force(tmp_path):
    """The way in which a ConfigMap changes: `..data` is a link that is swapped, the file a link through it."""
    for number in (1, 2):
        folder = tmp_path / f"..version-{number}"
        folder.mkdir()
        write_routing(folder, text=variant(number))
    (tmp_path / "..data").symlink_to("..version-1")
    (tmp_path / "routing.yaml").symlink_to("..data/routing.yaml")
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        (tmp_path / "..data-new").symlink_to("..version-2")
        (tmp_path / "..data-new").rename(tmp_path / "..data")

        await poll_until(lambda: daemon.life.runtime.rules.hash != before.hash, "the new rules")


@pytest.mark.parametrize(
    "text", ["version: 1\nmodels: {m: {kind: image, targets: [{provider: nobody, model: x}]}}\n", "a: ["]
)
async def test_a_bad_file_changes_nothing_and_says_why(tmp_path, text):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        (tmp_path / "routing.yaml").write_text(text)
        result = await daemon.reload()

        assert daemon.life.runtime.rules is before
        assert (result.hash, result.changed) == (before.hash, False)
        assert result.problems
        assert all("routing.yaml:" in problem for problem in result.problems)
        await poll_until(lambda: refusals(daemon), "the line in the log")
        assert refusals(daemon)[0]["problems"] == list(result.problems)


async def test_a_missing_file_changes_nothing(tmp_path):
    path = write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        path.unlink()
        result = await daemon.reload()

        assert result.problems == (f"{path}: cannot be read: No such file or directory",)
        assert daemon.life.runtime.rules is before


async def test_an_env_file_that_is_no_text_changes_nothing_and_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        (tmp_path / ".env").write_bytes(b"\xff\xfe")
        result = await daemon.reload()

        assert result.problems == (".env: cannot be read",)
        assert daemon.life.runtime.rules is before


async def test_the_same_file_again_does_nothing(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        before = daemon.life.runtime.rules
        result = await daemon.reload()

        assert not result.changed
        assert daemon.life.runtime.rules is before


async def test_an_operator_sees_what_is_in_force_and_checks_a_text_without_applying_it(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
        before = daemon.life.runtime.rules.hash
        async with session.post("/admin/v1/config/check", data=variant(7).format(a="http://a", b="http://b")) as answer:
            assert (answer.status, (await answer.json())["problems"]) == (200, [])
        async with session.post("/admin/v1/config/check", data="version: 9") as answer:
            assert answer.status == 400
            assert (await answer.json())["problems"]
        async with session.get("/admin/v1/config") as answer:
            assert (await answer.json())["hash"] == before


async def test_no_request_fails_while_the_file_is_replaced_two_hundred_times(tmp_path):
    """O2: 180 good files and 20 bad ones under load; every bad one is refused, every request is answered."""
    async with start("openai", options=FAST) as a, running_with(tmp_path, a.base_url) as (daemon, session):
        done, statuses = asyncio.Event(), []

        async def ask():
            while not done.is_set():
                body = {"model": "m", "prompt": "a cat", "response_format": "url"}
                async with session.post("/v1/images/generations", json=body) as answer:
                    statuses.append(answer.status)
                    await answer.read()

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        applied = refused = 0
        for number in range(RELOADS):
            bad = number % BAD_EVERY == 0
            text = "version: 1\nmodels: nothing\n" if bad else variant(number)
            write_routing(tmp_path, a.base_url, a.base_url, text)
            result = await daemon.reload()
            # The watcher may have been first: then the hash is the new one and nothing changed any more.
            applied += not result.problems
            refused += bool(result.problems)
        await poll_until(lambda: len(statuses) >= 20, "requests that were answered meanwhile")
        done.set()
        await asyncio.gather(*asking)

        assert (applied, refused) == (RELOADS - RELOADS // BAD_EVERY, RELOADS // BAD_EVERY)
        assert set(statuses) == {200}


class running_with:  # noqa: N801 - read as a verb: `async with running_with(...)`
    """A daemon whose two providers are one simulator, and a client with the admin key."""

    def __init__(self, folder, base_url):
        write_routing(folder, base_url, base_url)
        self._daemon = running_daemon(folder)

    async def __aenter__(self):
        daemon = await self._daemon.__aenter__()
        self._session = aiohttp.ClientSession(daemon.url, headers=ADMIN)
        return daemon, self._session

    async def __aexit__(self, *failure):
        await self._session.close()
        await self._daemon.__aexit__(*failure)
