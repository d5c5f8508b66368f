"""`pointsman keys`: make, list, rotate and revoke API keys, over the operators' routes of a running daemon. Floor 4.

A secret is printed once, by the command that made it. What is written wrongly is refused here, as a usage error, before
anybody is asked; everything else is the daemon's to judge.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from router.cli.complaint import USAGE, complain
from router.keys import KeyScope

PAGE = 100
SHOWN = ("id", "tenant", "name", "key", "scopes", "models", "rate_limit", "max_concurrency", "expires_at")

app = typer.Typer(help="API keys: create, list, rotate, revoke.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whose tasks and money the key is for.")] = "default",
    name: Annotated[str | None, typer.Option(help="What it is for, in your words.")] = None,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option(help="What it may do; may be repeated. generate, read and cancel if not given."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The only model it may use; may be repeated. All if not given.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it lives, such as 30d; else for ever.")] = None,
    rate: Annotated[str | None, typer.Option(help="Submits in a time, such as 100/1m.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Tasks that run at the same time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Make a key and print it, this once."""
    from router.cli.client import connect
    from router.config import notation

    _demand_duration("--expires-in", expires_in)
    if rate is not None:
        try:
            notation.rate().read(rate)
        except ValueError as wrong:
            complain(f"--rate {wrong}", code=USAGE)
    said = {
        "tenant": tenant,
        "name": name,
        "scopes": sorted(one.value for one in scope) if scope else None,
        "models": model or None,
        "expires_in": expires_in,
        "rate_limit": rate,
        "max_concurrency": max_concurrency,
    }
    body = {field: value for field, value in said.items() if value is not None}
    _print_made(connect(admin=True).ask("POST", "/admin/v1/keys", body), as_json=as_json)


@app.command("list")
def listing(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the keys, newest first, those that have ended too; never a secret."""
    from router.cli.client import connect

    client, keys, cursor = connect(admin=True), [], None
    while True:
        page = client.ask("GET", "/admin/v1/keys", query={"tenant": tenant, "limit": PAGE, "cursor": cursor})
        keys += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if as_json:
        typer.echo(json.dumps(keys, indent=2))
    else:
        _print_table(keys)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_...")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """End a key for ever, within seconds at every daemon. What it has submitted goes on."""
    from router.cli.client import connect

    key = connect(admin=True).ask("POST", f"/admin/v1/keys/{quote(key_id, safe='')}/revoke")
    typer.echo(json.dumps(key, indent=2) if as_json else f"{key['id']} of tenant {key['tenant']} is revoked")


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_...")],
    *,
    grace: Annotated[str, typer.Option(help="How long the old secret still works.")] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Give a key a new secret and print it, this once."""
    from router.cli.client import connect

    _demand_duration("--grace", grace)
    path = f"/admin/v1/keys/{quote(key_id, safe='')}/rotate"
    _print_made(connect(admin=True).ask("POST", path, {"grace_seconds": grace}), as_json=as_json)


# -- parts ------------------------------------------------------------------------------------------------------------


def _demand_duration(option: str, value: str | None) -> None:
    from router.config.notation import seconds_of

    if value is not None and seconds_of(value) is None:
        complain(f"{option} must be a duration with its unit, such as 24h or 30d", code=USAGE)


def _print_made(key: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(key, indent=2))
        return
    for field in SHOWN:
        value = key[field]
        if value not in (None, ""):
            typer.echo(f"{field:<15} {', '.join(value) if isinstance(value, list) else value}")
    if key["former_secret_until"] is not None:
        typer.echo(f"The secret before this one works until {key['former_secret_until']}.", err=True)
    typer.echo("Keep the key now: it is not shown again.", err=True)


def _print_table(keys: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "key", "tenant", "name", "state", "scopes", "limits", "created", box=None, pad_edge=False)
    for key in keys:
        limits = (
            key["rate_limit"],
            f"{key['max_concurrency']} at a time" if key["max_concurrency"] else None,
            f"only {', '.join(key['models'])}" if key["models"] else None,
            f"until {key['expires_at']}" if key["expires_at"] else None,
        )
        table.add_row(
            key["id"],
            f"{key['prefix']}...",
            key["tenant"],
            key["name"],
            key["state"],
            " ".join(key["scopes"]),
            ", ".join(filter(None, limits)),
            key["created_at"],
        )
    # Wide enough for an id in any terminal: a table that is cut is of no use to a script.
    Console(highlight=False, width=max(200, Console().width)).print(table)
