"""Tokens and list prices of OpenAI's image models: what a reply's `usage` says, and what the bill charges for it.

Pure arithmetic on an order. The token counts are fixed by size and quality, so that tests about cost are stable; they
are chosen such that tokens times the listed token price give the listed price of a picture.
Source: the provider file of the OpenAI images API, sections 4, 5 and 8.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from providers.simulated.image_order import Order

MILLION = Decimal(1_000_000)
PIXELS_AT_LIST = 1024 * 1024
INPUT_PICTURE_TOKENS = 40
PARTIAL_PICTURE_TOKENS = 100

# Output tokens of a 1024x1024 picture. The first row is the published one of gpt-image-1; 1536x1024 costs half as
# much again, as the pixels do. The second row gives the list prices .006, .053 and .211 of gpt-image-2 at 30 dollars
# per million tokens. No number is published for xhigh and max; these only keep the order.
_TOKENS_1 = {"low": 272, "medium": 1056, "high": 4160, "xhigh": 6240, "max": 8320}
_TOKENS_2 = {"low": 200, "medium": 1767, "high": 7033, "xhigh": 10_550, "max": 14_066}


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """US dollars per million tokens."""

    text_in: Decimal
    image_in: Decimal
    image_out: Decimal


_PRICES: tuple[tuple[str, TokenPrices], ...] = (
    ("gpt-image-2", TokenPrices(Decimal(5), Decimal(8), Decimal(30))),
    ("gpt-image-1.5", TokenPrices(Decimal(5), Decimal(8), Decimal(32))),
    ("chatgpt-image", TokenPrices(Decimal(5), Decimal(8), Decimal(32))),
    ("gpt-image-1-mini", TokenPrices(Decimal(2), Decimal("2.5"), Decimal(8))),
    ("gpt-image-1", TokenPrices(Decimal(5), Decimal(10), Decimal(40))),
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one order."""

    text_in: int
    image_in: int
    image_out: int

    def as_json(self) -> dict[str, Any]:
        """The `usage` object of a reply."""
        return {
            "input_tokens": self.text_in + self.image_in,
            "output_tokens": self.image_out,
            "total_tokens": self.text_in + self.image_in + self.image_out,
            "input_tokens_details": {"text_tokens": self.text_in, "image_tokens": self.image_in},
            "output_tokens_details": {"image_tokens": self.image_out, "text_tokens": 0},
        }


def count_usage(order: Order) -> Usage:
    """The tokens of an order: text by length, pictures by size and quality, a hundred for each partial picture."""
    table = _TOKENS_2 if order.model.startswith("gpt-image-2") else _TOKENS_1
    each = -(-table.get(order.quality, table["medium"]) * order.width * order.height // PIXELS_AT_LIST)
    partials = order.partial_images * PARTIAL_PICTURE_TOKENS if order.stream else 0
    return Usage(
        text_in=(len(order.prompt) + 3) // 4,
        image_in=order.inputs * INPUT_PICTURE_TOKENS,
        image_out=order.n * each + partials,
    )


def price_order(order: Order) -> Decimal | None:
    """The list price of an order in US dollars, or None for a model that the list does not have."""
    if order.model.startswith("dall-e-3"):
        hd, large = order.quality == "hd", max(order.width, order.height) > 1024
        return Decimal("0.12" if hd and large else "0.08" if hd or large else "0.04")
    prices = next((prices for prefix, prices in _PRICES if order.model.startswith(prefix)), None)
    if prices is None:
        return None
    usage = count_usage(order)
    tokens_at_price = (
        usage.text_in * prices.text_in + usage.image_in * prices.image_in + usage.image_out * prices.image_out
    )
    return tokens_at_price / MILLION
