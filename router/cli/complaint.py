"""How a command says that something is wrong: one line first on stderr, further lines below, then the exit code of
contract section 3. Floor 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import typer

BAD = 1
USAGE = 2
UNREACHABLE = 3


def complain(reason: str, more: Iterable[str] = (), *, code: int = BAD) -> NoReturn:
    """Write the reason, then the rest line by line, and leave with the code."""
    typer.echo(f"pointsman: {reason}", err=True)
    for line in more:
        typer.echo(line, err=True)
    raise typer.Exit(code)
