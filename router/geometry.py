"""Sizes, shapes, resolutions and qualities of pictures and films, and their translation between dialects.

One caller says `1024x1536`, one provider takes it as it is, another wants `2:3` and `1K`, a third `portrait_16_9`. The
translations stand here once: the router's filter asks the same functions beforehand that an adapter uses afterwards, so
that what cannot be said in a dialect is left out before money is spent (contract 5.4). Floor 0: pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RATIO_TOLERANCE = 0.03
"""How far a size may be from a named shape: 1792x1024 is called 16:9 everywhere and is 1.6 % off."""
TIER_FACTOR = 2.0
"""A picture has the size of a tier if its area is at most so many times larger or smaller."""
SIDE_TOLERANCE = 0.12
"""How far a film's shorter side may be from that of a resolution word: 1792x1024 counts as 1080p."""

TIERS: Mapping[str, int] = {"512": 512 * 512, "1K": 1024 * 1024, "2K": 2048 * 2048, "4K": 4096 * 4096}
"""Pixels of the square picture that each word stands for (Gemini imageSize, Seedream size)."""
RESOLUTIONS: Mapping[str, int] = {"360p": 360, "480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
"""The shorter side of a film that each word stands for."""
QUALITY_RANKS: Mapping[str, int] = {
    "low": 0,
    "medium": 1,
    "standard": 1,
    "high": 2,
    "hd": 2,
    "xhigh": 3,
    "max": 4,
}
"""Words of one rank mean the same in different dialects: dall-e-3 says `standard` and `hd` for `medium` and `high`."""


def parse_size(size: str) -> tuple[int, int] | None:
    """Read `WIDTHxHEIGHT` into two positive numbers of at most five digits, else None."""
    width, cross, height = size.partition("x")
    if (
        not cross
        or not size.isascii()
        or not width.isdecimal()
        or not height.isdecimal()
        or len(width) > 5
        or len(height) > 5
    ):
        return None
    sides = int(width), int(height)
    return sides if min(sides) > 0 else None


def parse_ratio(ratio: str) -> float | None:
    """Read `W:H` into width / height, None when it is no shape."""
    width, colon, height = ratio.partition(":")
    sides = parse_size(f"{width}x{height}") if colon else None
    return None if sides is None else sides[0] / sides[1]


def ratio_of(size: str, among: Iterable[str]) -> str | None:
    """Name the shape of a size (`1024x1536` is `2:3`), of those that a dialect has; None when none is near enough."""
    sides = parse_size(size)
    if sides is None:
        return None
    wanted = sides[0] / sides[1]
    named = [(ratio, value) for ratio in sorted(among) if (value := parse_ratio(ratio)) is not None]
    distances = [(abs(math.log(wanted / value)), ratio) for ratio, value in named]
    nearest = min(distances, default=None)
    return nearest[1] if nearest is not None and nearest[0] <= math.log(1 + RATIO_TOLERANCE) else None


def tier_of(size: str, among: Iterable[str]) -> str | None:
    """Name the tier of a size (`2048x2048` is `2K`), of those that a dialect has; None when it is of none."""
    sides = parse_size(size)
    if sides is None:
        return None
    pixels = sides[0] * sides[1]
    distances = [(abs(math.log(pixels / TIERS[tier])), tier) for tier in sorted(among) if tier in TIERS]
    nearest = min(distances, default=None)
    return nearest[1] if nearest is not None and nearest[0] <= math.log(TIER_FACTOR) + 1e-9 else None


def resolution_of(size: str, among: Iterable[str]) -> str | None:
    """Name the resolution of a film's size (`1280x720` is `720p`), of those that a dialect has; None for none."""
    sides = parse_size(size)
    if sides is None:
        return None
    short = min(sides)
    distances = [(abs(math.log(short / RESOLUTIONS[word])), word) for word in sorted(among) if word in RESOLUTIONS]
    nearest = min(distances, default=None)
    return nearest[1] if nearest is not None and nearest[0] <= math.log(1 + SIDE_TOLERANCE) else None


def size_of(ratio: str, pixels: int, multiple: int = 16) -> str | None:
    """Work out a size of this shape with about so many pixels, sides in multiples (`2:3` of 1.5 Mpx is `1024x1536`)."""
    value = parse_ratio(ratio)
    if value is None or not 1 / 16 <= value <= 16:
        return None
    width = max(multiple, round(math.sqrt(pixels * value) / multiple) * multiple)
    height = max(multiple, round(math.sqrt(pixels / value) / multiple) * multiple)
    return f"{width}x{height}"


def quality_of(word: str, among: Iterable[str]) -> str | None:
    """Say a quality in the words of a dialect: the same word, else one of the same rank; None when it has none."""
    words = sorted(among)
    if word in words:
        return word
    rank = QUALITY_RANKS.get(word)
    return next((other for other in words if rank is not None and QUALITY_RANKS.get(other) == rank), None)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which `size` values a target honours. Either exactly: `named` ones, and WIDTHxHEIGHT within limits in pixels; or
    by shape: `ratios` that it knows, with `tiers` of area (pictures) or `resolutions` (films) where it has such words.
    """

    named: frozenset[str] = frozenset()
    multiple: int = 1
    min_side: int = 1
    max_side: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    max_ratio: float = 0.0
    ratios: frozenset[str] = field(default=frozenset())
    tiers: frozenset[str] = field(default=frozenset())
    resolutions: frozenset[str] = field(default=frozenset())

    def fits(self, size: str) -> bool:
        """Tell whether the size can be honoured."""
        if size in self.named:
            return True
        return self._fits_by_shape(size) or self._fits_exactly(size)

    def _fits_by_shape(self, size: str) -> bool:
        return (
            bool(self.ratios)
            and ratio_of(size, self.ratios) is not None
            and (not self.tiers or tier_of(size, self.tiers) is not None)
            and (not self.resolutions or resolution_of(size, self.resolutions) is not None)
        )

    def _fits_exactly(self, size: str) -> bool:
        sides = parse_size(size)
        if sides is None or self.max_side == 0:
            return False
        short, long = min(sides), max(sides)
        return (
            all(side % self.multiple == 0 for side in sides)
            and short >= self.min_side
            and long <= self.max_side
            and short * long >= self.min_pixels
            and (self.max_pixels == 0 or short * long <= self.max_pixels)
            and (self.max_ratio == 0 or long <= short * self.max_ratio)
        )
