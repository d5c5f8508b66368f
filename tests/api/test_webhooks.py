"""What callers and operators see of webhooks: the body, a tenant's secret, the log, sending again, a test."""

from dataclasses import replace

import pytest

from router.api import webhooks
from router.outbox import Repeat, Room, Try, TryResult, WebhookSearch, derive_secret, key_of
from router.policy.rules import Tenant
from tests.api.house import ADMIN_KEY, open_house, ruleset

URL = "https://hook.example/tasks"
BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat"}, "callback_url": URL}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
SECRET = "whsec_" + "b2xk" * 8
REJECTED = Try(1_795_176_000_000, TryResult.REJECTED, 500, "HTTP 500", 12)


async def ended(house, **change):
    """Submit a task that asks for a webhook and wait for its end; returns it as its caller sees it, and the row."""
    reply = await house.client.post("/v1/tasks", json={**BODY, **change}, headers={"Prefer": "wait=30"})
    task = await reply.json()
    assert task["status"] == "succeeded", task
    (row,) = await house.services.world.store.webhooks(WebhookSearch(task_id=task["id"]))
    return task, row


async def composed(house, row):
    view = await house.services.world.store.view(row.tenant, row.task_id)
    return webhooks.compose(house.services, row, view)


# -- the body ---------------------------------------------------------------------------------------------------------


async def test_a_webhook_says_what_the_task_says_when_it_is_read():
    async with open_house() as house:
        task, row = await ended(house)
        body = await composed(house, row)

        assert set(body) == {"type", "timestamp", "data"}
        assert (body["type"], body["timestamp"]) == ("task.succeeded", task["completed_at"])
        assert {**body["data"], "output": [], "output_url": ""} == {**task, "output": [], "output_url": ""}


async def test_its_links_begin_where_the_caller_came_in_and_can_be_read():
    async with open_house() as house:
        _task, row = await ended(house)
        url = (await composed(house, row))["data"]["output_url"]

        assert url.startswith(str(house.client.make_url("/v1/files/")))
        assert (await house.client.get(url.removeprefix(str(house.client.make_url("")).rstrip("/")))).status == 200


async def test_its_links_begin_with_the_public_url_where_there_is_one():
    async with open_house() as house:
        _task, row = await ended(house)
        services = replace(house.services, public_url="https://images.example")
        view = await services.world.store.view(row.tenant, row.task_id)

        body = webhooks.compose(services, row, view)
        assert body["data"]["output_url"].startswith("https://images.example/v1/files/")


@pytest.mark.parametrize(("chars", "is_told"), [(8_000, True), (8_300, False)])
async def test_an_input_of_more_than_8_kb_is_null(chars, is_told):
    async with open_house() as house:
        _task, row = await ended(house, input={"prompt": "x" * chars})
        data = (await composed(house, row))["data"]

        assert (data["input"] is not None) is is_told
        assert data["status"] == "succeeded"


# -- the secret -------------------------------------------------------------------------------------------------------


async def test_a_tenant_without_a_secret_is_shown_the_one_that_signs():
    async with open_house(auth=True) as house:
        reply = await house.client.get("/v1/webhook_secret", headers=ADMIN)
        body = await reply.json()

        assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
        assert body == {
            "object": "webhook_secret",
            "tenant": "default",
            "source": "derived",
            "secret": derive_secret(house.services.signing_secret, "default"),
        }
        assert list(webhooks.keys_of(house.services, "default")) == [key_of(body["secret"])]


async def test_a_configured_secret_signs_and_is_shown_to_nobody():
    tenant = Tenant("default", webhook_secrets=(SECRET,))
    async with open_house(rules=replace(ruleset(), tenants={"default": tenant})) as house:
        body = await (await house.client.get("/v1/webhook_secret")).json()

        assert (body["source"], body["secret"]) == ("configured", None)
        assert list(webhooks.keys_of(house.services, "default")) == [key_of(SECRET)]
        assert list(webhooks.keys_of(house.services, "other")) != [key_of(SECRET)]


async def test_the_secret_is_for_those_who_have_a_key():
    async with open_house(auth=True) as house:
        assert (await house.client.get("/v1/webhook_secret")).status == 401


# -- operators --------------------------------------------------------------------------------------------------------


async def test_the_log_shows_each_webhook_with_its_tries_newest_first():
    async with open_house() as house:
        store = house.services.world.store
        first, row = await ended(house)
        (taken,) = await store.claim_webhooks(1, Room(1, 1), 1000, house.services.now())
        await store.close_try(taken, REJECTED, Repeat(5_000), house.services.now())
        second, _row = await ended(house)

        page = await (await house.client.get("/admin/v1/webhooks")).json()

        assert [one["task_id"] for one in page["data"]] == [second["id"], first["id"]]
        assert (page["has_more"], page["next_cursor"]) == (False, None)
        shown = page["data"][1]
        assert shown.pop("next_try_at") is not None
        assert shown == {
            "id": row.id,
            "object": "webhook",
            "tenant": "default",
            "task_id": first["id"],
            "type": "task.succeeded",
            "url": URL,
            "status": "waiting",
            "tries": 1,
            "created_at": first["completed_at"],
            "ended_at": None,
            "log": [
                {
                    "at": "2026-11-20T12:00:00.000Z",
                    "result": "rejected",
                    "http_status": 500,
                    "detail": "HTTP 500",
                    "took_ms": 12,
                }
            ],
        }


async def test_the_log_is_read_in_pages_and_by_filters():
    async with open_house() as house:
        ids = [(await ended(house))[0]["id"] for _ in range(3)]
        first = await (await house.client.get("/admin/v1/webhooks?limit=2")).json()
        rest = await (await house.client.get(f"/admin/v1/webhooks?limit=2&cursor={first['next_cursor']}")).json()
        one = await (await house.client.get(f"/admin/v1/webhooks?task_id={ids[0]}&status=waiting")).json()
        none = await (await house.client.get("/admin/v1/webhooks?tenant=other")).json()

        assert [row["task_id"] for row in (*first["data"], *rest["data"])] == ids[::-1]
        assert (first["has_more"], rest["has_more"], none["data"]) == (True, False, [])
        assert [row["task_id"] for row in one["data"]] == [ids[0]]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=sent", "status"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=²", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_bad_filter_is_a_400_that_names_it(query, param):
    async with open_house() as house:
        reply = await house.client.get(f"/admin/v1/webhooks?{query}")

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


async def test_a_cursor_of_a_tenants_listing_is_not_one_of_the_log():
    async with open_house() as house:
        await ended(house)
        await ended(house)
        cursor = (await (await house.client.get("/v1/tasks?limit=1")).json())["next_cursor"]

        assert (await house.client.get(f"/admin/v1/webhooks?cursor={cursor}")).status == 400


async def test_a_webhook_is_sent_again_by_hand():
    async with open_house() as house:
        store = house.services.world.store
        _task, row = await ended(house)
        await store.close_try(row, Try(0, TryResult.GONE, 410), None, 0)

        reply = await house.client.post(f"/admin/v1/webhooks/{row.id}/redeliver")

        assert (reply.status, (await reply.json())["status"]) == (202, "waiting")
        assert [one.id for one in await store.claim_webhooks(1, Room(1, 1), 1000, 0)] == [row.id]
        assert (await house.client.post("/admin/v1/webhooks/msg_0_0/redeliver")).status == 404


async def test_a_test_says_what_came_of_it():
    async with open_house() as house:
        good = await house.client.post("/admin/v1/webhooks/test", json={"tenant": "acme", "url": URL})
        bad = await house.client.post("/admin/v1/webhooks/test", json={"url": f"{URL}/500"})

        assert await good.json() == {
            "object": "webhook_test",
            "tenant": "acme",
            "result": "delivered",
            "http_status": 204,
            "detail": "",
            "took_ms": 0,
        }
        assert ((await bad.json())["tenant"], (await bad.json())["http_status"]) == ("default", 500)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "http://hook.example/"}, "url"),
        ({"url": URL, "tenant": 5}, "tenant"),
        ({"url": URL, "tenant": ""}, "tenant"),
    ],
)
async def test_a_bad_test_is_a_400_that_names_the_field(body, param):
    async with open_house() as house:
        reply = await house.client.post("/admin/v1/webhooks/test", json=body)

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/msg_1_1/redeliver"), ("POST", "/test")],
)
async def test_the_log_is_for_operators(method, path):
    async with open_house(auth=True) as house:
        assert (await house.client.request(method, f"/admin/v1/webhooks{path}", json={})).status == 401
