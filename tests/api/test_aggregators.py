"""The surfaces of Pixapi, WorldRouter and Dieyuyun over HTTP: submits, views, ids, and errors in each own form."""

import base64
import io
from dataclasses import replace

import aiohttp
import pytest

from router.flow.dispatch import sweep
from router.policy.rules import Defaults
from router.provider import Kind, Role
from tests.api.aggregators import (
    BODY,
    DIEYUYUN,
    EDITS,
    FILMS,
    PIXAPI,
    URI,
    WORLDROUTER,
    able,
    get,
    over,
    post,
    rows,
    submitted,
)
from tests.api.house import ADMIN_KEY, PNG, FailureKind, failing, open_house
from tests.waiting import poll_until

# -- Pixapi -----------------------------------------------------------------------------------------------------------


async def test_a_pixapi_client_submits_polls_and_gets_its_picture():
    async with open_house(able()) as house:
        task = await submitted(house, PIXAPI)
        _status, done = await over(house, f"/v1/tasks/{task['id']}")
        picture = await house.client.get(done["result"]["data"][0]["url"].replace(house.url, ""))

        assert set(task) == {"status", "id", "progress", "created_at", "model"}
        assert (done["status"], done["credits_cost"], done["result"]["type"]) == ("completed", 3, "image")
        assert await picture.read() == PNG
        assert [row["surface"] for row in await rows(house)] == ["pixapi"]


@pytest.mark.parametrize("flag", [True, False, "yes"])
async def test_an_async_field_of_pixapi_is_ignored(flag):
    async with open_house(able()) as house:
        task = await submitted(house, f"{PIXAPI}?async=true", {**BODY, "async": flag})

        assert task["status"] in {"submitted", "processing"}


async def test_a_pixapi_edit_takes_json_and_forms():
    async with open_house(able()) as house:
        form = aiohttp.FormData({"model": "cat", "prompt": "a hat", "async": "true"})
        form.add_field("image[]", PNG, filename="cat.png", content_type="image/png")
        by_form = await (await house.client.post(EDITS, data=form)).json()
        by_json = await submitted(house, EDITS, {**BODY, "image": URI})

        for task in (by_form, by_json):
            _status, done = await over(house, f"/v1/tasks/{task['id']}")
            assert done["status"] == "completed"
        assert [job.files[0].size for job in house.desk.jobs] == [len(PNG)] * 2


@pytest.mark.parametrize("picture", [URI, base64.b64encode(PNG).decode()])
async def test_a_pixapi_film_takes_the_words_of_pixapi(picture):
    async with open_house(able()) as house:
        task = await submitted(
            house, FILMS, {"model": "film", "prompt": "a wave", "duration": 8, "input_image": picture}
        )
        [job] = await poll_until(lambda: house.desk.jobs, "the film to be asked for")

        assert set(task) == {"status", "id", "progress", "created_at", "model"}
        assert (job.kind, job.input["seconds"], job.files[0].role) == (Kind.VIDEO_GENERATION, 8, Role.FIRST_FRAME)
        assert "duration" not in job.input


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (PIXAPI, {**BODY, "prompt": ""}, "prompt"),
        (PIXAPI, {**BODY, "n": 99}, "n must"),
        (PIXAPI, {**BODY, "size": "big"}, "size"),
        (PIXAPI, {**BODY, "model": 7}, "model"),
        (PIXAPI, {**BODY, "stream": True}, "stream"),
        (PIXAPI, {**BODY, "priority": "asap"}, "priority"),
        (PIXAPI, {**BODY, "start_within": -1}, "start_within"),
        (EDITS, BODY, "image"),
        (EDITS, {**BODY, "image": "data:image/png;base64,?"}, "image"),
        (FILMS, {"model": "film", "prompt": "x", "duration": "long"}, "duration"),
        (FILMS, {"model": "film", "prompt": "x", "duration": True}, "duration"),
        (FILMS, {"model": "film", "prompt": "x", "duration": 8, "seconds": 4}, "duration"),
        (FILMS, {"model": "film", "prompt": "x", "input_image": ["x"]}, "input_image"),
        (FILMS, {"model": "film", "prompt": "x", "input_image": "x", "input_reference": URI}, "input_image"),
        (FILMS, {"model": "cat", "prompt": "x"}, "model"),
    ],
)
async def test_bad_input_of_pixapi_is_a_400_in_its_form_that_names_the_field(path, body, named):
    async with open_house(able()) as house:
        status, answer = await post(house, path, body)

        assert status == 400
        assert answer == {"error": {"code": 400, "message": answer["error"]["message"], "type": "invalid_request"}}
        assert named in answer["error"]["message"]
        assert await rows(house) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("POST", PIXAPI, b"{", 400, "invalid_request"),
        ("POST", PIXAPI, b'{"model": "cat", "prompt": "' + b"x" * 1_100_000 + b'"}', 413, "too_large"),
        ("POST", PIXAPI, b'{"model": "nobody", "prompt": "x"}', 404, "model_not_found"),
        ("GET", PIXAPI, None, 405, "invalid_request"),
        ("POST", "/v1/async/nothing", b"{}", 404, "not_found"),
        ("GET", f"/v1/tasks/task_{'0' * 32}?view=pixapi", None, 404, "not_found"),
    ],
)
async def test_what_goes_wrong_around_pixapi_is_told_in_its_form(method, path, body, status, word):
    async with open_house(able()) as house:
        data = None if body is None else io.BytesIO(body)
        reply = await house.client.request(method, path, data=data, headers={"Content-Type": "application/json"})
        error = (await reply.json())["error"]

        assert (reply.status, error["code"], error["type"]) == (status, status, word)
        assert set(error) == {"code", "message", "type"}
        assert reply.headers["X-Error-Type"] == word


async def test_a_key_used_for_another_body_is_a_422_in_the_form_of_pixapi():
    async with open_house(able()) as house:
        headers = {"Idempotency-Key": "once"}
        _status, first = await post(house, PIXAPI, BODY, headers=headers)
        _status, again = await post(house, PIXAPI, BODY, headers=headers)
        status, other = await post(house, PIXAPI, {**BODY, "prompt": "a dog"}, headers=headers)

        assert again["id"] == first["id"]
        assert (status, other["error"]["code"], other["error"]["type"]) == (422, 422, "conflict")


@pytest.mark.parametrize("path", [PIXAPI, EDITS, FILMS, WORLDROUTER])
async def test_without_a_key_nothing_is_taken_and_the_surface_says_so_itself(path):
    async with open_house(able(), auth=True) as house:
        status, answer = await post(house, path, BODY)
        accepted, _task = await post(house, path, {}, headers={"Authorization": f"Bearer {ADMIN_KEY}"})

        assert (status, accepted) == (401, 400)
        assert answer["error"]["code"] == (401 if "async" in path else "invalid_api_key")


async def test_a_failed_task_of_pixapi_has_its_error_and_a_cancelled_one_a_499():
    async with open_house(able()) as house:
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        broken = await submitted(house, PIXAPI)
        _status, failed = await over(house, f"/v1/tasks/{broken['id']}")
        house.desk.open.clear()
        unwanted = await submitted(house, PIXAPI)
        status, cancelled = await post(house, f"/v1/tasks/{unwanted['id']}/cancel")
        refused, answer = await post(house, f"/v1/tasks/{broken['id']}/cancel")

        assert (failed["status"], failed["error"]["code"], failed["credits_cost"]) == ("failed", 400, 0)
        assert (status, cancelled["status"], cancelled["error"]["code"]) == (200, "failed", 499)
        assert cancelled["credits_cost"] is None or cancelled["credits_cost"] == 0
        assert (refused, answer["error"]["code"], answer["error"]["type"]) == (409, 409, "conflict")


async def test_a_cost_that_nobody_knows_is_null():
    async with open_house(able()) as house:
        house.desk.answers = [failing(FailureKind.UNKNOWN)]
        task = await submitted(house, PIXAPI)
        _status, failed = await over(house, f"/v1/tasks/{task['id']}")

        assert (failed["status"], failed["credits_cost"], failed["error"]["code"]) == ("failed", None, 504)


@pytest.mark.parametrize("path", [PIXAPI, EDITS, FILMS, WORLDROUTER])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"n": NaN}', 400), (b"[]", 400), (b"\xff", 400), (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", 400), (b"", 400)],
    ids=["NaN", "a list", "no text", "deep", "nothing"],
)
async def test_a_body_that_is_no_request_is_refused_in_the_form_of_its_surface(path, body, status):
    async with open_house(able()) as house:
        reply = await house.client.post(path, data=body, headers={"Content-Type": "application/json"})
        error = (await reply.json())["error"]

        assert (reply.status, reply.headers["X-Error-Type"]) == (status, "invalid_request")
        assert error["code"] == (status if "async" in path else "invalid_json")
        assert await rows(house) == []


@pytest.mark.parametrize("path", [PIXAPI, WORLDROUTER])
async def test_an_idempotency_key_of_300_characters_is_refused_by_name(path):
    async with open_house(able()) as house:
        status, answer = await post(house, path, BODY, headers={"Idempotency-Key": "k" * 300})

        assert status == 400
        assert "Idempotency-Key" in answer["error"]["message"]


@pytest.mark.parametrize("parts", [b"--x\r\nbroken", b""], ids=["cut", "empty"])
async def test_a_broken_form_of_pixapi_is_refused_in_its_form(parts):
    async with open_house(able()) as house:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        reply = await house.client.post(EDITS, data=parts, headers=headers)

        assert (reply.status, (await reply.json())["error"]["code"]) == (400, 400)


# -- all of them ------------------------------------------------------------------------------------------------------


async def test_every_spelling_of_an_id_works_on_every_path():
    async with open_house(able()) as house:
        for path in (PIXAPI, WORLDROUTER, DIEYUYUN):
            task = await submitted(house, path, {**BODY, "async": True})
            digits = task["id"].rpartition("_")[2]
            for prefix in ("task_", "imgtask_", "video_"):
                for where in ("/v1/tasks", WORLDROUTER):
                    reply = await house.client.get(f"{where}/{prefix}{digits}")
                    assert (reply.status, reply.headers["X-Task-Id"]) == (200, f"task_{digits}")


async def test_a_task_is_told_in_the_dialect_it_came_in_by_and_in_any_other_that_is_asked_for():
    async with open_house(able()) as house:
        tasks = {
            "pixapi": (await submitted(house, PIXAPI))["id"],
            "worldrouter": (await submitted(house, WORLDROUTER))["id"],
            "dieyuyun": (await submitted(house, DIEYUYUN, {**BODY, "async": True}))["id"],
            "native": (await post(house, "/v1/tasks", {"kind": "image.generation", "input": {"prompt": "x"}}))[1]["id"],
        }
        mark = {"pixapi": "credits_cost", "worldrouter": "task_id", "dieyuyun": "model_code", "native": "attempts"}
        for surface, task_id in tasks.items():
            _status, body = await over(house, f"/v1/tasks/{task_id}")
            assert mark[surface] in body
            for view, member in mark.items():
                status, body = await get(house, f"/v1/tasks/{task_id}?view={view}")
                assert (status, member in body) == (200, True)


async def test_a_task_of_the_openai_surface_is_native():
    async with open_house(able()) as house:
        reply = await house.client.post(DIEYUYUN, json=BODY)
        _status, body = await get(house, f"/v1/tasks/{reply.headers['X-Task-Id']}")

        assert (body["object"], body["surface"]) == ("task", "openai")


async def test_the_openai_view_of_a_picture_is_what_the_call_would_answer():
    async with open_house(able()) as house:
        house.desk.open.clear()
        task = await submitted(house, PIXAPI, {**BODY, "response_format": "url"})
        live, body = await get(house, f"/v1/tasks/{task['id']}?view=openai")
        house.desk.open.set()
        done, reply = await over(house, f"/v1/tasks/{task['id']}?view=openai")
        house.desk.answers = [failing(FailureKind.BAD_REQUEST)]
        broken = await submitted(house, PIXAPI)
        failed, error = await over(house, f"/v1/tasks/{broken['id']}?view=openai")

        assert (live, body["object"]) == (202, "task")
        assert (done, set(reply["data"][0])) == (200, {"url", "revised_prompt"})
        assert (failed, error["error"]["task_id"]) == (400, broken["id"])


@pytest.mark.parametrize("view", ["dieyuyun", "pixapi", "worldrouter"])
async def test_a_view_that_has_no_form_for_a_kind_is_refused_by_name(view):
    async with open_house(able()) as house:
        chat = {"kind": "chat.completion", "model": "talk", "input": {"messages": [{"role": "user", "content": "hi"}]}}
        _status, task = await post(house, "/v1/tasks", chat)
        reply = await house.client.get(f"/v1/tasks/{task['id']}?view={view}")

        assert (reply.status, reply.headers["X-Error-Type"]) == (400, "invalid_request")
        assert "view" in (await reply.json())["error"]["message"]


async def test_an_unknown_view_is_refused_before_anything_is_done():
    async with open_house(able()) as house:
        house.desk.open.clear()
        task = await submitted(house, PIXAPI)
        status, answer = await post(house, f"/v1/tasks/{task['id']}/cancel?view=cubist")
        _status, after = await get(house, f"/v1/tasks/{task['id']}")

        assert (status, answer["error"]["param"]) == (400, "view")
        assert after["status"] in {"submitted", "processing"}


async def test_a_dialects_own_path_knows_no_task_of_a_kind_it_cannot_show():
    async with open_house(able()) as house:
        film = await submitted(house, FILMS, {"model": "film", "prompt": "a wave"})
        refused, answer = await get(house, f"{WORLDROUTER}/{film['id']}")
        unknown, nothing = await get(house, f"{WORLDROUTER}/imgtask_{'0' * 32}")

        assert (refused, unknown) == (404, 404)
        assert {**answer["error"], "request_id": ""} == {**nothing["error"], "request_id": ""}


async def test_a_dieyuyun_task_is_cancelled_in_its_words_and_only_while_it_lives():
    async with open_house(able()) as house:
        house.desk.open.clear()
        task = await submitted(house, DIEYUYUN, {**BODY, "async": True})
        status, cancelled = await post(house, f"/v1/tasks/{task['id']}/cancel")
        again, same = await post(house, f"/v1/tasks/{task['id']}/cancel")
        house.desk.open.set()
        other = await submitted(house, DIEYUYUN, {**BODY, "async": True})
        await over(house, f"/v1/tasks/{other['id']}")
        refused, answer = await post(house, f"/v1/tasks/{other['id']}/cancel")

        assert (status, again, cancelled["status"], same["status"]) == (200, 200, "cancelled", "cancelled")
        assert set(cancelled) == {"id", "status", "progress", "model_code", "created_at", "updated_at"}
        assert (refused, answer["error"]["error_type"]) == (409, "conflict")


async def test_what_retention_has_removed_is_told_in_each_dialect():
    async with open_house(able(defaults=Defaults(retention_s=0.001))) as house:
        ids = {
            "pixapi": (await submitted(house, PIXAPI))["id"],
            "worldrouter": (await submitted(house, WORLDROUTER))["id"],
            "dieyuyun": (await submitted(house, DIEYUYUN, {**BODY, "async": True}))["id"],
        }
        for task_id in ids.values():
            await over(house, f"/v1/tasks/{task_id}?view=native")

        async def gone():
            await sweep(house.life.runtime)
            return all([(await get(house, f"/v1/tasks/{one}?view=native"))[1]["status"] == "expired"
                        for one in ids.values()])  # fmt: skip

        await poll_until(gone, "retention to remove the outputs")
        bodies = {surface: (await get(house, f"/v1/tasks/{one}"))[1] for surface, one in ids.items()}

        assert (bodies["pixapi"]["status"], bodies["pixapi"]["result"]["data"]) == ("completed", [])
        assert (bodies["pixapi"]["credits_cost"], bodies["worldrouter"]["data"]) == (3, [])
        assert bodies["worldrouter"]["status"] == "completed"
        assert bodies["dieyuyun"]["status"] == "expired"


async def test_pixapis_expired_task_that_never_started_has_failed_with_a_410():
    rules = able()
    rules = replace(rules, providers={name: replace(one, max_concurrency=1) for name, one in rules.providers.items()})
    async with open_house(rules) as house:
        house.desk.open.clear()
        await submitted(house, PIXAPI)
        await poll_until(lambda: house.desk.jobs, "the first to be out")
        late = await submitted(house, PIXAPI, {**BODY, "start_within": 0.05})
        _status, expired = await over(house, f"/v1/tasks/{late['id']}")

        assert (expired["status"], expired["error"]["code"], expired["error"]["type"]) == ("failed", 410, "expired")
