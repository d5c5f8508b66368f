"""The daemon as a process and in this one: it starts, serves, drains, and says in one line why it does not start."""

import asyncio
import json
import signal
import socket
import sqlite3
import stat

import aiohttp
import pytest

from providers.simulated import Fault, FaultKind, Options, start
from router.daemon import StartFailed
from tests.daemons import ADMIN_KEY, run_command, running_daemon, served, write_routing
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
FAST = Options(latency_s=0.0)
SLOW = Options(latency_s=1.0)
BODY = {"model": "m", "prompt": "a cat on a fence"}
PNG = b"\x89PNG\r\n\x1a\n"


def client(url, headers=ADMIN):
    return aiohttp.ClientSession(url, headers=headers)


async def test_a_request_becomes_a_stored_picture_that_its_link_gives_back(tmp_path):
    async with start("openai", options=FAST) as a:
        write_routing(tmp_path, a.base_url)
        async with served(tmp_path) as daemon, client(daemon.url) as session:
            async with session.post("/v1/images/generations", json={**BODY, "response_format": "url"}) as answer:
                assert answer.status == 200
                link = (await answer.json())["data"][0]["url"]
                task_id = answer.headers["X-Task-Id"]
            async with aiohttp.ClientSession() as stranger, stranger.get(link) as file:
                picture = await file.read()
            assert picture.startswith(PNG)
            stored = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if task_id in path.name]
            assert stored == [picture]
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == (0, "")


async def test_a_failing_provider_is_passed_over_and_metrics_and_log_say_so(tmp_path):
    broken = Options(latency_s=0.0, faults=(Fault(kind=FaultKind.OVERLOADED),))
    async with start("openai", options=broken) as a, start("openai", options=FAST) as b:
        write_routing(tmp_path, a.base_url, b.base_url)
        async with running_daemon(tmp_path) as daemon, client(daemon.url) as session:
            async with session.post("/v1/images/generations", json=BODY) as answer:
                assert answer.status == 200
                task_id = answer.headers["X-Task-Id"]
            async with session.get("/metrics") as answer:
                page = await answer.text()
            await poll_until(
                lambda: [line for line in daemon.lines() if line["event"] == "task.succeeded"], "the line of the end"
            )
            lines = [line for line in daemon.lines() if line.get("task") == task_id]
    assert 'pointsman_failovers_total{from="a",model="m",reason="overloaded",to="b"} 1.0' in page
    assert 'pointsman_tasks_finished_total{model="m",status="succeeded"} 1.0' in page
    assert 'pointsman_http_requests_total{code="200",method="POST",route="/v1/images/generations"} 1.0' in page
    assert [line["event"] for line in lines if line["event"] == "task.failed_over"]
    assert BODY["prompt"] not in json.dumps(lines)


async def test_no_key_of_a_provider_and_no_key_of_ours_is_in_the_log_or_on_a_page(tmp_path):
    quota = Options(faults=(Fault(kind=FaultKind.INVALID_KEY),), latency_s=0.0)
    async with start("openai", options=quota) as a:
        write_routing(tmp_path, a.base_url, a.base_url)
        async with running_daemon(tmp_path, log_level="debug") as daemon, client(daemon.url) as session:
            pages = []
            for method, path in (("POST", "/v1/images/generations"), ("GET", "/metrics"), ("GET", "/admin/v1/config")):
                async with session.request(method, path, json=BODY if method == "POST" else None) as answer:
                    pages.append(await answer.text())
            await poll_until(lambda: len(daemon.lines()) > 5, "some lines")
            said = json.dumps([*daemon.lines(), *pages])
    for secret in ("key-of-provider-a", "key-of-provider-b", ADMIN_KEY):
        assert secret not in said


async def test_the_first_start_makes_an_admin_key_that_only_its_owner_reads_and_the_next_keeps_it(tmp_path):
    write_routing(tmp_path)
    path = tmp_path / "data" / "admin-key"
    keys = []
    for _life in range(2):
        async with running_daemon(tmp_path, admin_key=None) as daemon:
            keys.append(path.read_text().strip())
            key = {"Authorization": f"Bearer {keys[-1]}"}
            async with client(daemon.url, key) as session, session.get("/admin/v1/config") as answer:
                assert answer.status == 200
            async with client(daemon.url, {}) as session, session.get("/admin/v1/config") as answer:
                assert answer.status == 401
    assert keys[0] == keys[1]
    assert len(keys[0]) == len("pm_") + 8 + 1 + 52
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_admin_key_that_the_store_does_not_know_is_told(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, admin_key=None):
        pass
    (tmp_path / "data" / "admin-key").unlink()
    async with running_daemon(tmp_path, admin_key=None) as daemon:
        await poll_until(
            lambda: [line for line in daemon.lines() if line["event"] == "admin_key.unknown"], "the warning"
        )
    assert not (tmp_path / "data" / "admin-key").exists()


async def test_operators_may_have_a_listener_of_their_own(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, admin_port=0) as daemon:
        assert daemon.url != daemon.admin_url
        async with client(daemon.url) as session, session.get("/metrics") as answer:
            assert answer.status == 404
        async with client(daemon.admin_url, {}) as session, session.get("/metrics") as answer:
            assert answer.status == 200
        async with client(daemon.admin_url) as session, session.get("/v1/models") as answer:
            assert answer.status == 404


async def test_it_is_ready_with_every_check_named(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path) as daemon, client(daemon.url) as session, session.get("/readyz") as answer:
        assert answer.status == 200
        assert set((await answer.json())["checks"]) == {"store", "storage", "disk", "drain"}


async def test_sighup_reloads_the_file(tmp_path):
    write_routing(tmp_path)
    async with served(tmp_path) as daemon:
        (tmp_path / "routing.yaml").write_text("version: 1\nmodels: nothing\n")
        daemon.send(signal.SIGHUP)
        await poll_until(lambda: [one for one in daemon.lines if one["event"] == "config.rejected"], "the refusal")


async def test_a_drain_lets_the_call_that_is_out_come_home(tmp_path):
    async with start("openai", options=SLOW) as a:
        write_routing(tmp_path, a.base_url)
        async with served(tmp_path) as daemon, client(daemon.url) as session:
            asking = asyncio.create_task(session.post("/v1/images/generations", json=BODY))
            await poll_until(lambda: a.bill.submitted, "the call to be out")
            daemon.send(signal.SIGTERM)
            async with await asking as answer:
                assert answer.status == 200
            assert await daemon.ended() == (0, "")
    assert a.bill.submitted == 1


async def test_a_second_signal_does_not_wait_and_logs_what_it_cut(tmp_path):
    async with start("openai", options=Options(faults=(Fault(kind=FaultKind.HANG),), latency_s=0.0)) as a:
        write_routing(tmp_path, a.base_url)
        async with served(tmp_path) as daemon, client(daemon.url) as session:
            async with session.post("/v1/tasks", json={"kind": "image.generation", "input": BODY}) as answer:
                assert answer.status in {202, 400}
            asking = asyncio.create_task(session.post("/v1/images/generations", json=BODY))
            await poll_until(lambda: a.bill.submitted, "the call to be out")
            daemon.send(signal.SIGTERM)
            await poll_until(lambda: [one for one in daemon.lines if one["event"] == "drain.started"], "the drain")
            daemon.send(signal.SIGTERM)
            code, complaint = await daemon.ended()
            await asyncio.gather(asking, return_exceptions=True)
            cut = [one for one in daemon.lines if one["event"] == "call.cut"]
    assert (code, complaint) == (0, "")
    assert {one["estimate_usd"] for one in cut} == {"0.03"}


async def test_a_second_daemon_on_the_same_database_is_refused_in_one_line(tmp_path):
    write_routing(tmp_path)
    async with served(tmp_path):
        code, out, complaint = await run_command(tmp_path, "serve")
    assert_one_line(code, complaint)
    assert out == ""


async def test_a_daemon_that_another_has_replaced_stops_and_says_so_in_one_line(tmp_path):
    write_routing(tmp_path)
    async with served(tmp_path, replica_id="here") as daemon:
        with sqlite3.connect(tmp_path / "data" / "pointsman.db") as other:
            other.execute("update life set epoch = epoch + 1")
        other.close()
        code, complaint = await daemon.ended()
    assert_one_line(code, complaint)
    assert complaint == "pointsman: another daemon has taken over as replica 'here'; this one has stopped\n"
    assert [line["replica"] for line in daemon.lines if line["event"] == "life.replaced"] == ["here"]


async def test_a_port_in_use_is_refused_in_one_line(tmp_path):
    write_routing(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _out, complaint = await run_command(tmp_path, "serve", port=port)
    assert_one_line(code, complaint)
    assert complaint == f"pointsman: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"database_url": "postgresql://user:secretword@127.0.0.1:9/db"},
            "postgresql://127.0.0.1:9/db: cannot be used",
        ),
        ({"database_url": "sqlite:////proc/nowhere/x.db"}, "/proc/nowhere"),
        ({"data_dir": "/proc/nowhere"}, "/proc/nowhere"),
        ({"data_dir": "routing.yaml"}, "routing.yaml"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"port": "x"}, "POINTSMAN_PORT"),
        ({"auth": "disabled", "host": "0.0.0.0"}, "POINTSMAN_AUTH=disabled"),  # noqa: S104
        ({"fetch_allow": "10.0.0.0/99"}, "POINTSMAN_FETCH_ALLOW"),
        ({"storage_url": "s3://bucket"}, "POINTSMAN_STORAGE_URL"),
    ],
)
async def test_what_cannot_be_used_is_said_in_one_line_without_a_traceback(tmp_path, said, expected):
    write_routing(tmp_path)
    code, _out, complaint = await run_command(tmp_path, "serve", **said)

    assert_first_line(code, complaint)
    assert expected in complaint
    assert "secretword" not in complaint


async def test_a_database_that_is_no_database_is_said_in_one_line(tmp_path):
    write_routing(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pointsman.db").write_bytes(b"this is not a database" * 100)
    code, _out, complaint = await run_command(tmp_path, "serve")

    assert_one_line(code, complaint)


async def test_a_broken_configuration_is_listed_problem_by_problem(tmp_path):
    write_routing(tmp_path, text="version: 1\nprovidres: {{}}\nmodels: {{m: {{kind: picture}}}}\n")
    for command in ("serve", "check"):
        code, _out, complaint = await run_command(tmp_path, command)
        assert_first_line(code, complaint)
        assert len([line for line in complaint.splitlines() if line.startswith("routing.yaml:")]) >= 2


async def test_a_start_that_fails_leaves_nothing_open(tmp_path):
    write_routing(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartFailed):
        async with running_daemon(tmp_path, admin_port=taken.getsockname()[1]):
            pass
    async with running_daemon(tmp_path) as daemon:
        assert daemon.url


def assert_one_line(code, complaint):
    assert_first_line(code, complaint)
    assert complaint.count("\n") == 1, complaint


def assert_first_line(code, complaint):
    assert code == 1, complaint
    assert complaint.startswith("pointsman: ")
    assert "Traceback" not in complaint
