"""Result links of a simulated provider: signed, expiring, no key needed, bytes drawn when they are fetched.

It serves pictures and films by name and knows neither who made them nor what they cost. A link names a work, the
instant at which it expires and a signature over both, as the vendors' storage links do. Faults of the step `result`
strike here.
"""

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass

from aiohttp import web

from providers.simulated import mischief
from providers.simulated.faults import FaultKind, Step
from providers.simulated.film import Film, PyAVMissingError
from providers.simulated.picture import Picture
from providers.simulated.workshop import Workshop

PICTURES_KEPT = 20_000
"""Links that one simulator remembers; an older one answers 404."""
NOT_A_PICTURE = b"This is not a picture. " * 8

RESULT_FAULTS = frozenset(
    {
        FaultKind.OVERLOADED,
        FaultKind.SERVER_ERROR,
        FaultKind.BAD_GATEWAY,
        FaultKind.EXPIRED,
        FaultKind.SLOW,
        FaultKind.HANG,
        FaultKind.DROP,
        FaultKind.HTML,
        FaultKind.WRONG_MAGIC,
        FaultKind.TRUNCATED,
        FaultKind.ENDLESS,
        FaultKind.FLOOD,
    }
)
"""What can go wrong at the download of a result."""

_EXPIRED = "<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Signature not valid</Message></Error>"


@dataclass(frozen=True, slots=True)
class _Hung:
    work: Picture | Film
    model: str
    spoilt: bool


class Gallery:
    """Pictures and films behind signed links below `path`."""

    def __init__(self, workshop: Workshop, path: str, lifetime_s: float) -> None:
        """lifetime_s: unscaled seconds that a link lives."""
        self._workshop = workshop
        self._path = path
        self._lifetime_s = lifetime_s
        self._secret = hashlib.sha256(f"gallery/{workshop.slug}/{workshop.options.seed}".encode()).digest()
        self._hung: OrderedDict[str, _Hung] = OrderedDict()
        self._count = 0

    def route(self) -> web.RouteDef:
        """The route that serves the links of this gallery."""
        return web.get(self._path + "/{name}", self.show)

    def hang(self, work: Picture | Film, model: str, *, spoilt: bool = False, lifetime_s: float | None = None) -> str:
        """Remember a picture or a film and return its link without the origin. The link's life begins now. lifetime_s:
        unscaled seconds, where a caller may choose.
        """
        self._count += 1
        stem = hmac.digest(self._secret, f"name/{self._count}".encode(), "sha256").hex()[:32]
        name = f"{stem}.{work.format}"
        self._hung[name] = _Hung(work, model, spoilt)
        while len(self._hung) > PICTURES_KEPT:
            self._hung.popitem(last=False)
        options, lives_s = self._workshop.options, self._lifetime_s if lifetime_s is None else lifetime_s
        expires_ms = options.now_ms() + int(lives_s * options.time_scale * 1000)
        return f"{self._path}/{name}?se={expires_ms}&sig={self._sign(name, str(expires_ms))}"

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Serve one link: 403 when it is expired or altered, 404 when the work is forgotten."""
        name, expires, signature = request.match_info["name"], request.query.get("se", ""), request.query.get("sig", "")
        genuine = hmac.compare_digest(signature.encode(errors="replace"), self._sign(name, expires).encode())
        if not genuine or int(expires) < self._workshop.options.now_ms():
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        hung = self._hung.get(name)
        if hung is None:
            return web.Response(status=404, text="not found")
        return await self._serve(request, hung)

    async def _serve(self, request: web.Request, hung: _Hung) -> web.StreamResponse:
        workshop = self._workshop
        fault = workshop.dial.draw(Step.RESULT, model=hung.model, prompt=hung.work.prompt)
        workshop.describe(request, fault=fault)
        kind = fault.kind if fault else None
        if kind is FaultKind.EXPIRED:
            return web.Response(status=403, text=_EXPIRED, content_type="application/xml")
        if kind in (FaultKind.OVERLOADED, FaultKind.SERVER_ERROR):
            return web.Response(status=503 if kind is FaultKind.OVERLOADED else 500, text="try again later")
        if fault and kind is FaultKind.SLOW:
            await workshop.pause(fault.delay_s())
        spoilt = hung.spoilt or kind is FaultKind.WRONG_MAGIC
        try:
            body = NOT_A_PICTURE if spoilt else await workshop.painter.paint(hung.work)
        except PyAVMissingError as missing:
            return web.Response(status=501, text=str(missing))
        return await mischief.deliver(
            request,
            fault,
            body,
            content_type=hung.work.content_type,
            closing=workshop.closing,
            scale=workshop.options.time_scale,
        )

    def _sign(self, name: str, expires: str) -> str:
        return hmac.digest(self._secret, f"{name}?{expires}".encode(errors="replace"), "sha256").hex()
