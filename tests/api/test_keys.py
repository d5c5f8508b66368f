"""API keys over HTTP: who is let in, what a key may do, what it is held to, and how operators make and end one."""

from dataclasses import replace

import pytest

from router.api.auth import hash_key, make_key
from router.events import KeyChanged
from router.keys import KeyScope
from router.persistence import Search, Unavailable
from router.policy.rules import Rate, Tenant
from router.store.memory import MemoryStore
from router.task import State
from tests.api.house import ADMIN_KEY, PEPPER, Desk, open_house, ruleset
from tests.waiting import poll_until

KEYS = "/admin/v1/keys"
BODY = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat"}}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


ADMIN = bearer(ADMIN_KEY)


async def make(house, tenant="acme", **more):
    """Make a key as an operator does; returns the answer's body."""
    reply = await house.client.post(KEYS, json={"tenant": tenant, **more}, headers=ADMIN)
    assert reply.status == 201, await reply.text()
    return await reply.json()


async def ask(house, method, path, key=None, json=None):
    """Ask with a key; returns status and body."""
    reply = await house.client.request(method, path, json=json, headers=bearer(key) if key else {})
    return reply.status, await reply.json()


async def submit(house, key, body=BODY):
    status, task = await ask(house, "POST", "/v1/tasks", key, body)
    assert status == 202, task
    return task["id"]


def plain(body):
    """An error without what differs from answer to answer."""
    return {name: value for name, value in body["error"].items() if name != "request_id"}


# -- making and showing -----------------------------------------------------------------------------------------------


async def test_a_made_key_works_in_both_headers_and_its_secret_is_shown_once():
    async with open_house(auth=True) as house:
        made = await make(house, name="press", expires_in="30d", rate_limit="100/1m", max_concurrency=3, models=["cat"])
        key = made.pop("key")

        assert made["object"] == "api_key"
        assert (made["tenant"], made["name"], made["state"]) == ("acme", "press", "active")
        assert (made["rate_limit"], made["max_concurrency"], made["models"]) == ("100/1m", 3, ["cat"])
        assert made["scopes"] == ["cancel", "generate", "read"]
        assert key.startswith(made["prefix"] + "_")
        assert (await ask(house, "GET", "/v1/tasks", key))[0] == 200
        assert (await house.client.get("/v1/tasks", headers={"x-api-key": key})).status == 200

        listed = await house.client.get(KEYS, headers=ADMIN)
        alone = await house.client.get(f"{KEYS}/{made['id']}", headers=ADMIN)
        assert (await listed.json())["data"] == [made] == [await alone.json()]
        secret = key.rpartition("_")[2]
        assert secret not in await listed.text() + await alone.text() + repr(await house.store.keys(None, None, 9))


async def test_keys_are_listed_in_pages_and_by_tenant():
    async with open_house(auth=True) as house:
        made = [(await make(house, tenant))["id"] for tenant in ("acme", "globex", "acme")]

        _status, first = await ask(house, "GET", f"{KEYS}?limit=2", ADMIN_KEY)
        _status, rest = await ask(house, "GET", f"{KEYS}?limit=2&cursor={first['next_cursor']}", ADMIN_KEY)
        _status, mine = await ask(house, "GET", f"{KEYS}?tenant=acme", ADMIN_KEY)

        assert sorted(one["id"] for one in first["data"] + rest["data"]) == sorted(made)
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
        assert {one["id"] for one in mine["data"]} == {made[0], made[2]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "*"}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": 7}, "tenant"),
        ({"tenant": "a" * 65}, "tenant"),
        ({"name": "line\nline"}, "name"),
        ({"name": "n" * 201}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": [["read"]]}, "scopes"),
        ({"models": []}, "models"),
        ({"models": ["dog"]}, "models"),
        ({"models": [7]}, "models"),
        ({"rate_limit": "often"}, "rate_limit"),
        ({"rate_limit": 5}, "rate_limit"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"max_concurrency": 1.5}, "max_concurrency"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -5}, "expires_in"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": 10**30}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"secret": "x"}, "secret"),
    ],
)
async def test_a_key_that_cannot_be_made_names_the_field_and_leaves_nothing(body, param):
    async with open_house(auth=True) as house:
        status, answer = await ask(house, "POST", KEYS, ADMIN_KEY, body)

        assert (status, answer["error"]["param"], answer["error"]["error_type"]) == (400, param, "invalid_request")
        assert await house.store.keys(None, None, 9) == ()


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "cursor=5", "tenant=*"])
async def test_a_listing_that_cannot_be_given_names_the_parameter(query):
    async with open_house(auth=True) as house:
        status, answer = await ask(house, "GET", f"{KEYS}?{query}", ADMIN_KEY)

        assert (status, answer["error"]["param"]) == (400, query.partition("=")[0])


async def test_an_unknown_key_is_404_and_what_happens_to_keys_is_told_without_secrets():
    async with open_house(auth=True) as house:
        told = []
        house.life.runtime.bus.subscribe(lambda event: told.append(event) if isinstance(event, KeyChanged) else None)
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/revoke"), ("POST", "/rotate")):
            status, body = await ask(house, method, f"{KEYS}/key_0{path}", ADMIN_KEY)
            assert (status, body["error"]["error_type"]) == (404, "not_found")
        made = await make(house)
        await ask(house, "POST", f"{KEYS}/{made['id']}/rotate", ADMIN_KEY)
        await ask(house, "DELETE", f"{KEYS}/{made['id']}", ADMIN_KEY)

        assert [(one.key_id, one.change, one.by) for one in told] == [
            (made["id"], change, None) for change in ("made", "rotated", "revoked")
        ]


# -- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer sk-any"},
        {"Authorization": f"Basic {ADMIN_KEY}"},
        bearer(make_key()),
        bearer("' or 1=1 --"),
        bearer("pm_aaaaaaaa_" + "b" * 51),
        bearer("pm_AAAAAAAA_" + "B" * 52),
        bearer("k" * 5000),
        {"x-api-key": "pm_käfer"},
        {"x-api-key": make_key()},
        {"Authorization": f"Bearer {make_key()}", "x-api-key": ADMIN_KEY},
    ],
)
async def test_whoever_has_no_valid_key_is_refused_in_the_same_words(headers):
    async with open_house(auth=True) as house:
        for method, path in (("GET", "/v1/tasks"), ("POST", "/v1/tasks"), ("GET", KEYS)):
            reply = await house.client.request(method, path, headers=headers)

            body = (await reply.json())["error"]
            assert (reply.status, body["error_type"], body["code"]) == (401, "unauthorized", "invalid_api_key")
            assert reply.headers["WWW-Authenticate"] == "Bearer"
            assert body["message"].startswith(("No API key was sent", "The API key is not valid"))


async def test_a_key_in_the_query_string_is_not_looked_at():
    async with open_house(auth=True) as house:
        made = await make(house)

        assert (await ask(house, "GET", f"/v1/tasks?api_key={made['key']}&key={made['key']}"))[0] == 401


async def test_a_revoked_key_is_refused_at_once_and_stays_revoked():
    async with open_house(auth=True) as house:
        for method, path in (("POST", "/revoke"), ("DELETE", "")):
            made = await make(house)
            assert (await ask(house, "GET", "/v1/models", made["key"]))[0] == 200

            status, revoked = await ask(house, method, f"{KEYS}/{made['id']}{path}", ADMIN_KEY)
            assert (status, revoked["state"]) == (200, "revoked")
            status, body = await ask(house, "GET", "/v1/models", made["key"])
            assert (status, "revoked" in body["error"]["message"]) == (401, True)

            assert await ask(house, "POST", f"{KEYS}/{made['id']}/revoke", ADMIN_KEY) == (200, revoked)
            assert (await ask(house, "POST", f"{KEYS}/{made['id']}/rotate", ADMIN_KEY))[0] == 409


async def test_a_key_expires_also_while_it_is_remembered():
    async with open_house(auth=True) as house:
        made = await make(house, expires_in=3600)
        assert (await ask(house, "GET", "/v1/models", made["key"]))[0] == 200

        (kept,) = await house.store.keys(None, None, 9)
        old = make_key()
        await house.store.add_key(replace(kept, id="key_old", hash=hash_key(old, PEPPER), expires_at=kept.created_at))
        status, body = await ask(house, "GET", "/v1/models", old)
        assert (status, "expired" in body["error"]["message"]) == (401, True)
        assert (await ask(house, "POST", f"{KEYS}/key_old/rotate", ADMIN_KEY))[0] == 409


async def test_after_a_rotation_both_secrets_work_for_the_grace_and_without_one_only_the_new():
    async with open_house(auth=True) as house:
        made = await make(house)
        status, rotated = await ask(house, "POST", f"{KEYS}/{made['id']}/rotate", ADMIN_KEY, {"grace_seconds": 60})
        assert (status, rotated["id"], rotated["tenant"]) == (200, made["id"], "acme")
        assert rotated["key"] != made["key"]
        assert rotated["former_secret_until"] > rotated["created_at"]
        for key in (made["key"], rotated["key"]):
            assert (await ask(house, "GET", "/v1/models", key))[0] == 200

        _status, last = await ask(house, "POST", f"{KEYS}/{made['id']}/rotate", ADMIN_KEY, {"grace_seconds": 0})
        answers = [(await ask(house, "GET", "/v1/models", one["key"]))[0] for one in (made, rotated, last)]
        assert answers == [401, 401, 200]
        assert last["former_secret_until"] is None


@pytest.mark.parametrize("grace", [-1, "long", 1.5, 10**9, True])
async def test_a_grace_that_cannot_be_given_names_the_field(grace):
    async with open_house(auth=True) as house:
        made = await make(house)
        status, body = await ask(house, "POST", f"{KEYS}/{made['id']}/rotate", ADMIN_KEY, {"grace_seconds": grace})

        assert (status, body["error"]["param"]) == (400, "grace_seconds")
        assert (await ask(house, "GET", "/v1/models", made["key"]))[0] == 200


async def test_without_auth_any_key_or_none_is_the_default_tenant():
    async with open_house() as house:
        made = await make(house, "acme", scopes=["read"])
        tasks = [await submit(house, key) for key in (made["key"], "sk-any", None)]

        kept = await house.store.search("default", Search(limit=9))
        assert {view.task.id for view in kept} == set(tasks)
        assert {view.task.key_id for view in kept} == {None}


async def test_while_the_store_is_away_nobody_new_is_let_in_and_readiness_still_answers():
    class Away(MemoryStore):
        away = False

        async def find_key(self, digest):
            if self.away:
                raise Unavailable("the database is away")
            return await super().find_key(digest)

    store = Away()
    async with open_house(auth=True, store=store) as house:
        store.away = True
        status, body = await ask(house, "GET", "/v1/models", make_key())

        assert (status, body["error"]["error_type"]) == (503, "unavailable")
        assert (await ask(house, "GET", "/readyz", make_key()))[0] == 200


# -- scopes -----------------------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/v1/tasks", "read", 200),
    ("GET", "/v1/tasks/task_0", "read", 404),
    ("GET", "/v1/models", "read", 200),
    ("POST", "/v1/route/explain", "read", 200),
    ("POST", "/v1/tasks", "generate", 202),
    ("POST", "/v1/images/generations", "generate", 200),
    ("POST", "/v1/tasks/task_0/retry", "generate", 404),
    ("POST", "/v1/tasks/task_0/cancel", "cancel", 404),
    ("GET", "/admin/v1/providers", "admin:read", 200),
    ("GET", KEYS, "admin:read", 200),
    ("POST", "/admin/v1/config/reload", "admin:write", 200),
    ("POST", f"{KEYS}/key_0/revoke", "admin:write", 404),
]


@pytest.mark.parametrize("scope", list(KeyScope))
async def test_a_key_may_do_what_its_scope_says_and_is_told_what_it_lacks(scope):
    async with open_house(auth=True) as house:
        made = await make(house, scopes=[scope.value])
        for method, path, needed, status in ROUTES:
            body = {"model": "cat", "prompt": "a cat"} if "/v1/images" in path or "explain" in path else BODY
            got, answer = await ask(house, method, path, made["key"], body if method == "POST" else None)
            if needed == scope or (needed == "admin:read" and scope == "admin:write"):
                assert got == status, (path, answer)
            else:
                assert (got, answer["error"]["error_type"]) == (403, "forbidden"), path
                assert answer["error"]["details"]["scope"] == needed
                assert needed in answer["error"]["message"]


async def test_a_key_of_an_operator_shows_in_what_it_does_and_is_no_admin_on_v1():
    async with open_house(auth=True) as house:
        told = []
        house.life.runtime.bus.subscribe(lambda event: told.append(event) if isinstance(event, KeyChanged) else None)
        operator = await make(house, scopes=["admin:write"])
        status, _made = await ask(house, "POST", KEYS, operator["key"], {"tenant": "globex"})

        assert status == 201
        assert told[-1].by == operator["id"]
        assert (await ask(house, "GET", "/v1/tasks", operator["key"]))[0] == 403


# -- tenants ----------------------------------------------------------------------------------------------------------


async def test_a_foreign_task_is_answered_like_one_that_never_was():
    async with open_house(auth=True) as house:
        mine, theirs = await make(house, "acme"), await make(house, "globex")
        task_id = await submit(house, mine["key"])
        random_id = "task_" + "0" * 32

        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            foreign = await ask(house, method, f"/v1/tasks/{task_id}{path}", theirs["key"])
            random = await ask(house, method, f"/v1/tasks/{random_id}{path}", theirs["key"])
            assert (foreign[0], plain(foreign[1])) == (random[0], plain(random[1]))
            assert foreign[0] == 404
        assert (await ask(house, "GET", "/v1/tasks", theirs["key"]))[1]["data"] == []
        assert (await ask(house, "GET", f"/v1/tasks/{task_id}", mine["key"]))[0] == 200


async def test_two_keys_of_one_tenant_see_the_same_tasks_and_each_task_says_whose_it_is():
    async with open_house(auth=True) as house:
        one, other = await make(house, "acme"), await make(house, "acme")
        task_id = await submit(house, one["key"])

        assert (await ask(house, "GET", f"/v1/tasks/{task_id}", other["key"]))[0] == 200
        task = (await house.store.view("acme", task_id)).task
        assert (task.tenant, task.key_id) == ("acme", one["id"])


async def test_two_tenants_do_not_share_an_idempotency_key():
    async with open_house(auth=True) as house:
        ids = set()
        for tenant in ("acme", "globex"):
            key = (await make(house, tenant))["key"]
            headers = {**bearer(key), "Idempotency-Key": "the same"}
            for _turn in range(2):
                reply = await house.client.post("/v1/tasks", json=BODY, headers=headers)
                ids.add((tenant, (await reply.json())["id"]))

        assert len(ids) == 2


async def test_tenants_start_in_proportion_to_their_weights():
    rules = ruleset(tenants={"big": Tenant("big", weight=3), "*": Tenant("*")})
    rules = replace(rules, providers={name: replace(one, max_concurrency=1) for name, one in rules.providers.items()})
    async with open_house(rules, auth=True, desk=Desk(is_open=False)) as house:
        keys = {tenant: (await make(house, tenant))["key"] for tenant in ("first", "big", "small")}
        await submit(house, keys["first"])  # takes the place while the others queue up
        await poll_until(lambda: house.desk.jobs, "the first call")
        for _turn in range(8):
            for tenant in ("big", "small"):
                await submit(house, keys[tenant], {**BODY, "input": {"prompt": tenant}})
        house.desk.open.set()
        await poll_until(lambda: len(house.desk.jobs) == 17, "all calls")

        begun = [job.input["prompt"] for job in house.desk.jobs[1:9]]
        assert (begun.count("big"), begun.count("small")) == (6, 2)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["film", "dog", "CAT", "cat ", "upstream-cat", "dall-e-3/x"])
async def test_a_model_that_the_key_may_not_use_is_as_unknown_as_one_that_is_not_there(name):
    async with open_house(auth=True) as house:
        made = await make(house, models=["dall-e-3"])  # an alias of cat
        assert made["models"] == ["cat"]
        kind = "video.generation" if name == "film" else "image.generation"
        refused = await ask(house, "POST", "/v1/tasks", made["key"], {**BODY, "kind": kind, "model": name})

        assert (refused[0], refused[1]["error"]["error_type"]) == (404, "model_not_found")
        assert refused[1]["error"]["message"] == f"The model {name!r} does not exist or is not available to you."
        assert await house.store.search("acme", Search(limit=9)) == ()


async def test_models_lists_what_both_the_tenant_and_the_key_may_use():
    rules = ruleset(tenants={"acme": Tenant("acme", models=frozenset({"cat"}))})
    async with open_house(rules, auth=True) as house:

        async def listed(key):
            return [one["id"] for one in (await ask(house, "GET", "/v1/models", key))[1]["data"]]

        film = await make(house, "globex", models=["film"])
        assert await listed(ADMIN_KEY) == ["cat", "film", "dall-e-3"]
        assert await listed(film["key"]) == ["film"]
        assert (await ask(house, "GET", "/v1/models/cat", film["key"]))[0] == 404
        assert await listed((await make(house, "acme"))["key"]) == ["cat", "dall-e-3"]
        assert await listed((await make(house, "acme", models=["film"]))["key"]) == []
        for alias in ("cat", "dall-e-3"):
            await submit(house, (await make(house, "acme", models=["cat"]))["key"], {**BODY, "model": alias})


async def test_the_rate_of_a_key_is_its_own_and_that_of_its_tenant_holds_besides():
    rules = ruleset(tenants={"acme": Tenant("acme", rate=Rate(3, 86_400.0))})
    async with open_house(rules, auth=True) as house:
        limited, free = await make(house, rate_limit="2/1d"), await make(house)
        for _turn in range(2):
            await submit(house, limited["key"])
        reply = await house.client.post("/v1/tasks", json=BODY, headers=bearer(limited["key"]))

        error = (await reply.json())["error"]
        assert (reply.status, error["error_type"], error["retryable"]) == (429, "rate_limited", True)
        assert "this API key (2 per 86400 s)" in error["message"]
        assert int(reply.headers["Retry-After"]) > 0
        await submit(house, free["key"])  # what the key refused has not counted at its tenant
        status, body = await ask(house, "POST", "/v1/tasks", free["key"], BODY)
        assert (status, "tenant acme (3 per" in body["error"]["message"]) == (429, True)
        assert (await ask(house, "GET", "/v1/tasks", limited["key"]))[0] == 200  # reading is not limited
        assert len(await house.store.search("acme", Search(limit=9))) == 3


async def test_no_more_tasks_of_a_key_run_than_it_may_and_its_tenants_other_tasks_pass():
    async with open_house(auth=True, desk=Desk(is_open=False)) as house:
        limited, free = await make(house, max_concurrency=2), await make(house)
        waiting = [await submit(house, limited["key"]) for _turn in range(5)]
        await poll_until(lambda: len(house.desk.jobs) == 2, "the two that may run")
        passing = await submit(house, free["key"])
        await poll_until(lambda: len(house.desk.jobs) == 3, "the other key's task")

        states = [(await house.store.view("acme", task_id)).task.state for task_id in (*waiting, passing)]
        assert states == [State.RUNNING] * 2 + [State.PENDING] * 3 + [State.RUNNING]
        house.desk.open.set()
        for task_id in (*waiting, passing):
            await poll_until(lambda task_id=task_id: has_ended(house, task_id), task_id)


async def test_after_a_restart_the_tasks_that_a_key_has_left_are_held_to_its_limit():
    store = MemoryStore()
    async with open_house(auth=True, store=store, desk=Desk(is_open=False)) as house:
        key = (await make(house, max_concurrency=1))["key"]
        tasks = [await submit(house, key) for _turn in range(4)]
        await poll_until(lambda: house.desk.jobs, "the first call")
        house.life.dispatcher.stop_taking()

    async with open_house(auth=True, store=store, desk=Desk(is_open=False)) as house:
        await poll_until(lambda: house.desk.jobs, "a call of the next life")
        other = await submit(house, ADMIN_KEY)
        await poll_until(lambda: len(house.desk.jobs) == 2, "the other caller's task")
        views = [await store.view("acme", task_id) for task_id in tasks]
        assert [view.task.state for view in views].count(State.RUNNING) == 1
        assert (await store.view("default", other)).task.state is State.RUNNING
        house.desk.open.set()
        for task_id in tasks:
            await poll_until(lambda task_id=task_id: has_ended(house, task_id), task_id)


async def has_ended(house, task_id):
    return (await house.store.view("acme", task_id)).task.is_terminal


async def test_a_submit_that_waits_for_a_place_of_its_key_can_be_cancelled():
    async with open_house(auth=True, desk=Desk(is_open=False)) as house:
        key = (await make(house, max_concurrency=1))["key"]
        _first, second, third = [await submit(house, key) for _turn in range(3)]
        await poll_until(lambda: house.desk.jobs, "the first call")
        assert (await ask(house, "POST", f"/v1/tasks/{second}/cancel", key))[0] == 200
        house.desk.open.set()

        await poll_until(lambda: has_ended(house, third), "the one behind it")
        assert len(house.desk.jobs) == 2
