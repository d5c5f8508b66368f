"""surfaces.4: a browser's page follows tasks by EventSource and WebSocket to their end, through a daemon's `kill -9`.

The page comes from another origin than the daemon and has no key: it has the tasks' `events_url` and nothing else. A
browser opens at most six EventSources to one host, so each task is submitted under a host name of its own below
`localhost`, which is where its link then points to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from providers import simulated
from providers.simulated.bfl import BflOptions
from tests.seen.browser import Page, browsing
from tests.seen.stage import Findings, Stage, all_ended, staged
from tests.waiting import poll_until

CONFIG = """
version: 1
providers:
  polled: {{adapter: bfl, base_url: "{polled}", api_key: "simulated-polled", max_concurrency: 200}}
models:
  polled: {{kind: image, targets: [{{provider: polled, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}]}}
"""
KEY = {"Authorization": "Bearer an-admin-key-that-no-browser-sees"}
PICTURE = Path(".seen") / "surfaces_4.png"
PAGE = Path(__file__).with_name("following.html")
ROWS = "rows.map(({id, way, opens, told, ends}) => ({id, way, opens, told, ends}))"
ENDED_WITHIN_S = 120.0


async def show(*, short: bool = False) -> int:
    """Submit, let the page follow, kill the daemon in between, and hold what the page saw against the rows."""
    findings, count = Findings(), 6 if short else 100
    options = BflOptions(time_scale=1.0, latency_s=4.0 if short else 12.0, active_max=10_000)
    async with simulated.start("bfl", options=options) as polled:
        environ = {"POINTSMAN_AUTH": "required", "POINTSMAN_ADMIN_KEY": KEY["Authorization"].removeprefix("Bearer ")}
        async with (
            staged(CONFIG.format(polled=polled.base_url), **environ) as stage,
            aiohttp.ClientSession(headers=KEY) as client,
        ):
            tasks = await asyncio.gather(*(submit(client, stage, number) for number in range(count)))
            async with served_page(tasks) as url, browsing(url) as page:
                rows = await follow_through_a_restart(findings, stage, page, count)
                if not short:
                    await page.take_picture(PICTURE)
                    findings.show("how the page looks in the end", PICTURE)
            ended = await all_ended(client, stage.url, [task["id"] for task in tasks])
    judge(findings, rows, ended)
    return findings.verdict()


async def submit(client: aiohttp.ClientSession, stage: Stage, number: int) -> dict[str, Any]:
    """Submit a task under a host name of its own; returns it as it was answered."""
    body = {"kind": "image.generation", "model": "polled", "input": {"prompt": f"cat {number}", "size": "512x512"}}
    host = {"Host": f"t{number}.localhost:{stage.port}"}
    async with client.post(f"{stage.url}/v1/tasks", json=body, headers=host) as reply:
        task: dict[str, Any] = await reply.json()
        assert reply.status == 202, task
    assert task["events_url"].startswith(f"http://{host['Host']}/"), task["events_url"]
    return task


@asynccontextmanager
async def served_page(tasks: list[dict[str, Any]]) -> AsyncIterator[str]:
    """Serve the page and the links of the tasks on a port of their own."""
    links = [{"id": task["id"], "events_url": task["events_url"]} for task in tasks]

    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")

    async def listing(_request: web.Request) -> web.StreamResponse:
        return web.json_response(links)

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/links.json", listing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def follow_through_a_restart(findings: Findings, stage: Stage, page: Page, count: int) -> list[dict[str, Any]]:
    """Kill the daemon once the page hears of every task, start it on the same port, wait for the last end."""
    heard = f"typeof rows !== 'undefined' && rows.filter((row) => row.told.length).length === {count}"
    await poll_until(lambda: page.evaluate(heard), "the page to hear of every task")
    before = await page.evaluate("rows.filter((row) => row.ends.length).length")
    began_s = time.monotonic()
    stage.kill()
    await stage.start()
    away_s = time.monotonic() - began_s
    over = f"rows.filter((row) => row.ends.length).length === {count}"
    await poll_until(lambda: page.evaluate(over), "every task to end in the page", ENDED_WITHIN_S)
    rows: list[dict[str, Any]] = await page.evaluate(ROWS)
    findings.show("tasks followed; ended in the page before the kill", f"{count}; {before}")
    findings.show("the daemon was away for s", f"{away_s:.1f}")
    findings.expect(before < count, "some tasks are followed through the restart")
    return rows


def judge(findings: Findings, rows: list[dict[str, Any]], ended: dict[str, dict[str, Any]]) -> None:
    """Each task's end was told once and is the row's; nothing came from another task or went back in time."""
    for way in ("EventSource", "WebSocket"):
        mine = [row for row in rows if row["way"] == way]
        events = Counter(event for row in mine for _id, event, _task in row["told"])
        findings.show(f"{way}: tasks, streams opened", f"{len(mine)}, {sum(row['opens'] for row in mine)}")
        findings.show(f"{way}: events", ", ".join(f"{name} {events[name]}" for name in sorted(events)))
        findings.expect(bool(mine), f"half of the tasks are followed by {way}")
        findings.expect(max(row["opens"] for row in mine) > 1, f"{way} comes back after the restart")
    statuses = Counter(task["status"] for task in ended.values())
    findings.show("how the tasks ended by their rows", dict(statuses))
    findings.expect(set(statuses) == {"succeeded"}, "every task succeeds, through the restart")
    told_once = [row for row in rows if row["ends"] == [ended[row["id"]]["status"]]]
    findings.show("ends told once, and as the row has it", f"{len(told_once)} of {len(rows)}")
    findings.expect(len(told_once) == len(ended) == len(rows), "the page is told each end once, as it is")
    for row in rows:
        versions = [int(version) for version, _event, _task in row["told"]]
        findings.expect(versions == sorted(versions), f"versions never fall: {row['told']}")
        moved = [version for version, event, _task in row["told"] if event != "task.progress"]
        findings.expect(len(moved) == len(set(moved)), f"no version is told twice: {row['told']}")
        findings.expect({task for *_rest, task in row["told"]} == {row["id"]}, f"{row['id']} alone is told")
