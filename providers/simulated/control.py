"""The simulator's own routes below `/_simulator/`: its dial, its bill and its request log, over HTTP.

They are for people and for tests that drive a simulator in another process. No provider has them, no key guards them;
a simulator listens on loopback unless somebody says otherwise.
"""

import json
from typing import Any

from aiohttp import web

from providers.simulated.bill import entry_json
from providers.simulated.faults import MEANINGS, FaultProblem, fault_json, parse_faults
from providers.simulated.workshop import CONTROL_PATH, Workshop


class Control:
    """The handlers of one simulator's own routes."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def routes(self) -> tuple[web.RouteDef, ...]:
        """GET and PUT faults, GET bill, GET requests."""
        return (
            web.get(CONTROL_PATH + "faults", self.show_faults),
            web.put(CONTROL_PATH + "faults", self.set_faults),
            web.get(CONTROL_PATH + "bill", self.show_bill),
            web.get(CONTROL_PATH + "requests", self.show_requests),
        )

    async def show_faults(self, request: web.Request) -> web.Response:
        """The rows in force, how often each kind struck, and what can be dialled at which step."""
        return web.json_response(self._faults())

    async def set_faults(self, request: web.Request) -> web.Response:
        """Put rows in force; 400 names the field at fault and changes nothing."""
        try:
            document = json.loads(await request.read())
        except (ValueError, RecursionError):
            return _refuse(FaultProblem("body", "must be JSON"))
        faults = parse_faults(document, self._workshop.dial.offer)
        if isinstance(faults, FaultProblem):
            return _refuse(faults)
        self._workshop.dial.set(*faults)
        return web.json_response(self._faults())

    async def show_bill(self, request: web.Request) -> web.Response:
        """Counts, the total in US dollars as a decimal string, and every job."""
        bill = self._workshop.bill
        return web.json_response(
            {
                "submitted": bill.submitted,
                "billed": bill.billed,
                "total_usd": f"{bill.total:f}",
                "jobs": [entry_json(entry) for entry in bill.entries],
            }
        )

    async def show_requests(self, request: web.Request) -> web.Response:
        """The latest requests and the counts of all."""
        return web.json_response(self._workshop.requests.as_json())

    def _faults(self) -> dict[str, Any]:
        dial = self._workshop.dial
        return {
            "faults": [fault_json(fault) for fault in dial.faults],
            "hits": {str(kind): count for kind, count in sorted(dial.hits.items())},
            "offer": {
                str(step): {str(kind): MEANINGS[kind] for kind in sorted(kinds)} for step, kinds in dial.offer.items()
            },
        }


def _refuse(problem: FaultProblem) -> web.Response:
    return web.json_response({"error": {"field": problem.field, "message": problem.message}}, status=400)
