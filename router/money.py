"""Money: integer nano-USD inside (`Nanos`), decimal strings outside, and None for what nobody knows. Floor 0."""

from __future__ import annotations

from decimal import Decimal
from typing import NewType

Nanos = NewType("Nanos", int)
NANOS_PER_USD = 1_000_000_000
NANOS_MAX = 2**63 - 1


def nanos_of(usd: Decimal | str | int) -> Nanos:
    """Read an amount in USD exactly; `ValueError` if it is negative, not finite, finer than a nano-USD or too large."""
    try:
        amount = Decimal(usd)
    except ArithmeticError as broken:
        raise ValueError(f"{usd!r} is not an amount in USD") from broken
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{usd!r} is not an amount in USD")
    _sign, digits, exponent = amount.as_tuple()
    while len(digits) > 1 and digits[-1] == 0:
        digits, exponent = digits[:-1], int(exponent) + 1
    # Judged before multiplying, because decimal arithmetic rounds to its context.
    if digits != (0,) and (int(exponent) < -9 or amount > Decimal(NANOS_MAX).scaleb(-9)):
        raise ValueError(f"{usd!r} is finer than a nano-USD or too large")
    return Nanos(int(amount * NANOS_PER_USD))


def usd_of(nanos: int | None) -> str | None:
    """Write nano-USD as a decimal string without exponent or trailing zeros; None stays None (unknown)."""
    if nanos is None:
        return None
    sign, whole, rest = "-" if nanos < 0 else "", *divmod(abs(nanos), NANOS_PER_USD)
    return f"{sign}{whole}" if rest == 0 else f"{sign}{whole}.{rest:09d}".rstrip("0")
