"""What each command prints, where, and with which exit code (contract section 3)."""

import asyncio
import json
import signal
import sys

import aiohttp
import pytest

from router.cli.environment import SETTINGS
from tests.daemons import environment, run_command, write_routing

RULES = """\
version: 1
providers:
  a: {{adapter: openai, base_url: "{a}", api_key: "key-of-provider-a"}}
  b: {{adapter: openai, base_url: "{b}", api_key: "key-of-provider-b"}}
models:
  m:
    kind: image
    strategy: cheapest
    targets:
      - {{provider: a, model: gpt-image-2, price: {{image: {{default: 0.05}}}}}}
      - {{provider: b, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
    rules:
      - when: {{metadata.team: press}}
        targets: [a]
"""


async def test_the_help_of_serve_lists_every_setting_and_loads_no_server(tmp_path):
    code, out, _err = await run_command(tmp_path, "serve", "--help")
    assert code == 0
    for setting in SETTINGS:
        assert setting.variable in out

    script = "import sys, router.cli; print([name for name in sys.modules if name in ('aiohttp', 'pydantic', 'rich')])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[0].decode().strip() == "[]"


async def test_a_wrong_option_is_a_usage_error(tmp_path):
    code, out, err = await run_command(tmp_path, "serve", "--prot", "1")

    assert (code, out) == (2, "")
    assert "--prot" in err


async def test_check_says_ok_or_lists_every_problem(tmp_path):
    write_routing(tmp_path, text=RULES)
    code, out, _err = await run_command(tmp_path, "check")
    assert code == 0
    assert "routing.yaml: ok" in out

    code, out, err = await run_command(tmp_path, "check", "missing.yaml")
    assert (code, out) == (1, "")
    assert "missing.yaml" in err


async def test_check_tells_of_a_folder_and_of_an_env_file_that_is_no_text(tmp_path):
    write_routing(tmp_path, text=RULES)
    code, _out, err = await run_command(tmp_path, "check", ".")
    assert (code, err) == (1, "pointsman: .: 1 problem\n.: cannot be read: Is a directory\n")

    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    code, _out, err = await run_command(tmp_path, "check", "routing.yaml")
    assert (code, err) == (1, "pointsman: routing.yaml: 1 problem\n.env: cannot be read\n")


async def test_explain_shows_candidates_in_order_with_prices_and_needs_no_daemon(tmp_path):
    write_routing(tmp_path, text=RULES)
    code, out, _err = await run_command(tmp_path, "explain", "--model", "m", "--json")
    explained = json.loads(out)

    assert code == 0
    assert [one["provider"] for one in explained["candidates"]] == ["b", "a"]
    assert [one["price_usd"] for one in explained["candidates"]] == ["0.03", "0.05"]

    code, out, _err = await run_command(tmp_path, "explain", "--model", "m", "--n", "2")
    assert code == 0
    assert out.index("0.06") < out.index("0.1")


async def test_explain_follows_the_rules_and_tells_what_it_leaves_out(tmp_path):
    write_routing(tmp_path, text=RULES)
    code, out, _err = await run_command(tmp_path, "explain", "--metadata", "team=press", "--json")
    assert (code, [one["provider"] for one in json.loads(out)["candidates"]]) == (0, ["a"])

    code, out, err = await run_command(tmp_path, "explain", "--metadata", "team=press", "--ignore", "a")
    assert code == 1
    assert "left out: a" in out
    assert err.startswith("pointsman: nobody can do this")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--model", "unknown"], 1),
        (["--kind", "image.sculpture"], 2),
        (["--kind", "video.generation", "--model", "m"], 2),
        (["--priority", "now"], 2),
        (["--metadata", "team"], 2),
        (["--sort", "colour"], 2),
        (["--n", "0"], 2),
    ],
)
async def test_explain_refuses_what_it_cannot_answer(tmp_path, words, code):
    write_routing(tmp_path, text=RULES)
    got, out, err = await run_command(tmp_path, "explain", *words)

    assert (got, out) == (code, "")
    assert "Traceback" not in err


async def test_schema_is_a_json_schema(tmp_path):
    code, out, _err = await run_command(tmp_path, "schema")
    assert code == 0
    assert json.loads(out)["properties"]


async def test_init_writes_a_file_that_passes_check_and_does_not_overwrite(tmp_path):
    code, out, _err = await run_command(tmp_path, "init")
    assert code == 0
    assert "export OPENAI_API_KEY=..." in out

    code, _out, _err = await run_command(tmp_path, "check", "config/routing.yaml")
    assert code == 0

    code, _out, err = await run_command(tmp_path, "init")
    assert code == 1
    assert err.startswith("pointsman: config/routing.yaml exists")


async def test_simulate_prints_addresses_that_answer_and_a_dial_that_turns(tmp_path):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router", "simulate", "bfl", "openai", "--time-scale", "0.01", "--bill", "bill.jsonl"),
        cwd=tmp_path,
        env={**environment(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            urls = {}
            while len(urls) < 2:
                line = (await process.stdout.readline()).decode()
                slug, found, url = line.partition(": base_url ")
                urls |= {slug: url.strip()} if found else {}
            origin = urls["openai"].removesuffix("/v1")
            faults = {"faults": [{"kind": "overloaded"}]}
            async with session.put(f"{origin}/_simulator/faults", json=faults) as answer:
                assert answer.status == 200
            body = {"model": "gpt-image-2", "prompt": "x"}
            key = {"Authorization": "Bearer any"}
            async with session.post(f"{urls['openai']}/images/generations", json=body, headers=key) as answer:
                assert answer.status == 503
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "bill-bfl.jsonl").exists()
    assert (tmp_path / "bill-openai.jsonl").exists()


async def test_simulate_refuses_a_provider_that_it_has_not(tmp_path):
    code, out, err = await run_command(tmp_path, "simulate", "nobody")

    assert (code, out) == (2, "")
    assert "there is no simulator of 'nobody'" in err
