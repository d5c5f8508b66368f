"""Forms: what the fields of one become, where its files go, and every way in which one can be wrong."""

import asyncio
import base64
import gzip
import io
import struct
import zlib

import pytest

from router.api.form_data import FormReader
from router.flow import uploads
from router.persistence import Search, Unavailable
from router.store.memory import MemoryStore
from tests.api.house import PNG, Desk, open_house
from tests.api.test_input_files import editing
from tests.waiting import poll_until

ROUTE = "/v1/images/edits"
BOUNDARY = "a-boundary-of-the-tests"
WEBP = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8 " + bytes(30)


def part(name, content, *, filename=None, kind=None, disposition="form-data"):
    """One part as clients write it; `filename` makes it a file."""
    head = f'Content-Disposition: {disposition}; name="{name}"'
    head += "" if filename is None else f'; filename="{filename}"'
    head += "" if kind is None else f"\r\nContent-Type: {kind}"
    return head.encode() + b"\r\n\r\n" + (content if isinstance(content, bytes) else content.encode())


def form(*parts, end=True):
    """A whole body."""
    delimiter = f"--{BOUNDARY}".encode()
    body = b"".join(delimiter + b"\r\n" + one + b"\r\n" for one in parts)
    return body + (delimiter + b"--\r\n" if end else b"")


def picture(name="image", content=PNG, **more):
    return part(name, content, **{"filename": "a.png", "kind": "image/png", **more})


async def post(house, body, content_type=f"multipart/form-data; boundary={BOUNDARY}", route=ROUTE, **headers):
    data = io.BytesIO(body) if isinstance(body, bytes) else body
    reply = await house.client.post(route, data=data, headers={"Content-Type": content_type, **headers})
    return reply.status, await reply.json()


async def rows_of(house):
    return await house.store.search("default", Search(limit=100))


def taking(*fields, **abilities):
    """A house whose targets take these fields in edits, besides the prompt."""
    return editing(fields=frozenset({"prompt", "n", *fields}), **abilities)


async def test_files_go_into_the_vault_under_the_task_and_to_the_adapter_by_what_their_bytes_say():
    body = form(
        part("prompt", "a hat on it"),
        picture("image[]"),
        picture("image[]", WEBP, filename="b.png"),
        picture("mask", b"<html>not a picture</html>", filename="mask.png"),
    )
    async with open_house(taking()) as house:
        status, reply = await post(house, body)

        assert status == 200, reply
        [job] = house.desk.jobs
        assert [(one.role.value, one.content_type, one.size) for one in job.files] == [
            ("image", "image/png", len(PNG)),
            ("image", "image/webp", len(WEBP)),
            ("mask", "application/octet-stream", 26),
        ]
        [row] = await rows_of(house)
        assert all(one.key.startswith(f"{row.task.id}/in/") for one in job.files)
        assert house.vault.objects[job.files[1].key] == WEBP
        assert await house.vault.listed() == ()


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "images", "images[]"])
async def test_every_way_to_name_a_picture_is_the_same(name):
    async with open_house(taking()) as house:
        status, reply = await post(house, form(part("prompt", "a hat"), picture(name)))

        assert status == 200, reply
        assert [one.role.value for one in house.desk.jobs[0].files] == ["image"]


async def test_text_becomes_what_json_would_have_said():
    fields = {
        "n": "1",
        "seed": "7",
        "scale": "7.5",
        "tiled": "true",
        "zip": "007",
        "words[]": "cat",
        "style_of[name]": "ink",
        "style_of[weights][]": "2",
        "negative_prompt": "7",
    }
    parts = [part(name, value) for name, value in fields.items()]
    async with open_house(taking("seed", "scale", "tiled", "zip", "words", "style_of", "negative_prompt")) as house:
        status, reply = await post(house, form(part("prompt", "42"), *parts, picture()))

        assert status == 200, reply
        assert house.desk.jobs[0].input == {
            "prompt": "42",
            "n": 1,
            "seed": 7,
            "scale": 7.5,
            "tiled": True,
            "zip": "007",
            "words": ["cat"],
            "style_of": {"name": "ink", "weights": [2]},
            "negative_prompt": "7",
        }


async def test_extras_are_read_from_brackets_and_from_json_in_a_part():
    parts = (part("metadata[order]", "7"), part("provider", '{"only": ["two"]}'), part("priority", "low"))
    async with open_house(taking()) as house:
        status, reply = await post(house, form(part("prompt", "a hat"), *parts, picture()))

        assert status == 200, reply
        [row] = await rows_of(house)
        assert (row.task.metadata, row.task.provider, row.task.priority.word) == ({"order": "7"}, "two", "low")


class Dripping:
    """A body that arrives in pieces of one size."""

    def __init__(self, body, size):
        self.pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def readany(self):
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize("size", [*range(1, 40), 10_000])
async def test_a_form_is_the_same_in_pieces_of_every_size(size):
    nearly = PNG + b"\r\n--" + BOUNDARY[:-1].encode() + b"\r\n"
    body = b"a preamble\r\n" + form(part("prompt", ""), picture(content=nearly)) + b"an epilogue"
    reader, read = FormReader(Dripping(body, size), BOUNDARY.encode()), []
    while (head := await reader.head()) is not None:
        read.append((head.name, head.filename, b"".join([piece async for piece in reader.body()])))

    assert read == [("prompt", None, b""), ("image", "a.png", nearly)]


async def test_a_picture_that_would_unfold_into_gigabytes_is_bytes_like_any_other():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9))
    async with open_house(taking()) as house:
        status, reply = await post(house, form(part("prompt", "a hat"), picture(content=bomb)))

        assert status == 200, reply  # nothing decodes it: it went on as it came
        assert house.vault.objects[house.desk.jobs[0].files[0].key] == bomb


GOOD = (part("prompt", "a hat"), picture())
BAD = {
    "a file without a picture": ((part("prompt", "a hat"),), 400, "image"),
    "18 files": ((part("prompt", "a hat"), *[picture("image[]")] * 18), 400, "image"),
    "65 parts": ((*GOOD, *[part(f"field{n}", "x") for n in range(63)]), 400, "field62"),
    "a 51 MiB image": ((part("prompt", "a hat"), picture(content=PNG + bytes(51 << 20))), 413, "image"),
    "a 10 MB prompt": ((part("prompt", "a" * 10_000_000), picture()), 413, "prompt"),
    "a prompt of 32,001 characters": ((part("prompt", "a" * 32_001), picture()), 400, "prompt"),
    "an empty file": ((part("prompt", "a hat"), picture(content=b"")), 400, "image"),
    "two masks": ((*GOOD, picture("mask"), picture("mask")), 400, "mask"),
    "a file in a field that takes none": ((*GOOD, picture("markup")), 400, "markup"),
    "a prompt that is a file": ((picture("prompt"), picture()), 400, "prompt"),
    "a picture with a word for a number": ((*GOOD, picture("image[first]")), 400, "image[first]"),
    "a prompt twice": ((part("prompt", "a hat"), *GOOD), 400, "prompt"),
    "a list that is also a value": ((*GOOD, part("words", "a"), part("words[]", "b")), 400, "words"),
    "brackets that do not close": ((*GOOD, part("words[", "a")), 400, "words["),
    "a prompt that is not UTF-8": ((part("prompt", b"\xff\xfe"), picture()), 400, "prompt"),
    "another charset": ((part("prompt", "a", kind="text/plain; charset=utf-16"), picture()), 400, "prompt"),
    "a number that is none": ((*GOOD, part("n", "NaN")), 400, "n"),
    "a truth value that is none": ((*GOOD, part("async", "maybe")), 400, "async"),
    "metadata that is no JSON": ((*GOOD, part("metadata", "{oops")), 400, "metadata"),
    "a part of another disposition": ((*GOOD, part("x", "x", disposition="attachment")), 400, None),
    "a part without a head": ((b"\r\nx", *GOOD), 400, None),
    "a head without an end": ((b"X-Long: " + b"x" * 10_000, *GOOD), 400, None),
    "a head that is not UTF-8": ((b"\xff\xff: x\r\n\r\nx", *GOOD), 400, None),
    "a part in base64": ((b"Content-Transfer-Encoding: base64\r\n" + part("prompt", "aGF0"), picture()), 400, "prompt"),
    "a model of 300 characters": ((*GOOD, part("model", "m" * 300)), 400, "model"),
}


@pytest.mark.parametrize(("parts", "status", "param"), BAD.values(), ids=BAD)
async def test_a_form_that_is_wrong_names_its_field_and_leaves_nothing(parts, status, param):
    async with open_house(taking()) as house:
        answered, body = await post(house, form(*parts))

        assert (answered, body["error"]["param"]) == (status, param), body
        assert body["error"]["billing"] == "not_billed"
        assert (house.desk.jobs, house.vault.objects, await rows_of(house)) == ([], {}, ())


BROKEN = {
    "no boundary": (form(*GOOD), "multipart/form-data", "Content-Type"),
    "another boundary": (form(*GOOD), "multipart/form-data; boundary=other", "Content-Type"),
    "a boundary that is too long": (form(*GOOD), f"multipart/form-data; boundary={'b' * 71}", "Content-Type"),
    "a body that ends in a file": (form(*GOOD, end=False)[:-9], None, "image"),
    "a body without its last boundary": (form(*GOOD, end=False), None, "image"),
    "an empty body": (b"", None, "Content-Type"),
    "a form called JSON": (form(*GOOD), "application/json", None),
    "JSON called a form": (b'{"prompt": "a hat"}', None, "Content-Type"),
}


@pytest.mark.parametrize(("body", "content_type", "param"), BROKEN.values(), ids=BROKEN)
async def test_a_body_that_is_no_form_is_a_400(body, content_type, param):
    async with open_house(taking()) as house:
        status, answer = await post(house, body, content_type or f"multipart/form-data; boundary={BOUNDARY}")

        assert (status, answer["error"]["param"]) == (400, param), answer
        assert (house.desk.jobs, house.vault.objects, await rows_of(house)) == ([], {}, ())


async def test_a_body_that_does_not_unpack_is_a_400():
    async with open_house(taking()) as house:
        status, _answer = await post(
            house, gzip.compress(form(*GOOD))[:40] + b"garbage", **{"Content-Encoding": "gzip"}
        )

        assert status == 400
        assert house.vault.objects == {}


async def test_a_form_that_announces_more_than_all_files_may_have_is_refused_before_it_is_read():
    async with open_house(taking()) as house:
        reply = await house.client.post(
            ROUTE,
            data=iter_nothing(),
            headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(2 << 30)},
        )

        assert reply.status == 413
        reply.close()


async def iter_nothing():
    yield b"--"


@pytest.mark.parametrize("change", [{"size": "1x"}, {"model": "dog"}, {"model": "film"}])
async def test_what_is_refused_after_the_files_have_come_leaves_none_of_them(change):
    parts = [part(name, value) for name, value in change.items()]
    async with open_house(taking()) as house:
        status, _body = await post(house, form(*GOOD, *parts))

        assert status in {400, 404}
        assert (house.vault.objects, await rows_of(house)) == ({}, ())


async def test_a_repeat_attaches_whatever_its_boundary_and_the_order_of_its_fields_and_leaves_no_second_copy():
    desk = Desk(is_open=False)
    async with open_house(taking(), desk=desk) as house:
        headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
        _status, first = await post(house, form(*GOOD), **headers)
        kept = dict(house.vault.objects)
        other = form(*reversed(GOOD)).replace(BOUNDARY.encode(), b"another")
        _status, again = await post(house, other, "multipart/form-data; boundary=another", **headers)
        status, _refused = await post(house, form(part("prompt", "a hat"), picture(content=PNG + b"x")), **headers)

        assert again["id"] == first["id"]
        assert status == 422
        assert house.vault.objects == kept
        assert len(await rows_of(house)) == 1


async def test_uploads_whose_row_never_came_are_swept_after_an_hour_and_the_others_are_not():
    async with open_house(taking()) as house:
        runtime, vault = house.life.runtime, house.vault
        _status, task = await post(house, form(*GOOD), Prefer="respond-async")
        now = runtime.now()
        late = await left_behind(vault, "task_" + "0" * 32, now - uploads.ROWLESS_MAX_MS - 1)
        young = await left_behind(vault, "task_" + "1" * 32, now - uploads.ROWLESS_MAX_MS + 60_000)
        # As a crash between the row and the mark leaves it.
        await left_behind(vault, task["id"], now - uploads.ROWLESS_MAX_MS - 1)

        assert await uploads.sweep(runtime) == 1
        assert not [key for key in vault.objects if late in key]
        assert f"{young}/in/part-0" in vault.objects
        assert f"{task['id']}/in/part-0" in vault.objects
        assert await vault.listed() == (f"pending/{young}",)


async def left_behind(vault, task_id, at):
    """What a daemon leaves that stops between a file and its row."""
    folder = uploads.Folder("default", task_id)
    key = uploads.key_of(task_id, 0, arriving=True)
    await uploads.begin(vault, folder, key, at)
    async with vault.create(key) as sink:
        await sink.write(PNG)
    return task_id


class Mute(MemoryStore):
    """A store of which nobody knows whether it has taken the row."""

    async def admit(self, task, demands):
        raise Unavailable("gone")


async def test_files_stay_marked_where_nobody_knows_whether_the_row_was_written():
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    async with open_house(taking(), store=Mute()) as house:
        status, _answer = await post(house, form(*GOOD))
        reply = await house.client.post(ROUTE, json={"prompt": "a hat", "images": [{"image_url": uri}]})

        assert (status, reply.status) == (503, 503)
        marks = await house.vault.listed()
        assert len(marks) == 2
        assert [len([key for key in house.vault.objects if mark[8:] in key]) for mark in marks] == [2, 2]


async def test_a_native_task_may_bring_its_files_in_a_form():
    fields = {"kind": "image.edit", "input[prompt]": "42", "input[n]": "1", "metadata[order]": "7"}
    parts = [part(name, value) for name, value in fields.items()]
    async with open_house(taking()) as house:
        status, task = await post(house, form(*parts, picture("image[]"), picture("input[mask]")), route="/v1/tasks")

        assert status == 202, task
        assert (task["input"]["prompt"], task["input"]["n"], task["metadata"]) == ("42", 1, {"order": "7"})
        assert [row["role"] for row in task["input"]["files"]] == ["image", "mask"]


async def test_a_native_form_may_write_its_input_as_json():
    parts = (part("kind", "image.edit"), part("input", '{"prompt": "a hat"}'), picture())
    async with open_house(taking()) as house:
        status, task = await post(house, form(*parts), route="/v1/tasks")

        assert (status, task["input"]["prompt"]) == (202, "a hat")


async def test_a_caller_that_hangs_up_in_the_middle_of_a_file_leaves_nothing():
    complaints = []
    async with open_house(taking()) as house:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        reader, writer = await asyncio.open_connection(house.client.host, house.client.port)
        head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        writer.write(head.encode() + b"Content-Length: 100000\r\n\r\n" + form(*GOOD, end=False)[:-9])
        await writer.drain()
        await poll_until(lambda: house.vault.objects, "the mark of the upload")
        writer.close()
        await poll_until(lambda: not house.vault.objects, "the upload to be removed")

        assert (complaints, await rows_of(house)) == ([], ())
        await reader.read()
