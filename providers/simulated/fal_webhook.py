"""The webhooks of fal: what is posted when a request has ended, and the Ed25519 signature that goes with it.

It knows the form of an event and the keys, not the jobs; the post itself is the courier's, who goes to the loopback
only. Each delivery is signed anew, because the receiver takes a timestamp for 300 seconds.
Source: the provider file of fal, section 4.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from providers.simulated.courier import Courier, Parcel
from providers.simulated.workshop import Workshop

JWKS_PATH: Final = "/.well-known/jwks.json"
ANSWER_S: Final = 15.0
"""How long the receiver may take to answer."""
PAUSES_S: Final = tuple(14.0 * 2**number for number in range(9))
"""Before the 9 further tries: 10 in all, over two hours. The file does not tell how they are spread."""


class Signer:
    """The signing keys of one account, made from the seed. Two are published, and the newer one, which signs, comes
    last: a receiver has to try each.
    """

    def __init__(self, seed: int) -> None:
        earlier, current, foreign = (
            Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"fal/{seed}/{name}".encode()).digest())
            for name in ("earlier", "current", "foreign")
        )
        self.user_id = str(uuid.UUID(bytes=hashlib.sha256(f"fal/{seed}/user".encode()).digest()[:16], version=4))
        self._published = (earlier, current)
        self._current = current
        self._foreign = foreign

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 8037)."""
        raw = [base64.urlsafe_b64encode(key.public_key().public_bytes_raw()) for key in self._published]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": text.decode().rstrip("=")} for text in raw]}

    def sign(self, request_id: str, body: bytes, at_s: int, *, forged: bool = False) -> Mapping[str, str]:
        """The headers of one delivery at `at_s` seconds since the epoch. forged: by a key that nobody published."""
        timestamp = str(at_s)
        message = "\n".join((request_id, self.user_id, timestamp, hashlib.sha256(body).hexdigest()))
        key = self._foreign if forged else self._current
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": self.user_id,
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": key.sign(message.encode()).hex(),
        }


class Post:
    """Sends events to the addresses of `fal_webhook`. forged: with a wrong signature; copies: how often each arrives;
    age_s: how many seconds old its timestamp is.
    """

    def __init__(self, workshop: Workshop, signer: Signer, *, forged: bool, copies: int, age_s: int) -> None:
        self.courier = Courier(workshop)
        self._workshop = workshop
        self._signer = signer
        self._forged = forged
        self._copies = copies
        self._age_s = age_s

    def send(self, url: str, event: Mapping[str, Any]) -> None:
        """Post one event, in the background, until it is taken or the tries are used up."""
        body, request_id = json.dumps(event).encode(), str(event["request_id"])

        def stamp() -> Mapping[str, str]:
            at_s = self._workshop.options.now_ms() // 1000 - self._age_s
            return self._signer.sign(request_id, body, at_s, forged=self._forged)

        headers = {"Content-Type": "application/json"}
        self.courier.send(Parcel(url, headers, body, PAUSES_S, self._copies, stamp, ANSWER_S))


def tell_success(request_id: str, payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """The event of a request that made something. None: an output that could not be serialised."""
    event: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id, "status": "OK"}
    if payload is None:
        return event | {"payload": None, "payload_error": "The output could not be serialized to JSON"}
    return event | {"payload": dict(payload)}


def tell_failure(request_id: str, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a request that failed, with the body that its result answers."""
    event: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id, "status": "ERROR"}
    return event | {"error": f"Unexpected status code: {status}", "payload": dict(body)}
