"""The providers: one adapter per upstream service, the wire forms that several of them share, and a simulator of each.

An adapter knows its provider's wire format and failures and nothing of queue, store, clock or configuration. This file
finds adapters by the name of their module: `providers/<slug>.py` with a class `Adapter` is one, and there is no list to
edit. It knows no provider and imports neither wire forms nor simulators. Floor 3.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import cast

from router.provider import Adapter, AdapterFacts

NOT_ADAPTERS = frozenset({"formats", "simulated"})
SLUG = re.compile(r"[a-z][a-z0-9_]{0,63}")


class UnknownAdapter(LookupError):  # noqa: N818 - it says what the slug is
    """No adapter has this slug. The message names those that exist."""


@cache
def load(slug: str) -> Adapter:
    """Return the adapter of `providers/<slug>.py`; the same one each time, since adapters hold nothing.

    Raises `UnknownAdapter` when there is no such module. A module that cannot be imported, or that is no adapter, is a
    bug and raises what it raises.
    """
    names = known()
    if slug not in names:
        raise UnknownAdapter(f"there is no adapter {slug!r}; known are: {', '.join(names)}")
    adapter = cast("Adapter", import_module(f"{__name__}.{slug}").Adapter())
    if adapter.facts.slug != slug:
        raise TypeError(f"providers/{slug}.py calls itself {adapter.facts.slug!r}")
    return adapter


def known() -> tuple[str, ...]:
    """Name every adapter there is, in alphabetical order, without importing any."""
    names = (module.name for module in iter_modules(__path__))
    return tuple(sorted(name for name in names if SLUG.fullmatch(name) and name not in NOT_ADAPTERS))


def facts(slug: str) -> AdapterFacts | None:
    """Tell what configuration must know of an adapter; None when there is none of this name."""
    try:
        return load(slug).facts
    except UnknownAdapter:
        return None
