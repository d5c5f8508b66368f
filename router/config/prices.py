"""Prices: the catalogue (`config/prices.yaml`) by adapter and upstream model, and lines as the policies use them.

A model that the catalogue does not have has no price, which is not the price zero. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from router.config.document import Plain, compose
from router.config.models import CatalogueFile, PriceEntry
from router.config.problems import Findings, Problem
from router.config.reading import read_into
from router.config.schema import show_path
from router.policy.rules import Price, Tokens

CATALOGUE_SOURCE = "prices.yaml"

Catalogue = Mapping[tuple[str, str], Price]
"""(adapter, upstream model) -> list price."""


def read_catalogue(text: str) -> tuple[Catalogue, tuple[Problem, ...]]:
    """Read the catalogue; an empty text is an empty catalogue."""
    if not text:
        return MappingProxyType({}), ()
    document = compose(text)
    findings = Findings(CATALOGUE_SOURCE, document.line_of, partial(show_path, CatalogueFile))
    for slip in document.slips:
        findings.complain(slip.path, slip.message, line=slip.line)
    if document.root is None:
        return MappingProxyType({}), findings.problems
    sound = read_into(CatalogueFile, document, findings, stand_ins={"version": Plain("1"), "prices": {}})
    rows = {} if sound is None else sound.value.prices
    prices = {
        (adapter, model): price_of(row.price) for adapter, models in rows.items() for model, row in models.items()
    }
    return MappingProxyType(prices), findings.problems


def price_of(entry: PriceEntry) -> Price:
    """Turn the lines of a document into the lines of a price."""
    tokens, megapixel = entry.tokens, entry.megapixel
    return Price(
        image=None if entry.image is None else MappingProxyType(dict(entry.image)),
        megapixel=None if megapixel is None else (megapixel.first, megapixel.further),
        video_second=None if entry.video_second is None else MappingProxyType(dict(entry.video_second)),
        request=entry.request,
        tokens=None
        if tokens is None
        else Tokens(
            input=tokens.input or 0,
            image_input=tokens.image_input,
            cached=tokens.cached,
            output=tokens.output or 0,
            image_output=tokens.image_output,
        ),
    )
