"""Prices: every line of contract 6, what is taken for `auto`, what stays unknown, and exact sums in nano-USD."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from router.money import NANOS_MAX, nanos_of
from router.outcome import Billed
from router.policy.price import Settled, quote, settle
from router.policy.rules import Price, Shape, Tokens
from router.provider import Kind, Usage

USD = 1_000_000_000


def picture(size=None, quality=None, n=1, prompt_chars=0):
    return Shape(Kind.IMAGE_GENERATION, "m", size=size, quality=quality, n=n, prompt_chars=prompt_chars)


def film(size=None, seconds=None, n=1):
    return Shape(Kind.VIDEO_GENERATION, "m", size=size, seconds=seconds, n=n)


ROWS = {"default": 30, "high": 50, "1024x1536": 70, "high:1024x1536": 120, "low:1024x1536": 10}
IMAGE = Price(image=ROWS)
NO_DEFAULT = Price(image={"low:1024x1024": 9, "high:1024x1024": 167})
MEGAPIXEL = Price(megapixel=(30, 15))
VIDEO = Price(video_second={"default": 5, "1080p": 8, "720x1280": 6})
CHATTY = Tokens(input=5 * USD, image_input=8 * USD, cached=1 * USD, output=10 * USD, image_output=30 * USD)


@pytest.mark.parametrize(
    ("price", "shape", "expected"),
    [
        # the most specific row wins: quality:size, size, quality, default
        (IMAGE, picture("1024x1536", "high"), 120),
        (IMAGE, picture("1024x1536", "medium"), 70),
        (IMAGE, picture("1024x1024", "high"), 50),
        (IMAGE, picture("1024x1024", "medium"), 30),
        (IMAGE, picture("1024x1536", "low"), 10),
        (Price(image={"high": 50, "1024x1024": 40}), picture("1024x1024", "high"), 40),
        # what is left open takes the dearest row that could apply, and only those
        (IMAGE, picture("1024x1536"), 120),
        (IMAGE, picture("1024x1536", "auto"), 120),
        (IMAGE, picture("1024x1024"), 50),
        (IMAGE, picture(None, "low"), 30),
        (IMAGE, picture(None, "medium"), 70),
        (IMAGE, picture("auto", "high"), 120),
        (IMAGE, picture(), 120),
        (Price(image={"low": 1, "high": 9}), picture("auto", "low"), 1),
        (Price(image={"2K": 9, "4K": 20, "default": 3}), picture("auto", "high"), 20),
        (Price(image={"2K": 9, "4K": 20, "default": 3}), picture("2K"), 9),
        # no row: unknown, not zero
        (NO_DEFAULT, picture("1024x1024", "high"), 167),
        (NO_DEFAULT, picture("1024x1024"), 167),
        (NO_DEFAULT, picture("2048x2048", "high"), None),
        (NO_DEFAULT, picture("1024x1024", "medium"), None),
        # n multiplies images; the request line is paid once
        (IMAGE, picture("1024x1024", "medium", n=4), 120),
        (Price(image=ROWS, request=7), picture("1024x1024", "medium", n=4), 127),
        (Price(request=7), picture(n=4), 7),
        # megapixels: a begun one counts, 1024x1024 is one (bfl-flux.md 2), a side left open is 4 MP
        (MEGAPIXEL, picture("512x512"), 30),
        (MEGAPIXEL, picture("1024x1024"), 30),
        (MEGAPIXEL, picture("1024x1040"), 45),
        (MEGAPIXEL, picture("2048x2048"), 75),
        (MEGAPIXEL, picture("2048x2048", n=2), 150),
        (MEGAPIXEL, picture("auto"), 75),
        (MEGAPIXEL, picture(), 75),
        # seconds of video, by the size itself, else its shorter side, else the default
        (VIDEO, film("1920x1080", 4), 32),
        (VIDEO, film("1080x1920", 4), 32),
        (VIDEO, film("720x1280", 4), 24),
        (VIDEO, film("1280x720", 4), 20),
        (VIDEO, film("1080p", 4), 32),
        (VIDEO, film("auto", 4), 32),
        (VIDEO, film(None, 4), 32),
        (VIDEO, film("1280x720", 4, n=2), 40),
        (VIDEO, film("1280x720"), None),
        (Price(video_second={"1080p": 8}), film("1280x720", 4), None),
        # a sum of lines; one unknown line makes the sum unknown
        (Price(image=ROWS, megapixel=(30, 15), request=1), picture("1024x1024", "medium", n=2), 121),
        (Price(image={"high": 5}, request=1), picture("1024x1024", "low"), None),
        # a line of another kind adds nothing, and no line at all is unknown
        (VIDEO, picture("1024x1024"), None),
        (IMAGE, film("1280x720", 4), None),
        (Price(), picture(), None),
        (None, picture(), None),
        # tokens: the prompt by its length, rounded up; outputs only where rows bound them
        (Price(tokens=Tokens(input=5 * USD)), picture(prompt_chars=300), 500_000),
        (Price(tokens=Tokens(input=5 * USD)), picture(prompt_chars=301), 505_000),
        (Price(tokens=Tokens(input=5 * USD)), picture(), 0),
        (Price(tokens=CHATTY), picture("1024x1024", "low", prompt_chars=30), None),
        (Price(tokens=Tokens(image_output=1)), picture(), None),
        (Price(tokens=CHATTY, image=ROWS), picture("1024x1024", "high", prompt_chars=30), 50_050),
        (Price(tokens=CHATTY, image=ROWS), picture("1024x1024", "high", n=2, prompt_chars=30), 50_100),
    ],
)
def test_an_estimate_is_the_sum_of_the_lines_that_apply(price, shape, expected):
    assert quote(price, shape) == expected


FLAT = Price(image={"default": 40_000_000}, request=5)
BY_TOKENS = Price(tokens=CHATTY, request=5)
BOTH = Price(image={"default": 53_000_000}, tokens=CHATTY)
INPUTS_BESIDE_ROWS = Price(image={"default": 39_000_000}, tokens=Tokens(input=1 * USD))
OPENAI_USAGE = Usage(input_tokens=50, input_image_tokens=40, output_tokens=1056, output_image_tokens=1056)
ONE = picture("1024x1024", "medium")


@pytest.mark.parametrize(
    ("price", "shape", "told", "expected"),
    [
        # not billed is nothing, whatever was said; unknown is unknown
        (FLAT, ONE, (Billed.NO, OPENAI_USAGE, 99), Settled(0)),
        (None, ONE, (Billed.NO, None, None), Settled(0)),
        (FLAT, ONE, (Billed.UNKNOWN, OPENAI_USAGE, 99), Settled(None)),
        # the provider's own amount, else usage, else the estimate, which is marked
        (BY_TOKENS, ONE, (Billed.YES, OPENAI_USAGE, 99), Settled(99)),
        (FLAT, ONE, (Billed.YES, None, 0), Settled(0)),
        (None, ONE, (Billed.YES, None, 99), Settled(99)),
        (BY_TOKENS, ONE, (Billed.YES, OPENAI_USAGE, None), Settled(10 * 5000 + 40 * 8000 + 1056 * 30000 + 5)),
        (FLAT, ONE, (Billed.YES, OPENAI_USAGE, None), Settled(40_000_005, estimated=True)),
        (FLAT, ONE, (Billed.YES, None, None), Settled(40_000_005, estimated=True)),
        (BY_TOKENS, ONE, (Billed.YES, Usage(), None), Settled(None)),
        (None, ONE, (Billed.YES, OPENAI_USAGE, None), Settled(None)),
        # rows are the estimate of priced output tokens, and usage replaces them
        (BOTH, ONE, (Billed.YES, OPENAI_USAGE, None), Settled(10 * 5000 + 40 * 8000 + 1056 * 30000)),
        (BOTH, ONE, (Billed.YES, Usage(), None), Settled(53_000_000, estimated=True)),
        # rows beside priced input tokens are charged with them
        (INPUTS_BESIDE_ROWS, ONE, (Billed.YES, OPENAI_USAGE, None), Settled(39_050_000, estimated=True)),
        (INPUTS_BESIDE_ROWS, replace(ONE, n=2), (Billed.YES, OPENAI_USAGE, None), Settled(78_050_000, estimated=True)),
        # parts of totals: cached input, output tokens without their detail
        (BY_TOKENS, ONE, (Billed.YES, Usage(100, None, 60, 0), None), Settled(40 * 5000 + 60 * 1000 + 5)),
        (BY_TOKENS, ONE, (Billed.YES, Usage(0, None, None, 10), None), Settled(10 * 30000 + 5)),
        (BY_TOKENS, ONE, (Billed.YES, Usage(0, None, None, 10, 4), None), Settled(4 * 30000 + 6 * 10000 + 5)),
        (BY_TOKENS, film(), (Billed.YES, Usage(0, None, None, 10), None), Settled(10 * 10000 + 5)),
        (BY_TOKENS, ONE, (Billed.YES, Usage(10, 99, 99, 0), None), Settled(10 * 8000 + 5)),
        (Price(tokens=Tokens(output=USD)), ONE, (Billed.YES, Usage(None, None, None, 3), None), Settled(3000)),
        # half a usage, or an absurd one, is not a usage
        (BOTH, ONE, (Billed.YES, Usage(output_tokens=10), None), Settled(53_000_000, estimated=True)),
        (BOTH, ONE, (Billed.YES, Usage(input_tokens=10), None), Settled(53_000_000, estimated=True)),
        (BOTH, ONE, (Billed.YES, Usage(10, None, None, -1), None), Settled(53_000_000, estimated=True)),
        (BOTH, ONE, (Billed.YES, Usage(10, None, None, 10**20), None), Settled(53_000_000, estimated=True)),
        (FLAT, ONE, (Billed.YES, None, -1), Settled(40_000_005, estimated=True)),
        (FLAT, ONE, (Billed.YES, None, NANOS_MAX + 1), Settled(40_000_005, estimated=True)),
    ],
)
def test_a_settled_attempt_costs_what_was_said_in_the_order_of_the_contract(price, shape, told, expected):
    billed, usage, reported = told

    assert settle(price, shape, billed=billed, usage=usage, reported=reported) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(1, 0), (4, 0), (5, 1), (14, 1), (15, 2)])
def test_only_token_prices_are_rounded_and_half_goes_up(tokens, expected):
    price = Price(tokens=Tokens(input=100_000))

    settled = settle(price, ONE, billed=Billed.YES, usage=Usage(input_tokens=tokens), reported=None)

    assert settled == Settled(expected)


def test_a_million_calls_at_75_nano_usd_sum_up_exactly():
    by_request = Price(request=nanos_of("0.000000075"))
    by_token = Price(tokens=Tokens(input=nanos_of("0.075")))
    one_token = Usage(input_tokens=1)

    total = sum(
        settle(by_request, ONE, billed=Billed.YES, usage=None, reported=None).cost_nanos for _ in range(500_000)
    )
    total += sum(
        settle(by_token, ONE, billed=Billed.YES, usage=one_token, reported=None).cost_nanos for _ in range(500_000)
    )

    assert nanos_of("0.075") == total


WORDS = some.sampled_from(["default", "low", "high", "1024x1024", "2048x2048", "low:1024x1024", "high:2048x2048"])


@given(
    some.dictionaries(WORDS, some.integers(0, USD)),
    some.sampled_from(["low", "medium", "high"]),
    some.sampled_from(["1024x1024", "2048x2048", "512x512"]),
    some.integers(1, 10),
)
def test_what_is_left_open_never_costs_less_than_any_way_to_say_it(rows, quality, size, n):
    price = Price(image=rows)
    said = quote(price, picture(size, quality, n))

    for shape in (picture(None, quality, n), picture(size, "auto", n), picture("auto", None, n)):
        left_open = quote(price, shape)
        assert said is None or (left_open is not None and left_open >= said)


@given(
    some.builds(
        Usage,
        input_tokens=some.integers(0, 10**7),
        input_image_tokens=some.none() | some.integers(0, 10**7),
        cached_tokens=some.none() | some.integers(0, 10**7),
        output_tokens=some.integers(0, 10**7),
        output_image_tokens=some.none() | some.integers(0, 10**7),
    )
)
def test_a_usage_costs_between_its_cheapest_and_its_dearest_token(usage):
    settled = settle(Price(tokens=CHATTY), ONE, billed=Billed.YES, usage=usage, reported=None)

    assert not settled.estimated
    low = usage.input_tokens * 1000 + usage.output_tokens * 10_000
    high = usage.input_tokens * 8000 + usage.output_tokens * 30_000
    assert low <= settled.cost_nanos <= high


def test_no_float_takes_part_in_an_amount():
    amounts = [quote(IMAGE, picture()), quote(MEGAPIXEL, picture("2000x1001")), quote(VIDEO, film("1080p", 3))]
    amounts.append(settle(BY_TOKENS, ONE, billed=Billed.YES, usage=OPENAI_USAGE, reported=None).cost_nanos)

    assert [type(amount) for amount in amounts] == [int] * 4


CHAT = Shape(kind=Kind.CHAT_COMPLETION, model="m", prompt_chars=300)
TALK = Price(tokens=Tokens(input=USD, output=10 * USD))  # 1,000 and 10,000 nano-USD for a token


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (replace(CHAT, max_tokens=50), 100_000 + 500_000),
        (replace(CHAT, max_tokens=50, n=3), 100_000 + 1_500_000),
        (replace(CHAT, max_tokens=0), 100_000),
        (CHAT, 100_000 + 4_096 * 10_000),
    ],
)
def test_a_chat_is_estimated_by_its_prompt_and_the_longest_answer_allowed(shape, expected):
    assert quote(TALK, shape) == expected


def test_a_chat_costs_what_it_used_however_long_it_might_have_been():
    usage = Usage(input_tokens=9, output_tokens=2)

    assert settle(TALK, CHAT, billed=Billed.YES, usage=usage, reported=None) == Settled(9_000 + 20_000)
