"""The routing file (contract section 6): a text in, a frozen ruleset or every problem with its line out.

`load` is all that the daemon, `check` and the tests call. It reads no file, variable or clock: texts and the ways to
find secrets and adapters are handed in. A broken text never raises. The steps have a file each: `document` (YAML with
lines), `reading` (into the pydantic `models`, each value by its `notation`), `compilation` with `accounts`, `routes`
and `prices` (into the records of `router.policy.rules`), `gaps` (warnings), `schema` (JSON Schema). Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from router.config.compilation import Site, compile_ruleset
from router.config.credentials import Sources
from router.config.document import Plain, compose
from router.config.gaps import warn_of_gaps
from router.config.models import RoutingFile
from router.config.prices import read_catalogue
from router.config.problems import Findings, Problem
from router.config.reading import read_into
from router.config.schema import schema, show_path
from router.config.starter import starter
from router.policy.rules import Ruleset
from router.provider import AdapterFacts

__all__ = ["Loaded", "Problem", "load", "schema", "starter"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a text. `ruleset` is None exactly if there are problems; warnings do not stand in its way."""

    ruleset: Ruleset | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def load(
    text: str,
    *,
    source: str,
    environ: Mapping[str, str],
    read_secret: Callable[[str], str],
    adapter: Callable[[str], AdapterFacts | None],
    catalogue: str = "",
) -> Loaded:
    """Compile a routing file.

    `source` names it in problems. `read_secret` returns the content of a `file:` reference (an OSError or ValueError if
    it cannot); `adapter` the facts of an adapter by its slug, None for an unknown one; `catalogue` is the text of
    prices.yaml. Secrets are not in the ruleset's hash: to see a changed one, compare rulesets, not hashes.
    """
    prices, catalogue_problems = read_catalogue(catalogue)
    document = compose(text)
    findings = Findings(source, document.line_of, partial(show_path, RoutingFile))
    for slip in document.slips:
        findings.complain(slip.path, slip.message, line=slip.line)
    ruleset = None
    if document.root is not None:
        stand_ins = {"version": Plain("1"), "providers": {}, "models": {}}
        sound = read_into(RoutingFile, document, findings, stand_ins=stand_ins)
        if sound is not None:
            site = Site(Sources(environ, read_secret), adapter, prices)
            ruleset = compile_ruleset(sound, site, findings, digest=_digest(text, catalogue))
    problems = (*findings.problems, *catalogue_problems)
    if ruleset is None or problems:
        return Loaded(None, problems, findings.warnings)
    warn_of_gaps(ruleset, findings)
    return Loaded(ruleset, (), findings.warnings)


def _digest(*texts: str) -> str:
    """The first 16 hex digits of the SHA-256 of the texts, each behind its length so that no two pairs are alike."""
    digest = sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]
