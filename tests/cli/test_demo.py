"""The demo shows failover because it happens: without a second provider its table and its exit code are others."""

import asyncio
import io
import os

import aiohttp
import pytest
from rich.console import Console

from router.cli.demo import ORDERS, run_demo
from tests.waiting import poll_until

# The same providers with a breaker that never opens, so that every task meets the failing one, and one attempt only.
ONE_TRY = """\
version: 1
providers:
  budget:
    adapter: apiyi
    base_url: "${POINTSMAN_DEMO_APIYI_URL}"
    api_key: k
    breaker: {consecutive_failures: 1000, minimum: 1000}
  flux: {adapter: bfl, base_url: "${POINTSMAN_DEMO_BFL_URL}", api_key: k}
models:
  demo-image:
    kind: image
    targets:
      - {provider: budget, model: gpt-image-2, price: {image: {default: 0.03}}}
      - {provider: flux, model: flux-pro-1.1, price: {image: {default: 0.04}}}
    retry: {total: 1}
"""
# Two attempts, and no second provider to make the second one.
ONE_TARGET = "".join(line for line in ONE_TRY.splitlines(keepends=True) if "provider: flux" not in line)
ONE_TARGET = ONE_TARGET.replace(
    "retry: {total: 1}", "retry: {per_target: 1, total: 2, backoff: {first: 10ms, max: 20ms}}"
)


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    """Let the demo's directory lie in the test's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


async def show(routing=None):
    shown = io.StringIO()
    code = await run_demo(Console(file=shown, width=140), once=True, routing=routing, port=0)
    return code, shown.getvalue()


async def test_every_task_succeeds_on_a_second_provider_and_its_picture_is_on_disk(tmp_path):
    code, shown = await show()

    assert code == 0
    assert "1 budget overloaded not_billed 0" in shown
    assert "2 flux succeeded billed 0.04" in shown
    assert f"{len(ORDERS)} of {len(ORDERS)} tasks succeeded" in shown
    pictures = list(tmp_path.glob("*/pictures/*.png"))
    assert len(pictures) == len(ORDERS)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert len({picture.read_bytes() for picture in pictures}) == len(ORDERS)


@pytest.mark.parametrize("routing", [ONE_TARGET, ONE_TRY])
async def test_without_failover_the_table_and_the_exit_code_say_so(routing):
    code, shown = await show(routing)

    assert code == 1
    assert "failed" in shown
    assert "flux succeeded" not in shown
    assert f"0 of {len(ORDERS)} tasks succeeded" in shown


async def test_it_goes_on_serving_and_prints_only_links_that_answer(monkeypatch):
    shown, endings = io.StringIO(), []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", lambda _number, end: endings.append(end))
    running = asyncio.create_task(run_demo(Console(file=shown, width=140), once=False, port=0))
    await poll_until(lambda: "Serving until Ctrl-C" in shown.getvalue() or running.done(), "the demo to go on serving")
    links = [word for word in shown.getvalue().split() if word.startswith("http") and not word.endswith((",", ";"))]
    async with aiohttp.ClientSession() as session:
        for link in (link for link in links if "/v1/images" not in link):
            async with session.get(link.strip('"')) as answer:
                assert answer.status == 200, link
    assert any(link.endswith("/metrics") for link in links)
    endings[0]()
    assert await running == 0


async def test_a_demo_that_is_stopped_before_its_tasks_are_done_shows_what_it_saw_and_ends(monkeypatch):
    shown, endings = io.StringIO(), []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", lambda _number, end: endings.append(end))
    running = asyncio.create_task(run_demo(Console(file=shown, width=140), once=False, port=0))
    await poll_until(lambda: "The daemon runs on" in shown.getvalue() or running.done(), "the daemon of the demo")
    endings[0]()

    assert await running == 1
    assert "Serving until Ctrl-C" not in shown.getvalue()
    assert f"of {len(ORDERS)} tasks succeeded" in shown.getvalue()


async def test_the_environment_does_not_reach_into_the_demo(monkeypatch):
    monkeypatch.setitem(os.environ, "POINTSMAN_DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setitem(os.environ, "POINTSMAN_PORT", "nonsense")

    assert (await show())[0] == 0


async def test_further_providers_are_shown_with_a_task_for_each_of_their_models():
    shown = io.StringIO()
    code = await run_demo(Console(file=shown, width=140), once=True, port=0, further=("pixapi",))

    assert code == 0
    assert "1 pixapi succeeded billed 0.04" in shown.getvalue()
    assert ".mp4" in shown.getvalue()
    assert f"{len(ORDERS) + 2} of {len(ORDERS) + 2} tasks succeeded" in shown.getvalue()
