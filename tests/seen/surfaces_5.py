"""surfaces.5: an isolation sweep made from the OpenAPI document: what is somebody else's is as unknown as nothing.

Every operation with an id in its path is called by one tenant with the ids of another's objects and with random ids, in
every spelling; the answers must be alike in status, headers and body, but for the id itself and the request's.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
from yarl import URL

from providers import simulated
from tests.documented import OPERATIONS, resolve
from tests.seen.stage import Findings, all_ended, staged

ADMIN_KEY = "an-admin-key-for-the-sweep"
CONFIG = """
version: 1
providers:
  pictures: {{adapter: openai, base_url: "{openai}", api_key: "sk-simulated-pictures"}}
  films: {{adapter: ark, base_url: "{ark}", api_key: "simulated-films"}}
models:
  picture: {{kind: image, targets: [{{provider: pictures, model: gpt-image-2}}]}}
  film: {{kind: video, targets: [{{provider: films, model: doubao-seedance-1-0-pro-250528}}]}}
  late: {{kind: image, targets: [{{provider: pictures, model: gpt-image-2}}]}}
"""
OWN = {"x-request-id", "date", "content-length"}  # headers that differ from answer to answer
IDS = ("id", "task")  # the names of ids of objects in paths
SPELLINGS = ("task_", "imgtask_", "video_")
EXPECTED = {404, 403}  # 403 where no key of a tenant may go: operators' routes, files without a signature


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be compared of an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


async def show(*, short: bool = False) -> int:
    """Make objects of one tenant, and ask for them as another."""
    findings = Findings()
    quick = {"time_scale": 0.01, "latency_s": 0.2}
    async with (
        simulated.start("openai", options=simulated.Options(**quick)) as openai,
        simulated.start("ark", options=simulated.Options(**quick)) as ark,
        staged(
            CONFIG.format(openai=openai.base_url, ark=ark.base_url),
            POINTSMAN_AUTH="required",
            POINTSMAN_ADMIN_KEY=ADMIN_KEY,
        ) as stage,
    ):
        owner, owner_id = await make_key(stage.url, "owner")
        stranger, _stranger_id = await make_key(stage.url, "stranger")
        async with session(owner) as mine, session(stranger) as others, session(ADMIN_KEY) as operator:
            objects = await make_objects(mine, stage.url, 1 if short else 5)
            findings.show("objects of the owner", len(objects))
            seen = await own_sight(mine, stage.url, objects)
            findings.show("  which the owner sees", seen)
            findings.expect(seen == len(objects), "the owner sees every object")
            messages = await list_webhooks(operator, stage.url)
            await sweep(findings, others, stage.url, [*objects, owner_id, *messages])
            await listings(findings, others, stage.url, objects)
    return findings.verdict()


# -- what there is ----------------------------------------------------------------------------------------------------


def session(key: str) -> aiohttp.ClientSession:
    """A client with a key."""
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"})


async def make_key(url: str, tenant: str) -> tuple[str, str]:
    """Make an API key of a tenant; returns the secret and its id."""
    async with session(ADMIN_KEY) as client, client.post(f"{url}/admin/v1/keys", json={"tenant": tenant}) as reply:
        body = await reply.json()
        assert reply.status == 201, body
        return body["key"], body["id"]


async def make_objects(client: aiohttp.ClientSession, url: str, each: int) -> list[str]:
    """Make tasks of every surface, ended and live, with an idempotency key and a callback; returns their ids."""
    made: list[str] = []
    wishes: list[tuple[str, Mapping[str, Any]]] = [
        ("/v1/tasks", {"kind": "image.generation", "model": "picture", "input": {"prompt": "mine"}}),
        ("/v1/tasks", {"kind": "video.generation", "model": "film", "input": {"prompt": "mine", "seconds": 5}}),
        ("/v1/images/generations", {"model": "picture", "prompt": "mine"}),
        ("/v1/images/generations", {"model": "picture", "prompt": "mine", "async": True}),
        ("/v1/images/generation_tasks", {"model": "picture", "prompt": "mine"}),
        ("/v1/async/images/generations", {"model": "picture", "prompt": "mine"}),
        ("/v1/videos", {"model": "film", "prompt": "mine", "seconds": "5"}),
    ]
    for number in range(each):
        for at, (path, body) in enumerate(wishes):
            told = {**body, "callback_url": f"{url}/nowhere"}
            headers = {"Idempotency-Key": f"mine-{number}-{at}"}
            async with client.post(url + path, json=told, headers=headers) as reply:
                assert reply.status in {200, 202}, await reply.text()
                made.append(reply.headers["X-Task-Id"])
    await all_ended(client, url, made)
    return made


async def own_sight(client: aiohttp.ClientSession, url: str, objects: list[str]) -> int:
    """How many of its objects the owner sees."""
    seen = 0
    for one in objects:
        async with client.get(f"{url}/v1/tasks/{one}") as reply:
            seen += reply.status == 200
    return seen


async def list_webhooks(client: aiohttp.ClientSession, url: str) -> list[str]:
    """The ids of webhooks that were asked for."""
    async with client.get(f"{url}/admin/v1/webhooks", params={"limit": "5"}) as reply:
        body = await reply.json()
        assert reply.status == 200, body
        return [one["id"] for one in body["data"]]


# -- the sweep --------------------------------------------------------------------------------------------------------


async def sweep(findings: Findings, client: aiohttp.ClientSession, url: str, objects: list[str]) -> None:
    """Call every operation with an id in its path."""
    operations = [
        (method, path)
        for method, path in OPERATIONS
        if any(f"{{{name}}}" in path for name in IDS) and "models" not in path
    ]
    asked, statuses, unlike = 0, Counter[int](), []
    for method, path in operations:
        for one in objects:
            for known, random in spell(one, asked):
                found = await ask(client, url, method, path, known)
                nothing = await ask(client, url, method, path, random)
                asked += 1
                statuses[found.status] += 1
                if found != nothing or found.status not in EXPECTED:
                    unlike.append(f"{method.upper()} {path}: {found} but of a random id {nothing}")
    findings.show("operations with an id in the path", len(operations))
    findings.show("pairs of calls, a stranger's id and a random one", asked)
    for status, count in sorted(statuses.items()):
        findings.show(f"  both answered {status}", count)
    for line in unlike[:5]:
        print(line, flush=True)
    findings.expect(not unlike, f"{len(unlike)} answers tell a stranger's id from a random one")
    findings.expect(statuses[404] > 0, "what belongs to somebody else is not found")


def spell(one: str, number: int) -> list[tuple[str, str]]:
    """Each spelling of an id, with a random id spelled alike."""
    prefix, _, digits = one.partition("_")
    random = UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128)).hex
    if prefix != "task":
        return [(one, f"{prefix}_{random[: len(digits)]}")]
    return [(spelling + digits, spelling + random) for spelling in SPELLINGS]


async def ask(client: aiohttp.ClientSession, url: str, method: str, path: str, object_id: str) -> Answer:
    """Call an operation with an id and otherwise with the document's examples."""
    operation = OPERATIONS[method, path]
    for said in operation.get("parameters", ()):
        one = resolve(said)
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", object_id if one["name"] in IDS else str(one["example"]))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    async with (
        asyncio.timeout(60),
        client.request(method, URL(url + path, encoded=True), json=body, allow_redirects=False) as reply,
    ):
        text = await reply.text()
        headers = tuple(sorted((name, value) for name, value in reply.headers.items() if name.lower() not in OWN))
        hidden = re.sub(r"req_[0-9a-f]{32}", "(request)", text.replace(object_id, "(id)"))
        return Answer(reply.status, headers, hidden)


async def listings(findings: Findings, client: aiohttp.ClientSession, url: str, objects: list[str]) -> None:
    """What lists, searches and follows by an id or a key must not tell either."""
    listed = 0
    for path in ("/v1/tasks", "/v1/tasks?idempotency_key=mine-0-0", "/v1/videos", "/v1/usage"):
        async with client.get(URL(url + path, encoded=True)) as reply:
            listed += len((await reply.json())["data"])
    findings.show("objects that a stranger's listings show", listed)
    findings.expect(listed == 0, "a stranger's listings are empty")
    after = [await raw(client, f"{url}/v1/videos?after={one}") for one in (objects[-1], spell(objects[-1], 0)[0][1])]
    findings.expect(after[0] == after[1], "a page after a stranger's film is one after a random film")
    async with client.post(
        f"{url}/v1/tasks",
        json={"kind": "image.generation", "model": "picture", "input": {"prompt": "another"}},
        headers={"Idempotency-Key": "mine-0-0"},
    ) as reply:
        body = await reply.json()
        findings.expect(reply.status == 202 and body["id"] not in objects, "a stranger's idempotency key is free")


async def raw(client: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """Status and body of a read, without the request's id and whatever was asked for."""
    async with client.get(url) as reply:
        text = json.dumps(await reply.json())
        return reply.status, re.sub(r"(req|task|video)_[0-9a-f]{32}", "(id)", text)
