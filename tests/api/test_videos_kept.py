"""Films that are kept, deleted and made anew: `DELETE`, and remixes where the film was made, over HTTP."""

import asyncio
import base64
from dataclasses import replace

import pytest

from router.outcome import FailureKind, fail
from router.shelf import FilmPage
from router.task import State
from tests.api.house import PNG, failing
from tests.api.studio import ABLE, ORDER, Studio, ended, error_of, made, order, read, rules, studio_house

# -- deletion ---------------------------------------------------------------------------------------------------------


async def test_a_deleted_film_leaves_no_bytes_and_keeps_its_bill():
    async with studio_house() as house:
        frame = "data:image/png;base64," + base64.b64encode(PNG).decode()
        video = await made(house, {**ORDER, "input_reference": frame})
        task_id = video["id"].replace("video_", "task_")
        assert len(house.vault.objects) == 2
        reply = await house.client.delete(f"/v1/videos/{video['id']}")

        assert (reply.status, reply.headers["X-Task-Id"]) == (200, task_id)
        assert await reply.json() == {"id": video["id"], "object": "video.deleted", "deleted": True}
        assert house.vault.objects == {}
        task = await (await house.client.get(f"/v1/tasks/{task_id}")).json()
        assert (task["status"], task["input"], task["output"]) == ("expired", {}, [])
        assert task["cost"]["billing"] == "billed"
        assert (await read(house, video["id"]))["status"] == "completed"
        assert (await house.client.get(f"/v1/videos/{video['id']}/content")).status == 404
        assert (await house.client.delete(f"/v1/videos/{video['id']}")).status == 200


async def test_a_live_film_is_not_deleted():
    async with studio_house(studio := Studio(is_open=False)) as house:
        video_id = (await (await order(house)).json())["id"]
        reply = await house.client.delete(f"/v1/videos/{video_id}")

        assert await error_of(reply) == (409, "conflict", "conflict", None)
        assert reply.headers["x-should-retry"] == "false"
        studio.open.set()
        assert (await ended(house, video_id))["status"] == "completed"


async def test_any_ended_task_is_deleted_natively_and_a_failed_one_stays_failed():
    async with studio_house(Studio(answers=[failing(FailureKind.REFUSED)])) as house:
        video = await made(house)
        task_id = video["id"].replace("video_", "task_")
        reply = await house.client.delete(f"/v1/tasks/{video['id']}")

        assert (reply.status, reply.headers["X-Task-Id"]) == (200, task_id)
        assert await reply.json() == {"id": task_id, "object": "task.deleted", "deleted": True}
        task = await (await house.client.get(f"/v1/tasks/{task_id}")).json()
        assert (task["status"], task["input"]) == ("failed", {})
        assert (await error_of(await house.client.delete("/v1/tasks/task_0")))[0] == 404


# -- remixes ----------------------------------------------------------------------------------------------------------


async def test_a_remix_runs_where_the_film_was_made_and_nowhere_else():
    # The first target is down for the original, so that the second makes it.
    async with studio_house(Studio(answers=[failing(FailureKind.UNSENT)])) as house:
        video = await made(house)
        reply = await order(house, {"prompt": "at night", "metadata": {"a": "b"}}, f"/v1/videos/{video['id']}/remix")
        remix = await reply.json()
        assert (reply.status, remix["remixed_from_video_id"], remix["prompt"]) == (200, video["id"], "at night")
        assert (remix["seconds"], remix["size"], remix["model"]) == ("8", "1280x720", "film")
        assert (await ended(house, remix["id"]))["status"] == "completed"

        job = house.desk.jobs[-1]
        assert (job.remix_of, job.model) == ("film-2", "upstream-film")
        assert job.input == {"prompt": "at night", "seconds": "8", "size": "1280x720"}
        task = await (await house.client.get(f"/v1/tasks/{remix['id']}")).json()
        assert [one["provider"] for one in task["attempts"]] == ["two"]
        assert task["metadata"] == {"a": "b"}


async def test_a_remix_whose_target_fails_is_not_made_elsewhere():
    async with studio_house(studio := Studio()) as house:
        video = await made(house)
        studio.answers += [failing(FailureKind.BAD_REQUEST)]
        remix = await made(house, {"prompt": "at night"}, path=f"/v1/videos/{video['id']}/remix")

        assert remix["status"] == "failed"
        task = await (await house.client.get(f"/v1/tasks/{remix['id']}")).json()
        assert {one["provider"] for one in task["attempts"]} == {"one"}


async def test_a_provider_without_remixes_is_a_400_that_says_so():
    async with studio_house(rules=rules(replace(ABLE, remixes=False))) as house:
        video = await made(house)
        reply = await order(house, {"prompt": "at night"}, f"/v1/videos/{video['id']}/remix")

        assert (await error_of(reply))[::3] == (400, "video_id")
        assert "one has no remix for upstream-film" in (await reply.json())["error"]["message"]
        assert len(house.desk.jobs) == 1


async def test_a_film_whose_target_is_gone_cannot_be_remixed():
    async with studio_house() as house:
        video = await made(house)
        before = house.life.runtime.rules
        film = before.models["film"]
        rest = replace(film.otherwise, targets=film.otherwise.targets[1:])
        house.life.runtime.rules = replace(before, models={"film": replace(film, otherwise=rest)})
        reply = await order(house, {"prompt": "at night"}, f"/v1/videos/{video['id']}/remix")

        assert (await error_of(reply))[::3] == (400, "video_id")
        assert "only one (upstream-film), which made the film" in (await reply.json())["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "prompt"), ({"prompt": " "}, "prompt"), ({"prompt": "a", "seconds": "8"}, "seconds"),
     ({"prompt": "a", "model": "film"}, "model"), ({"prompt": "a", "async": True}, "async")],
)  # fmt: skip
async def test_a_remix_takes_a_prompt_and_nothing_of_the_film(body, param):
    async with studio_house() as house:
        video = await made(house)
        reply = await order(house, body, f"/v1/videos/{video['id']}/remix")

        assert (await error_of(reply))[::3] == (400, param)
        assert len(house.desk.jobs) == 1


async def test_only_a_finished_film_is_remixed():
    async with studio_house(studio := Studio(is_open=False)) as house:
        live = (await (await order(house)).json())["id"]
        reply = await order(house, {"prompt": "at night"}, f"/v1/videos/{live}/remix")
        assert await error_of(reply) == (409, "conflict", "conflict", "video_id")
        studio.open.set()
        await ended(house, live)
        await house.client.delete(f"/v1/videos/{live}")
        reply = await order(house, {"prompt": "at night"}, f"/v1/videos/{live}/remix")
        assert (await error_of(reply))[0] == 409
        assert "was removed" in (await reply.json())["error"]["message"]


async def test_the_same_remix_of_another_film_is_another_request():
    async with studio_house() as house:
        one, two = await made(house), await made(house)
        headers = {"x-stainless-retry-count": "1"}
        first = await (await order(house, {"prompt": "x"}, f"/v1/videos/{one['id']}/remix")).json()
        again = await (await order(house, {"prompt": "x"}, f"/v1/videos/{one['id']}/remix", headers=headers)).json()
        other = await (await order(house, {"prompt": "x"}, f"/v1/videos/{two['id']}/remix", headers=headers)).json()

        assert again["id"] == first["id"] != other["id"]


async def test_a_failed_remix_that_is_tried_again_is_the_remix_of_the_same_film():
    async with studio_house(studio := Studio()) as house:
        video = await made(house)
        studio.answers += [fail(FailureKind.REFUSED, "no")]
        failed = await made(house, {"prompt": "at night"}, path=f"/v1/videos/{video['id']}/remix")
        assert failed["status"] == "failed"
        task = await (await house.client.post(f"/v1/tasks/{failed['id']}/retry")).json()

        again = await ended(house, task["id"])
        assert (again["status"], again["remixed_from_video_id"]) == ("completed", video["id"])
        assert studio.jobs[-1].remix_of == "film-1"


async def test_a_page_is_read_while_films_come_and_go():
    async with studio_house() as house:
        videos = await asyncio.gather(*(made(house) for _ in range(4)))
        await asyncio.gather(*(house.client.delete(f"/v1/videos/{one['id']}") for one in videos[:2]))
        page = await (await house.client.get("/v1/videos")).json()

        assert {one["id"] for one in page["data"]} == {one["id"] for one in videos}
        assert {one["status"] for one in page["data"]} == {"completed"}
        states = [view.task.state for view in await house.store.films("default", FilmPage(10))]
        assert sorted(states) == sorted([State.EXPIRED] * 2 + [State.SUCCEEDED] * 2)
