"""Several fleets beside one ledger of what they share (the memory store's), and the turns in which they ask it."""

from router.store.shares import Shares
from tests.flow.yard import AT, Yard

START_S = 100.0


class Company:
    """Yards that share providers. Each is a life: its epoch is its number from 1. `waiting` tasks wait at each."""

    def __init__(self, *providers, lives=3, rules=None):
        self.shares = Shares()
        self.yards = [Yard(*providers, rules=rules, shared=True) for _ in range(lives)]
        self.waiting = [0] * lives
        self.awake = set(range(1, lives + 1))

    @property
    def now(self):
        return AT + round((self.yards[0].now_s - START_S) * 1000)

    def turn(self, number):
        """What a daemon does in a turn: ask for places, tell and hear of circuits, ask for rights to probe."""
        fleet, epoch = self.yards[number].fleet, number + 1
        wants = fleet.wants(lambda _provider: self.waiting[number])
        fleet.grant(self.shares.share(epoch, wants, self.awake, self.now))
        fleet.adopt_circuits(self.shares.exchange(epoch, fleet.take_news(), self.now), epoch)
        for key, lease_ms in fleet.probes_wanted():
            if self.shares.lease_probe(epoch, key, lease_ms, self.awake, self.now):
                fleet.allow_probe(key, lease_ms / 1000)

    def turns(self, rounds=1):
        for _ in range(rounds):
            for number in range(len(self.yards)):
                self.turn(number)

    def wait(self, seconds):
        for yard in self.yards:
            yard.wait(seconds)

    def in_use(self):
        return [yard.fleet.snapshot().providers[0].in_use for yard in self.yards]

    def states(self):
        return [yard.view().state.value for yard in self.yards]
