"""`pointsman check`: is a routing file good? Every problem with file, line and path; warnings do not fail. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.complaint import complain


def check(
    file: Annotated[
        # `readable` off: the command itself says what is wrong with the file, as of any other problem with it.
        Path | None, typer.Argument(readable=False, help="The routing file; POINTSMAN_CONFIG if not given.")
    ] = None,
) -> None:
    """Validate a routing file. Exit code 1 if anything is wrong with it."""
    from router.reload import Bad, read_rules, try_out
    from router.settings import SettingsInvalid, load_settings

    try:
        path = load_settings().config if file is None else file
    except SettingsInvalid as invalid:
        complain(invalid.problems[0], invalid.problems[1:])
    loaded = read_rules(path)
    loaded = loaded if isinstance(loaded, Bad) else try_out(loaded)
    if isinstance(loaded, Bad):
        count = len(loaded.problems)
        complain(f"{path}: {count} problem{'s' if count != 1 else ''}", loaded.problems)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    rules = loaded.rules
    typer.echo(f"{path}: ok ({len(rules.models)} models, {len(rules.providers)} providers, hash {rules.hash})")
