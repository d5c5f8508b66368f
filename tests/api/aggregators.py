"""The house of the aggregators' surfaces, where every kind is made, and short words for asking it."""

import base64
from dataclasses import replace

from router.geometry import Sizes
from router.provider import Abilities, Kind, Role
from tests.api.house import PNG, ruleset
from tests.waiting import poll_until

PIXAPI, EDITS, FILMS = "/v1/async/images/generations", "/v1/async/images/edits", "/v1/async/videos/generations"
WORLDROUTER = "/v1/images/generation_tasks"
DIEYUYUN = "/v1/images/generations"
BODY = {"model": "cat", "prompt": "a cat", "size": "1024x1024"}
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
ABLE = Abilities(
    kinds=frozenset({Kind.IMAGE_GENERATION, Kind.IMAGE_EDIT, Kind.VIDEO_GENERATION, Kind.CHAT_COMPLETION}),
    fields=frozenset({"prompt", "n", "size", "quality", "response_format", "user", "seconds", "output_format"}),
    sizes=Sizes(named=frozenset({"auto", "1024x1024"})),
    max_n=10,
    max_images=2,
    roles=frozenset({Role.MASK, Role.FIRST_FRAME}),
)


def able(**changes):
    """The rules of a house whose targets make everything, a model for each family."""
    rules = ruleset(**changes)
    rule = rules.models["cat"].otherwise
    rule = replace(rule, targets=tuple(replace(one, abilities=ABLE) for one in rule.targets))
    models = {"cat": "image", "film": "video", "talk": "chat"}
    return replace(
        rules, models={name: replace(rules.models["cat"], name=name, family=family, otherwise=rule)
                       for name, family in models.items()}
    )  # fmt: skip


async def post(house, path, body=None, **more):
    reply = await house.client.post(path, json=body, **more)
    return reply.status, await reply.json()


async def get(house, path):
    reply = await house.client.get(path)
    return reply.status, await reply.json()


async def rows(house):
    """Every task that there is, natively."""
    return (await get(house, "/v1/tasks"))[1]["data"]


async def submitted(house, path, body=BODY):
    status, task = await post(house, path, body)
    assert status == 200, task
    return task


async def over(house, path):
    """Read until the task has come to something."""

    async def read():
        status, body = await get(house, path)
        live = status == 202 or body.get("status") in {"pending", "queued", "submitted", "running", "processing"}
        return None if live or body.get("status") == "in_progress" else (status, body)

    return await poll_until(read, "the task to end")
