"""Requests that the configuration takes and that only one target, or none, could serve: the warnings of `check`.

Each rule is tried with the shapes that it names, or else with the sizes that its targets' adapters name, through the
same functions that decide about real requests (`policy.fit`, `policy.price`). Only what a rule or an adapter names is
tried, so silence is no proof. Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from router.config.problems import Findings, Path
from router.geometry import parse_size
from router.policy.fit import Reason, find_misfit
from router.policy.price import quote
from router.policy.rules import Model, Provider, Rule, Ruleset, Shape
from router.provider import Kind
from router.task import Preferences

SIZES_MAX = 50
SHAPES_NAMED = 5
CHECKS_MAX = 100_000  # a file that needs more is not looked through to its end
_NO_WISHES = Preferences()


def warn_of_gaps(rules: Ruleset, findings: Findings) -> None:
    """Warn of the shapes that have no fallback; of a rule only what was not said of its model already."""
    checks = 0
    for model in rules.models.values():
        told: set[str] = set()
        for rule in (model.otherwise, *model.rules):
            path: Path = ("models", model.name, *(("rules", rule.number - 1) if rule.number else ("targets",)))
            trials = _list_trials(model, rule)
            checks += len(trials) * len(rule.targets)
            if checks > CHECKS_MAX:
                return
            messages = [
                *_list_gaps(trials, rule, rules),
                *(_list_unpriced(trials, rule, rules) if rules.budgets else ()),
            ]
            for message in messages:
                if message not in told:
                    findings.warn(path, message)
            if rule.number == 0:
                told.update(messages)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A request to try, and how to name it."""

    shape: Shape
    words: str


def _list_gaps(trials: list[_Trial], rule: Rule, rules: Ruleset) -> Iterator[str]:
    """Group the shapes of a rule by who is left for them, and tell of groups of one or none."""
    alone: dict[str, list[_Trial]] = {}
    locked: list[_Trial] = []
    beyond: list[_Trial] = []
    for trial in trials:
        able, usable = _find_servers(rule, rules, trial.shape)
        if not usable:
            (locked if able else beyond).append(trial)
        elif len(usable) == 1:
            alone.setdefault(usable[0], []).append(trial)
    for name, group in alone.items():
        yield f"no fallback: only {name} can serve {_enumerate(group, trials)}"
    if locked:
        yield f"nobody can serve {_enumerate(locked, trials)}: no target that could has a credential"
    if beyond:
        yield f"nobody can serve {_enumerate(beyond, trials)}: no target does that"


def _list_unpriced(trials: list[_Trial], rule: Rule, rules: Ruleset) -> Iterator[str]:
    """Tell of targets that have a price, and none for some of the shapes that they could serve."""
    for target in rule.targets:
        group = [
            trial
            for trial in trials
            if target.price is not None
            and quote(target.price, trial.shape) is None
            and target.name in _find_servers(rule, rules, trial.shape)[0]
        ]
        if group:
            yield f"{target.name} has no price for {_enumerate(group, trials)}: left out wherever a budget applies"


def _find_servers(rule: Rule, rules: Ruleset, shape: Shape) -> tuple[list[str], list[str]]:
    """Name the targets that could serve the shape, and those of them that have a credential."""
    able: list[str] = []
    usable: list[str] = []
    for target in rule.targets:
        provider: Provider = rules.providers[target.provider]
        misfit = find_misfit(target, provider, None, shape, _NO_WISHES, priced_only=False)
        if misfit is None or misfit.reason is Reason.NO_CREDENTIAL:
            able.append(target.name)
        if misfit is None:
            usable.append(target.name)
    return able, usable


def _list_trials(model: Model, rule: Rule) -> list[_Trial]:
    """Combine kinds and sizes. How many outputs are asked for changes nothing: a target makes any number in parts."""
    kinds, sizes = _kinds_of(rule, model.family), _sizes_of(rule)
    count = min((low for low, _high in rule.when.n or ()), default=1)
    trials: list[_Trial] = []
    for kind in kinds:
        prefix = f"{kind.value} " if len(kinds) > 1 else ""
        asked = Shape(kind, model.name, n=count, fields=frozenset({"prompt"}))
        for size in sizes:
            sized = asked if size is None else replace(asked, size=size, fields=asked.fields | {"size"})
            said = (size or "no size") if len(sizes) > 1 else f"n={count}"
            trials.append(_Trial(sized, prefix + said))
    return trials


def _kinds_of(rule: Rule, family: str) -> tuple[Kind, ...]:
    """The kinds that the rule names; for one that names none, those that its targets do."""
    if rule.when.kind is not None:
        named = tuple(kind for kind in Kind if kind.value in rule.when.kind)
        if named:
            return named
    done = {kind for target in rule.targets for kind in target.abilities.kinds}
    return tuple(kind for kind in Kind if kind.family == family and kind in done)


def _sizes_of(rule: Rule) -> tuple[str | None, ...]:
    """The sizes that the rule names in full; for one that names none, those that its targets' adapters name."""
    if rule.when.size is not None:
        named = tuple(dict.fromkeys(size for size in rule.when.size if parse_size(size) is not None))
        return named[:SIZES_MAX] or (None,)
    known = {size for target in rule.targets if target.abilities.sizes for size in target.abilities.sizes.named}
    return (None, *sorted(size for size in known if parse_size(size) is not None)[:SIZES_MAX])


def _enumerate(group: list[_Trial], trials: list[_Trial]) -> str:
    """Name some of the trials: all of them at once, a kind as a whole, or each."""
    if len(group) == len(trials):
        return "these requests"
    words: list[str] = []
    for kind in dict.fromkeys(trial.shape.kind for trial in group):
        own = [trial.words for trial in group if trial.shape.kind is kind]
        whole = len(own) == sum(trial.shape.kind is kind for trial in trials)
        words += [kind.value] if whole else own
    more = f" and {len(words) - SHAPES_NAMED} more" if len(words) > SHAPES_NAMED else ""
    return ", ".join(words[:SHAPES_NAMED]) + more
