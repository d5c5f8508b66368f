"""Following a task from a shell: asking after it until it ends, a bar on stderr meanwhile, saving what it made.

It asks with `Prefer: wait`, which holds the answer until the task ends, so that the end is seen at once and a daemon
that restarts in between only costs a repeat. Floor 4.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from router.cli.client import Client, refuse
from router.cli.complaint import USAGE, complain

WAIT_S = 1
PATIENCE_S = 30.0  # a restart of the daemon takes less
CHUNK = 1 << 18
SERVICE_UNAVAILABLE = 503
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
EXTENSIONS: Mapping[str, str] = {"jpeg": "jpg", "svg+xml": "svg", "octet-stream": "bin", "quicktime": "mov"}

Task = dict[str, Any]
Tell = Callable[[Task], None]


def follow(client: Client, task_id: str, tell: Tell) -> Task:
    """Ask until the task has ended; `tell` sees each answer. A daemon that is away is waited for, for a while."""
    heard_at = time.monotonic()
    while True:
        patient = time.monotonic() - heard_at < PATIENCE_S
        asking = replace(client, quiet=patient)
        try:
            answer = asking.fetch(
                "GET", f"/v1/tasks/{task_id}", query={"view": "native"}, headers={"Prefer": f"wait={WAIT_S}"}
            )
        except typer.Exit:
            if not patient:
                raise
            time.sleep(WAIT_S)
            continue
        if answer.status == SERVICE_UNAVAILABLE and patient:
            time.sleep(WAIT_S)
            continue
        if answer.status >= 400:
            refuse(answer)
        task: Task = answer.body
        heard_at = time.monotonic()
        tell(task)
        if task["status"] in TERMINAL:
            return task


@contextmanager
def progress_bar(task_id: str) -> Iterator[Tell]:
    """A bar on stderr: state, progress, the provider at work, seconds that are left. Nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[short]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        bar = progress.add_task("task", total=100, short=task_id[-8:], state="")
        yield lambda task: progress.update(bar, completed=task["progress"] or 0, state=describe(task))


def describe(task: Task) -> str:
    """What is going on, in a few words."""
    words = [task["status"]]
    if task["status"] == "pending" and task.get("queue_position") is not None:
        words.append(f"place {task['queue_position']}")
    if task["status"] == "running" and task.get("provider"):
        words.append(f"at {task['provider']}")
    if task["status"] not in TERMINAL and task.get("eta_seconds") is not None:
        words.append(f"{task['eta_seconds']:g} s left")
    if task.get("retry_count"):
        words.append(f"{task['retry_count']} repeats")
    return ", ".join(words)


def save_outputs(client: Client, task: Task, folder: Path) -> tuple[Path, ...]:
    """Load every output into the folder, as `<end of the id>-<n>.<type>`; an existing file is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for number, output in enumerate(task.get("output") or []):
        ending = str(output["content_type"]).partition("/")[2]
        name = f"{task['id'][-8:]}-{number}.{EXTENSIONS.get(ending, re.sub(r'[^a-z0-9]', '', ending) or 'bin')}"
        saved.append(_load(client, output["url"], folder / name))
    return tuple(saved)


def leave_as(task: Task) -> None:
    """Leave with code 1 and the reason when a task has not succeeded."""
    if task["status"] == "succeeded":
        return
    error = task.get("error") or {}
    more = [f"billing: {error['billing']}"] if error.get("billing") not in {None, "not_billed"} else []
    complain(f"{task['id']} {task['status']}: {error.get('message') or 'no reason was given'}", more)


def pairs_of(texts: Sequence[str], option: str) -> dict[str, str]:
    """Read KEY=VALUE options."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            complain(f"{option} must be KEY=VALUE, not {text!r}", code=USAGE)
        pairs[name] = value
    return pairs


def _load(client: Client, url: str, path: Path) -> Path:
    """Load a signed link, bit by bit. The daemon is asked where we found it, whatever name it calls itself."""
    parts = urlsplit(url)
    ours = replace(client, key=None)
    with ours.open("GET", f"{parts.path}?{parts.query}") as response:
        if response.status != 200:
            complain(f"the daemon answered {response.status} for {parts.path}")
        partial = path.with_name(path.name + ".part")
        with partial.open("wb") as file:
            while piece := response.read(CHUNK):
                file.write(piece)
    return partial.replace(path)
