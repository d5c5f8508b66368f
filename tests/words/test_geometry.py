"""Sizes, shapes, tiers, resolutions and qualities: one table of translations for every dialect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.geometry import Sizes, parse_size, quality_of, ratio_of, resolution_of, size_of, tier_of

GEMINI = frozenset({"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"})
FILMS = frozenset({"16:9", "9:16"})


@pytest.mark.parametrize(
    ("size", "among", "ratio"),
    [
        ("1024x1536", GEMINI, "2:3"),
        ("1536x1024", GEMINI, "3:2"),
        ("1024x1024", GEMINI, "1:1"),
        ("2048x2048", GEMINI, "1:1"),
        ("1792x1024", GEMINI, "16:9"),
        ("1024x1792", GEMINI, "9:16"),
        ("1344x768", GEMINI, "16:9"),
        ("1024x1280", GEMINI, "4:5"),
        ("1280x720", FILMS, "16:9"),
        ("720x1280", FILMS, "9:16"),
        ("1536x1024", FILMS, None),
        ("1024x1024", FILMS, None),
        ("3072x1024", GEMINI, None),
        ("auto", GEMINI, None),
        ("1024", GEMINI, None),
        ("1024x1024", frozenset(), None),
    ],
)
def test_a_size_is_said_as_the_shape_that_a_dialect_has(size, among, ratio):
    assert ratio_of(size, among) == ratio


@pytest.mark.parametrize(
    ("size", "among", "tier"),
    [
        ("1024x1024", {"1K", "2K", "4K"}, "1K"),
        ("1024x1536", {"1K", "2K", "4K"}, "1K"),
        ("2048x2048", {"1K", "2K", "4K"}, "2K"),
        ("2560x1440", {"1K", "2K", "4K"}, "2K"),
        ("4096x4096", {"1K", "2K", "4K"}, "4K"),
        ("512x512", {"512", "1K"}, "512"),
        ("512x512", {"1K", "2K"}, None),
        ("4096x4096", {"1K", "2K"}, None),
        ("auto", {"1K"}, None),
    ],
)
def test_a_size_is_said_as_the_tier_of_its_area(size, among, tier):
    assert tier_of(size, among) == tier


@pytest.mark.parametrize(
    ("size", "resolution"),
    [("1280x720", "720p"), ("720x1280", "720p"), ("1920x1080", "1080p"), ("1792x1024", "1080p"),
     ("3840x2160", "4k"), ("854x480", "480p"), ("1024x1024", "1080p"), ("600x600", None), ("auto", None)],
)  # fmt: skip
def test_the_size_of_a_film_is_said_as_a_resolution(size, resolution):
    assert resolution_of(size, {"480p", "720p", "1080p", "4k"}) == resolution


@pytest.mark.parametrize(
    ("word", "among", "said"),
    [
        ("high", {"low", "medium", "high"}, "high"),
        ("hd", {"low", "medium", "high"}, "high"),
        ("standard", {"low", "medium", "high"}, "medium"),
        ("medium", {"standard", "hd"}, "standard"),
        ("high", {"standard", "hd"}, "hd"),
        ("low", {"standard", "hd"}, None),
        ("xhigh", {"low", "medium", "high"}, None),
        ("auto", {"low"}, None),
        ("auto", {"auto", "low"}, "auto"),
    ],
)
def test_a_quality_is_said_in_the_words_of_a_dialect_or_not_at_all(word, among, said):
    assert quality_of(word, among) == said


def test_a_shape_becomes_a_size_of_about_the_area_asked_for():
    assert size_of("2:3", 1024 * 1536) == "1024x1536"
    assert size_of("1:1", 1024 * 1024) == "1024x1024"
    assert size_of("16:9", 1280 * 720) == "1280x720"
    assert size_of("1:99", 1024 * 1024) is None
    assert size_of("wide", 1024 * 1024) is None


@given(st.sampled_from(sorted(GEMINI)), st.integers(600_000, 8_000_000))
def test_a_size_made_from_a_shape_has_that_shape(ratio, pixels):
    size = size_of(ratio, pixels)

    assert parse_size(size) is not None
    assert ratio_of(size, GEMINI) == ratio


def test_a_target_that_takes_shapes_honours_the_sizes_that_it_has_a_shape_and_a_tier_for():
    takes_shapes = Sizes(named=frozenset({"auto"}), ratios=GEMINI, tiers=frozenset({"1K", "2K"}))

    assert [size for size in ("auto", "1024x1536", "2048x2048") if not takes_shapes.fits(size)] == []
    assert [size for size in ("4096x4096", "3072x512", "wide") if takes_shapes.fits(size)] == []


def test_a_target_that_films_in_resolutions_honours_those():
    films = Sizes(ratios=FILMS, resolutions=frozenset({"720p", "1080p"}))

    assert films.fits("1280x720")
    assert films.fits("1080x1920")
    assert not films.fits("3840x2160")
    assert not films.fits("1024x768")
