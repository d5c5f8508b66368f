"""What the adapter of Ark sends, against what Ark's own SDK was recorded to send (`recorded/ark.yaml`).

The SDK writes an explicit null for every option that is unset, so that its bodies name every field there is.
"""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from providers import load
from router.provider import Handle, Kind
from tests.providers.exchange import Script, drive, exchanges_of, job_of, reply_of, shown

RECORDED = yaml.safe_load((Path(__file__).parent / "recorded" / "ark.yaml").read_text(encoding="utf-8"))["requests"]
LINK = "https://caller.example/a.png"
SENT = [
    pytest.param(request, id=f"{one.name}-{number}")
    for one in exchanges_of("ark")
    for number, request in enumerate(one.play()[1])
]
TASKS = "/contents/generations/tasks"
# The adapter always says these two: no mark in the picture, and a link rather than base64.
OURS = {"watermark", "response_format"}


def place_of(method, path):
    """An endpoint: the name of a task stands for any."""
    before, tasks, name = path.partition(f"{TASKS}/")
    return method, f"{before}{TASKS}/NAME" if tasks and name else path


def endpoints():
    """The fields that the SDK has for each endpoint."""
    found = {}
    for one in RECORDED.values():
        found.setdefault(place_of(one["method"], one["path"]), set()).update(one.get("json") or {})
    return found


def without_nulls(value):
    match value:
        case dict():
            return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
        case list():
            return [without_nulls(inner) for inner in value]
        case _:
            return value


def sent_by(kind, model, said, *files):
    script = Script(reply_of({"status": 500}))
    drive(load("ark").submit(job_of("ark", kind=kind, model=model, input=said, files=files), script))
    [request] = script.sent
    return shown(request)


def picture(role="image", url=LINK):
    return {"role": role, "url": url}


@pytest.mark.parametrize("request_", SENT)
def test_every_request_goes_where_the_sdk_sends_it_under_the_names_that_it_has(request_):
    named = endpoints()
    place = place_of(request_.method, urlsplit(request_.url).path)
    assert place in named
    assert set(request_.json or {}) <= named[place]


@pytest.mark.parametrize(
    ("name", "kind", "said", "files"),
    [
        ("image_inline", "image.generation", {"prompt": "a red fox", "size": "1024x1536"}, ()),
        ("image_batch", "image.generation", {"prompt": "a red fox", "size": "2K", "n": 4}, ()),
        ("image_from_one", "image.edit", {"prompt": "give it a hat", "size": "2K"}, (picture(),)),
        ("film", "video.generation", {"prompt": "a cat runs", "size": "1280x720", "seconds": "5"}, ()),
    ],
)
def test_what_a_caller_asks_is_written_as_the_sdk_writes_it(name, kind, said, files):
    wanted = without_nulls(RECORDED[name]["json"])
    body = sent_by(kind, wanted["model"], said, *files)["json"]
    assert {k: v for k, v in body.items() if k not in OURS} == {k: v for k, v in wanted.items() if k not in OURS}


def test_the_frames_of_a_film_are_the_parts_that_the_sdk_sends():
    wanted = RECORDED["film_from_frames"]["json"]
    files = (picture("first_frame"), {"role": "last_frame", "key": "in/0", "content_type": "image/png"})
    body = sent_by("video.generation", wanted["model"], {"prompt": "a cat runs"}, *files)["json"]
    told, kept = body["content"], wanted["content"]
    assert [part | {"image_url": None} if "image_url" in part else part for part in told] == [
        part | {"image_url": None} if "image_url" in part else part for part in kept
    ]
    assert told[1] == kept[1]


def test_a_task_is_read_and_deleted_under_the_paths_of_the_sdk():
    name = RECORDED["task"]["path"].rpartition("/")[2]
    script = Script([reply_of({"status": 200, "json": {"status": "queued"}}), reply_of({"status": 200, "json": {}})])
    drive(load("ark").cancel(Handle(name), job_of("ark", kind=Kind.VIDEO_GENERATION.value), script))
    told = [(one.method, urlsplit(one.url).path) for one in script.sent]
    assert told[:2] == [(RECORDED[one]["method"], RECORDED[one]["path"]) for one in ("task", "delete")]
