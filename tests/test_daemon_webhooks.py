"""Webhooks of a whole daemon: told of an ending, with a link that brings the picture; tested and sent again by hand."""

import aiohttp

from providers.simulated import Options, start
from tests.daemons import ADMIN_KEY, ROUTING, running_daemon, write_routing
from tests.receiver import always, receiving, then
from tests.waiting import poll_until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
TASK = {"kind": "image.generation", "model": "m", "input": {"prompt": "a cat on a fence"}}
PNG = b"\x89PNG\r\n\x1a\n"


async def test_a_webhook_of_a_daemon_is_signed_and_its_link_brings_the_picture(tmp_path):
    async with start("openai", options=Options(latency_s=0.0)) as a, receiving(then(503, 200)) as receiver:
        write_routing(tmp_path, a.base_url)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            async with session.get("/v1/webhook_secret") as answer:
                secret = (await answer.json())["secret"]
            task = {**TASK, "callback_url": f"{receiver.url}/hook?token=in-the-path"}
            async with session.post("/v1/tasks", json=task, headers={"Prefer": "wait=30"}) as answer:
                task_id = (await answer.json())["id"]
            await poll_until(lambda: len(receiver.deliveries) == 2, "the second try")
            bodies = [one.verified(secret) for one in receiver.deliveries]
            async with aiohttp.ClientSession() as stranger, stranger.get(bodies[1]["data"]["output_url"]) as file:
                picture = await file.read()
            await poll_until(
                lambda: [line for line in daemon.lines() if line["event"] == "webhook.delivered"], "the line of it"
            )
            async with session.get("/metrics") as answer:
                page = await answer.text()
            lines = daemon.lines()

    assert picture.startswith(PNG)
    assert [(one["type"], one["data"]["id"], one["data"]["status"]) for one in bodies] == [
        ("task.succeeded", task_id, "succeeded")
    ] * 2
    assert len({one.id for one in receiver.deliveries}) == 1
    assert 'pointsman_webhook_deliveries_total{result="delivered"} 1.0' in page
    assert 'pointsman_webhook_deliveries_total{result="failed"} 1.0' in page
    assert not any("in-the-path" in str(line) or secret in str(line) for line in lines)


async def test_what_a_stopped_daemon_still_owed_is_sent_by_the_next(tmp_path):
    async with start("openai", options=Options(latency_s=0.0)) as a:
        write_routing(tmp_path, a.base_url)
        async with receiving(always(500)) as receiver:
            port = receiver.port
            async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
                task = {**TASK, "callback_url": receiver.url}
                async with session.post("/v1/tasks", json=task) as answer:
                    task_id = (await answer.json())["id"]
                await poll_until(lambda: receiver.deliveries, "the first try")
        async with receiving(always(204), port) as receiver, running_daemon(tmp_path) as daemon:
            await poll_until(lambda: receiver.deliveries, "the try of the next daemon")
            assert receiver.deliveries[0].body["data"]["id"] == task_id


async def test_an_operator_tests_an_endpoint_and_sends_again(tmp_path):
    async with start("openai", options=Options(latency_s=0.0)) as a, receiving(then(410, 204)) as receiver:
        write_routing(tmp_path, a.base_url)
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:

            async def rows(status):
                async with session.get("/admin/v1/webhooks", params={"status": status}) as answer:
                    return (await answer.json())["data"]

            async with session.post("/v1/tasks", json={**TASK, "callback_url": receiver.url}) as answer:
                assert answer.status == 202
            (dropped,) = await poll_until(lambda: rows("dropped"), "the webhook to be dropped")
            async with session.post(f"/admin/v1/webhooks/{dropped['id']}/redeliver") as answer:
                assert answer.status == 202
            (delivered,) = await poll_until(lambda: rows("delivered"), "the webhook to be delivered")
            body = {"tenant": "default", "url": receiver.url}
            receiver.answer = always(204)
            async with session.post("/admin/v1/webhooks/test", json=body) as answer:
                said = await answer.json()

    assert [one["http_status"] for one in delivered["log"]] == [410, 204]
    assert (said["result"], said["http_status"]) == ("delivered", 204)
    assert receiver.deliveries[-1].body["type"] == "webhook.test"


async def test_secrets_of_the_configuration_sign_and_a_reload_replaces_them(tmp_path):
    old, new = ("whsec_" + word * 8 for word in ("b2xk", "bmV3"))
    tenants = "tenants: {{{{default: {{{{webhook_secrets: [{}]}}}}}}}}\n"
    async with start("openai", options=Options(latency_s=0.0)) as a, receiving(always(204)) as receiver:
        write_routing(tmp_path, a.base_url, text=ROUTING + tenants.format(old))
        async with running_daemon(tmp_path) as daemon, aiohttp.ClientSession(daemon.url, headers=ADMIN) as session:
            for live, believed in ((old, {old}), (f"{old}, {new}", {old, new}), (new, {new})):
                write_routing(tmp_path, a.base_url, text=ROUTING + tenants.format(live))
                await daemon.reload()
                count = len(receiver.deliveries)
                async with session.post("/v1/tasks", json={**TASK, "callback_url": receiver.url}) as answer:
                    assert answer.status == 202
                await poll_until(lambda before=count: len(receiver.deliveries) > before, "the webhook")
                assert {secret for secret in (old, new) if receiver.deliveries[-1].is_believed(secret)} == believed
            assert not any(old in str(line) or new in str(line) for line in daemon.lines())
