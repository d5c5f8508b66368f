"""`pointsman schema`: the JSON Schema of the routing file, or the OpenAPI document of the HTTP API. Floor 4."""

from __future__ import annotations

from typing import Annotated

import typer


def schema(
    openapi: Annotated[bool, typer.Option("--openapi", help="The HTTP API instead of the routing file.")] = False,
) -> None:
    """Print the JSON Schema of the routing file, or OpenAPI 3.1."""
    import json

    from router.api.document import compose
    from router.config import schema as routing_schema

    typer.echo(json.dumps(compose() if openapi else routing_schema(), indent=2))
