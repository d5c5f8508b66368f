"""Providers of the file into providers of the rules: the adapter's facts, the address, the credentials, the limits.

What is wrong with one provider is reported at its key; a provider that cannot be used for want of a secret stays, with
a warning and without credentials. Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from router.config.credentials import Absent, Sources, Unfit, find_address, find_secret, is_loopback, is_reference
from router.config.models import BreakerEntry, ProviderEntry, RoutingFile, said_or
from router.config.problems import Findings, Path
from router.config.reading import Sound
from router.policy.rules import Breaker, Credential, Provider, Webhook
from router.provider import AdapterFacts

FindAdapter = Callable[[str], AdapterFacts | None]


def compile_provider(
    name: str,
    entry: ProviderEntry,
    *,
    sound: Sound[RoutingFile],
    sources: Sources,
    find_adapter: FindAdapter,
    findings: Findings,
) -> Provider | None:
    """Compile one provider of the file; None when it has a problem, which was reported."""
    path: Path = ("providers", name)
    facts = find_adapter(entry.adapter)
    if facts is None:
        findings.complain((*path, "adapter"), "there is no adapter of this name")
    address = _compile_address(path, entry, facts, sources, findings)
    breaker = _compile_breaker((*path, "breaker"), entry.breaker, findings)
    keys = _list_keys(path, entry, sound, findings)
    credentials = _compile_credentials(keys, address, sources, findings)
    webhook = _compile_webhook(path, entry, facts, sources, findings)
    if facts is None or address is None or breaker is None or credentials is None:
        return None
    provider = Provider(
        name,
        facts,
        address,
        credentials,
        rate=entry.rate_limit,
        breaker=breaker,
        retry_unknown=entry.retry_unknown,
        webhook=webhook,
    )
    return provider if entry.max_concurrency is None else replace(provider, max_concurrency=entry.max_concurrency)


def _compile_address(
    path: Path, entry: ProviderEntry, facts: AdapterFacts | None, sources: Sources, findings: Findings
) -> str | None:
    place = (*path, "base_url")
    if entry.base_url is None:
        if facts is not None and facts.base_url is None:
            findings.complain(place, "is missing: this adapter has no address of its own")
        return None if facts is None else facts.base_url
    address = find_address(entry.base_url, sources.environ)
    if isinstance(address, Unfit):
        findings.complain(place, address.reason)
        return None
    if address.startswith("http:") and not is_loopback(address):
        findings.warn(place, "without https everybody on the way can read the key")
    return address


def _list_keys(
    path: Path, entry: ProviderEntry, sound: Sound[RoutingFile], findings: Findings
) -> list[tuple[Path, str]]:
    """Pair what is written for each key with its place."""
    if entry.api_key is not None and entry.api_keys is not None:
        findings.complain((*path, "api_keys"), "stands beside api_key: write one of the two")
    if entry.api_keys is not None:
        return sound.place((*path, "api_keys"), entry.api_keys)
    if entry.api_key is not None:
        return [((*path, "api_key"), entry.api_key)]
    if sound.is_whole(path):
        findings.warn(path, "has no api_key: its targets are left out")
    return []


def _compile_credentials(
    keys: list[tuple[Path, str]], address: str | None, sources: Sources, findings: Findings
) -> tuple[Credential, ...] | None:
    """Follow every key of a provider; None when one of them is a problem."""
    found: dict[str, Credential] = {}
    is_sound = True
    for number, (place, written) in enumerate(keys, start=1):
        credential = find_secret(written, number, sources)
        match credential:
            case Unfit(reason=reason):
                findings.complain(place, reason)
                is_sound = False
            case Absent(reason=reason):
                loss = "its targets are left out" if len(keys) == 1 else "this key is not used"
                findings.warn(place, f"{reason}: {loss}")
            case Credential(label=label):
                if label in found:
                    findings.complain(place, "the same variable stands above already")
                    is_sound = False
                found[label] = credential
                is_local = address is not None and is_loopback(address)
                if not is_reference(written) and not is_local:
                    findings.warn(place, "the key itself stands in the file: write ${NAME} or file:PATH")
    return tuple(found.values()) if is_sound else None


def _compile_webhook(
    path: Path, entry: ProviderEntry, facts: AdapterFacts | None, sources: Sources, findings: Findings
) -> Webhook | None:
    """Work out what verifies the provider's webhooks; without it they are not asked for, and polling does it alone."""
    if facts is None or not entry.webhooks:
        return None
    if not facts.webhooks:
        findings.complain((*path, "webhooks"), f"the adapter {facts.slug} cannot verify any")
        return None
    if facts.webhook_keys_url is not None:
        written = entry.webhook_keys_url
        keys_url = facts.webhook_keys_url if written is None else find_address(written, sources.environ)
        if isinstance(keys_url, Unfit):
            findings.complain((*path, "webhook_keys_url"), keys_url.reason)
            return None
        return Webhook(keys_url=keys_url)
    place = (*path, "webhook_secret")
    if entry.webhook_secret is None:
        findings.complain((*path, "webhooks"), "needs webhook_secret: an unsigned webhook is not believed")
        return None
    match find_secret(entry.webhook_secret, 1, sources):
        case Unfit(reason=reason):
            findings.complain(place, reason)
        case Absent(reason=reason):
            findings.warn(place, f"{reason}: webhooks are not asked for")
        case Credential(secret=secret):
            return Webhook(secret)
    return None


def _compile_breaker(path: Path, entry: BreakerEntry, findings: Findings) -> Breaker | None:
    """Fill in the defaults. An `open_max` that was not said is at least `open_for`."""
    default = Breaker()
    open_for_s = said_or(entry.open_for, default.open_for_s)
    open_max_s = max(default.open_max_s, open_for_s) if entry.open_max is None else entry.open_max
    if open_max_s < open_for_s:
        findings.complain((*path, "open_max"), "must not be shorter than open_for")
        return None
    return Breaker(
        said_or(entry.consecutive_failures, default.consecutive_failures),
        said_or(entry.failure_rate, default.failure_rate),
        said_or(entry.minimum, default.minimum),
        said_or(entry.window, default.window_s),
        open_for_s,
        open_max_s,
    )
