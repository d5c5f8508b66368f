"""The replies of a seller in the OpenAI Images dialect: the JSON body of an order that was carried out.

Pure: an order, its terms and finished pictures in, a body out; spoilt as a fault says. It knows no socket and no
bill.
Source: the provider file of the OpenAI images API, section 4; of APIYI, section 4.
"""

import base64
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from typing import Any

from providers.simulated.faults import FaultKind
from providers.simulated.gallery import NOT_A_PICTURE
from providers.simulated.image_order import Order
from providers.simulated.image_usage import Usage
from providers.simulated.picture import Picture

GARBAGE = "!!! this is not base64 !!!"


class Delivery(Enum):
    """The form in which a picture is handed over."""

    B64 = auto()
    DATA_URL = auto()  # b64_json with the prefix `data:image/png;base64,`
    LINK = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a seller says to one order. price_usd: of the whole order; refusal_usd: if it is refused; latency_s:
    unscaled.
    """

    price_usd: Decimal
    refusal_usd: Decimal
    latency_s: float
    delivery: Delivery
    usage: Usage | None


def write_body(
    order: Order, terms: Terms, created_s: int, *, made: list[bytes], links: list[str], kind: FaultKind | None
) -> dict[str, Any]:
    """The body of a 200. made (bytes) or links: one per picture, whichever the terms' delivery asks for."""
    body: dict[str, Any] = {"created": created_s}
    if terms.usage is not None:
        body |= describe_output(order)
    if kind is FaultKind.EMPTY_DATA:
        body["data"] = []
    elif terms.delivery is Delivery.LINK:
        body["data"] = [{"url": link} for link in links]
    else:
        prefix = f"data:image/{order.format};base64," if terms.delivery is Delivery.DATA_URL else ""
        body["data"] = [{"b64_json": prefix + encode(picture, kind)} for picture in made]
    if order.model.startswith("dall-e-3"):
        body["data"] = [item | {"revised_prompt": order.prompt} for item in body["data"]]
    if terms.usage is not None:
        body["usage"] = terms.usage.as_json()
    return body


def describe_output(order: Order) -> dict[str, Any]:
    """The fields of a reply, and of a stream's event, that say what was made."""
    return {
        "background": "transparent" if order.transparent else "opaque",
        "output_format": order.format,
        "quality": order.quality,
        "size": f"{order.width}x{order.height}",
    }


def draw_up(order: Order, index: int) -> Picture:
    """The picture that an order gets as its `index`-th."""
    return Picture(
        prompt=order.prompt,
        width=order.width,
        height=order.height,
        format=order.format,
        index=index,
        caption=f"{order.model}  {order.width}x{order.height}  {index + 1} of {order.n}",
        transparent=order.transparent,
    )


def encode(picture: bytes, kind: FaultKind | None) -> str:
    """A picture as base64, spoilt as the fault says."""
    if kind is FaultKind.GARBAGE_BASE64:
        return GARBAGE
    return base64.b64encode(NOT_A_PICTURE if kind is FaultKind.WRONG_MAGIC else picture).decode()
