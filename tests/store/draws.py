"""Arguments for the verbs of areas of their own: keys, webhooks, changes, sums and what nobody has collected."""

from router.keys import ApiKey, KeyLimits, KeyRate, KeyScope, NewSecret
from router.outbox import Repeat, Room, Standing, Try, TryResult, WebhookSearch
from tests.store import stage

ENDPOINTS = ("https://hook.example/a", "https://hook.example/b", "https://other.example/a", "http://127.0.0.1:9000/x")
TENANTS = ("acme", "globex", "initech")


class AreaDraws:
    """A part of the `Script` of `test_differential`, which has the dice, the clock and what was seen."""

    def webhooks_due(self):
        return (self.now - self.dice.choice([0, 0, self.now + 1]),)

    def claim_webhooks(self):
        places = {host: self.dice.randrange(3) for host in self.dice.sample(["hook.example:443", "127.0.0.1:9000"], 1)}
        room = Room(self.dice.choice([0, 1, 3, 20]), self.dice.choice([0, 1, 9]), places)
        return self._owner().epoch, room, self.dice.choice([50, 500]), self.now

    def close_try(self):
        taken = self.dice.choice(self.webhooks_taken or [stage.a_webhook()])
        result = self.dice.choice([*TryResult, TryResult.REJECTED, TryResult.TIMED_OUT, TryResult.DELIVERED])
        repeat = Repeat(self.dice.choice([100, 1000]), self.dice.choice([0, 300]))
        one = Try(self.now, result, self.dice.choice([None, 500]), "why", self.dice.randrange(100))
        return taken, one, self.dice.choice([repeat, repeat, None]), self.now

    def webhooks(self):
        chance = self.dice.random
        seen = self.dice.choice(self.webhooks_seen) if self.webhooks_seen else None
        return (
            WebhookSearch(
                tenant=self.dice.choice(TENANTS) if chance() < 0.3 else None,
                state=self.dice.choice(list(Standing)) if chance() < 0.3 else None,
                task_id=self._id() if chance() < 0.3 else None,
                before=(seen.created_at, seen.id) if seen and chance() < 0.3 else None,
                limit=self.dice.choice([1, 3, 100]),
            ),
        )

    def renew_webhook(self):
        return (self.dice.choice([one.id for one in self.webhooks_seen[-20:]] + ["msg_0_0"]),)

    def enable_endpoint(self):
        return self.dice.choice(TENANTS), self.dice.choice(ENDPOINTS)

    is_disabled = enable_endpoint

    def sweep_webhooks(self):
        return self.now - self.dice.choice([0, 500, 2000]), self.dice.choice([1, 3, 50])

    def add_key(self):
        number = self.dice.randrange(1000)
        limits = KeyLimits(
            models=self.dice.choice([None, frozenset(), frozenset({"veo-3", "gpt-image-2"})]),
            rate=self.dice.choice([None, KeyRate(5, 60_000)]),
            max_concurrency=self.dice.choice([None, 2]),
        )
        ends_at = self.now + self.dice.randrange(400) if self.dice.random() < 0.3 else None
        scopes = frozenset(self.dice.sample(sorted(KeyScope), self.dice.randrange(4)))
        name = self.dice.choice(["", "ein Käfer 🪲"])
        tenant, digest = self.dice.choice(TENANTS), f"hash-{self.dice.randrange(200)}"
        said = (f"key_{number}", tenant, name, f"pm_{number}", digest, self.now, scopes, limits, ends_at)
        self.key_ids = [*self.key_ids[-30:], said[0]]
        self.digests = [*self.digests[-30:], digest]
        return (ApiKey(*said),)

    def revoke_key(self):
        return self.dice.choice(TENANTS), self.dice.choice(self.key_ids), self.now

    def rotate_key(self):
        self.secrets += 1
        secret = NewSecret(f"new-{self.secrets}", "pm_new", self.now, self.now + self.dice.randrange(300))
        self.digests = [*self.digests[-30:], secret.hash]
        return self.dice.choice(TENANTS), self.dice.choice(self.key_ids), secret

    def find_key(self):
        return (self.dice.choice(self.digests),)

    def key(self):
        return (self.dice.choice(self.key_ids),)

    def keys(self):
        before = self.dice.choice([None, self.dice.choice(self.key_ids)])
        return self.dice.choice([None, *TENANTS]), before, self.dice.choice([1, 5, 100])

    def versions(self):
        return self.dice.choice(TENANTS), [self._id() for _ in range(self.dice.choice([1, 4, 4, 32]))]

    def changed(self):
        last = self.dice.choice(self.copies) if self.copies and self.dice.random() < 0.7 else None
        after = (self.now - self.dice.randrange(2000), "") if last is None else (last.updated_at, last.id)
        return self.dice.choice(TENANTS), after, self.dice.choice([1, 3, 100])

    def spending(self):
        return self.dice.choice(TENANTS), self.now - self.dice.randrange(2000), self.now

    def leave_uncollected(self):
        until = self.now + self.dice.randrange(1, 3000)
        return self.dice.choice(TENANTS), f"digest-{self.dice.randrange(4)}", until, self.now

    def collect(self):
        return self.dice.choice(TENANTS), f"digest-{self.dice.randrange(4)}"

    def uncollected(self):
        return self.now, self.dice.choice([1, 3, 100])
