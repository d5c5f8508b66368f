"""A simulator's bill: counts, charges, and a file that tells the same to somebody else and to a later life."""

import os
import subprocess
import sys
from decimal import Decimal

import aiohttp
import pytest

from providers.simulated import Bill, Options, What, group_by_prompt, read_bill, start

USD = Decimal("0.04")


def now_ms() -> int:
    return 1_795_000_000_000


def test_a_job_is_charged_at_acceptance_and_an_ending_may_lower_the_charge():
    bill = Bill("t", now_ms)
    kept = bill.accept(model="m", prompt="a cat", amount_usd=USD)
    freed = bill.accept(model="m", prompt="a dog", amount_usd=USD)
    assert (2, 2, Decimal("0.08")) == (bill.submitted, bill.billed, bill.total)

    bill.end(kept, What.SUCCESS)
    bill.end(freed, What.REFUSAL, Decimal(0))
    assert (bill.submitted, bill.billed, bill.total) == (2, 1, USD)
    assert [entry.what for entry in bill.entries] == [What.SUCCESS, What.REFUSAL]


def test_a_picture_paid_for_twice_shows_under_its_prompt():
    bill = Bill("t", now_ms)
    jobs = [bill.accept(model="m", prompt=prompt, amount_usd=USD) for prompt in ("a", "b", "a")]

    assert {"a": (jobs[0], jobs[2]), "b": (jobs[1],)} == {
        prompt: tuple(entry.job for entry in entries) for prompt, entries in bill.jobs_by_prompt().items()
    }
    assert len(set(jobs)) == 3


def test_a_client_that_left_changes_the_word_and_not_the_charge_and_a_second_ending_is_a_bug():
    bill = Bill("t", now_ms)
    job = bill.accept(model="m", prompt="a", amount_usd=USD)
    bill.abandon(job)
    assert bill.abandoned(job)
    bill.end(job, What.SUCCESS)

    assert (bill.entries[0].what, bill.total) == (What.DISCONNECT, USD)
    with pytest.raises(RuntimeError, match="ended twice"):
        bill.end(job, What.SUCCESS)


def test_the_file_tells_the_same_and_a_later_life_goes_on_counting(tmp_path):
    file = tmp_path / "bill.jsonl"
    first = Bill("t", now_ms, file)
    ended = first.accept(model="m", prompt="a", amount_usd=USD)
    first.accept(model="m", prompt="b", amount_usd=USD)
    first.end(ended, What.REFUSAL, Decimal(0))
    assert first.entries == read_bill(file)
    first.close()

    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"event": "accepted", "jo')
    assert first.entries == read_bill(file)
    second = Bill("t", now_ms, file)
    added = second.accept(model="m", prompt="a", amount_usd=USD)
    second.close()

    assert (*(entry.job for entry in first.entries), added) == tuple(entry.job for entry in read_bill(file))
    assert len({entry.job for entry in read_bill(file)}) == 3
    assert {prompt: len(group) for prompt, group in group_by_prompt(read_bill(file)).items()} == {"a": 2, "b": 1}


def test_an_accepted_job_is_in_the_file_when_its_process_dies_at_once(tmp_path):
    # os._exit runs no cleanup and flushes nothing, which is what kill -9 leaves behind as well.
    file = tmp_path / "bill.jsonl"
    program = (
        "import os, sys, pathlib, decimal\n"
        "from providers.simulated import Bill\n"
        "bill = Bill('t', lambda: 1, pathlib.Path(sys.argv[1]))\n"
        "bill.accept(model='m', prompt='a', amount_usd=decimal.Decimal('0.04'))\n"
        "os._exit(9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file)], check=False, env=os.environ | {"PYTHONPATH": "."}
    )

    assert ended.returncode == 9
    assert [(entry.prompt, entry.what) for entry in read_bill(file)] == [("a", What.ACCEPTED)]


async def test_the_bill_is_shown_over_http_and_written_to_the_file_of_the_options(tmp_path):
    file = tmp_path / "bill.jsonl"
    body, key = {"model": "gpt-image-2", "prompt": "abcd", "size": "1024x1024"}, {"Authorization": "Bearer k"}
    async with (
        start("openai", options=Options(time_scale=0.001, bill_file=file)) as upstream,
        aiohttp.ClientSession() as http,
    ):
        async with http.post(f"{upstream.base_url}/images/generations", json=body, headers=key) as answer:
            assert answer.status == 200
        async with http.get(f"{upstream.origin}/_simulator/bill") as answer:
            shown = await answer.json()
        async with http.get(f"{upstream.origin}/_simulator/requests") as answer:
            seen = await answer.json()

    assert (shown["submitted"], shown["billed"], shown["total_usd"]) == (1, 1, "0.053015")
    assert [job["what"] for job in shown["jobs"]] == ["success"]
    assert upstream.bill.entries == read_bill(file)
    assert (1, {"200": 1}, body) == (seen["total"], seen["answered"], seen["requests"][0]["body"])
