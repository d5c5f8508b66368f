"""`callback_url` and `callback_events` on every submit surface: kept with the task, or a 400 that names the field.

What is refused is refused before anything is looked up, connected or written.
"""

import ast
from pathlib import Path

import pytest

from router import api
from router.outbox import CALLBACK_TYPES, TERMINAL_TYPES, WebhookSearch
from router.outcome import FailureKind
from tests.api.house import failing, open_house

URL = "https://hook.example/tasks?x=1"
PICTURE = {"model": "cat", "prompt": "a cat"}
SURFACES = {
    "native": ("/v1/tasks", {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat"}}),
    "sync": ("/v1/images/generations", PICTURE),
    "async": ("/v1/images/generations", {**PICTURE, "async": True}),
}


HANDED_ON = {"callback_url", "callback_events", "link_base"}
MAKES_NO_TASK = {"operations.py", "chat.py"}  # what explains, and what is relayed


def test_every_surface_hands_the_callback_on():
    folder = Path(api.__file__).parent
    calls = {
        f"{path.name}:{node.lineno}": {one.arg for one in node.keywords}
        for path in sorted(folder.rglob("*.py"))
        if path.name not in MAKES_NO_TASK
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Draft"
    }

    assert len(calls) >= 2
    assert {place for place, keywords in calls.items() if not keywords >= HANDED_ON} == set()


async def submit(house, surface="native", **change):
    route, body = SURFACES[surface]
    return await house.client.post(route, json={**body, **change})


async def task_of(house, reply):
    return (await house.services.world.store.view("default", reply.headers["X-Task-Id"])).task


@pytest.mark.parametrize("surface", sorted(SURFACES))
async def test_a_callback_is_kept_with_the_task_and_the_base_of_its_links(surface):
    async with open_house() as house:
        task = await task_of(house, await submit(house, surface, callback_url=URL))

        assert (task.callback_url, task.callback_events) == (URL, TERMINAL_TYPES)
        assert task.link_base == str(house.client.make_url("")).rstrip("/")
        assert "callback_url" not in task.input


async def test_events_are_kept_in_one_order_and_once():
    async with open_house() as house:
        asked = ["task.running", "task.succeeded", "task.running"]
        task = await task_of(house, await submit(house, callback_url=URL, callback_events=asked))

        assert task.callback_events == ("task.succeeded", "task.running")


async def test_a_task_without_a_callback_keeps_nothing_of_it():
    async with open_house() as house:
        task = await task_of(house, await submit(house, callback_url=None, callback_events=None))

        assert (task.callback_url, task.callback_events, task.link_base) == (None, (), None)


async def test_extras_do_not_make_another_request_of_a_repeat():
    async with open_house() as house:
        route, body = SURFACES["native"]
        headers = {"Idempotency-Key": "k"}
        first = await house.client.post(route, json={**body, "callback_url": URL}, headers=headers)
        again = await house.client.post(route, json=body, headers=headers)

        assert again.status == 202
        assert first.headers["X-Task-Id"] == again.headers["X-Task-Id"]


async def test_a_retried_task_asks_for_the_same_callback():
    async with open_house() as house:
        house.desk.answers.append(failing(FailureKind.BAD_REQUEST))
        old = await task_of(house, await submit(house, callback_url=URL, callback_events=["task.failed"]))
        await house.client.get(f"/v1/tasks/{old.id}", headers={"Prefer": "wait=30"})
        new = await task_of(house, await house.client.post(f"/v1/tasks/{old.id}/retry"))

        assert (new.retry_of, new.callback_url, new.callback_events) == (old.id, URL, ("task.failed",))


BAD = [
    ({"callback_url": "http://hook.example/x"}, "callback_url"),
    ({"callback_url": "https://hook.example:22/x"}, "callback_url"),
    ({"callback_url": "https://127.0.0.1/x"}, "callback_url"),
    ({"callback_url": "https://10.1.2.3/x"}, "callback_url"),
    ({"callback_url": "https://169.254.169.254/latest/meta-data"}, "callback_url"),
    ({"callback_url": "https://[::1]/x"}, "callback_url"),
    ({"callback_url": "https://[::ffff:10.0.0.1]/x"}, "callback_url"),
    ({"callback_url": "https://[fd00:ec2::254]/x"}, "callback_url"),
    ({"callback_url": "https://2130706433/x"}, "callback_url"),
    ({"callback_url": "https://0x7f.1/x"}, "callback_url"),
    ({"callback_url": "https://user:password@hook.example/x"}, "callback_url"),
    ({"callback_url": "https://hook.example/x#part"}, "callback_url"),
    ({"callback_url": "ftp://hook.example/x"}, "callback_url"),
    ({"callback_url": "file:///etc/passwd"}, "callback_url"),
    ({"callback_url": "hook.example/x"}, "callback_url"),
    ({"callback_url": ""}, "callback_url"),
    ({"callback_url": "https://hook.example/" + "x" * 2048}, "callback_url"),
    ({"callback_url": 5}, "callback_url"),
    ({"callback_url": [URL]}, "callback_url"),
    ({"callback_url": URL, "callback_events": []}, "callback_events"),
    ({"callback_url": URL, "callback_events": "task.failed"}, "callback_events"),
    ({"callback_url": URL, "callback_events": ["task.pending"]}, "callback_events"),
    ({"callback_url": URL, "callback_events": [["task.failed"]]}, "callback_events"),
    ({"callback_events": ["task.failed"]}, "callback_events"),
]


@pytest.mark.parametrize(("change", "param"), BAD)
@pytest.mark.parametrize("surface", sorted(SURFACES))
async def test_a_bad_callback_is_a_400_that_names_it_and_nothing_is_made(surface, change, param):
    async with open_house() as house:
        reply = await submit(house, surface, **change)
        error = (await reply.json())["error"]

        assert (reply.status, error["param"], error["error_type"]) == (400, param, "invalid_request")
        assert "password" not in error["message"]
        assert not house.desk.jobs
        assert (await (await house.client.get("/v1/tasks")).json())["data"] == []


async def test_running_is_told_to_those_who_ask():
    async with open_house() as house:
        task = await task_of(house, await submit(house, "sync", callback_url=URL, callback_events=list(CALLBACK_TYPES)))

        rows = await house.services.world.store.webhooks(WebhookSearch(task_id=task.id))
        assert [row.type for row in rows] == ["task.succeeded", "task.running"]
