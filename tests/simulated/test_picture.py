"""Pictures: real files of every format and size, different by prompt and index, from a painter with a bounded cache."""

import io
import sys

import pytest
from PIL import Image, ImageChops

from providers.simulated import PillowMissingError, start
from providers.simulated.painter import Painter
from providers.simulated.picture import Picture, render


def load(painted: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(painted))
    opened.load()
    return opened


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (48, 16), (1024, 1024), (1536, 1024)])
def test_every_format_and_size_decodes(file_format, size):
    painted = load(render(Picture("a cat on a mat", *size, format=file_format)))

    assert (file_format.upper(), size) == (painted.format, painted.size)


def test_pictures_differ_by_prompt_and_index_and_are_reproducible():
    asked = [Picture("a cat", 64, 64), Picture("a dog", 64, 64), Picture("a cat", 64, 64, index=1)]

    assert len({render(one) for one in asked}) == 3
    assert render(asked[0]) == render(Picture("a cat", 64, 64))


@pytest.mark.parametrize("prompt", ["cat", "a long prompt, " * 60, "x" * 2000, "ein Kater, 一只猫, 🐈", "two\nlines"])
def test_the_prompt_is_written_on_the_picture(prompt):
    # The caption adds the text; the difference to the bare gradient of the same colours is the writing.
    written = load(render(Picture(prompt, 512, 512))).convert("L")
    bright = written.point(lambda value: 255 if value > 230 else 0)

    box = bright.getbbox()
    assert box is not None
    assert box[2] - box[0] > 20
    assert bright.histogram()[255] > 50


def test_the_caption_is_written_too():
    bare, captioned = (load(render(Picture("a", 256, 256, caption=caption))) for caption in ("", "model 1 of 2"))

    assert ImageChops.difference(bare, captioned).getbbox() is not None


def test_a_transparent_picture_has_an_alpha_channel():
    assert load(render(Picture("a", 64, 64, transparent=True))).mode == "RGBA"


@pytest.mark.parametrize("size", [(0, 64), (8192, 4096)])
def test_a_picture_beyond_the_bound_is_refused(size):
    with pytest.raises(ValueError, match="outside"):
        render(Picture("a", *size))


async def test_the_painter_gives_the_same_bytes_again_and_its_cache_stays_within_its_bound():
    painter = Painter(cached_bytes_max=20_000)
    asked = [Picture(f"cat {number}", 128, 128) for number in range(20)]
    painted = [await painter.paint(one) for one in asked]

    assert painted == [await painter.paint(one) for one in asked]
    assert 0 < painter.cached_bytes <= 20_000 < sum(map(len, painted))


async def test_without_pillow_the_start_fails_with_the_name_of_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PillowMissingError, match=r"pointsman\[simulators\]"):
        await start("openai")
