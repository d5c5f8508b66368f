"""The verbs of relayed completions, as `test_differential` draws them."""

from router.outcome import Billed
from router.provider import Usage
from router.relays import Charge
from tests.store import stage


class RelayScript:
    """Draws from `dice` at the instant `now`; `calls` are the ids that were booked."""

    tenants = ("acme", "globex", "initech")
    shared_budgets = (("all", "total"), ("provider:openai", "month"))

    def _call(self):
        """A relayed call and whose it is."""
        number = self.dice.randrange(60)
        return self.tenants[number % len(self.tenants)], f"req_{number:032x}"

    def book(self):
        (tenant, request_id), chance = self._call(), self.dice.random
        billing, held, spent = self.dice.choice(list(Billed)), self.dice.choice([0, 2]), self.dice.choice([0, 3])
        self.calls.add(request_id)
        relayed = stage.a_relayed(
            request_id=request_id,
            tenant=tenant,
            n=self.dice.choice([1, 1, 2]),
            key_id=None if chance() < 0.3 else "key-1",
            ended_at=self.now,
            outcome="succeeded" if chance() < 0.6 else "unknown",
            billing=billing,
            cost_nanos={Billed.NO: 0, Billed.YES: spent, Billed.UNKNOWN: None}[billing],
            estimated=chance() < 0.2,
            usage=Usage(output_tokens=self.dice.randrange(9)) if chance() < 0.5 else Usage(),
        )
        budgets = [(f"tenant:{tenant}", "day"), *self.dice.sample(self.shared_budgets, 1)]
        return relayed, tuple(Charge(*pair, held, spent) for pair in budgets[: self.dice.randrange(3)])

    def relayed(self):
        tenant, request_id = self._call()
        return self.dice.choice([tenant, tenant, self.dice.choice(self.tenants)]), request_id

    def forget_relayed(self):
        return self.now - self.dice.choice([0, 500, 3000]), self.dice.choice([1, 3, 50])
