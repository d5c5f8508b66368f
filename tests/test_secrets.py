"""No secret of the configuration, of ours or in an upstream's echo leaves the process by log, page, error or database.

Each secret is unique and looks like nothing in particular, so that only knowing it can keep it out; providers answer
with errors that repeat the key they were sent, as real ones do.
"""

import asyncio
import json
import re

import aiohttp

from tests.daemons import running_daemon, write_routing
from tests.loopback import http, serve
from tests.waiting import poll_until

SECRETS = {
    "provider a": "zq7canary0provider0a",
    "provider b, first": "zq7canary0provider0b1",
    "provider b, second": "zq7canary0provider0b2",
    "provider c": "zq7canary0provider0c0old",
    "provider c, after a reload": "zq7canary0provider0c0new",
    "admin": "zq7canary0admin0key0of0ours",
    "signing": "zq7canary0signing0secret",
    "a caller's wrong key": "zq7canary0wrong0key0of0a0caller",
}
CANARY = "zq7canary"
RULES = f"""\
version: 1
providers:
  a: {{{{adapter: openai, base_url: "{{a}}/v1", api_key: "{SECRETS["provider a"]}"}}}}
  b:
    adapter: apiyi
    base_url: "{{a}}"
    api_keys: ["{SECRETS["provider b, first"]}", "{SECRETS["provider b, second"]}"]
  c: {{{{adapter: bfl, base_url: "{{a}}", api_key: "{SECRETS["provider c"]}"}}}}
models:
  m:
    kind: image
    targets:
      - {{{{provider: a, model: gpt-image-2, price: {{{{image: {{{{default: 0.03}}}}}}}}}}}}
      - {{{{provider: b, model: gpt-image-2, price: {{{{image: {{{{default: 0.03}}}}}}}}}}}}
      - {{{{provider: c, model: flux-pro-1.1, price: {{{{image: {{{{default: 0.03}}}}}}}}}}}}
"""
STATUSES = ("401 Unauthorized", "400 Bad Request", "500 Internal Server Error", "503 Service Unavailable")
PAGES = ("/metrics", "/readyz", "/healthz", "/v1/models", "/v1/tasks", "/admin/v1/config", "/admin/v1/providers")


class Upstream:
    """Answers every call with the next status and an error that repeats the credential and the whole request."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, request, writer):
        status = STATUSES[self.calls % len(STATUSES)]
        self.calls += 1
        keys = re.findall(rb"(?i)(?:authorization|x-key): ([^\r\n]+)", request)
        words = f"Incorrect API key provided: {[key.decode() for key in keys]}. You sent {request[:400]!r}"
        body = json.dumps({"error": {"message": words, "code": words, "type": words, "param": None}, "detail": words})
        echo = f"x-request-id: {keys[-1].decode()}\r\n" if keys else ""
        writer.write(http(body.encode(), status=status, headers=echo))
        await writer.drain()


async def test_no_secret_is_in_the_log_on_a_page_in_an_error_or_in_the_database(tmp_path):
    upstream, said = Upstream(), []
    async with serve(upstream) as vendor:
        write_routing(tmp_path, vendor.url, text=RULES)
        ours = {"admin_key": SECRETS["admin"], "signing_secret": SECRETS["signing"], "log_level": "debug"}
        async with running_daemon(tmp_path, **ours) as daemon, aiohttp.ClientSession(daemon.url) as session:

            async def ask(method, path, key=SECRETS["admin"], **more):
                async with session.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more) as answer:
                    said.append((f"{method} {path}", f"{answer.headers} {await answer.text()}"))
                    return answer

            async def fail(number):
                body = {"model": "m", "prompt": f"a cat {number}", "timeout": 2}
                await ask("POST", "/v1/images/generations", json=body)

            for number in range(4):
                await fail(number)
            changed = RULES.replace(SECRETS["provider c"], SECRETS["provider c, after a reload"])
            write_routing(tmp_path, vendor.url, text=changed)
            await ask("POST", "/admin/v1/config/reload")
            await asyncio.gather(*(fail(number) for number in range(4, 12)))
            await ask("GET", "/v1/models", key=SECRETS["a caller's wrong key"])
            await ask("POST", "/admin/v1/config/check", data=changed.replace("adapter: bfl", "adapter: nobody"))
            write_routing(tmp_path, vendor.url, text=changed.replace("adapter: bfl", "adapter: nobody"))
            await ask("POST", "/admin/v1/config/reload")
            for page in PAGES:
                await ask("GET", page)
            for _name, text in tuple(said):
                for task_id in set(re.findall(r"task_[0-9a-f]{32}", text)):
                    await ask("GET", f"/v1/tasks/{task_id}")
            await poll_until(lambda: [one for one in daemon.lines() if one["event"] == "task.failed"], "a failure")
        lines = daemon.lines()
    assert upstream.calls >= 6
    leaks = [(where, text) for where, text in said if CANARY in text]
    leaks += [("log", line) for line in lines if CANARY in json.dumps(line)]
    leaks += [(path.name, "") for path in (tmp_path / "data").rglob("*") if path.is_file() and leaked(path)]
    assert leaks == []


def leaked(path):
    """Whether a file of the data directory holds a canary."""
    return CANARY.encode() in path.read_bytes()


async def test_the_admin_key_that_a_first_start_makes_is_in_its_own_file_only(tmp_path):
    write_routing(tmp_path)
    async with running_daemon(tmp_path, admin_key=None, log_level="debug") as daemon:
        key = (tmp_path / "data" / "admin-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(daemon.url, headers=headers) as session,
            session.get("/admin/v1/config") as seen,
        ):
            assert seen.status == 200
            page = await seen.text()
    assert key not in page + json.dumps(daemon.lines())
    others = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != "admin-key"]
    assert others
    assert [path.name for path in others if key.encode() in path.read_bytes()] == []
