"""The OpenAI videos API and Dieyuyun's films over HTTP: jobs, pages, content, deletion, remixes."""

from dataclasses import replace

import aiohttp
import pytest

from router.flow.dispatch import sweep
from router.outcome import FailureKind
from router.policy.rules import Defaults
from router.provider import Role
from router.store.memory import MemoryStore
from tests.api.house import ADMIN_KEY, PNG, failing, open_house
from tests.api.studio import FILM, ORDER, Studio, ended, error_of, made, order, read, rules, studio_house
from tests.waiting import poll_until

# -- the job ----------------------------------------------------------------------------------------------------------


async def test_a_create_answers_at_once_with_the_whole_object():
    async with studio_house(Studio(is_open=False)) as house:
        reply = await order(house)
        video = await reply.json()

        assert reply.status == 200
        assert video.pop("id") == "video_" + reply.headers["X-Task-Id"].removeprefix("task_")
        assert video.pop("created_at") > 1_700_000_000
        assert video == {
            "object": "video",
            "model": "film",
            "status": "queued",
            "progress": 0,
            "completed_at": None,
            "expires_at": None,
            "seconds": "8",
            "size": "1280x720",
            "prompt": "a red fox runs",
            "remixed_from_video_id": None,
            "error": None,
        }
        assert reply.headers["X-Request-Id"].startswith("req_")


async def test_a_film_is_polled_until_it_is_completed():
    async with studio_house(studio := Studio(is_open=False)) as house:
        house.life.runtime.time_scale = 0.01
        video_id = (await (await order(house)).json())["id"]

        async def at_work():
            reply = await house.client.get(f"/v1/videos/{video_id}")
            return reply if (await reply.json())["progress"] == 40 else None

        reply = await poll_until(at_work, "progress")
        assert (await reply.json())["status"] == "in_progress"
        assert reply.headers["openai-poll-after-ms"] == "20"
        studio.open.set()
        video = await ended(house, video_id)
        assert (video["status"], video["progress"], video["error"]) == ("completed", 100, None)
        assert video["created_at"] <= video["completed_at"] < video["expires_at"]
        done = await house.client.get(f"/v1/videos/{video_id}")
        assert "openai-poll-after-ms" not in done.headers
        assert (done.headers["X-Task-Id"], studio.jobs[0].input["seconds"]) == (video_id.replace("video", "task"), "8")


async def test_a_film_that_fails_says_why():
    async with studio_house(Studio(answers=[failing(FailureKind.REFUSED)])) as house:
        video = await made(house)

        assert (video["status"], video["error"]["code"]) == ("failed", "moderation_blocked")
        assert "content policy" in video["error"]["message"]
        assert (video["expires_at"], video["completed_at"] is not None) == (None, True)


async def test_a_cancelled_film_is_failed_and_says_cancelled():
    async with studio_house(Studio(is_open=False)) as house:
        video_id = (await (await order(house)).json())["id"]
        await house.client.post(f"/v1/tasks/{video_id}/cancel")

        video = await read(house, video_id)
        assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")


async def test_what_was_not_said_is_said_as_the_api_documents_it():
    async with studio_house() as house:
        video = await (await order(house, {"prompt": "a fox", "model": "film"})).json()

        assert (video["seconds"], video["size"]) == ("4", "720x1280")
        await ended(house, video["id"])
        assert house.desk.jobs[0].input == {"prompt": "a fox"}


async def test_seconds_are_taken_as_a_number_and_shown_as_a_text():
    async with studio_house() as house:
        assert (await (await order(house, {**ORDER, "seconds": 8})).json())["seconds"] == "8"


async def test_a_form_with_a_first_frame_is_taken():
    async with studio_house() as house:
        form = aiohttp.FormData(ORDER)
        form.add_field("input_reference", PNG, filename="a.png", content_type="image/png")
        reply = await house.client.post("/v1/videos", data=form)
        assert reply.status == 200, await reply.text()
        video = await ended(house, (await reply.json())["id"])

        [job] = house.desk.jobs
        assert (video["status"], job.input["seconds"], job.input["prompt"]) == ("completed", "8", "a red fox runs")
        [frame] = job.files
        assert (frame.role, frame.content_type, frame.size) == (Role.FIRST_FRAME, "image/png", len(PNG))


async def test_an_announced_repeat_gets_the_job_of_the_first():
    async with studio_house(Studio(is_open=False)) as house:
        first = await (await order(house)).json()
        again = await (await order(house, headers={"x-stainless-retry-count": "1"})).json()
        another = await (await order(house)).json()

        assert again["id"] == first["id"] != another["id"]


async def test_a_key_replays_the_ended_job():
    async with studio_house() as house:
        key = {"Idempotency-Key": "k"}
        video = await made(house, headers=key)
        reply = await order(house, headers=key)

        assert await reply.json() == video
        assert reply.headers["Idempotent-Replayed"] == "true"
        assert len(house.desk.jobs) == 1


BAD = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"seconds": "eight"}, "seconds"),
    ({"seconds": 0}, "seconds"),
    ({"seconds": "12"}, "seconds"),
    ({"size": "large"}, "size"),
    ({"input_reference": {"file_id": "file_1"}}, "input_reference"),
    ({"stream": True}, "stream"),
    ({"async": "yes"}, "async"),
    ({"files": [{"role": "first_frame", "key": "task_1/1/0", "content_type": "image/png"}]}, "files"),
    ({"remix_of": {"remote_id": "film-1"}}, "remix_of"),
    ({"priority": "soon"}, "priority"),
]


@pytest.mark.parametrize(("change", "param"), BAD)
async def test_bad_input_is_a_400_that_names_its_field_and_nothing_is_made(change, param):
    async with studio_house() as house:
        reply = await order(house, {**ORDER, **change})

        assert (await error_of(reply))[::3] == (400, param)
        assert (await (await house.client.get("/v1/videos")).json())["data"] == []
        assert house.desk.jobs == []


async def test_native_input_cannot_name_our_own_rows():
    body = {"kind": "video.generation", "model": "film", "input": {"prompt": "a", "remix_of": {"remote_id": "x"}}}
    async with studio_house() as house:
        assert (await error_of(await order(house, body, "/v1/tasks")))[::3] == (400, "input.remix_of")


# -- other surfaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/generations"])
async def test_async_is_a_submit_of_dieyuyun(path):
    async with studio_house() as house:
        reply = await order(house, {**ORDER, "async": True}, path)
        task = await reply.json()

        assert reply.status == 200
        assert (set(task), task["status"], task["progress"]) == (
            {"id", "status", "progress", "created_at", "request_id"},
            "queued",
            0,
        )
        await ended(house, task["id"])
        shown = await (await house.client.get(f"/v1/tasks/{task['id']}")).json()
        assert (shown["status"], shown["model_code"], len(shown["result"]["data"])) == ("completed", "film", 1)
        link = shown["result"]["data"][0]["url"].partition("/v1/")[2]
        assert await (await house.client.get(f"/v1/{link}")).read() == FILM


async def test_the_path_of_dieyuyun_alone_wants_async():
    async with studio_house() as house:
        for body in (ORDER, {**ORDER, "async": False}):
            assert await error_of(await order(house, body, "/v1/videos/generations")) == (
                400,
                "invalid_request",
                "invalid_request",
                "async",
            )
        assert house.desk.jobs == []


async def test_a_task_of_the_openai_surface_is_native_unless_its_own_view_is_asked_for():
    async with studio_house() as house:
        video = await made(house)
        native = await (await house.client.get(f"/v1/tasks/{video['id']}")).json()
        shown = await (await house.client.get(f"/v1/tasks/{video['id']}?view=openai")).json()

        assert (native["object"], native["surface"], native["kind"]) == ("task", "openai", "video.generation")
        assert shown == video


async def test_a_native_film_is_shown_here_and_a_picture_is_not():
    async with studio_house() as house:
        fields = {"prompt": "a fox"}
        film = {"kind": "video.generation", "model": "film", "input": fields}
        native = await (await order(house, film, "/v1/tasks")).json()
        assert (await read(house, native["id"]))["id"] == native["id"].replace("task_", "video_")
    async with open_house() as house:
        picture = {"kind": "image.generation", "model": "cat", "input": fields}
        task_id = (await (await order(house, picture, "/v1/tasks")).json())["id"]
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("POST", "/remix")):
            body = {"prompt": "again"} if method == "POST" else None
            reply = await house.client.request(method, f"/v1/videos/{task_id}{path}", json=body)
            assert (await error_of(reply))[:2] == (404, "not_found"), (method, path)
        assert (await (await house.client.get("/v1/videos")).json())["data"] == []
        assert (await house.client.get(f"/v1/tasks/{task_id}")).status == 200


@pytest.mark.parametrize("path", ["edits", "extensions", "characters"])
async def test_what_this_version_does_not_make_is_a_405_in_the_usual_form(path):
    async with studio_house() as house:
        reply = await house.client.post(f"/v1/videos/{path}", json={"prompt": "a"})

        assert await error_of(reply) == (405, "invalid_request", "method_not_allowed", None)


async def test_every_route_wants_a_key_and_shows_nobody_elses_film():
    store = MemoryStore()
    async with studio_house(store=store) as house:
        video = await made(house)
        view = await store.view("default", video["id"].replace("video_", "task_"))
    stranger = replace(view.task, id="task_" + "7" * 32, tenant="globex", version=1)
    await store.admit(stranger, ())
    theirs = "video_" + "7" * 32
    async with studio_house(store=store, auth=True, replica="again") as house:
        routes = [
            ("GET", f"/v1/videos/{theirs}"),
            ("DELETE", f"/v1/videos/{theirs}"),
            ("GET", f"/v1/videos/{theirs}/content"),
            ("POST", f"/v1/videos/{theirs}/remix"),
            ("DELETE", f"/v1/tasks/{theirs}"),
        ]
        for method, path in [*routes, ("GET", "/v1/videos"), ("POST", "/v1/videos")]:
            assert (await house.client.request(method, path, json={"prompt": "a"})).status == 401, (method, path)
        key = {"Authorization": f"Bearer {ADMIN_KEY}"}
        for method, path in routes:
            reply = await house.client.request(method, path, json={"prompt": "a"}, headers=key)
            assert await error_of(reply) == (404, "not_found", "not_found", None), (method, path)
        page = await (await house.client.get("/v1/videos", headers=key)).json()
        assert [one["id"] for one in page["data"]] == [video["id"]]
        reply = await house.client.get(f"/v1/videos?after={theirs}", headers=key)
        assert (await error_of(reply))[::3] == (400, "after")
        assert (await store.view("globex", stranger.id)).task == stranger


# -- lists ------------------------------------------------------------------------------------------------------------


async def test_films_are_listed_in_pages_newest_first():
    async with studio_house(Studio(is_open=False)) as house:
        ids = sorted([(await (await order(house)).json())["id"] for _ in range(3)])  # which is by age
        first = await (await house.client.get("/v1/videos?limit=2")).json()
        rest = await (await house.client.get(f"/v1/videos?limit=2&after={first['last_id']}")).json()

        assert [one["id"] for one in first["data"]] == [ids[2], ids[1]]
        assert (first["object"], first["has_more"]) == ("list", True)
        assert (first["first_id"], first["last_id"]) == (ids[2], ids[1])
        assert [one["id"] for one in rest["data"]] == [ids[0]]
        assert (rest["has_more"], rest["first_id"], rest["last_id"]) == (False, ids[0], ids[0])


async def test_order_turns_the_list_around_and_an_empty_page_has_no_ends():
    async with studio_house(Studio(is_open=False)) as house:
        ids = sorted([(await (await order(house)).json())["id"] for _ in range(2)])
        page = await (await house.client.get("/v1/videos?order=asc")).json()
        empty = await (await house.client.get(f"/v1/videos?order=asc&after={ids[1]}")).json()

        assert [one["id"] for one in page["data"]] == ids
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")],
)
async def test_a_list_that_cannot_be_made_is_a_400(query, param):
    async with studio_house() as house:
        assert (await error_of(await house.client.get(f"/v1/videos?{query}")))[::3] == (400, param)


# -- content ----------------------------------------------------------------------------------------------------------


async def test_the_film_is_served_whole_in_part_and_by_its_head():
    async with studio_house() as house:
        path = f"/v1/videos/{(await made(house))['id']}/content"
        whole = await house.client.get(path)
        part = await house.client.get(path, headers={"Range": "bytes=4-11"})
        tail = await house.client.get(path, headers={"Range": "bytes=-8"})
        head = await house.client.head(path)
        beyond = await house.client.get(path, headers={"Range": f"bytes={len(FILM)}-"})

        assert (whole.status, whole.content_type, await whole.read()) == (200, "video/mp4", FILM)
        assert (part.status, await part.read()) == (206, FILM[4:12])
        assert part.headers["Content-Range"] == f"bytes 4-11/{len(FILM)}"
        assert (tail.status, await tail.read()) == (206, FILM[-8:])
        assert (head.status, head.headers["Content-Length"], await head.read()) == (200, str(len(FILM)), b"")
        assert (beyond.status, whole.headers["X-Task-Id"].startswith("task_")) == (416, True)


async def test_a_film_that_is_not_ready_is_a_404_that_says_so():
    async with studio_house(studio := Studio(is_open=False)) as house:
        live = (await (await order(house)).json())["id"]
        reply = await house.client.get(f"/v1/videos/{live}/content")
        assert await error_of(reply) == (404, "not_found", "video_not_ready", None)
        assert reply.headers["Retry-After"] == "2"
        studio.answers.append(failing(FailureKind.REFUSED))
        failed = (await made(house))["id"]
        reply = await house.client.get(f"/v1/videos/{failed}/content")
        assert await error_of(reply) == (404, "not_found", "video_not_ready", None)
        assert "Retry-After" not in reply.headers


async def test_a_variant_that_was_not_delivered_is_a_404_and_an_unheard_of_one_a_400():
    async with studio_house() as house:
        path = f"/v1/videos/{(await made(house))['id']}/content"

        assert (await house.client.get(f"{path}?variant=video")).status == 200
        for variant in ("thumbnail", "spritesheet"):
            reply = await house.client.get(f"{path}?variant={variant}")
            assert await error_of(reply) == (404, "not_found", "variant_unavailable", "variant")
        assert (await error_of(await house.client.get(f"{path}?variant=poster")))[::3] == (400, "variant")


async def test_retention_leaves_a_completed_job_without_a_film():
    async with studio_house(rules=rules(defaults=Defaults(retention_s=0.001))) as house:
        video = await made(house)
        await poll_until(lambda: house.services.now() > 1000 * video["expires_at"] + 1000, "the end of the retention")
        assert await sweep(house.life.runtime) == 1

        left = await read(house, video["id"])
        assert (left["status"], left["progress"], left["prompt"], left["error"]) == ("completed", 100, None, None)
        assert (left["completed_at"], left["expires_at"]) == (video["completed_at"], video["expires_at"])
        reply = await house.client.get(f"/v1/videos/{video['id']}/content")
        assert await error_of(reply) == (404, "not_found", "video_not_ready", None)
        assert house.vault.objects == {}
