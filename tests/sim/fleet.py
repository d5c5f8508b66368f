"""Fake providers that keep their own bill, and the fake adapter that speaks to them.

A provider decides everything about a job when the request arrives (so a caller that crashes or hangs up changes
nothing), writes down what it charges, and then answers late, wrongly, or not at all, as its dice say. The bill is the
judge of the billing invariants; the router's own ledger is only compared with it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from router.outcome import Billed, Fail, FailureKind, fail
from router.provider import (
    Abilities,
    AdapterFacts,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Kind,
    Media,
    Missing,
    Pending,
    Polled,
    Request,
    Submitted,
    Trouble,
    Usage,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass(slots=True)
class Sale:
    """One accepted job on a provider's own books."""

    provider: str
    attempt_key: str
    remote_id: str
    at: float
    charged: int
    fate: str
    ends_at: float
    n: int = 1
    media: str = "url"
    cancelled: bool = False
    fetches: int = 0

    @property
    def task_id(self) -> str:
        """The task that it was made for."""
        return task_of(self.attempt_key)

    @property
    def images(self) -> range:
        """Which images of the task it makes."""
        return images_of(self.attempt_key, self.n)


def task_of(attempt_key: str) -> str:
    """The task in whose name a request was made."""
    return attempt_key.partition("-")[0]


def images_of(attempt_key: str, n: int) -> range:
    """Which images of its task a request for n was to make."""
    first = int(attempt_key.split("-")[1])
    return range(first, first + n)


@dataclass(frozen=True, slots=True)
class Habits:
    """What a provider is like. `faults` maps a fate to its share of requests; the rest succeed."""

    name: str
    polled: bool
    price: int
    max_n: int = 1
    idempotent: bool = False
    cancels: bool = False
    refusals_billed: bool = True
    faults: Mapping[str, float] = field(default_factory=dict)
    latency_s: tuple[float, float] = (0.5, 12.0)


FATES_BEFORE = ("unsent", "throttled", "overloaded", "server_error", "account", "bad_request", "unsupported")
FATES_PAID = ("unknown_paid", "unusable", "refused", "result_lost", "bug")
FATES_JOB = ("job_failed", "lost")


class FakeProvider:
    """The server side of one provider: requests in, answers out, a bill kept."""

    def __init__(self, habits: Habits, dice: Random, now_s: Callable[[], float]) -> None:
        """Start with an empty book."""
        self.habits = habits
        self.dice = dice
        self.now_s = now_s
        self.faulty = True
        self.storm = (0.0, 0.0)
        self.sales: dict[str, Sale] = {}
        self.by_key: dict[str, str] = {}
        self.received: list[tuple[float, str]] = []
        self.poll_glitches: dict[str, int] = {}

    def draw_fate(self) -> str:
        """Decide what becomes of a request that arrives now."""
        if not self.faulty:
            return "fine"
        if self.storm[0] <= self.now_s() < self.storm[1]:
            return "overloaded"
        point = self.dice.random()
        for fate, share in self.habits.faults.items():
            point -= share
            if point < 0:
                return fate
        return "fine"

    def latency_s(self) -> float:
        """Draw how long the answer takes."""
        low, high = self.habits.latency_s
        return low + (high - low) * self.dice.random()

    def sell(self, key: str, fate: str, n: int) -> Sale:
        """Accept a job and charge for it as its fate demands."""
        remote_id = f"{self.habits.name}-{len(self.sales) + 1}"
        if fate == "lost" and not self.habits.polled:
            fate = "fine"  # a synchronous provider has no job to lose
        free = fate == "job_failed" or (fate == "refused" and not self.habits.refusals_billed)
        if fate == "lost":
            free = self.dice.random() < 0.5
        sale = Sale(
            provider=self.habits.name,
            attempt_key=key,
            remote_id=remote_id,
            at=self.now_s(),
            charged=0 if free else n * self.habits.price,
            fate=fate,
            ends_at=self.now_s() + self.latency_s(),
            n=n,
            media="b64" if self.dice.random() < 0.3 else "url",
        )
        self.sales[remote_id] = sale
        self.by_key[key] = remote_id
        return sale

    def submit(self, body: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Take a paid request; returns when the answer comes (seconds from now) and what it says."""
        key, n = str(body["key"]), int(body["n"])
        self.received.append((self.now_s(), key))
        if self.habits.idempotent and key in self.by_key:
            known = self.sales[self.by_key[key]]
            if known.fate == "lost":
                known.fate, known.charged = "fine", known.n * self.habits.price  # it is made now, and paid for
            return self.latency_s(), self.receipt(known)
        fate = self.draw_fate()
        wait_s = self.latency_s()
        if fate in FATES_BEFORE:
            return min(wait_s, 1.0), {"fail": fate}
        if fate == "unknown_free":
            return min(wait_s, 2.0), {"broken": True}
        if fate == "unknown_paid":
            self.sell(key, "fine", n)
            return min(wait_s, 2.0), {"broken": True}
        if fate == "hang":
            self.sell(key, "fine", n)
            return 100_000.0, {"broken": True}
        sale = self.sell(key, fate, n)
        if self.habits.polled:
            return min(wait_s, 1.0), {"id": sale.remote_id}
        return max(0.0, sale.ends_at - self.now_s()), self.receipt(sale)

    def receipt(self, sale: Sale) -> dict[str, Any]:
        """Say what a finished job has come to."""
        if sale.cancelled:
            return {"fail": "cancelled", "billed": Billed.NO}
        match sale.fate:
            case "refused":
                return {"fail": "refused", "billed": Billed.YES if sale.charged else Billed.NO}
            case "job_failed":
                return {"fail": "job_failed", "billed": Billed.NO}
            case "bug":
                return {"bug": True}
            case "unusable":
                return {"b64": base64.b64encode(b"<html>not a picture</html>").decode(), "n": sale.n}
            case _ if sale.media == "b64" and sale.fate != "result_lost":
                return {"b64": base64.b64encode(PNG).decode(), "n": sale.n}
            case _:
                return {"url": f"https://results.invalid/{sale.provider}/{sale.remote_id}", "n": sale.n}

    def poll(self, remote_id: str) -> dict[str, Any]:
        """Answer a free question after a job."""
        sale = self.sales[remote_id]
        if self.faulty and self.dice.random() < 0.1:
            return {"trouble": True}
        if self.faulty and self.dice.random() < 0.05:
            return {"missing": True}
        if sale.fate == "lost":
            return {"missing": True}
        if self.now_s() < sale.ends_at and not sale.cancelled:
            whole = max(0.001, sale.ends_at - sale.at)
            return {"progress": int(100 * (self.now_s() - sale.at) / whole)}
        return self.receipt(sale)

    def cancel(self, remote_id: str) -> bool:
        """Stop a job that has not ended; a stopped job is not charged."""
        sale = self.sales[remote_id]
        if self.now_s() >= sale.ends_at:
            return False
        sale.cancelled, sale.charged = True, 0
        return True

    def total(self) -> int:
        """What this provider will ask to be paid, in nano-USD."""
        return sum(sale.charged for sale in self.sales.values())


class FakeAdapter:
    """The adapter of all fake providers; it translates the fakes' plain words into the router's."""

    def __init__(self, habits: Habits) -> None:
        """Declare what the provider is like, as data."""
        self.facts = facts_of(habits)

    async def submit(self, job: Job, call: Call) -> Submitted:
        """Make the paid request."""
        body = {"key": job.attempt_key, "prompt": job.input.get("prompt"), "n": job.n}
        reply = await call(Request("POST", f"{job.base_url}/submit", json=body))
        if isinstance(reply, Broken):
            kind = FailureKind.UNKNOWN if reply.sent else FailureKind.UNSENT
            return fail(kind, reply.detail)
        if "id" in reply.data:
            return Pending(Handle(reply.data["id"]))
        return _read(reply.data)

    async def poll(self, handle: Handle, job: Job, call: Call) -> Polled:
        """Ask after a job."""
        reply = await call(Request("GET", f"{job.base_url}/poll/{handle.remote_id}"))
        if isinstance(reply, Broken):
            return Trouble(reply.detail)
        data = reply.data
        if "trouble" in data:
            return Trouble("poll failed")
        if "missing" in data:
            return Missing("no such job")
        if "progress" in data:
            return Pending(handle, progress=data["progress"])
        return _read(data)

    async def cancel(self, handle: Handle, job: Job, call: Call) -> Fail | None:
        """Ask to stop a job."""
        reply = await call(Request("POST", f"{job.base_url}/cancel/{handle.remote_id}"))
        if isinstance(reply, Broken) or not reply.data["stopped"]:
            return None
        return fail(FailureKind.CANCELLED, "stopped on request", billed=Billed.NO)


def facts_of(habits: Habits) -> AdapterFacts:
    """What configuration would know of the fake adapter."""
    every = Abilities(kinds=frozenset({Kind.IMAGE_GENERATION}), max_n=habits.max_n)
    return AdapterFacts(
        slug=f"fake_{habits.name}",
        base_url=f"https://{habits.name}.invalid",
        abilities={"*": every},
        idempotent=habits.idempotent,
        refusals_free=not habits.refusals_billed,
        cancels=habits.cancels,
        polls_every_s=1.0,
    )


def _read(data: Mapping[str, Any]) -> Done | Fail:
    if "bug" in data:
        raise KeyError("bug")
    if "fail" in data:
        rest_s = 5.0 if data["fail"] == "throttled" else None
        return fail(FailureKind(data["fail"]), "the provider said so", billed=data.get("billed"), rest_s=rest_s)
    media = Media(b64=data["b64"]) if "b64" in data else Media(url=data["url"])
    return Done((media,) * data["n"], Usage(input_tokens=1, output_tokens=1))
