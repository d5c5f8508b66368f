"""Models of the file into models of the rules: their targets with abilities and prices, and their rules in order.

A rule may name targets of its model, or providers, which stand for the model's targets there; or it brings whole
targets along. What it leaves out is the model's, key by key. Names of targets are unique within a rule and stand for
one provider within a model, because the history of a task knows a target by its name. Floor 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from router.config.models import (
    SURFACES,
    ModelEntry,
    PriceEntry,
    RetryEntry,
    RoutingFile,
    RuleEntry,
    TargetEntry,
    WhenEntry,
    said_or,
)
from router.config.prices import Catalogue, price_of
from router.config.problems import Findings, Path
from router.config.reading import Sound
from router.policy.rules import Model, OnFailure, Price, Provider, Retry, Rule, Strategy, Target, When
from router.provider import Abilities, AdapterFacts, Kind

METADATA = "metadata."
_LARGE_X = re.compile(r"[0-9]+[X\u00d7*][0-9]+")

Placed = list[tuple[Path, Target]]
"""Targets with the places where they are written."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a model is compiled against. `providers` are the sound ones; the others have been reported."""

    sound: Sound[RoutingFile]
    providers: Mapping[str, Provider]
    catalogue: Catalogue
    findings: Findings


def compile_model(name: str, entry: ModelEntry, around: Surroundings) -> Model:
    """Compile one model. After a problem the result is good for further checks only."""
    path: Path = ("models", name)
    placed = around.sound.place((*path, "targets"), entry.targets)
    own = [(place, _compile_target(place, one, entry.kind, around)) for place, one in placed]
    targets: Placed = [(place, target) for place, target in own if target is not None]
    _demand_distinct(targets, "the model", around.findings)
    otherwise = Rule(
        number=0,
        when=When(),
        targets=tuple(target for _place, target in targets),
        strategy=said_or(entry.strategy, Strategy.ORDERED),
        on_failure=said_or(entry.on_failure, OnFailure.NEXT),
        timeout_s=entry.timeout,
        retry=_merge_retry((*path, "retry"), Retry(), entry.retry, around.findings),
    )
    known = {said_or(one.name, one.provider) for one in entry.targets} | {one.provider for one in entry.targets}
    knows_all = around.sound.is_whole((*path, "targets"))
    compiler = _RuleCompiler(entry.kind, otherwise, targets, known, knows_all, around)
    rules = tuple(compiler.compile(place, rule) for place, rule in around.sound.place((*path, "rules"), entry.rules))
    _demand_one_provider_per_name(path, (otherwise, *rules), around.findings)
    _warn_of_shadows(path, rules, around)
    return Model(name, entry.kind, rules, otherwise)


# -- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RuleCompiler:
    """Compiles the rules of one model. `known` names its targets and their providers as they are written, also of those
    that have a problem; `knows_all`: none of them is missing there.
    """

    family: str
    otherwise: Rule
    own: Placed
    known: AbstractSet[str]
    knows_all: bool
    around: Surroundings

    def compile(self, path: Path, entry: RuleEntry) -> Rule:
        """Merge one rule over the model's own defaults."""
        model, findings = self.otherwise, self.around.findings
        targets = model.targets if entry.targets is None else self._find_targets((*path, "targets"), entry.targets)
        return Rule(
            number=int(path[-1]) + 1,
            when=compile_when((*path, "when"), entry.when, self.family, findings),
            targets=targets,
            strategy=said_or(entry.strategy, model.strategy),
            on_failure=said_or(entry.on_failure, model.on_failure),
            timeout_s=model.timeout_s if entry.timeout is None else entry.timeout,
            retry=_merge_retry((*path, "retry"), model.retry, entry.retry, findings),
        )

    def _find_targets(self, path: Path, entries: tuple[TargetEntry | str, ...]) -> tuple[Target, ...]:
        found: Placed = []
        for place, entry in self.around.sound.place(path, entries):
            if isinstance(entry, str):
                found += [(place, target) for target in self._find_named(place, entry)]
                continue
            target = _compile_target(place, entry, self.family, self.around)
            if target is not None:
                found.append((place, target))
        _demand_distinct(found, "the rule", self.around.findings)
        return tuple(target for _place, target in found)

    def _find_named(self, path: Path, name: str) -> list[Target]:
        """Find the model's target of this name, else its targets at the provider of this name."""
        own = [target for _place, target in self.own]
        found = [target for target in own if target.name == name] or [one for one in own if one.provider == name]
        if name not in self.known and self.knows_all:
            names = _enumerate(target.name for target in own)
            self.around.findings.complain(path, f"the model has no such target; it has {names}")
        return found


def compile_when(path: Path, entry: WhenEntry, family: str, findings: Findings) -> When:
    """Compile a condition; one that no request of the model's kind can meet is a problem."""
    kinds = [kind.value for kind in Kind if kind.family == family]
    if entry.kind is not None and not _match_any(entry.kind, kinds):
        findings.complain((*path, "kind"), f"must fit a kind of this model: {_enumerate(kinds)}")
    if entry.surface is not None and not _match_any(entry.surface, SURFACES):
        findings.complain((*path, "surface"), f"must fit a surface: {_enumerate(SURFACES)}")
    if any(_LARGE_X.fullmatch(size) for size in entry.size or ()):
        findings.complain((*path, "size"), "a size is WIDTHxHEIGHT, with a small x")
    metadata = {key.removeprefix(METADATA): patterns for key, patterns in (entry.__pydantic_extra__ or {}).items()}
    return When(
        kind=entry.kind,
        tenant=entry.tenant,
        size=entry.size,
        quality=entry.quality,
        n=entry.n,
        seconds=entry.seconds,
        priority=entry.priority,
        surface=entry.surface,
        metadata=MappingProxyType(metadata),
        hours=entry.hours,
    )


def _demand_one_provider_per_name(path: Path, rules: Iterable[Rule], findings: Findings) -> None:
    """A task that moves between rules must not take one target's failures for another's."""
    providers: dict[str, str] = {}
    for rule in rules:
        for target in rule.targets:
            if providers.setdefault(target.name, target.provider) != target.provider:
                place = (*path, "rules", rule.number - 1, "targets") if rule.number else (*path, "targets")
                findings.complain(place, f"{target.name} is the name of a target at another provider: choose another")


def _warn_of_shadows(path: Path, rules: Iterable[Rule], around: Surroundings) -> None:
    """Two rules with one condition: the later one never matches."""
    seen: list[Rule] = []
    for rule in rules:
        place = (*path, "rules", rule.number - 1)
        twin = next((one for one in seen if one.when == rule.when), None)
        if twin is not None and around.sound.is_whole(place):
            around.findings.warn(place, f"never matches: rules[{twin.number - 1}] has the same condition")
        seen.append(rule)


def _merge_retry(path: Path, over: Retry, entry: RetryEntry, findings: Findings) -> Retry:
    """Replace what is said, key by key; of the two waits the one that is not said gives way."""
    first, longest = entry.backoff.first, entry.backoff.max
    if first is not None and longest is not None and first > longest:
        findings.complain((*path, "backoff", "max"), "must not be shorter than first")
    return Retry(
        per_target=said_or(entry.per_target, over.per_target),
        total=said_or(entry.total, over.total),
        backoff_first_s=said_or(first, min(over.backoff_first_s, said_or(longest, over.backoff_max_s))),
        backoff_max_s=said_or(longest, max(over.backoff_max_s, said_or(first, over.backoff_first_s))),
        retry_unknown=said_or(entry.retry_unknown, over.retry_unknown),
        retry_unusable_failover=said_or(entry.retry_unusable, over.retry_unusable_failover),
        on_refusal_failover=said_or(entry.on_refusal, over.on_refusal_failover),
    )


# -- targets ----------------------------------------------------------------------------------------------------------


def _compile_target(path: Path, entry: TargetEntry, family: str, around: Surroundings) -> Target | None:
    """Compile a target; None when its provider is not there or not sound, or cannot do anything of the family."""
    provider = around.providers.get(entry.provider)
    if provider is None:
        if not around.sound.has_entry("providers", entry.provider):
            names = around.sound.value.providers
            around.findings.complain((*path, "provider"), f"there is no such provider; there are {_enumerate(names)}")
        return None
    abilities = _find_abilities(provider.adapter, entry.model)
    if abilities is None:
        around.findings.complain((*path, "model"), f"the adapter {provider.adapter.slug} does not know this model")
        return None
    if not any(kind.family == family for kind in abilities.kinds):
        told = f"the adapter {provider.adapter.slug} does nothing of kind {family} with this model in this version"
        around.findings.complain((*path, "model"), told)
        return None
    price = _find_price(path, entry, provider, around)
    return Target(
        said_or(entry.name, entry.provider), entry.provider, entry.model, price, abilities, said_or(entry.weight, 1)
    )


def _find_abilities(facts: AdapterFacts, model: str) -> Abilities | None:
    try:
        return facts.of_model(model)
    except ValueError:
        return None  # neither the model, nor a prefix of it, nor a row for the rest


def _find_price(path: Path, entry: TargetEntry, provider: Provider, around: Surroundings) -> Price | None:
    loss = "its cost is not known, and it is left out wherever a budget or max_price applies"
    if isinstance(entry.price, PriceEntry):
        return price_of(entry.price)
    if entry.price is None:
        if around.sound.is_whole(path):
            around.findings.warn(path, f"has no price: {loss}")
        return None
    price = around.catalogue.get((provider.adapter.slug, entry.model))
    if price is None:
        around.findings.warn((*path, "price"), f"the catalogue has no row for this model: {loss}")
    return price


def _demand_distinct(targets: Placed, whose: str, findings: Findings) -> None:
    """No two targets of one list may share a name."""
    seen: set[str] = set()
    for place, target in targets:
        if target.name in seen:
            findings.complain(place, f"another target of {whose} has this name already: give it a `name` of its own")
        seen.add(target.name)


def _match_any(patterns: Iterable[str], words: Iterable[str]) -> bool:
    """Whether every pattern fits at least one of the words."""
    known = tuple(words)
    return all(any(fnmatchcase(word, pattern) for word in known) for pattern in patterns)


def _enumerate(names: Iterable[str]) -> str:
    """List names for a message, at most ten."""
    listed = sorted(names)
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return (", ".join(listed[:10]) or "none") + more
