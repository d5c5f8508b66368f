"""A caller of fal's queue over plain HTTP, for the tests of its simulator: submit, ask, fetch, and read the bill."""

from decimal import Decimal
from typing import Any

from providers.simulated import What
from tests.waiting import poll_until

CAT = {"prompt": "a cat", "image_size": {"width": 128, "height": 64}}
FLUX = "fal-ai/flux/dev"


async def submit(http, upstream, body=CAT, endpoint=FLUX, **more) -> tuple[int, Any]:
    async with http.post(f"{upstream.base_url}/{endpoint}", json=body, **more) as answer:
        return answer.status, await answer.json()


async def fetch(http, url) -> tuple[int, Any, Any]:
    async with http.get(url) as answer:
        return answer.status, await answer.json(), answer.headers


async def finish(http, accepted) -> dict[str, Any]:
    async def completed() -> dict[str, Any] | None:
        _, body, _ = await fetch(http, accepted["status_url"])
        return body if body.get("status") == "COMPLETED" else None

    return await poll_until(completed, "the request to end")


async def produce(http, upstream, body=CAT, endpoint=FLUX, **more) -> tuple[int, Any, Any]:
    _, accepted = await submit(http, upstream, body, endpoint, **more)
    await finish(http, accepted)
    return await fetch(http, accepted["response_url"])


def read_bill(upstream) -> list[tuple[What, Decimal]]:
    return [(entry.what, entry.amount_usd) for entry in upstream.bill.entries]
