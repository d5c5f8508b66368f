"""Which rule holds: every `when` key, first match, hours on the zone's clock; and how long an attempt may take."""

from dataclasses import replace
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from router.policy.match import attempt_timeout_s, match_rule
from router.policy.rules import Model, Shape, When
from router.provider import Kind
from router.task import Priority
from tests.policy.rulebook import NOON, PICTURE, rule, target

UTC = timezone(timedelta(0))
OTHERWISE = rule(target("a"))
HOUR = 3_600_000
ASKED = replace(
    PICTURE,
    tenant="studio-7",
    size="2048x2048",
    quality="high",
    n=4,
    seconds=8,
    priority=Priority.HIGH,
    surface="openai",
    metadata={"team": "red", "job": "x"},
)
SILENT = Shape(Kind.IMAGE_GENERATION, "m")


def is_met(when, shape, now=NOON, zone=UTC):
    chosen = rule(target("b"), number=1, when=when)
    return match_rule(Model("m", "image", (chosen,), OTHERWISE), shape, now=now, zone=zone) is chosen


@pytest.mark.parametrize(
    ("when", "met"),
    [
        (When(), True),
        (When(kind=("image.generation",)), True),
        (When(kind=("image.*",)), True),
        (When(kind=("image.edit", "video.generation")), False),
        (When(tenant=("studio-*",)), True),
        (When(tenant=("studio-?",)), True),
        (When(tenant=("Studio-*",)), False),
        (When(tenant=("studio",)), False),
        (When(size=("1024x1024", "2048x2048")), True),
        (When(size=("*x4096",)), False),
        (When(quality=("high",)), True),
        (When(quality=("low",)), False),
        (When(n=((1, 3),)), False),
        (When(n=((1, 3), (4, 4))), True),
        (When(n=((2, None),)), True),
        (When(n=((5, None),)), False),
        (When(seconds=((5, 8),)), True),
        (When(seconds=((9, None),)), False),
        (When(priority=(Priority.URGENT, Priority.HIGH)), True),
        (When(priority=(Priority.LOW,)), False),
        (When(surface=("openai",)), True),
        (When(surface=("native",)), False),
        (When(metadata={"team": ("red", "blue")}), True),
        (When(metadata={"team": ("r*",), "job": ("x",)}), True),
        (When(metadata={"team": ("red",), "job": ("y",)}), False),
        (When(metadata={"other": ("*",)}), False),
        (When(hours=((720, 721),)), True),
        (When(hours=((721, 1440),)), False),
        (When(tenant=("studio-*",), quality=("low",)), False),
        (When(tenant=("studio-*",), quality=("high",), n=((4, 4),), surface=("openai",)), True),
    ],
)
def test_a_rule_holds_when_every_key_that_it_names_matches(when, met):
    assert is_met(when, ASKED) is met


@pytest.mark.parametrize("when", [When(size=("*",)), When(quality=("*",)), When(seconds=((0, None),))])
def test_what_the_request_did_not_say_matches_no_key(when):
    assert not is_met(when, SILENT)


@pytest.mark.parametrize(
    ("spans", "hour", "met"),
    [
        (((540, 1080),), 9, True),
        (((540, 1080),), 18, False),
        (((540, 1080),), 8, False),
        (((1320, 360),), 23, True),
        (((1320, 360),), 0, True),
        (((1320, 360),), 5, True),
        (((1320, 360),), 6, False),
        (((1320, 360),), 21, False),
        (((0, 1440),), 23, True),
        (((0, 60), (720, 780)), 12, True),
        ((), 12, False),
    ],
)
def test_hours_are_half_open_and_may_pass_midnight(spans, hour, met):
    midnight = NOON - 12 * HOUR

    assert is_met(When(hours=spans), ASKED, now=midnight + hour * HOUR) is met


def test_hours_are_read_on_the_clock_of_the_configured_zone():
    noon_only = When(hours=((720, 780),))

    assert is_met(noon_only, ASKED, zone=UTC)
    assert not is_met(noon_only, ASKED, zone=ZoneInfo("Asia/Shanghai"))
    assert is_met(noon_only, ASKED, now=NOON - 8 * HOUR, zone=ZoneInfo("Asia/Shanghai"))


def test_the_first_rule_that_holds_wins_and_the_models_own_is_the_last_resort():
    first = rule(target("b"), number=1, when=When(quality=("high",)))
    second = rule(target("c"), number=2, when=When(tenant=("studio-*",)))
    model = Model("m", "image", (first, second), OTHERWISE)

    assert match_rule(model, ASKED, now=NOON, zone=UTC) is first
    assert match_rule(model, replace(ASKED, quality="low"), now=NOON, zone=UTC) is second
    assert match_rule(model, SILENT, now=NOON, zone=UTC) is OTHERWISE


@pytest.mark.parametrize(
    ("size", "quality", "expected"),
    [
        ("1024x1024", None, 180.0),
        ("1100x1000", "auto", 180.0),
        ("1024x1536", "medium", 300.0),
        ("2500x1000", None, 300.0),
        ("2048x2048", None, 600.0),
        ("auto", None, 600.0),
        (None, None, 600.0),
        ("4K", None, 600.0),
        ("1024x1024", "high", 600.0),
        ("512x512", "xhigh", 600.0),
        ("512x512", "max", 600.0),
        ("512x512", "hd", 600.0),
        ("512x512", "standard", 180.0),
    ],
)
def test_an_image_may_take_as_long_as_its_size_and_quality_need(size, quality, expected):
    assert attempt_timeout_s(replace(SILENT, size=size, quality=quality)) == expected


def test_a_video_may_take_half_an_hour_and_a_chat_two_minutes():
    assert attempt_timeout_s(Shape(Kind.VIDEO_GENERATION, "m", size="512x512")) == 1800.0
    assert attempt_timeout_s(Shape(Kind.CHAT_COMPLETION, "m")) == 120.0
