"""The same random verbs into the reference model, SQLite and PostgreSQL: every answer and every snapshot must be equal.

A `Script` draws verbs with arguments from what was seen so far, old copies of rows included, so that guards refuse as
often as they let pass. The run does not stop until each verb has succeeded and been refused in each way it knows, and
so cannot pass by failing. Every answer is compared; what the stores hold is compared after each verb for the model and
SQLite, and for PostgreSQL, where a look costs more than a verb, after every POSTGRES_EVERY-th and at the end.
POINTSMAN_TEST_VERBS sets how many verbs are drawn at least (2,000 in the short form). All go by the script's clock.
"""

import asyncio
import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from router.leases import CircuitNews, CircuitWord, Want
from router.outbox import (
    CALLBACK_TYPES,
    TERMINAL_TYPES,
    Webhook,
    WebhookSearch,
)
from router.outcome import Billed
from router.persistence import (
    ENDED_MAX,
    Admitted,
    Cancelled,
    Demand,
    Duplicate,
    Opened,
    OverBudget,
    Owner,
    Search,
    Stale,
    TooLate,
)
from router.provider import Handle, Kind, Usage
from router.shelf import Erased, FilmPage, StillOut
from router.store.memory import MemoryStore
from router.store.sqlite import Executor, open_store
from router.task import (
    Attempt,
    AttemptState,
    IllegalMove,
    Move,
    Priority,
    State,
    Task,
    expired,
    joined,
    new_id,
    swept,
    went_on,
)
from tests.store import stage
from tests.store.draws import ENDPOINTS, TENANTS, AreaDraws
from tests.store.engines import open_postgres
from tests.store.script_relays import RelayScript

VERBS = int(os.environ.get("POINTSMAN_TEST_VERBS", "2000"))
VERBS_MAX = 20 * VERBS
TASKS_MAX = 24
REPLICAS = ("a", "b")
POSTGRES_EVERY = 20
PROVIDERS = ("fal", "openai")
CIRCUITS = [(provider, provider, model) for provider in PROVIDERS for model in ("veo-3", "gpt-image-2")]
PAIRS = [(f"tenant:{tenant}", "day") for tenant in TENANTS] + [("all", "total"), ("provider:openai", "month")]

READS = {"view", "search", "alike", "waiting", "backlog", "balances", "ledger", "halted", "ended", "spending"}
READS |= {"find_key", "key", "keys", "uncollected", "webhooks", "webhooks_due", "is_disabled", "versions", "changed"}
READS |= {"relayed", "films"}
MUST_BE_MET = {
    *("register yes", "heartbeat yes", "heartbeat no", "claim yes", "claim no", "ping yes", "keep yes"),
    *("admit Admitted", "admit Duplicate", "admit OverBudget"),
    *("open_attempt Opened", "open_attempt Stale", "open_attempt OverBudget", "open_attempt IllegalMove"),
    *("withdraw Task", "withdraw Stale", "accept Attempt", "accept Stale"),
    *("close_attempt Task", "close_attempt Stale", "close_attempt IllegalMove", "hear Attempt", "hear Stale"),
    *("move Task", "move Stale", "move IllegalMove", "cancel Cancelled", "cancel TooLate", "cancel no"),
    *("sweep yes", "sweep no", "forget yes", "forget no", "leave_uncollected no", "collect no"),
    *("erase Erased", "erase StillOut", "erase no"),
    *("leave yes", "relieve yes", "relieve no", "share yes", "share no", "exchange yes"),
    *("lease_probe yes", "lease_probe no", "halted no", "ended no", "ended ValueError", "versions no"),
    *("add_key yes", "add_key no", "revoke_key yes", "revoke_key no", "rotate_key yes", "rotate_key no"),
    *("claim_webhooks yes", "claim_webhooks no", "close_try Webhook", "close_try no", "webhooks no"),
    *("webhooks_due no", "is_disabled no", "renew_webhook Webhook", "renew_webhook no"),
    *("enable_endpoint yes", "enable_endpoint no", "sweep_webhooks yes", "sweep_webhooks no"),
    *("book yes", "book no", "forget_relayed yes", "forget_relayed no", "relayed no"),
    *(f"{verb} yes" for verb in READS),
}


class Script(AreaDraws, RelayScript):
    """Draws the next verb from what has been seen."""

    def __init__(self, seed):
        self.dice = Random(f"differential {seed}")
        self.now = stage.NOW
        self.tasks: dict[str, Task] = {}  # as last seen
        self.copies: list[Task] = []  # as seen at some time
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.owners: list[Owner] = [Owner("nobody", 99)]
        self.known: dict[str, str] = {}  # every id ever admitted -> tenant
        self.key_ids, self.digests, self.secrets = ["key_none"], ["hash-none"], 0
        self.webhooks_taken: list[Webhook] = []
        self.webhooks_seen: list[Webhook] = []
        self.calls: set[str] = set()  # every id of a relayed call

    def draw(self):
        """Return the name of a verb and its arguments."""
        self.now += self.dice.randrange(50)
        verbs = [
            *(["admit"] * (6 if len(self.tasks) < TASKS_MAX else 0)),
            *(["open_attempt"] * 8),
            *(["close_attempt"] * 7),
            *(["accept"] * 3),
            *("withdraw", "withdraw", "hear", "hear", "hear", "move", "move", "cancel", "cancel", "claim"),
            *("register", "heartbeat", "keep", "ping", "sweep", "erase", "forget", "leave_uncollected", "collect"),
            *("add_key", "revoke_key", "rotate_key"),
            *("book", "book", "book", "forget_relayed"),
            *("leave", "relieve", "share", "share", "exchange", "exchange", "lease_probe", "lease_probe"),
            *("claim_webhooks", "claim_webhooks", "close_try", "close_try", "close_try", "renew_webhook"),
            *("enable_endpoint", "sweep_webhooks"),
            *sorted(READS),
        ]
        verb = self.dice.choice(verbs)
        return verb, getattr(self, verb)()

    # -- arguments ------------------------------------------------------------------------------------------------

    def _task(self, *states):
        """A task as it is, sometimes as it was, sometimes under another's name."""
        if not self.copies:
            return stage.a_task(1)
        if self.dice.random() < 0.1:
            return self.dice.choice(self.copies)
        fit = [task for task in self.tasks.values() if task.state in states] or list(self.tasks.values())
        task = self.dice.choice(fit) if fit else self.dice.choice(self.copies)
        return replace(task, tenant=self.dice.choice(TENANTS)) if self.dice.random() < 0.03 else task

    def _attempt(self, task):
        """The attempt of a task that is out, sometimes another."""
        mine = [one for one in self.attempts.values() if one.task_id == task.id]
        out = [one for one in mine if one.state is not AttemptState.ENDED]
        attempt = self.dice.choice(out or mine or [stage.an_attempt(task)])
        if self.dice.random() < 0.05:
            return replace(attempt, fence=attempt.fence + 1)
        return attempt

    def _demands(self, names, units=1):
        chosen = [pair for pair in names if self.dice.random() < 0.6]
        limits = {"day": 40, "total": 100, "month": 40}
        return tuple(Demand(*pair, self.dice.randrange(4), limits[pair[1]], units) for pair in chosen)

    def _id(self):
        """A task that is there, sometimes one that has been forgotten."""
        there = sorted(self.tasks) if self.dice.random() < 0.7 else None
        return self.dice.choice(there or sorted(self.known) or ["task_0"])

    def _owner(self):
        return self.owners[-1] if self.dice.random() < 0.7 else self.dice.choice(self.owners)

    def _move(self, task):
        """A move that mostly fits the state of the task."""
        at, keep = self.now, self.now + self.dice.randrange(400)
        fail, stop = stage.fail_with(at=at, expires_at=keep), replace(stage.cancel_it(at), expires_at=keep)
        fitting: dict[State, list[Move]] = {
            State.PENDING: [fail, stop, expired(at, "too late", keep)],
            State.RETRYING: [fail, stop],
            State.RUNNING: [stop],
        }
        if self.dice.random() < 0.2:
            moves = [fail, stop, stage.retry(at), stage.begin(at), expired(at, "x", keep)]
            # What succeeded is swept by `sweep` alone.
            return self.dice.choice([*moves, swept(at)] if task.state is not State.SUCCEEDED else moves)
        return self.dice.choice(fitting.get(task.state, [fail]))

    def _end(self, attempt):
        if attempt.state is AttemptState.ENDED:
            return attempt
        billing = self.dice.choice([Billed.YES, Billed.NO, Billed.NO, Billed.UNKNOWN])
        cost = self.dice.choice([None, 0, 3, 5])
        output = (stage.PICTURE,) if self.dice.random() < 0.3 else ()
        usage = Usage(output_tokens=self.dice.randrange(9)) if output else None
        over = stage.end(attempt, billing=billing, cost=cost, at=self.now, output=output, detail="said so")
        return replace(over, usage=usage)

    def _silent_ms(self):
        return self.dice.choice([0, 300, 3000])

    def _want(self, provider):
        places, tokens = self.dice.randrange(6), self.dice.choice([0, 3])
        in_use = self.dice.randrange(places + 2) if self.dice.random() < 0.4 else 0
        per_ms, wanted = self.dice.choice([0, 500, 777]), self.dice.randrange(4)
        return Want(provider, places, in_use, in_use + self.dice.randrange(4), tokens, per_ms, wanted)

    def _news(self):
        word = self.dice.choice([*CircuitWord, CircuitWord.OPEN])
        for_ms = self.dice.choice([None, 0, 100, 500]) if word is CircuitWord.OPEN else 0
        by_hand = self.dice.random() < 0.3
        pinned = by_hand and self.dice.random() < 0.3
        return CircuitNews(self.dice.choice(CIRCUITS), word, for_ms, self.dice.randrange(3), pinned, by_hand)

    # -- one method per verb, returning its arguments ---------------------------------------------------------------

    def register(self):
        return self.dice.choice(REPLICAS), self.now

    def heartbeat(self):
        return self._owner(), self.now

    def claim(self):
        return self._owner(), self.dice.choice([0, 0, 300]), self.dice.choice([1, 2, 30]), self.now

    def leave(self):
        return (self._owner(),)

    def relieve(self):
        return self._owner(), self.dice.choice([0, 1, 3]), self.dice.choice([1, 2, 30]), self.now

    def admit(self):
        owner, tenant = self.dice.choice(self.owners[-3:]), self.dice.choice(TENANTS)
        waiting = [task for task in self.copies if task.state is State.PENDING]
        again = self.dice.choice(waiting) if waiting and self.dice.random() < 0.1 else None
        key = f"key-{self.dice.randrange(12)}" if self.dice.random() < 0.4 else None
        task = again or stage.a_task(
            id=new_id(self.now, self.dice),
            tenant=tenant,
            created_at=self.now,
            updated_at=self.now,
            priority=self.dice.choice(list(Priority)),
            model=self.dice.choice(["gpt-image-2", "veo-3"]),
            kind=self.dice.choice([Kind.IMAGE_GENERATION, Kind.VIDEO_GENERATION]),
            digest=f"digest-{self.dice.randrange(4)}",
            idempotency_key=key,
            input={"prompt": f"picture {self.dice.randrange(100)}"},
            owner=owner.replica,
            fence=owner.epoch,
            callback_url=self.dice.choice([None, *ENDPOINTS]),
            callback_events=self.dice.choice([TERMINAL_TYPES, CALLBACK_TYPES, ("task.failed",)]),
            link_base=self.dice.choice([None, "https://images.example"]),
        )
        return task, self._demands([(f"tenant:{task.tenant}", "day"), ("all", "total")], self.dice.choice([1, 1, 2, 3]))

    def open_attempt(self):
        demands = self._demands([("provider:openai", "month")])
        if self.dice.random() < 0.2:  # another part beside those that are out
            task = self._task(State.RUNNING)
            part, count = self.dice.randrange(3), self.dice.randrange(3)
            attempt = stage.an_attempt(task, part=part, count=count, started_at=self.now)
            return task, attempt, joined(self.now, "flux", "flux-2"), demands
        task = self._task(State.PENDING, State.RETRYING)
        attempt = stage.an_attempt(task, count=self.dice.choice([0, 1, 1, 2]), started_at=self.now)
        return task, attempt, stage.begin(self.now), demands

    def withdraw(self):
        task = self._task(State.RUNNING)
        beside = self.dice.random() < 0.3
        return task, self._attempt(task), went_on(self.now) if beside else stage.interrupt(self.now)

    def accept(self):
        attempt = self._attempt(self._task(State.RUNNING, State.CANCELLED))
        return attempt, Handle(f"job-{self.dice.randrange(1000)}", {"region": "eu"}), self.now

    def close_attempt(self):
        task = self._task(State.RUNNING)
        attempt, keep = self._end(self._attempt(task)), self.now + self.dice.randrange(400)
        moves = [
            *(stage.deliver(self.now, keep), stage.fail_with(at=self.now, expires_at=keep)),
            *([stage.retry(self.now, self.now + 5)] * 3),
            went_on(self.now),
        ]
        return task, attempt, stage.begin(self.now) if self.dice.random() < 0.05 else self.dice.choice(moves)

    def hear(self):
        return (self._end(self._attempt(self._task(State.CANCELLED))),)

    def move(self):
        task = self._task(State.PENDING, State.RETRYING)
        if self.dice.random() < 0.1:
            task = replace(task, version=task.version + 1000)
        return task, self._move(task)

    def cancel(self):
        task = self._task(*State)
        if self.dice.random() < 0.1:
            task = replace(task, tenant="nobody")
        return task.tenant, task.id, replace(stage.cancel_it(self.now), expires_at=self.now + 200)

    def share(self):
        return self._owner(), tuple(map(self._want, self.dice.sample(PROVIDERS, 2))), self._silent_ms(), self.now

    def exchange(self):
        return self._owner(), tuple(self._news() for _ in range(self.dice.choice([0, 0, 1, 1, 2, 3]))), self.now

    def lease_probe(self):
        lease_ms = self.dice.choice([100, 1000])
        return self._owner(), self.dice.choice(CIRCUITS), lease_ms, self._silent_ms(), self.now

    def halted(self):
        out = [one for one in self.attempts.values() if one.state is not AttemptState.ENDED]
        fences = {one.fence for one in out if self.tasks[one.task_id].is_terminal}
        drivers = [owner for owner in self.owners if owner.epoch in fences]
        return (self.dice.choice(drivers) if drivers and self.dice.random() < 0.7 else self._owner(),)

    def ended(self):
        asked = [(self.known.get(task_id, "acme"), task_id) for task_id in (self._id() for _ in range(4))]
        other = (self.dice.choice(TENANTS), self._id())
        return ([*asked, other] * self.dice.choice([1, 1, 2, 1 + ENDED_MAX // 5]),)

    def view(self):
        task_id = self._id()
        return self.dice.choice([self.known.get(task_id, "acme"), self.dice.choice(TENANTS)]), task_id

    def search(self):
        chance = self.dice.random
        before = self.dice.choice(self.copies) if self.copies and chance() < 0.3 else None
        return self.dice.choice(TENANTS), Search(
            status=self.dice.choice(list(State)) if chance() < 0.3 else None,
            model="veo-3" if chance() < 0.2 else None,
            provider="openai" if chance() < 0.2 else None,
            created_after=self.now - self.dice.randrange(3000) if chance() < 0.2 else None,
            idempotency_key=f"key-{self.dice.randrange(12)}" if chance() < 0.3 else None,
            before=None if before is None else (before.created_at, before.id),
            limit=self.dice.choice([1, 3, 100]),
        )

    def alike(self):
        return self.dice.choice(TENANTS), f"digest-{self.dice.randrange(4)}", self.now - self.dice.randrange(2000)

    def waiting(self):
        return self._owner(), self.dice.choice([1, 5, 100])

    def backlog(self):
        return (self._owner(),)

    def balances(self):
        return (self.dice.sample([*PAIRS, ("all", "never")], 3),)

    def ledger(self):
        return (self._id(),)

    def keep(self):
        return f"name-{self.dice.randrange(3)}", f"value-{self.dice.randrange(100)}"

    def sweep(self):
        return self.now, self.dice.choice([1, 3, 50])

    def forget(self):
        return self.now - self.dice.choice([0, 500, 1000]), self.dice.choice([1, 3, 50])

    def erase(self):
        return self.dice.choice(TENANTS), self._id(), self.now

    def films(self):
        after = self.dice.choice(self.copies) if self.copies and self.dice.random() < 0.5 else None
        place = None if after is None else (after.created_at, after.id)
        return self.dice.choice(TENANTS), FilmPage(self.dice.choice([1, 3, 100]), self.dice.random() < 0.5, place)

    def ping(self):
        return ()

    # -- what was seen ----------------------------------------------------------------------------------------------

    def learn(self, verb, answer, views):
        """Remember what the rows are now."""
        if isinstance(answer, Admitted):
            self.known[answer.task.id] = answer.task.tenant
        if isinstance(answer, Owner):
            self.owners.append(answer)
        if verb == "claim_webhooks":
            self.webhooks_taken = [*self.webhooks_taken, *answer][-30:]
        if verb == "webhooks":
            self.webhooks_seen = [*self.webhooks_seen, *answer][-100:]
        self.tasks = {view.task.id: view.task for view in views}
        self.attempts = {(one.task_id, one.n): one for view in views for one in view.attempts}
        if verb not in READS:
            self.copies += self.tasks.values()
            self.copies = self.copies[-300:]


async def answer_of(store, verb, arguments):
    """Call a verb; an exception is an answer too."""
    try:
        return await getattr(store, verb)(*arguments)
    except (IllegalMove, ValueError) as refused:
        return type(refused), str(refused)


def name_of(verb, answer):
    """What kind of answer it was: the cell of `MUST_BE_MET`."""
    if isinstance(answer, tuple) and answer and isinstance(answer[0], type):
        return f"{verb} {answer[0].__name__}"
    kinds = Admitted | Duplicate | OverBudget | Opened | Stale | Task | Attempt | Cancelled | TooLate | Webhook
    kinds |= Erased | StillOut
    if isinstance(answer, kinds):
        return f"{verb} {type(answer).__name__}"
    return f"{verb} {'no' if answer in (None, (), 0, False) and verb not in {'ping', 'leave'} else 'yes'}"


async def snapshot_of(store, script):
    """Everything that the store holds: rows, money of the last tasks and all balances, and what waits for whom."""
    owners = script.owners[-2:]
    pages, lines, waiting, counts, balances, keys, owed = await asyncio.gather(
        asyncio.gather(*(store.search(tenant, Search(limit=10_000)) for tenant in TENANTS)),
        asyncio.gather(*(store.ledger(task_id) for task_id in list(script.known)[-12:])),
        asyncio.gather(*(store.waiting(owner, 1000) for owner in owners)),
        asyncio.gather(*(store.backlog(owner) for owner in owners)),
        store.balances(PAIRS),
        store.keys(None, None, 1000),
        store.webhooks(WebhookSearch(limit=10_000)),
    )
    return [view for page in pages for view in page], lines, waiting, counts, balances, keys, owed


def check_sums(script, every_line, balances):
    """I8, over all that was ever written."""
    for balance in balances:
        mine = [line for line in every_line if (line.budget, line.window) == (balance.budget, balance.window)]
        assert balance.held == sum(line.held_delta for line in mine), (balance, script.now)
        assert balance.spent == sum(line.spent_delta for line in mine), (balance, script.now)


async def run(seed, verbs, model, *engines):
    """Drive all until enough was drawn and everything was met; return what was met. `engines`: (store, every)."""
    script, met = Script(seed), Counter()
    while sum(met.values()) < verbs or not met.keys() >= MUST_BE_MET:
        assert sum(met.values()) < VERBS_MAX, f"seed {seed}: never met {sorted(MUST_BE_MET - met.keys())}"
        verb, arguments = script.draw()
        expected = await answer_of(model, verb, arguments)
        where = f"seed {seed}, step {sum(met.values())}: {verb}{arguments}"
        for store, _every in engines:
            assert await answer_of(store, verb, arguments) == expected, f"{type(store).__name__}, {where}"
        met[name_of(verb, expected)] += 1
        before = await snapshot_of(model, script)
        for store, every in engines:
            if sum(met.values()) % every == 0:
                assert await snapshot_of(store, script) == before, f"{type(store).__name__}, {where}"
        script.learn(verb, expected, before[0])
    ledger = [await model.ledger(task_id) for task_id in (*script.known, *sorted(script.calls))]
    last = await snapshot_of(model, script)
    for store, _every in engines:
        assert await asyncio.gather(*(store.ledger(one) for one in (*script.known, *sorted(script.calls)))) == ledger
        assert await snapshot_of(store, script) == last
        check_sums(script, [line for lines in ledger for line in lines], await store.balances(PAIRS))
        assert store.writes == model.writes
    return met


@pytest.mark.timeout(max(120, VERBS // 50))
async def test_every_engine_answers_every_verb_as_the_model_does(tmp_path):
    sqlite = await open_store(tmp_path / "tasks.db", executor=Executor.INLINE)
    async with open_postgres(tmp_path) as postgres:
        met = await run(1, VERBS, MemoryStore(), (sqlite, 1), (postgres, POSTGRES_EVERY))
    await sqlite.close()

    assert met.keys() >= MUST_BE_MET
    assert sum(met.values()) >= VERBS


def test_the_script_draws_what_its_seed_says():
    drawn = []
    for _turn in range(2):
        script = Script(7)
        drawn.append([script.draw() for _ in range(200)])

    assert drawn[0] == drawn[1]
    assert drawn[0] != [Script(8).draw() for _ in range(200)]
