"""Input files of native tasks: read from data URIs and URLs, kept under the task, handed to the adapter, swept."""

import base64
from dataclasses import replace

import pytest

from router.flow.dispatch import sweep
from router.outcome import FailureKind, fail
from router.provider import Abilities, Kind, Role, Source
from tests.api.house import PNG, Desk, open_house, ruleset

URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
EDIT = {"kind": "image.edit", "model": "cat", "input": {"prompt": "a hat on it", "image": URI}}
ABLE = Abilities(
    kinds=frozenset({Kind.IMAGE_EDIT}), fields=frozenset({"prompt", "n"}), max_images=2, roles=frozenset({Role.MASK})
)


def editing(**abilities):
    """The rules of a house whose targets edit."""
    rules = ruleset()
    model = rules.models["cat"]
    able = replace(ABLE, **abilities)
    targets = tuple(replace(one, abilities=able) for one in model.otherwise.targets)
    return replace(rules, models={"cat": replace(model, otherwise=replace(model.otherwise, targets=targets))})


async def submit(house, body, **headers):
    reply = await house.client.post("/v1/tasks", json=body, headers={"Prefer": "wait=30", **headers})
    return reply.status, await reply.json()


async def test_the_adapter_gets_the_files_in_order_with_what_their_bytes_say_they_are():
    body = {**EDIT, "input": {"prompt": "a hat", "image": [URI, {"image_url": URI}], "mask": "data:;base64,AAAA"}}
    async with open_house(editing()) as house:
        status, task = await submit(house, body)

        assert (status, task["status"]) == (202, "succeeded")
        [job] = house.desk.jobs
        assert job.files == (
            Source(Role.IMAGE, f"{task['id']}/in/0", None, "image/png", len(PNG)),
            Source(Role.IMAGE, f"{task['id']}/in/1", None, "image/png", len(PNG)),
            Source(Role.MASK, f"{task['id']}/in/2", None, "application/octet-stream", 3),
        )
        assert house.vault.objects[f"{task['id']}/in/0"] == PNG
        assert job.input == {"prompt": "a hat"}


async def test_a_caller_sees_what_the_files_are_and_not_where_they_are_kept():
    async with open_house(editing()) as house:
        _status, task = await submit(house, EDIT)

        [row] = task["input"]["files"]
        assert (row["role"], row["content_type"], row["size"], len(row["sha256"])) == (
            "image",
            "image/png",
            len(PNG),
            64,
        )
        assert "key" not in row


async def test_a_url_is_handed_on_where_the_target_fetches_it_itself():
    async with open_house(editing(takes_urls=True)) as house:
        body = {**EDIT, "input": {"prompt": "a hat", "images": ["https://caller.example/cat.png"]}}
        _status, task = await submit(house, body)

        assert task["status"] == "succeeded"
        assert house.desk.jobs[0].files == (Source(Role.IMAGE, url="https://caller.example/cat.png"),)


BAD = [
    ({"image": None}, "image"),
    ({"image": "cat.png"}, "input.image"),
    ({"image": "ftp://caller.example/cat.png"}, "input.image"),
    ({"image": "data:image/png,plain"}, "input.image"),
    ({"image": "data:image/png;base64,***"}, "input.image"),
    ({"image": "data:image/png;base64,"}, "input.image"),
    ({"image": [URI, 7]}, "input.image[1]"),
    ({"image": [URI] * 17}, "input.image"),
    ({"mask": [URI, URI]}, "input.mask"),
    ({"image": [URI] * 3}, "image"),
    ({"input_reference": URI}, "input_reference"),
]


@pytest.mark.parametrize(("change", "param"), BAD)
async def test_a_file_that_cannot_be_used_is_a_400_that_names_its_field_and_nothing_is_kept(change, param):
    async with open_house(editing()) as house:
        status, body = await submit(house, {**EDIT, "input": {**EDIT["input"], **change}})

        assert (status, body["error"]["param"]) == (400, param)
        assert house.vault.objects == {}
        assert house.desk.jobs == []


async def test_another_file_is_another_request_under_a_key_and_the_same_is_a_repeat():
    other = "data:image/png;base64," + base64.b64encode(PNG + b"x").decode()
    async with open_house(editing()) as house:
        _status, first = await submit(house, EDIT, **{"Idempotency-Key": "k"})
        _status, again = await submit(house, EDIT, **{"Idempotency-Key": "k"})
        status, refused = await submit(
            house, {**EDIT, "input": {**EDIT["input"], "image": other}}, **{"Idempotency-Key": "k"}
        )

        assert again["id"] == first["id"]
        assert (status, refused["error"]["code"]) == (422, "idempotency_mismatch")
        assert len(house.desk.jobs) == 1


async def test_a_retry_has_files_of_its_own():
    desk = Desk(answers=[fail(FailureKind.REFUSED, "no")])
    async with open_house(editing(), desk=desk) as house:
        _status, old = await submit(house, EDIT)
        assert old["status"] == "failed"
        reply = await house.client.post(f"/v1/tasks/{old['id']}/retry")
        new = await reply.json()
        reply = await house.client.get(f"/v1/tasks/{new['id']}", headers={"Prefer": "wait=30"})

        assert (await reply.json())["status"] == "succeeded"
        assert desk.jobs[1].files[0].key == f"{new['id']}/in/0"
        assert house.vault.objects[f"{new['id']}/in/0"] == PNG


async def test_retention_removes_the_files_too():
    rules = editing()
    async with open_house(replace(rules, defaults=replace(rules.defaults, retention_s=-1))) as house:
        _status, task = await submit(house, EDIT)
        assert f"{task['id']}/in/0" in house.vault.objects
        await sweep(house.life.runtime)

        assert house.vault.objects == {}


async def test_a_target_that_takes_no_files_is_left_out_and_nobody_left_is_a_400():
    async with open_house(editing(max_images=0)) as house:
        status, body = await submit(house, EDIT)

        assert (status, body["error"]["error_type"], body["error"]["param"]) == (400, "invalid_request", "image")
