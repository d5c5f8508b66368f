"""A daemon for clients that are not ours: pictures, films and chat at simulated providers, one of them out of order.

`python -m tests.shop` prints one line of JSON (`base_url`, `key`, `daemon`, `providers`: the origins of the simulators)
and serves until its standard input ends. The SDK tests of every language start it; none of them knows our code.
"""

import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from providers import simulated
from providers.simulated import Fault, FaultKind, Options
from tests.daemons import ADMIN_KEY, running_daemon

TIME_SCALE = 0.01
ROUTING = """\
version: 1
defaults: {{sync_wait: 20s}}
default_model: {{image: gpt-image-2, video: veo-3, chat: gpt-5-mini}}
aliases: {{dall-e-3: gpt-image-2}}
providers:
  broken: {{adapter: openai, base_url: "{broken}", api_key: "sk-simulated-broken"}}
  openai: {{adapter: openai, base_url: "{openai}", api_key: "sk-simulated-openai"}}
  apiyi: {{adapter: apiyi, base_url: "{apiyi}", api_key: "sk-simulated-apiyi"}}
models:
  gpt-image-2:
    kind: image
    targets:
      - {{provider: broken, model: gpt-image-2, price: {{image: {{default: 0.02}}}}}}
      - {{provider: openai, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}
  plain-image:
    kind: image
    targets: [{{provider: apiyi, model: gpt-image-2, price: {{image: {{default: 0.03}}}}}}]
  veo-3:
    kind: video
    targets: [{{provider: apiyi, model: veo-3.1-fast, price: {{request: 0.25}}}}]
  gpt-5-mini:
    kind: chat
    targets:
      - {{provider: broken, model: gpt-5-mini, price: {{tokens: {{input: 0.25, output: 2}}}}}}
      - {{provider: openai, model: gpt-5-mini, price: {{tokens: {{input: 0.25, output: 2}}}}}}
"""


async def serve() -> None:
    """Run until standard input ends."""
    async with AsyncExitStack() as stack:
        options = Options(latency_s=1.0, time_scale=TIME_SCALE)
        out_of_order = Options(latency_s=0.0, time_scale=TIME_SCALE, faults=(Fault(kind=FaultKind.OVERLOADED),))
        running = {
            "broken": await stack.enter_async_context(simulated.start("openai", options=out_of_order)),
            "openai": await stack.enter_async_context(simulated.start("openai", options=options)),
            "apiyi": await stack.enter_async_context(simulated.start("apiyi", options=options)),
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-shop-")))
        addresses = {name: one.base_url for name, one in running.items()}
        (folder / "routing.yaml").write_text(ROUTING.format(**addresses), encoding="utf-8")
        daemon = await stack.enter_async_context(running_daemon(folder, time_scale=TIME_SCALE))
        origins = {name: one.origin for name, one in running.items()}
        told = {"base_url": f"{daemon.url}/v1", "key": ADMIN_KEY, "daemon": daemon.url, "providers": origins}
        print(json.dumps(told), flush=True)  # noqa: T201 - this line is what whoever started it waits for
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
