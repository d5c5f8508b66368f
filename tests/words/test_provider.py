"""What the router reads for itself of a provider: sizes, the wish to be left alone, media, abilities of a model."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.geometry import Sizes, parse_size
from router.provider import Abilities, AdapterFacts, Job, Kind, Media, rest_asked

# gpt-image-2: sides divisible by 16, ratio up to 3:1, at most 3840x2160, and `auto`.
OPENAI = Sizes(named=frozenset({"auto"}), multiple=16, max_side=3840, max_pixels=3840 * 2160, max_ratio=3.0)
# dall-e-3: a closed list.
CLOSED = Sizes(named=frozenset({"1024x1024", "1792x1024", "1024x1792"}))
# FLUX1.1 pro: 256-1440, multiples of 32. FLUX.2: at least 64, multiples of 16, up to 4 megapixels.
FLUX_1 = Sizes(multiple=32, min_side=256, max_side=1440)
FLUX_2 = Sizes(multiple=16, min_side=64, max_side=65_536, max_pixels=4_000_000)

SIZES = [
    (OPENAI, {"auto", "1024x1024", "1536x1024", "3840x2160", "2160x3840", "3072x1024", "1024x3072", "16x16"},
             {"1000x1024", "1024x1000", "3856x2160", "3840x2176", "3088x1024", "1024x3088", "0x16", "Auto", ""}),
    (CLOSED, {"1024x1024", "1792x1024", "1024x1792"}, {"512x512", "1024X1024", "auto", "1792x1792"}),
    (FLUX_1, {"256x256", "1440x1440", "1024x768", "256x1440"},
             {"224x256", "256x224", "1472x1024", "1024x1472", "1008x1024", "auto"}),
    (FLUX_2, {"64x64", "2000x2000", "64x62496", "4000x992"}, {"48x64", "64x48", "2000x2016", "2008x64", "99984x64"}),
    (Sizes(), set(), {"1x1", "1024x1024", "auto"}),
]  # fmt: skip

NOW_TIME = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
NOW = round(NOW_TIME.timestamp() * 1000)


@pytest.mark.parametrize(("sizes", "honoured", "refused"), SIZES)
def test_a_size_fits_exactly_when_the_target_can_honour_it(sizes, honoured, refused):
    assert {size for size in honoured | refused if sizes.fits(size)} == honoured


@pytest.mark.parametrize(
    ("text", "sides"),
    [("1024x768", (1024, 768)), ("1x99999", (1, 99_999)), ("007x8", (7, 8)), ("0x10", None), ("10x0", None),
     ("100000x1", None), ("1x100000", None), ("1024", None), ("x", None), ("1024x", None), ("x1024", None),
     ("1024x768x2", None), ("-1x5", None), ("1.5x2", None), (" 1x2", None), ("1x 2", None), ("1X2", None),
     ("²x2", None), ("auto", None), ("", None)],
)  # fmt: skip
def test_a_size_is_read_as_two_positive_numbers_or_not_at_all(text, sides):
    assert parse_size(text) == sides


@given(st.integers(1, 99_999), st.integers(1, 99_999))
def test_every_size_that_can_be_written_is_read(width, height):
    assert parse_size(f"{width}x{height}") == (width, height)


def date_in(seconds):
    """Write the date that lies so far from now, the way HTTP does (full seconds)."""
    return format_datetime((NOW_TIME + timedelta(seconds=seconds)).replace(microsecond=0), usegmt=True)


RESTS = {
    "nothing said": ({}, None),
    "seconds": ({"retry-after": "30"}, 30.0),
    "a fraction": ({"retry-after": "1.5"}, 1.5),
    "blanks around": ({"retry-after": " 7 "}, 7.0),
    "an empty value": ({"retry-after": " "}, None),
    "zero": ({"retry-after": "0"}, None),
    "negative": ({"retry-after": "-5"}, None),
    "not a number": ({"retry-after": "NaN"}, None),
    "endless": ({"retry-after": "inf"}, None),
    "beyond every number": ({"retry-after": "1e999"}, None),
    "a word": ({"retry-after": "soon"}, None),
    "an hour": ({"retry-after": "3600"}, 3600.0),
    "longer than an hour": ({"retry-after": "86400"}, 3600.0),
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds win": ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    "more milliseconds than an hour has": ({"retry-after-ms": "99999999"}, 3600.0),
    "unusable milliseconds": ({"retry-after-ms": "NaN", "retry-after": "9"}, 9.0),
    "negative milliseconds": ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
    "empty milliseconds": ({"retry-after-ms": "", "retry-after": "9"}, 9.0),
    "wordy milliseconds": ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    "only unusable milliseconds": ({"retry-after-ms": "0"}, None),
    "a date": ({"retry-after": date_in(30)}, 29.75),
    "the old form of a date": ({"retry-after": "Saturday, 21-Nov-26 12:00:30 GMT"}, 29.75),
    "a date in another zone": ({"retry-after": "Sat, 21 Nov 2026 20:00:30 +0800"}, 29.75),
    "this very second, just over": ({"retry-after": date_in(0)}, None),
    "a date in the past": ({"retry-after": date_in(-60)}, None),
    "a date far away": ({"retry-after": date_in(86_400)}, 3600.0),
    "a day that no month has": ({"retry-after": "Sat, 99 Nov 2026 12:00:30 GMT"}, None),
    "half a date": ({"retry-after": "Sat, 21 Nov"}, None),
    "another header": ({"x-ratelimit-reset": "30"}, None),
}


@pytest.mark.parametrize(("headers", "expected"), RESTS.values(), ids=RESTS)
def test_the_rest_that_the_upstream_asks_for_is_read_or_ignored(headers, expected):
    assert rest_asked(headers, NOW) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_can_make_the_rest_anything_but_a_bounded_wait(milliseconds, seconds):
    rest = rest_asked({"retry-after-ms": milliseconds, "retry-after": seconds}, NOW)

    assert rest is None or 0 < rest <= 3600


def test_a_media_record_has_one_source():
    assert Media(url="https://cdn.example.org/a.png").b64 is None
    assert Media(b64="iVBORw0KGgo=", revised_prompt="a cat").url is None


@pytest.mark.parametrize(
    "sources", [{}, {"url": "https://cdn.example.org/a.png", "b64": "QQ=="}, {"b64": "QQ==", "document": {}}]
)
def test_a_media_record_without_a_source_or_with_two_is_refused(sources):
    with pytest.raises(ValueError, match="one of a url, base64"):
        Media(**sources)


ABLE = {
    name: Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), max_n=n)
    for n, name in enumerate(("*", "gpt-*", "gpt-image-*", "gpt-image-2", "flux-pro"), start=1)
}


@pytest.mark.parametrize(
    ("model", "entry"),
    [("gpt-image-2", "gpt-image-2"), ("gpt-image-2-2026-04-21", "gpt-image-*"), ("gpt-image-", "gpt-image-*"),
     ("gpt-4o", "gpt-*"), ("flux-pro", "flux-pro"), ("flux-pro-1.1", "*"), ("GPT-image-2", "*"), ("", "*")],
)  # fmt: skip
@pytest.mark.parametrize("names", [list(ABLE), list(reversed(ABLE))], ids=["as written", "reversed"])
def test_a_model_has_its_own_abilities_else_those_of_its_longest_prefix(model, entry, names):
    facts = AdapterFacts("openai", None, {name: ABLE[name] for name in names})

    assert facts.of_model(model) is ABLE[entry]


@pytest.mark.parametrize(("fields", "n"), [({"n": 4}, 4), ({}, 1), ({"n": "4"}, 1), ({"n": None}, 1)])
def test_a_job_asks_for_one_output_unless_it_says_a_number(fields, n):
    job = Job("key", Kind.IMAGE_GENERATION, "gpt-image-2", fields, "https://api.example.org", "secret", NOW)

    assert job.n == n


def test_the_family_of_a_kind_is_the_word_before_the_dot():
    assert [kind.family for kind in Kind] == ["image", "image", "image", "video", "chat"]


def test_a_retry_date_without_a_zone_is_utc_whatever_the_machine_says(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert rest_asked({"retry-after": "Sun Nov  6 08:49:37 1994"}, 784_111_747_000) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_digits_of_another_script_are_not_a_size():
    assert parse_size("１０２４x１０２４") is None  # noqa: RUF001 - full-width digits are the point
