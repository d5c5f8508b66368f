"""A provider of films for the API tests: jobs with names of their own that are polled, and can be made anew.

`Studio` is a `Desk` whose work takes a while: a job has its name at once, and its film when the desk is open.
"""

import base64
from dataclasses import dataclass, field, replace

from router.provider import Abilities, AdapterFacts, Done, Handle, Job, Kind, Media, Pending, Role
from tests.api.house import Desk, open_house, ruleset
from tests.waiting import poll_until

FILM = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(range(256)) * 8
ABLE = Abilities(
    kinds=frozenset({Kind.VIDEO_GENERATION}),
    roles=frozenset({Role.FIRST_FRAME}),
    seconds=frozenset({4, 8}),
    remixes=True,
)
FACTS = AdapterFacts(slug="desk", base_url="https://desk.invalid", abilities={"*": ABLE}, polls_every_s=0.01)
ORDER = {"model": "film", "prompt": "a red fox runs", "seconds": "8", "size": "1280x720"}
LIVE = {"queued", "in_progress"}


@dataclass(slots=True)
class Studio(Desk):
    """A provider of films: a job has a name at once, and its film when the desk is open."""

    facts: AdapterFacts = FACTS
    jobs: list[Job] = field(default_factory=list)

    async def submit(self, job, call):
        self.jobs.append(job)
        return self.answers.pop(0) if self.answers else Pending(Handle(f"film-{len(self.jobs)}"))

    async def poll(self, handle, job, call):
        if not self.open.is_set():
            return Pending(handle, progress=40)
        return Done((Media(b64=base64.b64encode(FILM).decode()),))

    async def cancel(self, handle, job, call):
        return None


def rules(able=ABLE, **changes):
    """A model `film` on two targets of a studio, and `cat` for pictures."""
    plain = ruleset()
    otherwise = plain.models["film"].otherwise
    targets = tuple(replace(one, model="upstream-film", abilities=able) for one in otherwise.targets)
    providers = {name: replace(one, adapter=FACTS) for name, one in plain.providers.items()}
    film = replace(plain.models["film"], otherwise=replace(otherwise, targets=targets))
    return replace(plain, models={**plain.models, "film": film}, providers=providers, **changes)


def studio_house(studio=None, **more):
    return open_house(more.pop("rules", None) or rules(), desk=studio or Studio(), **more)


async def order(house, body=ORDER, path="/v1/videos", **more):
    """Order a film; returns the reply, which has been read."""
    reply = await house.client.post(path, json=body, **more)
    await reply.read()
    return reply


async def read(house, video_id):
    reply = await house.client.get(f"/v1/videos/{video_id}")
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def ended(house, video_id):
    """Wait until a film has ended."""

    async def look():
        video = await read(house, video_id)
        return video if video["status"] not in LIVE else None

    return await poll_until(look, f"the end of {video_id}")


async def made(house, body=ORDER, **more):
    """Order a film and wait for its end."""
    return await ended(house, (await (await order(house, body, **more)).json())["id"])


async def error_of(reply):
    return (reply.status, (error := (await reply.json())["error"])["error_type"], error["code"], error["param"])
