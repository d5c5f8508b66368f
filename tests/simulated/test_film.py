"""Films: real files of the length, size and codec asked for, moving, the same for the same order, behind links with
their content type, from a painter with a bounded cache; and what happens without PyAV.
"""

import io
import itertools
import sys
from dataclasses import replace

import aiohttp
import av
import pytest
from aiohttp import web
from PIL import Image, ImageChops

from providers.simulated import Options, Step
from providers.simulated.film import FRAMES_MAX, Film, PyAVMissingError, count_frames, render
from providers.simulated.gallery import RESULT_FAULTS, Gallery
from providers.simulated.painter import Painter
from providers.simulated.picture import Picture
from providers.simulated.workshop import Workshop

FILM = Film("a cat on a mat", 160, 96, 1.5)


def watch(filmed: bytes) -> tuple[dict[str, object], list[Image.Image]]:
    """What a player finds in the file: the facts of container and stream, and every frame."""
    with av.open(io.BytesIO(filmed)) as container:
        stream = container.streams.video[0]
        facts = {
            "seconds": container.duration / 1_000_000,
            "size": (stream.width, stream.height),
            "codec": stream.codec_context.name,
            "colours": stream.pix_fmt,
            "streams": len(container.streams),
        }
        return facts, [frame.to_image() for frame in container.decode(stream)]


@pytest.mark.parametrize(("file_format", "codec"), [("mp4", "h264"), ("webm", "vp8")])
@pytest.mark.parametrize(("size", "seconds"), [((16, 16), 0.3), ((160, 96), 5.0), ((854, 480), 5.37), ((720, 1280), 4)])
def test_a_film_has_the_length_the_size_and_the_codec_of_its_format(file_format, codec, size, seconds):
    film = Film("a cat on a mat", *size, seconds, format=file_format)
    facts, frames = watch(render(film))

    asked = {"seconds": seconds, "size": size, "codec": codec, "colours": "yuv420p", "streams": 1}
    assert facts == asked
    assert len(frames) == count_frames(film) == round(seconds * 8)


@pytest.mark.parametrize("film", [Film("a", 64, 64, 600.0), Film("a", 3840, 2160, 8.0)])
def test_a_long_or_large_film_has_its_length_with_fewer_frames(film):
    facts, frames = watch(render(film))

    assert facts["seconds"] == film.seconds
    assert 2 <= len(frames) <= FRAMES_MAX
    assert len(frames) < film.seconds * 8


def test_every_frame_differs_from_the_one_before_it():
    _, frames = watch(render(FILM))

    moved = [ImageChops.difference(early, late).getbbox() for early, late in itertools.pairwise(frames)]
    assert len(moved) == 11
    assert all(moved)


@pytest.mark.parametrize("file_format", ["mp4", "webm"])
def test_films_differ_by_prompt_index_and_caption_and_are_the_same_for_the_same_order(file_format):
    film = replace(FILM, format=file_format)
    asked = [film, replace(film, prompt="a dog"), replace(film, index=1), replace(film, caption="model 1 of 2")]

    assert len({render(one) for one in asked}) == 4
    assert render(film) == render(replace(film))


def test_the_prompt_is_written_on_the_film():
    _, frames = watch(render(Film("a cat on a mat", 512, 512, 0.5)))

    foot = 512 - 512 // 40
    written = frames[0].convert("L").crop((0, 0, 512, foot - 4)).point(lambda value: 255 if value > 220 else 0)
    assert written.histogram()[255] > 50


def test_an_mp4_has_its_index_in_front_of_its_pictures():
    filmed = render(FILM)

    assert filmed[4:8] == b"ftyp"
    assert 0 < filmed.find(b"moov") < filmed.find(b"mdat")


@pytest.mark.parametrize("size", [(0, 64), (-64, -64), (63, 64), (64, 63), (8192, 4096)])
def test_a_film_of_an_odd_size_or_beyond_the_bound_is_refused(size):
    with pytest.raises(ValueError, match="is odd or outside"):
        render(Film("a", *size, 1.0))


@pytest.mark.parametrize("seconds", [0, -1.0, 600.5, float("nan")])
def test_a_film_of_no_length_or_beyond_the_bound_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds is outside"):
        render(Film("a", 64, 64, seconds))


async def test_the_painter_gives_the_same_film_again_and_its_cache_stays_within_its_bound():
    painter = Painter(cached_bytes_max=20_000)
    asked = [Film(f"cat {number}", 64, 64, 1.0) for number in range(10)]
    painted = [await painter.paint(one) for one in asked]

    assert painted == [await painter.paint(one) for one in asked]
    assert 0 < painter.cached_bytes <= 20_000 < sum(map(len, painted))


async def fetch(*hung: Picture | Film) -> list[tuple[str, int, str, bytes]]:
    """Hang works in a gallery and fetch them: extension, status, content type, bytes."""
    workshop = Workshop("acme", Options(), {Step.RESULT: RESULT_FAULTS})
    gallery = Gallery(workshop, "/results", 60.0)
    application = web.Application(middlewares=[workshop.watch()])
    application.add_routes([gallery.route()])
    runner = web.AppRunner(application)
    await runner.setup()
    fetched = []
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as anybody:
            for work in hung:
                link = gallery.hang(work, "m")
                async with anybody.get(origin + link) as answer:
                    extension = link.partition("?")[0].rpartition(".")[2]
                    fetched.append((extension, answer.status, answer.content_type, await answer.read()))
    finally:
        await runner.cleanup()
    return fetched


async def test_a_gallery_serves_films_and_pictures_each_as_what_it_is():
    mp4, webm, picture = await fetch(FILM, replace(FILM, format="webm"), Picture("a cat", 64, 64, format="jpeg"))

    assert mp4 == ("mp4", 200, "video/mp4", render(FILM))
    assert webm == ("webm", 200, "video/webm", render(replace(FILM, format="webm")))
    assert picture[:3] == ("jpeg", 200, "image/jpeg")


async def test_without_pyav_a_film_fails_with_the_name_of_the_extra_and_pictures_are_served_as_ever(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(PyAVMissingError, match=r"pointsman\[simulators,video\]"):
        await Painter().paint(FILM)
    film, picture = await fetch(FILM, Picture("a cat", 64, 64))

    assert film[1] == 501
    assert b"pointsman[simulators,video]" in film[3]
    assert picture[1:3] == (200, "image/png")
