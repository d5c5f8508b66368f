"""`pointsman demo`: the daemon on simulated providers, the cheapest one failing, and a handful of tasks seen through.

The demo is a client like any other: it speaks HTTP over loopback, and its table is made of nothing but the answers of
`GET /v1/tasks/{id}`. Its exit code says what the table shows: 0 only when every task succeeded and at least one of them
on a second provider after a first had failed. Floor 4.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.complaint import USAGE, complain

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from rich.console import Console
    from rich.table import Table

    from router.daemon import Daemon

PORT = 8080
TIME_SCALE = 0.15
LOOK_EVERY_S = 0.2
CALL_TIMEOUT_S = 120.0
GIVE_UP_AFTER_S = 120.0
FAILING = "apiyi"
MODEL = "demo-image"
ROUTING_NAME = "demo.yaml"
SIMULATED = ("apiyi", "bfl", "openai")
SECRET_KEYS = frozenset({"api_keys", "webhooks", "webhook_secret", "webhook_keys_url"})
PAGE_WIDTH = 120  # of what goes into a file or a pipe
LEAST_WIDTHS = {"task": 6, "prompt": 8, "status": 9, "file": 12}
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})

SNIPPETS = """\
Try it yourself (any key or none, as this demo listens on loopback only):

  curl {url}/v1/images/generations -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "prompt": "a signal box at dawn", "response_format": "url"}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="any")
  print(client.images.generate(model="{model}", prompt="a signal box at dawn").data[0].b64_json[:40])
"""


@dataclass(frozen=True, slots=True)
class Order:
    """One request of the demo: how it is sent and what it asks for."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


ORDERS: tuple[Order, ...] = (
    Order("/v1/images/generations", {"prompt": "a red railway signal", "response_format": "url"}),
    Order("/v1/images/generations", {"prompt": "a lighthouse in fog", "quality": "low"}),
    Order("/v1/images/generations", {"prompt": "two cats on a bench", "async": True}),
    Order("/v1/images/generations", {"prompt": "a glass of tea"}, {"Prefer": "respond-async"}),
    Order("/v1/tasks", {"kind": "image.generation", "input": {"prompt": "a paper boat", "size": "1024x1024"}}),
    Order("/v1/tasks", {"kind": "image.generation", "input": {"prompt": "a green hill"}, "priority": "urgent"}),
)


@dataclass(slots=True)
class Sight:
    """What the demo has seen: the latest answer of `GET /v1/tasks/{id}` by id, and where pictures were saved."""

    orders: tuple[Order, ...] = ORDERS
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when the tasks are done.")] = False,
    further: Annotated[
        str, typer.Option("--with", metavar="PROVIDER,...", help="Further simulated providers, such as fal,gemini.")
    ] = "",
) -> None:
    """Run the daemon on simulated providers, the cheapest one failing, and watch tasks go through. Needs no key."""
    from rich.console import Console

    from providers.simulated import PillowMissingError
    from providers.simulated.film import PyAVMissingError
    from router.daemon import StartFailed

    extra = tuple(slug for slug in further.split(",") if slug)
    shown = demo_shows()
    for slug in extra:
        if slug not in shown:
            complain(f"the demo cannot show {slug!r}; it can show {', '.join(shown)}", code=USAGE)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PAGE_WIDTH)
    try:
        code = asyncio.run(run_demo(console, once=once, further=extra))
    except (PillowMissingError, PyAVMissingError) as missing:
        complain(str(missing))
    except StartFailed as failed:
        complain(str(failed), failed.problems)
    raise typer.Exit(code)


def demo_shows() -> tuple[str, ...]:
    """Name the providers that the demo can show: those with a simulator and an example in config/examples."""
    from providers.simulated import known
    from router.reload import read_shipped

    def has_example(slug: str) -> bool:
        try:
            read_shipped(f"examples/{slug}.yaml")
        except OSError:
            return False
        return True

    return tuple(slug for slug in known() if has_example(slug))


async def run_demo(
    console: Console, *, once: bool, routing: str | None = None, port: int = PORT, further: tuple[str, ...] = ()
) -> int:
    """Do all of it; returns the exit code. `routing` is the text of a routing file instead of the shipped one; in both
    `${POINTSMAN_DEMO_APIYI_URL}` and the like stand for what the simulators have. `further` are providers whose example
    configuration is added, with one task for each of its models.
    """
    import tempfile

    import aiohttp

    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    folder = Path(tempfile.mkdtemp(prefix="pointsman-demo-"))
    async with AsyncExitStack() as stack:
        daemon, orders = await _start(stack, folder, routing, port, further)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(daemon.url, timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S), trust_env=False)
        )
        console.print(
            f"The daemon runs on {daemon.url}; its cheapest provider (budget, a simulated {FAILING}) is out of order.\n"
        )
        sight = Sight(orders=orders)
        await _see_through(session, console, folder, ending, sight)
        code = judge(sight)
        console.print()
        console.print(describe(sight, code), soft_wrap=True)
        console.print(f"Pictures as saved by this client: {folder / 'pictures'}", soft_wrap=True)
        console.print(f"Result files, database and log of the daemon: {folder} (kept)\n", soft_wrap=True)
        if not once and not ending.is_set():
            console.print(SNIPPETS.format(url=daemon.url, model=MODEL), soft_wrap=True, markup=False)
            await _show_links(session, console, daemon)
            console.print("Serving until Ctrl-C.")
            await ending.wait()
        return code


async def _start(
    stack: AsyncExitStack, folder: Path, routing: str | None, port: int, further: tuple[str, ...]
) -> tuple[Daemon, tuple[Order, ...]]:
    """Start the simulators and the daemon, on free ports where 8080 is taken; returns it and what is to be ordered."""
    from providers.simulated import Fault, FaultKind, Options, start
    from router.daemon import Daemon, StartFailed
    from router.reload import read_shipped
    from router.settings import make_settings

    text = read_shipped(ROUTING_NAME) if routing is None else routing
    for slug in SIMULATED:
        faults = (Fault(kind=FaultKind.OVERLOADED),) if slug == FAILING else ()
        running = await stack.enter_async_context(start(slug, options=Options(time_scale=TIME_SCALE, faults=faults)))
        text = text.replace(f"${{POINTSMAN_DEMO_{slug.upper()}_URL}}", running.base_url)
        text = text.replace(f"${{POINTSMAN_DEMO_{slug.upper()}_KEY}}", f"demo-key-{slug}")
    orders = list(ORDERS)
    for slug in further:
        running = await stack.enter_async_context(start(slug, options=Options(time_scale=TIME_SCALE)))
        text = _add_example(text, slug, running.base_url, orders)
    config = folder / "routing.yaml"
    config.write_text(text, encoding="utf-8")
    log = stack.enter_context((folder / "log.jsonl").open("w", encoding="utf-8"))

    async def begin(at: int) -> Daemon:
        settings = make_settings(
            port=at, config=config, data_dir=folder, auth="disabled", fetch_allow="127.0.0.0/8", time_scale=TIME_SCALE
        )
        return await Daemon.start(settings, log_stream=log)

    try:
        daemon = await begin(port)
    except StartFailed:
        daemon = await begin(0)  # if it was not the port, it says so again
    stack.push_async_callback(daemon.stop, 1.0)
    return daemon, tuple(orders)


def _add_example(text: str, slug: str, base_url: str, orders: list[Order]) -> str:
    """Add a provider's example configuration to a routing file, and an order for each of its models."""
    import yaml

    from router.reload import read_shipped

    whole, example = yaml.safe_load(text), yaml.safe_load(read_shipped(f"examples/{slug}.yaml"))
    for name, account in example["providers"].items():
        kept = {key: value for key, value in account.items() if key not in SECRET_KEYS}
        # With a colon, because some keys are an id and a secret, and their simulators look at that.
        whole["providers"][name] = kept | {"base_url": base_url, "api_key": f"demo:key-{slug}"}
    for name, model in example["models"].items():
        whole["models"][name] = model
        kind = {"image": "image.generation", "video": "video.generation"}.get(model["kind"])
        if kind is not None:
            fields = {"prompt": f"a signal box, by {slug}"}
            orders.append(Order("/v1/tasks", {"kind": kind, "model": name, "input": fields}))
    return str(yaml.safe_dump(whole, sort_keys=False))


# -- the client -------------------------------------------------------------------------------------------------------


async def _see_through(
    session: ClientSession, console: Console, folder: Path, ending: asyncio.Event, sight: Sight
) -> None:
    """Send every order and watch the tasks until they have ended; the table is redrawn as they move."""
    from rich.live import Live

    loop = asyncio.get_running_loop()
    pictures = folder / "pictures"
    pictures.mkdir()
    give_up_at = loop.time() + GIVE_UP_AFTER_S
    async with asyncio.TaskGroup() as group:
        sending = [group.create_task(_send(session, order, sight)) for order in sight.orders]
        with Live(draw(sight), console=console, auto_refresh=False) as live:
            while not ending.is_set() and loop.time() < give_up_at:
                await _look(session, sight, pictures)
                live.update(draw(sight), refresh=True)
                if all(one.done() for one in sending) and all(_is_over(task) for task in sight.tasks.values()):
                    break
                await asyncio.sleep(LOOK_EVERY_S)
        for one in sending:
            one.cancel()


async def _send(session: ClientSession, order: Order, sight: Sight) -> None:
    """Send one order; a synchronous one returns when its picture is there. Every answer names its task."""
    async with session.post(order.path, json={"model": MODEL, **order.body}, headers=order.headers) as answer:
        task_id = answer.headers.get("X-Task-Id")
        if task_id is None:
            sight.refusals.append(f"HTTP {answer.status} to {order.path}: {(await answer.text())[:200]}")
        else:
            sight.tasks.setdefault(task_id, {})


async def _look(session: ClientSession, sight: Sight, pictures: Path) -> None:
    """Ask after every task that has not been seen to end, and save the pictures of those that have."""
    for task_id, known in tuple(sight.tasks.items()):
        if _is_over(known):
            continue
        async with session.get(f"/v1/tasks/{task_id}", params={"view": "native"}) as answer:
            if answer.status == 200:
                seen = sight.tasks[task_id] = await answer.json()
                for number, output in enumerate(seen.get("output") or ()):
                    sight.files[task_id] = await _save(session, output["url"], pictures / f"{_short(task_id)}-{number}")


async def _save(session: ClientSession, url: str, path: Path) -> Path:
    async with session.get(url) as answer:
        answer.raise_for_status()
        target = path.with_suffix("." + answer.content_type.rpartition("/")[2])
        target.write_bytes(await answer.read())
    return target


async def _show_links(session: ClientSession, console: Console, daemon: Daemon) -> None:
    """Print the addresses that answer, and no other."""
    for what, path in (("models", "/v1/models"), ("metrics", "/metrics"), ("ready", "/readyz")):
        async with session.get(path) as answer:
            if answer.status == 200:
                console.print(f"  {what:<8} {daemon.url}{path}")


# -- what it shows -------------------------------------------------------------------------------------------------


def draw(sight: Sight) -> Table:
    """The table: one row a task, as `GET /v1/tasks/{id}` told it last."""
    from rich.table import Table

    table = Table(title="as GET /v1/tasks/{id} tells it", title_justify="left")
    for heading in ("task", "prompt", "status", "attempts: who, outcome, billing, USD", "USD", "file"):
        table.add_column(heading, min_width=LEAST_WIDTHS.get(heading), overflow="fold")
    for task_id, seen in sight.tasks.items():
        if not seen:
            table.add_row(_short(task_id), "", "sent", "", "", "")
            continue
        lines = [
            f"{one['n']} {one['provider']} {one['outcome'] or 'under way'} {one['billing']} {_text(one['cost_usd'])}"
            for one in seen["attempts"]
        ]
        file = sight.files.get(task_id)
        prompt, name = (seen.get("input") or {}).get("prompt", ""), "" if file is None else file.name
        total = _text(seen["cost"]["total_usd"])
        table.add_row(_short(task_id), prompt, seen["status"], "\n".join(lines), total, name)
    return table


def judge(sight: Sight) -> int:
    """The exit code: 0 when all succeeded and failover was seen at work, else 1."""
    complete = len(sight.tasks) == len(sight.orders) and not sight.refusals
    succeeded = all(task.get("status") == "succeeded" for task in sight.tasks.values())
    saved = all(task_id in sight.files for task_id in sight.tasks)
    return 0 if complete and succeeded and saved and _count_failovers(sight) > 0 else 1


def describe(sight: Sight, code: int) -> str:
    """The verdict in words."""
    good = sum(task.get("status") == "succeeded" for task in sight.tasks.values())
    moved = _count_failovers(sight)
    lines = [f"{good} of {len(sight.orders)} tasks succeeded, {moved} on a second provider after a first failed."]
    lines += [f"refused: {refusal}" for refusal in sight.refusals]
    lines += ["" if code == 0 else "This is not what the demo should show."]
    return "\n".join(line for line in lines if line)


def _count_failovers(sight: Sight) -> int:
    return sum(_failed_over(task) for task in sight.tasks.values())


def _failed_over(task: dict[str, Any]) -> bool:
    """Whether a task succeeded on another provider than the one that failed it first."""
    attempts = task.get("attempts") or []
    if task.get("status") != "succeeded" or len(attempts) < 2:
        return False
    first, last = attempts[0], attempts[-1]
    moved_on: bool = first["outcome"] != "succeeded" and first["provider"] != last["provider"]
    return moved_on and last["outcome"] == "succeeded"


def _is_over(task: dict[str, Any]) -> bool:
    return task.get("status") in ENDED


def _text(usd: str | None) -> str:
    return "unknown" if usd is None else usd


def _short(task_id: str) -> str:
    return task_id[-6:]
