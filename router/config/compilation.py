"""A sound file into a frozen ruleset: every section compiled, and what the sections demand of each other checked.

All sections are compiled whatever is wrong with the others, so that every problem is told at once; the ruleset exists
only if there is none. Defaults come from the records of `router.policy.rules`. Floor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from fnmatch import fnmatchcase
from types import MappingProxyType

from router.config.accounts import FindAdapter, compile_provider
from router.config.credentials import REFERENCE, Absent, Sources, Unfit, find_secret, is_reference
from router.config.document import Keys, walk_scalars
from router.config.models import DefaultsEntry, RoutingFile, TenantEntry, said_or
from router.config.prices import Catalogue
from router.config.problems import Findings, Path
from router.config.reading import Sound
from router.config.routes import Surroundings, compile_model
from router.outbox import key_of
from router.policy.rules import Budget, Credential, Defaults, Model, Provider, Ruleset, Scope, Tenant, Window

READ_IN = ("api_key", "api_keys", "base_url", "webhook_secret", "webhook_keys_url")
"""The keys of a provider in which references are followed."""
READ_IN_TENANTS = ("webhook_secrets",)
"""The same of a tenant."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a file is compiled with: where its references lead, which adapters there are, what things cost."""

    sources: Sources
    find_adapter: FindAdapter
    catalogue: Catalogue


def compile_ruleset(sound: Sound[RoutingFile], site: Site, findings: Findings, *, digest: str) -> Ruleset:
    """Compile all sections. The result is whole and valid only if `findings` has no problem afterwards."""
    file = sound.value
    providers = _compile_providers(sound, site, findings)
    around = Surroundings(sound, providers, site.catalogue, findings)
    models = {name: compile_model(name, entry, around) for name, entry in file.models.items()}
    names = _Names(sound, models, findings)
    aliases = names.check_aliases()
    names.check_default_models(aliases)
    ruleset = Ruleset(
        hash=digest,
        zone=said_or(file.timezone, UTC),
        defaults=_compile_defaults(file.defaults, findings),
        providers=MappingProxyType(providers),
        models=MappingProxyType(models),
        aliases=MappingProxyType(aliases),
        default_model=MappingProxyType(file.default_model.model_dump(exclude_none=True)),
        budgets=_compile_budgets(sound, findings),
        tenants=MappingProxyType(
            {name: _compile_tenant(name, entry, names, aliases, site) for name, entry in file.tenants.items()}
        ),
    )
    _demand_something(sound, findings)
    _find_stray_references(sound, findings)
    return ruleset


# -- sections ---------------------------------------------------------------------------------------------------------


def _compile_providers(sound: Sound[RoutingFile], site: Site, findings: Findings) -> dict[str, Provider]:
    compiled = {
        name: compile_provider(
            name, entry, sound=sound, sources=site.sources, find_adapter=site.find_adapter, findings=findings
        )
        for name, entry in sound.value.providers.items()
    }
    return {name: provider for name, provider in compiled.items() if provider is not None}


def _compile_defaults(entry: DefaultsEntry, findings: Findings) -> Defaults:
    """Fill in the defaults. Of a pair that must be in order, the one that was not said gives way."""
    default = Defaults()
    retention_s = said_or(entry.retention, default.retention_s)
    row_retention_s = said_or(entry.row_retention, max(default.row_retention_s, retention_s))
    max_pending = said_or(entry.queue.max_pending, default.max_pending)
    per_tenant = said_or(entry.queue.per_tenant, min(default.per_tenant, max_pending))
    if entry.retention is None:
        retention_s = min(retention_s, row_retention_s)
    if row_retention_s < retention_s:
        findings.complain(("defaults", "row_retention"), "must not be shorter than retention")
    if entry.queue.max_pending is None:
        max_pending = max(max_pending, per_tenant)
    if per_tenant > max_pending:
        findings.complain(("defaults", "queue", "per_tenant"), "must not be more than max_pending")
    return Defaults(
        sync_wait_s=said_or(entry.sync_wait, default.sync_wait_s),
        link_ttl_s=said_or(entry.link_ttl, default.link_ttl_s),
        retention_s=retention_s,
        row_retention_s=row_retention_s,
        max_pending=max_pending,
        per_tenant=per_tenant,
    )


def _compile_budgets(sound: Sound[RoutingFile], findings: Findings) -> tuple[Budget, ...]:
    """Compile the budgets; one that can never count anything is a problem."""
    budgets: list[Budget] = []
    document = sound.document
    known = {Scope.PROVIDER: document.keys_of(("providers",)), Scope.MODEL: document.keys_of(("models",))}
    seen: set[tuple[Scope, str, Window]] = set()
    for place, entry in sound.place(("budgets",), sound.value.budgets):
        match = said_or(entry.match, "*")
        names = known.get(entry.scope)
        if entry.scope is Scope.ALL and match != "*":
            findings.complain((*place, "match"), "has no meaning with scope all, which counts everything as one")
        if names and not any(fnmatchcase(name, match) for name in names):
            findings.complain((*place, "match"), f"fits no {entry.scope.value} of this file")
        if (entry.scope, match, entry.window) in seen:
            findings.complain(place, "the same scope, match and window stand above already")
        seen.add((entry.scope, match, entry.window))
        budgets.append(Budget(entry.scope, match, entry.window, entry.limit))
    return tuple(budgets)


def _compile_tenant(name: str, entry: TenantEntry, names: _Names, aliases: Mapping[str, str], site: Site) -> Tenant:
    models = names.find_models(("tenants", name, "models"), entry.models, aliases)
    secrets = _find_webhook_secrets(("tenants", name, "webhook_secrets"), entry, names, site)
    return Tenant(name, said_or(entry.weight, 1), entry.max_concurrency, entry.rate_limit, models, secrets)


def _find_webhook_secrets(path: Path, entry: TenantEntry, names: _Names, site: Site) -> tuple[str, ...]:
    """Follow the secrets that a tenant's webhooks are signed with. One of all would let each forge the others'."""
    findings, found = names.findings, []
    if entry.webhook_secrets and path[1] == "*":
        findings.complain(path, "a secret belongs to one tenant: name it")
        return ()
    for number, (place, written) in enumerate(names.sound.place(path, entry.webhook_secrets or ()), 1):
        match find_secret(written, number, site.sources):
            case Unfit(reason=reason):
                findings.complain(place, reason)
            case Absent(reason=reason):
                findings.warn(place, f"{reason}: webhooks are not signed with it")
            case Credential(secret=secret) if key_of(secret) is None:
                findings.complain(place, "must be whsec_ followed by base64 of 24 to 64 bytes")
            case Credential(secret=secret):
                found.append(secret)
                if not is_reference(written):
                    findings.warn(place, "the secret itself stands in the file: write ${NAME} or file:PATH")
    return tuple(found)


def _demand_something(sound: Sound[RoutingFile], findings: Findings) -> None:
    """An empty section is as good as a missing one."""
    for name in ("providers", "models"):
        section = sound.document.find((name,))
        if isinstance(section, Keys) and not section.entries:
            findings.complain((name,), "must not be empty")


# -- names of models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Names:
    """Checks names of models wherever the file uses them. A model with a problem of its own counts as known."""

    sound: Sound[RoutingFile]
    models: Mapping[str, Model]
    findings: Findings

    def is_declared(self, name: str) -> bool:
        """Whether the file has a model of this name, sound or not."""
        return self.sound.has_entry("models", name)

    def check_aliases(self) -> dict[str, str]:
        """An alias stands for a model, and for no other alias."""
        aliases = self.sound.value.aliases
        for alias, name in aliases.items():
            place: Path = ("aliases", alias)
            if self.sound.document.find(("models", alias)) is not None:
                self.findings.complain(place, "there is a model of this name, which the alias would hide")
            elif name in aliases:
                self.findings.complain(place, "stands for another alias: name the model itself")
            elif not self.is_declared(name):
                self.findings.complain(place, "stands for no model of this file")
        return dict(aliases)

    def check_default_models(self, aliases: Mapping[str, str]) -> None:
        """A default must be a model of its kind. Where the file has no model of the kind, it may wait for one."""
        said: dict[str, str] = self.sound.value.default_model.model_dump(exclude_none=True)
        families = {model.family for model in self.models.values()}
        for family, name in said.items():
            place: Path = ("default_model", family)
            model = self.models.get(aliases.get(name, name))
            if model is not None and model.family != family:
                self.findings.complain(place, f"is a model of kind {model.family}")
            elif model is None and not self.is_declared(aliases.get(name, name)):
                if family in families:
                    self.findings.complain(place, "there is no such model")
                else:
                    self.findings.warn(place, f"there is no such model, and no other of kind {family}")

    def find_models(
        self, path: Path, said: tuple[str, ...] | None, aliases: Mapping[str, str]
    ) -> frozenset[str] | None:
        """Resolve the models that a tenant may use. A name that is no model grants nothing and may wait for one."""
        if said is None:
            return None
        resolved = [(place, aliases.get(name, name)) for place, name in self.sound.place(path, said)]
        for place, name in resolved:
            if not self.is_declared(name):
                self.findings.warn(place, "there is no such model")
        return frozenset(name for _place, name in resolved)


# -- references -------------------------------------------------------------------------------------------------------


def _find_stray_references(sound: Sound[RoutingFile], findings: Findings) -> None:
    """`${NAME}` works in secrets and addresses only; anywhere else it would be taken for the text that it is."""
    complained = findings.complained
    for path, scalar in walk_scalars(sound.document.root):
        read_in = {"providers": READ_IN, "tenants": READ_IN_TENANTS}.get(str(path[0]), ()) if len(path) >= 3 else ()
        is_read = bool(read_in) and path[2] in read_in
        is_known = any(path[:length] in complained for length in range(len(path) + 1))
        if REFERENCE in scalar.text and not is_read and not is_known:
            findings.complain(path, f"${{NAME}} is read in {', '.join((*READ_IN, *READ_IN_TENANTS))} only")
