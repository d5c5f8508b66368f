"""The shape of code: how long, under which name, and the constructions that look right and are wrong."""

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.tidy.sources import PACKAGES, ROOT, Finding, Rule, Source

FILE_LINES = 500
FUNCTION_LINES = 70
FORBIDDEN_WORDS = {"util", "utils", "common", "helper", "helpers", "base", "manager", "managers", "core", "handler"}
FORBIDDEN_WORDS |= {"handlers", "misc", "stuff"}
QUEUES = {"Queue", "LifoQueue", "PriorityQueue"}
STATEMENTS = {"execute", "executemany", "executescript", "fetch", "fetchrow", "fetchval"}
NOT_ADAPTERS = {"__init__", "formats", "simulated"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _find_long_files(source: Source) -> Iterator[Finding]:
    lines = source.text.count("\n") + (not source.text.endswith("\n"))
    if source.within(*PACKAGES) and lines > FILE_LINES:
        yield Finding(lines, f"a file of {lines} lines, {FILE_LINES} at most")


def _find_long_functions(source: Source) -> Iterator[Finding]:
    for function in _functions(source.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES:
            yield Finding(function.lineno, f"{function.name} has {lines} lines, {FUNCTION_LINES} at most")


def _find_empty_names(source: Source) -> Iterator[Finding]:
    path = PurePosixPath(source.path)
    for part in (*path.parent.parts, path.stem):
        if words := FORBIDDEN_WORDS.intersection(part.split("_")):
            yield Finding(1, f"{part!r} says {', '.join(sorted(words))}")


def _find_torn_updates(source: Source) -> Iterator[Finding]:
    shared = {
        name for node in ast.walk(source.tree) if isinstance(node, ast.Nonlocal | ast.Global) for name in node.names
    }
    for node in ast.walk(source.tree):
        target, value = None, None
        if isinstance(node, ast.AugAssign):
            target, value = node.target, node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and _reads(node.value, node.targets[0]):
            target, value = node.targets[0], node.value
        if target is None or value is None or not any(isinstance(part, ast.Await) for part in ast.walk(value)):
            continue
        if isinstance(target, ast.Attribute | ast.Subscript) or (isinstance(target, ast.Name) and target.id in shared):
            yield Finding(target.lineno, f"{ast.unparse(target)} is read before the await and written after it")


def _reads(value: ast.expr, target: ast.expr) -> bool:
    wanted = ast.unparse(target)
    kinds = ast.Attribute | ast.Subscript | ast.Name
    return any(isinstance(part, kinds) and ast.unparse(part) == wanted for part in ast.walk(value))


def _find_dropped_tasks(source: Source) -> Iterator[Finding]:
    groups = {
        item.optional_vars.id
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.unparse(item.context_expr)
    }
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            continue
        receiver, _, name = ast.unparse(node.value.func).rpartition(".")
        if name in {"create_task", "ensure_future"} and receiver not in groups:
            yield Finding(node.lineno, f"nobody holds the task of {ast.unparse(node.value.func)}")


def _find_bare_excepts(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield Finding(node.lineno, "except without a class")


def _find_built_sql(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if node.func.attr in STATEMENTS and _is_built(node.args[0]):
            yield Finding(node.lineno, f"{node.func.attr} gets a statement that was put together")


def _is_built(text: ast.expr) -> bool:
    if isinstance(text, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in text.values)
    if isinstance(text, ast.BinOp):
        return isinstance(text.op, ast.Mod | ast.Add)
    return isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute) and text.func.attr == "format"


def _find_unbounded_queues(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "SimpleQueue":
            yield Finding(node.lineno, "a SimpleQueue cannot have a bound")
        elif name in QUEUES:
            bounds = [*node.args, *(keyword.value for keyword in node.keywords)]
            if not bounds or (isinstance(bounds[0], ast.Constant) and bounds[0].value in {0, None}):
                yield Finding(node.lineno, f"{name} without a bound")


def _find_adapters_without_transcript(source: Source) -> Iterator[Finding]:
    parts = source.module.split(".")
    is_adapter = len(parts) == 2 and parts[0] == "providers" and parts[1] not in NOT_ADAPTERS
    if is_adapter and not (ROOT / "tests" / "providers" / f"{parts[1]}.yaml").is_file():
        yield Finding(1, f"tests/providers/{parts[1]}.yaml is missing")


def _find_sleeping_tests(source: Source) -> Iterator[Finding]:
    if not source.within("tests"):
        return
    for function in _functions(source.tree):
        if function.name.startswith("test_"):
            yield from (Finding(call.lineno, f"{function.name} sleeps") for call in _own_sleeps(function))


def _own_sleeps(function: ast.AST) -> Iterator[ast.Call]:
    """Yield the sleeps of a test itself: a fake that it defines may take its time, and sleep(0) lets others run."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "sleep"}:
            yields = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if not yields:
                yield node
        yield from _own_sleeps(node)


def _find_skipped_tests(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if source.within("tests") and isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith("pytest.") and node.attr in {"skip", "skipif", "xfail", "importorskip"}:
                yield Finding(node.lineno, f"{name} hides a test")


RULES = (
    Rule("a file too long", "a file that needs more has two subjects", _find_long_files),
    Rule("a function too long", "a function is seen on one screen", _find_long_functions),
    Rule("a name that says nothing", "files are nouns; what has no noun has no place", _find_empty_names),
    Rule("an update torn by an await", "what others wrote meanwhile is lost", _find_torn_updates),
    Rule("a task that nobody holds", "it can vanish unfinished, and its error with it", _find_dropped_tasks),
    Rule("a bare except", "it swallows cancellation and mistakes alike", _find_bare_excepts),
    Rule("SQL put together from pieces", "values are bound, statements are constants", _find_built_sql),
    Rule("a queue without a bound", "every buffer has a stated maximum", _find_unbounded_queues),
    Rule("an adapter without a transcript", "no wire knowledge without an exchange", _find_adapters_without_transcript),
    Rule("a test that sleeps", "tests/waiting.py waits for the condition itself", _find_sleeping_tests),
    Rule("a test that is skipped", "a test that does not run proves nothing", _find_skipped_tests),
)
