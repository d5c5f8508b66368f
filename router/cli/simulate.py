"""`pointsman simulate`: the simulated providers alone, each on a port, with the fault dial over HTTP. Floor 4."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.complaint import USAGE, complain

if TYPE_CHECKING:
    from providers.simulated import Options, Running

DIAL = """\
turn the dial:   curl -X PUT {origin}/_simulator/faults -d '{{"faults": [{{"kind": "overloaded", "share": 0.5}}]}}'
what it offers:  curl {origin}/_simulator/faults     its bill: curl {origin}/_simulator/bill"""


def simulate(
    providers: Annotated[list[str] | None, typer.Argument(metavar="[PROVIDER[:PORT]]...", help="All, if none.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; anybody who reaches it can turn the dial.")] = "127.0.0.1",
    bill: Annotated[
        Path | None, typer.Option(help="Keep the bill in this file (JSON lines); with several, one each.")
    ] = None,
    time_scale: Annotated[float, typer.Option(min=0.0, max=1000.0, help="Multiplies every delay.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of ids and dice.")] = 0,
) -> None:
    """Run simulated providers until Ctrl-C; prints each base_url for the routing file and how to turn the dial."""
    from providers.simulated import known

    wanted = [_read_place(text) for text in providers or known()]
    for slug, _port in wanted:
        if slug not in known():
            complain(f"there is no simulator of {slug!r}; there are {', '.join(known())}", code=USAGE)
    try:
        asyncio.run(_simulate(wanted, host, bill, time_scale, seed))
    except KeyboardInterrupt:
        return


async def _simulate(wanted: list[tuple[str, int]], host: str, bill: Path | None, time_scale: float, seed: int) -> None:
    import signal
    from contextlib import AsyncExitStack

    from providers.simulated import Options, PillowMissingError, start

    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        for slug, port in wanted:
            file = bill if bill is None or len(wanted) == 1 else bill.with_name(f"{bill.stem}-{slug}{bill.suffix}")
            options = Options(seed=seed, time_scale=time_scale, bill_file=file)
            try:
                running = await stack.enter_async_context(start(slug, host=host, port=port, options=options))
            except PillowMissingError as missing:
                complain(str(missing))
            except OSError as broken:
                complain(f"{slug} cannot start on {host}:{port}: {broken.strerror or broken}")
            _show(running, options)
        await ending.wait()


def _show(running: Running, options: Options) -> None:
    typer.echo(f"{running.slug}: base_url {running.base_url}")
    if options.bill_file is not None:
        typer.echo(f"bill:            {options.bill_file}")
    typer.echo(DIAL.format(origin=running.origin))


def _read_place(text: str) -> tuple[str, int]:
    slug, colon, port = text.partition(":")
    if colon and not (port.isdecimal() and int(port) <= 65535):
        complain(f"{text!r}: the port must be a number up to 65535", code=USAGE)
    return slug, int(port) if colon else 0
