"""`pointsman submit`: a task from a shell, followed to its end, its files saved. A client of the daemon. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.complaint import USAGE, complain

FILE_MAX_BYTES = 40 << 20  # what base64 makes of it must fit into a body


def submit(
    prompt: Annotated[str, typer.Argument(help="What to make; - reads it from standard input.")],
    *,
    model: Annotated[str | None, typer.Option(help="Public model name; the kind's default if not given.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="image.generation, image.edit, video.generation ...; guessed if not given.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT or auto.")] = None,
    quality: Annotated[str | None, typer.Option(help="low, medium, high, ...")] = None,
    n: Annotated[int | None, typer.Option(min=1, max=10, help="How many.")] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help="Length of a video; makes it one.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="File or https URL to edit; may be repeated.")] = None,
    mask: Annotated[str | None, typer.Option(help="File or https URL of the mask.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Another input field, KEY=VALUE or KEY=JSON.")] = None,
    priority: Annotated[str | None, typer.Option(help="urgent, high, normal or low.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Provider to keep to; may be repeated.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which nothing more is begun.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="A repeat with the same key is the same task.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end and save what it made.")] = True,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the task as JSON, with files; no bar.")] = False,
) -> None:
    """Submit a task, follow it with a progress bar, and save its files. Exit code 1 when it did not succeed."""
    import json

    from router.cli.client import connect
    from router.cli.following import follow, leave_as, pairs_of, progress_bar, save_outputs

    said = {"size": size, "quality": quality, "n": n, "seconds": seconds}
    inputs: dict[str, Any] = {"prompt": _read_prompt(prompt), **{k: v for k, v in said.items() if v is not None}}
    if image:
        inputs["image"] = [_file_of(one) for one in image]
    if mask is not None:
        inputs["mask"] = _file_of(mask)
    inputs.update({name: _value_of(text) for name, text in pairs_of(field or [], "--field").items()})
    guessed = "image.edit" if image or mask else "video.generation" if seconds is not None else "image.generation"
    body: dict[str, Any] = {"kind": kind or guessed, "model": model, "input": inputs, "priority": priority}
    body |= {"metadata": pairs_of(metadata or [], "--metadata"), "timeout": timeout}
    if only:
        body["provider"] = {"only": only}
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    client = connect()
    said_now = {name: value for name, value in body.items() if value not in (None, {})}
    task = client.ask("POST", "/v1/tasks", said_now, headers=headers)
    if not wait:
        typer.echo(json.dumps(task) if as_json else task["id"])
        return
    if as_json:
        task = follow(client, task["id"], lambda _task: None)
    else:
        with progress_bar(task["id"]) as tell:
            task = follow(client, task["id"], tell)
    files = save_outputs(client, task, output) if task["status"] == "succeeded" else ()
    if as_json:
        typer.echo(json.dumps({**task, "files": [str(path) for path in files]}))
    else:
        for path in files:
            typer.echo(str(path))
        cost = task["cost"]["total_usd"]
        typer.echo(f"{task['id']} {task['status']}, {'cost unknown' if cost is None else f'{cost} USD'}", err=True)
    leave_as(task)


def _read_prompt(text: str) -> str:
    import sys

    return sys.stdin.read() if text == "-" else text


def _file_of(text: str) -> str:
    """A URL as it is; a file as a data URI. The daemon finds out by itself what it is."""
    import base64

    if text.startswith(("https://", "http://", "data:")):
        return text
    path = Path(text)
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            complain(f"{path} is larger than {FILE_MAX_BYTES >> 20} MiB", code=USAGE)
        content = path.read_bytes()
    except OSError as broken:
        complain(f"{path}: {broken.strerror or broken}", code=USAGE)
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


def _value_of(text: str) -> Any:
    """JSON where it is JSON, else the text."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
