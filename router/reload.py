"""The routing file into force: read, judged whole, tried, and swapped by one reference, or refused with every problem.

Four things lead here: a change of the file or of its directory (editors rename, ConfigMaps swap a symlink), SIGHUP, an
operator's call, and a look every 30 s. All take the same way, one at a time: load, compare, plan every model
once, adopt, tell. Whatever goes wrong on it leaves the running configuration as it is (promise 8, I19). Floor 4.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import watchfiles
from dotenv import dotenv_values

import providers
import router
from router import config
from router.api.services import ReloadResult
from router.events import ConfigApplied, ConfigRejected
from router.flow.life import Life
from router.policy import route
from router.policy.route import Standing, TrackRecord
from router.policy.rules import Provider, Ruleset, Shape, Target
from router.provider import Kind
from router.task import Preferences

LOOK_EVERY_S = 30.0
FILE_MAX_BYTES = 4 << 20
SETTLE_MS = 50
TURN_MS = 500
CATALOGUE = "prices.yaml"
SECRET_MAX_CHARS = 8192
TRIAL_KINDS: Mapping[str, Kind] = {
    "image": Kind.IMAGE_GENERATION,
    "video": Kind.VIDEO_GENERATION,
    "chat": Kind.CHAT_COMPLETION,
}


@dataclass(frozen=True, slots=True)
class Read:
    """A whole and valid configuration, with what is odd about it but no mistake."""

    rules: Ruleset
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bad:
    """A configuration that cannot be used: one line per problem (file:line:path). `digest` tells its text apart."""

    problems: tuple[str, ...]
    digest: str = ""


class Reloader:
    """Keeps the rules of a life up to date with a file. Single-flight: whoever comes meanwhile waits his turn."""

    def __init__(self, path: Path, life: Life, loaded: Read) -> None:
        self._path = path
        self._life = life
        self._warnings = loaded.warnings
        self._applied_at = life.runtime.now()
        self._refused = ""
        self._one_reload = asyncio.Lock()

    async def reload(self, *, asked: bool = True) -> ReloadResult:
        """Bring the file into force. `asked` False (nobody waits for the answer): the same bad text is told once."""
        loop = asyncio.get_running_loop()
        async with self._one_reload:
            loaded = await loop.run_in_executor(None, read_rules, self._path)
            runtime = self._life.runtime
            before = runtime.rules.hash
            # Compared whole, because a secret behind a reference may have changed while the text has not.
            if isinstance(loaded, Read) and loaded.rules == runtime.rules:
                self._refused = ""
                return ReloadResult(before, changed=False, warnings=loaded.warnings)
            if isinstance(loaded, Read):
                loaded = try_out(loaded)
            if isinstance(loaded, Bad):
                if asked or loaded.digest != self._refused:
                    runtime.bus.emit(ConfigRejected(runtime.now(), loaded.problems))
                self._refused = loaded.digest
                return ReloadResult(before, changed=False, problems=loaded.problems)
            self._life.adopt(loaded.rules)
            self._warnings, self._applied_at, self._refused = loaded.warnings, runtime.now(), ""
            runtime.bus.emit(ConfigApplied(runtime.now(), loaded.rules.hash, before, loaded.warnings))
            return ReloadResult(loaded.rules.hash, changed=True, warnings=loaded.warnings)

    async def watch(self) -> None:
        """Reload whenever the file may have changed, until cancelled."""
        loop = asyncio.get_running_loop()
        look_at = loop.time()  # the first look is at once, for what changed between the start and the watch
        while True:
            try:
                async for changes in watchfiles.awatch(
                    self._path.parent,
                    watch_filter=None,
                    debounce=SETTLE_MS,
                    step=SETTLE_MS,
                    recursive=False,
                    rust_timeout=TURN_MS,
                    yield_on_timeout=True,
                ):
                    if changes or loop.time() >= look_at:
                        look_at = loop.time() + LOOK_EVERY_S
                        await self.reload(asked=False)
            except (OSError, RuntimeError):
                await self.reload(asked=False)  # the directory is gone or cannot be watched: the look every 30 s stays
            await asyncio.sleep(LOOK_EVERY_S)

    def check(self, text: str) -> ReloadResult:
        """Judge a text as the file would be judged; nothing changes."""
        judged = judge(text, "config", self._path.parent)
        judged = try_out(judged) if isinstance(judged, Read) else judged
        here = self._life.runtime.rules.hash
        if isinstance(judged, Bad):
            return ReloadResult(here, changed=False, problems=judged.problems)
        return ReloadResult(judged.rules.hash, changed=judged.rules.hash != here, warnings=judged.warnings)

    def describe(self) -> dict[str, object]:
        """What is in force: hash, file, since when (milliseconds), its warnings. Never the text."""
        return {
            "hash": self._life.runtime.rules.hash,
            "path": str(self._path),
            "applied_at_ms": self._applied_at,
            "warnings": list(self._warnings),
        }


def read_rules(path: Path) -> Read | Bad:
    """Read and judge a routing file; blocks on the disk."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except OSError as broken:
        return Bad((f"{path}: cannot be read: {broken.strerror}",), "unreadable")
    if len(raw) > FILE_MAX_BYTES:
        return Bad((f"{path}: larger than {FILE_MAX_BYTES} bytes",), "too large")
    try:
        text = raw.decode()
    except UnicodeDecodeError as broken:
        line = raw[: broken.start].count(b"\n") + 1
        return Bad((f"{path}:{line}: not UTF-8",), hashlib.sha256(raw).hexdigest())
    return judge(text, str(path), path.parent)


def judge(text: str, name: str, folder: Path) -> Read | Bad:
    """Compile a text. `name` stands in its problems; `folder` is where relative `file:` references begin."""

    def read_secret(path: str) -> str:
        with (folder / path).open(encoding="utf-8") as file:
            return file.read(SECRET_MAX_CHARS + 1).strip()

    digest = hashlib.sha256(text.encode()).hexdigest()
    try:
        environ = _read_environment()
    except (OSError, UnicodeDecodeError):
        return Bad((".env: cannot be read",), f"{digest} .env")
    loaded = config.load(
        text,
        source=name,
        environ=environ,
        read_secret=read_secret,
        adapter=providers.facts,
        catalogue=read_shipped(CATALOGUE),
    )
    if loaded.ruleset is None:
        return Bad(tuple(str(problem) for problem in loaded.problems), digest)
    return Read(loaded.ruleset, tuple(str(warning) for warning in loaded.warnings))


def read_shipped(name: str) -> str:
    """A file of `config/` that comes with Pointsman: inside the package in a wheel, beside it in a checkout.

    Empty when this installation has none; a routing file that refers to the catalogue then says so itself.
    """
    package = Path(router.__file__).parent
    for path in (package / "_data" / "config" / name, package.parent / "config" / name):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _read_environment() -> dict[str, str]:
    """The variables that `${NAME}` may name: the process's, and below them those of `.env` (contract section 4)."""
    below = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {**below, **os.environ}


def try_out(loaded: Read) -> Read | Bad:
    """Plan one plain request per model: rules that no decision survives must not come into force."""
    rules = loaded.rules
    for model in rules.models.values():
        shape = Shape(kind=TRIAL_KINDS[model.family], model=model.name)
        try:
            route.plan(shape, Preferences(), rules, Calm(), now=0, task_id="trial")
        except Exception as bug:  # noqa: BLE001 - a bug met here must cost nothing but this configuration
            return Bad((f"models.{model.name}: planning a request fails: {type(bug).__name__}",), rules.hash)
    return loaded


class Calm:
    """A fleet in which everything stands ready: for plans that nobody carries out."""

    def standing(self, provider: Provider, target: Target) -> Standing:
        """Ready at once."""
        return Standing(0.0, probe=False, reason=None)

    def may_repeat(self, provider: Provider, target: Target) -> bool:
        """Always."""
        return True

    def track_record(self, provider: Provider, target: Target) -> TrackRecord:
        """Nothing is known."""
        return TrackRecord()
