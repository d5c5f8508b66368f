"""`pointsman explain`: where a request would go and why, from the routing file alone. It spends nothing, needs no
daemon, and sees every circuit closed and every budget full. Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.complaint import USAGE, complain

if TYPE_CHECKING:
    from router.policy.rules import Ruleset, Shape
    from router.task import Preferences


def explain(
    *,
    model: Annotated[
        str | None, typer.Option(help="Public model name or alias; the kind's default if not given.")
    ] = None,
    kind: Annotated[str, typer.Option(help="image.generation, image.edit, video.generation, ...")] = "image.generation",
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT or auto.")] = None,
    quality: Annotated[str | None, typer.Option(help="low, medium, high, ...")] = None,
    n: Annotated[int, typer.Option(min=1, max=10, help="How many.")] = 1,
    seconds: Annotated[int | None, typer.Option(min=1, help="Length of a video.")] = None,
    tenant: Annotated[str, typer.Option(help="On whose behalf.")] = "default",
    priority: Annotated[str, typer.Option(help="urgent, high, normal or low.")] = "normal",
    surface: Annotated[str, typer.Option(help="native, openai, ...")] = "native",
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    order: Annotated[list[str] | None, typer.Option(help="Provider to try first; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Provider to keep to; may be repeated.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Provider to leave out; may be repeated.")] = None,
    sort: Annotated[str | None, typer.Option(help="price, latency or success: replaces the rule's strategy.")] = None,
    config: Annotated[
        Path | None, typer.Option(readable=False, help="The routing file; POINTSMAN_CONFIG if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show the candidates of a request in order, with price and score, and why others are left out."""
    import json

    from router.cli.following import pairs_of
    from router.policy.rules import Shape
    from router.provider import Kind
    from router.task import Preferences, Priority

    rules = _load(config)
    kinds, priorities = {one.value: one for one in Kind}, {one.word: one for one in Priority}
    if kind not in kinds:
        complain(f"--kind must be one of {', '.join(kinds)}", code=USAGE)
    if priority not in priorities:
        complain(f"--priority must be one of {', '.join(priorities)}", code=USAGE)
    if sort not in {None, "price", "latency", "success"}:
        complain("--sort must be one of price, latency, success", code=USAGE)
    wanted = kinds[kind]
    said = {"size": size, "quality": quality, "seconds": seconds}
    shape = Shape(
        kind=wanted,
        model=_name_model(rules, wanted.family, model),
        tenant=tenant,
        size=size,
        quality=quality,
        n=n,
        seconds=seconds,
        priority=priorities[priority],
        surface=surface,
        metadata=pairs_of(metadata or [], "--metadata"),
        fields=frozenset({"prompt", "n", *(name for name, value in said.items() if value is not None)}),
    )
    preferences = Preferences(order=tuple(order or ()), only=tuple(only or ()), ignore=tuple(ignore or ()), sort=sort)
    explained = _plan(rules, shape, preferences)
    if as_json:
        typer.echo(json.dumps(explained, indent=2))
    else:
        _show(shape.model, explained)
    if not explained["candidates"]:
        complain(f"nobody can do this under {rules.hash}")


def _load(config: Path | None) -> Ruleset:
    from router.reload import Bad, read_rules
    from router.settings import SettingsInvalid, load_settings

    try:
        path = load_settings(config=config).config
    except SettingsInvalid as invalid:
        complain(invalid.problems[0], invalid.problems[1:])
    loaded = read_rules(path)
    if isinstance(loaded, Bad):
        complain(f"{path}: the configuration is not valid", loaded.problems)
    return loaded.rules


def _plan(rules: Ruleset, shape: Shape, preferences: Preferences) -> dict[str, Any]:
    """Plan as intake would: under the same rules, with budgets that apply making unpriced targets unusable."""
    from router.policy import budget, route
    from router.reload import Calm
    from router.task import new_id
    from router.world import WallClock, system_dice

    now = WallClock().now()
    plan = route.plan(
        shape,
        preferences,
        rules,
        Calm(),
        now=now,
        task_id=new_id(now, system_dice()("ids")),
        priced_only=budget.applies(rules.budgets, shape, None),
    )
    return route.explain(plan)


def _name_model(rules: Ruleset, family: str, model: str | None) -> str:
    """Find the model as a submit would; complain about one that is not there."""
    name = model or rules.default_model.get(family)
    name = name or next((one.name for one in rules.models.values() if one.family == family), "")
    found = rules.model(name)
    if found is None:
        known = ", ".join(rules.models) or "none"
        complain(f"there is no model {name!r}; the configuration has {known}")
    if found.family != family:
        complain(f"{name} makes {found.family}s, not {family}s", code=USAGE)
    return found.name


def _show(model: str, explained: dict[str, Any]) -> None:
    """Print the same for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    number, by = explained["rule"], explained.get("ordered_by", "")
    console.print(f"{model}: {f'rule {number}' if number else 'no rule matches: its own targets'}, ordered by {by}")
    table = Table("", "target", "provider", "model", "price USD", "score", box=None, pad_edge=False)
    for place, one in enumerate(explained["candidates"], 1):
        cells = (one["target"], one["provider"], one["model"], one.get("price_usd"), one.get("score"))
        table.add_row(str(place), *("unknown" if cell is None else str(cell) for cell in cells))
    console.print(table)
    for one in explained["excluded"]:
        console.print(
            f"left out: {one['target']} ({one['provider']}): {one['reason']}: {one['detail']}", soft_wrap=True
        )
