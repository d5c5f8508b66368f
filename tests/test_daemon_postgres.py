"""The daemon on PostgreSQL on a bad day: it says in one line why it does not start, and while the server is dead or
silent it takes nothing, loses nothing and pays nothing twice.
"""

import asyncio
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from providers import simulated
from providers.simulated.bfl import BflOptions
from providers.simulated.bill import What
from router.store import postgres
from tests.daemons import ADMIN_KEY, run_command, running_daemon, served, write_routing
from tests.loopback import find_closed_port
from tests.postgres import PASSWORD, running_server, shared_server
from tests.toxic import Mode, toxic_way
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
PICTURE = {"model": "direct", "prompt": "a cat on a fence", "size": "512x512"}
ROUTING = """\
version: 1
defaults: {{sync_wait: 30s}}
providers:
  polled: {{adapter: bfl, base_url: "{a}", api_key: "simulated-polled", max_concurrency: 4}}
  direct: {{adapter: openai, base_url: "{b}", api_key: "sk-simulated-direct", max_concurrency: 4}}
models:
  polled: {{kind: image, targets: [{{provider: polled, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}]}}
  direct: {{kind: image, targets: [{{provider: direct, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}]}}
budgets:
  - {{scope: all, window: total, limit: 100.00}}
"""


@pytest.fixture(scope="module")
def server():
    """A server that the tests of this file may kill."""
    with running_server() as made:
        yield made


# -- starting ---------------------------------------------------------------------------------------------------------


def refusals(server):
    """Addresses that keep the daemon from starting, and what the line must say."""
    url = server.create()
    name = url.rpartition("/")[2]
    server.administer("drop role if exists poor; create role poor login password 'secretword'")
    return {
        "nobody listens": (server.url(name, port=find_closed_port()), "connection refused"),
        "wrong password": (server.url(name, password="secretword"), "password authentication failed"),
        "no such database": (server.url("nowhere"), "does not exist"),
        "no rights": (server.url(name, user="poor", password="secretword"), "permission denied for schema"),
        "not an address": ("postgresql://u:secret/word@h/x", "the address of the database cannot be read"),
    }


@pytest.mark.parametrize(
    "case", ["nobody listens", "wrong password", "no such database", "no rights", "not an address"]
)
async def test_a_database_that_cannot_be_used_is_one_line_and_an_exit_code(tmp_path, case):
    write_routing(tmp_path)
    address, expected = refusals(shared_server())[case]

    code, out, complaint = await run_command(tmp_path, "serve", database_url=address)

    assert (code, out) == (1, "")
    assert complaint.startswith("pointsman: ")
    assert complaint.count("\n") == 1
    assert expected in complaint
    assert not any(secret in complaint for secret in (PASSWORD, "secretword", "secret", "Traceback"))


async def test_a_database_of_a_newer_version_and_a_silent_one_are_one_line(tmp_path, server):
    write_routing(tmp_path)
    url = server.create()
    await (await postgres.open_store(url)).close()
    server.administer("insert into migration values (99, 'later', 'x')", url.rpartition("/")[2])

    code, _out, complaint = await run_command(tmp_path, "serve", database_url=url)
    assert (code, complaint.count("\n")) == (1, 1)
    assert "its schema is number 99" in complaint

    async with toxic_way(server.port) as way:
        way.turn(Mode.SWALLOW)
        code, _out, complaint = await run_command(tmp_path, "serve", database_url=way.url(url))
    assert (code, complaint.count("\n")) == (1, 1)
    assert complaint.endswith("no answer within 3 s\n")


async def test_a_daemon_whose_server_is_away_stops_when_it_is_told(tmp_path, server):
    write_routing(tmp_path)
    async with (
        toxic_way(server.port) as way,
        served(tmp_path, database_url=way.url(server.create()), replica_id="here") as daemon,
    ):
        way.turn(Mode.SWALLOW)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == (0, "")


# -- an outage --------------------------------------------------------------------------------------------------------


@dataclass
class Outage:
    """A daemon behind a way that can go bad, two simulators, and what clients were told: the id of each prompt."""

    daemon: object
    way: object
    client: aiohttp.ClientSession
    polled: simulated.Running
    direct: simulated.Running
    told: dict = field(default_factory=dict)

    async def submit(self, model, number):
        """Submit a task; returns the status and notes what was acknowledged."""
        prompt = f"{model} {number}"
        body = {"kind": "image.generation", "model": model, "input": {"prompt": prompt, "size": "512x512"}}
        async with self.client.post("/v1/tasks", json=body) as reply:
            answer = await reply.json()
            if reply.status == 202:
                self.told[prompt] = answer["id"]
            return reply.status

    async def fetch(self, method, path, **said):
        """Call; returns status, headers and body."""
        async with self.client.request(method, path, **said) as reply:
            return reply.status, reply.headers, await reply.json()

    async def status_of(self, path):
        async with self.client.get(path) as reply:
            return reply.status

    async def read(self, task_id):
        status, _headers, body = await self.fetch("GET", f"/v1/tasks/{task_id}?view=native")
        return body if status == 200 else None

    async def all_succeeded(self):
        tasks = [await self.read(task_id) for task_id in self.told.values()]
        assert not any(task and task["status"] in {"failed", "cancelled", "expired"} for task in tasks), tasks
        return all(task and task["status"] == "succeeded" for task in tasks)

    def paid(self):
        """How often each prompt was billed, by both simulators' own books."""
        bills = [running.bill.jobs_by_prompt() for running in (self.polled, self.direct)]
        return {
            prompt: sum(entry.amount_usd > 0 for entry in entries) for bill in bills for prompt, entries in bill.items()
        }


@asynccontextmanager
async def staged(folder, server, each=12, text=ROUTING):
    """So many tasks of each kind; four of each kind at most are out at a time."""
    async with (
        simulated.start("bfl", options=BflOptions(latency_s=0.5, active_max=1_000)) as polled,
        simulated.start("openai", options=simulated.Options(latency_s=0.5)) as direct,
        toxic_way(server.port) as way,
    ):
        write_routing(folder, polled.base_url, direct.base_url, text=text)
        url = way.url(server.create())
        async with (
            running_daemon(folder, database_url=url, replica_id="here") as daemon,
            aiohttp.ClientSession(daemon.url, headers=ADMIN) as client,
        ):
            outage = Outage(daemon, way, client, polled, direct)
            for number in range(each):
                for model in ("polled", "direct"):
                    assert await outage.submit(model, number) == 202
            await poll_until(lambda: min(polled.bill.submitted, direct.bill.submitted) >= min(each, 1), "calls")
            yield outage


async def assert_closed(outage):
    """Everything that needs the store is refused in its surface's form, and the daemon says that it is not ready."""
    task_id = next(iter(outage.told.values()))
    task = {"kind": "image.generation", "model": "direct", "input": {"prompt": "refused", "size": "512x512"}}
    calls = [
        outage.fetch("POST", "/v1/tasks", json=task),
        outage.fetch("POST", "/v1/images/generations", json={**PICTURE, "prompt": "refused"}),
        outage.fetch("GET", f"/v1/tasks/{task_id}"),
        outage.fetch("GET", "/v1/tasks"),
        outage.fetch("POST", f"/v1/tasks/{task_id}/cancel"),
    ]
    pages = [outage.fetch("GET", "/readyz"), outage.status_of("/healthz"), outage.status_of("/metrics")]
    *refused, (ready, _headers, page), health, metrics = await asyncio.gather(*calls, *pages)
    for status, headers, body in refused:
        assert status == 503, body
        assert int(headers["Retry-After"]) > 0
        assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "unavailable")
        assert body["error"]["retryable"] is True
    assert (ready, page["status"]) == (503, "not_ready")
    assert page["checks"]["store"].startswith("no answer: the database cannot serve: ")
    assert {state for name, state in page["checks"].items() if name != "store"} == {"ok"}
    assert (health, metrics) == (200, 200)


def is_idle(outage):
    """Whether the providers are done with everything that they were asked, so that results are being held."""
    jobs = [entry for running in (outage.polled, outage.direct) for entry in running.bill.entries]
    return bool(jobs) and all(entry.what is not What.ACCEPTED for entry in jobs)


async def is_ready(outage):
    return await outage.status_of("/readyz") == 200


async def assert_nothing_lost(outage):
    """Everything that was acknowledged succeeds, was paid once, and nothing else was paid."""
    await poll_until(outage.all_succeeded, "every acknowledged task to succeed")
    assert outage.paid() == dict.fromkeys(outage.told, 1)
    assert not [line for line in outage.daemon.lines() if line["event"] in {"bug", "life.replaced"}]
    assert not [line for line in outage.daemon.lines() if "Traceback" in str(line)]


async def test_a_server_that_dies_twice_costs_nothing_but_time(tmp_path, server):
    async with staged(tmp_path, server) as outage:
        for number in range(2):
            server.crash()
            await assert_closed(outage)
            await poll_until(lambda: is_idle(outage), "the calls that are out to come home")
            await assert_closed(outage)

            await asyncio.get_running_loop().run_in_executor(None, server.start)
            await poll_until(lambda: is_ready(outage), "the daemon to be ready again")
            assert await outage.submit("polled", f"after {number}") == 202
        await assert_nothing_lost(outage)


async def test_a_server_that_is_silent_for_longer_than_a_lease_costs_nothing_but_time(tmp_path, server):
    async with staged(tmp_path, server) as outage:
        outage.way.turn(Mode.SWALLOW)
        await assert_closed(outage)
        await poll_until(lambda: is_idle(outage), "the calls that are out to come home")
        runtime = outage.daemon.life.runtime
        await poll_until(lambda: runtime.fleet.monotonic() > runtime.leased_until_s, "the lease to lapse")
        await assert_closed(outage)

        outage.way.turn(Mode.PASS)
        await poll_until(lambda: is_ready(outage), "the daemon to be ready again")
        assert await outage.submit("polled", "after") == 202
        await assert_nothing_lost(outage)


async def test_a_caller_who_waits_gets_its_picture_after_the_outage(tmp_path, server):
    async with staged(tmp_path, server, each=0) as outage:
        calling = asyncio.create_task(outage.fetch("POST", "/v1/images/generations", json=PICTURE))
        await poll_until(lambda: outage.direct.bill.submitted, "the call to be out")
        server.crash()
        await poll_until(lambda: is_idle(outage), "the call to come home")
        await asyncio.get_running_loop().run_in_executor(None, server.start)

        status, _headers, body = await calling
        assert (status, len(body["data"])) == (200, 1)
        assert outage.paid() == {PICTURE["prompt"]: 1}


async def test_a_caller_whose_time_is_up_during_an_outage_is_told_that_it_was_accepted(tmp_path, server):
    async with staged(tmp_path, server, each=0, text=ROUTING.replace("30s", "2s")) as outage:
        calling = asyncio.create_task(outage.fetch("POST", "/v1/images/generations", json=PICTURE))
        task = {"kind": "image.generation", "model": "polled", "input": {"prompt": "waited for", "size": "512x512"}}
        native = outage.fetch("POST", "/v1/tasks", json=task, headers={"Prefer": "wait=2"})
        waiting = asyncio.create_task(native)
        await poll_until(lambda: min(outage.direct.bill.submitted, outage.polled.bill.submitted), "calls to be out")
        server.crash()

        status, headers, body = await calling
        assert (status, body["error"]["code"], body["error"]["billing"]) == (503, "unavailable", "unknown")
        assert "was accepted and goes on" in body["error"]["message"]
        assert (headers["x-should-retry"], int(headers["Retry-After"])) == ("true", 2)
        waited, _headers, accepted = await waiting
        assert waited == 202
        await asyncio.get_running_loop().run_in_executor(None, server.start)

        async def collect():
            return (await outage.fetch("POST", "/v1/images/generations", json=PICTURE))[:2]

        status, collected = await collect()
        while status != 200:  # it repeats as it is told to
            status, collected = await collect()
        assert collected["X-Task-Id"] == headers["X-Task-Id"]
        outage.told["waited for"], outage.told[PICTURE["prompt"]] = accepted["id"], headers["X-Task-Id"]
        await assert_nothing_lost(outage)


async def test_a_slow_way_to_the_server_slows_the_daemon_and_costs_no_lease(tmp_path, server):
    async with staged(tmp_path, server, each=1) as outage:
        # Many times a network's own. At 0.1 the thirty round trips of a turn take the six seconds a lease allows.
        outage.way.latency_s = 0.04

        for model in ("polled", "direct"):
            assert await outage.submit(model, "slow") == 202
        await assert_nothing_lost(outage)
        runtime = outage.daemon.life.runtime
        assert runtime.fleet.monotonic() < runtime.leased_until_s
