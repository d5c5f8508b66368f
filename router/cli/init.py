"""`pointsman init`: a commented starter routing file, and what to fill in. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.complaint import complain


def init(
    file: Annotated[
        Path | None, typer.Argument(readable=False, help="Where to write it; config/routing.yaml if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write a commented starter routing file and say what to fill in."""
    from router.config import starter

    path = Path("config/routing.yaml") if file is None else file
    text = starter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        complain(f"{path} exists; --force overwrites it")
    except OSError as broken:
        complain(f"{path}: cannot be written: {broken.strerror}")
    typer.echo(f"wrote {path}")
    variables = sorted(_variables_in(text))
    typer.echo("Set the key of each provider that you use; the others are left out of every decision:")
    for variable in variables:
        typer.echo(f"  export {variable}=...")
    typer.echo("Then: pointsman check, pointsman explain --model gpt-image-2, pointsman serve")


def _variables_in(text: str) -> set[str]:
    """Find the names in `${NAME}`, comments aside."""
    import re

    lines = (line.partition("#")[0] for line in text.splitlines())
    return {name for line in lines for name in re.findall(r"\$\{(\w+)\}", line)}
