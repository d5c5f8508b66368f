"""A real browser for the sights: headless chromium with a profile of its own, asked over its debugging WebSocket."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.waiting import poll_until

NAME = "chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--window-size=1200,1600", "--remote-debugging-port=0"),
)


class Page:
    """An open page."""

    def __init__(self, talk: aiohttp.ClientWebSocketResponse) -> None:
        self._talk = talk
        self._asked = 0

    async def evaluate(self, script: str) -> Any:
        """Run a script in the page; returns its value."""
        answer = await self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def take_picture(self, path: Path) -> None:
        """Write down how the page looks, as PNG."""
        shot = await self._ask("Page.captureScreenshot", format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._asked += 1
        await self._talk.send_json({"id": self._asked, "method": method, "params": params})
        async with asyncio.timeout(60):
            while (answer := await self._talk.receive_json()).get("id") != self._asked:
                continue  # an event that nobody asked for
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Page]:
    """Open a page in a fresh browser; both are gone afterwards."""
    program = shutil.which(NAME)
    assert program is not None, f"there is no browser to look with: install the Debian package `{NAME}`"
    with tempfile.TemporaryDirectory(prefix="pointsman-browser-", ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", url]
        environ = {**os.environ, "HOME": profile, "TMPDIR": profile}
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            async with aiohttp.ClientSession() as client:
                address = await poll_until(lambda: _address_in(profile), "the browser to start")
                target = await poll_until(lambda: _find_page(client, address), "the page to be there")
                async with client.ws_connect(target, max_msg_size=64 << 20) as talk:
                    yield Page(talk)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its own session: the browser and what it started
            process.wait()


def _address_in(profile: str) -> str | None:
    """Where it says that it can be asked: the port and a path, once it has written both."""
    try:
        lines = (Path(profile) / "DevToolsActivePort").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    return f"http://127.0.0.1:{lines[0]}" if len(lines) == 2 else None


async def _find_page(client: aiohttp.ClientSession, address: str) -> str | None:
    async with client.get(f"{address}/json/list") as reply:
        pages = [one for one in await reply.json(content_type=None) if one["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"]) if pages else None
