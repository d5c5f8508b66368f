"""Which file stands on which floor, and what each floor may import and call. The table is data: a new file is placed by
its path, and a file in no place is a breach itself.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.tidy.sources import ROOT, Finding, Rule, Source, lies_below

# Place -> floor. The longest matching place counts, so that a file and a folder of the same name are the same place.
FLOORS = {
    **dict.fromkeys(("router.task", "router.outcome", "router.events", "router.provider", "router.world"), 0),
    **dict.fromkeys(("router.leases", "router.geometry", "router.money", "router.persistence", "router.usage"), 0),
    **dict.fromkeys(("router.keys", "router.outbox", "router.changes", "router.relays", "router.shelf"), 0),
    **dict.fromkeys(("router.config", "router.policy"), 1),
    "router.flow": 2,
    **dict.fromkeys(("router.api", "router.watch", "router.store", "router.vault"), 3),
    **dict.fromkeys(("router.wire", "router.deliver", "router.fetch", "providers"), 3),
    **dict.fromkeys(("router.cli", "router.daemon", "router.reload", "router.settings", "router.__main__"), 4),
    **dict.fromkeys(("router.keyring", "router.readings"), 4),
}
# The version alone, which anybody may read.
BELOW_ALL = "router"

ADAPTER_MAY_IMPORT = (
    "router.provider",
    "router.outcome",
    "router.task",
    "router.geometry",
    "router.money",
    "providers.formats",
)
# Named by the composition root only.
PARTS_OF_THE_DAEMON = ("router.store", "router.vault", "router.wire", "router.fetch")
MAY_OPEN_SESSIONS = ("router.wire", "router.fetch", "router.cli", "providers.simulated", "tests")
DICE_AND_CLOCK_MAKERS = ("router.world",)

PURE_BANS = (
    "asyncio",
    "aiohttp",
    "structlog",
    "logging",
    "random",
    "secrets",
    "time",
    "socket",
    "sqlite3",
    "subprocess",
)
FLOW_BANS = (
    "aiohttp",
    "structlog",
    "logging",
    "secrets",
    "time",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "shutil",
)
ADAPTER_BANS = ("aiohttp", "structlog", "logging", "random", "secrets", "time", "socket", "os", "subprocess")

CLOCK_CALLS = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today")
ID_CALLS = ("uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4")
LOOP_CALLS = ("asyncio.wait", "asyncio.to_thread")


@dataclass(frozen=True)
class Import:
    """An imported module: its dotted name and the line."""

    module: str
    line: int


def floor_of(module: str) -> int | None:
    """Return the floor of a module of ours, None for one that has no place."""
    place = place_of(module)
    return None if place is None else FLOORS[place]


def place_of(module: str) -> str | None:
    """Return the place of the table that a module belongs to: `router.flow.run` -> `router.flow`."""
    places = [place for place in FLOORS if lies_below(module, place)]
    return max(places, key=len, default=None)


def list_imports(source: Source) -> Iterator[Import]:
    """Yield what a file imports, wherever in the file; `from router import task` counts as `router.task`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(source, node)
            modules = [f"{origin}.{alias.name}" for alias in node.names if _is_module(f"{origin}.{alias.name}")]
            yield Import(origin, node.lineno)
            yield from (Import(module, node.lineno) for module in modules)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    up = node.level - source.path.endswith("/__init__.py")
    return ".".join([*package[: len(package) - up], *filter(None, [node.module])])


def _is_module(dotted: str) -> bool:
    if dotted.rpartition(".")[0] == "router" and dotted in FLOORS:
        return True
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _is_ours(module: str) -> bool:
    return lies_below(module, "router") or lies_below(module, "providers")


def _find_homeless(source: Source) -> Iterator[Finding]:
    if _is_ours(source.module) and source.module != BELOW_ALL and floor_of(source.module) is None:
        yield Finding(1, f"{source.module} stands on no floor")


def _find_climbs(source: Source) -> Iterator[Finding]:
    own = floor_of(source.module)
    if own is None or source.within("providers"):
        return
    for target in list_imports(source):
        other = floor_of(target.module) if _is_ours(target.module) else None
        if other is not None and other > own:
            yield Finding(target.line, f"floor {own} imports {target.module} of floor {other}")


def _find_neighbours(source: Source) -> Iterator[Finding]:
    own = place_of(source.module)
    if own is None or FLOORS[own] != 3 or source.within("providers"):
        return
    for target in list_imports(source):
        other = place_of(target.module)
        if other is not None and FLOORS[other] == 3 and other != own:
            yield Finding(target.line, f"{own} imports its neighbour {target.module}")


def _find_strangers_in_floor_0(source: Source) -> Iterator[Finding]:
    if floor_of(source.module) != 0:
        return
    for target in list_imports(source):
        top = target.module.partition(".")[0]
        if not _is_ours(target.module) and top not in sys.stdlib_module_names:
            yield Finding(target.line, f"floor 0 imports {target.module}")


def _find_impurity(source: Source) -> Iterator[Finding]:
    if floor_of(source.module) != 1:
        return
    yield from _find_banned_imports(source, PURE_BANS)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield Finding(node.lineno, "a decision waits")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            yield Finding(node.lineno, "a decision opens a file")


def _find_io_in_flow(source: Source) -> Iterator[Finding]:
    if floor_of(source.module) != 2:
        return
    yield from _find_banned_imports(source, FLOW_BANS)
    for call, name in _calls(source):
        if name == "open" or name in LOOP_CALLS or name.endswith(".run_in_executor"):
            yield Finding(call.lineno, f"flow calls {name}")


def _find_clock_and_dice(source: Source) -> Iterator[Finding]:
    if not _is_ours(source.module) or source.within("providers.simulated", *DICE_AND_CLOCK_MAKERS):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = _dotted(node)
            last_two = ".".join(name.split(".")[-2:])
            module_dice = name.startswith("random.") and name != "random.Random"
            if last_two in CLOCK_CALLS or last_two in ID_CALLS or module_dice:
                yield Finding(node.lineno, f"{name} is taken from the machine")
        elif isinstance(node, ast.ImportFrom) and node.module in {"random", "time", "uuid"}:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in CLOCK_CALLS or name in ID_CALLS or (node.module == "random" and alias.name != "Random"):
                    yield Finding(node.lineno, f"{name} is taken from the machine")


def _find_adapter_reach(source: Source) -> Iterator[Finding]:
    if not source.within("providers") or source.within("providers.simulated"):
        return
    own = ".".join(source.module.split(".")[:2])
    allowed = (*ADAPTER_MAY_IMPORT, *([own] if own != "providers" else []))
    for target in list_imports(source):
        bare = target.module in {"router", "providers"}
        if _is_ours(target.module) and not bare and not any(lies_below(target.module, place) for place in allowed):
            yield Finding(target.line, f"{own} imports {target.module}")
    yield from _find_banned_imports(source, ADAPTER_BANS)


def _find_simulator_reach(source: Source) -> Iterator[Finding]:
    if not source.within("providers.simulated"):
        return
    for target in list_imports(source):
        inside = lies_below(target.module, "providers.simulated") or target.module == "providers"
        if _is_ours(target.module) and not inside:
            yield Finding(target.line, f"a simulator imports {target.module}")


def _find_named_parts(source: Source) -> Iterator[Finding]:
    if not source.within("router") or source.within("router.daemon", *PARTS_OF_THE_DAEMON):
        return
    for target in list_imports(source):
        loader_or_simulator = target.module == "providers" or lies_below(target.module, "providers.simulated")
        named = any(lies_below(target.module, part) for part in PARTS_OF_THE_DAEMON)
        if named or (lies_below(target.module, "providers") and not loader_or_simulator):
            yield Finding(target.line, f"{source.module} names {target.module}")


def _find_sessions(source: Source) -> Iterator[Finding]:
    if source.within(*MAY_OPEN_SESSIONS):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Name) and _dotted(node).split(".")[-1] == "ClientSession":
            yield Finding(node.lineno, "a client session is opened here")
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "ClientSession" for alias in node.names):
            yield Finding(node.lineno, "a client session is taken in here")
        elif isinstance(node, ast.Call) and _dotted(node.func) == "aiohttp.request":
            yield Finding(node.lineno, "aiohttp.request opens a session of its own")


def _find_banned_imports(source: Source, bans: tuple[str, ...]) -> Iterator[Finding]:
    for target in list_imports(source):
        if any(lies_below(target.module, banned) for banned in bans):
            yield Finding(target.line, f"{source.module} imports {target.module}")


def _calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, _dotted(node.func)


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` of a chain of names; what hangs on a call or an index begins with a dot."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


RULES = (
    Rule("a file without a floor", "tests/tidy/floors.py places every module; add the place there", _find_homeless),
    Rule("an import upwards", "a floor knows only the floors below it", _find_climbs),
    Rule("an import between edges", "edges meet in the composition root, never one another", _find_neighbours),
    Rule("a stranger on floor 0", "words need the standard library only", _find_strangers_in_floor_0),
    Rule("a decision that does something", "policy has no loop, clock, dice, file or log", _find_impurity),
    Rule("flow that reaches outside", "flow awaits only through the world or asyncio's timers", _find_io_in_flow),
    Rule("a clock or dice of one's own", "instants, dice and ids come from the world", _find_clock_and_dice),
    Rule("an adapter that reaches out", "an adapter sees a job and a call, nothing else", _find_adapter_reach),
    Rule("a simulator that shares code", "a simulator must not repeat an adapter's mistake", _find_simulator_reach),
    Rule("a part named outside the daemon", "router.daemon alone names concrete parts", _find_named_parts),
    Rule("a client session elsewhere", "limits and guards stand in wire and fetch", _find_sessions),
)
