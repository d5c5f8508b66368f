"""Bad input: a 4xx in the contract's form that names the field; nothing is sent, charged or kept. On every store."""

import asyncio
import gzip
import io
import json

import aiohttp
import pytest
from yarl import URL

from providers import simulated
from router.persistence import Search
from tests.api.house import ADMIN_KEY, open_house
from tests.daemons import ADMIN_KEY as DAEMON_KEY
from tests.daemons import running_daemon, write_routing
from tests.postgres import shared_server

IMAGES, TASKS, EXPLAIN = "/v1/images/generations", "/v1/tasks", "/v1/route/explain"
KEYS = "/admin/v1/keys"
CAT = {"model": "cat", "prompt": "a cat"}
NATIVE = {"kind": "image.generation", "input": {"prompt": "a cat"}}
JSON = {"Content-Type": "application/json"}
ERROR_FIELDS = {
    "message",
    "type",
    "param",
    "code",
    "error_type",
    "retryable",
    "billing",
    "task_id",
    "request_id",
    "details",
    "attempts",
}

# name -> (the text of the body, the field at fault, the code)
TEXTS = {
    "nothing": (b"", None, "invalid_json"),
    "malformed": (b'{"prompt": "a cat"', None, "invalid_json"),
    "not an object": (b'["a cat"]', None, "invalid_json"),
    "NaN": (b'{"prompt": "a cat", "n": NaN}', None, "invalid_json"),
    "Infinity": (b'{"prompt": "a cat", "n": -Infinity}', None, "invalid_json"),
    "an endless number": (b'{"prompt": "a cat", "seed": 1e999}', None, "invalid_json"),
    "trailing garbage": (b'{"prompt": "a cat"} {"n": 2}', None, "invalid_json"),
    "a lone surrogate": (b'{"prompt": "\\ud800 cat"}', None, "invalid_json"),
    "bytes that are no UTF-8": (b'{"prompt": "\xff cat"}', None, "invalid_json"),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt": "a cat"}', None, "invalid_json"),
    "a raw control character": (b'{"prompt": "a\x00cat"}', None, "invalid_json"),
    "nested beyond the parser": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "invalid_json"),
    "nested 65 deep": (b'{"prompt": "a cat", "seed": ' + b"[" * 64 + b"]" * 64 + b"}", "seed", "invalid_json"),
    "a repeated name": (b'{"prompt": "a cat", "n": 1, "n": 10}', "n", "repeated_field"),
    "a name repeated in other letters": (b'{"prompt": "a cat", "n": 1, "\\u006e" : 2}', "n", "repeated_field"),
    "a repeated name below": (b'{"prompt": "a cat", "metadata": {"a": "1", "a": "2"}}', "a", "repeated_field"),
    "an escaped NUL": (b'{"prompt": "a\\u0000cat"}', "prompt", "invalid_request"),
    "a NUL below": (b'{"prompt": "a cat", "metadata": {"a": "\\u0000"}}', "metadata.a", "invalid_request"),
    "a NUL in a list": (b'{"prompt": "a cat", "seed": [1, "\\u0000"]}', "seed[1]", "invalid_request"),
    "a NUL in a name": (b'{"prompt": "a cat", "metadata": {"\\u0000": "x"}}', "metadata", "invalid_request"),
    "a number beyond 64 bits": (b'{"prompt": "a cat", "seed": 123456789012345678901}', "seed", "invalid_request"),
    "more values than a body has": (
        b'{"prompt": "a cat", "seed": [' + b"1," * 100_000 + b"1]}",
        "seed",
        "invalid_json",
    ),
}
# Content types that are refused with a body that would be good.
TYPES = {
    "another type": ("text/plain", "unsupported_content_type"),
    "a form": ("application/x-www-form-urlencoded", "unsupported_content_type"),
    "another charset": ("application/json; charset=utf-16", "unsupported_charset"),
    "a quoted charset": ('application/json; charset="latin-1"', "unsupported_charset"),
}
# Fields of a submit that are wrong, and which.
FIELDS = {
    "a sort that is a list": ({"provider": {"sort": ["price"]}}, "provider.sort"),
    "a ceiling beyond all money": ({"provider": {"max_price": {"task": "1e30"}}}, "provider.max_price.task"),
    "a ceiling finer than money": ({"provider": {"max_price": {"task": 1e-300}}}, "provider.max_price.task"),
    "names that are numbers": ({"provider": {"only": [1]}}, "provider.only"),
    "an unknown preference": ({"provider": {"cheapest": True}}, "provider.cheapest"),
    "17 pairs": ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    "a pair that is no text": ({"metadata": {"a": 1}}, "metadata"),
    "a priority that is a list": ({"priority": ["high"]}, "priority"),
    "a deadline of no time": ({"timeout": 0}, "timeout"),
    "a deadline beyond all": ({"timeout": 1e300}, "timeout"),
    "a start that is true": ({"start_within": True}, "start_within"),
}
# Fields of a picture that are wrong, and which.
PICTURES = {
    "no prompt": ({"prompt": None}, "prompt"),
    "a prompt that is a list": ({"prompt": ["a cat"]}, "prompt"),
    "a prompt of 32,001 characters": ({"prompt": "x" * 32_001}, "prompt"),
    "11 images": ({"n": 11}, "n"),
    "a huge number of images": ({"n": 2**63}, "n"),
    "half an image": ({"n": 1.5}, "n"),
    "a size that is none": ({"size": "large"}, "size"),
    "a size with NUL digits": ({"size": "9" * 400 + "x1"}, "size"),
    "a quality that is an object": ({"quality": {"a": 1}}, "quality"),
    "bad base64": ({"image": "data:image/png;base64,@@@@"}, "image"),
    "no base64": ({"image": "data:image/png,plain"}, "image"),
    "an empty file": ({"image": "data:image/png;base64,"}, "image"),
    "a file by another scheme": ({"image": "file:///etc/passwd"}, "image"),
    "17 files": ({"image": [f"https://example.com/{number}.png" for number in range(17)]}, "image"),
}


def refused(status, headers, body, param):
    """Check a refusal: its form, that it names the field, and that it says that nothing was paid."""
    error = body["error"]
    assert 400 <= status < 500
    assert set(error) == ERROR_FIELDS
    assert headers["X-Error-Type"] == error["error_type"]
    assert error["billing"] == "not_billed"
    assert error["task_id"] is None
    assert error["param"] == param
    return error


async def nothing_happened(house):
    """Nothing was sent to a provider, and no row was made."""
    assert house.desk.jobs == []
    assert await house.store.search("default", Search(limit=10)) == ()


@pytest.mark.parametrize("path", [IMAGES, TASKS, EXPLAIN])
@pytest.mark.parametrize("case", TEXTS)
async def test_a_text_that_is_not_strictly_json_is_refused_by_name(path, case):
    text, param, code = TEXTS[case]
    async with open_house() as house:
        reply = await house.client.post(path, data=text, headers=JSON)
        error = refused(reply.status, reply.headers, await reply.json(), param)
        assert (reply.status, error["code"]) == (400, code)
        await nothing_happened(house)


@pytest.mark.parametrize("path", [IMAGES, TASKS, EXPLAIN])
@pytest.mark.parametrize("case", TYPES)
async def test_a_body_of_another_type_or_charset_is_refused(path, case):
    content_type, code = TYPES[case]
    async with open_house() as house:
        reply = await house.client.post(path, data=json.dumps(CAT).encode(), headers={"Content-Type": content_type})
        error = refused(reply.status, reply.headers, await reply.json(), "Content-Type")
        assert error["code"] == code
        await nothing_happened(house)


async def test_json_by_its_other_names_and_without_a_type_is_read():
    async with open_house() as house:
        for said in ("application/json; charset=UTF-8", "application/vnd.cat+json"):
            reply = await house.client.post(EXPLAIN, data=json.dumps(CAT).encode(), headers={"Content-Type": said})
            assert reply.status == 200, await reply.text()
        untyped = await house.client.post(
            EXPLAIN, data=json.dumps(CAT).encode(), skip_auto_headers=["Content-Type"], headers={}
        )
        assert untyped.status == 200, await untyped.text()


async def test_words_with_colons_and_braces_are_no_repeated_names():
    async with open_house() as house:
        tricky = {**CAT, "prompt": '{"prompt": "a", "prompt" : "b"}', "user": "http://a:b"}
        reply = await house.client.post(EXPLAIN, json=tricky)
        assert reply.status == 200, await reply.text()


@pytest.mark.parametrize("case", FIELDS)
async def test_a_bad_extra_is_refused_by_name_on_every_surface(case):
    change, param = FIELDS[case]
    async with open_house() as house:
        for path, body in ((IMAGES, CAT), (IMAGES, {**CAT, "async": True}), (TASKS, NATIVE), (EXPLAIN, CAT)):
            reply = await house.client.post(path, json={**body, **change})
            refused(reply.status, reply.headers, await reply.json(), param)
        await nothing_happened(house)


@pytest.mark.parametrize("case", PICTURES)
async def test_a_bad_field_of_a_picture_is_refused_by_name(case):
    change, param = PICTURES[case]
    async with open_house() as house:
        reply = await house.client.post(IMAGES, json={**CAT, **change})
        refused(reply.status, reply.headers, await reply.json(), param)
        reply = await house.client.post(TASKS, json={**NATIVE, "input": {**NATIVE["input"], **change}})
        error = refused(reply.status, reply.headers, body := await reply.json(), body["error"]["param"])
        assert error["param"].removeprefix("input.") == param
        await nothing_happened(house)


@pytest.mark.parametrize("kind", [None, 7, ["image.generation"], {"a": 1}, "image", "IMAGE.GENERATION"])
async def test_a_kind_that_is_none_is_refused_by_name(kind):
    async with open_house() as house:
        for path in (TASKS, EXPLAIN):
            reply = await house.client.post(path, json={**NATIVE, "kind": kind})
            refused(reply.status, reply.headers, await reply.json(), "kind")
        await nothing_happened(house)


async def test_a_prompt_of_10_mb_is_too_large_where_only_words_go_and_too_long_where_files_may_go():
    prompt = "x" * 10_000_000
    async with open_house() as house:
        for path in (IMAGES, EXPLAIN):
            reply = await house.client.post(
                path, data=io.BytesIO(json.dumps({**CAT, "prompt": prompt}).encode()), headers=JSON
            )
            error = refused(reply.status, reply.headers, await reply.json(), None)
            assert (reply.status, error["details"]) == (413, {"max_bytes": 1 << 20})
        native = {**NATIVE, "input": {"prompt": prompt}}
        reply = await house.client.post(TASKS, data=io.BytesIO(json.dumps(native).encode()), headers=JSON)
        refused(reply.status, reply.headers, await reply.json(), "prompt")
        await nothing_happened(house)


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [("gzip", b"no gzip"), ("gzip", gzip.compress(json.dumps(CAT).encode())[:-12]), ("deflate", b"\x00no deflate")],
)
async def test_a_body_that_does_not_unpack_is_refused(encoding, raw):
    async with open_house() as house:
        for path in (IMAGES, TASKS, EXPLAIN):
            headers = {**JSON, "Content-Encoding": encoding}
            reply = await house.client.post(path, data=raw, headers=headers)
            assert 400 <= reply.status < 500, await reply.text()
        await nothing_happened(house)


@pytest.mark.parametrize("key", ["", "k" * 256, "k" * 300, "a\tb"])
async def test_an_idempotency_key_out_of_bounds_is_refused_by_name(key):
    async with open_house() as house:
        for path, body in ((IMAGES, CAT), (TASKS, NATIVE)):
            reply = await house.client.post(path, json=body, headers={"Idempotency-Key": key})
            refused(reply.status, reply.headers, await reply.json(), "Idempotency-Key")
        await nothing_happened(house)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e1", "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=W10", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-13-01", "created_after"),
        ("idempotency_key=", "idempotency_key"),
        (f"idempotency_key={'k' * 256}", "idempotency_key"),
        ("model=%00", "model"),
        ("provider=a%00b", "provider"),
        ("idempotency_key=%00", "idempotency_key"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(query, param):
    async with open_house() as house:
        reply = await house.client.get(URL(f"{TASKS}?{query}", encoded=True))
        refused(reply.status, reply.headers, await reply.json(), param)


async def test_a_cursor_of_somebody_else_is_refused():
    async with open_house() as house:
        ids = [(await (await house.client.post(TASKS, json=NATIVE)).json())["id"] for _ in range(3)]
        page = await (await house.client.get(TASKS, params={"limit": "1"})).json()
        assert page["data"][0]["id"] == ids[-1]
    async with open_house(secret=b"of another daemon") as house:
        reply = await house.client.get(TASKS, params={"limit": "1", "cursor": page["next_cursor"]})
        refused(reply.status, reply.headers, await reply.json(), "cursor")


ODD_IDS = ["%00", "task_%00", "..%2F..%2Fetc", "%C3%A9", "x" * 300, "task_" + "g" * 32, "%F0%9F%90%88", "a%0Ab"]


@pytest.mark.parametrize("task_id", ODD_IDS)
async def test_an_id_that_is_none_is_not_found_in_the_same_words_as_any_other(task_id):
    async with open_house() as house:
        random = await house.client.get(f"{TASKS}/task_{'0' * 32}")
        expected = (await random.json())["error"]["message"]
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            reply = await house.client.request(method, URL(f"{TASKS}/{task_id}{path}", encoded=True))
            error = refused(reply.status, reply.headers, await reply.json(), None)
            assert (reply.status, error["message"]) == (404, expected)


@pytest.mark.parametrize(
    "query",
    ["", "?exp=1", "?exp=1&sig=1", "?exp=%00&sig=1.%00", "?exp=99999999999&sig=1.%C3%A9", "?exp=9&sig=%FF.%FF"],
)
async def test_a_link_that_nobody_signed_is_forbidden(query):
    async with open_house() as house:
        for number in ("0", "%00", "-1", "%D9%A3"):
            reply = await house.client.get(URL(f"/v1/files/task_{'0' * 32}/{number}{query}", encoded=True))
            assert (reply.status, reply.headers["X-Error-Type"]) == (403, "forbidden")


@pytest.mark.parametrize("header", [b"Authorization: Bearer \xff\xfe", b"x-api-key: \xff", b"Authorization: Bearer"])
async def test_a_key_that_is_no_text_is_not_valid(header):
    async with open_house(auth=True) as house:
        status, body = await ask_raw(house.client.server, b"GET /v1/tasks HTTP/1.1\r\n" + header)
        assert (status, json.loads(body)["error"]["error_type"]) == (401, "unauthorized")


async def test_a_configuration_that_is_no_text_is_refused_by_name():
    async with open_house(auth=True) as house:
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        for content_type, raw, param in (
            ("application/json", b'{"config": 7}', "config"),
            ("application/json", b'{"config": "a", "config": "b"}', "config"),
            ("application/json", b"{", None),
            ("application/yaml", b"\xff", None),
        ):
            headers = {**admin, "Content-Type": content_type}
            reply = await house.client.post("/admin/v1/config/check", data=raw, headers=headers)
            refused(reply.status, reply.headers, await reply.json(), param)


async def test_on_postgresql_too_it_is_refused_and_nothing_is_kept(tmp_path):
    async with simulated.start("openai", options=simulated.Options(time_scale=0.0, latency_s=0.0)) as provider:
        write_routing(tmp_path, a=provider.base_url)
        async with (
            running_daemon(tmp_path, database_url=shared_server().create()) as daemon,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {DAEMON_KEY}"}) as client,
        ):

            async def answered(method, path, **more):
                async with client.request(method, URL(daemon.url + path, encoded=True), **more) as reply:
                    assert 400 <= reply.status < 500, (path, more, await reply.text())
                    assert set((await reply.json())["error"]) == ERROR_FIELDS

            for text, _param, _code in TEXTS.values():
                for path in (IMAGES, TASKS, EXPLAIN):
                    await answered("POST", path, data=text, headers=JSON)
            for task_id in ODD_IDS:
                for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
                    await answered(method, f"{TASKS}/{task_id}{path}")
                for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/revoke"), ("POST", "/rotate")):
                    await answered(method, f"{KEYS}/{task_id}{path}")
            for query in ("model=%00", "provider=%00", "idempotency_key=%00", "cursor=%00"):
                await answered("GET", f"{TASKS}?{query}")
            for query in ("cursor=%00", "tenant=a%00"):
                await answered("GET", f"{KEYS}?{query}")
            async with client.get(f"{daemon.url}{TASKS}", params={"created_after": "999999999999"}) as reply:
                assert (reply.status, (await reply.json())["data"]) == (200, [])
            async with client.get(f"{daemon.url}{TASKS}") as reply:
                assert (await reply.json())["data"] == []
            assert provider.bill.submitted == 0


# -- parts ----------------------------------------------------------------------------------------------------------


async def ask_raw(server, head):
    """Send a request's head byte by byte as it stands; returns status and body."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(head + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ")[1]), body
