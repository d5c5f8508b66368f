"""`pointsman tasks`, `watch` and `cancel`: what became of what was submitted. Clients of the daemon. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def tasks(
    *,
    status: Annotated[str | None, typer.Option(help="pending, running, succeeded, failed, ...")] = None,
    model: Annotated[str | None, typer.Option(help="Of this public model.")] = None,
    provider: Annotated[str | None, typer.Option(help="At this provider.")] = None,
    created_after: Annotated[str | None, typer.Option(help="RFC 3339, or seconds since the epoch.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One task a line, as JSON.")] = False,
) -> None:
    """List tasks, the newest first."""
    import json

    from router.cli.client import connect

    client, found, cursor = connect(), list[dict[str, Any]](), None
    said = {"status": status, "model": model, "provider": provider, "created_after": created_after}
    while len(found) < limit:
        page = client.ask("GET", "/v1/tasks", query={**said, "limit": min(100, limit - len(found)), "cursor": cursor})
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if as_json:
        for task in found:
            typer.echo(json.dumps(task))
        return
    _show(found)


def watch(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The task, in any of its spellings.")],
    *,
    save: Annotated[Path | None, typer.Option(help="Folder for its files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Each state it is seen in, a line of JSON.")] = False,
) -> None:
    """Follow a task to its end. Exit code 1 when it did not succeed."""
    import json

    from router.cli.client import connect
    from router.cli.following import follow, leave_as, progress_bar, save_outputs

    client = connect()
    if as_json:
        last: list[str] = []

        def tell(task: dict[str, Any]) -> None:
            line = json.dumps(task)
            if last[-1:] != [line]:
                last[:] = [line]
                typer.echo(line)

        task = follow(client, task_id, tell)
    else:
        with progress_bar(task_id) as show:
            task = follow(client, task_id, show)
    if save is not None and task["status"] == "succeeded":
        for path in save_outputs(client, task, save):
            typer.echo(str(path), err=as_json)
    leave_as(task)


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The tasks, in any of their spellings.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One task a line, as JSON.")] = False,
) -> None:
    """Cancel tasks: nothing more is begun for them. Exit code 1 when one of them had ended already."""
    import json

    from router.cli.client import connect
    from router.cli.complaint import complain

    client, problems = connect(), []
    for task_id in task_ids:
        answer = client.fetch("POST", f"/v1/tasks/{task_id}/cancel", query={"view": "native"})
        if answer.status == 200:
            typer.echo(json.dumps(answer.body) if as_json else f"{answer.body['id']} {answer.body['status']}")
        else:
            problems.append(f"{task_id}: {answer.error.get('message') or f'the daemon answered {answer.status}'}")
    if problems:
        complain(problems[0], problems[1:])


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("task", "created", "kind", "model", "status", "provider", "USD", "what"):
        table.add_column(name, overflow="fold", no_wrap=name != "what")
    for task in found:
        cost = task["cost"]["total_usd"]
        error = task["error"] or {}
        table.add_row(
            task["id"],
            task["created_at"][:19].replace("T", " "),
            task["kind"],
            task["model"],
            task["status"],
            task["provider"] or "",
            "unknown" if cost is None else cost,
            (error.get("error_type") or str(task["input"].get("prompt", "")))[:60],
        )
    Console(width=None if Console().is_terminal else 240).print(table)
