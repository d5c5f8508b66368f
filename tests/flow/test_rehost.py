"""Copies of results: whole and checked or not there at all, and how long it is worth trying. Time is virtual."""

import base64
import io
import json
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
from PIL import Image

from router.flow.rehost import PIECE_BYTES, PIECE_CHARS, Unfetchable, store_outputs
from router.policy.media import MAX_IMAGE_BYTES
from router.provider import Media
from router.task import Output
from router.world import FetchBroken, FetchFailed, VaultFull, World, seeded_dice
from tests.sim.loop import VirtualLoop

URL = "https://delivery.test/a.png?sig=1"


def draw(size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = draw()
LARGE = PICTURE + bytes(range(256)) * 4096 * 3
MP4 = struct.pack(">I", 24) + b"ftypisom" + bytes(4) + b"mp42isom" + bytes(1000)


class MemoryVault:
    """Objects in a dict; the first `full_for` find no room."""

    def __init__(self, full_for=0):
        self.objects = {}
        self.full_for = full_for
        self.largest_write = 0

    @asynccontextmanager
    async def create(self, key):
        pieces, vault = [], self

        class Sink:
            async def write(self, chunk):
                vault.largest_write = max(vault.largest_write, len(chunk))
                pieces.append(bytes(chunk))

        yield Sink()
        if self.full_for:
            self.full_for -= 1
            raise VaultFull("No space left on device")
        self.objects[key] = b"".join(pieces)

    async def delete(self, key):
        self.objects.pop(key, None)


@dataclass
class Arriving:
    content: list
    content_type: str = "application/octet-stream"
    length: int | None = None

    async def chunks(self):
        for chunk in self.content:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


@dataclass
class ScriptedFetcher:
    """Answers the fetches of each URL in turn; the last answer stays. Notes when and what it was asked."""

    answers: dict
    asked: list = field(default_factory=list)
    headers: list = field(default_factory=list)

    @asynccontextmanager
    async def open(self, url, allowed_origin, timeout_s, headers):
        self.asked.append((url, allowed_origin, timeout_s))
        self.headers.append(dict(headers))
        script = self.answers[url]
        yield script.pop(0) if len(script) > 1 else script[0]


def run(coro):
    """Run on a virtual clock; return the result and how many seconds went by."""
    loop = VirtualLoop(0.0)
    try:
        return loop.run_until_complete(coro), loop.time()
    finally:
        loop.close()


async def inline(work):
    return work()


def world_of(answers=None, vault=None, offload=inline):
    fetcher = ScriptedFetcher(answers or {})
    return World(
        clock=None,
        dice=seeded_dice(7),
        call=None,
        listen=None,
        fetch=fetcher,
        store=None,
        vault=vault or MemoryVault(),
        offload=offload,
        adapter=None,
    )


def store(world, *media, timeout_s=60.0, **more):
    return run(store_outputs(world, media, key_prefix="task_1/1", allowed_origin=None, timeout_s=timeout_s, **more))


def store_bytes(content, way, **more):
    """Store one output that is handed over as a URL or as base64; return (result, seconds, world)."""
    if way == "url":
        world = world_of({URL: [Arriving([content])]})
        return *store(world, Media(url=URL), **more), world
    world = world_of()
    return *store(world, Media(b64=base64.b64encode(content).decode()), **more), world


WAYS = pytest.mark.parametrize("way", ["url", "b64"])


@WAYS
@pytest.mark.parametrize("content", [PICTURE, LARGE], ids=["small", "large"])
def test_a_picture_is_stored_with_what_is_known_of_it(way, content):
    (stored,), _, world = store_bytes(content, way)

    assert stored == Output("task_1/1/0", "image/png", len(content), sha256(content).hexdigest(), 40, 30)
    assert world.vault.objects == {"task_1/1/0": content}


def test_a_film_is_stored_without_a_size_in_pixels_and_the_prompt_is_kept():
    world = world_of({URL: [Arriving([MP4])]})
    (stored,), _ = store(world, Media(url=URL, revised_prompt="a cat, revised"), family="video")

    assert (stored.content_type, stored.width, stored.revised_prompt) == ("video/mp4", None, "a cat, revised")


def test_outputs_keep_their_order_and_each_has_its_key():
    pictures = [draw((n, 1)) for n in range(1, 11)]
    media = [
        Media(b64=base64.b64encode(picture).decode()) if n % 2 else Media(url=f"{URL}{n}")
        for n, picture in enumerate(pictures)
    ]
    world = world_of({f"{URL}{n}": [Arriving([picture])] for n, picture in enumerate(pictures)})
    stored, _ = store(world, *media)

    assert [output.key for output in stored] == [f"task_1/1/{n}" for n in range(10)]
    assert [output.width for output in stored] == list(range(1, 11))


def test_a_fetch_gets_the_origin_of_the_provider_and_the_time_that_is_left():
    world = world_of({URL: [Arriving([PICTURE])]})
    run(store_outputs(world, [Media(url=URL)], key_prefix="k", allowed_origin="http://10.0.0.1:9000", timeout_s=77.0))

    assert world.fetch.asked == [(URL, "http://10.0.0.1:9000", 77.0)]


def test_a_key_that_the_adapter_gives_along_goes_to_the_fetch_and_not_into_what_is_shown():
    world = world_of({URL: [Arriving([PICTURE])]})
    media = Media(url=URL, headers={"Authorization": "Bearer secret"})
    run(store_outputs(world, [media], key_prefix="k", allowed_origin=URL, timeout_s=77.0))

    assert world.fetch.headers == [{"Authorization": "Bearer secret"}]
    assert "secret" not in repr(media)


def test_a_chat_completion_is_kept_as_the_json_that_it_is():
    completion, world = {"id": "chatcmpl-1", "choices": [{"message": {"content": "höi"}}]}, world_of()
    (stored,), _seconds = store(world, Media(document=completion), family="chat")

    assert json.loads(world.vault.objects[stored.key]) == completion
    assert (stored.content_type, stored.bytes) == ("application/json", len(world.vault.objects[stored.key]))


def test_small_chunks_are_gathered_before_they_are_judged_and_written():
    chunks = [LARGE[at : at + 5] for at in range(0, 1000, 5)] + [LARGE[1000:]]
    world = world_of({URL: [Arriving(chunks)]})
    (stored,), _ = store(world, Media(url=URL))

    assert stored.sha256 == sha256(LARGE).hexdigest()


# -- what is no result -------------------------------------------------------------------------------------------------

BAD = {
    "html": b"<html>not found</html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "empty": b"",
    "a bomb": PICTURE[:16] + struct.pack(">II", 30_000, 30_000) + PICTURE[24:],
    "too large": PICTURE + bytes(MAX_IMAGE_BYTES),
}


@WAYS
@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_result_is_unusable_at_once_and_leaves_nothing(way, content):
    failure, seconds, world = store_bytes(content, way)

    assert isinstance(failure, Unfetchable)
    assert failure.unusable
    assert seconds == 0
    assert world.vault.objects == {}


@WAYS
def test_a_film_where_a_picture_was_asked_for_is_unusable(way):
    failure, _, _ = store_bytes(MP4, way, family="image")

    assert failure == Unfetchable("video/mp4 where image was asked for", unusable=True)


def test_a_body_announced_as_too_large_is_not_stored():
    world = world_of({URL: [Arriving([PICTURE], length=MAX_IMAGE_BYTES + 1)]})
    failure, _ = store(world, Media(url=URL))

    assert failure.unusable


def test_nothing_delivered_is_unusable():
    assert store(world_of())[0] == Unfetchable("nothing was delivered", unusable=True)


# -- base64 ------------------------------------------------------------------------------------------------------------

TEXT = base64.b64encode(LARGE).decode()
PADDED = next(LARGE[: len(LARGE) - cut] for cut in range(3) if (len(LARGE) - cut) % 3 == 1)
FITTING = LARGE + bytes(-len(LARGE) % 3)

SPELLINGS = {
    "with a data prefix": ("data:image/png;base64," + TEXT, LARGE),
    "with a data prefix and parameters": ("data:image/png;name=a.png;base64," + TEXT, LARGE),
    "in lines of 76": (base64.encodebytes(LARGE).decode(), LARGE),
    "in lines that end in CRLF": (base64.encodebytes(LARGE).decode().replace("\n", "\r\n"), LARGE),
    "with much room at the end": (TEXT + "\n" * (PIECE_CHARS + 1), LARGE),
    "padded": (base64.b64encode(PADDED).decode(), PADDED),
    "without its padding": (base64.b64encode(PADDED).decode().rstrip("="), PADDED),
    "in the alphabet of URLs": (base64.urlsafe_b64encode(LARGE).decode(), LARGE),
    "without need of padding": (base64.b64encode(FITTING).decode(), FITTING),
    "padded, with room": (base64.b64encode(PADDED).decode() + " " * PIECE_CHARS, PADDED),
}


@pytest.mark.parametrize(("text", "content"), SPELLINGS.values(), ids=SPELLINGS)
def test_base64_is_read_as_providers_write_it(text, content):
    world = world_of()
    (stored,), _ = store(world, Media(b64=text))

    assert stored.sha256 == sha256(content).hexdigest()
    assert world.vault.objects["task_1/1/0"] == content


@pytest.mark.parametrize("extra", range(-4, 5))
def test_base64_is_read_whole_whatever_the_length_at_the_seams(extra):
    content = LARGE[: 2 * PIECE_BYTES // 3 * 3 + extra]
    (stored,), _, _ = store_bytes(content, "b64")

    assert (stored.bytes, stored.sha256) == (len(content), sha256(content).hexdigest())


BROKEN = {
    "a letter that is none": TEXT[:1000] + "*" + TEXT[1001:],
    "a letter of another script": TEXT[:1000] + "é" + TEXT[1001:],
    "a lone character": base64.b64encode(FITTING).decode() + "A",
    "padding in the first piece": TEXT[:1000] + "=" + TEXT[1001:],
    "padding, then more": base64.b64encode(PADDED).decode() * 2,
    "padding alone": "====",
    "a data URI of text": "data:text/plain,hello",
    "nothing": "",
    "blanks": " \n ",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_base64_is_unusable(text):
    world = world_of()
    failure, seconds = store(world, Media(b64=text))

    assert failure.unusable
    assert (seconds, world.vault.objects) == (0, {})


def test_padding_in_the_middle_is_found_in_its_own_piece():
    pieces = []

    async def offload(work):
        pieces.append(work)
        return work()

    failure, _ = store(world_of(offload=offload), Media(b64="AAA=" + TEXT))

    assert failure.unusable
    assert len(pieces) == 1


def test_base64_is_decoded_in_pieces():
    world = world_of()
    store(world, Media(b64=base64.b64encode(LARGE * 3).decode()))

    assert world.vault.largest_write <= PIECE_BYTES


# -- what cannot be had ------------------------------------------------------------------------------------------------

FLAKY = {
    "no answer": FetchFailed("HTTP 503", gone=False),
    "a body that breaks at once": Arriving([FetchBroken("cut")]),
    "a body that breaks halfway": Arriving([LARGE[:-1], FetchBroken("cut")]),
}


@pytest.mark.parametrize("trouble", FLAKY.values(), ids=FLAKY)
def test_a_fetch_that_fails_is_repeated_with_growing_pauses(trouble):
    world = world_of({URL: [trouble, trouble, trouble, Arriving([LARGE])]})
    (stored,), seconds = store(world, Media(url=URL))

    assert stored.sha256 == sha256(LARGE).hexdigest()
    assert len(world.fetch.asked) == 4
    assert 0.5 * 3.5 <= seconds <= 3.5
    assert [asked[2] for asked in world.fetch.asked] == sorted((asked[2] for asked in world.fetch.asked), reverse=True)


@pytest.mark.parametrize("trouble", FLAKY.values(), ids=FLAKY)
def test_fetching_ends_with_the_time(trouble):
    world = world_of({URL: [trouble]})
    failure, seconds = store(world, Media(url=URL), timeout_s=300)

    assert isinstance(failure, Unfetchable)
    assert not failure.unusable
    assert 280 <= seconds <= 300
    assert 20 <= len(world.fetch.asked) <= 60
    assert world.vault.objects == {}


def test_what_is_gone_is_not_asked_for_again():
    world = world_of({URL: [FetchFailed("HTTP 404", gone=True)]})
    failure, seconds = store(world, Media(url=URL))

    assert failure == Unfetchable("HTTP 404", unusable=False)
    assert (len(world.fetch.asked), seconds) == (1, 0)


@WAYS
def test_a_full_vault_is_tried_again(way):
    world = world_of({URL: [Arriving([PICTURE])]}, MemoryVault(full_for=2))
    media = Media(url=URL) if way == "url" else Media(b64=base64.b64encode(PICTURE).decode())
    (stored,), _ = store(world, media)

    assert world.vault.objects == {stored.key: PICTURE}


@WAYS
def test_a_vault_that_stays_full_loses_the_result_but_does_not_call_it_bad(way):
    world = world_of({URL: [Arriving([PICTURE])]}, MemoryVault(full_for=1000))
    media = Media(url=URL) if way == "url" else Media(b64=base64.b64encode(PICTURE).decode())
    failure, _ = store(world, media)

    assert failure == Unfetchable("storage_full: No space left on device", unusable=False)


@pytest.mark.parametrize(
    ("trouble", "unusable"),
    [(FetchFailed("HTTP 410", gone=True), False), (Arriving([b"<html>"]), True)],
    ids=["gone", "bad"],
)
def test_one_output_that_fails_takes_the_others_with_it(trouble, unusable):
    answers = {f"{URL}{n}": [Arriving([PICTURE])] for n in range(6)}
    answers[f"{URL}4"] = [FetchFailed("HTTP 503", gone=False), trouble]
    world = world_of(answers)
    failure, _ = store(world, *(Media(url=url) for url in answers))

    assert failure.unusable is unusable
    assert world.vault.objects == {}


def test_an_output_that_fails_does_not_wait_for_one_that_is_tried_again():
    world = world_of({"a": [FetchFailed("HTTP 503", gone=False)], "b": [FetchFailed("HTTP 404", gone=True)]})
    failure, seconds = store(world, Media(url="a"), Media(url="b"), timeout_s=3600)

    assert failure.detail == "HTTP 404"
    assert seconds < 1


@pytest.mark.parametrize(("content", "calls"), [(PICTURE, 0), (LARGE[: 1 << 20], 1), (LARGE, 9)])
def test_large_pieces_are_decoded_and_hashed_by_the_offload_in_one_go(content, calls):
    offloaded = []

    async def offload(work):
        offloaded.append(work)
        return work()

    store(world_of(offload=offload), Media(b64=base64.b64encode(content).decode()))

    assert calls == len(offloaded)
