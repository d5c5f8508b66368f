"""The command line: `pointsman` and `python -m router` start here. This file owns the application object and the
options that stand before a command; each command of contract section 3 is a file beside it. Floor 4.
"""

from typing import Annotated

import typer

from router import __version__
from router.cli.check import check
from router.cli.demo import demo
from router.cli.environment import describe_settings
from router.cli.explain import explain
from router.cli.init import init
from router.cli.keys import app as keys
from router.cli.schema import schema
from router.cli.serve import serve
from router.cli.simulate import simulate
from router.cli.submit import submit
from router.cli.tasks import cancel, tasks, watch

app = typer.Typer(
    name="pointsman",
    help="Routes paid image, video and chat calls to the provider that works, and keeps the bill.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(init)
# \b keeps the table's lines as they are.
app.command(epilog="\b\n" + describe_settings().replace("\n\n", "\n\n\b\n"))(serve)
app.command()(check)
app.command()(explain)
app.command()(submit)
app.command()(tasks)
app.command()(watch)
app.command()(cancel)
app.command()(simulate)
app.command()(schema)
app.add_typer(keys, name="keys")


def main() -> None:
    """Run the command line and leave the process with the exit codes of contract section 3."""
    app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pointsman {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Route paid image, video and chat calls to the provider that works, and keep the bill."""
