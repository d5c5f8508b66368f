"""The commands that are clients of a daemon: what they print, what they save, and how they leave."""

import asyncio
import json

import pytest

from providers import simulated
from providers.simulated import Fault, FaultKind, Options
from tests.daemons import ADMIN_KEY, run_command, running_daemon, write_routing
from tests.loopback import find_closed_port
from tests.waiting import poll_until

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def shop(tmp_path):
    """A daemon before a simulated provider; what it is asked with stands in the environment of the commands."""
    async with simulated.start("openai", options=Options(latency_s=0.0)) as one:
        write_routing(tmp_path, one.base_url, one.base_url)
        async with running_daemon(tmp_path) as daemon:
            daemon.provider = one
            daemon.ask = lambda *words: run_command(tmp_path, *words, url=daemon.url, api_key=ADMIN_KEY)
            yield daemon


async def test_a_submit_follows_the_task_and_saves_what_it_made(shop, tmp_path):
    code, out, err = await shop.ask("submit", "a cat", "--model", "m", "--size", "1024x1024", "-o", "pictures")

    assert code == 0, err
    (line,) = out.splitlines()
    assert (tmp_path / line).read_bytes().startswith(PNG)
    assert line.startswith("pictures/")
    assert "succeeded, 0.03 USD" in err


async def test_a_submit_prints_json_for_scripts_with_the_files(shop, tmp_path):
    code, out, _err = await shop.ask("submit", "two cats", "--n", "2", "--metadata", "team=press", "--json")
    task = json.loads(out)

    assert (code, task["status"], task["metadata"], task["input"]["n"]) == (0, "succeeded", {"team": "press"}, 2)
    assert [(tmp_path / path).read_bytes()[:8] for path in task["files"]] == [PNG, PNG]


async def test_a_submit_that_does_not_wait_prints_the_id(shop):
    code, out, _err = await shop.ask("submit", "a dog", "--no-wait")

    assert (code, out[:5], len(out.strip())) == (0, "task_", 37)


async def test_the_same_key_twice_is_one_task(shop):
    first = await shop.ask("submit", "a key", "--no-wait", "--idempotency-key", "k1")
    again = await shop.ask("submit", "a key", "--no-wait", "--idempotency-key", "k1")

    assert first[1] == again[1]


async def test_a_submit_that_fails_says_why_and_leaves_with_1(shop):
    shop.provider.dial.set(Fault(kind=FaultKind.MODERATION_BLOCKED))
    code, out, err = await shop.ask("submit", "a cat")

    assert (code, out) == (1, "")
    assert "failed: " in err.splitlines()[-1] or "failed: " in err


async def test_a_wrong_request_names_the_field(shop):
    code, out, err = await shop.ask("submit", "a cat", "--size", "large")

    assert (code, out) == (1, "")
    assert err.startswith("pointsman: ")
    assert "size" in err


async def test_tasks_are_listed_newest_first_as_a_table_or_as_json(shop):
    for prompt in ("one", "two", "three"):
        await shop.ask("submit", prompt, "--no-wait")
    code, out, _err = await shop.ask("tasks", "--json", "--limit", "2")

    assert code == 0
    assert [json.loads(line)["input"]["prompt"] for line in out.splitlines()] == ["three", "two"]
    code, out, _err = await shop.ask("tasks")
    assert [line.split()[0][:5] for line in out.splitlines()] == ["task", "task_", "task_", "task_"]
    code, _out, err = await shop.ask("tasks", "--status", "gone")
    assert (code, "status" in err) == (1, True)


async def test_a_watched_task_is_told_until_its_end(shop, tmp_path):
    _code, out, _err = await shop.ask("submit", "a hill", "--no-wait")
    code, told, _err = await shop.ask("watch", out.strip(), "--json", "--save", "here")

    assert code == 0
    assert json.loads(told.splitlines()[-1])["status"] == "succeeded"
    assert [path.read_bytes()[:8] for path in (tmp_path / "here").iterdir()] == [PNG]


async def test_an_unknown_task_is_one_line_and_code_1(shop):
    code, out, err = await shop.ask("watch", "task_" + "0" * 32)

    assert (code, out) == (1, "")
    assert "There is no such task" in err


async def test_a_cancel_tells_the_state_and_leaves_with_1_for_one_that_had_ended(shop):
    shop.provider.dial.set(Fault(kind=FaultKind.HANG))
    _code, out, _err = await shop.ask("submit", "a wait", "--no-wait")
    waiting = out.strip()
    code, out, _err = await shop.ask("cancel", waiting)
    assert (code, out) == (0, f"{waiting} cancelled\n")

    shop.provider.dial.clear()
    _code, out, _err = await shop.ask("submit", "done", "--json")
    done = json.loads(out)["id"]
    code, out, err = await shop.ask("cancel", done, waiting)
    assert (code, out) == (1, f"{waiting} cancelled\n")
    assert "already ended" in err


async def test_a_daemon_that_is_not_there_is_code_3(tmp_path):
    url = f"http://127.0.0.1:{find_closed_port()}"
    for words in (("tasks",), ("submit", "a cat"), ("cancel", "task_1")):
        code, out, err = await run_command(tmp_path, *words, url=url, api_key="k")
        assert (code, out) == (3, "")
        assert err.startswith(f"pointsman: cannot reach the daemon at {url}")


async def test_a_watch_goes_on_over_a_restart_of_the_daemon(tmp_path):
    async with simulated.start("openai", options=Options(latency_s=0.0)) as one:
        write_routing(tmp_path, one.base_url, one.base_url)
        one.dial.set(Fault(kind=FaultKind.THROTTLED))
        async with running_daemon(tmp_path) as daemon:
            port = int(daemon.url.rpartition(":")[2])
            ask = ("submit", "a bridge", "--no-wait")
            _code, out, _err = await run_command(tmp_path, *ask, url=daemon.url, api_key=ADMIN_KEY)
            watching = asyncio.create_task(
                run_command(tmp_path, "watch", out.strip(), "--json", url=daemon.url, api_key=ADMIN_KEY)
            )
            requests = daemon.life.waiters
            await poll_until(lambda: requests.count(out.strip()), "the watch to have begun")
        one.dial.clear()
        async with running_daemon(tmp_path, port=port):
            code, told, err = await watching
        assert code == 0, err
        assert json.loads(told.splitlines()[-1])["status"] == "succeeded"
