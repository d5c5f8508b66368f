"""What becomes of jobs that are out when a reload takes their provider or key away: they are paid, so they count."""

import asyncio
import json
import re

import aiohttp

from providers.simulated import Options, start
from tests.daemons import ADMIN_KEY, NOWHERE, running_daemon, write_routing
from tests.loopback import answering, http, serve
from tests.sim.fleet import PNG
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
SLOW = Options(latency_s=3.0)
FLUX = """\
version: 1
providers:
  flux: {{adapter: bfl, base_url: "{a}", api_key: "key-of-provider-flux"}}
  b: {{adapter: openai, base_url: "{b}", api_key: "key-of-provider-b"}}
models:
  m:
    kind: image
    targets:
      - {{provider: flux, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}
      - {{provider: b, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}
"""
WITHOUT = """\
version: 1
providers:
  b: {{adapter: openai, base_url: "{b}", api_key: "key-of-provider-b"}}
models:
  other:
    kind: image
    targets:
      - {{provider: b, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}
"""
ORDER = {"kind": "image.generation", "model": "m", "input": {"prompt": "a cat", "size": "1024x1024"}}


async def order(session, flux):
    """Send one task and wait until its job is accepted upstream and its name is durable."""
    async with session.post("/v1/tasks", json=ORDER) as answer:
        assert answer.status == 202
        task_id = (await answer.json())["id"]
    await poll_until(lambda: flux.bill.submitted, "the job to be out")
    await seen(session, task_id, lambda task: task["attempts"] and task["attempts"][0]["remote_id"])
    return task_id


async def seen(session, task_id, condition):
    """Read the task until the condition holds."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"/v1/tasks/{task_id}", params={"wait": "1"}) as answer:
                task = await answer.json()
            if condition(task):
                return task


def ended(task):
    return task["completed_at"] is not None


async def test_a_job_whose_provider_and_model_a_reload_takes_away_is_heard_to_its_end(tmp_path):
    async with start("bfl", options=SLOW) as flux:
        write_routing(tmp_path, flux.base_url, text=FLUX)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            task_id = await order(session, flux)
            write_routing(tmp_path, text=WITHOUT)
            assert not (await daemon.reload()).problems
            task = await seen(session, task_id, ended)
    assert (task["status"], task["provider"], task["cost"]["billing"]) == ("succeeded", "flux", "billed")
    assert flux.bill.submitted == 1


async def test_a_job_whose_key_a_reload_changes_is_heard_to_its_end(tmp_path):
    async with start("bfl", options=SLOW) as flux:
        write_routing(tmp_path, flux.base_url, text=FLUX)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            task_id = await order(session, flux)
            before = daemon.life.runtime.rules
            write_routing(tmp_path, flux.base_url, text=FLUX.replace("key-of-provider-flux", "another-key-of-flux"))
            await daemon.reload()
            after = daemon.life.runtime.rules
            assert after.providers["flux"].credentials != before.providers["flux"].credentials
            task = await seen(session, task_id, ended)
    assert (task["status"], task["provider"]) == ("succeeded", "flux")
    assert flux.bill.submitted == 1


async def test_a_job_whose_provider_is_gone_at_the_next_start_is_judged_unknown_and_sent_nowhere_else(tmp_path):
    async with start("bfl", options=SLOW) as flux, start("openai", options=Options(latency_s=0.0)) as other:
        write_routing(tmp_path, flux.base_url, other.base_url, text=FLUX)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            task_id = await order(session, flux)
        write_routing(tmp_path, NOWHERE, other.base_url, text=WITHOUT)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            task = await seen(session, task_id, ended)
    assert (task["status"], task["error"]["error_type"]) == ("failed", "outcome_unknown")
    assert (task["cost"]["billing"], task["cost"]["total_usd"]) == ("unknown", None)
    assert (flux.bill.submitted, other.bill.submitted) == (1, 0)


async def test_a_job_whose_old_key_the_upstream_refuses_is_asked_after_with_the_new_one(tmp_path):
    polled_with = []

    async def upstream(request, writer):
        [host] = re.findall(rb"(?i)host: (\S+)", request)
        here = f"http://{host.decode()}"
        [key] = re.findall(rb"(?i)x-key: (\S+)", request) or [b""]
        if request.startswith(b"POST"):
            answer = http(json.dumps({"id": "job-1", "polling_url": f"{here}/poll?id=job-1"}).encode())
        elif request.startswith(b"GET /poll"):
            polled_with.append(key.decode())
            ready = {"id": "job-1", "status": "Ready", "result": {"sample": f"{here}/picture"}}
            is_new = key == b"another-key-of-flux"
            answer = http(json.dumps(ready).encode()) if is_new else http(b"{}", status="403 Forbidden")
        else:
            answer = http(PNG)
        writer.write(answer)
        await writer.drain()

    async with serve(upstream) as flux:
        write_routing(tmp_path, flux.url, text=FLUX)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            async with session.post("/v1/tasks", json=ORDER) as answer:
                task_id = (await answer.json())["id"]
            await poll_until(lambda: len(polled_with) >= 2, "polls with the old key")
            write_routing(tmp_path, flux.url, text=FLUX.replace("key-of-provider-flux", "another-key-of-flux"))
            await daemon.reload()
            task = await seen(session, task_id, ended)
    assert (task["status"], len(task["attempts"])) == ("succeeded", 1)
    assert polled_with[0] == "key-of-provider-flux"
    assert polled_with[-1] == "another-key-of-flux"


async def test_a_secret_in_a_file_that_changes_is_used_by_the_next_call_although_the_text_stays(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("first-key-of-provider-b\n")
    async with serve(answering(http(status="503 Service Unavailable"))) as b:
        write_routing(tmp_path, b=b.url, text=WITHOUT.replace('"key-of-provider-b"', '"file:secret"'))
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            before = daemon.life.runtime.rules.hash
            secret.write_text("second-key-of-provider-b\n")
            async with session.post("/admin/v1/config/reload") as answer:
                assert (answer.status, (await answer.json())["problems"]) == (200, [])
            assert daemon.life.runtime.rules.hash == before
            body = {"model": "other", "prompt": "x", "async": True}
            async with session.post("/v1/images/generations", json=body) as answer:
                assert answer.status == 200
            await poll_until(lambda: b.requests, "the call")
    assert b"Bearer second-key-of-provider-b" in b.requests[0]
