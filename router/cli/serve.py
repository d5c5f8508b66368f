"""`pointsman serve`: the daemon, until SIGTERM or SIGINT. Its settings are the environment's. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.complaint import complain

COLLECT_AFTER_OBJECTS = 5_000


def serve(
    config: Annotated[
        Path | None, typer.Option(readable=False, help="The routing file; overrides POINTSMAN_CONFIG.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Overrides POINTSMAN_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Overrides POINTSMAN_PORT; 0 takes a free one.")] = None,
) -> None:
    """Run the daemon. SIGHUP reloads the routing file, SIGTERM drains, a second SIGTERM does not wait."""
    import asyncio
    import gc

    from router.daemon import Replaced, StartFailed
    from router.daemon import serve as run
    from router.settings import SettingsInvalid, load_settings

    # What is loaded now lives as long as the process, and what a request leaves behind is hardly ever a cycle: looking
    # through all of it after every 700 objects takes a tenth of the time at work.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    try:
        asyncio.run(run(load_settings(config=config, host=host, port=port)))
    except SettingsInvalid as invalid:
        complain(invalid.problems[0], invalid.problems[1:])
    except StartFailed as failed:
        complain(str(failed), failed.problems)
    except Replaced as replaced:
        complain(str(replaced))
