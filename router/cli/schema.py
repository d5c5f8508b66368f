"""`pointsman schema`: the JSON Schema of the routing file, made from the models that read it. Floor 4."""

from __future__ import annotations

from typing import Annotated

import typer

from router.cli.complaint import USAGE, complain


def schema(
    openapi: Annotated[bool, typer.Option("--openapi", help="The HTTP API instead of the routing file.")] = False,
) -> None:
    """Print the JSON Schema of the routing file."""
    import json

    from router.config import schema as routing_schema

    if openapi:
        complain("schema --openapi is not available in this version", code=USAGE)
    typer.echo(json.dumps(routing_schema(), indent=2))
