"""The composition root: builds everything from the settings, serves, and takes it down again in the right order.

The only file that names concrete stores, the vault, the wire and the fetcher. Start: what can be refused cheaply comes
first (settings, configuration, addresses), then the directories and the store, then the life with its recovery, then
the first answer. Stop: no new work, then the calls that are out, then the sockets, then what they stood on. Whatever
keeps it from starting is `StartFailed` with one clear line. Floor 4.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import providers
from router import __version__
from router.api import application, webhooks
from router.api.key_cache import KeyCache
from router.api.listener import BACKLOG, Listener
from router.api.services import ReloadResult, Services
from router.deliver import Deliverer, Office
from router.events import Bus, ConfigApplied, Event
from router.fetch import FetchAllow, GuardedFetcher, GuardedPoster, refusal_of
from router.flow import life as lives
from router.flow.life import Life
from router.keyring import Keyring, open_keyring
from router.persistence import Store, Unavailable
from router.policy.rules import Ruleset
from router.readings import LoopLag, check_readiness, read_levels
from router.reload import Bad, Read, Reloader, read_rules, try_out
from router.settings import Settings, SettingsInvalid
from router.store import sqlite
from router.store.migration import CannotOpen
from router.store.relational import RelationalStore
from router.vault.local import LocalVault
from router.watch.logs import Foreign, Log
from router.watch.metrics import Metrics
from router.wire import Wire
from router.world import WallClock, World, system_dice

T = TypeVar("T")

OFFLOAD_THREADS = 2
CLOSE_S = 5.0  # how long the servers wait for answers that are being written
DISK_MIN_BYTES = 100 << 20
LAG_EVERY_S = 0.5
STALE_DOWNLOAD_MS = 24 * 3_600_000


class StartFailed(Exception):  # noqa: N818 - whoever starts the daemon shows the text; `problems` are further lines
    """The daemon cannot start; the text is one line that says why."""

    def __init__(self, reason: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.problems = problems


class Replaced(Exception):  # noqa: N818 - whoever runs the daemon shows the text
    """Another life took over while this one ran; the text is one line that says so."""


class Daemon:
    """A running daemon. `start` makes one; `url` and `admin_url` answer while it runs; `stop` ends it."""

    def __init__(self, settings: Settings, life: Life, reloader: Reloader, log: Log, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.life = life
        self.reloader = reloader
        self.log = log
        self.url = ""
        self.admin_url = ""
        self._stack = stack
        self._cut = asyncio.Event()

    @classmethod
    async def start(cls, settings: Settings, *, log_stream: TextIO | None = None) -> Daemon:
        """Start, recover and listen; `StartFailed` leaves nothing open. The log goes to `log_stream`, or to stdout."""
        stack = AsyncExitStack()
        try:
            return await _start(settings, sys.stdout if log_stream is None else log_stream, stack)
        except Unavailable as away:
            await stack.aclose()
            raise StartFailed(f"the store cannot be used: {away}") from None
        except BaseException:
            await stack.aclose()
            raise

    async def reload(self) -> ReloadResult:
        """Load the routing file now."""
        return await self.reloader.reload()

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Drain for at most `DRAIN_TIMEOUT`, then close everything. `cut` shortens it."""
        timeout_s = self.settings.drain_timeout if drain_timeout_s is None else drain_timeout_s
        draining = asyncio.create_task(self.life.end(timeout_s))
        cutting = asyncio.create_task(self._cut.wait())
        cutting.add_done_callback(lambda cut: None if cut.cancelled() else draining.cancel())
        try:
            await draining
        except asyncio.CancelledError:
            if not self._cut.is_set():
                raise
            await self.life.dispatcher.cut()
            self.life.waiters.close()
        finally:
            cutting.cancel()
            self.life.runtime.closing = True
            await self._stack.aclose()

    def cut(self) -> None:
        """Do not wait any longer for calls that are out; what that costs is logged."""
        self._cut.set()


async def serve(settings: Settings, *, on_ready: Callable[[Daemon], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal cuts the drain. SIGHUP reloads the routing file.

    `Replaced` when another life took over: nothing that is still out can be written down, so that nobody waits for it.
    """
    loop = asyncio.get_running_loop()
    ending, reloads = asyncio.Event(), set[asyncio.Task[ReloadResult]]()
    daemon: Daemon | None = None

    def end() -> None:
        if ending.is_set() and daemon is not None:
            daemon.cut()
        ending.set()

    def reload() -> None:
        if daemon is None:
            return  # it is reading the file anyway
        reloading = asyncio.create_task(daemon.reload())
        reloads.add(reloading)
        reloading.add_done_callback(reloads.discard)

    # Before anybody is told that it listens: a signal must not meet the default action, which is to die.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
    daemon = await Daemon.start(settings)
    runtime = daemon.life.runtime

    def give_way() -> None:
        daemon.cut()
        ending.set()

    runtime.on_replaced = give_way
    if runtime.replaced:
        give_way()
    if on_ready is not None:
        on_ready(daemon)
    await ending.wait()
    await daemon.stop()
    if runtime.replaced:
        raise Replaced(f"another daemon has taken over as replica {settings.replica_id!r}; this one has stopped")


# -- starting -------------------------------------------------------------------------------------------------------


async def _start(settings: Settings, log_stream: TextIO, stack: AsyncExitStack) -> Daemon:
    allow, loaded = _judge(settings)
    listeners = _bind(settings, stack)
    store, vault = await _open_stores(settings, stack)
    world = await _make_world(allow, store, vault, stack)
    log = _open_log(settings, log_stream, loaded.rules, world, stack)
    bus = Bus()
    bus.subscribe(log.read)
    keyring = await _open_keyring(settings, store, log)
    life = await lives.begin(
        world,
        bus,
        loaded.rules,
        replica=settings.replica_id,
        time_scale=settings.time_scale,
        public_url=settings.public_url,
    )
    stack.push_async_callback(_end_at_once, life)
    lag = LoopLag()
    metrics = Metrics(lambda: life.runtime.rules, lambda: read_levels(life, lag))
    bus.subscribe(metrics.read)
    store.on_commit = metrics.on_commit
    bus.subscribe(lambda event: _hide_new_secrets(event, life, log))
    reloader = Reloader(settings.config, life, loaded)
    deliverer = Deliverer(
        Office(
            world,
            bus,
            life.runtime.owner.epoch,
            GuardedPoster(allow),
            compose=lambda webhook, view: webhooks.compose(services, webhook, view),
            keys=lambda tenant: webhooks.keys_of(services, tenant),
            time_scale=settings.time_scale,
        )
    )
    services = Services(
        life=life,
        world=world,
        public_url=settings.public_url,
        auth_required=settings.auth == "required",
        admin_key_hash=keyring.admin_key_hash,
        signing_secret=keyring.signing,
        pepper=keyring.pepper,
        keys=KeyCache(store, life.runtime.fleet.monotonic, life.runtime.limits.learn),
        metrics=metrics.render,
        reload=reloader.reload,
        check_config=reloader.check,
        config_info=reloader.describe,
        ready_checks=lambda: check_readiness(settings, life),
        on_http=metrics.on_http,
        judge_callback=partial(refusal_of, allow=allow),
        wake_deliverer=deliverer.wake,
        test_webhook=deliverer.try_out,
    )
    daemon = Daemon(settings, life, reloader, log, stack)
    await _listen(daemon, services, listeners, stack)
    stack.push_async_callback(deliverer.close)
    bus.subscribe(deliverer.read)
    _attend(stack, reloader.watch(), lag.measure(), deliverer.run())
    for warning in loaded.warnings:
        log.say("warning", "config.warning", detail=warning)
    if store.warning is not None:
        log.say("warning", "store.warning", detail=store.warning)
    if settings.otel_exporter_otlp_endpoint is not None:
        log.say("warning", "setting.ignored", detail="OTEL_EXPORTER_OTLP_ENDPOINT is not available in this version")
    where = {"url": daemon.url, "admin_url": daemon.admin_url}
    log.say("info", "listening", **where, version=__version__, config=loaded.rules.hash)
    return daemon


def _judge(settings: Settings) -> tuple[FetchAllow, Read]:
    """See that the settings and the routing file can be used, before anything is opened."""
    allow = FetchAllow.parse(settings.fetch_allow)
    if not isinstance(allow, FetchAllow):
        raise StartFailed(f"POINTSMAN_FETCH_ALLOW: {allow[0]}", allow[1:])
    loaded = read_rules(settings.config)
    loaded = try_out(loaded) if isinstance(loaded, Read) else loaded
    if isinstance(loaded, Bad):
        count = len(loaded.problems)
        raise StartFailed(f"{settings.config}: {count} problem{'s'[: count != 1]}", loaded.problems)
    return allow, loaded


def _bind(settings: Settings, stack: AsyncExitStack) -> dict[str, socket.socket]:
    """Take the addresses, so that a port in use is found before a task is taken over."""
    wanted = {"public": (settings.host, settings.port)}
    if settings.admin_listener is not None:
        wanted["admin"] = settings.admin_listener
    bound: dict[str, socket.socket] = {}
    for name, (host, port) in wanted.items():
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, _, _, address = found[0]
            made = socket.socket(family, kind)
            stack.callback(made.close)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(BACKLOG)
            made.setblocking(False)
        except OSError as broken:
            raise StartFailed(f"cannot listen on {host}:{port}: {broken.strerror or broken}") from None
        bound[name] = made
    return bound


async def _open_stores(settings: Settings, stack: AsyncExitStack) -> tuple[RelationalStore, LocalVault]:
    """Open the database and the vault; both say in one line what keeps them from it."""
    try:
        database, storage = settings.find_database(), settings.find_storage()
    except SettingsInvalid as invalid:
        raise StartFailed(invalid.problems[0]) from None
    for folder in {settings.data_dir, storage, *([database.parent] if isinstance(database, Path) else [])}:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as broken:
            raise StartFailed(f"{folder}: cannot be used as a directory: {broken.strerror}") from None
    try:
        store = await _open_store(database)
    except CannotOpen as refused:
        raise StartFailed(str(refused)) from None
    stack.push_async_callback(store.close)
    try:
        vault = LocalVault(storage)
    except OSError as broken:
        raise StartFailed(f"{storage}: cannot hold results: {broken.strerror}") from None
    stack.push_async_callback(vault.close)
    return store, vault


async def _open_store(database: Path | str) -> RelationalStore:
    """A file is SQLite's, an address PostgreSQL's, whose driver is loaded only by those who use it."""
    if isinstance(database, Path):
        return await sqlite.open_store(database)
    from router.store import postgres  # noqa: PLC0415 - a tenth of the start of a daemon that has no use for it

    return await postgres.open_store(database)


async def _make_world(allow: FetchAllow, store: Store, vault: LocalVault, stack: AsyncExitStack) -> World:
    threads = ThreadPoolExecutor(OFFLOAD_THREADS, thread_name_prefix="offload")
    stack.callback(threads.shutdown)

    async def offload(work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    wire = Wire(offload, vault.read)
    stack.push_async_callback(wire.close)
    clock = WallClock()
    await vault.tidy(clock.now() - STALE_DOWNLOAD_MS)
    return World(
        clock=clock,
        dice=system_dice(),
        call=wire,
        listen=wire.listen,
        fetch=GuardedFetcher(allow),
        store=store,
        vault=vault,
        offload=offload,
        adapter=providers.load,
    )


def _open_log(settings: Settings, stream: TextIO, rules: Ruleset, world: World, stack: AsyncExitStack) -> Log:
    """Open the log, and lead into it what libraries and the loop have to say."""
    log = Log(stream, form=settings.log_format, level=settings.log_level, now=world.clock.now)
    stack.callback(log.close)
    own = (settings.admin_key, settings.signing_secret, settings.database_url)
    log.hide([*_secrets_in(rules), *(secret.get_secret_value() for secret in own if secret is not None)])
    foreign, root, loop = Foreign(log), logging.getLogger(), asyncio.get_running_loop()
    root.addHandler(foreign)
    stack.callback(root.removeHandler, foreign)

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        log.say("error", "bug", message=context.get("message", ""), exc_info=fault if fault is not None else False)

    loop.set_exception_handler(tell)
    stack.callback(loop.set_exception_handler, None)
    return log


async def _open_keyring(settings: Settings, store: Store, log: Log) -> Keyring:
    try:
        keyring = await open_keyring(settings, store)
    except (OSError, UnicodeDecodeError) as broken:
        raise StartFailed(f"{settings.admin_key_path}: cannot be used: {broken}") from None
    if keyring.made_admin_key:
        log.say("info", "admin_key.made", path=str(settings.admin_key_path))
    if keyring.warning is not None:
        log.say("warning", "admin_key.unknown", detail=keyring.warning)
    return keyring


async def _listen(
    daemon: Daemon, services: Services, listeners: Mapping[str, socket.socket], stack: AsyncExitStack
) -> None:
    """Serve on the addresses that were taken; with a listener of their own the operators' routes are only there."""
    alone = "admin" not in listeners
    for name, bound in listeners.items():
        app = application.build(services, public=name == "public", admin=alone or name == "admin")
        listener = await Listener.start(app, bound, close_s=CLOSE_S)
        stack.push_async_callback(listener.close)
        url = _url_of(bound)
        if name == "public":
            daemon.url = url
        if alone or name == "admin":
            daemon.admin_url = url


def _attend(stack: AsyncExitStack, *endless: Coroutine[Any, Any, None]) -> None:
    """Run what goes on until the end."""
    running = [asyncio.create_task(one) for one in endless]

    async def end() -> None:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    stack.push_async_callback(end)


def _url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a name to call, not to listen on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _secrets_in(rules: Ruleset) -> list[str]:
    keys = [credential.secret for provider in rules.providers.values() for credential in provider.credentials]
    return [*keys, *(secret for tenant in rules.tenants.values() for secret in tenant.webhook_secrets)]


def _hide_new_secrets(event: Event, life: Life, log: Log) -> None:
    if isinstance(event, ConfigApplied):
        log.hide(_secrets_in(life.runtime.rules))


async def _end_at_once(life: Life) -> None:
    """Let go of a life whose start failed half-way; one that was drained has ended already."""
    if not life.runtime.draining:
        await life.end(0.0)
