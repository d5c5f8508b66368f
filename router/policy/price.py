"""What an attempt is thought to cost before it is made, and what it did cost afterwards, in integer nano-USD.

Knows price lines (`rules.Price`) and the priced part of a request (`rules.Shape`); knows nothing of targets, providers
or budgets. An unknown amount is None, never zero (contract 6, Prices). No float takes part. Floor 1.

A price is the sum of its lines, with one reading that the contract leaves open: where a price has rows for outputs
(`image`, `megapixel`, `video_second`) and its `tokens` line prices outputs too, both name the price of the same thing.
The rows are then the estimate, as output tokens have no bound beforehand, and the provider's usage replaces them.
A `tokens` line that prices inputs only is charged beside the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from router.geometry import parse_size
from router.money import NANOS_MAX
from router.outcome import Billed
from router.policy.rules import Price, Shape, Tokens
from router.provider import Usage

AUTO = "auto"
DEFAULT = "default"
CHARS_PER_TOKEN = 3  # a token of English text is nearer to 4 characters, so that this guess is a little too high
TOKENS_PRICED = 1_000_000
OUTPUT_TOKENS_UNSAID = 4_096  # of an answer that the caller does not bound: longer than most, and no bound
# bfl-flux.md section 2: `output_mp: 1.05` (1024x1024) is billed as the first megapixel alone, so one is 2**20 pixels.
PIXELS_PER_MEGAPIXEL = 1024 * 1024
# bfl-flux.md section 2: width x height up to 4 MP. What the provider picks for a size left open is no larger.
MEGAPIXELS_UNSAID = 4


@dataclass(frozen=True, slots=True)
class Settled:
    """What an attempt cost in nano-USD, None when unknown. `estimated`: nobody said it, the price list did."""

    cost_nanos: int | None
    estimated: bool = False


def quote(price: Price | None, shape: Shape) -> int | None:
    """Estimate one attempt of the whole shape (all `n` outputs) in nano-USD; None when it cannot be known.

    `auto` or an unsaid size or quality takes the dearest row that could apply. Unknown are: no price, no line for this
    kind, no row for this size and quality, a video without `seconds`, and output tokens without rows that bound them;
    the answers of a chat are as long as the caller allows, `OUTPUT_TOKENS_UNSAID` where it does not say.
    Input images of a `tokens` line are not counted: their tokens are known from the usage only.
    """
    if price is None:
        return None
    rows = _rows(price, shape)
    lines = [None if row is None else row * shape.n for row in rows]
    if price.request is not None:
        lines.append(price.request)
    if price.tokens is not None:
        lines.append(_tokens_beforehand(price.tokens, shape, bounded=bool(rows)))
    known = [line for line in lines if line is not None]
    return sum(known) if known and len(known) == len(lines) else None


def quote_in_parts(price: Price | None, shape: Shape, most: int) -> int | None:
    """Estimate the whole shape where at most so many outputs are made at a time: what is paid per request adds up."""
    if shape.n <= most or most < 1:
        return quote(price, shape)
    full, rest = divmod(shape.n, most)
    each, last = quote(price, replace(shape, n=most)), quote(price, replace(shape, n=rest)) if rest else 0
    return None if each is None or last is None else full * each + last


def settle(price: Price | None, shape: Shape, *, billed: Billed, usage: Usage | None, reported: int | None) -> Settled:
    """Work out what an attempt cost (contract 6, Prices).

    Not billed is 0 and an unknown billing is unknown. A billed attempt costs the provider's own amount (`reported`,
    nano-USD), else its usage by the token prices, else the estimate, marked as such. An amount below zero or beyond
    what the ledger can hold counts as not said.
    """
    if billed is Billed.NO:
        return Settled(0)
    if billed is Billed.UNKNOWN:
        return Settled(None)
    if reported is not None and 0 <= reported <= NANOS_MAX:
        return Settled(reported)
    by_usage = _settle_by_usage(price, shape, usage)
    if by_usage is not None:
        return by_usage
    estimate = quote(price, shape)
    return Settled(estimate, estimated=estimate is not None)


# -- rows: the price of one output ----------------------------------------------------------------------------------


def _rows(price: Price, shape: Shape) -> tuple[int | None, ...]:
    """Read the lines that price one output of this kind; None for a line that has nothing for this request."""
    family = shape.kind.family
    rows: list[int | None] = []
    if family == "image" and price.image is not None:
        rows.append(_image_row(price.image, shape.quality, shape.size))
    if family == "image" and price.megapixel is not None:
        rows.append(_megapixel_row(price.megapixel, shape.size))
    if family == "video" and price.video_second is not None:
        rows.append(_video_row(price.video_second, shape))
    return tuple(rows)


def _image_row(rows: Mapping[str, int], quality: str | None, size: str | None) -> int | None:
    """Find the row of an image; what was left open runs over all that the rows name, and the dearest counts."""
    if _is_said(quality) and _is_said(size):
        return _most_specific(rows, quality, size)
    qualities: list[str | None] = [quality] if _is_said(quality) else [None, *(_quality_of(key) for key in rows)]
    sizes: list[str | None] = [size] if _is_said(size) else [None, *(_size_of(key) for key in rows)]
    found = (_most_specific(rows, one_quality, one_size) for one_quality in qualities for one_size in sizes)
    return max((amount for amount in found if amount is not None), default=None)


def _most_specific(rows: Mapping[str, int], quality: str | None, size: str | None) -> int | None:
    """`quality:size` before size before quality before `default` (contract 6)."""
    for key in (f"{quality}:{size}", size, quality, DEFAULT):
        if key is not None and key in rows:
            return rows[key]
    return None


def _is_said(word: str | None) -> bool:
    return word is not None and word != AUTO


def _quality_of(key: str) -> str | None:
    """The quality that a row names. Sizes begin with a digit (`1024x1536`, `2K`), qualities do not."""
    quality, colon, _size = key.partition(":")
    return quality if colon or not (key == DEFAULT or key[:1].isdigit()) else None


def _size_of(key: str) -> str | None:
    """The size that a row names."""
    _quality, colon, size = key.partition(":")
    if colon:
        return size
    return key if key[:1].isdigit() else None


def _megapixel_row(line: tuple[int, int], size: str | None) -> int:
    """The first megapixel, and each further one that was begun."""
    first, further = line
    sides = None if size is None else parse_size(size)
    count = MEGAPIXELS_UNSAID if sides is None else max(1, -(-sides[0] * sides[1] // PIXELS_PER_MEGAPIXEL))
    return first + further * (count - 1)


def _video_row(rows: Mapping[str, int], shape: Shape) -> int | None:
    """Seconds by the row of the resolution: the size as it is, or its shorter side as `1080p`."""
    if shape.seconds is None:
        return None
    if shape.size is None or shape.size == AUTO:
        per_second = max(rows.values(), default=None)
    else:
        sides = parse_size(shape.size)
        words = (shape.size, DEFAULT) if sides is None else (shape.size, f"{min(sides)}p", DEFAULT)
        per_second = next((rows[word] for word in words if word in rows), None)
    return None if per_second is None else per_second * shape.seconds


# -- tokens -----------------------------------------------------------------------------------------------------------


def _tokens_beforehand(tokens: Tokens, shape: Shape, *, bounded: bool) -> int | None:
    """The prompt by its length. Outputs cost nothing here if other rows bound them, and are unknown otherwise."""
    prompt = -(-shape.prompt_chars // CHARS_PER_TOKEN) * tokens.input
    if shape.kind.family == "chat":
        longest = OUTPUT_TOKENS_UNSAID if shape.max_tokens is None else shape.max_tokens
        return _round_half_up(prompt + longest * shape.n * tokens.output)
    if _prices_outputs(tokens) and not bounded:
        return None
    return _round_half_up(prompt)


def _settle_by_usage(price: Price | None, shape: Shape, usage: Usage | None) -> Settled | None:
    """Charge what the provider says it used; None when it did not say enough for the lines there are."""
    if price is None or price.tokens is None or usage is None:
        return None
    spent = _spend_tokens(price.tokens, usage, all_images=shape.kind.family == "image")
    if spent is None:
        return None
    cost = _round_half_up(spent) + (price.request or 0)
    rows = () if _prices_outputs(price.tokens) else _rows(price, shape)
    known = [row * shape.n for row in rows if row is not None]
    if len(known) != len(rows):
        return None
    total = cost + sum(known)
    return Settled(total, estimated=bool(rows)) if total <= NANOS_MAX else None


def _spend_tokens(tokens: Tokens, usage: Usage, *, all_images: bool) -> int | None:
    """Sum tokens x price, in millionths of a nano-USD.

    The counts of image and of cached tokens are parts of the totals. Where an image provider leaves the detail of its
    outputs out, all of them are image tokens (openai-images.md section 4: `output_tokens_details` may be missing).
    """
    said = (usage.input_tokens, usage.input_image_tokens, usage.cached_tokens, usage.output_tokens)
    if any(count is not None and count < 0 for count in (*said, usage.output_image_tokens)):
        return None
    if (usage.input_tokens is None and _prices_inputs(tokens)) or (
        usage.output_tokens is None and _prices_outputs(tokens)
    ):
        return None
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    images_in = min(usage.input_image_tokens or 0, inputs)
    cached = min(usage.cached_tokens or 0, inputs - images_in)
    images_out = usage.output_image_tokens
    if images_out is None:
        images_out = outputs if all_images else 0
    images_out = min(images_out, outputs)
    return (
        (inputs - images_in - cached) * tokens.input
        + images_in * (tokens.input if tokens.image_input is None else tokens.image_input)
        + cached * (tokens.input if tokens.cached is None else tokens.cached)
        + (outputs - images_out) * tokens.output
        + images_out * (tokens.output if tokens.image_output is None else tokens.image_output)
    )


def _prices_inputs(tokens: Tokens) -> bool:
    return bool(tokens.input or tokens.image_input or tokens.cached)


def _prices_outputs(tokens: Tokens) -> bool:
    return bool(tokens.output or tokens.image_output)


def _round_half_up(millionths: int) -> int:
    """The one place where an amount is rounded: token prices are per million."""
    return (millionths + TOKENS_PRICED // 2) // TOKENS_PRICED
