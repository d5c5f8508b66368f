"""Starting, finding and closing simulators, and the bounds of what they remember."""

import asyncio

import aiohttp
import pytest

import providers.simulated
from providers.simulated import Fault, FaultKind, Options, known, start
from providers.simulated.bfl import BflOptions
from tests.waiting import poll_until


def test_the_simulators_are_found_by_what_they_hold(tmp_path, monkeypatch):
    assert {"apiyi", "bfl", "openai"} <= set(known())

    (tmp_path / "acme.py").write_text("class Simulator: ...\n")
    (tmp_path / "parts.py").write_text("SIZE = 1\n")
    monkeypatch.setattr(providers.simulated, "__path__", [*providers.simulated.__path__, str(tmp_path)])
    assert "acme" in known()
    assert "parts" not in known()


@pytest.mark.parametrize("slug", ["apiyi", "bfl", "openai"])
async def test_each_listens_on_ports_of_its_own_until_it_is_closed(slug):
    running = await start(slug)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{running.origin}/_simulator/bill") as answer:
            assert (await answer.json())["submitted"] == 0
        await running.close()
        await running.close()
        for port in running.ports:
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.get(f"http://127.0.0.1:{port}/_simulator/bill")

    assert running.base_url.startswith(running.origin)


async def test_closing_cuts_what_hangs_and_what_is_slow_and_leaves_no_task_behind():
    before = asyncio.all_tasks()
    body, key = {"model": "gpt-image-2", "prompt": "a", "size": "64x64"}, {"Authorization": "Bearer k"}
    async with aiohttp.ClientSession() as http:
        options = Options(latency_s=0, faults=(Fault(kind=FaultKind.HANG, first=1), Fault(kind=FaultKind.SLOW)))
        async with start("openai", options=options) as running:
            url = f"{running.base_url}/images/generations"
            calls = [asyncio.create_task(http.post(url, json=body, headers=key)) for _ in range(2)]
            await poll_until(lambda: running.bill.submitted == 2, "both orders to be accepted")
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [isinstance(answer, aiohttp.ClientError) for answer in answers] == [True, True]
    await poll_until(lambda: asyncio.all_tasks() <= before, "the simulator's tasks to end")
    assert running.bill.billed == 2


async def test_an_unknown_slug_foreign_options_a_bad_option_and_a_port_in_use_are_refused():
    with pytest.raises(LookupError, match="acme"):
        await start("acme")
    with pytest.raises(ValueError, match="BflOptions"):
        await start("openai", options=BflOptions())
    with pytest.raises(ValueError, match="time_scale"):
        Options(time_scale=-1)
    with pytest.raises(ValueError, match=r"faults\[0\]"):
        await start("openai", options=Options(faults=(Fault(kind=FaultKind.NO_COST),)))
    async with start("openai") as running:
        with pytest.raises(OSError, match="in use"):
            await start("openai", port=running.ports[0])


async def test_the_request_log_is_bounded_and_its_total_is_not():
    async with start("openai", options=Options(requests_kept=3)) as running, aiohttp.ClientSession() as http:
        for number in range(5):
            async with http.get(f"{running.base_url}/models?n={number}") as answer:
                assert answer.status == 401

    assert (running.requests.total, len(running.requests)) == (5, 3)
    assert [seen.query["n"] for seen in running.requests] == ["2", "3", "4"]
    assert running.requests.answered == {401: 5}


def test_the_key_is_not_shown_by_the_options():
    assert "sk-secret" not in repr(Options(api_key="sk-secret"))


async def test_two_lives_under_one_seed_answer_the_same_and_another_seed_otherwise():
    async def live(seed: int) -> list[object]:
        faults = (Fault(kind=FaultKind.OVERLOADED, share=0.4), Fault(kind=FaultKind.WRONG_MAGIC, share=0.4))
        options = Options(time_scale=0, seed=seed, faults=faults, now_ms=lambda: 0)
        body, key = {"model": "dall-e-2", "prompt": "a", "size": "256x256"}, {"Authorization": "Bearer k"}
        answers: list[object] = []
        async with start("openai", options=options) as running, aiohttp.ClientSession() as http:
            for _ in range(30):
                async with http.post(f"{running.base_url}/images/generations", json=body, headers=key) as answer:
                    text = await answer.text()
                    answers.append((answer.status, answer.headers["x-request-id"], text.replace(running.origin, "")))
            return [*answers, *running.bill.entries]

    first, again, other = await live(1), await live(1), await live(2)
    assert first == again
    assert [answer[0] for answer in first[:30]] != [answer[0] for answer in other[:30]]
