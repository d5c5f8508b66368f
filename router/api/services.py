"""What the HTTP edge is given by the composition root: the flow, the vault and a few questions it may ask. Floor 3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.api.key_cache import KeyCache
from router.flow.life import Life
from router.outbox import Try
from router.world import World


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What came of a reload: the hash now in force, whether it changed, and the problems that kept the old one."""

    hash: str
    changed: bool
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may use. Secrets never leave this record; the admin key is kept as its hash.

    `judge_callback` says why the guard would not let a webhook go to a URL, None when it would or when a name decides.
    `test_webhook` sends one (tenant, URL) that tells of nothing.
    """

    life: Life
    world: World
    public_url: str | None
    auth_required: bool
    admin_key_hash: str
    signing_secret: bytes
    pepper: bytes
    keys: KeyCache
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    reload: Callable[[], Awaitable[ReloadResult]]
    check_config: Callable[[str], ReloadResult]
    config_info: Callable[[], Mapping[str, Any]]
    ready_checks: Callable[[], Awaitable[Mapping[str, str]]]
    on_http: Callable[[str, str, int, float], None]
    judge_callback: Callable[[str], str | None]
    wake_deliverer: Callable[[], None]
    test_webhook: Callable[[str, str], Awaitable[Try]]

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self.world.clock.now()
