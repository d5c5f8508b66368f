"""The same random verbs into the reference model and into SQLite: every answer and every snapshot must be equal.

A `Script` draws verbs with arguments from what was seen so far, old copies of rows included, so that guards refuse as
often as they let pass. The run does not stop until each verb has succeeded and been refused in each way it knows, and
so cannot pass by failing. POINTSMAN_TEST_VERBS sets how many verbs are drawn at least (2,000 in the short form).
"""

import os
from collections import Counter
from dataclasses import replace
from random import Random

from router.outcome import Billed
from router.provider import Handle
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
    new_id,
    swept,
)
from router.world import (
    Admitted,
    Cancelled,
    Demand,
    Duplicate,
    Opened,
    OverBudget,
    Owner,
    Search,
    Stale,
    TaskView,
    TooLate,
)
from tests.store import stage

VERBS = int(os.environ.get("POINTSMAN_TEST_VERBS", "2000"))
VERBS_MAX = 20 * VERBS
TASKS_MAX = 24
TENANTS = ("acme", "globex", "initech")
REPLICAS = ("a", "b")
PAIRS = [(f"tenant:{tenant}", "day") for tenant in TENANTS] + [("all", "total"), ("provider:openai", "month")]

READS = {"view", "search", "alike", "waiting", "backlog", "balances", "ledger"}
MUST_BE_MET = {
    *("register yes", "heartbeat yes", "heartbeat no", "claim yes", "claim no", "ping yes", "keep yes"),
    *("admit Admitted", "admit Duplicate", "admit OverBudget"),
    *("open_attempt Opened", "open_attempt Stale", "open_attempt OverBudget", "open_attempt IllegalMove"),
    *("withdraw Task", "withdraw Stale", "accept Attempt", "accept Stale"),
    *("close_attempt Task", "close_attempt Stale", "close_attempt IllegalMove", "hear Attempt", "hear Stale"),
    *("move Task", "move Stale", "move IllegalMove", "cancel Cancelled", "cancel TooLate", "cancel no"),
    *("sweep yes", "sweep no", "forget yes", "forget no"),
    *(f"{verb} yes" for verb in READS),
}


class Script:
    """Draws the next verb from what has been seen."""

    def __init__(self, seed):
        self.dice = Random(f"differential {seed}")
        self.now = stage.NOW
        self.tasks: dict[str, Task] = {}  # as last seen
        self.copies: list[Task] = []  # as seen at some time
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.owners: list[Owner] = [Owner("nobody", 99)]
        self.known: dict[str, str] = {}  # every id ever admitted -> tenant

    def draw(self):
        """Return the name of a verb and its arguments."""
        self.now += self.dice.randrange(50)
        verbs = [
            *(["admit"] * (6 if len(self.tasks) < TASKS_MAX else 0)),
            *(["open_attempt"] * 8),
            *(["close_attempt"] * 7),
            *(["accept"] * 3),
            *("withdraw", "withdraw", "hear", "hear", "hear", "move", "move", "cancel", "cancel", "claim"),
            *("register", "heartbeat", "keep", "ping", "sweep", "forget"),
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
        return self.dice.choice(sorted(self.known) or ["task_0"])

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
            return self.dice.choice([fail, stop, stage.retry(at), stage.begin(at), expired(at, "x", keep), swept(at)])
        return self.dice.choice(fitting.get(task.state, [fail]))

    def _end(self, attempt):
        if attempt.state is AttemptState.ENDED:
            return attempt
        billing = self.dice.choice([Billed.YES, Billed.NO, Billed.NO, Billed.UNKNOWN])
        cost = self.dice.choice([None, 0, 3, 5])
        output = (stage.PICTURE,) if self.dice.random() < 0.3 else ()
        return stage.end(attempt, billing=billing, cost=cost, at=self.now, output=output, detail="said so")

    # -- one method per verb, returning its arguments ---------------------------------------------------------------

    def register(self):
        return self.dice.choice(REPLICAS), self.now

    def heartbeat(self):
        return self._owner(), self.now

    def claim(self):
        return self._owner(), self.dice.choice([0, 0, 300]), self.dice.choice([1, 2, 30]), self.now

    def admit(self):
        owner, tenant = self.owners[-1], self.dice.choice(TENANTS)
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
            digest=f"digest-{self.dice.randrange(4)}",
            idempotency_key=key,
            input={"prompt": f"picture {self.dice.randrange(100)}"},
            owner=owner.replica,
            fence=owner.epoch,
        )
        return task, self._demands([(f"tenant:{task.tenant}", "day"), ("all", "total")], self.dice.choice([1, 1, 2, 3]))

    def open_attempt(self):
        task = self._task(State.PENDING, State.RETRYING)
        part = 1 if self.dice.random() < 0.05 else 0
        attempt = stage.an_attempt(task, part=part, started_at=self.now)
        return task, attempt, stage.begin(self.now), self._demands([("provider:openai", "month")])

    def withdraw(self):
        task = self._task(State.RUNNING)
        return task, self._attempt(task), stage.interrupt(self.now)

    def accept(self):
        attempt = self._attempt(self._task(State.RUNNING, State.CANCELLED))
        return attempt, Handle(f"job-{self.dice.randrange(1000)}", {"region": "eu"}), self.now

    def close_attempt(self):
        task = self._task(State.RUNNING)
        attempt, keep = self._end(self._attempt(task)), self.now + self.dice.randrange(400)
        moves = [
            *(stage.deliver(self.now, keep), stage.fail_with(at=self.now, expires_at=keep)),
            *([stage.retry(self.now, self.now + 5)] * 3),
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

    def ping(self):
        return ()

    # -- what was seen ----------------------------------------------------------------------------------------------

    def learn(self, verb, answer, views):
        """Remember what the rows are now."""
        if isinstance(answer, Admitted):
            self.known[answer.task.id] = answer.task.tenant
        if isinstance(answer, Owner):
            self.owners.append(answer)
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
    if isinstance(answer, Admitted | Duplicate | OverBudget | Opened | Stale | Task | Attempt | Cancelled | TooLate):
        return f"{verb} {type(answer).__name__}"
    return f"{verb} {'no' if answer in (None, (), 0, False) and verb != 'ping' else 'yes'}"


async def snapshot_of(store, script):
    """Everything that the store holds: rows, money of the last tasks and all balances, and what waits for whom."""
    views: list[TaskView] = []
    for tenant in TENANTS:
        views += await store.search(tenant, Search(limit=10_000))
    lines = {task_id: await store.ledger(task_id) for task_id in list(script.known)[-12:]}
    waiting = [(await store.waiting(owner, 1000), await store.backlog(owner)) for owner in script.owners[-2:]]
    return views, lines, await store.balances(PAIRS), waiting


def check_sums(script, every_line, balances):
    """I8, over all that was ever written."""
    for balance in balances:
        mine = [line for line in every_line if (line.budget, line.window) == (balance.budget, balance.window)]
        assert balance.held == sum(line.held_delta for line in mine), (balance, script.now)
        assert balance.spent == sum(line.spent_delta for line in mine), (balance, script.now)


async def run(seed, verbs, path):
    """Drive both engines until enough was drawn and everything was met; return what was met."""
    memory, sqlite = MemoryStore(), await open_store(path, executor=Executor.INLINE)
    script, met = Script(seed), Counter()
    while sum(met.values()) < verbs or not met.keys() >= MUST_BE_MET:
        assert sum(met.values()) < VERBS_MAX, f"seed {seed}: never met {sorted(MUST_BE_MET - met.keys())}"
        verb, arguments = script.draw()
        expected, found = [await answer_of(store, verb, arguments) for store in (memory, sqlite)]
        where = f"seed {seed}, step {sum(met.values())}: {verb}{arguments}"
        assert found == expected, where
        met[name_of(verb, expected)] += 1
        before, after = [await snapshot_of(store, script) for store in (memory, sqlite)]
        assert after == before, where
        script.learn(verb, expected, before[0])
    ledgers = [[await store.ledger(task_id) for task_id in script.known] for store in (memory, sqlite)]
    assert ledgers[0] == ledgers[1]
    every_line = [line for lines in ledgers[0] for line in lines]
    check_sums(script, every_line, await sqlite.balances(PAIRS))
    assert sqlite.writes == memory.writes
    await sqlite.close()
    return met


async def test_sqlite_answers_every_verb_as_the_model_does(tmp_path):
    met = await run(1, VERBS, tmp_path / "tasks.db")

    assert met.keys() >= MUST_BE_MET
    assert sum(met.values()) >= VERBS


def test_the_script_draws_what_its_seed_says():
    drawn = []
    for _turn in range(2):
        script = Script(7)
        drawn.append([script.draw() for _ in range(200)])

    assert drawn[0] == drawn[1]
    assert drawn[0] != [Script(8).draw() for _ in range(200)]
