"""Edits and variations: as forms and as JSON, sync, async and by `Prefer`, exactly as generations."""

import base64
from dataclasses import replace

import aiohttp
import pytest

from router.persistence import Search
from router.provider import Abilities, Kind, Role
from tests.api.house import PNG, Desk, open_house, ruleset
from tests.api.test_input_files import URI, editing

EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"
PICTURE = base64.b64encode(PNG).decode()
VARYING = Abilities(kinds=frozenset({Kind.IMAGE_VARIATION}), fields=frozenset({"n"}), max_images=1)


def form_of(fields, **files):
    """A form as aiohttp writes it."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    for name, content in files.items():
        form.add_field(name, content, filename=f"{name}.png", content_type="image/png")
    return form


def able_to(abilities):
    """The rules of a house whose second target alone has these abilities."""
    rules = ruleset()
    model = rules.models["cat"]
    first, second = model.otherwise.targets
    targets = (first, replace(second, abilities=abilities))
    return replace(rules, models={"cat": replace(model, otherwise=replace(model.otherwise, targets=targets))})


async def rows_of(house):
    return await house.store.search("default", Search(limit=100))


async def test_a_form_is_answered_with_the_edited_picture():
    async with open_house(editing()) as house:
        reply = await house.client.post(EDITS, data=form_of({"prompt": "a hat", "model": "cat"}, image=PNG, mask=PNG))
        body = await reply.json()

        assert reply.status == 200
        assert body["data"] == [{"b64_json": PICTURE, "revised_prompt": "a better cat"}]
        assert (body["size"], body["output_format"]) == ("1x1", "png")
        [row] = await rows_of(house)
        assert (row.task.kind, row.task.surface, row.task.route) == (Kind.IMAGE_EDIT, "openai", EDITS)
        assert reply.headers["X-Task-Id"] == row.task.id
        assert reply.headers["X-Cost-USD"] == "0.03"
        [job] = house.desk.jobs
        assert (job.kind, job.input) == (Kind.IMAGE_EDIT, {"prompt": "a hat"})
        assert [one.role for one in job.files] == [Role.IMAGE, Role.MASK]


async def test_json_names_its_pictures_by_url_or_brings_them_along():
    body = {"prompt": "a hat", "images": [{"image_url": URI}, {"image_url": "https://caller.example/b.png"}]}
    async with open_house(editing(takes_urls=True)) as house:
        reply = await house.client.post(EDITS, json={**body, "mask": {"image_url": URI}})

        assert reply.status == 200
        files = house.desk.jobs[0].files
        assert [(one.role, one.url) for one in files] == [
            (Role.IMAGE, None),
            (Role.IMAGE, "https://caller.example/b.png"),
            (Role.MASK, None),
        ]


async def test_a_form_may_name_its_picture_by_url_too():
    async with open_house(editing(takes_urls=True)) as house:
        fields = {"prompt": "a hat", "image[]": "https://caller.example/a.png"}
        reply = await house.client.post(EDITS, data=form_of(fields))

        assert reply.status == 200
        assert [one.url for one in house.desk.jobs[0].files] == ["https://caller.example/a.png"]


async def test_a_variation_goes_to_a_target_that_makes_variations():
    async with open_house(able_to(VARYING)) as house:
        reply = await house.client.post(VARIATIONS, data=form_of({"n": "1"}, image=PNG))
        body = await reply.json()

        assert reply.status == 200, body
        assert body["data"][0]["b64_json"] == PICTURE
        [row] = await rows_of(house)
        assert (row.task.kind, row.task.provider) == (Kind.IMAGE_VARIATION, "two")


async def test_where_no_target_makes_variations_there_is_a_400_and_no_task():
    async with open_house() as house:
        reply = await house.client.post(VARIATIONS, data=form_of({}, image=PNG))

        assert (reply.status, (await reply.json())["error"]["error_type"]) == (400, "invalid_request")
        assert (house.vault.objects, await rows_of(house)) == ({}, ())


async def test_async_answers_at_once_in_the_dialect_of_dieyuyun():
    async with open_house(editing(), desk=Desk(is_open=False)) as house:
        reply = await house.client.post(EDITS, data=form_of({"prompt": "a hat", "async": "true"}, image=PNG))
        body = await reply.json()

        assert (reply.status, body["status"], body["progress"]) == (200, "queued", 0)
        house.desk.open.set()
        await house.client.get(f"/v1/tasks/{body['id']}", headers={"Prefer": "wait=30"})
        ended = await (await house.client.get(f"/v1/tasks/{body['id']}")).json()
        assert ended["status"] == "completed"
        assert [row.task.surface for row in await rows_of(house)] == ["dieyuyun"]


async def test_prefer_answers_at_once_with_the_native_task():
    async with open_house(editing(), desk=Desk(is_open=False)) as house:
        form = form_of({"prompt": "a hat"}, image=PNG)
        reply = await house.client.post(EDITS, data=form, headers={"Prefer": "respond-async"})
        body = await reply.json()

        assert (reply.status, body["kind"], reply.headers["Preference-Applied"]) == (202, "image.edit", "respond-async")
        assert body["input"]["files"][0]["content_type"] == "image/png"


async def test_the_sdks_keyless_repeat_attaches_with_another_boundary_and_another_order():
    desk = Desk(is_open=False)
    async with open_house(editing(), desk=desk) as house:
        at_once = {"Prefer": "respond-async"}
        first = await house.client.post(EDITS, data=form_of({"prompt": "a hat", "n": "1"}, image=PNG), headers=at_once)
        repeat = {**at_once, "x-stainless-retry-count": "1"}
        again = await house.client.post(EDITS, data=form_of({"n": "1", "prompt": "a hat"}, image=PNG), headers=repeat)
        other = await house.client.post(
            EDITS, data=form_of({"n": "1", "prompt": "a hat"}, image=PNG + b"x"), headers=repeat
        )

        ids = [(await reply.json())["id"] for reply in (first, again, other)]
        assert ids[0] == ids[1] != ids[2]
        assert len(await rows_of(house)) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a hat"}, "image"),
        ({"prompt": "a hat", "images": []}, "image"),
        ({"prompt": "a hat", "images": [{"file_id": "file-1"}]}, "images"),
        ({"prompt": "a hat", "images": [{"image_url": "data:image/png;base64,???"}]}, "images"),
        ({"prompt": "a hat", "images": [{"image_url": URI}] * 17}, "image"),
        ({"images": [{"image_url": URI}]}, "prompt"),
        ({"prompt": "a hat", "images": [{"image_url": URI}], "mask": {"file_id": "file-1"}}, "mask"),
    ],
)
async def test_json_that_is_wrong_names_its_field_and_nothing_is_kept(body, param):
    async with open_house(editing()) as house:
        reply = await house.client.post(EDITS, json=body)

        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)
        assert (house.vault.objects, house.desk.jobs, await rows_of(house)) == ({}, [], ())


async def test_a_form_without_a_key_is_not_read():
    async with open_house(editing(), auth=True) as house:
        reply = await house.client.post(EDITS, data=form_of({"prompt": "a hat"}, image=PNG))

        assert reply.status == 401
        assert house.vault.objects == {}


async def test_a_file_that_is_called_a_picture_and_is_none_is_never_shown_inline():
    page = b"<html><script>alert(1)</script></html>"
    async with open_house(editing()) as house:
        reply = await house.client.post(EDITS, data=form_of({"prompt": "a hat"}, image=page))

        assert reply.status == 200
        [row] = await rows_of(house)
        [file] = row.task.input["files"]
        assert (file["content_type"], file["size"]) == ("application/octet-stream", len(page))
        shown = await (await house.client.get(f"/v1/tasks/{row.task.id}")).json()
        assert "key" not in shown["input"]["files"][0]
