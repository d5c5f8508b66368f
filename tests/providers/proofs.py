"""What each adapter is proved to do: its own simulator (or what stands for the provider), a real daemon, a real wire.

A column of the matrix in docs/providers.md is a test of `test_proofs.py`; which adapter takes part is said by its
transcript, under `simulated:`, with the models and inputs of each kind. This file knows no provider.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from providers import known, load, simulated
from providers.simulated import Fault, Running
from providers.simulated.faults import Offer
from providers.simulated.picture import Picture, render
from router.daemon import Daemon
from router.provider import Kind
from tests.daemons import ADMIN_KEY, running_daemon
from tests.providers.exchange import read

TIME_SCALE = 0.01
ENDED = {"succeeded", "failed", "cancelled", "expired"}
PICTURE = "<picture>"
KINDS = {
    "generate": (Kind.IMAGE_GENERATION,),
    "edit": (Kind.IMAGE_EDIT,),
    "video": (Kind.VIDEO_GENERATION,),
    "chat": (Kind.CHAT_COMPLETION,),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One adapter at work: a daemon that has one model on it, and the simulator behind."""

    slug: str
    daemon: Daemon
    running: Running
    base_url: str
    client: aiohttp.ClientSession

    async def submit(self, kind: Kind, **changes: Any) -> dict[str, Any]:
        """Submit the task that the transcript has for this kind; returns it as accepted."""
        said = setup_of(self.slug)[kind.value]
        fields = {**with_picture(said["input"]), **changes}
        body = {"kind": kind.value, "model": kind.value, "input": fields}
        async with self.client.post("/v1/tasks", json=body) as reply:
            task: dict[str, Any] = await reply.json()
            assert reply.status == 202, task
            return task

    async def read(self, task_id: str, wait_s: int = 0) -> dict[str, Any]:
        """Read a task, after waiting for its end if asked to."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        async with self.client.get(f"/v1/tasks/{task_id}", headers=headers) as reply:
            task: dict[str, Any] = await reply.json()
            assert reply.status == 200, task
            return task

    async def result(self, task: Mapping[str, Any]) -> bytes:
        """Fetch the first output of a task."""
        async with self.client.get(task["output_url"]) as reply:
            assert reply.status == 200
            return await reply.read()


def setup_of(slug: str) -> Mapping[str, Any]:
    """What the transcript says under `simulated:`."""
    setup: Mapping[str, Any] = read(slug).get("simulated", {})
    return setup


def provers(column: str) -> Iterator[str]:
    """Name the adapters that take part in a column."""
    for slug in known():
        facts, setup = load(slug).facts, setup_of(slug)
        kinds = {kind for kind in Kind if kind.value in setup}
        if not setup:
            continue
        match column:
            case "poll":
                takes_part = bool(setup.get("polled"))
            case "cancel":
                takes_part = facts.cancels
            case "webhook":
                takes_part = facts.webhooks
            case "streaming":
                takes_part = bool(facts.streams)
            case "probe":
                takes_part = facts.probes
            case _:
                takes_part = bool(kinds & set(KINDS[column]))
        if takes_part:
            yield slug


def offer_of(slug: str) -> Offer:
    """What the dial of this adapter's simulator can show."""
    simulator: Any = import_module(f"providers.simulated.{setup_of(slug).get('behind', slug)}").Simulator
    offer: Offer = simulator.offer
    return offer


@asynccontextmanager
async def on_trial(
    slug: str,
    folder: Path,
    *,
    faults: tuple[Fault, ...] = (),
    account: Mapping[str, Any] | None = None,
    timeout_s: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Trial]:
    """Run the simulator and a daemon that has one model for each kind on it, named as the kind.

    Where another daemon is the provider (`behind:` in the transcript), that one runs on the simulator it names.
    `account` are further keys of the provider in the routing file; `timeout_s` bounds an attempt; `options` are the
    simulator's own.
    """
    behind = setup_of(slug).get("behind")
    simulator: Any = import_module(f"providers.simulated.{behind or slug}").Simulator
    suited = simulator.options_type(time_scale=TIME_SCALE, faults=faults, **(options or {}))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(simulated.start(behind or slug, options=suited))
        base_url = running.base_url
        if behind is not None:
            central = folder / "central"
            central.mkdir()
            write_routing(behind, central, running, running.base_url, timeout_s=timeout_s)
            base_url = (await stack.enter_async_context(running_daemon(central, time_scale=TIME_SCALE))).url
        write_routing(slug, folder, running, base_url, account=account, timeout_s=timeout_s)
        daemon = await stack.enter_async_context(running_daemon(folder, time_scale=TIME_SCALE))
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        client = await stack.enter_async_context(aiohttp.ClientSession(daemon.url, headers=headers))
        yield Trial(slug, daemon, running, base_url, client)


def key_of(slug: str) -> str:
    """The credential that the provider is called with."""
    setup = setup_of(slug)
    return ADMIN_KEY if "behind" in setup else str(setup.get("api_key", "simulated-key"))


def write_routing(
    slug: str,
    folder: Path,
    running: Running,
    base_url: str,
    *,
    account: Mapping[str, Any] | None = None,
    timeout_s: int | None = None,
) -> None:
    """Write the routing file of a daemon that has this provider alone."""
    setup = setup_of(slug)
    keys = {"adapter": slug, "base_url": base_url, "api_key": key_of(slug)}
    keys |= {name: value.format(origin=running.origin) for name, value in setup.get("account", {}).items()}
    bound = {} if timeout_s is None else {"rules": [{"when": {"tenant": "*"}, "timeout": f"{timeout_s}s"}]}
    models = {
        kind.value: {
            "kind": kind.family,
            "targets": [{"provider": slug, "model": setup[kind.value]["model"]}],
            "retry": {"backoff": {"first": "50ms", "max": "200ms"}},
            **bound,
        }
        for kind in Kind
        if kind.value in setup
    }
    document = {"version": 1, "providers": {slug: {**keys, **(account or {})}}, "models": models}
    (folder / "routing.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def with_picture(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Put a real picture in place of `<picture>`."""
    picture = render(Picture("an input", 256, 256))
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    filled: dict[str, Any] = json.loads(json.dumps(fields).replace(PICTURE, uri))
    return filled
