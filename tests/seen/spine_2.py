"""spine.2: the unmodified OpenAI SDK, three simulators, the first always answering 503: 100 of 100 calls succeed.

The breaker opens, and the failing target then sees only probes.
"""

from __future__ import annotations

import asyncio
import base64
import math
import time

import aiohttp
import openai

from providers import simulated
from providers.simulated.faults import Fault, FaultKind
from tests.seen.stage import Findings, staged

OPEN_FOR_S = 2.0
CONSECUTIVE = 3
AT_ONCE = 8

CONFIG = """
version: 1
providers:
  first:
    {{adapter: openai, base_url: "{first}", api_key: "sk-simulated-first",
      breaker: {{consecutive_failures: 3, open_for: 2s, open_max: 2s}}}}
  second: {{adapter: apiyi, base_url: "{second}", api_key: "sk-simulated-second"}}
  third:  {{adapter: bfl, base_url: "{third}", api_key: "simulated-third"}}
models:
  gpt-image-2:
    kind: image
    targets:
      - {{provider: first, model: gpt-image-2, price: {{image: {{default: 0.01}}}}}}
      - {{provider: second, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
      - {{provider: third, model: flux-pro-1.1, price: {{image: {{default: 0.04}}}}}}
    retry: {{backoff: {{first: 50ms, max: 200ms}}}}
"""


async def show(*, short: bool = False) -> int:
    """Make the calls and look at the failing target's own log."""
    findings, calls = Findings(), 20 if short else 100
    options = simulated.Options(time_scale=0.01, latency_s=10.0)
    async with (
        simulated.start("openai", options=options) as first,
        simulated.start("apiyi", options=options) as second,
        simulated.start("bfl", options=options) as third,
    ):
        first.dial.set(Fault(kind=FaultKind.OVERLOADED))
        config = CONFIG.format(first=first.base_url, second=second.base_url, third=third.base_url)
        async with staged(config) as stage, openai.AsyncOpenAI(api_key="sk-any", base_url=f"{stage.url}/v1") as client:
            began = time.monotonic()
            good = await call_all(client, calls)
            took_s = time.monotonic() - began
            state = await read_circuit(stage.url)
            models = [model.id async for model in client.models.list()]
        probes = math.ceil(took_s / OPEN_FOR_S) + 1
        seen = first.requests.total
    findings.show("calls that succeeded", f"{good} of {calls}")
    findings.show("seconds", f"{took_s:.1f}")
    findings.show("requests seen by the failing target", f"{seen} (at most {CONSECUTIVE + AT_ONCE + probes})")
    findings.show("circuit_state of the failing target (2 is open, 1 half-open)", state)
    findings.show(
        "billed by the others",
        f"{second.bill.total + third.bill.total} USD for {second.bill.billed + third.bill.billed}",
    )
    findings.expect(good == calls, "every call succeeds")
    findings.expect(state in {1.0, 2.0}, "the breaker of the failing target is open or probing")
    findings.expect(seen <= CONSECUTIVE + AT_ONCE + probes, "an open target sees only probes")
    findings.expect(first.bill.billed == 0, "the failing target bills nothing")
    findings.expect(second.bill.billed + third.bill.billed == calls, "each picture is paid once")
    findings.expect("gpt-image-2" in models, "the SDK lists the model")
    return findings.verdict()


async def call_all(client: openai.AsyncOpenAI, calls: int) -> int:
    """Make the calls, eight at once, half for base64 and half for a link; returns how many gave a real picture."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> bool:
        async with gate:
            form = "b64_json" if number % 2 else "url"
            reply = await client.images.generate(
                model="gpt-image-2", prompt=f"sight {number}", size="1024x1024", response_format=form
            )
            assert reply.data is not None
            image = reply.data[0]
            content = base64.b64decode(image.b64_json) if image.b64_json else await fetch(str(image.url))
            return content[:8] == b"\x89PNG\r\n\x1a\n" or content[:3] == b"\xff\xd8\xff"

    return sum(await asyncio.gather(*(one(number) for number in range(calls))))


async def fetch(url: str) -> bytes:
    """Follow a result link, without any key."""
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.read()


async def read_circuit(url: str) -> float | None:
    """Read the failing target's gauge from /metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    found = [line for line in lines if line.startswith("pointsman_circuit_state{") and 'provider="first"' in line]
    return float(found[0].rpartition(" ")[2]) if found else None
