"""The webhooks of the simulated Replicate: which events a prediction sends, and how they are signed.

It is told of stages and describes nothing itself: the body is what a poll would answer at that moment. Delivery is the
courier's.
Source: the provider file of Replicate, section 3, and the SDK's `webhook.py`, which checks the signature.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from providers.simulated.courier import Courier, Parcel
from providers.simulated.job_desk import Job, Stage
from providers.simulated.workshop import Workshop

COMPLETED_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 29.0)
"""Back-off of the event `completed`: about a minute. Other events are sent once."""
FORGED_SECRET = "whsec_Zm9yZ2Vk"  # noqa: S105 - it is public on purpose
_EVENTS: Mapping[Stage, tuple[str, ...]] = {
    Stage.RUNNING: ("start", "logs"),
    Stage.SUCCEEDED: ("output", "completed"),
    Stage.REFUSED: ("completed",),
    Stage.FAILED: ("completed",),
    Stage.CANCELLED: ("completed",),
}


class Webhooks:
    """The events of one account. Its jobs carry `webhook` and `events` among what was asked."""

    def __init__(
        self,
        workshop: Workshop,
        describe: Callable[[Job], dict[str, Any]],
        *,
        secret: str | None,
        forged: bool,
        copies: int,
    ) -> None:
        """secret: `whsec_` and base64, None for one made of the seed; forged: sign with another; copies: how often each
        event is delivered.
        """
        seeded = hashlib.sha256(f"webhooks/{workshop.slug}/{workshop.options.seed}".encode()).digest()[:24]
        self.secret = secret or "whsec_" + base64.b64encode(seeded).decode()
        self._workshop = workshop
        self._describe = describe
        self._forged = forged
        self._copies = copies
        self._courier = Courier(workshop)
        self._sent = 0

    def tell(self, job: Job) -> None:
        """Send what the new stage of a job means to its webhook."""
        if job.order.asked["webhook"] is None:
            return
        for event in _EVENTS.get(job.stage, ()):
            if event in job.order.asked["events"]:
                self._send(job, event)

    def _send(self, job: Job, event: str) -> None:
        self._sent += 1
        body = json.dumps(self._describe(job)).encode()
        event_id = f"msg_{hashlib.sha256(f'{self.secret}/{self._sent}'.encode()).hexdigest()[:27]}"
        at_s = self._workshop.options.now_ms() // 1000
        headers = sign_webhook(FORGED_SECRET if self._forged else self.secret, event_id, at_s, body)
        pauses_s = COMPLETED_PAUSES_S if event == "completed" else ()
        self._courier.send(Parcel(job.order.asked["webhook"], headers, body, pauses_s, self._copies))


def sign_webhook(secret: str, event_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The headers of one event: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`, keyed with the base64 behind
    `whsec_`.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{event_id}.{at_s}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
